"""What is said to the user beside the work. Where it cannot be printed, the work goes on without."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO

from tqdm import tqdm

# Seconds between the lines of a bar that is written to a file or a pipe.
_SECONDS_PER_LINE = 30.0


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


class _Lines(Unbreakable):
    """Whole lines instead of one that is written over, none twice in a row: for files and pipes."""

    _last = ""

    def write(self, text: str) -> int:
        if (words := text.strip()) and words != self._last:
            super().write(f"{words}\n")
            self._last = words
        return len(text)


_LIVE, _LOG = Unbreakable(), _Lines()


def progress_bar(*args: Any, **options: Any) -> Any:
    """A tqdm bar on stderr: a live line in a terminal or notebook, a line every 30 seconds in a log file.

    A bar that does not stay (``leave=False``) has its first line in a log file after 30 seconds.

    Args:
        args: As those of tqdm.
        options: As those of tqdm.
    """
    stream = _stream_of_bars()
    seconds = _SECONDS_PER_LINE if stream is _LOG else 0.1
    if stream is _LOG and not options.get("leave", True):
        options["delay"] = seconds  # Work that is done sooner needs no line.
    if stream is _LIVE:
        options["dynamic_ncols"] = True  # Else a line that is longer than the terminal leaves a copy at each change.
    return tqdm(*args, file=stream, mininterval=seconds, maxinterval=max(seconds, 10.0), **options)


def say_above_bars(text: str) -> None:
    """Prints a line on stderr without breaking a live line of `progress_bar`."""
    tqdm.write(text, file=_stream_of_bars())


def _stream_of_bars() -> Unbreakable:
    # A notebook's stderr is no terminal either, but shows live lines; it has replaced the process's own.
    if sys.stderr is not sys.__stderr__:
        return _LIVE
    terminal = False
    with suppress(ValueError, AttributeError):  # Closed in Python; not there at all.
        # A terminal without a size, as containers have, shows no live line.
        terminal = Unbreakable().isatty() and os.get_terminal_size(sys.__stderr__.fileno()).columns > 0
    return _LIVE if terminal else _LOG


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
