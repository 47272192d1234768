"""Learning results: trains, evaluates on shared held-out tasks, compares pairwise, draws.

    python -m benchmarks.learning navigation            # trains what is missing, then evaluates and summarises
    python -m benchmarks.learning navigation --summary  # from the committed results, without training

Runs go to runs/learning/EXPERIMENT/VARIANT-seedSEED; interrupted runs are resumed. The files that suffice to recompute
and redraw everything go to benchmarks/results/EXPERIMENT: configuration, progress and evaluation of each run,
summary.json, summary.md and the figures. Agents go into the package (`benchmarks.collect`). A run with results there is
not repeated; remove its folder to repeat it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.collect import RESULTS, collect
from metarl.common.statistics import MIN_SEEDS_FOR_INTERVAL, aggregate, paired_difference, share_made_worse
from metarl.common.strict_json import plain
from metarl.reports.curves import plot_runs
from metarl.store.evaluations import Evaluation
from metarl.store.runs import StoredRun, read_run

_GAP = "share_of_the_gap_after_one_step"


@dataclass(frozen=True)
class Experiment:
    """Variants of training on one family, all with the same seeds.

    Attributes:
        env: The task family.
        variants: Command-line options of each variant; the others are compared with the first.
        evaluation: Command-line options of the evaluation; None to compare learning curves alone.
        analysis: Command-line options of an analysis; None for none.
        seeds: Training seeds.
        note: A note for readers of the results.
    """

    env: str
    variants: dict[str, str]
    evaluation: str | None
    seeds: tuple[int, ...] = (0, 1, 2)
    note: str = ""
    analysis: str | None = None


# A quarter of the usual data and few iterations: enough to see which settings learn at all.
_SHORT = "--meta-batch-size 20 --rollouts-per-task 10 --validate-every 0"
_ORIGINAL = "--activation relu --output-gain 1 --initial-std 1 --action-scale 1"
_NEAR_ZERO = "--activation tanh --output-gain 0.1 --initial-std 0.5 --action-scale 1"
_SEARCH = (
    "A search, not a comparison: algorithm, length and amount of data differ between rows, and there is one seed. "
    "It says which settings start to learn at all."
)

# About 800 episodes per iteration, all phases together. MAML++ has four phases in the first 30 iterations and three
# afterwards; MuMoMAML has one more episode per task.
_ALGORITHMS = {
    "maml": "--algo maml",
    "fomaml": "--algo fomaml",
    "promp": "--algo maml --meta-optimiser promp",
    "l2f": "--algo l2f",
    "anil": "--algo anil",
    "anil-attenuated": "--algo anil --attenuate",
    "meta-sgd": "--algo meta-sgd",
    "mamlpp": "--algo mamlpp --num-inner-steps 2 --rollouts-per-task 12",
    "mumomaml": "--algo mumomaml",
    "context": "--algo context",
    "random": "--algo random",
    "pretrain": "--algo pretrain",
    "oracle": "--algo oracle",
    "standstill": "--algo standstill",
}

# Learn-to-Forget in reinforcement learning (docs/l2f.md). A fresh attenuation has a third phase of episodes, so that 67
# iterations cost the environment steps of 100.
_FRESH = "--l2f.attenuation-rollouts fresh --iterations 67"
_NORMALISED = "--l2f.normalise-embedding"
_MOMENTS = f"--l2f.embedding moments {_NORMALISED}"
_L2F_NAVIGATION = {
    "maml-0.1": "--algo maml",
    "maml-0.01": "--algo maml --inner-lr 0.01",
    "maml-0.03": "--algo maml --inner-lr 0.03",
    "maml-0.3": "--algo maml --inner-lr 0.3",
    "constants": "--algo l2f --l2f.conditioning constant",
    **{
        f"l2f-{gradient}-{embedding}-{rollouts}": " ".join(
            ["--algo l2f --l2f.embedding-gradient", gradient, *normalise, *fresh]
        )
        for gradient in ("stop", "through")
        for embedding, normalise in (("raw", []), ("normalised", [_NORMALISED]))
        for rollouts, fresh in (("reuse", []), ("fresh", [_FRESH]))
    },
    "moments-reuse": f"--algo l2f {_MOMENTS}",
    "moments-fresh": f"--algo l2f {_MOMENTS} {_FRESH}",
}
_TWO_BATCHES = "Step 1 of a variant with fresh rollouts has seen two batches of episodes, as step 2 of MAML has."
_START_KL = "--algo l2f --l2f.initial-gamma 0.5 --l2f.start-kl"


def _at_equal_steps(*names: str) -> dict[str, str]:
    """Variants of `_L2F_NAVIGATION`; those without iterations of their own have 100."""
    options = {name: _L2F_NAVIGATION[name] for name in names}
    return {
        name: f"{option} --validate-every 0" + ("" if "--iterations" in option else " --iterations 100")
        for name, option in options.items()
    }


def _conflict(env: str, options: str, iterations: int, rollouts: int) -> Experiment:
    """MAML and L2F on a family whose tasks pull apart, with the conflict of MAML's meta-gradients."""
    variants = {
        algo: f"--algo {algo}{options} --validate-every 0 --iterations {iterations}" for algo in ("maml", "l2f")
    }
    return Experiment(
        env,
        variants,
        f"--tasks 40 --rollouts {rollouts}",
        seeds=(0,),
        analysis="",
        note="Whether forgetting pays where tasks pull the initialisation apart; one seed.",
    )


