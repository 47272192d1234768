"""Policies with a recurrent layer, whose state is their memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from metarl.config.algorithms import MemoryConfig
from metarl.config.settings import PolicySettings
from metarl.policies.distributions import DifferentiableDistribution
from metarl.policies.memory import MemoryPolicy, Network, Trials
from metarl.policies.normaliser import Normaliser
from metarl.policies.perceptron import Perceptron

# Blocks of rows in a recurrent layer's weights: one for each gate, and one for the new content.
_BLOCKS: dict[str, int] = {"gru": 3, "lstm": 4}


class RecurrentPolicy(MemoryPolicy):
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

    Source: Duan et al. 2016, section 2.2.
    """

    distribution: DifferentiableDistribution

    def __init__(
        self,
        observation_size: int,
        distribution: DifferentiableDistribution,
        options: MemoryConfig,
        network: PolicySettings,
        summary: Perceptron | None = None,
    ) -> None:
        units, cell, hidden_sizes = options.units, options.cell, network.hidden_sizes
        actions = distribution.num_outputs  # An action is as long as the outputs, see `Distribution.features`.
        states = ["state"] if cell == "gru" else ["state", "cell"]
        memory = [*((name, (units,)) for name in states), ("last_action", (actions,)), ("last_reward", (1,))]
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
        super().__init__(observation_size, distribution, memory, shapes)

    def initial(self, generator: np.random.Generator) -> Tensor:
        """Fresh weights, float32 [weight]: those of the recurrent layer as PyTorch's, the others Glorot-uniform."""
        limit = 1 / math.sqrt(self.options.units)
        parts = [generator.uniform(-limit, limit, shape) for shape in self.weights.shapes[: self._num_recurrent]]
        for perceptron in (self._summary, self._policy, self._value):
            parts += perceptron.initial(generator) if perceptron else []
        parts.append(np.full(self.distribution.num_extra, self._initial_log_std))
        return torch.from_numpy(np.concatenate([part.ravel() for part in parts]).astype(np.float32))

    def act(self, network: Network, memory: Tensor, observations: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """One step, see `MemoryPolicy.act`; the new memory still holds the previous action and reward."""
        states, last = self._split(memory)
        inputs, recurrent = torch.cat([observations, last, first[:, None]], dim=1), network[: self._num_recurrent]
        if self.options.cell == "gru":
            states = [torch.gru_cell(inputs, states[0], *recurrent)]
        else:
            states = list(torch.lstm_cell(inputs, states, *recurrent))
        return self.outputs(network, states[0], observations), torch.cat([*states, last], dim=1)

    def received(
        self, network: Network, rewards: Normaliser, memory: Tensor, actions: Tensor, received: Tensor
    ) -> Tensor:
        states, _ = self._split(memory)
        return torch.cat([*states, self._transitions(rewards, actions, received)], dim=1)

    def read(self, network: Network, rewards: Normaliser, memory: Tensor, trials: Trials) -> Tensor:
        inputs, transitions = self._inputs(rewards, memory, trials)
        lengths = trials.mask.sum(1).long()
        packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        start = [state[None, packed.sorted_indices].contiguous() for state in self._split(memory)[0]]
        _, *end = self._recurrence(network, packed.data, start, packed.batch_sizes)
        last = transitions[torch.arange(len(lengths), device=lengths.device), lengths - 1]
        return torch.cat([*(state[0, packed.unsorted_indices] for state in end), last], dim=1)

    def states(self, network: Network, rewards: Normaliser, memory: Tensor, trials: Trials) -> Tensor:
        """The recurrent layer's states, see `MemoryPolicy.states`; that of a step has read its observation."""
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
        return super().extra(network)

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
