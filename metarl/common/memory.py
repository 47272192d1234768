"""Memory: sizes that cannot fit are refused before anything is allocated."""

from __future__ import annotations

import math
import os
from pathlib import Path

from metarl.common.errors import UserError

_LIMIT = Path("/sys/fs/cgroup/memory.max")


def require_memory(what: str, numbers: int, settings: str) -> None:
    """Raises UserError if some numbers of single precision alone exceed this machine's memory.

    Args:
        what: What the numbers are, in the plural.
        numbers: How many there are at least.
        settings: The settings to lower.
    """
    available = _memory()
    if 4 * numbers > available:
        raise UserError(
            f"{what} take at least {_gigabytes(4 * numbers)} of memory, and this machine has {_gigabytes(available)}; "
            f"lower {settings}."
        )


def lacks_memory(error: BaseException) -> bool:
    """Whether the error says that memory could not be allocated; PyTorch raises a RuntimeError."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in str(error) for w in words))


def _memory() -> float:
    """Bytes of memory, of the container if it has a limit; infinite where the operating system does not say."""
    if not hasattr(os, "sysconf"):
        return math.inf
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(whole, int(_LIMIT.read_text()))
    except (OSError, ValueError):  # There is none; it is "max" where it is not set.
        return whole


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.0f} GB"
