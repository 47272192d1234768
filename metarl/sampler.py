"""Collects rollouts: some tasks' policies, each in its own environments, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.baseline import linear_baseline
from metarl.policies import Policy
from metarl.returns import gae, standardise
from metarl.spaces import ActionMap
from metarl.types import Rollouts


class Episodes(Protocol):
    """Environments that each run one episode; see `metarl.envs.EpisodeBatch`."""

    num_envs: int

    def reset(self, tasks: np.ndarray, seeds: Sequence[int], observations: np.ndarray) -> None: ...

    def step(
        self,
        actions: np.ndarray,
        observations: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None: ...

    def close(self) -> None: ...


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
        discount: Discount of one step, for baseline and advantages.
        gae_lambda: Generalised advantage estimation's parameter.
        stopped: Asked at every step; true gives up with `Stopped`.
    """

    def __init__(
        self,
        episodes: Episodes,
        policy: Policy,
        action_map: ActionMap,
        num_tasks: int,
        horizon: int,
        discount: float,
        gae_lambda: float,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._episodes, self._policy, self._action_map = episodes, policy, action_map
        self._num_tasks, self._horizon = num_tasks, horizon
        self._rollouts = episodes.num_envs // num_tasks
        self._discount, self._gae_lambda, self._stopped = discount, gae_lambda, stopped

    def close(self) -> None:
        """Closes the environments."""
        self._episodes.close()

    @torch.no_grad()
    def collect(self, parameters: Tensor, tasks: np.ndarray, streams: Sequence[np.random.Generator]) -> Rollouts:
        """One episode of every (task, rollout), with advantages.

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
        extra = policy.extra(parameters)
        actions: list[Tensor] = []

        self._episodes.reset(np.repeat(tasks, rollout, axis=0), seeds.ravel().tolist(), observation_rows[0])
        for t in range(time):
            if self._stopped():
                raise Stopped
            np.logical_not(terminated | truncated, out=alive_rows[t], casting="unsafe")
            outputs[t] = policy.outputs(parameters, observations[t])
            actions.append(distribution.sample(outputs[t], extra, noise[:, :, t]))
            env_actions = self._action_map(actions[-1].flatten(0, 1).numpy())
            self._episodes.step(env_actions, observation_rows[t + 1], reward_rows[t], terminated, truncated)
            if (terminated | truncated).all():
                break

        length = len(actions)
        taken = torch.stack(actions)
        log_probs = distribution.log_prob(_rows(outputs[:length]), extra, _rows(taken))
        return self._assemble(
            observations[:length], taken, log_probs.view(task, rollout, length), rewards[:length], alive[:length]
        )

    def _assemble(
        self, observations: Tensor, actions: Tensor, log_probs: Tensor, rewards: Tensor, alive: Tensor
    ) -> Rollouts:
        """Pads to the horizon, puts time after rollout, and estimates advantages."""
        missing = self._horizon - len(rewards)

        def time_last(values: Tensor) -> Tensor:
            values = torch.cat([values, values.new_zeros(missing, *values.shape[1:])]) if missing else values
            return values.movedim(0, 2).contiguous()

        observations, actions, rewards, mask = (time_last(v) for v in (observations, actions, rewards, alive))
        log_probs = torch.nn.functional.pad(log_probs, (0, missing))
        values = linear_baseline(observations, rewards, mask, self._discount)
        advantages = gae(rewards.double(), values, mask.double(), self._discount, self._gae_lambda)
        advantages = standardise(advantages, mask.double()).float()
        return Rollouts(observations, actions, log_probs, rewards, mask, advantages)


def _rows(values: Tensor) -> Tensor:
    """[time, task, rollout, ...] to [task, rollout and time, ...]."""
    return values.movedim(0, 2).flatten(1, 2)