def _headroom(env: str, iterations: int, evaluation: str, oracle: str) -> Experiment:
    """What attenuation by hand gains on an initialisation that was trained without it."""
    variants = {algo: f"--algo {algo} --validate-every 0 --iterations {iterations}" for algo in ("maml", "anil")}
    note = "What the best gamma of each task gains at test time, on an initialisation trained without attenuation."
    return Experiment(env, variants, evaluation, seeds=(0,), analysis=f"--gamma-sweep{oracle}", note=note)


def _memory(
    env: str,
    iterations: int,
    episodes: int,
    evaluation: str = "",
    seeds: tuple[int, ...] = (0, 1, 2),
    algo: str = "rl2",
) -> Experiment:
    """An agent with memory; the evaluation goes on for two episodes more than a trial of training has."""
    return Experiment(
        env,
        {algo: f"--algo {algo} --iterations {iterations} --validate-every 0"},
        f"{evaluation or '--tasks 100'} --rollouts 10 --gradient-steps {episodes + 1}",
        seeds=seeds,
        note="Column 0 is the first episode in a new task, column 1 the second, and so on.",
    )


def _sinusoids(shots: int, steps: int, algorithms: tuple[str, ...], seeds: tuple[int, ...]) -> Experiment:
    """L2F's sinusoids, with a number of points and of inner steps in training."""
    return Experiment(
        "sinusoid-l2f",
        {name: f"--algo {name} --shots {shots} --num-inner-steps {steps}" for name in algorithms},
        "--tasks 1000 --gradient-steps 10",
        seeds=seeds,
        note=f"Regression of sinusoids from {shots} points, as in L2F's table 7; inner steps in training: {steps}.",
    )


def _kinds(number: int) -> Experiment:
    """MuMoMAML's functions of several kinds."""
    options = {"maml": "", "multi-maml": "", "mumomaml": " --mumomaml.embedding-size 40"}
    return Experiment(
        f"regression-{number}",
        {
            name: f"--algo {name} --hidden-sizes 100 100 100 --shots 5 --queries 10 --meta-batch-size 25 "
            f"--iterations 70000{option}"
            for name, option in options.items()
        },
        "--tasks 1000 --gradient-steps 10",
        seeds=(0, 1),
        note="Functions of several kinds from 5 points, as in MuMoMAML's table 1; the noise's variance is 0.09.",
    )


