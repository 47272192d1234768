"""Policies as values: the parameters of a batch of policies are one tensor ``[task, parameter]``.

A `Policy` says what its parameters and actions are. A `DifferentiablePolicy` is a function of the observation, with the
three derivatives that adaptation by gradients needs: the gradient of the inner loss, products with its Hessian, and the
Jacobian of the outputs. Policies that remember are in `metarl.policies.memory`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.common.errors import UserError
from metarl.data import Samples
from metarl.policies.distributions import DifferentiableDistribution, Distribution
from metarl.policies.layout import Layout
from metarl.policies.losses import InnerLoss


class Curvature(Protocol):
    """Hessian of the inner loss at fixed parameters, one block per task; rows of parameters not adapted are 0."""

    def pushforward(self, direction: Tensor) -> Tensor:
        """Multiplies by ``direction`` [task, parameter]; same shape, linear in ``direction``."""

    def pullback(self, direction: Tensor) -> Tensor:
        """The transpose of `pushforward`. Both are equal if all rows are kept, because a Hessian is symmetric."""


class Linearised(Protocol):
    """Outputs of a policy at fixed parameters, and their Jacobian J with respect to the parameters.

    Attributes:
        outputs: [task, row, output].
        extra: [task, extra].
    """

    outputs: Tensor
    extra: Tensor

    def pullback(self, d_outputs: Tensor, d_extra: Tensor) -> Tensor:
        """Returns J^T (d_outputs [task, row, output], d_extra [task, extra]), [task, parameter]."""

    def fisher_product(self, direction: Tensor) -> Tensor:
        """Multiplies the Fisher information, a weighted sum over rows, by ``direction`` [task, parameter]."""


class Acting(Protocol):
    """A batch of policies in the course of their episodes, which run side by side.

    Attributes:
        distribution: The action distribution.
        extra: The state-independent parameters of the action distributions, [task, extra].
    """

    @property
    def distribution(self) -> Distribution: ...

    @property
    def extra(self) -> Tensor: ...

    def draw(self, streams: Sequence[np.random.Generator]) -> None:
        """Draws what the policies keep for whole episodes, before the first step.

        Args:
            streams: One random generator per task.
        """

    def outputs(self, observations: Tensor) -> Tensor:
        """The network's outputs [task, rollout, output] for the next observations [task, rollout, observation]."""

    def receive(self, actions: Tensor, rewards: np.ndarray) -> None:
        """Takes notice of what followed.

        Args:
            actions: The actions taken, as the distribution samples them, [task, rollout, ...].
            rewards: [task * rollout].
        """


class Policy:
    """What all policies have in common.

    Args:
        observation_size: Length of an observation.
        distribution: The action distribution.
        layout: Position of each tensor in the flat vector of a task.
    """

    acts_by_mode: bool = False
    """Whether it takes the mode of its action distribution outside of training, because it need not explore by it."""

    def __init__(self, observation_size: int, distribution: Distribution, layout: Layout) -> None:
        self.observation_size, self.distribution, self.layout = observation_size, distribution, layout


@dataclass(frozen=True)
class _Reacting:
    """A batch of policies that are functions of the observation."""

    distribution: Distribution
    outputs: Callable[[Tensor], Tensor]
    extra: Tensor

    def draw(self, streams: Sequence[np.random.Generator]) -> None:
        """Does nothing: only single actions are random."""

    def receive(self, actions: Tensor, rewards: np.ndarray) -> None:
        """Does nothing: there is no memory."""


class DifferentiablePolicy(Policy, ABC):
    """A policy that adapts by gradients: a function of the observation, with the derivatives of inner loss and outputs.

    Args:
        observation_size: Length of an observation.
        distribution: The action distribution.
        body: Name and shape of each of the network's tensors.
        initial_std: Gaussian only: initial standard deviation, in the policy's [-1, 1] units.
        min_std: Gaussian only: floor of the standard deviation.

    Attributes:
        layout: Position of each tensor in the flat vector; a Gaussian's ``log_std`` comes last.
    """

    distribution: DifferentiableDistribution

    def __init__(
        self,
        observation_size: int,
        distribution: DifferentiableDistribution,
        body: Sequence[tuple[str, tuple[int, ...]]],
        initial_std: float,
        min_std: float,
    ) -> None:
        self._initial_log_std, self._min_log_std = math.log(initial_std), math.log(min_std)
        extra = [("log_std", (distribution.num_extra,))] if distribution.num_extra else []
        super().__init__(observation_size, distribution, Layout([*body, *extra]))

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
        """Returns `outputs` at these parameters as a function, for many calls with few rows."""
        return partial(self.outputs, parameters)

    def begin(self, parameters: Tensor) -> Acting:
        """Begins an episode, or several side by side, with each of the policies [task, parameter]."""
        return _Reacting(self.distribution, self.network(parameters), self.extra(parameters))

    def initial(self, generator: np.random.Generator) -> Tensor:
        """Fresh parameters, float32 [parameter]."""
        return torch.cat(
            [self.initial_body(generator), torch.full((self.distribution.num_extra,), self._initial_log_std)]
        )

    def extra(self, parameters: Tensor) -> Tensor:
        """State-independent distribution parameters [task, extra]; the log standard deviation has a floor."""
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

    @abstractmethod
    def activations(self, parameters: Tensor, observations: Tensor) -> dict[str, Tensor]:
        """Returns the values of each hidden layer and the network's output.

        Args:
            parameters: Parameters of one task, [parameter].
            observations: [row, observation].

        Returns:
            Values by the layer's name, [row, unit]; the last entry is ``output``.
        """

    @property
    @abstractmethod
    def head(self) -> list[str]:
        """Names of the tensors of the last layer, and ``log_std`` for a Gaussian."""

    @abstractmethod
    def inner_gradient(
        self, parameters: Tensor, samples: Samples, loss: InnerLoss, adapted: Collection[str] | None = None
    ) -> Tensor:
        """Gradient of `inner_loss`, [task, parameter]; 0 outside the tensors named by ``adapted`` (None: all)."""

    @abstractmethod
    def inner_curvature(
        self, parameters: Tensor, samples: Samples, loss: InnerLoss, adapted: Collection[str] | None = None
    ) -> Curvature:
        """Hessian of `inner_loss` for repeated products; only the rows of tensors named by ``adapted`` (None: all)."""

    @abstractmethod
    def linearise(self, parameters: Tensor, samples: Samples) -> Linearised:
        """Outputs and their Jacobian at ``parameters`` [task, parameter]."""

    def _only(self, tensors: Collection[str] | None, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Returns a function that sets values [task, parameter] to 0 outside the named tensors (None: outside none)."""
        if tensors is None:
            return lambda values: values
        members = self.layout.members(tensors).to(device)
        return lambda values: torch.where(members, values, 0)

    def _extra_slope(self, parameters: Tensor) -> Tensor:
        # Derivative of `extra` with respect to the raw parameter: 0 below the floor, else 1.
        return (self._raw_extra(parameters) >= self._min_log_std).to(parameters.dtype)


def require_derivatives(policy: Policy) -> DifferentiablePolicy:
    """Returns the policy.

    Raises:
        UserError: If it has no derivatives.
    """
    if isinstance(policy, DifferentiablePolicy):
        return policy
    raise UserError("this needs an agent that adapts by gradient steps, and this one adapts by its memory.")
