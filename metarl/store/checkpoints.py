"""Checkpoints: the learner's state and the run's progress, in one safetensors file that holds no code."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarl.common.errors import UserError
from metarl.common.output import say
from metarl.config.config import Config
from metarl.data import LearnerState
from metarl.store.folder import RunFolder, aside
from metarl.store.reference import run_folder
from metarl.store.tensors import Unreadable, read_tensors, write_tensors

_FORMAT = "metarl-3"
# Format of metarl 0.1: one tensor ``optimiser`` holds the learner's memory, which only that version can interpret.
_OLD_FORMAT = "metarl-2"
_MEMORY = "memory."
_METADATA = {"format", "run", "progress"}


class DamagedCheckpoint(UserError):
    """A checkpoint is missing, or not what a run wrote."""


@dataclass(frozen=True)
class RunState:
    """A run between two iterations: all that it needs to go on.

    Attributes:
        learner: The learner's state.
        iteration: Meta-iterations done.
        env_steps: Environment steps taken in them, adaptation included.
        validation_env_steps: Environment steps taken in validation; 0 before the first resumption in checkpoints of
            older versions.
        seconds: Wall time spent on them.
        cpu_seconds: CPU time spent on them, all threads of all processes together; 0 before the first resumption in
            checkpoints of older versions.
        best_return: Best post-adaptation return on the validation tasks so far, or what ``best_by`` names in its place;
            negated where less is better.
        dropped_episodes: Episodes left out because they were bad, in training and validation.
    """

    learner: LearnerState
    iteration: int = 0
    env_steps: int = 0
    seconds: float = 0.0
    best_return: float = -float("inf")
    dropped_episodes: int = 0
    cpu_seconds: float = 0.0
    validation_env_steps: int = 0

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = dict.fromkeys(
            ("iteration", "env_steps", "validation_env_steps", "dropped_episodes"), int
        )
        kinds |= dict.fromkeys(("seconds", "cpu_seconds"), int | float)
        for name, kind in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
        if not isinstance(self.best_return, float) or math.isnan(self.best_return):
            raise ValueError(f"best_return must be a number, got {self.best_return!r}")


def save_checkpoint(config: Config, which: str, state: RunState) -> None:
    """Writes a checkpoint; the file of before stays whole until the new one is. That of ``last`` becomes ``previous``.

    Args:
        config: The run's configuration, which says its folder.
        which: ``last``, ``best`` or ``iterationN``.
        state: The run's state.

    Raises:
        OSError: If it cannot be written.
    """
    folder = RunFolder(config.folder)
    path = folder.checkpoint(which)
    path.parent.mkdir(exist_ok=True)
    progress = {name: value for name, value in vars(state).items() if name != "learner"}
    metadata = {"format": _FORMAT, "run": _identity(config), "progress": json.dumps(progress)}
    memory = {_MEMORY + name: value for name, value in state.learner.memory.items()}
    previous = folder.checkpoint("previous") if which == "last" else None
    write_tensors(path, {"meta": state.learner.meta, **memory}, metadata, previous)


def load_checkpoint(config: Config, which: str, to_resume: bool = False) -> RunState:
    """Reads a checkpoint of the run with this configuration. If the last one is damaged, reads the previous one.

    Args:
        config: The run's configuration.
        which: ``last``, ``best`` or ``iterationN``.
        to_resume: Whether the learner goes on from it, and the run's folder is ours: a damaged file is put aside.
            Otherwise a checkpoint of metarl 0.1 is read without what the learner remembered.

    Returns:
        The run's state, on the CPU.

    Raises:
        UserError: If there is none, or it is damaged, not metarl's or another run's; or if the learner is to go on from
            what another version made it remember.
    """
    folder = RunFolder(config.folder)
    try:
        return _load(config, which, to_resume)
    except DamagedCheckpoint as error:
        if which != "last" or not folder.checkpoint("previous").is_file():
            raise
        state = _load_previous(config, error, to_resume)
        say(f"{error} Took the previous one, after iteration {state.iteration}.")
        if to_resume and folder.checkpoint("last").exists():
            os.replace(folder.checkpoint("last"), aside(folder.checkpoint("last")))
        return state


def load_learner(run_dir: Path) -> LearnerState:
    """The meta-parameters and the memory of a run's last checkpoint, whatever its configuration is.

    If it is damaged, those of the previous one.

    Raises:
        UserError: If there is none, or it is damaged or not metarl's.
    """
    files = RunFolder(run_folder(run_dir))
    try:
        return _learner(_parts(files.checkpoint("last"))[1])
    except DamagedCheckpoint as error:
        if not files.checkpoint("previous").is_file():
            raise
        learner = _learner(_parts(files.checkpoint("previous"))[1])
        say(f"{error} Took the previous one.")
        return learner


def _learner(tensors: Mapping[str, Tensor]) -> LearnerState:
    memory = {name.removeprefix(_MEMORY): value for name, value in tensors.items() if name.startswith(_MEMORY)}
    return LearnerState(tensors["meta"], memory)


def _load_previous(config: Config, damage: DamagedCheckpoint, to_resume: bool) -> RunState:
    try:
        return _load(config, "previous", to_resume)
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(f"{damage} So is the one before: {error}") from error


def _load(config: Config, which: str, to_resume: bool) -> RunState:
    path = RunFolder(config.folder).checkpoint(which)
    tensors, progress = _read(config, which)
    if to_resume and len(tensors.get("optimiser", ())):
        raise UserError(f"{path} was written by metarl 0.1, which can resume it; this version can only evaluate it.")
    try:
        return RunState(_learner(tensors), **progress)
    except (TypeError, ValueError) as error:
        raise _damaged(path, f": it does not say where the run stood ({error})") from error


def _read(config: Config, which: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's tensors by name, and where the run stood."""
    path = RunFolder(config.folder).checkpoint(which)
    if not path.is_file():
        hint = "has the run saved one yet?"
        if which == "best":
            every = config.resolve().run.validate_every
            hint = f"there is one from the first validation on (validate_every is {every}); take the last."
        raise DamagedCheckpoint(f"{config.folder} has no checkpoint {which!r} ({path} does not exist); {hint}")
    metadata, tensors = _parts(path)
    if metadata.get("run") != _identity(config):
        raise UserError(f"{path} belongs to another run ({metadata.get('run')}), not to {_identity(config)}.")
    try:
        progress = json.loads(metadata["progress"])
        return tensors, {"iteration": progress["iteration"], **progress}
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f": it does not say where the run stood ({error!r})") from error