_MODES = ((2, 0), (2, 2), (2, 4), (4, 2), (4, 4), (6, 2), (6, 4))

EXPERIMENTS = {
    "l2f-navigation": Experiment(
        "navigation",
        _at_equal_steps(*_L2F_NAVIGATION),
        "--task-file benchmarks/task_lists/navigation.json --rollouts 40",
        seeds=(0,),
        note="L2F's variants at equal environment steps, beside MAML's inner steps and learned constants; one seed.",
    ),
    "l2f-navigation-best": Experiment(
        "navigation",
        _at_equal_steps(
            "maml-0.1",
            "moments-fresh",
            "l2f-through-normalised-fresh",
            "l2f-stop-normalised-fresh",
            "l2f-stop-raw-fresh",
        ),
        "--task-file benchmarks/task_lists/navigation.json --rollouts 40",
        note=f"The best four variants of L2F, beside MAML. {_TWO_BATCHES}",
    ),
    "l2f-navigation-bimodal": Experiment(
        "navigation-bimodal",
        _at_equal_steps("maml-0.1", "moments-fresh", "l2f-through-normalised-fresh"),
        "--task-file benchmarks/task_lists/navigation-bimodal.json --rollouts 40",
        seeds=(0, 1, 2, 3, 4),
        note=f"The best two variants of L2F, beside MAML. {_TWO_BATCHES}",
    ),
    "l2f-cheetah-dir-rllab": Experiment(
        "cheetah-dir-rllab",
        {
            name: f"{options} --iterations 50 --validate-every 0"
            for name, options in (
                ("maml", "--algo maml"),
                ("l2f-start-kl-0", f"{_START_KL} 0"),
                ("l2f-start-kl-1", f"{_START_KL} 1"),
            )
        },
        "--tasks 40 --rollouts 40",
        seeds=(0, 1),
        note="L2F from the published start, gamma 0.5, with and without the unattenuated policy in the trust region.",
    ),
    "headroom-navigation": _headroom(
        "navigation",
        100,
        "--task-file benchmarks/task_lists/navigation.json --rollouts 40",
        " --oracle-return -0.49",
    ),
    "headroom-navigation-bimodal": _headroom(
        "navigation-bimodal",
        100,
        "--task-file benchmarks/task_lists/navigation-bimodal.json --rollouts 40",
        " --oracle-return -3.87",
    ),
    "headroom-cheetah-dir": _headroom("cheetah-dir", 50, "--tasks 40 --rollouts 20", ""),
    **{
        f"conflict-modes-{modes}-distance-{distance}": _conflict(
            "navigation-modes", f" --env-kwargs goal_modes {modes} goal_distance {distance}", 60, 40
        )
        for modes, distance in _MODES
    },
    "conflict-cheetah-vel-signed": _conflict("cheetah-vel-signed", "", 50, 20),
    "memory-navigation": _memory("navigation", 168, 3, "--task-file benchmarks/task_lists/navigation.json"),
    "memory-navigation-bimodal": _memory(
        "navigation-bimodal", 278, 3, "--task-file benchmarks/task_lists/navigation-bimodal.json"
    ),
    "memory-cheetah-dir": _memory("cheetah-dir", 100, 2, "--tasks 40"),
    "memory-cheetah-vel": _memory("cheetah-vel", 200, 2),
    "memory-cheetah-vel-varibad": _memory("cheetah-vel", 125, 2, algo="varibad"),
    "memory-ant-dir": _memory("ant-dir", 250, 2, "--tasks 40", seeds=(0,)),
    "memory-ant-dir-varibad": _memory("ant-dir", 200, 2, "--tasks 40", seeds=(0,), algo="varibad"),
    "memory-ant-goal": _memory("ant-goal", 400, 2, seeds=(0,)),
    "memory-ant-goal-varibad": _memory("ant-goal", 200, 2, seeds=(0,), algo="varibad"),
    "memory-bandit": _memory("bandit", 1000, 1, "--tasks 1000"),
    "memory-tabular-mdp": _memory("tabular-mdp", 250, 10, "--tasks 400", seeds=(0,)),
    "ant-dir": Experiment(
        "ant-dir",
        {"maml": "--algo maml --iterations 62 --validate-every 0"},
        "--tasks 40 --rollouts 20",
        seeds=(0,),
        note="Returns hold the survive bonus, 200 for a whole episode; evaluation.json has the return without it.",
    ),
    "algorithms-navigation": Experiment(
        "navigation", _ALGORITHMS, "--task-file benchmarks/task_lists/navigation.json --rollouts 40"
    ),
    "algorithms-navigation-bimodal": Experiment(
        "navigation-bimodal",
        {**_ALGORITHMS, "multi-maml": "--algo multi-maml"},
        "--task-file benchmarks/task_lists/navigation-bimodal.json --rollouts 40",
    ),
    "mumomaml-step-size": Experiment(
        "navigation-bimodal",
        {"0.1": "--algo mumomaml", "0.01": "--algo mumomaml --inner-lr 0.01"},
        "--task-file benchmarks/task_lists/navigation-bimodal.json --rollouts 40",
        seeds=(0,),
        note="What modulation alone does before the first gradient step, at the usual inner step size and the paper's.",
    ),
    "sinusoid-l2f": _sinusoids(5, 2, ("maml", "l2f", "mamlpp"), (0, 1, 2, 3, 4)),
    "sinusoid-l2f-1-step": _sinusoids(5, 1, ("maml", "l2f"), (0, 1, 2)),
    "sinusoid-l2f-5-steps": _sinusoids(5, 5, ("maml", "l2f", "mamlpp"), (0, 1, 2)),
    "sinusoid-l2f-10-shot": _sinusoids(10, 2, ("maml", "l2f"), (0, 1, 2)),
    "sinusoid-l2f-20-shot": _sinusoids(20, 2, ("maml", "l2f"), (0, 1, 2)),
    "sinusoid": Experiment(
        "sinusoid",
        {name: f"--algo {name} --shots 10 --iterations 70000 --meta-batch-size 25" for name in ("maml", "pretrain")},
        "--shots 5 --tasks 1000 --gradient-steps 10",
        note="Sinusoids as in MAML's table 2: trained on 10 points with one inner step, tested on 5.",
    ),
    "regression-2": _kinds(2),
    "regression-3": _kinds(3),
    "navigation": Experiment(
        "navigation",
        {
            "maml": "--algo maml",
            "l2f": "--algo l2f",
            "l2f-fresh-normalised": "--algo l2f --l2f.attenuation-rollouts fresh --l2f.normalise-embedding",
        },
        "--task-file benchmarks/task_lists/navigation.json --rollouts 40",
    ),
    "navigation-curvature": Experiment(
        "navigation",
        {
            "exact": "--algo maml --trpo.fisher-fraction 1 --trpo.hessian-fraction 1",
            "default": "--algo maml",
        },
        None,
        seeds=(0, 1, 2, 3, 4),
        note="Exact curvature and its default approximation; `python -m benchmarks.curvature` compares the curves.",
    ),
    "cheetah-dir-rllab": Experiment(
        "cheetah-dir-rllab",
        {"maml": "--algo maml --iterations 50", "l2f": "--algo l2f --iterations 50"},
        "--tasks 40 --rollouts 40",
    ),
    "cheetah-dir": Experiment("cheetah-dir", {"l2f": "--algo l2f"}, "--tasks 40 --rollouts 20", seeds=(0,)),
    "cheetah-dir-settings": Experiment(
        "cheetah-dir",
        {
            "original": f"--algo l2f --iterations 25 {_SHORT} {_ORIGINAL} --discount 0.99",
            "near-zero-start": f"--algo l2f --iterations 24 {_SHORT} {_NEAR_ZERO} --discount 0.99",
            "discount-0.95": f"--algo maml --iterations 15 {_SHORT} {_ORIGINAL} --discount 0.95",
            "near-zero-start-discount-0.95": f"--algo maml --iterations 15 {_SHORT} {_NEAR_ZERO} --discount 0.95",
            "the-same-horizon-100": f"--algo maml --iterations 15 {_SHORT} {_NEAR_ZERO} --discount 0.95 --horizon 100",
            "the-same-relu": f"--algo maml --iterations 15 {_SHORT} {_NEAR_ZERO} --discount 0.95 --activation relu",
            "chosen": f"--algo maml --iterations 15 {_SHORT}",
        },
        None,
        seeds=(0,),
        note=_SEARCH,
    ),
    "cheetah-dir-rllab-settings": Experiment(
        "cheetah-dir-rllab",
        {
            "original": f"--algo maml --iterations 50 {_ORIGINAL}",
            "original-l2f": f"--algo l2f --iterations 12 {_ORIGINAL}",
            "original-l2f-gamma-0.95": f"--algo l2f --iterations 33 {_ORIGINAL} --l2f.initial-gamma 0.95",
            "chosen-l2f-gamma-0.5": "--algo l2f --iterations 29 --l2f.initial-gamma 0.5",
            "original-quarter": f"--algo maml --iterations 16 {_SHORT} {_ORIGINAL}",
            "output-gain-0.1-quarter": f"--algo maml --iterations 16 {_SHORT} {_ORIGINAL} --output-gain 0.1",
            "half-scale-quarter": f"--algo maml --iterations 16 {_SHORT} --initial-std 1 --action-scale 0.5",
            "chosen-quarter": f"--algo maml --iterations 16 {_SHORT}",
        },
        None,
        seeds=(0,),
        note=_SEARCH,
    ),
}


