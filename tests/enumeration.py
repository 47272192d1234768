"""Tabular decision processes so small that every trajectory can be written down together with its probability."""

import itertools

import numpy as np
import torch
from torch import Tensor

from metarl.data import Rollouts
from metarl.envs.tabular import RandomMDPs
from metarl.policies.base import Policy


class Enumeration:
    """All trajectories of some random decision processes, which pay their mean rewards without noise.

    Args:
        ending: Whether the last state ends an episode; the trajectories are then of unequal length.
        num_tasks: Number of processes.
        horizon: Largest number of steps.

    Attributes:
        rewards: [task, state, action].
        transitions: [task, state, action, next state].
        states: The trajectories, which are the same for all tasks, [rollout, time].
        actions: [rollout, time].
        mask: [rollout, time].
    """

    num_states, num_actions = 3, 2

    def __init__(self, ending: bool = False, num_tasks: int = 1, horizon: int = 3) -> None:
        self.horizon = horizon
        processes = RandomMDPs(self.num_states, self.num_actions)
        drawn = processes.draw(num_tasks, np.random.default_rng(0))
        self.rewards = torch.from_numpy(processes.means(drawn))
        self.transitions = torch.from_numpy(processes.transitions(drawn))
        paths = [
            ((0, *states), actions)
            for states in itertools.product(range(self.num_states), repeat=horizon - 1)
            for actions in itertools.product(range(self.num_actions), repeat=horizon)
        ]
        self.states, self.actions = (torch.tensor(part) for part in zip(*paths, strict=True))
        self.mask = torch.ones(self.states.shape, dtype=torch.float64)
        if ending:
            self._end_in(self.num_states - 1)

    def _end_in(self, last: int) -> None:
        self.rewards[:, last] = 0
        self.transitions[:, last] = torch.eye(self.num_states, dtype=torch.float64)[last]
        over = (self.states == last).cumsum(1) > 0
        # What follows an end is fixed, or a trajectory would be there several times.
        once = (~over | ((self.states == last) & (self.actions == 0))).all(1)
        self.states, self.actions, self.mask = self.states[once], self.actions[once], (~over[once]).double()

    @property
    def observations(self) -> Tensor:
        """Every state once, one-hot, [task, state, state]."""
        return torch.eye(self.num_states, dtype=torch.float64).expand(len(self.rewards), -1, -1)

    def log_policy(self, policy: Policy, parameters: Tensor) -> Tensor:
        """Log-probabilities of the policies [task, parameter], [task, state, action]; differentiable."""
        return policy.outputs(parameters, self.observations).log_softmax(-1)

    def action_values(self, policy: Policy, parameters: Tensor) -> Tensor:
        """Expected reward-to-go of the policies, by dynamic programming, [task, time, state, action]."""
        probabilities = self.log_policy(policy, parameters).exp()
        values = [self.rewards]
        for _ in range(1, self.horizon):
            following = (probabilities * values[0]).sum(-1)
            values.insert(0, self.rewards + torch.einsum("ksan,kn->ksa", self.transitions, following))
        return torch.stack(values, 1)

    def values(self, policy: Policy, parameters: Tensor) -> Tensor:
        """The same as a function of the state, [task, time, state]."""
        return (self.log_policy(policy, parameters).exp()[:, None] * self.action_values(policy, parameters)).sum(-1)

    def expected_return(self, policy: Policy, parameters: Tensor) -> Tensor:
        """Expected return of the policies [task, parameter], [task]; differentiable."""
        return self.values(policy, parameters)[:, 0, 0]

    def visits(self, policy: Policy, parameters: Tensor) -> Tensor:
        """Probability of each state at each time under the policies, [task, time, state]."""
        probabilities = self.log_policy(policy, parameters).exp()
        visits = [torch.eye(self.num_states, dtype=torch.float64)[0].expand(len(self.rewards), -1)]
        for _ in range(1, self.horizon):
            visits.append(torch.einsum("ks,ksa,ksan->kn", visits[-1], probabilities, self.transitions))
        return torch.stack(visits, 1)

    def rollouts(self, policy: Policy, parameters: Tensor, baseline: Tensor | None = None) -> Rollouts:
        """Every trajectory once, as if collected with the policies [task, parameter].

        Means over rollouts and steps give all the same weight. So rewards and advantages hold what makes the means
        expectations: the trajectory's probability times the number of rollouts or, for advantages, of steps.

        Args:
            policy: The policy.
            parameters: [task, parameter].
            baseline: What is taken off the rewards-to-go, [task, time, state]; nothing if None.
        """
        states, actions, time = self.states, self.actions, torch.arange(self.horizon)
        log_probs = self.log_policy(policy, parameters).detach()[:, states, actions]
        moves = self.transitions[:, states[:, :-1], actions[:, :-1], states[:, 1:]]
        probability = (moves.prod(-1) * (log_probs * self.mask).sum(-1).exp())[..., None]
        rewards = self.rewards[:, states, actions]
        advantages = rewards.flip(-1).cumsum(-1).flip(-1)
        if baseline is not None:
            advantages = advantages - baseline[:, time, states]
        return Rollouts(
            observations=self.observations[:, states],
            actions=actions.expand(log_probs.shape),
            log_probs=log_probs,
            rewards=rewards * probability * len(states),
            mask=self.mask.expand(log_probs.shape),
            advantages=advantages * self.mask * probability * self.mask.sum(),
        )
