"""Time of whole meta-iterations by phase, and their memory; every measurement has a process of its own."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Cell, Table, own_process, peak_memory, seconds
from benchmarks.rollouts import PHYSICS, Rollouts, Subject
from metarl.common.cores import available_cores
from metarl.common.parallel import Workers
from metarl.config.config import Config
from metarl.config.resolved import Settings
from metarl.envs.mujoco_core import batch_module
from metarl.runs.training import Trainer

_CART_POLE = "examples.cartpole_family:CartPoleFamily"
RUNS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("navigation", "maml", {}),
    ("navigation", "l2f", {}),
    ("navigation", "anil", {}),
    ("cheetah-dir", "maml", {}),
    ("cheetah-dir", "l2f", {}),
    ("ant-dir", "maml", {}),
    # Episodes that end long before the horizon.
    (_CART_POLE, "maml", {"horizon": 50}),
    (_CART_POLE, "maml", {"horizon": 200}),
)
QUICK_SIZE: dict[str, Any] = {"meta_batch_size": 4, "rollouts_per_task": 4, "horizon": 20}
_PHASES = ("rollout", "adaptation", "meta_step")


def measure(quick: bool, device: torch.device) -> list[Table]:
    """Table 3: phases and memory at the papers' sizes, with each family's default curvature."""
    rows = [_row(*run, quick, device) for run in (RUNS[::3] if quick else RUNS)]
    note = (
        f"Seconds of a warm iteration on {available_cores()} cores, the median of three. Physics: time that the "
        "simulator alone takes for the same number of steps, replaying the actions of the first policies in the same "
        "process, by turns with the iterations, over the whole iteration's (navigation has no simulator). Memory: "
        "largest resident size of the process, 10^9 bytes."
    )
    return [Table("A meta-iteration", rows, note)]


def measured(rounds: int, device: torch.device, physics: bool = False, **settings: Any) -> dict[str, Any]:
    """The results of `main` for these settings, measured in a process of its own."""
    result: dict[str, Any] = own_process(
        "benchmarks.iteration", json.dumps(settings), rounds, device.type, int(physics)
    )
    return result


def _row(env: str, algo: str, size: dict[str, Any], quick: bool, device: torch.device) -> dict[str, Cell]:
    size = QUICK_SIZE if quick else size
    has_simulator = env.startswith(("cheetah", "ant")) and batch_module() is not None
    result = measured(1 if quick else 3, device, has_simulator, env=env, algo=algo, **size)
    settings = Config(env=env, algo=algo, **size).resolve()
    return {
        "environment": f"{env.rpartition(':')[2]}, {' x '.join(map(str, _size(settings)))}",
        "algorithm": algo,
        "env steps": int(result["env_steps"]),
        "seconds": result["seconds"],
        **{phase.replace("_", "-"): result[phase] for phase in _PHASES},
        "steps/s": result["env_steps"] / result["seconds"],
        "physics": result.get("physics"),
        "memory, GB": result["memory"],
    }


def main() -> None:
    """Trains some iterations and prints times and memory as JSON.

    Arguments: settings as JSON, rounds, device, and 1 to time the physics alone too, else 0.
    """
    settings, rounds, device, physics = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3], bool(int(sys.argv[4]))
    config = Config(validate_every=0, **settings)
    with Trainer(config, torch.device(device)) as trainer, ExitStack() as stack:
        state, before = trainer.learner.initial(), peak_memory()
        state, _ = trainer.learner.iteration(replace(state, meta=state.meta.to(device)), 0)  # Warms up.
        memory = peak_memory()
        alone = _simulator(config.resolve(), stack) if physics else None
        rounds_of: dict[str, list[float]] = defaultdict(list)
        for index in range(1, rounds + 1):
            begin = time.perf_counter()
            state, row = trainer.learner.iteration(state, index)
            rounds_of["seconds"].append(time.perf_counter() - begin)
            rounds_of["env_steps"].append(float(row["env_steps"]))
            for phase in _PHASES:
                rounds_of[phase].append(float(row[f"seconds_{phase}"]))
            if alone:  # By turns, so that both have the same machine.
                per_step = seconds(alone.work) / alone.steps
                rounds_of["physics"].append(per_step * rounds_of["env_steps"][-1] / rounds_of["seconds"][-1])
    medians = {name: float(np.median(values)) for name, values in rounds_of.items()}
    print(json.dumps(medians | {"memory": memory, "memory_before": before}))


def _size(settings: Settings) -> tuple[int, int, int]:
    """(tasks, rollouts per task, steps per rollout)."""
    return settings.meta.meta_batch_size, settings.rollouts.rollouts_per_task, settings.rollouts.horizon


def _simulator(settings: Settings, stack: ExitStack) -> Subject:
    """The simulator alone, on all cores, after one call that warms it up; closed with ``stack``."""
    rollouts = Rollouts(settings.experiment.env, _size(settings), stack.enter_context(Workers(available_cores())))
    stack.callback(rollouts.close)
    (alone,) = (subject for subject in rollouts.subjects() if subject.name == PHYSICS)
    alone.work()
    return alone


if __name__ == "__main__":
    main()
