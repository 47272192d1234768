"""Threads for independent pieces of work. The results never depend on the number of threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

import torch

from metarl.common.cores import available_cores
from metarl.common.group import Group
from metarl.common.profiling import in_workers

Item = TypeVar("Item")
Result = TypeVar("Result")

SECONDS_TO_STOP = 5.0
# Ctrl-C does not wake a thread that is just about to sleep, so wake up again and again.
_POLL_SECONDS = 1.0


class Workers:
    """A pool of Python threads, each of which runs torch single-threaded.

    Simulation and matrix products release the interpreter's lock, so threads suffice. One torch thread per worker makes
    every number independent of the pool's size.

    The pool exists inside the ``with`` block. There, torch is single-threaded in the calling thread too.

    Args:
        num_threads: Size of the pool; by default one thread per core that this process may use.
        group: The processes that share the work; by default this one is alone.
        clock: Tells the time in seconds, for those who measure whether threads pay.

    Attributes:
        findings: What such measurements found, to be said to the user by whoever takes them away.
        stopping: Set while `map` waits for its threads to stop after an error; long pieces of work should poll it.
        abandoned: Whether a thread did not stop. It may still use its objects, so nobody should close them.
    """

    def __init__(
        self,
        num_threads: int | None = None,
        group: Group | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.group, self.clock, self.findings = group or Group(alone=True), clock, list[str]()
        self.num_threads = num_threads or max(1, available_cores() // self.group.on_machine)
        self.stopping = threading.Event()
        self.abandoned = False
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        watch: Callable[[], None] = lambda: None,
        watch_seconds: float = _POLL_SECONDS,
    ) -> list[Result]:
        """Applies ``function`` to ``items`` in parallel and returns the results in the order of ``items``.

        The first exception is raised here, and so is Ctrl-C in the calling thread. By then no thread is working any
        more, so the caller may close the objects that the threads used, unless a thread has not stopped within
        `SECONDS_TO_STOP` and is `abandoned`.

        Args:
            function: The work.
            items: Its arguments.
            watch: Called again and again while threads work; what it raises is raised here.
            watch_seconds: Time between its calls.
        """
        items = list(items)
        measured = in_workers(function, min(self.num_threads, len(items)))
        futures: list[Future[Result]] = [Future() for _ in items]
        try:
            for future, item in zip(futures, items, strict=True):
                self._jobs.put(partial(_run, future, measured, item))
            while wait(futures, timeout=watch_seconds, return_when=FIRST_EXCEPTION).not_done:
                if any(future.done() and future.exception() for future in futures):
                    break
                watch()
            return [future.result() for future in futures if future.done()]
        except BaseException:
            self._stop(futures)
            raise

    def _stop(self, futures: Sequence[Future[Any]]) -> None:
        """Waits until no thread works on ``futures`` any more, or gives up on it."""
        self.stopping.set()
        self.abandoned = True  # Also if Ctrl-C comes once more.
        at_work = [future for future in futures if not future.cancel()]
        self.abandoned = bool(wait(at_work, timeout=SECONDS_TO_STOP).not_done)
        if not self.abandoned:
            self.stopping.clear()

    def __enter__(self) -> Workers:
        self._torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        # Daemons: a thread that hangs in somebody's environment must not keep the process alive.
        self._threads = [
            threading.Thread(target=_serve, args=(self._jobs,), name=f"metarl-{index}", daemon=True)
            for index in range(self.num_threads)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        if not self.abandoned:
            for thread in self._threads:
                thread.join()
        torch.set_num_threads(self._torch_threads)


def _serve(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    """A worker's thread."""
    torch.set_num_threads(1)
    while (job := jobs.get()) is not None:
        job()
        del job  # Do not keep its data while waiting for the next one.


def _run(future: Future[Result], function: Callable[[Item], Result], item: Item) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(item))
    except BaseException as error:
        future.set_exception(error)
