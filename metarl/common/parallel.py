"""Threads for independent pieces of work. The results never depend on the number of threads."""

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
    """Returns the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A pool of Python threads, each of which runs torch single-threaded.

    Simulation and matrix products release the interpreter's lock, so threads suffice. One torch thread per worker makes
    every number independent of the pool's size.

    The pool exists inside the ``with`` block. There, torch is single-threaded in the calling thread too.

    Args:
        num_threads: Size of the pool; by default one thread per core.

    Attributes:
        stopping: Set while `map` waits for its threads to stop after an error; long pieces of work should poll it.
    """

    def __init__(self, num_threads: int | None = None) -> None:
        self.num_threads = num_threads or available_cores()
        self.stopping = threading.Event()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Applies ``function`` to ``items`` in parallel and returns the results in the order of ``items``.

        The first exception is raised here, and so is Ctrl-C in the calling thread. By then no thread is working any
        more, so the caller may close the objects that the threads used.
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
            # Waiting for these futures is not enough: Ctrl-C may have come after `submit` and before `append`.
            self._meet()
            self.stopping.clear()
            raise

    def _meet(self) -> None:
        """Waits until every thread has finished its earlier work; starts the threads that do not run yet."""
        barrier = threading.Barrier(self.num_threads)
        try:
            wait([self._pool.submit(barrier.wait) for _ in range(self.num_threads)])
        except BaseException:
            barrier.abort()  # Otherwise the threads at the barrier would wait for ever.
            raise

    def __enter__(self) -> Workers:
        self._torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self.num_threads, "metarl", initializer=torch.set_num_threads, initargs=(1,))
        # Start all threads now: if Ctrl-C came while the pool starts one later, the pool would forget that thread.
        self._meet()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._torch_threads)


def _result(future: Future[Result]) -> Result:
    """Waits for ``future`` and returns its result or raises its exception."""
    # Ctrl-C does not wake a thread that is just about to sleep, so wake up every second.
    while not future.done():
        wait([future], timeout=1)
    return future.result()
