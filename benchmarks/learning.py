"""Learning results: trains, evaluates on shared held-out tasks, compares pairwise, draws.

    python -m benchmarks.learning navigation            # trains what is missing, then evaluates and summarises
    python -m benchmarks.learning navigation --summary  # from the committed results, without training

Runs go to runs/learning/EXPERIMENT/VARIANT-seedSEED and are resumed if they were interrupted. What is needed to redraw
and recompute everything is copied to benchmarks/results/EXPERIMENT: configuration, progress and evaluation of each run,
summary.json, summary.md and the figures.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from metarl.plotting import plot_runs
from metarl.progress import read_progress
from metarl.statistics import MIN_SEEDS_FOR_INTERVAL, aggregate, paired_difference

RESULTS = Path(__file__).parent / "results"
KEPT = ("config.json", "progress.csv", "evaluation.json")


@dataclass(frozen=True)
class Experiment:
    """Some variants of one family, each trained with the same seeds.

    Attributes:
        env: The task family.
        variants: Command-line options of each variant; the first is the one that others are compared with.
        evaluation: Command-line options of the evaluation.
        seeds: Training seeds.
    """

    env: str
    variants: dict[str, str]
    evaluation: str
    seeds: tuple[int, ...] = (0, 1, 2)


EXPERIMENTS = {
    "navigation": Experiment(
        "navigation",
        {
            "maml": "--algo maml",
            "l2f": "--algo l2f",
            "l2f-fresh": "--algo l2f --l2f.attenuation-rollouts fresh",
            "l2f-fresh-normalised": "--algo l2f --l2f.attenuation-rollouts fresh --l2f.normalise-embedding",
        },
        "--task-file benchmarks/task_lists/navigation.json --rollouts 40",
    ),
    "cheetah-dir-rllab": Experiment(
        "cheetah-dir-rllab", {"maml": "--algo maml", "l2f": "--algo l2f"}, "--tasks 40 --rollouts 40"
    ),
    "cheetah-dir": Experiment("cheetah-dir", {"l2f": "--algo l2f"}, "--tasks 40 --rollouts 20", seeds=(0,)),
}


@dataclass(frozen=True)
class Options:
    """Trains, evaluates and summarises an experiment."""

    experiment: Annotated[str, tyro.conf.Positional]
    """navigation, cheetah-dir-rllab or cheetah-dir."""
    summary: bool = False
    """Only summarise what is in benchmarks/results."""
    jobs: int = 2
    """Runs side by side, each on one thread; the results do not depend on it."""


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
    resume = ["--resume"] if (folder / "checkpoints/last.safetensors").exists() else []
    train = [*_train_command(experiment, variant, seed), "--run-dir", str(folder), "--threads", "1", *resume]
    subprocess.run([sys.executable, *train], check=True)
    evaluate = ["-m", "metarl.evaluate", str(folder), *experiment.evaluation.split(), "--threads", "1"]
    subprocess.run([sys.executable, *evaluate], check=True)
    kept = results / folder.name
    kept.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copy(folder / name, kept / name)


def _train_command(experiment: Experiment, variant: str, seed: int) -> list[str]:
    options = experiment.variants[variant].split()
    return ["-m", "metarl.train", "--env", experiment.env, *options, "--seed", str(seed)]


def summarise(experiment: Experiment, results: Path) -> None:
    """Writes summary.json, summary.md and the figures from the copied runs."""
    folders = {name: [results / f"{name}-seed{seed}" for seed in experiment.seeds] for name in experiment.variants}
    folders = {name: [f for f in of_name if f.is_dir()] for name, of_name in folders.items()}
    folders = {name: of_name for name, of_name in folders.items() if of_name}
    evaluations = {n: [json.loads((f / "evaluation.json").read_text()) for f in fs] for n, fs in folders.items()}
    returns = {n: np.array([e["returns"] for e in es]) for n, es in evaluations.items()}
    reference = next(iter(returns))
    summary: dict[str, Any] = {"experiment": results.name, "evaluation": experiment.evaluation, "variants": {}}
    for name, values in returns.items():
        progress = [read_progress(folder) for folder in folders[name]]
        first = evaluations[name][0]
        entry: dict[str, Any] = {
            "command": "python " + " ".join(_train_command(experiment, name, 0)[:-1]) + " SEED",
            "seeds": [e["config"]["seed"] for e in evaluations[name]],
            "env_steps": [int(rows[-1]["env_steps"]) for rows in progress],
            "iterations": [int(rows[-1]["iteration"]) for rows in progress],
            "seconds": [round(float(rows[-1]["seconds"])) for rows in progress],
            "trained_with": json.loads((folders[name][0] / "config.json").read_text())["metarl"],
            "evaluated_with": first["metarl"],
            "per_seed": values.mean(1).round(3).tolist(),
            "mean": aggregate(values).mean.round(3).tolist(),
            "share_made_worse": np.mean([e["share_made_worse"] for e in evaluations[name]], axis=0).round(4).tolist(),
            "training": _training(progress),
        }
        if len(values) >= MIN_SEEDS_FOR_INTERVAL:
            entry["interval"] = aggregate(values).half_width.round(3).tolist()  # type: ignore[union-attr]
        if name != reference and values.shape == returns[reference].shape:
            difference = paired_difference(values, returns[reference])
            entry["minus_" + reference] = {
                "per_seed": (values - returns[reference]).mean(1).round(3).tolist(),
                "mean": difference.mean.round(3).tolist(),
            }
        summary["variants"][name] = entry
    summary["references"] = evaluations[reference][0]["references"]
    (results / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    text = _markdown(summary, reference)
    (results / "summary.md").write_text(text)
    print(text)
    every = [folder for of_name in folders.values() for folder in of_name]
    plot_runs(every, results / "adaptation.png")
    plot_runs(every, results / "training.png", "env-steps")


def _training(progress: list[list[dict[str, str]]]) -> dict[str, Any]:
    """How the post-adaptation return of the last ten iterations compares with that of the first ten."""
    entries = []
    for rows in progress:
        values = np.array([float(row["post_adaptation_return"]) for row in rows])
        first, last = values[:10], values[-10:]
        error = np.sqrt(first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last))
        entries.append([round(float(x), 3) for x in (first.mean(), last.mean(), error)])
    return {"first_ten_last_ten_standard_error": entries}


def _markdown(summary: dict[str, Any], reference: str) -> str:
    steps = range(len(summary["references"]["random_initialisation"]))
    lines = [
        f"# {summary['experiment']}",
        "",
        "Mean return over held-out tasks after k gradient steps; mean over seeds, then every seed in brackets.",
        "",
        "| variant | seeds | env steps | " + " | ".join(f"step {k}" for k in steps) + " |",
        "|---|---|---|" + "---|" * len(steps),
    ]
    for name, entry in summary["variants"].items():
        cells = [f"{entry['mean'][k]:.2f} ({', '.join(f'{seed[k]:.2f}' for seed in entry['per_seed'])})" for k in steps]
        seeds = ", ".join(map(str, entry["seeds"]))
        lines.append(f"| {name} | {seeds} | {entry['env_steps'][0]:,} | " + " | ".join(cells) + " |")
    for name, values in summary["references"].items():
        cells = [f"{values:.2f}"] * len(steps) if isinstance(values, float) else [f"{v:.2f}" for v in values or []]
        lines.append(f"| {name.replace('_', ' ')} | | | " + " | ".join(cells) + " |")
    paired = {n: e[f"minus_{reference}"] for n, e in summary["variants"].items() if f"minus_{reference}" in e}
    if paired:
        lines += ["", f"Paired differences from {reference} (same tasks and seeds; positive: better):", ""]
        lines += ["| variant | " + " | ".join(f"step {k}" for k in steps) + " |", "|---|" + "---|" * len(steps)]
        for name, difference in paired.items():
            cells = [
                f"{difference['mean'][k]:+.2f} ({', '.join(f'{seed[k]:+.2f}' for seed in difference['per_seed'])})"
                for k in steps
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Post-adaptation return in training, mean of the first and last ten iterations (pooled standard error):",
    ]
    for name, entry in summary["variants"].items():
        triples = entry["training"]["first_ten_last_ten_standard_error"]
        lines.append(f"- {name}: " + "; ".join(f"{a:.1f} to {b:.1f} ({e:.1f})" for a, b, e in triples))
    facts = next(iter(summary["variants"].values()))["trained_with"]
    lines += [
        "",
        f"Trained at commit {facts['commit']} on {facts['hardware']}, torch {facts['torch']}, "
        f"MuJoCo {facts['mujoco']}; `python -m benchmarks.learning {summary['experiment']}`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
