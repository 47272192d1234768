"""The derivative primitive: a policy gradient that can itself be differentiated, once, by a written-out product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarl.losses import InnerLoss
from metarl.policies import Curvature, Policy
from metarl.types import Rollouts


def policy_gradient(policy: Policy, parameters: Tensor, support: Rollouts, loss: InnerLoss = "ratio") -> Tensor:
    """Gradient of the inner loss at each task's parameters; differentiable.

    Its derivative is the Hessian of the inner loss over ``support.curvature_rows``, evaluated as products. Those
    products are linear and can be differentiated again with respect to their direction, which is all that Jacobian
    products through an adaptation rule need; derivatives of third order are not available.

    Args:
        policy: The policy.
        parameters: [task, parameter].
        support: Rollouts of as many tasks, collected with any policies.
        loss: ``ratio``, ``score`` or ``dice``, see `metarl.losses.inner_loss`.

    Returns:
        [task, parameter].

    Raises:
        ValueError: If ``support`` holds a different number of tasks.

    Source: Finn et al. 2017, equation 4.
    """
    if support.num_tasks != parameters.shape[0]:
        raise ValueError(f"support must hold {parameters.shape[0]} tasks, got {support.num_tasks}")
    gradient: Tensor = _PolicyGradient.apply(parameters, _InnerProblem(policy, parameters.detach(), support, loss))
    return gradient


def projected_policy_gradient(
    policy: Policy, parameters: Tensor, support: Rollouts, loss: InnerLoss, projection: Tensor
) -> Tensor:
    """`policy_gradient` times a few fixed directions; differentiable in the same way.

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
    """
    problem = _ProjectedProblem(_InnerProblem(policy, parameters.detach(), support, loss), projection)
    projected: Tensor = _ProjectedGradient.apply(parameters, problem)
    return projected


class _InnerProblem:
    def __init__(self, policy: Policy, parameters: Tensor, support: Rollouts, loss: InnerLoss) -> None:
        self.policy, self.parameters, self.support, self.loss = policy, parameters, support, loss
        self._curvature: tuple[float, Curvature] | None = None

    def gradient(self) -> Tensor:
        return self.policy.inner_gradient(self.parameters, self.support.samples, self.loss)

    def hessian_product(self, direction: Tensor) -> Tensor:
        # Built at the first product: evaluation and the line search never pay for it. DiCE ties an episode's steps
        # together, so none can be left out.
        fraction = 1.0 if self.loss == "dice" else self.support.curvature_rows.fraction
        if self._curvature is None or self._curvature[0] != fraction:
            self._curvature = None  # Its memory first.
            samples = self.support.samples if fraction == 1 else self.support.samples.largest_advantages(fraction)
            self._curvature = fraction, self.policy.inner_curvature(self.parameters, samples, self.loss)
        return self._curvature[1].product(direction)


class _PolicyGradient(torch.autograd.Function):
    @staticmethod
    def forward(parameters: Tensor, problem: _InnerProblem) -> Tensor:
        return problem.gradient()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _InnerProblem], output: Tensor) -> None:
        # Never the output itself: the graph would hold itself alive.
        ctx.problem = inputs[1]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None]:
        return _HessianVectorProduct.apply(direction, ctx.problem), None


class _HessianVectorProduct(torch.autograd.Function):
    @staticmethod
    def forward(direction: Tensor, problem: _InnerProblem) -> Tensor:
        return problem.hessian_product(direction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _InnerProblem], output: Tensor) -> None:
        ctx.problem = inputs[1]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None]:
        # Linear and symmetric: its own transpose.
        return _HessianVectorProduct.apply(direction, ctx.problem), None


class _ProjectedProblem:
    """The Jacobian of the projected gradient: rows of the Hessian's product with the projection."""

    def __init__(self, inner: _InnerProblem, projection: Tensor) -> None:
        self.inner, self.projection = inner, projection
        self._asked: tuple[float, int] = (0.0, 0)
        self._rows: Tensor | None = None

    def gradient(self) -> Tensor:
        return self.inner.gradient() @ self.projection.T

    def product(self, direction: Tensor) -> Tensor:
        """The Jacobian, transposed, times ``direction`` [task, direction]: [task, parameter]."""
        if self._many():
            return (direction[:, None] @ self._jacobian())[:, 0]
        return self.inner.hessian_product(direction @ self.projection)

    def transposed(self, direction: Tensor) -> Tensor:
        """The Jacobian times ``direction`` [task, parameter]: [task, direction]."""
        if self._many():
            return (self._jacobian() @ direction[..., None])[..., 0]
        return self.inner.hessian_product(direction) @ self.projection.T

    def _many(self) -> bool:
        """Whether this is not the first product over these rows: a gradient takes one, conjugate gradients many."""
        fraction = self.inner.support.curvature_rows.fraction
        number = self._asked[1] + 1 if self._asked[0] == fraction else 1
        if number == 1:
            self._rows = None
        self._asked = fraction, number
        return number > 1

    def _jacobian(self) -> Tensor:
        """[task, direction, parameter]."""
        if self._rows is None:
            like = self.inner.parameters
            products = [self.inner.hessian_product(row.expand_as(like).contiguous()) for row in self.projection]
            self._rows = torch.stack(products, dim=1)
        return self._rows


class _ProjectedGradient(torch.autograd.Function):
    @staticmethod
    def forward(parameters: Tensor, problem: _ProjectedProblem) -> Tensor:
        return problem.gradient()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _ProjectedProblem], output: Tensor) -> None:
        ctx.problem = inputs[1]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None]:
        return _ProjectedProduct.apply(direction, ctx.problem), None


class _ProjectedProduct(torch.autograd.Function):
    @staticmethod
    def forward(direction: Tensor, problem: _ProjectedProblem) -> Tensor:
        return problem.product(direction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _ProjectedProblem], output: Tensor) -> None:
        ctx.problem = inputs[1]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None]:
        return _ProjectedTransposed.apply(direction, ctx.problem), None


class _ProjectedTransposed(torch.autograd.Function):
    @staticmethod
    def forward(direction: Tensor, problem: _ProjectedProblem) -> Tensor:
        return problem.transposed(direction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _ProjectedProblem], output: Tensor) -> None:
        ctx.problem = inputs[1]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None]:
        return _ProjectedProduct.apply(direction, ctx.problem), None
