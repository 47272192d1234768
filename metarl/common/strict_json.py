"""JSON as the standard defines it, which knows neither NaN nor infinity: both are written as null."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """A value as JSON can hold it.

    Args:
        value: Numbers, texts and paths; mappings, sequences and arrays of them; dataclasses, which become objects of
            their fields or whatever their method ``to_json`` returns.

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


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Writes a file of strict JSON and makes its folder; a file that was there stays whole until the new one is.

    Args:
        path: The file.
        content: What `plain` takes.
        indent: Spaces for each level; None for a single line.

    Raises:
        OSError: If the file cannot be written.
        TypeError: If ``content`` holds something that JSON cannot.
    """
    text = json.dumps(plain(content), indent=indent, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
