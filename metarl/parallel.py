"""Threads for independent pieces of work; the results never depend on how many there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

from metarl.profiling import in_workers

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A pool of Python threads in which torch computes on one thread each.

    Simulation and matrix products release the interpreter's lock, so threads suffice, and one torch thread in each
    makes every number independent of the pool's size.

    The pool, and torch's setting in the calling thread, last as long as the context.

    Args:
        num_threads: Size of the pool.
    """

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Results of ``function`` in the order of ``items``; the first exception is raised here."""
        items = list(items)
        return list(self._pool.map(in_workers(function, min(self.num_threads, len(items))), items))

    def __enter__(self) -> Workers:
        self._torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self.num_threads, "metarl", initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._torch_threads)
