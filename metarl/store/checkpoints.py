"""Checkpoints: the learner's state and the run's progress, in one safetensors file that holds no code."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

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
class Progress:
    """Progress of a run.

    Attributes:
        iteration: Meta-iterations done.
        env_steps: Environment steps taken in them, adaptation included.
        seconds: Wall time spent on them.
        best_return: Best post-adaptation return on the validation tasks so far.
    """

    iteration: int = 0
    env_steps: int = 0
    seconds: float = 0.0
    best_return: float = -float("inf")


def checkpoint_path(run_dir: Path, which: str) -> Path:
    """Path of a run's checkpoint ``last``, ``best`` or ``iterationN``."""
    return RunFolder(run_dir).checkpoint(which)


def save_checkpoint(config: Config, which: str, state: LearnerState, progress: Progress) -> None:
    """Writes a checkpoint. The previous file is replaced only once the new one is complete.

    Args:
        config: The run's settings, which determine its folder.
        which: ``last``, ``best`` or ``iterationN``.
        state: The learner's state.
        progress: The run's progress.
    """
    path = checkpoint_path(config.folder, which)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    metadata = {"format": _FORMAT, "run": _identity(config), "progress": json.dumps(asdict(progress))}
    memory = {_MEMORY + name: value.cpu().contiguous() for name, value in state.memory.items()}
    save_file({"meta": state.meta.cpu(), **memory}, temporary, metadata)
    os.replace(temporary, path)


def load_checkpoint(config: Config, which: str) -> tuple[LearnerState, Progress]:
    """Reads a checkpoint to resume the run with these settings.

    Returns:
        The learner's state, on the CPU, and the run's progress.

    Raises:
        UserError: If the checkpoint is missing, damaged, not metarl's or another run's; or if metarl 0.1 wrote the
            learner's memory.
    """
    tensors, progress = _read(config, which)
    if "optimiser" in tensors and len(tensors["optimiser"]):
        raise UserError(
            f"{checkpoint_path(config.folder, which)} was written by metarl 0.1, which can resume it; this version can "
            "only evaluate it."
        )
    memory = {name.removeprefix(_MEMORY): value for name, value in tensors.items() if name.startswith(_MEMORY)}
    return LearnerState(tensors["meta"], memory), progress


def load_meta(config: Config, which: str) -> tuple[Tensor, Progress]:
    """Reads the meta-parameters from a checkpoint of the run with these settings; files of metarl 0.1 work too.

    Returns:
        Meta-parameters [meta parameter], on the CPU, and the run's progress.

    Raises:
        UserError: If the checkpoint is missing, damaged, not metarl's or another run's.
    """
    tensors, progress = _read(config, which)
    return tensors["meta"], progress


def _read(config: Config, which: str) -> tuple[dict[str, Tensor], Progress]:
    """Reads a checkpoint's tensors by name, and the run's progress."""
    path = checkpoint_path(config.folder, which)
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
        return tensors, Progress(**json.loads(metadata["progress"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: it does not say where the run stood ({error!r}).") from error


def _complete(tensors: dict[str, Tensor], form: str) -> bool:
    others = tensors.keys() - {"meta"}
    known = others == {"optimiser"} if form == _OLD_FORMAT else all(name.startswith(_MEMORY) for name in others)
    return known and "meta" in tensors


def _identity(config: Config) -> str:
    settings = config.resolve()
    return f"{settings.algorithm_name} on {settings.experiment.env}, seed {settings.run.seed}"
