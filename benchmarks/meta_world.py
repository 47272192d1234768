"""Meta-World: what its environments cost, and how often its own scripted policies reach the goal.

    python -m benchmarks.meta_world           # writes benchmarks/results/meta-world.json
    python -m benchmarks.meta_world --quick   # two environments, few steps: a test that it works, not a measurement

Needs the package metaworld. Costs are CPU times of one thread, so other work on the machine matters little.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mujoco
import numpy as np
import torch
import tyro

from benchmarks.experiments import RESULTS
from benchmarks.measure import Cell, Table, as_json, resident_memory
from metarl.commands.cli import run_command
from metarl.common.strict_json import write_json
from metarl.envs import get_family
from metarl.envs.metaworld import MetaWorldFamily, environment_names
from metarl.store.provenance import provenance

RESULT = RESULTS / "meta-world.json"


@dataclass(frozen=True)
class Options:
    """Measures the environments of Meta-World."""

    quick: bool = False
    """Two environments and few steps: a test that it works, not a measurement. Writes nothing by default."""
    output: Path | None = None
    """Where the figures go; by default benchmarks/results/meta-world.json."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = tyro.cli(Options, prog="python -m benchmarks.meta_world", args=arguments)

    def command() -> None:
        tables = [_memory(options.quick), _speeds(options.quick), _scripted(options.quick)]
        print("\n\n".join(map(str, tables)))
        output = options.output or (None if options.quick else RESULT)
        if output is not None:
            made_with = provenance(torch.device("cpu"))
            content = {"quick": options.quick, "made_with": made_with, "tables": as_json(tables)}
            write_json(output, content, indent=1)

    return run_command(command)


def _speeds(quick: bool) -> Table:
    """Steps with random actions in the training environments of ML10."""
    family = get_family("metaworld-ml10")
    assert isinstance(family, MetaWorldFamily)
    tasks = {family.kind(task): task for task in family.split_tasks("train")}
    rows = [_speed(family, name, tasks[name], quick) for name in (list(tasks)[:2] if quick else tasks)]
    columns = [name for name in rows[0] if name != "environment"]
    mean = {name: float(np.mean([row[name] for row in rows])) for name in columns}  # type: ignore[arg-type]
    note = "CPU time of one thread, random actions. The simulator's share is that of mujoco.mj_step in these steps."
    return Table("ML10's training environments", [*rows, {"environment": "mean", **mean}], note)


def _speed(family: MetaWorldFamily, name: str, task: Any, quick: bool) -> dict[str, Cell]:
    """Costs of making, resetting and stepping one environment."""
    begin = time.process_time()
    env = family.make_env(kind=name)
    made = time.process_time() - begin
    family.set_task(env, task)
    actions = np.random.default_rng(0).uniform(-1, 1, (5 if quick else family.horizon, *env.action_space.shape))
    physics, step = 0.0, mujoco.mj_step

    def timed(*given: Any, **named: Any) -> None:
        nonlocal physics
        start = time.process_time()
        step(*given, **named)
        physics += time.process_time() - start

    def episode() -> float:
        """Seconds of an episode's steps."""
        env.reset()
        begin = time.process_time()
        for action in actions:
            env.step(action)
        return time.process_time() - begin

    episode()  # Warms up.
    seconds = episode() / len(actions)
    with patch("mujoco.mj_step", timed):  # By itself, because to read the clock takes time too.
        episode()
    begin = time.process_time()
    env.reset()
    reset = time.process_time() - begin
    env.close()
    return {
        "environment": name,
        "steps a second": 1 / seconds,
        "simulator's share": physics / len(actions) / seconds,
        "to make one, ms": 1e3 * made,
        "a reset, ms": 1e3 * reset,
    }


def _memory(quick: bool) -> Table:
    """What environments keep in memory while they live."""
    family = get_family("metaworld-ml10")
    tasks = family.sample_tasks(2 if quick else 20, np.random.default_rng(0), "train")
    before, envs = resident_memory(), []
    for task in tasks:
        env = family.make_env(kind=family.kind(task))
        family.set_task(env, task)
        env.reset()
        env.step(np.zeros(4))  # Memory is taken when it is first written.
        envs.append(env)
    each = (resident_memory() - before) / len(envs)
    for env in envs:
        env.close()
    return Table("Memory", [{"environments": len(envs), "memory of one, MB": each}], "Resident, ML10's equally often.")


def _scripted(quick: bool) -> Table:
    """How often Meta-World's scripted policies, which see the goal, reach it."""
    from metaworld.policies import ENV_POLICY_MAP

    names, goals = environment_names()[: 2 if quick else None], 1 if quick else 3
    rows: list[dict[str, Cell]] = []
    for name in names:
        family = get_family("metaworld-ml1", task=name)
        env, policy, reached = family.make_env(), ENV_POLICY_MAP[name](), 0
        for task in family.sample_tasks(goals, np.random.default_rng(0), "test"):
            family.set_task(env, task)
            reached += _succeeds(env, policy, family.horizon)
        env.close()
        rows.append({"environment": name, "goals": goals, "reached": reached})
    total = {"goals": goals * len(rows), "reached": sum(int(row["reached"] or 0) for row in rows)}
    note = f"MuJoCo {mujoco.__version__}; the first goals that a seed draws of each environment's test tasks."
    return Table("Meta-World's scripted policies", [*rows, {"environment": "all", **total}], note)


def _succeeds(env: Any, policy: Any, horizon: int) -> bool:
    """Whether the policy reaches the goal within an episode."""
    observation, _ = env.reset()
    for _ in range(horizon):
        action = policy.get_action(np.concatenate([observation[:-3], env.unwrapped._target_pos]))
        observation, _, _, _, info = env.step(np.clip(action, -1, 1))
        if info["success"]:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
