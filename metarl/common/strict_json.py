"""JSON as the standard defines it. The standard has neither NaN nor infinity; both are written as null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metarl.common.files import replacing


def plain(value: Any) -> Any:
    """Converts a value to types that JSON can hold.

    Args:
        value: Numbers, texts and paths; mappings, sequences and arrays of them; objects with a method ``to_json``;
            dataclasses, which become dictionaries of their fields.

    Returns:
        Dictionaries, lists, texts, finite numbers, truth values and None; NaN and infinity become None.
    """
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if is_dataclass(value):
        return plain(vars(value))
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def one_line(value: Any) -> str:
    """A value that `plain` accepts as a line of JSON with sorted keys; equal values give equal lines."""
    return json.dumps(plain(value), sort_keys=True)


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Writes a file of strict JSON and makes its folder. An old file is replaced only once the new one is complete.

    Args:
        path: The file.
        content: A value that `plain` accepts.
        indent: Spaces per level; None for a single line.

    Raises:
        OSError: If the file cannot be written.
        TypeError: If ``content`` holds a value that JSON cannot represent.
    """
    text = json.dumps(plain(content), indent=indent, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.encode())
