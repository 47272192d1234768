"""Threads for independent pieces of work; the results never depend on how many there are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TypeVar

import torch

from metarl.common.profiling import in_workers

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
        num_threads: Size of the pool; by default one for each core.

    Attributes:
        stopping: Set while `map` waits for its threads to give up; long pieces of work look at it.
    """

    def __init__(self, num_threads: int | None = None) -> None:
        self.num_threads = num_threads or available_cores()
        self.stopping = threading.Event()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Results of ``function`` in the order of ``items``.

        The first exception is raised here, Ctrl-C's in the calling thread too, once no thread is at work any more, so
        that what they work on may be closed.
        """
        items = list(items)
        measured = in_workers(function, min(self.num_threads, len(items)))
        futures = []
        try:
            for item in items:
                futures.append(self._pool.submit(measured, item))
            return [_result(future) for future in futures]
        except BaseException:
            self.stopping.set()
            for future in futures:
                future.cancel()
            # Waiting for these futures would not do: Ctrl-C may have come between giving an item out and noting its
            # future.
            self._meet()
            self.stopping.clear()
            raise

    def _meet(self) -> None:
        """Returns once every thread has done what was given out before; starts the threads that are missing."""
        barrier = threading.Barrier(self.num_threads)
        try:
            wait([self._pool.submit(barrier.wait) for _ in range(self.num_threads)])
        except BaseException:
            barrier.abort()  # Those that came would wait for ever.
            raise

    def __enter__(self) -> Workers:
        self._torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self.num_threads, "metarl", initializer=torch.set_num_threads, initargs=(1,))
        # All threads start here, because Ctrl-C while the pool starts one would leave a thread that the pool forgets.
        self._meet()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._torch_threads)


def _result(future: Future[Result]) -> Result:
    """What ``future`` returns or raises."""
    # Ctrl-C does not wake a thread that is just about to fall asleep: look up every second.
    while not future.done():
        wait([future], timeout=1)
    return future.result()
