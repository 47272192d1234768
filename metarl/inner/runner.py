"""Runs the inner loop of many tasks in shards; training, validation and evaluation all use it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.common.errors import Fault
from metarl.common.parallel import Workers
from metarl.common.profiling import timed
from metarl.common.streams import Purpose, stream
from metarl.config.resolved import Settings
from metarl.config.settings import RolloutSettings
from metarl.data import Rollouts
from metarl.envs import Family, SupervisedFamily, TaskFamily, require_environments
from metarl.envs.checked import CheckedEpisodes, Watch, checked_episodes
from metarl.inner.loop import Adapted, Timing, adapt
from metarl.inner.rule import UNKNOWN_MODE, Adaptation, Stage
from metarl.inner.supervised import SupervisedRunner
from metarl.inner.support import PolicyGradientSupport
from metarl.policies.action_map import ActionMap
from metarl.policies.losses import InnerLoss
from metarl.rollouts.sampler import Sampler, with_advantages

# Share of the episodes of an inner loop that may be dropped.
MOST_DROPPED = 0.1


class Runner:
    """Runs inner loops for a fixed number of tasks; a shard owns some of the tasks, their environments and a thread.

    Args:
        family: The task family.
        rule: The adaptation rule.
        num_tasks: Tasks in each inner loop.
        settings: Rollout settings; ``rollouts_per_task`` applies to stages that do not ask for another number.
        inner_loss: Inner loss, see `metarl.policies.losses.inner_loss`.
        workers: Threads; simulation checks at every environment step whether they are stopping.
        device: Where adaptation computes; simulation is on the CPU.
    """

    def __init__(
        self,
        family: TaskFamily,
        rule: Adaptation,
        num_tasks: int,
        settings: RolloutSettings,
        inner_loss: InnerLoss,
        workers: Workers,
        device: torch.device,
    ) -> None:
        self._settings, self._inner_loss, self._family, self._rule = settings, inner_loss, family, rule
        self._workers, self._device = workers, device
        self._num_tasks, rollouts_per_task = num_tasks, settings.rollouts_per_task
        self._episodes: list[CheckedEpisodes] = []
        most_shards = num_tasks * rollouts_per_task // family.min_envs_per_shard
        # The last bits of an agent with memory do not depend on how many tasks are computed together, from four on.
        most_shards = min(most_shards, num_tasks // 4) if rule.remembers else most_shards
        num_shards = max(1, min(workers.num_threads, num_tasks, most_shards))
        bounds = np.linspace(0, num_tasks, num_shards + 1).astype(int).tolist()
        self._shards = list(itertools.pairwise(bounds))
        # One sampler per number of episodes. Build the default one now, so that errors surface early.
        self._samplers = [{rollouts_per_task: self._sampler(*shard, rollouts_per_task)} for shard in self._shards]

    def close(self) -> None:
        """Closes the environments; not if one of them still hangs in a thread."""
        if not self._workers.abandoned:
            for episodes in self._episodes:
                episodes.close()

    def run(
        self, meta: Tensor, tasks: np.ndarray, stages: Sequence[Stage], seed: int, purpose: Purpose, *key: int
    ) -> tuple[Adapted, Timing]:
        """Runs the inner loop for each task.

        Args:
            meta: Meta-parameters, [meta parameter].
            tasks: [task, ...].
            stages: The inner loop, from the rule's ``stages``.
            seed: Seed of the random streams.
            purpose: Purpose of the random streams.
            key: Rest of their key, such as the iteration.

        Raises:
            ValueError: If the number of tasks differs from the runner's.
            Fault: If an environment does not return in time, or if too many of its episodes are bad.
        """
        if len(tasks) != self._num_tasks:
            raise ValueError(f"tasks must hold {self._num_tasks} tasks, got {len(tasks)}")
        # A family with one mode does not say which of a rule's modes applies, if the rule was trained with several.
        unknown = np.full(len(tasks), UNKNOWN_MODE)
        modes = torch.from_numpy(self._family.modes(tasks) if self._family.num_modes > 1 else unknown)
        normaliser, begin = self._rule.normaliser(meta), partial(self._rule.begin, meta)

        def run_shard(index: int) -> tuple[Adapted, Timing]:
            start, stop = self._shards[index]
            rollout_seconds, dropped = 0.0, list[str]()

            def collect(parameters: Tensor, phase: int, rollouts_per_task: int | None) -> Rollouts:
                nonlocal rollout_seconds
                started = time.perf_counter()
                with timed("rollouts"):
                    streams = [stream(seed, purpose, *key, phase, task) for task in range(start, stop)]
                    sampler = self._sampler_of(index, rollouts_per_task or self._settings.rollouts_per_task)
                    rollouts = sampler.collect(begin, parameters.cpu(), tasks[start:stop], streams, normaliser)
                    dropped.extend(sampler.dropped)
                    if not self._rule.remembers:  # A critic gives an agent with memory its advantages.
                        with timed("advantages"):
                            rollouts = with_advantages(rollouts, self._settings.discount, self._settings.gae_lambda)
                rollout_seconds += time.perf_counter() - started
                return rollouts.to(self._device)

            started = time.perf_counter()
            one_by_one, loss = self._device.type == "cpu" and not self._rule.remembers, self._inner_loss
            adapted = adapt(self._rule, meta, stages, modes[start:stop], collect, loss, each_task=one_by_one)
            seconds = time.perf_counter() - started
            return replace(adapted, dropped=dropped), Timing(rollout_seconds, seconds - rollout_seconds)

        parts = self._workers.map(run_shard, range(len(self._shards)), *self._watch())
        timing = Timing(*(float(np.mean([getattr(t, name) for _, t in parts])) for name in ("rollout", "adaptation")))
        joined = _join([adapted for adapted, _ in parts])
        _check_dropped(joined)
        if self._rule.sees_tasks:
            identities = torch.from_numpy(self._family.flat_tasks(tasks)).to(meta)
            joined.loop = replace(joined.loop, identities=identities)
        return joined, timing

    def _watch(self) -> tuple[Callable[[], None], float] | tuple[()]:
        """What to call again and again while environments are stepped, and the seconds between the calls, if any."""
        if not self._settings.step_timeout:
            return ()
        watch = Watch(self._settings.step_timeout)
        return lambda: watch.check(self._episodes), watch.interval

    def _sampler_of(self, index: int, rollouts_per_task: int) -> Sampler:
        """A shard's sampler for this number of episodes per task; built at its first use."""
        samplers = self._samplers[index]
        if rollouts_per_task not in samplers:
            samplers[rollouts_per_task] = self._sampler(*self._shards[index], rollouts_per_task)
        return samplers[rollouts_per_task]

    def _sampler(self, start: int, stop: int, rollouts_per_task: int) -> Sampler:
        num_tasks, settings = stop - start, self._settings
        num_envs, on_bad_episode = num_tasks * rollouts_per_task, settings.on_bad_episode
        episodes = checked_episodes(self._family, num_envs, settings.horizon, rollouts_per_task, on_bad_episode)
        self._episodes.append(episodes)
        action_map = ActionMap(self._family.action_space, settings.action_scale)
        stopped = self._workers.stopping.is_set
        return Sampler(episodes, action_map, num_tasks, settings.horizon, stopped)


