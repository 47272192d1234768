"""The progress of a run: a row of progress.csv and TensorBoard scalars per iteration, and a live line."""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from metarl.common.errors import Fault
from metarl.common.output import progress_bar, say_above_bars
from metarl.data import Row
from metarl.store.folder import RunFolder, aside
from metarl.store.journal import Journal

Column = NDArray[np.float64] | NDArray[np.str_]
# New names of columns from metarl 0.1.
_RENAMED = {"line_search": "outcome"}


class Progress(dict[str, Column]):
    """The columns of progress.csv by name, [row]: numbers, NaN where a cell is empty, or texts.

    A dictionary of arrays, of which ``pandas.DataFrame(progress)`` makes a table; its ``repr`` is one line. It is empty
    without rows.
    """

    def __repr__(self) -> str:
        names = [*self]
        if not names:
            return "Progress(0 rows)"
        some = ", ".join([*names[:3], "..."] if len(names) > 3 else names)
        return f"Progress({len(self[names[0]])} rows, {len(names)} columns: {some})"


@dataclass(frozen=True)
class Table:
    """What can be read of a progress.csv.

    Attributes:
        columns: Names of the columns; the first holds the iteration. Columns of metarl 0.1 have their new names.
        rows: Cells of the rows, in ascending order of iterations.
        unreadable: Number of lines that are damaged.
        cut_off: Whether the file ends in the middle of a line that comes after the last iteration to read.
    """

    columns: list[str]
    rows: list[list[str]]
    unreadable: int = 0
    cut_off: bool = False

    @property
    def iteration(self) -> int:
        """The iteration of the last row, 0 without one."""
        return int(self.rows[-1][0]) if self.rows else 0

    def by_name(self) -> list[dict[str, str]]:
        """The rows with their columns' names."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def by_column(self) -> Progress:
        """The columns by name."""
        columns = zip(self.columns, zip(*self.rows, strict=True), strict=False)
        return Progress((name, _column(cells)) for name, cells in columns)


def read_table(path: Path, until: float = math.inf, columns: Sequence[str] = ()) -> Table:
    """Reads what can be read of a progress.csv.

    Args:
        path: The file; it need not exist.
        until: The last iteration to read.
        columns: The columns that the file should have, to replace damaged names; empty if they are not known.

    Raises:
        OSError: If the file exists and cannot be read.
    """
    if not path.exists():
        return Table([], [])
    header, *lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")  # A spreadsheet's mark.
    torn, cut_off = bool(lines.pop()) if lines else bool(header), False  # A whole file ends with the end of a line.
    found = [_RENAMED.get(name, name) for name in _cells(header)]
    cells = [_cells(line) for line in lines]
    names = _mended(found, cells, columns)
    fitting = [row if len(row) == len(names) else [] for row in cells]
    words = _columns_of_words(fitting)
    rows: list[list[str]] = []
    unreadable = int(names != found)
    for row in fitting:
        last = int(rows[-1][0]) if rows else 0
        if last >= until:
            torn, cut_off = False, torn
            break
        if _is_row(row, last, words):
            rows.append(row)
        else:
            unreadable += 1
    rows = [row for row in rows if int(row[0]) <= until]
    return Table(names, rows, unreadable + torn, cut_off)


def _cells(line: bytes) -> list[str]:
    """The cells of a line; none if it is damaged."""
    try:
        return next(csv.reader([line.decode().removesuffix("\r")]), [])
    except (UnicodeDecodeError, csv.Error):
        return []


def _mended(names: list[str], rows: list[list[str]], columns: Sequence[str]) -> list[str]:
    """Names of a table's columns, where damaged ones are replaced by those of ``columns``."""
    if len(names) == len(columns):
        pairs = zip(names, columns, strict=True)
        return [new if name not in columns and new not in names else name for name, new in pairs]
    fitting = sum(len(row) == len(columns) for row in rows)
    return list(columns) if columns and 2 * fitting > len(rows) else names


def _columns_of_words(rows: list[list[str]]) -> set[int]:
    """Indices of the columns that hold words, such as the meta-step's outcome, in most rows."""
    counts = Counter(index for row in rows for index, cell in enumerate(row) if not _is_number(cell))
    return {index for index, count in counts.items() if 2 * count > len(rows)}


def _is_row(row: list[str], last: int, words: set[int]) -> bool:
    """Whether a row holds an iteration after ``last`` and, but for ``words``, numbers or nothing."""
    if not row or not re.fullmatch(r"[0-9]{1,18}", row[0]) or int(row[0]) <= last:
        return False
    return all(index in words or _is_number(cell) for index, cell in enumerate(row))


def _column(cells: Sequence[str]) -> Column:
    """Numbers if all cells are numbers or empty, else texts."""
    if all(map(_is_number, cells)):
        return np.array([float(cell or "nan") for cell in cells])
    return np.array(cells)


def is_numbers(column: Column) -> TypeGuard[NDArray[np.float64]]:
    """Whether a column holds numbers, and not texts."""
    return column.dtype == np.float64


def _is_number(cell: str) -> bool:
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True


def read_progress(run_dir: Path) -> Progress:
    """Reads the columns of a run's progress.csv; those of metarl 0.1 get their new names."""
    return read_table(RunFolder(run_dir).progress).by_column()


