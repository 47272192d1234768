"""Policies that remember: a recurrent network whose weights all tasks share; a task's parameters are its memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from metarl.config.algorithms import MemoryConfig
from metarl.config.settings import PolicySettings
from metarl.policies.base import Policy
from metarl.policies.distributions import Distribution
from metarl.policies.layout import Layout
from metarl.policies.normaliser import Normaliser
from metarl.policies.perceptron import Perceptron

# Blocks of rows in a recurrent layer's weights: one for each gate, and one for the new content.
_BLOCKS: dict[str, int] = {"gru": 3, "lstm": 4}


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
        following: Observation after each step, [task, step, observation]; None if not known.
        states: The recurrent layer's states, if learning leaves them as they are, [task, step, unit].
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    first: Tensor
    elapsed: Tensor
    mask: Tensor
    following: Tensor | None = None
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


class MemoryPolicy(Policy):
    """A recurrent layer reads observation, last action, last reward, and whether an episode begins.

    The action distribution's parameters are a function of the layer's state and the observation; so is the value, which
    also sees the time. Each of these functions is a multilayer perceptron.

    The memory of a task is the state, the last action and the last (normalised) reward. It is carried from one episode
    to the next, so that the first step of an episode also tells how the one before it ended.

    Args:
        observation_size: Length of an observation.
        distribution: The action distribution.
        options: The recurrent layer.
        network: The layers between state and outputs, and between state and value, and the exploration.
        summary: Maps the state to what the policy and the critic see of it; None if they see the state itself.

    Attributes:
        options: As given.
        layout: Position of each part of the memory.
        weights: Position of each of the network's tensors in the flat vector of weights.

    Source: Duan et al. 2016, section 2.2.
    """

    def __init__(
        self,
        observation_size: int,
        distribution: Distribution,
        options: MemoryConfig,
        network: PolicySettings,
        summary: Perceptron | None = None,
    ) -> None:
        units, cell, hidden_sizes = options.units, options.cell, network.hidden_sizes
        actions = distribution.num_outputs  # An action is as long as the outputs, see `Distribution.features`.
        states = ["state"] if cell == "gru" else ["state", "cell"]
        memory = [*((name, (units,)) for name in states), ("last_action", (actions,)), ("last_reward", (1,))]
        super().__init__(observation_size, distribution, Layout(memory))
        self.options = options
        self._num_states = len(states)
        self._initial_log_std, self._min_log_std = math.log(network.initial_std), math.log(network.min_std)
        rows, inputs = _BLOCKS[cell] * units, observation_size + actions + 2
        shapes: list[tuple[str, tuple[int, ...]]] = [
            ("input_weight", (rows, inputs)), ("memory_weight", (rows, units)),
            ("input_bias", (rows,)), ("memory_bias", (rows,)),
        ]  # fmt: skip
        self._num_recurrent = len(shapes)
        self._summary = summary
        if summary is not None:
            shapes += summary.shapes
        self._num_memory = len(shapes)
        seen = observation_size + (units if summary is None else summary.num_outputs)
        activation, gain = network.activation, network.output_gain
        self._policy = Perceptron("policy", [seen, *hidden_sizes, actions], activation, gain)
        self._value = Perceptron("value", [seen + 2, *hidden_sizes, 1], activation, gain)
        self._num_policy = self._num_memory + len(self._policy.shapes)
        self._num_network = self._num_policy + len(self._value.shapes)
        shapes += [*self._policy.shapes, *self._value.shapes]
        if distribution.num_extra:
            shapes.append(("log_std", (distribution.num_extra,)))
        self.weights = Layout(shapes)

    def initial(self, generator: np.random.Generator) -> Tensor:
        """Fresh weights, float32 [weight]: those of the recurrent layer as PyTorch's, the others Glorot-uniform."""
        limit = 1 / math.sqrt(self.options.units)
        parts = [generator.uniform(-limit, limit, shape) for shape in self.weights.shapes[: self._num_recurrent]]
        for perceptron in (self._summary, self._policy, self._value):
            parts += perceptron.initial(generator) if perceptron else []
        parts.append(np.full(self.distribution.num_extra, self._initial_log_std))
        return torch.from_numpy(np.concatenate([part.ravel() for part in parts]).astype(np.float32))

    def network(self, weights: Tensor) -> Network:
        """The network's tensors, views of ``weights`` [weight]."""
        return [view[0] for view in self.weights.views(weights[None])]

    def act(self, network: Network, memory: Tensor, observations: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            network: The network.
            memory: [row, memory].
            observations: [row, observation].
            first: 1 where an episode begins, [row].

        Returns:
            The outputs [row, output], and the new memory, which still holds the previous action and reward.
        """
        states, last = self._split(memory)
        inputs, recurrent = torch.cat([observations, last, first[:, None]], dim=1), network[: self._num_recurrent]
        if self.options.cell == "gru":
            states = [torch.gru_cell(inputs, states[0], *recurrent)]
        else:
            states = list(torch.lstm_cell(inputs, states, *recurrent))
        return self.outputs(network, states[0], observations), torch.cat([*states, last], dim=1)

    def received(self, rewards: Normaliser, memory: Tensor, actions: Tensor, received: Tensor) -> Tensor:
        """The memory after an action and its reward.

        Args:
            rewards: Normalises the rewards.
            memory: [row, memory].
            actions: [row, ...].
            received: [row].
        """
        states, _ = self._split(memory)
        return torch.cat([*states, self._transitions(rewards, actions, received)], dim=1)

    def read(self, network: Network, rewards: Normaliser, memory: Tensor, trials: Trials) -> Tensor:
        """The memory after ``trials``, [task, memory]; arguments as of `states`."""
        inputs, transitions = self._inputs(rewards, memory, trials)
        lengths = trials.mask.sum(1).long()
        packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        start = [state[None, packed.sorted_indices].contiguous() for state in self._split(memory)[0]]
        _, *end = self._recurrence(network, packed.data, start, packed.batch_sizes)
        last = transitions[torch.arange(len(lengths), device=lengths.device), lengths - 1]
        return torch.cat([*(state[0, packed.unsorted_indices] for state in end), last], dim=1)

    def states(self, network: Network, rewards: Normaliser, memory: Tensor, trials: Trials) -> Tensor:
        """The recurrent layer's states at each step, [task, step, unit]; padding holds anything.

        Args:
            network: The network.
            rewards: Normalises the rewards.
            memory: The memory before the trials, [task, memory].
            trials: What happened.
        """
        inputs, _ = self._inputs(rewards, memory, trials)
        start = [state[None].contiguous() for state in self._split(memory)[0]]
        return self._recurrence(network, inputs, start)[0]

    def outputs(self, network: Network, states: Tensor, observations: Tensor) -> Tensor:
        """The outputs, [..., output], at states [..., unit] and observations [..., observation]."""
        seen = torch.cat([self.summary(network, states), observations], dim=-1)
        return self._policy(network[self._num_memory : self._num_policy], seen)

    def values(self, network: Network, states: Tensor, trials: Trials) -> Tensor:
        """The value of each step, in the critic's units, [task, step]."""
        seen = torch.cat([self.summary(network, states), trials.observations, trials.elapsed], dim=-1)
        return self._value(network[self._num_policy : self._num_network], seen)[..., 0]

    def summary(self, network: Network, states: Tensor) -> Tensor:
        """What the policy and the critic see of states [..., unit]; by default all of it."""
        return states

    def extra(self, network: Network) -> Tensor:
        """The log standard deviations of a Gaussian, with their floor, [1, extra]; [1, 0] without any."""
        if self.distribution.num_extra:
            return network[-1][None].clamp(min=self._min_log_std)
        return network[0].new_zeros(1, 0)

    def _split(self, memory: Tensor) -> tuple[list[Tensor], Tensor]:
        """The recurrent layer's state (and an LSTM's cell), [row, unit] each; and the last action and reward."""
        *states, last = memory.tensor_split([self.options.units * (k + 1) for k in range(self._num_states)], dim=1)
        return states, last

    def _transitions(self, rewards: Normaliser, actions: Tensor, received: Tensor) -> Tensor:
        """Actions and rewards as the recurrent layer reads them, side by side, [..., output + 1]."""
        features = self.distribution.features(actions).to(received)
        return torch.cat([features, rewards(received[..., None])], dim=-1)

    def _inputs(self, rewards: Normaliser, memory: Tensor, trials: Trials) -> tuple[Tensor, Tensor]:
        """What the recurrent layer reads, [task, step, input]; and each step's action and reward as it reads them."""
        transitions = self._transitions(rewards, trials.actions, trials.rewards)
        before = torch.cat([self._split(memory)[1][:, None], transitions[:, :-1]], dim=1)
        return torch.cat([trials.observations, before, trials.first[..., None]], dim=2), transitions

    def _recurrence(
        self, network: Network, inputs: Tensor, start: Sequence[Tensor], batch_sizes: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """PyTorch's recurrent layer: its states at each step, and after the last one."""
        layer: Any = torch.gru if self.options.cell == "gru" else torch.lstm
        state = start[0] if self.options.cell == "gru" else list(start)
        sequences = (inputs, state) if batch_sizes is None else (inputs, batch_sizes, state)
        axes = (True,) if batch_sizes is None else ()
        # In training mode, because cuDNN cannot differentiate otherwise. There is no dropout.
        result: tuple[Tensor, ...] = layer(*sequences, network[: self._num_recurrent], True, 1, 0.0, True, False, *axes)
        return result


class Remembering:
    """Tasks in the course of their episodes, each with its memory.

    Args:
        policy: The policy.
        network: Its network.
        rewards: Normalises the rewards.
        memory: The memory before the episodes, [task, memory].

    Attributes:
        extra: [task, extra].
    """

    def __init__(self, policy: MemoryPolicy, network: Network, rewards: Normaliser, memory: Tensor) -> None:
        self._policy, self._network, self._rewards, self._memory = policy, network, rewards, memory
        self.extra = policy.extra(network).expand(len(memory), -1)
        self._first: Tensor | None = None

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
        self._memory = self._policy.received(self._rewards, self._memory, actions.flatten(0, 1), received)