@dataclass(frozen=True)
class Options:
    """Trains, evaluates and summarises an experiment."""

    experiment: Annotated[str, tyro.conf.Positional]
    """Name of the experiment; a wrong one shows all."""
    summary: bool = False
    """Only summarise the results in benchmarks/results."""
    jobs: int = 2
    """Number of parallel runs, with one thread each; the results do not depend on it."""


def main() -> None:
    """Runs the command."""
    options = tyro.cli(Options, prog="python -m benchmarks.learning")
    if options.experiment not in EXPERIMENTS:
        sys.exit(f"error: there is no experiment {options.experiment!r}; there are: {', '.join(EXPERIMENTS)}.")
    experiment, results = EXPERIMENTS[options.experiment], RESULTS / options.experiment
    if not options.summary:
        runs = [(variant, seed) for seed in experiment.seeds for variant in experiment.variants]
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda run: _run(experiment, results, *run), runs))
    summarise(experiment, results)


def _run(experiment: Experiment, results: Path, variant: str, seed: int) -> None:
    folder = Path("runs/learning") / results.name / f"{variant}-seed{seed}"
    kept = results / folder.name
    if kept.is_dir():
        return
    resume = ["--resume"] if (folder / "checkpoints/last.safetensors").exists() else []
    train = [*_train_command(experiment, variant, seed), "--run-dir", str(folder), "--threads", "1", *resume]
    subprocess.run([sys.executable, *train], check=True)
    if experiment.evaluation is not None:
        evaluate = ["-m", "metarl.evaluate", str(folder), *experiment.evaluation.split(), "--threads", "1"]
        subprocess.run([sys.executable, *evaluate], check=True)
    if experiment.analysis is not None:
        analyse = ["-m", "metarl.analyze", str(folder), *experiment.analysis.split(), "--threads", "1"]
        subprocess.run([sys.executable, *analyse], check=True)
    collect(folder, results.name)


