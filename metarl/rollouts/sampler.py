"""Collects rollouts: the policies of several tasks act side by side, each in its own environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.common.errors import Diverged, Fault
from metarl.common.profiling import timed
from metarl.data import Rollouts
from metarl.envs.interface import Buffers, EpisodeBatch
from metarl.policies.action_map import ActionMap
from metarl.policies.base import Acting
from metarl.policies.normaliser import Normaliser
from metarl.rollouts.baseline import linear_baseline
from metarl.rollouts.returns import above_noise, gae, standardise


class Stopped(Exception):
    """Collection ended early because the caller asked to stop."""


class Sampler:
    """Collects rollouts of a fixed number of tasks.

    Args:
        episodes: The environments, one for each (task, rollout), task-major.
        action_map: Maps the policy's actions to the environment's.
        num_tasks: Number of tasks.
        horizon: Maximum length of an episode, in steps.
        stopped: Called before every step; if it returns true, collection raises `Stopped`.

    Attributes:
        dropped: What was wrong with each episode that the last `collect` left out.
    """

    def __init__(
        self,
        episodes: EpisodeBatch,
        action_map: ActionMap,
        num_tasks: int,
        horizon: int,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._episodes, self._action_map = episodes, action_map
        self.dropped: Sequence[str] = ()
        self._num_tasks, self._horizon = num_tasks, horizon
        self._rollouts = episodes.num_envs // num_tasks
        self._stopped = stopped

    @torch.no_grad()
    def collect(
        self,
        begin: Callable[[Tensor], Acting],
        parameters: Tensor,
        tasks: np.ndarray,
        streams: Sequence[np.random.Generator],
        normaliser: Normaliser | None = None,
        by_mode: bool = False,
    ) -> Rollouts:
        """Collects one episode for every (task, rollout). Advantages are still 0; `with_advantages` computes them.

        Args:
            begin: Begins the episodes of policies [task, parameter].
            parameters: Parameters of each task's policy, on the CPU, [task, parameter].
            tasks: The tasks, [task, ...].
            streams: One random generator per task; the task's rollouts take consecutive segments of it.
            normaliser: Applied to the observations: the policies see, and the rollouts hold, normalised ones.
            by_mode: Take the mode of the action distribution instead of a sample.

        Raises:
            Fault: If a policy gives probabilities that are not finite, or if every episode of a task was dropped.
        """
        time, task, rollout = self._horizon, self._num_tasks, self._rollouts
        buffers = self._episodes.buffers(time)
        observations = torch.from_numpy(buffers.observations)  # Shares memory with the buffer.
        acting = begin(parameters)
        distribution = acting.distribution
        seeds = np.stack([stream.integers(2**31, size=rollout) for stream in streams])
        noise = torch.from_numpy(np.stack([distribution.noise(stream, (rollout, time)) for stream in streams]))
        acting.draw(streams)
        outputs = torch.zeros(time, task, rollout, distribution.num_outputs)
        normalise = normaliser.to(observations) if normaliser else _unchanged
        actions: list[Tensor] = []

        self._episodes.reset(np.repeat(tasks, rollout, axis=0), seeds.ravel().tolist(), buffers.observations[0])
        ended = buffers.terminated | buffers.truncated
        # One `unbind` is cheaper than indexing the tensors at every step.
        inputs = observations[:time].unflatten(1, (task, rollout)).unbind()
        for t, (observation, output, z) in enumerate(zip(inputs, outputs.unbind(), noise.unbind(2), strict=True)):
            if self._stopped():
                raise Stopped
            buffers.alive[t] = ~ended
            with timed("policy"):
                output.copy_(acting.outputs(normalise(observation)))
                chosen = distribution.mode(output) if by_mode else distribution.sample(output, acting.extra, z)
                actions.append(chosen)
                env_actions = self._action_map(actions[-1].flatten(0, 1).numpy(force=True))
            with timed("simulation"):
                self._episodes.step(
                    env_actions, buffers.observations[t + 1], buffers.rewards[t], buffers.terminated, buffers.truncated
                )
            acting.receive(actions[-1], buffers.rewards[t])
            for name, values in self._episodes.terms.items():
                buffers.terms[name][t] = values
            ended = buffers.terminated | buffers.truncated
            if ended.all():
                break

        self._leave_out(buffers)

        def of_tasks(values: Any) -> Tensor:
            return _time_last(torch.as_tensor(values).unflatten(1, (task, rollout)))

        all_actions = _time_last(_padded(torch.stack(actions), time))
        log_probs = distribution.log_prob(_time_last(outputs).flatten(1, 2), acting.extra, all_actions.flatten(1, 2))
        if not torch.isfinite(log_probs).all():
            raise Diverged("the policy's probabilities are not finite")
        rewards = of_tasks(buffers.rewards)
        return Rollouts(
            observations=normalise(of_tasks(observations[:-1])),
            actions=all_actions,
            log_probs=log_probs.view_as(rewards),
            rewards=rewards,
            mask=of_tasks(buffers.alive),
            advantages=torch.zeros_like(rewards),
            last_observations=normalise(observations[-1].unflatten(0, (task, rollout)).clone()),
            terms={name: of_tasks(values) for name, values in buffers.terms.items()},
            truncated=torch.as_tensor(buffers.truncated & ~buffers.terminated).view(task, rollout),
        )

    def _leave_out(self, buffers: Buffers) -> None:
        """Masks the episodes that the batch has dropped."""
        slots = list(self._episodes.dropped)
        self.dropped = list(self._episodes.dropped.values())
        for values in (buffers.alive, buffers.rewards, *buffers.terms.values()):
            values[:, slots] = 0
        left = self._rollouts - np.bincount(np.array(slots, int) // self._rollouts, minlength=self._num_tasks)
        if not left.all():
            raise Fault(
                f"all episodes of a task were dropped; in one of them {self.dropped[0]}. Mend the environment, or "
                "raise rollouts_per_task."
            )


def with_advantages(rollouts: Rollouts, discount: float, gae_lambda: float) -> Rollouts:
    """Returns the same rollouts with advantages: linear baseline, GAE, standardisation; each task separately.

    Advantages of a task that are not `above_noise` become 0.

    Args:
        rollouts: Rollouts, whose advantages are ignored.
        discount: Discount of one step.
        gae_lambda: Lambda of generalised advantage estimation.
    """
    rewards, mask = rollouts.rewards.double(), rollouts.mask.double()
    values, returns = linear_baseline(rollouts.observations, rewards, mask, discount, rollouts.truncated)
    advantages = gae(rewards, values, mask, discount, gae_lambda)
    advantages = standardise(advantages, mask) * above_noise(advantages, returns, rewards, mask)[:, None, None]
    return replace(rollouts, advantages=advantages.to(rollouts.rewards.dtype))


def _unchanged(observations: Tensor) -> Tensor:
    return observations


def _time_last(values: Tensor) -> Tensor:
    """[time, task, rollout, ...] to [task, rollout, time, ...]."""
    return values.movedim(0, 2).contiguous()


def _padded(values: Tensor, horizon: int) -> Tensor:
    """[time, ...] to [horizon, ...], padded with zeros."""
    missing = horizon - len(values)
    return torch.cat([values, values.new_zeros(missing, *values.shape[1:])]) if missing else values
