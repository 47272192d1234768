"""Time of whole meta-iterations by phase, and their memory; every measurement has a process of its own."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Cell, Table, own_process, peak_memory, seconds
from benchmarks.rollouts import PHYSICS, Rollouts
from metarl.common.cores import available_cores
from metarl.common.parallel import Workers
from metarl.config.config import Config
from metarl.config.resolved import Settings
from metarl.envs.mujoco_core import batch_module
from metarl.runs.training import Trainer

RUNS = (
    ("navigation", "maml"),
    ("navigation", "l2f"),
    ("navigation", "anil"),
    ("cheetah-dir", "maml"),
    ("cheetah-dir", "l2f"),
    ("ant-dir", "maml"),
)
QUICK_SIZE: dict[str, Any] = {"meta_batch_size": 4, "rollouts_per_task": 4, "horizon": 20}
_PHASES = ("rollout", "adaptation", "meta_step")


def measure(quick: bool, device: torch.device) -> list[Table]:
    """Table 3: phases and memory at the papers' sizes, with each family's default curvature."""
    rows = [_row(env, algo, quick, device) for env, algo in (RUNS[::3] if quick else RUNS)]
    note = (
        f"Seconds of a warm iteration on {available_cores()} cores; ant-dir after one iteration, the others the median "
        "of three. Physics: time that the simulator alone takes for the same number of steps, replaying the actions of "
        "the first policies in the same process, over the whole iteration's (navigation has no simulator). Memory: "
        "largest resident size of the process, 10^9 bytes."
    )
    return [Table("A meta-iteration", rows, note)]


def measured(rounds: int, device: torch.device, physics: bool = False, **settings: Any) -> dict[str, Any]:
    """The results of `main` for these settings, measured in a process of its own."""
    result: dict[str, Any] = own_process(
        "benchmarks.iteration", json.dumps(settings), rounds, device.type, int(physics)
    )
    return result


def _row(env: str, algo: str, quick: bool, device: torch.device) -> dict[str, Cell]:
    size = QUICK_SIZE if quick else {}
    rounds = 1 if quick or env == "ant-dir" else 3
    has_simulator = env != "navigation" and batch_module() is not None
    result = measured(rounds, device, has_simulator, env=env, algo=algo, **size)
    settings = Config(env=env, algo=algo, **size).resolve()
    return {
        "environment": f"{env}, {' x '.join(map(str, _size(settings)))}",
        "algorithm": algo,
        "seconds": result["seconds"],
        **{phase.replace("_", "-"): result[phase] for phase in _PHASES},
        "steps/s": result["env_steps"] / result["seconds"],
        "physics": result["physics"] / result["seconds"] if "physics" in result else None,
        "memory, GB": result["memory"],
    }


def main() -> None:
    """Trains some iterations and prints times and memory as JSON.

    Arguments: settings as JSON, rounds, device, and 1 to time the physics alone too, else 0.
    """
    settings, rounds, device, physics = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3], bool(int(sys.argv[4]))
    config = Config(validate_every=0, **settings)
    with Trainer(config, torch.device(device)) as trainer:
        state, before = trainer.learner.initial(), peak_memory()
        state = replace(state, meta=state.meta.to(device))
        rows, walls = [], []
        for index in range(rounds + 1):
            begin = time.perf_counter()
            state, row = trainer.learner.iteration(state, index)
            walls.append(time.perf_counter() - begin)
            rows.append(row)
    # Skip the first iteration, which warms up.
    stats = {phase: float(np.median([row[f"seconds_{phase}"] for row in rows[1:]])) for phase in _PHASES}
    stats |= {"seconds": float(np.median(walls[1:])), "env_steps": float(np.median([r["env_steps"] for r in rows[1:]]))}
    stats |= {"memory": peak_memory(), "memory_before": before}
    if physics:
        stats["physics"] = stats["env_steps"] * _seconds_per_step(config.resolve())
    print(json.dumps(stats))


def _size(settings: Settings) -> tuple[int, int, int]:
    """(tasks, rollouts per task, steps per rollout)."""
    return settings.meta.meta_batch_size, settings.rollouts.rollouts_per_task, settings.rollouts.horizon


def _seconds_per_step(settings: Settings) -> float:
    """Seconds per step of the simulator alone, on all cores."""
    with Workers(available_cores()) as workers:
        rollouts = Rollouts(settings.experiment.env, _size(settings), workers)
        (alone,) = (subject for subject in rollouts.subjects() if subject.name == PHYSICS)
        alone.work()
        result = float(np.median([seconds(alone.work) for _ in range(3)])) / alone.steps
        rollouts.close()
    return result


if __name__ == "__main__":
    main()
