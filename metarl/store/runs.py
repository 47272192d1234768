"""Reads the contents of a run folder: configuration, progress and an evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.common.errors import UserError
from metarl.common.files import reason
from metarl.common.output import say
from metarl.config.measuring import Checkpoint, EvaluationConfig
from metarl.store.evaluations import Evaluation
from metarl.store.folder import RunFolder
from metarl.store.progress import read_table

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StoredRun:
    """Contents of a run folder.

    Attributes:
        path: The folder.
        config: Content of ``config.json``.
        progress: Columns of ``progress.csv`` in order of iterations. Empty cells are NaN; without a file there are no
            columns.
        checkpoint: The checkpoint that ``evaluation`` belongs to.
        evaluation: The evaluation, or None if there is none yet.
    """

    path: Path
    config: dict[str, Any]
    progress: dict[str, Floats]
    checkpoint: Checkpoint
    evaluation: Evaluation | None

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
            command = _command(self.path, self.checkpoint)
            raise UserError(f"{what}run '{self.path}' was not evaluated yet: run `{command}` first.")
        return self.evaluation


def read_run(folder: str | Path, checkpoint: Checkpoint = "last") -> StoredRun:
    """Reads the configuration, the progress and the evaluation of a run.

    Args:
        folder: A run folder.
        checkpoint: The checkpoint whose evaluation is read.

    Returns:
        The run.

    Raises:
        UserError: If the folder is not a run folder, or one of its files cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"run folder '{folder}' does not exist.")
    files = RunFolder(folder)
    config = _read_json(files.config)
    if config is None:
        raise UserError(f"'{folder}' is not a run folder: it has no {files.config.name}.")
    if not {"env", "algo", "seed"} <= config.keys():
        raise UserError(f"'{files.config}' is not a run's configuration: it needs env, algo and seed.")
    return StoredRun(folder, config, _read_progress(files.progress), checkpoint, _read_evaluation(files, checkpoint))


def _read_evaluation(files: RunFolder, checkpoint: Checkpoint) -> Evaluation | None:
    path = files.evaluation(EvaluationConfig(checkpoint=checkpoint))
    content = _read_json(path)
    if content is None:
        return None
    try:
        return Evaluation.from_json(content)
    except ValueError as error:
        command = _command(files.path, checkpoint)
        raise UserError(f"'{path}' is no evaluation: {error}; run `{command}` again.") from error


def _command(folder: Path, checkpoint: Checkpoint) -> str:
    return f"python -m metarl.evaluate {folder}" + (" --checkpoint best" if checkpoint == "best" else "")


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}': {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"cannot read '{path}': expected a JSON object, got {type(content).__name__}.")
    return content


def _read_progress(path: Path) -> dict[str, Floats]:
    try:
        table = read_table(path)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {reason(error)}.") from error
    if table.unreadable:
        say(f"{path} is damaged: {table.unreadable} of its lines cannot be read and are left out.")
    columns = np.array([[_number(cell) for cell in row] for row in table.rows]).T
    return dict(zip(table.columns, columns, strict=False))


def _number(cell: str) -> float:
    try:
        return float(cell) if cell else float("nan")
    except ValueError:  # A column of words, such as the line search's outcome.
        return float("nan")
