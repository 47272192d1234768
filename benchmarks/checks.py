"""What the checks at the environment's door cost: rollouts with them and without, by turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Cell, Table
from examples.cartpole_family import CartPoleFamily
from metarl.common.statistics import mean_and_interval
from metarl.envs import TaskFamily, get_family
from metarl.envs.checked import CheckedEpisodes
from metarl.policies.action_map import ActionMap
from metarl.policies.mlp import MLPPolicy
from metarl.rollouts.sampler import Sampler

# Family, tasks, rollouts of each task, horizon.
PROBLEMS: tuple[tuple[str, Callable[[], Any], tuple[int, int, int]], ...] = (
    ("navigation", lambda: get_family("navigation"), (20, 20, 100)),
    ("cheetah-dir", lambda: get_family("cheetah-dir"), (5, 20, 50)),
    ("cart-pole (Python)", CartPoleFamily, (5, 10, 100)),
)


def measure(quick: bool, device: torch.device) -> list[Table]:
    """One row per family; rollouts are collected on the CPU for any device."""
    rounds = 2 if quick else 200
    rows = [_row(name, make(), (2, 2, 5) if quick else size, rounds) for name, make, size in PROBLEMS]
    note = (
        f"CPU seconds of one thread, {rounds} rounds by turns: the geometric mean of the ratio with / without within a "
        "round, and the half-width of its 95 % t interval. Rollouts with a 2 x 100 policy for each task."
    )
    return [Table("Checks at the environment's door", rows, note)]


def _row(name: str, family: TaskFamily, size: tuple[int, int, int], rounds: int) -> dict[str, Cell]:
    tasks, rollouts, horizon = size
    episodes = [family.make_episodes(tasks * rollouts, horizon) for _ in range(2)]
    action_map = ActionMap(family.action_space)
    policy = MLPPolicy(family.observation_space.shape[0], action_map.distribution)
    with closing(episodes[0]), closing(CheckedEpisodes(episodes[1], family, rollouts)) as checked:
        with_and_without = [Sampler(batch, action_map, tasks, horizon) for batch in (checked, episodes[0])]
        collect = _collection(policy, family.sample_tasks(tasks, np.random.default_rng(0)))
        logs = [np.log(_ratio(collect, with_and_without, swapped=bool(turn % 2))) for turn in range(-1, rounds)][1:]
    estimate = mean_and_interval(np.array(logs)[:, None])
    width = None if estimate.half_width is None else float(estimate.half_width[0])
    return {
        "family": name,
        "steps": tasks * rollouts * horizon,
        "with / without": float(np.exp(estimate.mean[0])),
        "+-": width,
    }


def _collection(policy: MLPPolicy, tasks: np.ndarray) -> Callable[[Sampler], float]:
    parameters = policy.initial(np.random.default_rng(0)).expand(len(tasks), -1).contiguous()

    def seconds(sampler: Sampler) -> float:
        begin = time.thread_time()
        sampler.collect(policy.begin, parameters, tasks, [np.random.default_rng(task) for task in range(len(tasks))])
        return time.thread_time() - begin

    return seconds


def _ratio(collect: Callable[[Sampler], float], pair: list[Sampler], swapped: bool) -> float:
    """Seconds of the first over those of the second; ``swapped`` says which of them goes first."""
    times = [collect(sampler) for sampler in (reversed(pair) if swapped else pair)]
    return times[1] / times[0] if swapped else times[0] / times[1]
