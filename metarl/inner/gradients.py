"""The derivative primitives: policy gradients that can themselves be differentiated, once, by written-out products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from metarl.data import Rollouts
from metarl.policies.base import Curvature, Policy
from metarl.policies.losses import InnerLoss


class Linearisable(Protocol):
    """A function at some inputs, with products of its Jacobian there."""

    def value(self) -> Tensor:
        """The function's value."""

    def pullback(self, direction: Tensor) -> Tensor:
        """The transposed Jacobian times ``direction``, which is shaped like the value."""

    def pushforward(self, direction: Tensor) -> Tensor:
        """The Jacobian times ``direction``, which is shaped like the inputs."""


def differentiable(inputs: Tensor, function: Linearisable) -> Tensor:
    """A function's value, differentiable by its products.

    The products are linear and can be differentiated again with respect to their direction, which is all that Jacobian
    products through an adaptation rule need; derivatives of second order are not available.

    Args:
        inputs: The inputs that ``function`` was made for.
        function: The function.
    """
    value: Tensor = _Value.apply(inputs, function)
    return value


def policy_gradient(policy: Policy, parameters: Tensor, support: Rollouts, loss: InnerLoss = "ratio") -> Tensor:
    """Gradient of the inner loss at each task's parameters; `differentiable`.

    Its derivative is the Hessian of the inner loss over ``support.curvature_rows``. Where only some of the policy's
    tensors are ``support.adapted``, the gradient by the others is 0, and the built-in network does not
    compute what only they need.

    Args:
        policy: The policy.
        parameters: [task, parameter].
        support: Rollouts of as many tasks, collected with any policies.
        loss: ``ratio``, ``score`` or ``dice``, see `metarl.policies.losses.inner_loss`.

    Returns:
        [task, parameter].

    Raises:
        ValueError: If ``support`` holds a different number of tasks.

    Source: Finn et al. 2017, equation 4.
    """
    return differentiable(parameters, PolicyGradient(policy, parameters, support, loss))


def projected_policy_gradient(
    policy: Policy, parameters: Tensor, support: Rollouts, loss: InnerLoss, projection: Tensor
) -> Tensor:
    """`policy_gradient` times a few fixed directions; `differentiable`.

    Where many products are asked for, their Jacobian is kept, one Hessian product for each direction, so that a product
    costs next to nothing.

    Args:
        policy: The policy.
        parameters: [task, parameter].
        support: Rollouts of as many tasks.
        loss: As in `policy_gradient`.
        projection: The directions, [direction, parameter].

    Returns:
        [task, direction].

    Raises:
        ValueError: If ``support`` holds a different number of tasks.
    """
    gradient = PolicyGradient(policy, parameters, support, loss)
    return differentiable(parameters, ProjectedPolicyGradient(gradient, projection))


class PolicyGradient:
    """`policy_gradient` as a function: its Jacobian is the adapted tensors' rows of the inner loss's Hessian."""

    def __init__(self, policy: Policy, parameters: Tensor, support: Rollouts, loss: InnerLoss) -> None:
        if support.num_tasks != parameters.shape[0]:
            raise ValueError(f"support must hold {parameters.shape[0]} tasks, got {support.num_tasks}")
        self.policy, self.parameters, self.support, self.loss = policy, parameters.detach(), support, loss
        self._curvature: tuple[float, Curvature] | None = None

    def value(self) -> Tensor:
        return self.policy.inner_gradient(self.parameters, self.support.samples, self.loss, self.support.adapted)

    def pushforward(self, direction: Tensor) -> Tensor:
        return self._hessian().product(direction)

    def pullback(self, direction: Tensor) -> Tensor:
        return self._hessian().transposed(direction)

    def _hessian(self) -> Curvature:
        # Built at the first product: evaluation and the line search never pay for it. DiCE ties an episode's steps
        # together, so none can be left out.
        fraction = 1.0 if self.loss == "dice" else self.support.curvature_rows.fraction
        if self._curvature is None or self._curvature[0] != fraction:
            self._curvature = None  # Its memory first.
            samples = self.support.samples if fraction == 1 else self.support.samples.largest_advantages(fraction)
            curvature = self.policy.inner_curvature(self.parameters, samples, self.loss, self.support.adapted)
            self._curvature = fraction, curvature
        return self._curvature[1]


class ProjectedPolicyGradient:
    """`projected_policy_gradient` as a function."""

    def __init__(self, gradient: PolicyGradient, projection: Tensor) -> None:
        self.gradient, self.projection = gradient, projection
        self._asked: tuple[float, int] = (0.0, 0)
        self._rows: Tensor | None = None

    def value(self) -> Tensor:
        return projected(self.gradient.value(), self.projection)

    def pullback(self, direction: Tensor) -> Tensor:
        if self._many():
            return _combined(direction, self._jacobian())
        return self.gradient.pullback(_combined(direction, self.projection))

    def pushforward(self, direction: Tensor) -> Tensor:
        if self._many():
            return projected(direction, self._jacobian())
        return projected(self.gradient.pushforward(direction), self.projection)

    def _many(self) -> bool:
        """Whether this is not the first product over these rows: a gradient takes one, conjugate gradients many."""
        fraction = self.gradient.support.curvature_rows.fraction
        number = self._asked[1] + 1 if self._asked[0] == fraction else 1
        if number == 1:
            self._rows = None
        self._asked = fraction, number
        return number > 1

    def _jacobian(self) -> Tensor:
        """[task, direction, parameter]."""
        if self._rows is None:
            like = self.gradient.parameters
            products = [self.gradient.pullback(row.expand_as(like).contiguous()) for row in self.projection]
            self._rows = torch.stack(products, dim=1)
        return self._rows


# Sums instead of matrix products: of one task's vector, their last bits depend on where it lies in memory.
def projected(vectors: Tensor, projection: Tensor) -> Tensor:
    """Inner products of vectors [task, parameter] with the directions of ``projection``: [task, direction].

    Args:
        vectors: [task, parameter].
        projection: [direction, parameter], or of each task [task, direction, parameter].
    """
    return (vectors[:, None] * projection).sum(-1)


def _combined(coefficients: Tensor, projection: Tensor) -> Tensor:
    """The transpose of `projected`: coefficients [task, direction] to [task, parameter]."""
    return (coefficients[..., None] * projection).sum(1)


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(inputs: Tensor, function: Linearisable) -> Tensor:
        return function.value()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Linearisable], output: Tensor) -> None:
        # Never the output itself: the graph would hold itself alive.
        ctx.function = inputs[1]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None]:
        return _Product.apply(direction, ctx.function.pullback, ctx.function.pushforward), None


class _Product(torch.autograd.Function):
    """A linear map of a direction, and its transpose."""

    @staticmethod
    def forward(
        direction: Tensor, product: Callable[[Tensor], Tensor], transposed: Callable[[Tensor], Tensor]
    ) -> Tensor:
        return product(direction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any, Any], output: Tensor) -> None:
        _, ctx.product, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(direction, ctx.transposed, ctx.product), None, None
