"""Collects finished runs: their results into benchmarks/results, their agents into the package.

    python -m benchmarks.collect cheetah-vel runs/maml-seed0 runs/maml-seed1

Each folder must hold an evaluation of its last checkpoint; its name says variant and seed. The files that tables and
figures are computed from go to benchmarks/results/EXPERIMENT/VARIANT-seedSEED, the agent to
metarl/reference/EXPERIMENT-VARIANT-seedSEED. What was collected there before is replaced.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.experiments import RESULTS
from metarl.common.errors import UserError
from metarl.common.strict_json import read_json, write_json
from metarl.config.measuring import EvaluationConfig
from metarl.data import LearnerState
from metarl.store.checkpoints import load_checkpoint, save_checkpoint
from metarl.store.config_file import load_config
from metarl.store.folder import RunFolder
from metarl.store.reference import REFERENCES
from metarl.store.runs import commits_of, read_run

_KEPT = ("config.json", "progress.csv", "evaluation.json", "evaluation-sweep.json", "analysis/analysis.json")


@dataclass(frozen=True)
class Options:
    """Collects finished, evaluated runs: results into benchmarks/results, agents into metarl/reference."""

    experiment: Annotated[str, tyro.conf.Positional]
    """The experiment that the runs belong to."""
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, named VARIANT-seedSEED."""


def collect(run: Path, experiment: str) -> None:
    """Copies a run's results and, if it was evaluated, its agent.

    Args:
        run: The run's folder.
        experiment: The experiment that it belongs to.

    Raises:
        UserError: If the run cannot be read, its evaluation is of another checkpoint, or it was made from a tree with
            uncommitted changes.
    """
    files = [run / name for name in _KEPT if (run / name).is_file()]
    for path in files:
        content = read_json(path) if path.suffix == ".json" else {}
        parts = content.get("evaluations", [content])  # Of a sweep there are several.
        commits = [commit for part in parts for commit in commits_of(part)]
        if any(commit.endswith("-dirty") for commit in commits):
            raise UserError(
                f"{path} comes from a tree with uncommitted changes ({', '.join(commits)}), so that no commit names "
                "what made it; remove it and compute it again."
            )
    if RunFolder(run).evaluation(EvaluationConfig()).exists():
        _keep_agent(run, REFERENCES / f"{experiment}-{run.name}")
    kept = RESULTS / experiment / run.name
    copies = kept.with_name(f"{kept.name}.copying")
    copies.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copy(path, copies / path.name)
    shutil.rmtree(kept, ignore_errors=True)
    copies.rename(kept)


def _keep_agent(run: Path, reference: Path) -> None:
    """Makes a run a reference agent: its configuration, meta-parameters, and evaluation without the metrics."""
    config, evaluation = load_config(run), read_run(run).evaluated()
    state = load_checkpoint(config, "last")
    if evaluation.iteration != state.iteration:
        raise UserError(
            f"the evaluation of {run} is of iteration {evaluation.iteration}, and its last checkpoint of "
            f"{state.iteration}: evaluate it again."
        )
    shutil.rmtree(reference, ignore_errors=True)
    files = RunFolder(reference)
    files.path.mkdir(parents=True)
    # Without what only training needs: the meta-optimiser's state, or the trials of a buffer.
    agent = replace(state, learner=LearnerState(state.learner.meta, {}))
    save_checkpoint(replace(config, run_dir=reference), "last", agent)
    write_json(files.evaluation(EvaluationConfig()), replace(evaluation, metrics={}))
    shutil.copy(RunFolder(run).config, files.config)


def main() -> int:
    """Runs the command; returns its exit code."""
    options = tyro.cli(Options, prog="python -m benchmarks.collect")
    try:
        for run in options.runs:
            collect(run, options.experiment)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
