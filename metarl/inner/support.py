"""The support data that an adaptation rule sees: an inner loss with its gradient, and the data behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from metarl.common.errors import UserError
from metarl.common.lazy import lazy
from metarl.data import Rollouts, Samples
from metarl.inner.differentiable import Jacobian, differentiable
from metarl.policies.base import Curvature, Policy, require_derivatives
from metarl.policies.losses import InnerLoss


class Support(ABC):
    """The support data of some tasks, with the inner loss that adaptation lowers.

    `PolicyGradientSupport` holds rollouts, `SupervisedSupport` examples; a rule works with any other one too.
    """

    @property
    @abstractmethod
    def num_tasks(self) -> int:
        """Number of tasks."""

    @abstractmethod
    def gradient(self, parameters: Tensor) -> Tensor:
        """Gradient of each task's inner loss.

        Args:
            parameters: [task, parameter].

        Returns:
            [task, parameter]; differentiable with respect to ``parameters``.

        Raises:
            ValueError: If ``parameters`` holds a different number of tasks.
        """

    def projected_gradient(self, parameters: Tensor, directions: Tensor) -> Tensor:
        """Inner products of the `gradient` with a few fixed directions.

        Args:
            parameters: [task, parameter].
            directions: [direction, parameter].

        Returns:
            [task, direction]; differentiable with respect to ``parameters``.
        """
        return projected(self.gradient(parameters), directions)

    @abstractmethod
    def restricted(self, tensors: Collection[str]) -> Support:
        """The same data; the gradient is 0 except for the policy's tensors with these names."""

    @abstractmethod
    def tasks(self, start: int, stop: int) -> Support:
        """The support data of tasks ``start`` to ``stop``."""

    @abstractmethod
    def performance(self) -> Tensor:
        """How well the policies that made the data did, [task]: in reinforcement learning, the mean return."""

    @abstractmethod
    def trajectories(self, count: int) -> tuple[Tensor, Tensor]:
        """The first ``count`` sequences of each task, as input of a recurrent network.

        Returns:
            Features [task, trajectory, time, feature], and the numbers of valid steps [task, trajectory]. Dropped
            episodes come last, with 0 valid steps.

        Raises:
            UserError: If there are fewer.
        """


@dataclass(frozen=True, eq=False)
class _LossSupport(Support):
    """Data in rows, with the gradient of one of the losses of `metarl.policies.losses.inner_loss`.

    Attributes:
        policy: The policy.
        data: The data.
        loss: Name of the loss.
        adapted: Names of the policy's tensors in the gradient; None for all. The built-in network skips computations
            that only the other tensors need.
        hessian_fraction: Fraction of each task's rows, those of largest advantage, in repeated products with the
            gradient's Jacobian (`metarl.data.Samples.largest_advantages`); a single product is exact.
    """

    policy: Policy
    data: Any
    loss: InnerLoss
    adapted: Collection[str] | None = None
    hessian_fraction: float = 1.0

    @property
    def num_tasks(self) -> int:
        return self.data.num_tasks

    @property
    def samples(self) -> Samples:
        """The data as rows; as whole episodes for DiCE, which couples their steps."""
        return self.data.whole_episodes if self.loss == "dice" else self.data.samples

    def gradient(self, parameters: Tensor) -> Tensor:
        return differentiable(parameters, _LossGradient(self, parameters))

    def projected_gradient(self, parameters: Tensor, directions: Tensor) -> Tensor:
        return differentiable(parameters, _ProjectedGradient(_LossGradient(self, parameters), directions))

    def restricted(self, tensors: Collection[str]) -> Self:
        return replace(self, adapted=[name for name in tensors if self.adapted is None or name in self.adapted])

    def tasks(self, start: int, stop: int) -> Self:
        return replace(self, data=self.data.tasks(start, stop))

    def with_curvature(self, fraction: float) -> Self:
        """The same support; repeated products with its Jacobian use this fraction of the rows, in (0, 1]."""
        # DiCE can leave out no row of an episode.
        return self if self.loss == "dice" else replace(self, hessian_fraction=fraction)

    def _with_targets(self, inputs: Tensor, targets: Tensor, rewards: Tensor) -> Tensor:
        """Inputs, features of the targets and rewards side by side, [task, trajectory, time, feature]."""
        features = self.policy.distribution.features(targets).to(inputs)
        return torch.cat([inputs, features, rewards[..., None]], dim=3)


class PolicyGradientSupport(_LossSupport):
    """Rollouts of any policies, with the gradient of a policy-gradient loss: ``ratio``, ``score`` or ``dice``.

    Source: Finn et al. 2017, equation 4.
    """

    @property
    def rollouts(self) -> Rollouts:
        """The rollouts."""
        return self.data

    @staticmethod
    def concatenate(parts: Sequence[PolicyGradientSupport]) -> PolicyGradientSupport:
        """Joins the tasks of ``parts`` in order; everything but the rollouts comes from the first part."""
        return replace(parts[0], data=Rollouts.concatenate([part.rollouts for part in parts]))

    def performance(self) -> Tensor:
        return self.rollouts.mean_returns().to(self.rollouts.rewards)

    def trajectories(self, count: int) -> tuple[Tensor, Tensor]:
        """Observation, action (one-hot if discrete) and reward at each step of each task's first kept episodes."""
        rollouts, held = self.rollouts, self.rollouts.mask.shape[1]
        if held < count:
            raise UserError(
                f"the rule reads {count} trajectories of each task, and the support holds {held}; collect more "
                "rollouts."
            )
        parts = rollouts.observations, rollouts.actions, rollouts.rewards, rollouts.mask
        if self._is_whole:
            *read, mask = (part[:, :count] for part in parts)
        else:
            first = self._first_kept(count)
            *read, mask = (part[first] for part in parts)
        return self._with_targets(*read), mask.sum(2).long()

    # Once for each support: a GPU waits for the answer.
    @lazy
    def _is_whole(self) -> bool:
        """Whether no episode was dropped."""
        return bool((self.rollouts.mask[:, :, 0] > 0).all())

    def _first_kept(self, count: int) -> tuple[Tensor, Tensor]:
        """Indices [task, 1] and [task, ``count``] of each task's episodes, those first that were not dropped."""
        kept = self.rollouts.mask[:, :, 0] > 0
        first = kept.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        return torch.arange(len(first), device=first.device)[:, None], first


