"""What is said to the user beside the work. Where it cannot be printed, the work goes on without."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO


class Unbreakable:
    """Passes text on to a standard stream; what cannot be written is dropped.

    Args:
        name: ``stdout`` or ``stderr``.
    """

    def __init__(self, name: str = "stderr") -> None:
        self._name = name

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError, AttributeError):  # Full or gone; closed in Python; not there at all.
            getattr(sys, self._name).write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            getattr(sys, self._name).flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(sys, self._name), name)


def say(text: str) -> None:
    """Prints a line on stderr. That it is closed or full is no error."""
    print(text, file=Unbreakable(), flush=True)


def say_on_stdout(text: str) -> None:
    """Prints a line on stdout. That it is closed or full is no error, also when it is flushed again later."""
    print(text, file=Unbreakable("stdout"))
    if sys.stdout is not None:
        _flush_or_drop(sys.stdout)


def open_standard_streams() -> None:
    """Points standard streams that were closed before the start to /dev/null.

    Otherwise the next file that is opened takes their place, and what is printed lands in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Gets the lowest free number.
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def close_standard_streams() -> None:
    """Flushes stdout and stderr, so that the interpreter finds nothing at exit that it would complain about."""
    for stream in (sys.stdout, sys.stderr):
        _flush_or_drop(stream)


def _flush_or_drop(stream: TextIO) -> None:
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