def _in_words(row: Row) -> str:
    """Text of the live line for an iteration; numbers that the row lacks are left out."""
    # A learner without an inner loop does not adapt in training and reports one return only.
    parts = [f"{float(row['steps_per_second']):.0f} steps/s"] if "steps_per_second" in row else []
    for measure, decimals in (("return", 1), ("error", 3), ("accuracy", 3)):
        names = f"pre_adaptation_{measure}", f"post_adaptation_{measure}"
        if numbers := [f"{float(row[name]):.{decimals}f}" for name in names if name in row]:
            parts.append(f"{measure} " + " -> ".join(numbers))
    if "kl" in row:
        parts.append(f"KL {float(row['kl']):.4f}")
    if "outcome" in row:
        # "accepted after 2" trials of the line search; the line must fit into 80 columns.
        parts.append(re.sub(r"accepted after (\d+)", r"trial \1", str(row["outcome"])))
    return ", ".join(parts)


class ProgressLog:
    """Keeps progress.csv, TensorBoard's events and the live line. After a resume, they go on without gap or duplicate.

    A damaged progress.csv is mended from what can be read of it.

    Args:
        run_dir: The run's folder.
        iteration: Number of finished iterations; rows of later iterations, from an interrupted run, are dropped.
        total: Number of iterations at the end of the run.
        log_every: Iterations between rows.
    """

    def __init__(self, run_dir: Path, iteration: int, total: int, log_every: int = 1) -> None:
        self._folder, self._iteration, self._log_every = RunFolder(run_dir), iteration, log_every
        self._columns: list[str] = []
        self._journals: list[Journal] = []
        self._bar = progress_bar(
            total=total,
            initial=iteration,
            disable=total == 0,
            unit="it",
            bar_format="{n_fmt}/{total_fmt} [{elapsed}<{remaining}] {desc}",
        )

    def write(self, row: Row) -> None:
        """Shows the numbers of an iteration and takes them into the files at the next `flush`.

        Args:
            row: It must have no columns but those of the first row, in any order.

        Raises:
            UserError: If it has.
        """
        if not self._journals:
            self._journals = [self._begin_table(list(row)), self._begin_events()]
        if new := sorted(row.keys() - set(self._columns)):
            raise Fault(
                f"iteration {row['iteration']} has numbers that the first iteration did not report: {', '.join(new)}. "
                "A rule's `describe` and a meta-optimiser's report must name them every time; NaN leaves a cell empty."
            )
        table, events = self._journals
        table.add(_as_csv(self._columns, [row]))
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if isinstance(value, int | float) and name != "iteration" and math.isfinite(value)
        ]
        events.add(_record(Event(wall_time=time.time(), step=int(row["iteration"]), summary=Summary(value=values))))
        self._bar.set_description_str(_in_words(row), refresh=False)
        self._bar.update()

    def skip(self) -> None:
        """Counts an iteration without a row."""
        self._bar.update()

    def flush(self, to_disk: bool = False) -> None:
        """Writes the rows that are not in the files yet; after an error they wait for the next call.

        Args:
            to_disk: Whether the files must outlive a lost power supply.

        Raises:
            OSError: If a file cannot be written.
        """
        for journal in self._journals:
            journal.flush(to_disk)

    def __enter__(self) -> ProgressLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        for journal in self._journals:
            journal.close()

    def _begin_table(self, columns: list[str]) -> Journal:
        path = self._folder.progress
        try:
            old = read_table(path, self._iteration, columns)
        except OSError:
            old = Table([], [], 1)
        self._tell_losses(old)
        others = [name for name in old.columns if name not in columns] if old.rows else []
        self._columns = columns + others
        header = dict(zip(self._columns, self._columns, strict=True))
        return Journal(path, _as_csv(self._columns, [header, *old.by_name()]), aside(path) if old.unreadable else None)

    def _tell_losses(self, old: Table) -> None:
        path, expected = self._folder.progress, self._iteration - self._iteration % self._log_every
        if old.unreadable:
            say_above_bars(
                f"{path} is damaged: {old.unreadable} of its lines cannot be read. The {len(old.rows)} good rows are "
                f"kept, and the damaged file is now {aside(path).name}."
            )
        elif old.cut_off:
            say_above_bars(
                f"{path} ends in the middle of a line, written when the run was stopped; that iteration came after the "
                f"checkpoint, after {self._iteration}, and is computed again."
            )
        elif old.iteration < expected:
            say_above_bars(
                f"{path} has no row between iteration {old.iteration} and the checkpoint, after {self._iteration}."
            )

    def _begin_events(self) -> Journal:
        # The name must hold "tfevents". TensorBoard reads files in the order of their names.
        path = self._folder.tensorboard / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        version = Event(wall_time=time.time(), file_version="brain.Event:2")
        # Makes TensorBoard drop what earlier files say about the iterations that follow.
        start = Event(step=self._iteration + 1, session_log=SessionLog(status=SessionLog.START))
        return Journal(path, _record(version) + _record(start))


def _as_csv(columns: list[str], rows: Sequence[Mapping[str, object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns).writerows(rows)
    return text.getvalue().encode()


def _record(event: Event) -> bytes:
    content = io.BytesIO()
    RecordWriter(content).write(event.SerializeToString())
    return content.getvalue()
