"""Embeds tasks by a GRU that reads trajectories; a part of other rules."""

import math

import numpy as np
import torch
from torch import Tensor

from metarl.common.lazy import lazy
from metarl.inner.differentiable import Jacobian, differentiable
from metarl.inner.support import Support
from metarl.policies.base import Policy
from metarl.policies.layout import Layout


class TrajectoryEncoder:
    """Maps each task's trajectories to its embedding: the mean over trajectories of a GRU's last states.

    The GRU starts from a zero state in every trajectory and reads observation, action and reward at each step. Its
    entries are PyTorch's, in the order of `torch.nn.GRU`'s parameters, and start uniform in +-1 / sqrt(size).

    Args:
        policy: The policy that makes the trajectories.
        size: Length of the embedding.
        trajectories: Trajectories of each task that are read: the first ones of the support. Where fewer are left,
            because episodes were dropped, the mean is of these.

    Attributes:
        size: Length of the embedding.
        trajectories: Trajectories of each task that are read.
        num_parameters: Number of the GRU's parameters.

    Source: Vuorio et al. 2019, section A.3, with one trajectory.
    """

    def __init__(self, policy: Policy, size: int, trajectories: int) -> None:
        self.size, self.trajectories = size, trajectories
        inputs = policy.observation_size + policy.distribution.num_outputs + 1
        self._layout = Layout(
            [("w_input", (3 * size, inputs)), ("w_hidden", (3 * size, size)), ("b_input", (3 * size,)),
             ("b_hidden", (3 * size,))]
        )  # fmt: skip
        self.num_parameters = self._layout.size

    def initial(self, generator: np.random.Generator) -> Tensor:
        """Fresh parameters, float32 [parameter]."""
        limit = 1 / math.sqrt(self.size)
        return torch.from_numpy(generator.uniform(-limit, limit, self.num_parameters).astype(np.float32))

    def embedding(self, parameters: Tensor, support: Support) -> Tensor:
        """The embedding of each task.

        Args:
            parameters: [parameter].
            support: The tasks' trajectories.

        Returns:
            [task, embedding]; differentiable with respect to ``parameters``.

        Raises:
            UserError: If ``support`` holds too few trajectories.
        """
        features, lengths = support.trajectories(self.trajectories)
        return differentiable(parameters, _MeanLastState(parameters, self._layout, features, lengths - 1))


class _Rows:
    """A Jacobian [task, state, parameter]."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows

    def pullback(self, direction: Tensor) -> Tensor:
        return torch.einsum("ij,ijk->k", direction, self._rows)

    def pushforward(self, direction: Tensor) -> Tensor:
        return self._rows @ direction


class _MeanLastState:
    """A GRU's mean state [task, state] after steps ``last`` [task, trajectory] of [task, trajectory, time, input].

    Trajectories whose last step is -1 do not count.

    The Jacobian of one task has few rows. Storing them is cheaper than running the recurrence for every product. Many
    tasks at once have too many rows for a single product.
    """

    def __init__(self, parameters: Tensor, layout: Layout, sequences: Tensor, last: Tensor) -> None:
        self._parameters, self._layout, self._sequences, self._last = parameters.detach(), layout, sequences, last

    def value(self) -> Tensor:
        return self._state(self._parameters)

    def pullback(self, direction: Tensor) -> Tensor:
        if len(direction) == 1:
            return self.jacobian().pullback(direction)
        gradient: Tensor = torch.autograd.functional.vjp(self._state, self._parameters, direction)[1]
        return gradient

    def jacobian(self) -> Jacobian:
        return self._rows

    @lazy
    def _rows(self) -> _Rows:
        # All rows at once are several times faster, but cuDNN's GRU has no batching rule for it.
        at_once = not self._parameters.is_cuda
        return _Rows(torch.autograd.functional.jacobian(self._state, self._parameters, vectorize=at_once))

    def _state(self, parameters: Tensor) -> Tensor:
        sequences, weights = self._sequences.flatten(0, 1), self._layout.views(parameters)
        start = sequences.new_zeros(1, len(sequences), self._layout.shapes[1][1])
        # In training mode, because cuDNN cannot differentiate otherwise. There is no dropout.
        states = torch.ops.aten.gru.input(sequences, start, weights, True, 1, 0.0, True, False, True)[0]
        last = states[torch.arange(len(sequences), device=sequences.device), self._last.flatten()]
        counts = (self._last >= 0).to(last)[..., None]
        return (last.unflatten(0, self._last.shape) * counts).sum(1) / counts.sum(1)
