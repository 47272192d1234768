"""Several processes: iterations with one and two on this machine, what they tell one another, and a projection."""

from __future__ import annotations

import csv
import itertools
import math
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray

from benchmarks.measure import Cell, Table
from examples.cartpole_family import CartPoleFamily
from metarl.common.cores import available_cores
from metarl.common.group import Group
from metarl.common.parallel import Workers
from metarl.config.config import Config
from metarl.envs import EpisodeBatch, TaskFamily
from metarl.envs.cheetah import CheetahDirFamily
from metarl.outer.learners import MetaLearner
from metarl.runs.build import build

ROOT = Path(__file__).resolve().parent.parent
SIZE: dict[str, Any] = {"meta_batch_size": 20, "rollouts_per_task": 20, "horizon": 100}
QUICK: dict[str, Any] = {"meta_batch_size": 2, "rollouts_per_task": 2, "horizon": 5, "hidden_sizes": 8}


class PlainCheetahFamily(CheetahDirFamily):
    """Half-cheetahs that are stepped one by one in Python, as the environments of an own family are."""

    def make_episodes(self, num_envs: int, horizon: int) -> EpisodeBatch:
        return TaskFamily.make_episodes(self, num_envs, horizon)


class FineCartPoleEnv(CartPoleEnv):
    """Cart-poles that a step moves on by twenty small ones: a simulator written in Python, about 0.2 ms a step."""

    _SUBSTEPS = 20

    def __init__(self) -> None:
        super().__init__()
        self.tau /= self._SUBSTEPS

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        for _ in range(self._SUBSTEPS):
            observation, reward, terminated, truncated, info = super().step(action)
            if terminated:
                break
        return observation, float(reward), terminated, truncated, info


class FineCartPoleFamily(CartPoleFamily):
    """Poles of different length on carts that are simulated in small steps."""

    def make_env(self, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
        return FineCartPoleEnv()


# Of the projection: tasks of a run that does not grow; bytes a second; seconds that a message takes between two ranks.
_LARGEST, _BANDWIDTH, _LATENCY = 64, 1.25e9, 50e-6
ENVS = (
    "examples.cartpole_family:CartPoleFamily",
    "benchmarks.processes:FineCartPoleFamily",
    "benchmarks.processes:PlainCheetahFamily",
    "cheetah-dir",
)


def measure(quick: bool, device: torch.device) -> list[Table]:
    """Times, messages, and what they let expect of many ranks; always on the CPU."""
    rounds, iterations = (1, 2) if quick else (3, 8)
    rows = [row for env in ENVS for row in _times(env, rounds, iterations, quick)]
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
    messages = [_messages(env, quick) for env in ENVS]
    projected = Table(
        "Projection, not measured",
        _projection(messages[-1], rounds, iterations, quick),
        f"Seconds of an iteration of {ENVS[-1]} on ranks of one core each. Strong: {_LARGEST} tasks shared by all; "
        "weak: 20 tasks for each. A rank's own seconds grow with its tasks, as measured with 10 and 20 tasks and one "
        "thread; what is left at no task is serial. Each rank receives every rank's messages once, at 1.25 GB/s (a "
        f"network of 10 Gb/s), and each message costs {_LATENCY * 1e6:.0f} microseconds times log2 of the ranks. "
        "Efficiency: of one rank's seconds per task.",
    )
    return [times, Table("Messages of an iteration", messages, note), projected]


def _projection(messages: dict[str, Any], rounds: int, iterations: int, quick: bool) -> list[dict[str, Cell]]:
    """One row per number of ranks, from seconds that are measured here with one thread."""
    few, many = (
        median(_seconds(ENVS[-1], 1, iterations, quick, meta_batch_size=tasks, threads=1) for _ in range(rounds))
        for tasks in (10, 20)
    )
    of_task = (many - few) / 10
    serial = max(0.0, few - 10 * of_task)

    def seconds(tasks: int, ranks: int) -> float:
        sent = messages["all, kB"] * 1e3 / messages["tasks"] * tasks * (ranks > 1)
        waiting = messages["messages"] * _LATENCY * math.log2(ranks)
        return serial + math.ceil(tasks / ranks) * of_task + sent / _BANDWIDTH + waiting

    rows: list[dict[str, Cell]] = []
    for ranks in (1, 2, 4, 8, 16, 32, 64):
        strong, weak = seconds(_LARGEST, ranks), seconds(20 * ranks, ranks)
        rows.append(
            {
                "ranks": ranks,
                "strong, s": strong,
                "strong, efficiency": seconds(_LARGEST, 1) / ranks / strong,
                "weak, s": weak,
                "weak, efficiency": seconds(20, 1) / weak,
            }
        )
    return rows


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


def _seconds(env: str, processes: int, iterations: int, quick: bool, **changed: int) -> float:
    """Seconds of a warm iteration in a training of its own; ``changed`` are fields of `metarl.Config`."""
    settings = {
        "iterations": iterations,
        "validate_every": 0,
        "processes": processes,
        **(QUICK if quick else SIZE),
        **changed,
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
    settings = Config(env=env, algo="maml", **({**QUICK, "hidden_sizes": (8,)} if quick else SIZE)).resolve()
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