def make_runner(
    family: Family, rule: Adaptation, num_tasks: int, settings: Settings, workers: Workers, device: torch.device
) -> Runner | SupervisedRunner:
    """The runner for a family: of environments, or of supervised tasks.

    Args:
        family: The task family.
        rule: The adaptation rule.
        num_tasks: Tasks in each inner loop.
        settings: The run's settings.
        workers: Threads.
        device: Where adaptation computes.
    """
    if isinstance(family, SupervisedFamily) and settings.examples is not None:
        return SupervisedRunner(family, rule, settings.examples, device)
    in_environments = require_environments(family, "reinforcement learning")
    return Runner(in_environments, rule, num_tasks, settings.rollouts, settings.inner.inner_loss, workers, device)


def _join(parts: Sequence[Adapted]) -> Adapted:
    """Joins the inner loops of all shards; reused rollouts stay one object."""
    loops, supports = [part.loop for part in parts], list[Any]()
    for stage, of_shards in zip(loops[0].stages, zip(*(loop.supports for loop in loops), strict=True), strict=True):
        supports.append(supports[-1] if stage.rollouts == 0 else PolicyGradientSupport.concatenate(of_shards))
    queries = [Rollouts.concatenate(of_shards) for of_shards in zip(*(loop.queries for loop in loops), strict=True)]
    modes = torch.cat([loop.modes for loop in loops])
    modulated = [part.modulated_returns for part in parts if part.modulated_returns is not None]
    sizes = zip(*(part.effective_sample_size for part in parts), strict=True)
    return Adapted(
        replace(loops[0], modes=modes, supports=supports, queries=queries),
        torch.cat([part.parameters for part in parts]),
        torch.cat([part.returns for part in parts]),
        torch.cat(modulated) if modulated else None,
        sum(part.env_steps for part in parts),
        [torch.cat(of_shards) for of_shards in sizes],
        [told for part in parts for told in part.dropped],
    )


def _check_dropped(adapted: Adapted) -> None:
    """Raises Fault if too many episodes were dropped."""
    loop = adapted.loop
    rollouts = [support.data for stage, support in zip(loop.stages, loop.supports, strict=True) if stage.rollouts != 0]
    episodes = sum(batch.num_tasks * batch.num_parts for batch in (*rollouts, *loop.queries))
    if len(adapted.dropped) > MOST_DROPPED * episodes:
        raise Fault(
            f"{len(adapted.dropped)} of {episodes} episodes had to be dropped, more than {MOST_DROPPED:.0%}; mend the "
            f"environment. In one of them {adapted.dropped[0]}."
        )
