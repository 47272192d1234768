"""Reads the contents of a run folder: configuration, progress and an evaluation."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open

from metarl.common.arrays import Floats
from metarl.common.errors import UserError
from metarl.common.files import reason
from metarl.common.output import say
from metarl.common.strict_json import read_json
from metarl.config.checked import convert
from metarl.config.measuring import Checkpoint, EvaluationConfig
from metarl.config.trust import Trust
from metarl.store.config_file import read_values
from metarl.store.evaluations import Evaluation
from metarl.store.folder import RunFolder
from metarl.store.progress import is_numbers, read_table
from metarl.store.reference import named, run_folder


@dataclass(frozen=True, eq=False)
class StoredRun:
    """Contents of a run folder.

    Attributes:
        path: The folder.
        config: Content of ``config.json``.
        progress: Columns of numbers of ``progress.csv`` by name, [row]; NaN where a cell is empty. Without rows there
            are none.
        checkpoint: The checkpoint that ``evaluation`` belongs to.
        evaluation: The evaluation, or None if there is none yet.
        trust: Whether code from outside metarl that ``config`` names may be imported.
        sweep: The evaluations with several numbers of episodes per step (`metarl.sweep_rollouts`); empty without.
    """

    path: Path
    config: dict[str, Any]
    progress: dict[str, Floats]
    checkpoint: Checkpoint
    evaluation: Evaluation | None
    trust: Trust = False
    sweep: tuple[Evaluation, ...] = ()

    @property
    def name(self) -> str:
        """What a user writes for it: its folder, or ``reference:NAME``."""
        return named(self.path)

    @property
    def env(self) -> str:
        """The task family of training."""
        return str(self.config["env"])

    @property
    def measure(self) -> str:
        """What the family is measured by: its "return", "error" or "accuracy"."""
        if self.evaluation is not None:
            return self.evaluation.measure
        found = [name for name in ("error", "accuracy") if f"pre_adaptation_{name}" in self.progress]
        return found[0] if found else "return"

    @property
    def commits(self) -> list[str]:
        """The commits that it was trained at, each once; a run that went on at another one has several."""
        return commits_of(self.config)

    @property
    def seed(self) -> int:
        """The training seed."""
        return int(self.config["seed"])

    def evaluated(self) -> Evaluation:
        """The evaluation.

        Raises:
            UserError: If there is none; the message says how to get one.
        """
        if self.evaluation is None:
            what = "the best checkpoint of " if self.checkpoint == "best" else ""
            command = _command(self.name, self.checkpoint)
            raise UserError(f"{what}run '{self.name}' was not evaluated yet: run `{command}` first.")
        return self.evaluation

    def evaluations(self) -> tuple[Evaluation, ...]:
        """The sweep's evaluations; without a sweep, the evaluation alone.

        Raises:
            UserError: If there is neither, see `evaluated`.
        """
        return self.sweep or (self.evaluated(),)

    def per_task(self, name: str | None) -> Floats:
        """What the evaluation measured of each task after each step, [task, step].

        Args:
            name: A metric of the family; None, or the family's measure, for the returns.

        Raises:
            UserError: If there is no evaluation, or no such metric in it.
        """
        evaluation = self.evaluated()
        values = evaluation.per_task(name or evaluation.measure)
        if values is None:
            known = ", ".join((evaluation.measure, *evaluation.metrics))
            raise UserError(f"the evaluation of '{self.name}' holds no {name!r}; it holds {known}.")
        return values

    def adaptation_data(self, unit: Literal["episodes", "steps"]) -> Floats:
        """What adaptation had read of a task before each return of the evaluation, mean over tasks, [step].

        Args:
            unit: Episodes (of supervised tasks, examples), or environment steps.

        Raises:
            UserError: If the evaluation does not say; the message says what to do.
        """
        evaluation = self.evaluated()
        amounts = evaluation.adaptation_episodes if unit == "episodes" else evaluation.adaptation_steps
        if amounts is None and evaluation.step_name == "episode" and unit == "episodes":
            return np.arange(len(evaluation.mean), dtype=np.float64)  # An agent with memory reads one at each step.
        if amounts is None and evaluation.adaptation_episodes is not None:
            raise UserError(f"'{self.name}' has examples, no environment steps: draw against adaptation-episodes.")
        if amounts is None:
            raise UserError(
                f"the evaluation of '{self.name}' is of an older version and does not say what adaptation had read: "
                f"run `{_command(self.name, self.checkpoint)}` again."
            )
        return amounts


def run_folders(runs: object) -> tuple[Path, ...]:
    """The argument ``runs`` of what looks at several runs: folders, or one folder.

    Raises:
        UserError: If it is anything else.
    """
    return convert("runs", (runs,) if isinstance(runs, str | Path) else runs, tuple[Path, ...])


def read_run(folder: str | Path, checkpoint: Checkpoint = "last", trust: Trust = False) -> StoredRun:
    """Reads the configuration, the progress and the evaluation of a run.

    Args:
        folder: A run folder, or ``reference:NAME``.
        checkpoint: The checkpoint whose evaluation is read.
        trust: Whether code from outside metarl that the configuration names may be imported; reading imports nothing.

    Returns:
        The run.

    Raises:
        UserError: If the folder is not a run folder, or one of its files cannot be read.
    """
    path = run_folder(convert("run", folder, Path))
    files = RunFolder(path)
    if not files.holds_run():
        if not os.path.isdir(path):
            raise UserError(f"run folder '{path}' does not exist.")
        raise UserError(f"'{path}' is not a run folder: it has no {files.config.name}.")
    config = read_values(files.config)
    if not {"env", "algo", "seed"} <= config.keys():
        raise UserError(f"'{files.config}' is not a run's configuration: it needs env, algo and seed.")
    evaluation, *_ = _read_evaluations(files, checkpoint) or (None,)
    sweep, progress = _read_evaluations(files, checkpoint, sweep=True), _read_progress(files.progress)
    reached, went_on = _iteration(files.checkpoint(checkpoint)), "training went on to"
    if checkpoint == "best":
        went_on = "its best agent is now that of iteration"
    elif reached is None:  # A result that was stored without its checkpoints.
        reached = int(max(progress.get("iteration", ()), default=0))
    for measured, option in ((evaluation, ""), (sweep[0] if sweep else None, " --rollouts-sweep ...")):
        if measured is not None and measured.iteration is not None and measured.iteration < (reached or 0):
            say(
                f"'{path}' was evaluated{option and ', over several numbers of episodes,'} after iteration "
                f"{measured.iteration}, and {went_on} {reached}: run "
                f"`{_command(named(path), checkpoint)}{option}` again to measure the agent as it is now."
            )
    return StoredRun(path, config, progress, checkpoint, evaluation, trust, sweep)


def _read_evaluations(files: RunFolder, checkpoint: Checkpoint, sweep: bool = False) -> tuple[Evaluation, ...]:
    """The evaluation, or those of the sweep; none if there is no such file."""
    path = files.evaluation(EvaluationConfig(checkpoint=checkpoint), sweep)
    if not os.path.exists(path):
        return ()
    content = read_json(path)
    try:
        parts = content.get("evaluations") if sweep else [content]
        if not isinstance(parts, list) or not parts:
            raise UserError("it has no list 'evaluations'.")
        return tuple(map(Evaluation.from_json, parts))
    except ValueError as error:
        command = _command(named(files.path), checkpoint) + (" --rollouts-sweep ..." if sweep else "")
        raise UserError(f"'{path}' is no evaluation: {str(error).rstrip('.')}; run `{command}` again.") from error


def _iteration(checkpoint: Path) -> int | None:
    """The iteration of a checkpoint by its header; None if there is none, or it cannot be read."""
    try:
        with safe_open(checkpoint, "numpy") as file:
            return int(json.loads(file.metadata()["progress"])["iteration"])
    except (OSError, SafetensorError, TypeError, KeyError, ValueError):
        return None


def _command(folder: str, checkpoint: Checkpoint) -> str:
    best = ["--checkpoint", "best"] if checkpoint == "best" else []
    return shlex.join(["python", "-m", "metarl.evaluate", folder, *best])


def _read_progress(path: Path) -> dict[str, Floats]:
    try:
        table = read_table(path)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {reason(error)}.") from error
    if table.unreadable:
        say(f"{path} is damaged: {table.unreadable} of its lines cannot be read and are left out.")
    return {name: column for name, column in table.by_column().items() if is_numbers(column)}


def commits_of(content: Mapping[str, Any]) -> list[str]:
    """The commits that the content of a ``config.json``, an evaluation or an analysis names, each once."""
    return list(dict.fromkeys(str(origin["commit"]) for origin in origins_of(content) if origin.get("commit")))


def origins_of(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Version, commit, packages and hardware of each process that made a ``config.json``'s run, or a result."""
    return [content.get("metarl") or {}, *content.get("resumed_with", ())]
