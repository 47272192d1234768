"""The one rollout path: runs the inner loop of many tasks in shards, for training, validation and evaluation."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.adaptation import Adaptation, Adapted, adapt
from metarl.config import Config
from metarl.envs import TaskFamily
from metarl.parallel import Workers
from metarl.profiling import timed
from metarl.sampler import Sampler, with_advantages
from metarl.spaces import ActionMap
from metarl.streams import Purpose, stream
from metarl.types import Rollouts


@dataclass(frozen=True)
class Timing:
    """Wall seconds of one inner loop, mean over shards.

    Attributes:
        rollout: Simulation, with the policies and the advantages.
        adaptation: Updates of the task parameters.
    """

    rollout: float
    adaptation: float


class Runner:
    """Runs inner loops for a fixed number of tasks; a shard owns some of the tasks, their environments and a thread.

    Args:
        config: The run's settings.
        family: The task family.
        rule: The adaptation rule.
        num_tasks: Tasks in each inner loop.
        rollouts_per_task: Episodes collected at each stage.
        workers: Threads.
        device: Where adaptation computes; simulation is on the CPU.
        stopped: Asked at every environment step; true gives up.
    """

    def __init__(
        self,
        config: Config,
        family: TaskFamily,
        rule: Adaptation,
        num_tasks: int,
        rollouts_per_task: int,
        workers: Workers,
        device: torch.device,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config, self._rule, self._workers, self._device = config, rule, workers, device
        self._num_tasks = num_tasks
        most_shards = num_tasks * rollouts_per_task // family.min_envs_per_shard
        num_shards = max(1, min(workers.num_threads, num_tasks, most_shards))
        bounds = np.linspace(0, num_tasks, num_shards + 1).astype(int).tolist()
        self._shards = list(itertools.pairwise(bounds))
        action_map = ActionMap(family.action_space, config.action_scale)
        self._samplers = [
            Sampler(
                family.make_episodes((stop - start) * rollouts_per_task, config.horizon),
                rule.policy,
                action_map,
                stop - start,
                config.horizon,
                stopped,
            )
            for start, stop in self._shards
        ]

    def close(self) -> None:
        """Closes the environments."""
        for sampler in self._samplers:
            sampler.close()

    def run(
        self, meta: Tensor, tasks: np.ndarray, step_scales: Sequence[float], seed: int, purpose: Purpose, *key: int
    ) -> tuple[Adapted, Timing]:
        """Runs the inner loop for each task.

        Args:
            meta: Meta-parameters, [meta parameter].
            tasks: [task, ...].
            step_scales: A factor on the step size for each gradient step.
            seed: Seed of the random streams.
            purpose: What they are for.
            key: Which of them, such as the iteration.

        Raises:
            ValueError: If there are more or fewer tasks than the runner was made for.
        """
        if len(tasks) != self._num_tasks:
            raise ValueError(f"tasks must hold {self._num_tasks} tasks, got {len(tasks)}")

        def run_shard(index: int) -> tuple[Adapted, Timing]:
            start, stop = self._shards[index]
            rollout_seconds = 0.0

            def collect(parameters: Tensor, phase: int) -> Rollouts:
                nonlocal rollout_seconds
                begin = time.perf_counter()
                with timed("rollouts"):
                    streams = [stream(seed, purpose, *key, phase, task) for task in range(start, stop)]
                    rollouts = self._samplers[index].collect(parameters.cpu(), tasks[start:stop], streams)
                    with timed("advantages"):
                        rollouts = with_advantages(rollouts, self._config.discount, self._config.gae_lambda)
                rollout_seconds += time.perf_counter() - begin
                return rollouts.to(self._device)

            begin = time.perf_counter()
            stages = self._rule.stages(step_scales)
            one_by_one = self._device.type == "cpu"
            adapted = adapt(self._rule, meta, stages, stop - start, collect, each_task=one_by_one)
            seconds = time.perf_counter() - begin
            return adapted, Timing(rollout_seconds, seconds - rollout_seconds)

        parts = self._workers.map(run_shard, range(len(self._shards)))
        timing = Timing(*(float(np.mean([getattr(t, name) for _, t in parts])) for name in ("rollout", "adaptation")))
        return _join([adapted for adapted, _ in parts]), timing


def _join(parts: Sequence[Adapted]) -> Adapted:
    """One inner loop of all shards' tasks; reused rollouts stay one object."""
    joined = Adapted(torch.cat([part.parameters for part in parts]))
    previous: tuple[Rollouts, ...] = ()
    for supports in zip(*(part.supports for part in parts), strict=True):
        same = bool(previous) and supports[0] is previous[0]
        joined.supports.append(joined.supports[-1] if same else Rollouts.concatenate(supports))
        previous = supports
    joined.query = Rollouts.concatenate([part.query for part in parts])
    joined.returns = torch.cat([part.returns for part in parts])
    joined.env_steps = sum(part.env_steps for part in parts)
    sizes = zip(*(part.effective_sample_size for part in parts), strict=True)
    joined.effective_sample_size = [torch.cat(of_shards) for of_shards in sizes]
    return joined
