"""Several processes: iterations with one and with two on this machine, and what they say to one another."""

from __future__ import annotations

import csv
import itertools
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.measure import Cell, Table
from metarl.common.cores import available_cores
from metarl.common.group import Group
from metarl.common.parallel import Workers
from metarl.config.config import Config
from metarl.outer.learners import MetaLearner
from metarl.runs.build import build

ROOT = Path(__file__).resolve().parent.parent
PYTHON, NATIVE = "examples.cartpole_family:CartPoleFamily", "cheetah-dir"
SIZES: dict[str, dict[str, Any]] = {
    PYTHON: {"meta_batch_size": 20, "rollouts_per_task": 20, "horizon": 100},
    NATIVE: {"meta_batch_size": 20, "rollouts_per_task": 20, "horizon": 100},
}
QUICK: dict[str, Any] = {"meta_batch_size": 2, "rollouts_per_task": 2, "horizon": 5, "hidden_sizes": 8}


def measure(quick: bool, device: torch.device) -> list[Table]:
    """One row per family and number of processes, and one per family of messages; always on the CPU."""
    rounds, iterations = (1, 2) if quick else (3, 8)
    rows = [row for env in SIZES for row in _times(env, rounds, iterations, quick)]
    times = Table(
        "Processes on one machine",
        rows,
        f"MAML, {available_cores()} cores, as many threads in all. Seconds of a warm iteration: the median over "
        f"{iterations - 1} iterations, and the median of {rounds} runs by turns. Ratio: one process's seconds over "
        "these.",
    )
    note = (
        "Counted in one iteration of MAML by one process: messages that it sends, and their size. Of two processes, "
        "each sends as many messages, half as large."
    )
    return [times, Table("Messages of an iteration", [_messages(env, quick) for env in SIZES], note)]


def _times(env: str, rounds: int, iterations: int, quick: bool) -> list[dict[str, Cell]]:
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for processes, of_runs in seconds.items():
            of_runs.append(_seconds(env, processes, iterations, quick))
    means = {processes: median(of_runs) for processes, of_runs in seconds.items()}
    return [
        {"family": env.rpartition(":")[2], "processes": processes, "seconds": mean, "ratio": means[1] / mean}
        for processes, mean in means.items()
    ]


def _seconds(env: str, processes: int, iterations: int, quick: bool) -> float:
    """Seconds of a warm iteration in a training of its own."""
    settings = {
        "iterations": iterations,
        "validate_every": 0,
        "processes": processes,
        **(QUICK if quick else SIZES[env]),
    }
    options = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "metarl.train", "--env", env, "--algo", "maml", *options, "--run-dir", f"{folder}/run"]
        subprocess.run(
            [sys.executable, *command], check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with (Path(folder) / "run/progress.csv").open(newline="") as file:
            ends = [float(row["seconds"]) for row in csv.DictReader(file)]
    return median(after - before for before, after in itertools.pairwise(ends))


class _Counting(Group):
    """One process that counts what it would send to others."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[int] = []

    def gather(self, value: Any) -> list[Any]:
        self.sent.append(len(pickle.dumps(value)))
        return super().gather(value)

    def first(self, value: Any) -> Any:
        self.sent.append(len(pickle.dumps(value)))
        return super().first(value)


def _messages(env: str, quick: bool) -> dict[str, Cell]:
    settings = Config(env=env, algo="maml", **({**QUICK, "hidden_sizes": (8,)} if quick else SIZES[env])).resolve()
    family, rule = build(settings)
    group = _Counting()
    with Workers(group=group) as workers:
        learner = MetaLearner(settings, family, rule, workers, torch.device("cpu"))
        learner.iteration(learner.initial(), 0)
        learner.close()
    return {
        "family": env.rpartition(":")[2],
        "tasks": settings.meta.meta_batch_size,
        "meta-parameters": rule.num_meta,
        "messages": len(group.sent),
        "largest, kB": max(group.sent) / 1e3,
        "all, kB": sum(group.sent) / 1e3,
    }
