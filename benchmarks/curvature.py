"""Measures which approximations of the curvature keep the quality of the meta-step, on problems from real training.

    python -m benchmarks.curvature            # creates missing problems by training; takes all variants' steps on them
    python -m benchmarks.curvature --summary  # from the stored steps

A problem is given by the meta-parameters at some iteration of a training run with exact curvature; they determine the
rollouts. The measure is the surrogate gain after the line search, relative to that of exact float32 curvature.
Approximations with a median of at least 95 % are admitted. The cheapest of them is the default, provided that its
learning curves in `python -m benchmarks.reproduce navigation-curvature` are no worse.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from safetensors.torch import load_file, save_file
from scipy import stats

from benchmarks.experiments import RESULTS
from benchmarks.measure import Table
from metarl.common.parallel import Workers
from metarl.common.streams import Purpose, stream
from metarl.common.strict_json import write_json
from metarl.config.config import Config
from metarl.config.optimisers import TRPOConfig
from metarl.data import LearnerState
from metarl.outer.learners import MetaLearner
from metarl.outer.trpo import TRPO
from metarl.runs.training import Trainer
from metarl.store.provenance import provenance
from metarl.store.runs import read_run

STEPS = RESULTS / "curvature" / "steps.json"
CURVES = RESULTS / "navigation-curvature"
ADMITTED = 0.95
TOLERATED = 0.05


@dataclass(frozen=True)
class Source:
    """A training run that supplies problems.

    Attributes:
        env: The task family.
        algo: The algorithm.
        seed: Training seed.
        iterations: Meta-iterations done before each problem.
    """

    env: str
    algo: str
    seed: int
    iterations: tuple[int, ...]

    def config(self) -> Config:
        """The settings of the run; curvature is exact."""
        return Config(env=self.env, algo=self.algo, seed=self.seed, validate_every=0, trpo=TRPOConfig())

    def path(self, iteration: int) -> Path:
        """File of the meta-parameters before an iteration."""
        return Path("runs/curvature") / f"{self.env}-{self.algo}-seed{self.seed}-{iteration}.safetensors"


SOURCES = (
    Source("navigation", "maml", 0, (1, 5, 15, 30, 45)),
    Source("navigation", "maml", 1, (1, 5, 15, 30, 45)),
    Source("navigation", "l2f", 0, (1, 5, 15, 30, 45)),
    Source("cheetah-dir", "maml", 0, (1, 4, 8, 16)),
    Source("cheetah-dir", "l2f", 0, (4, 16)),
)
EXACT = "exact"
VARIANTS = {
    EXACT: TRPOConfig(),
    "Fisher 10 %": TRPOConfig(fisher_fraction=0.1),
    "Fisher 10 %, Hessian 50 %": TRPOConfig(fisher_fraction=0.1, hessian_fraction=0.5),
    "Fisher 10 %, Hessian 25 %": TRPOConfig(fisher_fraction=0.1, hessian_fraction=0.25),
    "5 CG iterations": TRPOConfig(cg_iterations=5),
    "15 CG iterations": TRPOConfig(cg_iterations=15),
}


@dataclass(frozen=True)
class Options:
    """Takes meta-steps with approximate curvature on problems from real training, and compares their gains."""

    summary: bool = False
    """Only summarise the stored steps."""


def main() -> None:
    """Runs the command."""
    options = tyro.cli(Options, prog="python -m benchmarks.curvature")
    if not options.summary:
        steps = [step for source in SOURCES for step in _study(source)]
        content = {"made_with": provenance(torch.device("cpu")), "steps": steps}
        write_json(STEPS, content, indent=1)
    stored = json.loads(STEPS.read_text())
    text = "# Curvature\n\n" + "\n\n".join(map(str, _tables(stored["steps"])))
    facts = stored["made_with"]
    text += f"\n\nHardware: {facts['hardware']}; torch {facts['torch']}; commit {facts['commit']}.\n"
    text += "All of it: `python -m benchmarks.reproduce navigation-curvature`, then `python -m benchmarks.curvature`.\n"
    (STEPS.parent / "summary.md").write_text(text)
    print(text)


def _study(source: Source) -> Iterator[dict[str, Any]]:
    """Takes the step of every variant on every problem of a run."""
    _train(source)
    with Trainer(source.config(), torch.device("cpu")) as trainer, Workers() as workers:
        learner = trainer.learner
        assert isinstance(learner, MetaLearner)
        for iteration in source.iterations:
            meta = load_file(source.path(iteration))["meta"]
            adapted, _ = learner.inner_loops(meta, iteration)
            for name, trpo in VARIANTS.items():
                begin = time.perf_counter()
                generator = stream(source.seed, Purpose.META_STEP, iteration)
                _, report = TRPO(trpo).step(LearnerState(meta, {}), adapted.loop, workers, generator)
                seconds = time.perf_counter() - begin
                problem = {"env": source.env, "algo": source.algo, "seed": source.seed, "iteration": iteration}
                print(problem, name, report.outcome, f"gain {report.numbers['surrogate_gain']:.5f}", flush=True)
                yield {**problem, "variant": name, "seconds": seconds, "outcome": report.outcome, **report.numbers}


def _train(source: Source) -> None:
    """Trains until all problems of a run are stored; does nothing if they are."""
    if all(source.path(iteration).is_file() for iteration in source.iterations):
        return
    source.path(0).parent.mkdir(parents=True, exist_ok=True)
    with Trainer(source.config(), torch.device("cpu")) as trainer:
        state = trainer.learner.initial()
        for iteration in range(max(source.iterations) + 1):
            if iteration in source.iterations:
                save_file({"meta": state.meta.contiguous()}, source.path(iteration))
            state, row = trainer.learner.iteration(state, iteration)
            print(source, iteration, f"return {row['post_adaptation_return']:.1f}", flush=True)


def _tables(steps: list[dict[str, Any]]) -> list[Table]:
    by_problem: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for step in steps:
        problem = (step["env"], step["algo"], step["seed"], step["iteration"])
        by_problem.setdefault(problem, {})[step["variant"]] = step
    rows = []
    for name in VARIANTS:
        ratios = {
            problem: of_variant[name]["surrogate_gain"] / of_variant[EXACT]["surrogate_gain"]
            for problem, of_variant in by_problem.items()
        }
        seconds = [of_variant[name]["seconds"] / of_variant[EXACT]["seconds"] for of_variant in by_problem.values()]
        trials = [of_variant[name]["line_search_trials"] for of_variant in by_problem.values()]
        gains = np.array(list(ratios.values()))
        row: dict[str, Any] = {"curvature": name, "problems": len(gains)}
        for env in dict.fromkeys(source.env for source in SOURCES):
            row[env] = float(np.median([ratio for problem, ratio in ratios.items() if problem[0] == env]))
        row |= {
            "all": float(np.median(gains)),
            "lower quartile": float(np.quantile(gains, 0.25)),
            "worst": float(gains.min()),
            "line-search trials": float(np.mean(trials)),
            "seconds / exact": float(np.median(seconds)),
            "admitted": "yes" if np.median(gains) >= ADMITTED else "no",
        }
        rows.append(row)
    note = (
        "Actual surrogate gain after the line search over that of exact float32 curvature on the same problem: medians "
        f"by environment and over all. Admitted: {ADMITTED} or more. Hessian: the steps of largest |advantage|."
    )
    return [Table("Gain of one meta-step", rows, note), *_curves()]


def _curves() -> list[Table]:
    """Areas under the learning curves of the default and of exact curvature, paired by seed."""
    if not CURVES.is_dir():
        return []
    of_exact, of_default = _areas("exact"), _areas("default")
    seeds = sorted(of_exact.keys() & of_default.keys())
    exact, default = (np.array([areas[seed] for seed in seeds]) for areas in (of_exact, of_default))
    difference = (default - exact) / np.abs(exact.mean())
    error = stats.sem(difference)
    # One-sided 90 % bound: mean - t_(0.9, n-1) * standard error, of the differences paired by seed.
    bound = float(difference.mean() - stats.t.ppf(0.9, len(difference) - 1) * error)
    rows: list[dict[str, Any]] = [
        {"seed": seed, "exact": of_exact[seed], "default": of_default[seed], "difference": float(change)}
        for seed, change in zip(seeds, difference, strict=True)
    ]
    verdict = "not worse" if bound > -TOLERATED else "not shown to be no worse"
    note = (
        "Mean post-adaptation return over all iterations of training on navigation (MAML), and its difference as a "
        f"fraction of exact curvature's. Mean difference {difference.mean():+.3f}, one-sided 90 % bound {bound:+.3f}: "
        f"{verdict} by more than {TOLERATED:.0%}."
    )
    return [Table("Area under the learning curve", rows, note)]


def _areas(name: str) -> dict[int, float]:
    """The area under the learning curve of each seed."""
    runs = [read_run(folder) for folder in CURVES.glob(f"{name}-seed*")]
    return {run.seed: float(run.progress["post_adaptation_return"].mean()) for run in runs}


if __name__ == "__main__":
    main()
