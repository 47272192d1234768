"""Collects rollouts: some tasks' policies, each in its own environments, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from metarl.common.profiling import timed
from metarl.data import Rollouts
from metarl.envs.interface import EpisodeBatch
from metarl.policies.action_map import ActionMap
from metarl.policies.base import Policy
from metarl.rollouts.baseline import linear_baseline
from metarl.rollouts.returns import gae, standardise


class Stopped(Exception):
    """Collection was given up because the caller asked to stop."""


class Sampler:
    """Collects rollouts of a fixed number of tasks.

    Args:
        episodes: The environments, one for each (task, rollout), task-major.
        policy: The policy.
        action_map: From the policy's actions to the environment's.
        num_tasks: Number of tasks.
        horizon: Longest episode, steps.
        stopped: Asked at every step; true gives up with `Stopped`.
    """

    def __init__(
        self,
        episodes: EpisodeBatch,
        policy: Policy,
        action_map: ActionMap,
        num_tasks: int,
        horizon: int,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._episodes, self._policy, self._action_map = episodes, policy, action_map
        self._num_tasks, self._horizon = num_tasks, horizon
        self._rollouts = episodes.num_envs // num_tasks
        self._stopped = stopped

    def close(self) -> None:
        """Closes the environments."""
        self._episodes.close()

    @torch.no_grad()
    def collect(self, parameters: Tensor, tasks: np.ndarray, streams: Sequence[np.random.Generator]) -> Rollouts:
        """One episode of every (task, rollout); advantages are still 0, see `with_advantages`.

        Args:
            parameters: Each task's policy, on the CPU, [task, parameter].
            tasks: [task, ...].
            streams: One random generator for each task; rollouts take consecutive segments of it.
        """
        policy, distribution = self._policy, self._policy.distribution
        time, task, rollout, envs = self._horizon, self._num_tasks, self._rollouts, self._episodes.num_envs
        seeds = np.stack([stream.integers(2**31, size=rollout) for stream in streams])
        noise = torch.from_numpy(np.stack([distribution.noise(stream, (rollout, time)) for stream in streams]))
        observations = torch.zeros(time + 1, task, rollout, policy.observation_size)
        rewards, alive = torch.zeros(time, task, rollout), torch.zeros(time, task, rollout)
        outputs = torch.zeros(time, task, rollout, distribution.num_outputs)
        observation_rows = observations.numpy().reshape(time + 1, envs, -1)
        reward_rows, alive_rows = rewards.numpy().reshape(time, envs), alive.numpy().reshape(time, envs)
        terminated, truncated = np.zeros(envs, bool), np.zeros(envs, bool)
        network, extra = policy.network(parameters), policy.extra(parameters)
        actions: list[Tensor] = []

        self._episodes.reset(np.repeat(tasks, rollout, axis=0), seeds.ravel().tolist(), observation_rows[0])
        # Unbound at once, which is cheaper than taking step after step out of the tensors
        steps = zip(observations[:time].unbind(), outputs.unbind(), noise.unbind(2), strict=True)
        for t, (observed, output, drawn) in enumerate(steps):
            if self._stopped():
                raise Stopped
            np.logical_not(terminated | truncated, out=alive_rows[t], casting="unsafe")
            with timed("policy"):
                output.copy_(network(observed))
                actions.append(distribution.sample(output, extra, drawn))
                env_actions = self._action_map(actions[-1].flatten(0, 1).numpy())
            with timed("simulation"):
                self._episodes.step(env_actions, observation_rows[t + 1], reward_rows[t], terminated, truncated)
            if (terminated | truncated).all():
                break

        length = len(actions)
        taken = _time_last(torch.stack(actions), time)
        log_probs = distribution.log_prob(_time_last(outputs, time).flatten(1, 2), extra, taken.flatten(1, 2))
        rewards, mask = _time_last(rewards[:length], time), _time_last(alive[:length], time)
        log_probs = log_probs.view_as(rewards)
        return Rollouts(_time_last(observations[:-1], time), taken, log_probs, rewards, mask, torch.zeros_like(rewards))


def with_advantages(rollouts: Rollouts, discount: float, gae_lambda: float) -> Rollouts:
    """The same rollouts with advantages: linear baseline for each task, GAE, standardised for each task.

    Args:
        rollouts: Rollouts, advantages ignored.
        discount: Discount of one step.
        gae_lambda: Generalised advantage estimation's parameter.
    """
    rewards, mask = rollouts.rewards.double(), rollouts.mask.double()
    values = linear_baseline(rollouts.observations, rewards, mask, discount)
    advantages = standardise(gae(rewards, values, mask, discount, gae_lambda), mask)
    return replace(rollouts, advantages=advantages.to(rollouts.rewards.dtype))


def _time_last(values: Tensor, horizon: int) -> Tensor:
    """[time, task, rollout, ...] to [task, rollout, horizon, ...], padded with zeros."""
    missing = horizon - len(values)
    if missing:
        values = torch.cat([values, values.new_zeros(missing, *values.shape[1:])])
    return values.movedim(0, 2).contiguous()
