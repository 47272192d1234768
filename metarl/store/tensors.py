"""Tensors with a few texts, in one safetensors file with a checksum. It holds no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
from safetensors.torch import load, save
from torch import Tensor

from metarl.common.files import reason, replacing

_CHECKSUM = "sha256"
# Stands in the file for its checksum while the checksum is computed.
_NO_CHECKSUM = "0" * 64


class Unreadable(Exception):
    """A file cannot be read; the message goes on after "PATH is damaged"."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str], old_as: Path | None = None
) -> None:
    """Writes a file; the one of before stays whole until the new one is.

    Args:
        path: The file.
        tensors: By name.
        texts: By name.
        old_as: Where the old file is kept.

    Raises:
        OSError: If it cannot be written.
    """
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    content = save(plain, {**texts, _CHECKSUM: _NO_CHECKSUM})
    with replacing(path, old_as) as file:
        file.write(content.replace(_NO_CHECKSUM.encode(), _checksum(content), 1))


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The texts and the tensors of a file, on the CPU. Its checksum is right, or it has none.

    Raises:
        Unreadable: If the file is missing or damaged.
    """
    try:
        content = path.read_bytes()
        # Cloned for the usual alignment in memory, on which the last bits of small products depend.
        tensors = {name: tensor.clone() for name, tensor in load(content).items()}
        texts = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
    except OSError as error:
        raise Unreadable(f" and cannot be read ({reason(error)})") from error
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise Unreadable(f" and cannot be read ({error})") from error
    checksum = texts.pop(_CHECKSUM, "").encode()
    if checksum and _checksum(content.replace(checksum, _NO_CHECKSUM.encode(), 1)) != checksum:
        raise Unreadable(": its content does not match its checksum")
    return texts, tensors


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