def _train_command(experiment: Experiment, variant: str, seed: int) -> list[str]:
    options = experiment.variants[variant].split()
    return ["-m", "metarl.train", "--env", experiment.env, *options, "--seed", str(seed)]


def summarise(experiment: Experiment, results: Path) -> None:
    """Writes summary.json, summary.md and the figures from the copied runs."""
    folders = {name: [results / f"{name}-seed{seed}" for seed in experiment.seeds] for name in experiment.variants}
    stored = {name: [read_run(folder) for folder in of_name if folder.is_dir()] for name, of_name in folders.items()}
    runs = {name: of_name for name, of_name in stored.items() if of_name}
    summary: dict[str, Any] = {
        "experiment": results.name,
        "evaluation": experiment.evaluation,
        "variants": {name: _training(experiment, name, of_name) for name, of_name in runs.items()},
    }
    paths = [run.path for of_name in runs.values() for run in of_name]
    in_environments = next(iter(runs.values()))[0].measure == "return"
    plot_runs(paths, results / "training.png", "env-steps" if in_environments else "iteration")
    text = _training_markdown(summary)
    if experiment.evaluation is not None:
        _add_evaluations(summary, {name: [run.evaluated() for run in of_name] for name, of_name in runs.items()})
        plot_runs(paths, results / "adaptation.png")
        text = _evaluation_markdown(summary) + text
    if experiment.analysis is not None:
        _add_analyses(summary, runs)
        text = _analysis_markdown(summary) + text
    if experiment.note:
        text = f"{experiment.note}\n\n{text}"
    facts = next(iter(summary["variants"].values()))["trained_with"]
    text = (
        f"# {results.name}\n\n{text}\nHardware: {facts['hardware']}; torch {facts['torch']}, MuJoCo {facts['mujoco']}. "
    )
    text += f"All of it: `python -m benchmarks.learning {results.name}`.\n"
    (results / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    (results / "summary.md").write_text(text)
    print(text)


def _training(experiment: Experiment, name: str, runs: list[StoredRun]) -> dict[str, Any]:
    """Cost of a variant's runs, and what they measured in the first and last ten rows of their progress."""
    env_steps = [run.progress.get("env_steps", np.array([])) for run in runs]
    return {
        "command": "python " + " ".join(_train_command(experiment, name, 0)[:-1]) + " SEED",
        "seeds": [run.seed for run in runs],
        "commits": [run.config["metarl"]["commit"] for run in runs],
        "trained_with": runs[0].config["metarl"],
        "env_steps": [int(steps[-1]) if len(steps) else 0 for steps in env_steps],
        "iterations": [int(run.progress["iteration"][-1]) if run.progress else 0 for run in runs],
        "first_ten_last_ten_standard_error": [_first_and_last(run) for run in runs if run.progress],
    }


def _first_and_last(run: StoredRun) -> list[float]:
    """Mean of the first and of the last ten rows, and the standard error of their difference.

    Rows hold what was measured after adaptation; if training does not adapt, it is that of the trained policy.
    """
    values = run.progress.get(f"post_adaptation_{run.measure}", run.progress[f"pre_adaptation_{run.measure}"])
    first, last = values[:10], values[-10:]
    error = np.sqrt(first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last))
    return [round(float(x), 3) for x in (first.mean(), last.mean(), error)]


