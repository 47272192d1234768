"""Policies as values: the parameters of a batch of policies are one tensor ``[task, parameter]``.

A `Policy` says how flat parameters become action distributions, which is all that acting needs. A
`DifferentiablePolicy` provides the three derivatives that adaptation and meta-step are made of: the inner loss's
gradient, its Hessian's products, and the linear map from parameters to outputs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.data import Samples
from metarl.policies.distributions import Distribution
from metarl.policies.layout import Layout
from metarl.policies.losses import InnerLoss


class Curvature(Protocol):
    """Rows of the inner loss's Hessian at some parameters, one block for each task; other rows count as 0."""

    def pushforward(self, direction: Tensor) -> Tensor:
        """The rows times ``direction`` [task, parameter], same shape; linear."""

    def pullback(self, direction: Tensor) -> Tensor:
        """The transpose of `pushforward`; the same where there are all rows, as a Hessian is symmetric."""


class Linearised(Protocol):
    """A policy's outputs at some parameters and their Jacobian.

    Attributes:
        outputs: [task, row, output].
        extra: [task, extra].
    """

    outputs: Tensor
    extra: Tensor

    def pullback(self, d_outputs: Tensor, d_extra: Tensor) -> Tensor:
        """Transposed Jacobian times (d_outputs [task, row, output], d_extra [task, extra]): [task, parameter]."""

    def fisher_product(self, direction: Tensor) -> Tensor:
        """Fisher information, weighted over the rows, times ``direction`` [task, parameter]; same shape."""


class Policy(ABC):
    """Maps flat parameters and observations to action distributions.

    Args:
        observation_size: Length of an observation.
        distribution: The action distribution.
        body: Name and shape of each of the network's tensors.
        initial_std: Gaussian only: standard deviation to start from, in the policy's [-1, 1] units.
        min_std: Gaussian only: floor of the standard deviation.

    Attributes:
        layout: Where each tensor lies in the flat vector; a Gaussian's ``log_std`` is the last.
    """

    def __init__(
        self,
        observation_size: int,
        distribution: Distribution,
        body: Sequence[tuple[str, tuple[int, ...]]],
        initial_std: float,
        min_std: float,
    ) -> None:
        self.observation_size = observation_size
        self.distribution = distribution
        self._initial_log_std = math.log(initial_std)
        self._min_log_std = math.log(min_std)
        extra = [("log_std", (distribution.num_extra,))] if distribution.num_extra else []
        self.layout = Layout([*body, *extra])

    @abstractmethod
    def initial_body(self, generator: np.random.Generator) -> Tensor:
        """Fresh parameters of the network, float32 [body parameter]."""

    @abstractmethod
    def outputs(self, parameters: Tensor, observations: Tensor) -> Tensor:
        """The network's outputs.

        Args:
            parameters: [task, parameter].
            observations: [task, row, observation].

        Returns:
            [task, row, output].
        """

    def network(self, parameters: Tensor) -> Callable[[Tensor], Tensor]:
        """`outputs` at these parameters, for many calls with few rows."""
        return partial(self.outputs, parameters)

    def initial(self, generator: np.random.Generator) -> Tensor:
        """Fresh parameters, float32 [parameter]."""
        return torch.cat(
            [self.initial_body(generator), torch.full((self.distribution.num_extra,), self._initial_log_std)]
        )

    def extra(self, parameters: Tensor) -> Tensor:
        """State-independent distribution parameters [task, extra], the log standard deviation at its floor or above."""
        return self._raw_extra(parameters).clamp(min=self._min_log_std)

    def log_prob(self, parameters: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """Log-probability of each action, [task, row].

        Args:
            parameters: [task, parameter].
            observations: [task, row, observation].
            actions: [task, row, action], or [task, row] of integers for a categorical policy.
        """
        outputs = self.outputs(parameters, observations)
        return self.distribution.log_prob(outputs, self.extra(parameters), actions)

    def _raw_extra(self, parameters: Tensor) -> Tensor:
        return parameters[:, self.layout.size - self.distribution.num_extra :]


class DifferentiablePolicy(Policy):
    """A policy that can be adapted: it provides the derivatives of its inner loss and of its outputs."""

    @abstractmethod
    def activations(self, parameters: Tensor, observations: Tensor) -> dict[str, Tensor]:
        """What each hidden layer makes of observations, and the network's output.

        Args:
            parameters: Of one task, [parameter].
            observations: [row, observation].

        Returns:
            By the layer's name, [row, unit]; the last is ``output``.
        """

    @property
    @abstractmethod
    def head(self) -> list[str]:
        """Names of the last layer's tensors and of a Gaussian's ``log_std``."""

    @abstractmethod
    def inner_gradient(
        self, parameters: Tensor, samples: Samples, loss: InnerLoss, adapted: Collection[str] | None = None
    ) -> Tensor:
        """Gradient of `inner_loss`, [task, parameter]; 0 for tensors not named by ``adapted``, unless that is None."""

    @abstractmethod
    def inner_curvature(
        self, parameters: Tensor, samples: Samples, loss: InnerLoss, adapted: Collection[str] | None = None
    ) -> Curvature:
        """Hessian of `inner_loss`, ready for repeated products; the rows of tensors named by ``adapted``, if any."""

    @abstractmethod
    def linearise(self, parameters: Tensor, samples: Samples) -> Linearised:
        """Outputs and their Jacobian at ``parameters`` [task, parameter]."""

    def _only(self, tensors: Collection[str] | None, device: torch.device) -> Callable[[Tensor], Tensor]:
        """What sets values [task, parameter] to 0 for all but these of the policy's tensors."""
        if tensors is None:
            return lambda values: values
        members = self.layout.members(tensors).to(device)
        return lambda values: torch.where(members, values, 0)

    def _extra_slope(self, parameters: Tensor) -> Tensor:
        # Derivative of `extra` by the raw parameter: below the floor nothing changes.
        return (self._raw_extra(parameters) >= self._min_log_std).to(parameters.dtype)
