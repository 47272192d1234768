"""Timing by turns: candidates run alternately; the result is the median over rounds of the ratio within a round."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metarl.common.errors import UserError

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A table of measurements, for printing and storing.

    Attributes:
        title: Title.
        rows: Values by column name, the same columns in every row; None for values that were not measured.
        note: A note for readers.
    """

    title: str
    rows: list[dict[str, Cell]]
    note: str = ""

    def __str__(self) -> str:
        columns = [self._column(name) for name in self.rows[0]]
        lines = ["| " + " | ".join(cells) + " |" for cells in zip(*columns, strict=True)]
        return "\n".join([f"**{self.title}**", "", *lines, *(["", self.note] if self.note else [])])

    def _column(self, name: str) -> list[str]:
        """Heading, rule and cells of one column, padded to its widest cell; numbers are aligned to the right."""
        values = [row[name] for row in self.rows]
        numbers = all(isinstance(value, int | float | None) for value in values)
        cells = [name, *map(_text, values)]
        width = max(map(len, cells))
        heading, *below = [cell.rjust(width) if numbers else cell.ljust(width) for cell in cells]
        return [heading, "-" * (width - 1) + (":" if numbers else "-"), *below]


def _text(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def refuse_changes() -> None:
    """Raises UserError if tracked files differ from the commit."""
    command = ["git", "-C", str(Path(__file__).parent), "status", "--porcelain", "--untracked-files=no"]
    if subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip():
        raise UserError("the tree has uncommitted changes, so that no commit would name what made the results; commit.")


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every candidate, [round]; calls alternate, A B C A B C ..., after one untimed call of every candidate.

    So other load on the machine affects all candidates alike.
    """
    for work in candidates.values():
        work()
    turns = [{name: seconds(work) for name, work in candidates.items()} for _ in range(rounds)]
    return {name: np.array([turn[name] for turn in turns]) for name in candidates}


def median_ratio(numerator: np.ndarray, denominator: np.ndarray) -> float:
    """Median over rounds of the ratio within a round."""
    return float(np.median(numerator / denominator))


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """b of the least-squares fit cost = a * size^b."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def own_process(module: str, *arguments: object) -> Any:
    """Runs ``python -m module arguments`` as a new process and parses the last line that it prints as JSON."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory() -> float:
    """Largest resident memory of this process so far, GB (10^9 bytes)."""
    status = Path("/proc/self/status")
    if status.is_file():  # On Linux, `getrusage` includes the peak of the parent process.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def resident_memory() -> float:
    """Resident memory of this process now, MB (10^6 bytes). Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def as_json(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """The tables in JSON types."""
    return [asdict(table) for table in tables]