class SupervisedSupport(_LossSupport):
    """Examples, with the gradient of the squared error or the cross-entropy.

    Both are minus the mean log-likelihood: the ``score`` loss of advantages 1.

    Source: Finn et al. 2017, equations 2 and 3.
    """

    def performance(self) -> Tensor:
        """Minus the variance of the targets, [task]: the error of the best constant. Classes give 0."""
        targets: Tensor = self.data.targets
        if targets.ndim == 2:
            return self.data.inputs.new_zeros(self.num_tasks)
        return -targets.var(1, correction=0).mean(-1)

    def trajectories(self, count: int) -> tuple[Tensor, Tensor]:
        """The examples as one trajectory: input, target (one-hot if it is a class), and 0 in place of the reward."""
        if count > 1:
            raise UserError(f"the rule reads {count} trajectories of each task, and supervised tasks have only one.")
        inputs, targets = self.data.inputs[:, None], self.data.targets[:, None]
        features = self._with_targets(inputs, targets, inputs.new_zeros(inputs.shape[:3]))
        return features, torch.full(features.shape[:2], features.shape[2], device=inputs.device)


# Sums, not matrix products: the last bits of a matrix product depend on where a task's vector lies in memory.
def projected(vectors: Tensor, directions: Tensor) -> Tensor:
    """Inner products of vectors [task, parameter] with ``directions``: [task, direction].

    Args:
        vectors: [task, parameter].
        directions: [direction, parameter]; or [task, direction, parameter], with different directions per task.
    """
    return (vectors[:, None] * directions).sum(-1)


def _combined(coefficients: Tensor, directions: Tensor) -> Tensor:
    """The transpose of `projected`: maps coefficients [task, direction] to [task, parameter]."""
    return (coefficients[..., None] * directions).sum(1)


class _LossGradient:
    """The gradient as a function of the parameters; its Jacobian is the Hessian, in the rows of adapted tensors."""

    def __init__(self, support: _LossSupport, parameters: Tensor) -> None:
        if support.num_tasks != parameters.shape[0]:
            raise ValueError(f"support must hold {parameters.shape[0]} tasks, got {support.num_tasks}")
        self.support, self.parameters = support, parameters.detach()

    def value(self) -> Tensor:
        support = self.support
        policy = require_derivatives(support.policy)
        return policy.inner_gradient(self.parameters, support.samples, support.loss, support.adapted)

    def pullback(self, direction: Tensor) -> Tensor:
        # If repeated products use fewer rows, this exact Hessian serves once: its activations are freed afterwards.
        hessian = self.jacobian() if self.is_exact else self._hessian(self.support.samples)
        return hessian.pullback(direction)

    def jacobian(self) -> Curvature:
        return self._many

    @property
    def is_exact(self) -> bool:
        """Whether repeated products use all rows, as a single one does."""
        return self.support.hessian_fraction == 1

    # Built at the first product, so that evaluation and the line search never pay for it.
    @lazy
    def _many(self) -> Curvature:
        samples = self.support.samples
        return self._hessian(samples if self.is_exact else samples.largest_advantages(self.support.hessian_fraction))

    def _hessian(self, samples: Samples) -> Curvature:
        support = self.support
        policy = require_derivatives(support.policy)
        return policy.inner_curvature(self.parameters, samples, support.loss, support.adapted)


class _ProjectedGradient:
    """`Support.projected_gradient` as a function of the parameters."""

    def __init__(self, gradient: _LossGradient, directions: Tensor) -> None:
        self._gradient, self._directions = gradient, directions

    def value(self) -> Tensor:
        return projected(self._gradient.value(), self._directions)

    def pullback(self, direction: Tensor) -> Tensor:
        return self._gradient.pullback(_combined(direction, self._directions))

    def jacobian(self) -> Jacobian:
        return self._many

    @lazy
    def _many(self) -> _ProjectedJacobian:
        return _ProjectedJacobian(self._gradient, self._directions)


class _ProjectedJacobian:
    """The Jacobian of projected gradients; stores its rows, so that a product costs next to nothing.

    Building the rows takes one Hessian product per direction, which pays from the second product with that Hessian on.
    An exact Hessian has already served the gradient, so its rows are built at once. A sampled Hessian first serves a
    forward product, because that precedes all transposed products; its rows are built after it.
    """

    def __init__(self, gradient: _LossGradient, directions: Tensor) -> None:
        self._gradient, self._directions = gradient, directions
        self._rows: Tensor | None = self._make_rows() if gradient.is_exact else None

    def pushforward(self, direction: Tensor) -> Tensor:
        if self._rows is None:
            return projected(self._gradient.jacobian().pushforward(direction), self._directions)
        return projected(direction, self._rows)

    def pullback(self, direction: Tensor) -> Tensor:
        if self._rows is None:
            self._rows = self._make_rows()
        return _combined(direction, self._rows)

    def _make_rows(self) -> Tensor:
        """The rows of the Jacobian, [task, direction, parameter]."""
        hessian, like = self._gradient.jacobian(), self._gradient.parameters
        return torch.stack([hessian.pullback(row.expand_as(like).contiguous()) for row in self._directions], dim=1)
