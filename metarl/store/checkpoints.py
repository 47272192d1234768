"""Checkpoints: the meta-parameters and where the run stood, in one safetensors file that holds no code."""

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
from metarl.store.folder import RunFolder

_FORMAT = "metarl-2"


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

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
    """Where a run keeps its checkpoint ``last``, ``best`` or ``iterationN``."""
    return RunFolder(run_dir).checkpoint(which)


def save_checkpoint(config: Config, which: str, meta: Tensor, optimiser: Tensor, progress: Progress) -> None:
    """Writes a checkpoint; the previous one stays whole until the new one is.

    Args:
        config: The run's settings, which say its folder.
        which: ``last``, ``best`` or ``iterationN``.
        meta: Meta-parameters, [meta parameter].
        optimiser: What the optimiser remembers, one axis; may be empty.
        progress: Where the run stands.
    """
    path = checkpoint_path(config.folder, which)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    metadata = {"format": _FORMAT, "run": _identity(config), "progress": json.dumps(asdict(progress))}
    save_file({"meta": meta.cpu(), "optimiser": optimiser.cpu()}, temporary, metadata)
    os.replace(temporary, path)


def load_checkpoint(config: Config, which: str) -> tuple[Tensor, Tensor, Progress]:
    """Reads a checkpoint of the run with these settings.

    Returns:
        Meta-parameters [meta parameter] and the optimiser's memory, on the CPU, and where the run stood.

    Raises:
        UserError: If there is none, or it is damaged, not metarl's or another run's.
    """
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
            # Cloned, so that they lie as aligned as any tensor: the last bits of small products depend on it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged and cannot be read ({error}); restore it or train again.") from error
    if metadata.get("format", "").startswith("metarl-") and metadata["format"] != _FORMAT:
        raise UserError(f"{path} was written by another version of metarl; train again, or use that version.")
    if metadata.get("format") != _FORMAT or set(tensors) != {"meta", "optimiser"}:
        raise UserError(f"{path} is not a metarl checkpoint; it was written by another program.")
    if metadata.get("run") != _identity(config):
        raise UserError(f"{path} belongs to another run ({metadata.get('run')}), not to {_identity(config)}.")
    meta = tensors["meta"]
    if meta.ndim != 1 or not bool(torch.isfinite(meta).all()):
        raise UserError(f"{path} is damaged: its meta-parameters are not a vector of finite numbers.")
    try:
        return meta, tensors["optimiser"], Progress(**json.loads(metadata["progress"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: it does not say where the run stood ({error!r}).") from error


def _identity(config: Config) -> str:
    settings = config.resolve()
    return f"{settings.algorithm_name} on {settings.experiment.env}, seed {settings.run.seed}"
