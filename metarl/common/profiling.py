"""Measures named phases for a table and shows them in a trace.

`timed` marks a phase. It costs almost nothing unless a `Profile` is measuring; a process can have one such profile at a
time. A phase inside another is a part of it, even if worker threads run the inner one (`in_workers`).
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch._C._autograd import _profiler_enabled
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, record_function

from metarl.common.errors import UserError
from metarl.common.files import reason
from metarl.common.output import say_on_stdout

Item = TypeVar("Item")
Result = TypeVar("Result")

ITERATION = "iteration"
OTHER = "other"

_measured: _Measured | None = None
_NOTHING = nullcontext()


def timed(name: str) -> AbstractContextManager[None]:
    """Counts the time of the ``with`` block as phase ``name``, a part of the phase around it."""
    measured = _measured  # Read once: after Ctrl-C it becomes None while workers are still busy.
    return _NOTHING if measured is None else measured.timed(name)


def in_workers(function: Callable[[Item], Result], threads: int) -> Callable[[Item], Result]:
    """Wraps ``function`` for worker threads, so that its phases are parts of the caller's phase.

    Args:
        function: The work of a thread.
        threads: Number of threads that work side by side; a phase counts their mean.
    """
    return function if _measured is None else _measured.in_workers(function, threads)


class _Place(threading.local):
    """Position of a thread: the names of the surrounding phases, and the weight of its seconds."""

    path: tuple[str, ...] = ()
    weight = 1.0


class _Measured:
    """The phases of one iteration. The key of a phase is the path of names from the outermost phase to itself.

    Args:
        device: The run's device. On a GPU, a phase lasts until the GPU has finished its work.
        traced: Whether the phases appear in a trace.

    Attributes:
        seconds: Wall seconds of each phase; the mean over threads that work side by side.
        calls: Number of calls of each phase, summed over threads.
    """

    def __init__(self, device: torch.device, traced: bool) -> None:
        self.seconds: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self.calls: defaultdict[tuple[str, ...], int] = defaultdict(int)
        self._device, self._traced = device, traced
        self._place, self._lock = _Place(), threading.Lock()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        place = self._place
        around, place.path = place.path, (*place.path, name)
        try:
            begin = time.perf_counter()
            with self._label(name):
                yield
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)
            seconds = time.perf_counter() - begin
            with self._lock:
                self.seconds[place.path] += place.weight * seconds
                self.calls[place.path] += 1
        finally:
            place.path = around

    def in_workers(self, function: Callable[[Item], Result], threads: int) -> Callable[[Item], Result]:
        # A worker starts at the caller's position. The weight 1 / threads turns the sum over threads into their mean.
        path, weight = self._place.path, self._place.weight

        def piece(item: Item) -> Result:
            self._place.path, self._place.weight = path, weight / threads
            with self._label(path[-1]):
                return function(item)

        return piece

    def _label(self, name: str) -> AbstractContextManager[object]:
        return record_function(name) if self._traced else _NOTHING


@dataclass(frozen=True)
class PhaseRow:
    """A row of the table.

    Attributes:
        depth: Number of surrounding phases.
        name: Name of the phase; `OTHER` for the remainder of the surrounding phase.
        seconds: Wall seconds per iteration; the mean over threads that work side by side.
        calls: Calls per iteration, summed over threads; None for `OTHER`.
    """

    depth: int
    name: str
    seconds: float
    calls: float | None


class Profile:
    """Traces one iteration of a run with PyTorch's profiler and measures the phases of the others.

    The first iteration warms up, the second is traced, and the following ones are measured. Tracing itself takes time,
    so the traced iteration is measured only if no other follows. A single iteration is both traced and measured.

    Args:
        trace_path: Maps the number of an iteration to the path of its trace.
        device: The run's device.

    Raises:
        UserError: If another profiler is already running.
    """

    def __init__(self, trace_path: Callable[[int], Path], device: torch.device) -> None:
        if _profiler_enabled():
            raise UserError("a PyTorch profiler is running, and there can be only one: stop it, or leave out profile.")
        self._trace_path, self._device = trace_path, device
        self._numbers: list[int] = []
        self._seconds: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self._calls: defaultdict[tuple[str, ...], int] = defaultdict(int)
        self._tracer: profile | None = None
        self._notes: list[str] = []

    @contextmanager
    def iteration(self, number: int, first: int, last: int) -> Iterator[None]:
        """Surrounds one iteration, and traces or measures it if it is due.

        Args:
            number: Number of the iteration.
            first: Number of the first iteration since the run was started or resumed.
            last: Number of the last iteration.
        """
        second = min(first + 1, last)
        if number < second:
            yield
            return
        measured = _Measured(self._device, traced=number == second)
        with self._tracing(number) if number == second else _NOTHING, _measuring(measured):
            yield
        if number >= min(first + 2, last):
            self._add(number, measured)

    def close(self) -> None:
        """Prints the results and stops an unfinished trace. No worker may be busy any more."""
        if self._tracer:
            self._tracer.stop()
        if self._numbers:
            say_on_stdout(str(self))
        for note in self._notes:
            say_on_stdout(note)

    def rows(self) -> list[PhaseRow]:
        """Returns the phases; each is followed by its parts, which add up to it."""
        return list(self._rows((ITERATION,)))

    def __str__(self) -> str:
        rows = self.rows()
        first, last = self._numbers[0], self._numbers[-1]
        which = f"iteration {first}" if first == last else f"iterations {first} to {last}, mean per iteration"
        width = max(2 * row.depth + len(row.name) for row in rows)
        lines = [f"where the time goes: {which}", f"{'':{width}}  seconds   share   calls"]
        for row in rows:
            name, calls = "  " * row.depth + row.name, "" if row.calls is None else f"{row.calls:8.4g}"
            lines.append(f"{name:{width}}{row.seconds:z9.3f}{row.seconds / rows[0].seconds:z8.1%}{calls}")
        lines.append("threads work side by side: seconds are their mean, calls their sum; other includes waiting")
        return "\n".join(lines)

    def _add(self, number: int, measured: _Measured) -> None:
        self._numbers.append(number)
        for path, seconds in measured.seconds.items():
            self._seconds[path] += seconds
            self._calls[path] += measured.calls[path]

    def _rows(self, path: tuple[str, ...]) -> Iterator[PhaseRow]:
        depth, iterations = len(path) - 1, len(self._numbers)
        yield PhaseRow(depth, path[-1], self._seconds[path] / iterations, self._calls[path] / iterations)
        parts = [part for part in self._seconds if part[:-1] == path]
        for part in parts:
            yield from self._rows(part)
        if parts:
            left = self._seconds[path] - sum(self._seconds[part] for part in parts)
            yield PhaseRow(depth + 1, OTHER, left / iterations, None)

    @contextmanager
    def _tracing(self, number: int) -> Iterator[None]:
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        try:
            all_threads = _ExperimentalConfig(profile_all_threads=True)
        except TypeError:
            all_threads = None  # Older versions of PyTorch lack this option.
        tracer = self._tracer = profile(activities=activities, experimental_config=all_threads)
        tracer.start()
        yield
        tracer.stop()
        self._tracer = None
        try:
            self._write_trace(tracer, number)
        except OSError as error:
            self._notes.append(f"the trace of iteration {number} could not be written: {reason(error)}")
        if all_threads is None:
            self._notes.append(f"PyTorch {torch.__version__} cannot trace worker threads; newer versions can")

    def _write_trace(self, tracer: profile, number: int) -> None:
        path = self._trace_path(number)
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            raw = Path(temporary) / "trace.json"
            tracer.export_chrome_trace(str(raw))
            with raw.open("rb") as source, gzip.open(path, "wb", compresslevel=1) as target:
                shutil.copyfileobj(source, target)
        self._notes.append(f"trace of iteration {number}: {path} (open it in https://ui.perfetto.dev or TensorBoard)")


@contextmanager
def _measuring(measured: _Measured) -> Iterator[None]:
    global _measured
    _measured = measured
    try:
        with timed(ITERATION):
            yield
    finally:
        _measured = None
