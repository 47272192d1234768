"""Checkpoints: the learner's state and the run's progress, in one safetensors file that holds no code."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from metarl.common.errors import UserError
from metarl.config.config import Config
from metarl.data import LearnerState
from metarl.store.folder import RunFolder

_FORMAT = "metarl-3"
# Format of metarl 0.1: one tensor ``optimiser`` holds the learner's memory, which only that version can interpret.
_OLD_FORMAT = "metarl-2"
_MEMORY = "memory."


@dataclass(frozen=True)
class RunState:
    """A run between two iterations: all that it needs to go on.

    Attributes:
        learner: The learner's state.
        iteration: Meta-iterations done.
        env_steps: Environment steps taken in them, adaptation included.
        seconds: Wall time spent on them.
        best_return: Best post-adaptation return on the validation tasks so far.
    """

    learner: LearnerState
    iteration: int = 0
    env_steps: int = 0
    seconds: float = 0.0
    best_return: float = -float("inf")


def save_checkpoint(config: Config, which: str, state: RunState) -> None:
    """Writes a checkpoint; the previous one stays whole until the new one is.

    Args:
        config: The run's configuration, which says its folder.
        which: ``last``, ``best`` or ``iterationN``.
        state: The run's state.
    """
    path = RunFolder(config.folder).checkpoint(which)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    progress = {name: value for name, value in vars(state).items() if name != "learner"}
    metadata = {"format": _FORMAT, "run": _identity(config), "progress": json.dumps(progress)}
    memory = {_MEMORY + name: value.cpu().contiguous() for name, value in state.learner.memory.items()}
    save_file({"meta": state.learner.meta.cpu(), **memory}, temporary, metadata)
    os.replace(temporary, path)


def load_checkpoint(config: Config, which: str, to_resume: bool = False) -> RunState:
    """Reads a checkpoint of the run with this configuration.

    Args:
        config: The run's configuration.
        which: ``last``, ``best`` or ``iterationN``.
        to_resume: Whether the learner goes on from it. Otherwise a checkpoint of metarl 0.1 is read without what the
            learner remembered.

    Returns:
        The run's state, on the CPU.

    Raises:
        UserError: If there is none, or it is damaged, not metarl's or another run's; or if the learner is to go on from
            what another version made it remember.
    """
    tensors, progress = _read(config, which)
    if to_resume and len(tensors.get("optimiser", ())):
        raise UserError(
            f"{RunFolder(config.folder).checkpoint(which)} was written by metarl 0.1, which can resume it; this "
            "version can only evaluate it."
        )
    memory = {name.removeprefix(_MEMORY): value for name, value in tensors.items() if name.startswith(_MEMORY)}
    return RunState(LearnerState(tensors["meta"], memory), **progress)


def _read(config: Config, which: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's tensors by name, and where the run stood."""
    path = RunFolder(config.folder).checkpoint(which)
    if not path.is_file():
        hint = "has the run saved one yet?"
        if which == "best":
            every = config.resolve().run.validate_every
            hint = f"there is one from the first validation on (validate_every is {every}); take the last."
        raise UserError(f"{config.folder} has no checkpoint {which!r} ({path} does not exist); {hint}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            # Cloned for the usual alignment in memory, on which the last bits of small products depend.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged and cannot be read ({error}); restore it or train again.") from error
    form = metadata.get("format", "")
    if form.startswith("metarl-") and form not in (_FORMAT, _OLD_FORMAT):
        raise UserError(f"{path} was written by another version of metarl; train again, or use that version.")
    if not form.startswith("metarl-") or not _complete(tensors, form):
        raise UserError(f"{path} is not a metarl checkpoint; it was written by another program.")
    if metadata.get("run") != _identity(config):
        raise UserError(f"{path} belongs to another run ({metadata.get('run')}), not to {_identity(config)}.")
    meta = tensors["meta"]
    if meta.ndim != 1 or not bool(torch.isfinite(meta).all()):
        raise UserError(f"{path} is damaged: its meta-parameters are not a vector of finite numbers.")
    try:
        progress = json.loads(metadata["progress"])
        RunState(LearnerState(meta, {}), **progress)
        return tensors, progress
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: it does not say where the run stood ({error!r}).") from error


def _complete(tensors: dict[str, Tensor], form: str) -> bool:
    others = tensors.keys() - {"meta"}
    known = others == {"optimiser"} if form == _OLD_FORMAT else all(name.startswith(_MEMORY) for name in others)
    return known and "meta" in tensors


def _identity(config: Config) -> str:
    settings = config.resolve()
    return f"{settings.algorithm_name} on {settings.experiment.env}, seed {settings.run.seed}"
