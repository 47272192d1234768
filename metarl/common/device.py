"""Choice of the torch device."""

import torch

from metarl.common.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Returns the device named ``auto``, ``cpu`` or ``cuda``; ``auto`` is a GPU if there is one.

    For a GPU it switches off cuDNN's short mantissas (TF32): agents act on the CPU, in single precision.

    Raises:
        UserError: If ``cuda`` is requested and PyTorch finds no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but PyTorch finds no CUDA GPU; take device cpu or auto.")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")