def _add_evaluations(summary: dict[str, Any], evaluations: dict[str, list[Evaluation]]) -> None:
    """Adds returns after each gradient step, and differences from the first variant, paired by seed and task."""
    returns = {name: np.array([seed.returns for seed in of_name]) for name, of_name in evaluations.items()}
    reference = next(iter(returns))
    first = evaluations[reference][0]
    summary["measure"], summary["step_name"] = first.measure, first.step_name
    sign, decimals = (-1, 5) if summary["measure"] == "error" else (1, 3)
    for name, values in returns.items():
        entry, estimate = summary["variants"][name], aggregate(values)
        entry["evaluated_with"] = evaluations[name][0].metarl
        entry["per_seed"] = values.mean(1).round(decimals).tolist()
        entry["mean"] = estimate.mean.round(decimals).tolist()
        entry["share_made_worse"] = share_made_worse(sign * values).mean(0).round(4).tolist()
        if len(values) >= MIN_SEEDS_FOR_INTERVAL and estimate.half_width is not None:
            entry["interval"] = estimate.half_width.round(decimals).tolist()
        if groups := _by_task(evaluations[name]):
            entry["by_task"] = groups
        seeds = summary["variants"][reference]["seeds"]
        if name != reference and set(entry["seeds"]) <= set(seeds):
            tasks = [evaluation.tasks for evaluation in (*evaluations[name], *evaluations[reference])]
            if not all(np.array_equal(other, tasks[0]) for other in tasks):
                sys.exit(f"error: {name} and {reference} were evaluated on different tasks; evaluate them again.")
            other = returns[reference][[seeds.index(seed) for seed in entry["seeds"]]]
            difference = paired_difference(values, other)
            entry["difference"] = {
                "from": reference,
                "per_seed": (values - other).mean(1).round(decimals).tolist(),
                "mean": difference.mean.round(decimals).tolist(),
            }
            if len(values) >= MIN_SEEDS_FOR_INTERVAL and difference.half_width is not None:
                entry["difference"]["interval"] = difference.half_width.round(decimals).tolist()
    summary["references"] = plain(evaluations[reference][0].references)
    if "oracle" in returns:
        _add_share_of_the_gap(summary)


