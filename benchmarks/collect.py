"""Collects finished runs: their results into benchmarks/results, their agents into the package.

    python -m benchmarks.collect cheetah-vel runs/maml-seed0 runs/maml-seed1

A folder's name says variant and seed. The files that tables and figures are computed from go to
benchmarks/results/EXPERIMENT/VARIANT-seedSEED; the agent, if its last checkpoint was evaluated, to
metarl/reference/EXPERIMENT-VARIANT-seedSEED. What was collected there before is replaced. Summarise afterwards:
`python -m benchmarks.reproduce EXPERIMENT --summary`.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from benchmarks.experiments import EXPERIMENTS, RESULTS, run_name
from metarl.commands.cli import run_command
from metarl.common.errors import UserError, nearest
from metarl.common.strict_json import read_json, write_json
from metarl.config.algorithms import get_algorithm
from metarl.config.measuring import EvaluationConfig
from metarl.runs.warm_start import warm_start
from metarl.store.checkpoints import load_checkpoint, save_checkpoint
from metarl.store.config_file import load_config
from metarl.store.evaluations import Evaluation
from metarl.store.folder import RunFolder
from metarl.store.reference import REFERENCES
from metarl.store.runs import commits_of, read_run

# The run of a figure is no experiment: its folder says how it was made.
_FIGURES = ("adaptation-axis",)
_KEPT = ("config.json", "progress.csv", "evaluation.json", "evaluation-sweep.json", "analysis/analysis.json")


@dataclass(frozen=True)
class Options:
    """Collects finished, evaluated runs: results into benchmarks/results, agents into metarl/reference."""

    experiment: Annotated[str, tyro.conf.Positional]
    """The experiment that the runs belong to."""
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, named VARIANT-seedSEED."""


def collect(run: Path, experiment: str) -> list[Path]:
    """Copies a run's results and, if it was evaluated, its agent.

    Args:
        run: The run's folder.
        experiment: The experiment that it belongs to.

    Returns:
        The folders that it was copied to.

    Raises:
        UserError: If it is no run of the experiment, it cannot be read, its evaluation is of another checkpoint, or it
            was made from a tree with uncommitted changes. What was collected before is then left as it was.
    """
    _check(run, experiment)
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
    kept, agent = RESULTS / experiment / run.name, REFERENCES / f"{experiment}-{run.name}"
    evaluated = RunFolder(run).evaluation(EvaluationConfig()).exists() and not _trains_elsewhere(experiment)
    with ExitStack() as stack:
        if evaluated:
            _keep_agent(run, stack.enter_context(_replacing(agent)))
        copies = stack.enter_context(_replacing(kept))
        for path in files:
            shutil.copy(path, copies / path.name)
    return [kept, agent] if evaluated else [kept]


def _check(run: Path, experiment: str) -> None:
    """Raises UserError unless the folder holds a run of the experiment, by its name and its files."""
    known = (*EXPERIMENTS, *_FIGURES)
    if experiment not in known:
        raise UserError(f"there is no experiment {experiment!r}.{nearest(experiment, known)}")
    names = [run_name(*of) for of in EXPERIMENTS[experiment].runs()] if experiment in EXPERIMENTS else []
    if run.name not in names if names else not re.fullmatch(r".+-seed\d+", run.name):
        raise UserError(
            f"{run} is no run of {experiment}: its folder must be named VARIANT-seedSEED, with a variant and a seed of "
            f"the experiment.{nearest(run.name, names)}"
        )
    if not run.is_dir():
        raise UserError(f"run folder '{run}' does not exist.")
    files = RunFolder(run)
    trained = files.config.is_file() and get_algorithm(load_config(run).algo).training != "none"
    needed = [files.config, *([files.progress] if trained and not _trains_elsewhere(experiment) else [])]
    if missing := [path.name for path in needed if not path.is_file()]:
        raise UserError(f"'{run}' is no finished run: it has no {missing[0]}.")


def _trains_elsewhere(experiment: str) -> bool:
    """Whether the agents are those of another experiment, so that there are evaluations alone."""
    return experiment in EXPERIMENTS and bool(EXPERIMENTS[experiment].agents_of)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """An empty folder that takes the place of ``folder`` in the end; if an error comes first, ``folder`` stays."""
    new = folder.with_name(f"{folder.name}.copying")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
    except BaseException:
        shutil.rmtree(new)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def _keep_agent(run: Path, reference: Path) -> None:
    """Fills a reference agent's folder: its configuration, meta-parameters, and shortened evaluation."""
    config, evaluation = load_config(run), read_run(run).evaluated()
    state = load_checkpoint(config, "last")
    if evaluation.iteration != state.iteration:
        raise UserError(
            f"the evaluation of {run} is of iteration {evaluation.iteration}, and its last checkpoint of "
            f"{state.iteration}: evaluate it again."
        )
    files = RunFolder(reference)
    # Without what only going on needs: the meta-optimiser's state, or the trials of a buffer.
    agent = replace(state, learner=warm_start(state.learner))
    save_checkpoint(replace(config, run_dir=reference), "last", agent)
    write_json(files.evaluation(EvaluationConfig()), _shortened(evaluation))
    shutil.copy(RunFolder(run).config, files.config)


def _shortened(evaluation: Evaluation) -> Evaluation:
    """Without metrics, and with seven digits of each task's returns; the whole is in benchmarks/results."""
    returns = np.array([[float(f"{value:.7g}") for value in task] for task in evaluation.returns.tolist()])
    return replace(evaluation, metrics={}, returns=returns)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = tyro.cli(Options, prog="python -m benchmarks.collect", args=arguments)

    def command() -> None:
        for run in options.runs:
            for folder in collect(run, options.experiment):
                print(f"{run}: kept in {folder}")

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
