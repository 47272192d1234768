"""Signals that end a program as an exception does, so that it cleans up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from metarl.common.errors import Terminated

# By PyTorch's launcher; not every system has all of them.
_REPLACED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Turns SIGTERM into an exit with code 143 in the main thread, so that it unwinds like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(signum: int, frame: FrameType | None) -> NoReturn:
        raise Terminated(128 + signum)

    before: Callable[[int, FrameType | None], object] | int | None = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Puts back, at the end of the block, the handlers of signals that somebody else's code replaces in it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _REPLACED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Delays SIGTERM and Ctrl-C until the end of the block.

    The launcher sends SIGTERM while a process saves because another failed. To a seed of ``--seeds``, Ctrl-C comes from
    the terminal, and then SIGTERM from the process that started the seeds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def handler(signum: int, frame: FrameType | None) -> None:
        came.append(signum)

    before = {signum: signal.signal(signum, handler) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)
        if came:
            signal.raise_signal(came[0])