def _add_analyses(summary: dict[str, Any], runs: dict[str, list[StoredRun]]) -> None:
    """Adds, of each variant's first seed, the excess conflict of each tensor and the gains of the best gammas."""
    for name, of_name in runs.items():
        analysis, entry = json.loads((of_name[0].path / "analysis.json").read_text()), summary["variants"][name]
        excess = analysis["conflict"]["excess"]
        entry["excess_conflict"] = dict(zip(analysis["tensors"], _mean_and_interval(excess), strict=True))
        if sweep := analysis.get("gamma_sweep"):
            entry["gain_of_best_gamma"] = dict(zip(sweep["parts"], _mean_and_interval(sweep["gain"]), strict=True))
            if sweep.get("gap"):
                entry["share_of_the_gap"] = dict(zip(sweep["parts"], np.round(sweep["gap"]["share"], 4), strict=True))


def _mean_and_interval(values: dict[str, Any]) -> list[list[float | None]]:
    means = values["mean"]
    intervals = values.get("interval") or [None] * len(means)
    return [[round(m, 4), None if i is None else round(i, 4)] for m, i in zip(means, intervals, strict=True)]


def _add_share_of_the_gap(summary: dict[str, Any]) -> None:
    """Adds the share of the gap from standing still to the oracle that a variant closes with one gradient step."""
    standstill, variants = summary["references"]["standstill"], summary["variants"]
    oracle = variants["oracle"]["mean"][0]
    for entry in variants.values():
        entry[_GAP] = round((entry["mean"][1] - standstill) / (oracle - standstill), 2) + 0.0


def _by_task(evaluations: list[Evaluation]) -> dict[str, list[float]]:
    """Mean returns on each task of a family with two tasks; empty for other families."""
    seeds = [evaluation.returns_by_name() for evaluation in evaluations]
    return {name: np.mean([seed[name] for seed in seeds], axis=0).round(3).tolist() for name in seeds[0]}


