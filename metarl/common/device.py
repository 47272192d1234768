"""Choice of the torch device."""

import torch

from metarl.common.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Returns the device named ``auto``, ``cpu`` or ``cuda``; ``auto`` is a GPU if there is one.

    Raises:
        UserError: If ``cuda`` is requested and PyTorch finds no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but PyTorch finds no CUDA GPU; use --device cpu or auto.")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))