def _parts(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a file that is a checkpoint."""
    metadata, tensors = _content(path)
    form = metadata.get("format", "")
    if form.startswith("metarl-") and form not in (_FORMAT, _OLD_FORMAT):
        raise UserError(f"{path} was written by another version of metarl; train again, or use that version.")
    if not form.startswith("metarl-") or not _complete(tensors, form):
        raise UserError(f"{path} is not a metarl checkpoint; it was written by another program.")
    meta = tensors["meta"]
    if meta.ndim != 1 or not meta.is_floating_point() or not bool(torch.isfinite(meta).all()):
        raise _damaged(path, ": its meta-parameters are not a vector of finite numbers")
    return metadata, tensors


def _content(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a file whose checksum is right; older files have none."""
    try:
        metadata, tensors = read_tensors(path)
    except Unreadable as error:
        raise _damaged(path, str(error)) from error
    if metadata.get("format", "").startswith("metarl-") and not metadata.keys() <= _METADATA:
        raise _damaged(path, f": it names {', '.join(sorted(metadata.keys() - _METADATA))}, which no checkpoint does")
    return metadata, tensors


def _damaged(path: Path, how: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(f"{path} is damaged{how}; take another checkpoint or train again.")


def _complete(tensors: dict[str, Tensor], form: str) -> bool:
    others = tensors.keys() - {"meta"}
    known = others == {"optimiser"} if form == _OLD_FORMAT else all(name.startswith(_MEMORY) for name in others)
    return known and "meta" in tensors


def _identity(config: Config) -> str:
    settings = config.resolve()
    return f"{settings.algorithm_name} on {settings.experiment.env}, seed {settings.run.seed}"
