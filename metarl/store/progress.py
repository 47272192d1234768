"""Writes the progress of a run: a CSV row and TensorBoard scalars per iteration, and a live line."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from metarl.store.folder import RunFolder

Row = Mapping[str, float | int | str]
# New names of columns from metarl 0.1.
_RENAMED = {"line_search": "outcome"}


def read_progress(run_dir: Path) -> list[dict[str, str]]:
    """Reads the rows of a run's progress.csv as text; columns from metarl 0.1 get their new names."""
    path = RunFolder(run_dir).progress
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{_RENAMED.get(name, name): value for name, value in row.items()} for row in csv.DictReader(file)]


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
        parts.append(str(row["outcome"]))
    return ", ".join(parts)


class ProgressLog:
    """Writes rows to progress.csv and TensorBoard. After a resume, both continue without gaps or duplicates.

    Args:
        run_dir: The run's folder.
        iteration: Number of finished iterations; rows of later iterations, from an interrupted run, are dropped.
        total: Number of iterations at the end of the run.
    """

    def __init__(self, run_dir: Path, iteration: int, total: int) -> None:
        folder = RunFolder(run_dir)
        self._path = folder.progress
        kept = [row for row in read_progress(run_dir) if int(row["iteration"]) <= iteration]
        self._columns = list(kept[0]) if kept else []
        if kept:
            temporary = self._path.with_suffix(".writing")
            temporary.unlink(missing_ok=True)
            self._append(temporary, kept)
            os.replace(temporary, self._path)
        else:
            self._path.unlink(missing_ok=True)
        self._tensorboard = SummaryWriter(str(folder.tensorboard), purge_step=iteration + 1)
        self._bar = tqdm(
            total=total,
            initial=iteration,
            disable=total == 0,
            unit="it",
            dynamic_ncols=True,
            bar_format="{n_fmt}/{total_fmt} |{bar:10}| {desc} [{elapsed}<{remaining}]",
        )

    def write(self, row: Row) -> None:
        """Adds the numbers of an iteration; ``row`` must have the columns of the first row, in any order."""
        if not self._columns:
            self._columns = list(row)
        self._append(self._path, [row])
        for name, value in row.items():
            if isinstance(value, int | float) and name != "iteration" and math.isfinite(value):
                self._tensorboard.add_scalar(name, value, int(row["iteration"]))
        self._tensorboard.flush()
        self._bar.set_description_str(_in_words(row), refresh=False)
        self._bar.update()

    def skip(self) -> None:
        """Counts an iteration without a row."""
        self._bar.update()

    def __enter__(self) -> ProgressLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._tensorboard.close()

    def _append(self, path: Path, rows: Sequence[Mapping[str, object]]) -> None:
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            if new:
                writer.writeheader()
            writer.writerows(rows)
