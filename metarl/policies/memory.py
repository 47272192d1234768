"""Policies that remember: all tasks share the network's weights, and a task's parameters are its memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from metarl.policies.base import Policy
from metarl.policies.distributions import Distribution
from metarl.policies.layout import Layout
from metarl.policies.normaliser import Normaliser


@dataclass(frozen=True)
class Trials:
    """The episodes of several tasks, one after the other: what an agent with memory lives through.

    The steps that took place come first, then padding.

    Attributes:
        observations: [task, step, observation].
        actions: As the distribution samples them, [task, step, ...].
        rewards: [task, step].
        first: 1 at the first step of an episode, [task, step].
        elapsed: Share of the episode and of the trial, by their longest possible lengths, that lies behind each step,
            [task, step, 2].
        mask: 1 for steps that took place, [task, step].
        next_observations: Observation after each step, [task, step, observation]; None if not known.
        states: The recurrent layer's states, if learning leaves them as they are, [task, step, unit].
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    first: Tensor
    elapsed: Tensor
    mask: Tensor
    next_observations: Tensor | None = None
    states: Tensor | None = None

    def tasks(self, rows: Tensor) -> Trials:
        """The trials of the tasks with these indices."""
        return self._each(lambda values: values[rows])

    def living(self) -> Trials:
        """The same trials, with the steps that took place moved before the others, of which as few as possible stay."""
        order = self.mask.byte().argsort(dim=1, descending=True, stable=True)[:, : int(self.mask.sum(1).max())]
        task = torch.arange(len(order), device=order.device)[:, None]
        return self._each(lambda values: values[task, order])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Trials:
        parts: dict[str, Tensor | None] = {part.name: getattr(self, part.name) for part in fields(self)}
        return replace(self, **{name: change(values) for name, values in parts.items() if values is not None})


Network = list[Tensor]


class MemoryPolicy(Policy, ABC):
    """A policy whose weights all tasks share: what it knows of a task is in its memory.

    The memory of a task is one vector, all zeros before the first episode. It is carried from one episode to the next.

    Args:
        observation_size: Length of an observation.
        distribution: The action distribution.
        memory: Name and shape of each part of the memory.
        weights: Name and shape of each of the network's tensors.

    Attributes:
        layout: Position of each part of the memory.
        weights: Position of each of the network's tensors.
        num_draws: Normal numbers that an episode begins with, see `started`.
    """

    num_draws = 0

    def __init__(
        self,
        observation_size: int,
        distribution: Distribution,
        memory: Sequence[tuple[str, tuple[int, ...]]],
        weights: Sequence[tuple[str, tuple[int, ...]]],
    ) -> None:
        super().__init__(observation_size, distribution, Layout(memory))
        self.weights = Layout(weights)

    @abstractmethod
    def initial(self, generator: np.random.Generator) -> Tensor:
        """Fresh weights, float32 [weight]."""

    def network(self, weights: Tensor) -> Network:
        """The network's tensors, views of ``weights`` [weight]."""
        return self.weights.views(weights)

    def extra(self, network: Network) -> Tensor:
        """State-independent parameters of the action distribution, [1, extra]; by default none."""
        return network[0].new_zeros(1, 0)

    def started(self, memory: Tensor, draws: Tensor) -> Tensor:
        """The memory at the start of an episode; by default unchanged.

        Args:
            memory: [row, memory].
            draws: Standard normal numbers, [row, num_draws].
        """
        return memory

    @abstractmethod
    def act(self, network: Network, memory: Tensor, observations: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            network: The network.
            memory: [row, memory].
            observations: [row, observation].
            first: 1 where an episode begins, [row].

        Returns:
            The outputs [row, output], and the new memory, which does not know the action's reward yet.
        """

    @abstractmethod
    def received(
        self, network: Network, rewards: Normaliser, memory: Tensor, actions: Tensor, received: Tensor
    ) -> Tensor:
        """The memory after an action and its reward.

        Args:
            network: The network.
            rewards: Normalises the rewards.
            memory: [row, memory].
            actions: [row, ...].
            received: [row].
        """

    @abstractmethod
    def read(self, network: Network, rewards: Normaliser, memory: Tensor, trials: Trials) -> Tensor:
        """The memory after ``trials``, [task, memory]; arguments as of `states`."""

    @abstractmethod
    def states(self, network: Network, rewards: Normaliser, memory: Tensor, trials: Trials) -> Tensor:
        """What the memory makes of the task at each step, [task, step, number]; padding holds anything.

        Args:
            network: The network.
            rewards: Normalises the rewards.
            memory: The memory before the trials, [task, memory].
            trials: What happened.
        """


class Remembering:
    """Tasks in the course of their episodes, each with its memory.

    Args:
        policy: The policy.
        network: Its network.
        rewards: Normalises the rewards.
        memory: The memory before the episodes, [task, memory].

    Attributes:
        distribution: The action distribution.
        extra: [task, extra].
    """

    def __init__(self, policy: MemoryPolicy, network: Network, rewards: Normaliser, memory: Tensor) -> None:
        self._policy, self._network, self._rewards, self._memory = policy, network, rewards, memory
        self.distribution, self.extra = policy.distribution, policy.extra(network).expand(len(memory), -1)
        self._first: Tensor | None = None

    def draw(self, streams: Sequence[np.random.Generator]) -> None:
        """Draws what an episode begins with."""
        draws = np.stack([stream.standard_normal(self._policy.num_draws, np.float32) for stream in streams])
        self._memory = self._policy.started(self._memory, torch.from_numpy(draws).to(self._memory))

    def outputs(self, observations: Tensor) -> Tensor:
        rows = observations.flatten(0, 1)
        if self._first is None:
            self._memory = self._memory.repeat_interleave(observations.shape[1], dim=0)
            self._first = rows.new_ones(len(rows))
        outputs, self._memory = self._policy.act(self._network, self._memory, rows, self._first)
        self._first = torch.zeros_like(self._first)
        return outputs.unflatten(0, observations.shape[:2])

    def receive(self, actions: Tensor, rewards: np.ndarray) -> None:
        """Remembers them until the next step."""
        received = torch.as_tensor(rewards).to(self._memory)
        taken = actions.flatten(0, 1)
        self._memory = self._policy.received(self._network, self._rewards, self._memory, taken, received)