def _evaluation_markdown(summary: dict[str, Any]) -> str:
    steps = range(len(summary["references"]["random_initialisation"]))
    header = " | ".join(f"step {k}" for k in steps) + " |\n|---|---|" + "---|" * len(steps)
    in_environments = summary["measure"] == "return"
    decimals = 2 if in_environments else 4

    def cells(entry: dict[str, Any], sign: str = "") -> str:
        means, seeds, interval = entry["mean"], entry["per_seed"], entry.get("interval")
        widths = [f" ± {width:.{decimals}f}" for width in interval] if interval else [""] * len(means)
        return " | ".join(
            f"{means[k]:{sign}.{decimals}f}{widths[k]} ({', '.join(f'{seed[k]:{sign}.{decimals}f}' for seed in seeds)})"
            for k in steps
        )

    measured, step = summary["measure"], summary["step_name"]
    what = f"{measured.capitalize()} after k {step}s" + (", on fresh episodes" if in_environments else "")
    interval = any("interval" in entry for entry in summary["variants"].values())
    lines = [f"{what}: mean over seeds{' ± 95 % t interval over seeds' if interval else ''} (every seed).", ""]
    lines += [f"| variant | seeds | {header}"]
    for name, entry in summary["variants"].items():
        lines.append(f"| {name} | {', '.join(map(str, entry['seeds']))} | {cells(entry)} |")
        for task, means in entry.get("by_task", {}).items():
            lines.append(f"| {name}: {task} | | " + " | ".join(f"{value:.2f}" for value in means) + " |")
    random = " | ".join(f"{value:.2f}" for value in summary["references"]["random_initialisation"])
    lines.append(f"| random initialisation | | {random} |")
    if summary["references"]["standstill"] is not None:
        standstill = f"{summary['references']['standstill']:.2f}"
        lines.append("| standing still | | " + " | ".join([standstill] * len(steps)) + " |")
    gaps = {n: e[_GAP] for n, e in summary["variants"].items() if _GAP in e}
    if gaps:
        lines += ["", "Share of the gap from standing still to the oracle's step 0 that is closed after one step: "]
        lines[-1] += ", ".join(f"{name} {share:.0%}" for name, share in gaps.items()) + "."
    paired = {name: e["difference"] for name, e in summary["variants"].items() if "difference" in e}
    if paired:
        better = "negative" if summary["measure"] == "error" else "positive"
        lines += ["", f"Paired differences on the same tasks and seeds; {better} is better.", ""]
        lines += [f"| variant | from | {header}"]
        lines += [f"| {name} | {entry['from']} | {cells(entry, '+')} |" for name, entry in paired.items()]
    return "\n".join(lines) + "\n\n"


def _analysis_markdown(summary: dict[str, Any]) -> str:
    """Tables of `_add_analyses`."""
    titles = {
        "gain_of_best_gamma": "Gain in return of each task's best gamma, chosen on half of the episodes and scored on "
        "the other half (± 95 % t interval over tasks)",
        "share_of_the_gap": "The same as a share of the gap from standing still to the oracle",
        "excess_conflict": "Conflict between episodes of different tasks, less that within a task, in radian (± 95 % t "
        "interval over tasks)",
    }
    lines = []
    for key, title in titles.items():
        rows = {name: entry[key] for name, entry in summary["variants"].items() if key in entry}
        if rows:
            names = list(next(iter(rows.values())))
            lines += [f"{title}:", "", f"| variant | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
            lines += [f"| {name} | {' | '.join(_cell(row[n]) for n in names)} |" for name, row in rows.items()]
            lines.append("")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if not isinstance(value, list):
        return f"{value:.1%}"
    mean, interval = value
    return f"{mean:.3f}" if interval is None else f"{mean:.3f} ± {interval:.3f}"


def _training_markdown(summary: dict[str, Any]) -> str:
    lines = [
        "Training: mean after adaptation of the first and the last ten logged iterations (standard error of their "
        "difference).",
        "",
        "| variant | iterations | environment steps | each seed | commits |",
        "|---|---|---|---|---|",
    ]
    for name, entry in summary["variants"].items():
        seeds = "; ".join(f"{a:.1f} to {b:.1f} ({e:.1f})" for a, b, e in entry["first_ten_last_ten_standard_error"])
        commits = ", ".join(sorted(set(entry["commits"])))
        steps = f"{max(entry['env_steps']):,}"
        lines.append(f"| {name} | {max(entry['iterations'])} | {steps} | {seeds} | {commits} |")
    lines += ["", "Commands:", "", "```sh", *(entry["command"] for entry in summary["variants"].values()), "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
