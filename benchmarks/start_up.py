"""Start-up: the time that a user waits for the help, for an import, and for the first iteration of training."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Table, interleaved
from metarl.store.folder import RunFolder

HELP = "python -m metarl.train --help"
FIRST_ITERATION = "python -m metarl.train --env {env} --algo maml --iterations 1"


def measure(quick: bool, device: torch.device) -> list[Table]:
    """Table 4; trains on the default device of the command."""
    rounds = 1 if quick else 5
    work: dict[str, Callable[[], object]] = {
        'python -c "" (for comparison)': partial(_run, "-c", ""),
        'python -c "import metarl"': partial(_run, "-c", "import metarl"),
        HELP: partial(_run, *HELP.split()[1:]),
    }
    rows = [
        {"command": command, "seconds": float(np.median(times))} for command, times in interleaved(work, rounds).items()
    ]
    for env in ("navigation",) if quick else ("navigation", "cheetah-dir"):
        command = FIRST_ITERATION.format(env=env)
        times = [seconds_to_first_iteration(command) for _ in range(rounds)]
        rows.append({"command": command, "seconds": float(np.median(times))})
    note = (
        f"Seconds from the start of the process, median of {rounds} (for the first three after one that is not "
        "counted): to its end, or for training to the end of the first iteration, at the family's own size."
    )
    return [Table("Start-up", rows, note)]


def seconds_to_first_iteration(command: str) -> float:
    """Seconds from the start of a training process until progress.csv holds its first iteration."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.time()
        _run(*command.split()[1:], "--run-dir", folder)
        return RunFolder(Path(folder)).progress.stat().st_mtime - begin


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
