"""Runs the inner loop of many tasks in shards; training, validation and evaluation all use it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.common.errors import Fault, UserError
from metarl.common.parallel import Workers
from metarl.common.profiling import timed
from metarl.common.streams import Purpose, stream
from metarl.config.resolved import Settings
from metarl.config.settings import RolloutSettings
from metarl.data import Rollouts
from metarl.envs import Family, SupervisedFamily, TaskFamily, require_environments
from metarl.envs.checked import CheckedEpisodes, checked_episodes, watching
from metarl.inner.loop import Adapted, Measured, Timing, adapt
from metarl.inner.rule import Adaptation, Stage, needs_every_episode
from metarl.inner.side_by_side import SideBySide
from metarl.inner.supervised import SupervisedRunner, modes_of
from metarl.inner.support import PolicyGradientSupport
from metarl.policies.action_map import ActionMap
from metarl.policies.losses import InnerLoss
from metarl.rollouts.sampler import Sampler, with_advantages

# Share of the episodes of an inner loop that may be dropped.
MOST_DROPPED = 0.1


class Runner:
    """Runs inner loops for a fixed number of tasks; a shard owns some of the tasks, their environments and a thread.

    A shard goes through its tasks in rounds, if there are not environments for all of them at once. Processes share the
    tasks in the same way. Shards of a family that does not know whether threads pay may run one after another, see
    `SideBySide`. The results do not depend on any of this.

    Args:
        family: The task family.
        rule: The adaptation rule.
        num_tasks: Tasks in each inner loop, of all processes together; at least one for each.
        settings: Rollout settings; ``rollouts_per_task`` applies to stages that do not ask for another number.
        inner_loss: Inner loss, see `metarl.policies.losses.inner_loss`.
        workers: Threads; simulation checks at every environment step whether they are stopping.
        device: Where adaptation computes; simulation is on the CPU.
        max_envs: Most environments of this process that exist at once for the usual number of episodes; 0 for all.

    Raises:
        UserError: If one task needs more environments than that.
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
        max_envs: int = 0,
    ) -> None:
        self._settings, self._inner_loss, self._family, self._rule = settings, inner_loss, family, rule
        self._workers, self._device = workers, device
        self._num_tasks, rollouts_per_task = num_tasks, settings.rollouts_per_task
        family.check_metrics()
        self._episodes: list[CheckedEpisodes] = []
        self._own = own = workers.group.share(num_tasks)
        num_own = own.stop - own.start
        if not num_own:
            raise UserError(
                f"{workers.group.size} processes share {num_tasks} tasks, so that some have none; start fewer of them, "
                "or raise meta_batch_size."
            )
        most_shards = num_own
        if family.min_envs_per_shard is not None:
            most_shards = num_own * rollouts_per_task // family.min_envs_per_shard
        # The last bits of an agent with memory do not depend on how many tasks are computed together, from four on.
        most_shards = min(most_shards, num_own // 4) if rule.remembers else most_shards
        num_shards = max(1, min(workers.num_threads, num_own, most_shards))
        if max_envs:
            if max_envs < rollouts_per_task:
                raise UserError(
                    f"envs_per_process must be at least {rollouts_per_task}, the environments of one task "
                    f"(rollouts_per_task), got {max_envs}."
                )
            num_shards = min(num_shards, max_envs // rollouts_per_task)
        bounds = np.linspace(own.start, own.stop, num_shards + 1).astype(int)
        most_tasks = max_envs // (num_shards * rollouts_per_task) if max_envs else num_own
        self._shards = [_rounds(*shard, most_tasks) for shard in itertools.pairwise(bounds.tolist())]
        measures = family.min_envs_per_shard is None and num_shards > 1
        self._side_by_side = SideBySide(workers.clock) if measures else None
        # One sampler for each number of tasks and episodes. Build the usual ones now, so that errors surface early.
        self._samplers: list[dict[tuple[int, int], Sampler]] = [{} for _ in self._shards]
        for index, rounds in enumerate(self._shards):
            for start, stop in rounds:
                self._sampler_of(index, stop - start, rollouts_per_task)

    def close(self) -> None:
        """Closes the environments; not if one of them still hangs in a thread."""
        if not self._workers.abandoned:
            for episodes in self._episodes:
                episodes.close()

    def run(
        self, meta: Tensor, tasks: np.ndarray, stages: Sequence[Stage], seed: int, purpose: Purpose, *key: int
    ) -> tuple[Adapted, Timing]:
        """Runs the inner loop for each of this process's tasks.

        Args:
            meta: Meta-parameters, [meta parameter].
            tasks: The tasks of all processes, [task, ...].
            stages: The inner loop, from the rule's ``stages``.
            seed: Seed of the random streams.
            purpose: Purpose of the random streams.
            key: Rest of their key, such as the iteration.

        Raises:
            ValueError: If the number of tasks differs from the runner's.
            Fault: If an environment does not return in time.
        """
        if len(tasks) != self._num_tasks:
            raise ValueError(f"tasks must hold {self._num_tasks} tasks, got {len(tasks)}")
        modes = modes_of(self._family, tasks)
        normaliser, begin = self._rule.normaliser(meta), partial(self._rule.begin, meta)
        by_mode = self._rule.policy.acts_by_mode and purpose is not Purpose.TRAIN_ROLLOUTS

        def run_round(index: int, start: int, stop: int) -> tuple[Adapted, Timing]:
            rollout_seconds, dropped, num_episodes = 0.0, list[str](), 0

            def collect(parameters: Tensor, phase: int, rollouts_per_task: int | None) -> Rollouts:
                nonlocal rollout_seconds, num_episodes
                parameters = parameters.cpu()  # Waits for a GPU's adaptation, which is no time of rollouts.
                started = time.perf_counter()
                with timed("rollouts"):
                    streams = [stream(seed, purpose, *key, phase, task) for task in range(start, stop)]
                    episodes = rollouts_per_task or self._settings.rollouts_per_task
                    sampler = self._sampler_of(index, stop - start, episodes)
                    rollouts = sampler.collect(begin, parameters, tasks[start:stop], streams, normaliser, by_mode)
                    dropped.extend(sampler.dropped)
                    num_episodes += (stop - start) * episodes
                    if not self._rule.remembers:  # A critic gives an agent with memory its advantages.
                        with timed("advantages"):
                            rollouts = with_advantages(rollouts, self._settings.discount, self._settings.gae_lambda)
                rollout_seconds += time.perf_counter() - started
                return rollouts.to(self._device)

            started = time.perf_counter()
            one_by_one, loss = self._device.type == "cpu" and not self._rule.remembers, self._inner_loss
            metrics = self._family.metrics
            adapted = adapt(self._rule, meta, stages, modes[start:stop], collect, loss, one_by_one, metrics)
            seconds = time.perf_counter() - started
            timing = Timing(rollout_seconds, seconds - rollout_seconds)
            return replace(adapted, dropped=dropped, num_episodes=num_episodes), timing

        def run_shards(indices: Iterable[int]) -> list[tuple[Adapted, Timing]]:
            return [run_round(index, *tasks) for index in indices for tasks in self._shards[index]]

        parts, num_threads = self._in_threads(run_shards)
        timing = Timing(*(sum(getattr(t, name) for _, t in parts) / num_threads for name in ("rollout", "adaptation")))
        joined = _join([adapted for adapted, _ in parts])
        if self._rule.sees_tasks:
            identities = torch.from_numpy(self._family.flat_tasks(tasks[self._own])).to(meta)
            joined.loop = replace(joined.loop, identities=identities)
        return joined, timing

    def _in_threads(
        self, run_shards: Callable[[Iterable[int]], list[tuple[Adapted, Timing]]]
    ) -> tuple[list[tuple[Adapted, Timing]], int]:
        """Runs all shards; returns what they return, in their order, and the number of threads."""
        measured, every = self._side_by_side, range(len(self._shards))
        threads = [[index] for index in every] if measured is None or measured.in_threads else [every]
        parts = list[tuple[Adapted, Timing]]()

        def work() -> int:
            for of_thread in self._workers.map(
                run_shards, threads, *watching(self._episodes, self._settings.step_timeout)
            ):
                parts.extend(of_thread)
            return sum(adapted.env_steps for adapted, _ in parts)

        if measured is None:
            work()
        elif measured.run(work):
            decision = "so threads are used" if measured.in_threads else "so one thread is used"
            self._workers.findings.append(
                f"{self._num_tasks} tasks of {self._family.name} run {measured.speed_up:.2f} times as fast in "
                f"{len(self._shards)} threads as in one, {decision}"
            )
        return parts, len(threads)

    def _sampler_of(self, index: int, num_tasks: int, rollouts_per_task: int) -> Sampler:
        """A shard's sampler for this number of tasks and of episodes per task; built at its first use."""
        samplers, size = self._samplers[index], (num_tasks, rollouts_per_task)
        if size not in samplers:
            samplers[size] = self._sampler(*size)
        return samplers[size]

    def _sampler(self, num_tasks: int, rollouts_per_task: int) -> Sampler:
        settings = self._settings
        num_envs = num_tasks * rollouts_per_task
        on_bad_episode = None if needs_every_episode(self._rule.stages((1.0,))) else settings.on_bad_episode
        episodes = checked_episodes(self._family, num_envs, settings.horizon, rollouts_per_task, on_bad_episode)
        self._episodes.append(episodes)
        action_map = ActionMap(self._family.action_space, settings.action_scale)
        stopped = self._workers.stopping.is_set
        return Sampler(episodes, action_map, num_tasks, settings.horizon, stopped)


def _rounds(start: int, stop: int, most: int) -> list[tuple[int, int]]:
    """Divides tasks ``start`` to ``stop`` into the fewest rounds, as equal as can be.

    Rounds of one size share their environments. There may be two sizes; ``most`` is the most tasks of both together.
    """
    number = stop - start

    def tasks_at_once(rounds: int) -> int:
        smaller, larger_rounds = divmod(number, rounds)
        return 2 * smaller + 1 if larger_rounds else smaller

    fewest = next(rounds for rounds in range(1, number + 1) if tasks_at_once(rounds) <= most)
    bounds = np.linspace(start, stop, fewest + 1).astype(int).tolist()
    return list(itertools.pairwise(bounds))


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
    return Runner(
        in_environments,
        rule,
        num_tasks,
        settings.rollouts,
        settings.inner.inner_loss,
        workers,
        device,
        settings.run.envs_per_process,
    )


def _join(parts: Sequence[Adapted]) -> Adapted:
    """Joins the inner loops of all shards; reused rollouts stay one object."""
    loops, supports = [part.loop for part in parts], list[Any]()
    for stage, of_shards in zip(loops[0].stages, zip(*(loop.supports for loop in loops), strict=True), strict=True):
        supports.append(supports[-1] if stage.rollouts == 0 else PolicyGradientSupport.concatenate(of_shards))
    queries = [Rollouts.concatenate(of_shards) for of_shards in zip(*(loop.queries for loop in loops), strict=True)]
    modes = torch.cat([loop.modes for loop in loops])
    return Adapted(
        **vars(Measured.joined(parts)),
        loop=replace(loops[0], modes=modes, supports=supports, queries=queries),
        parameters=torch.cat([part.parameters for part in parts]),
    )


def check_dropped(measured: Measured) -> None:
    """Raises Fault if too many episodes were dropped."""
    dropped, episodes = measured.dropped, measured.num_episodes
    if len(dropped) > MOST_DROPPED * episodes:
        raise Fault(
            f"{len(dropped)} of {episodes} episodes had to be dropped, more than {MOST_DROPPED:.0%}; mend the "
            f"environment. In one of them {dropped[0]}."
        )
