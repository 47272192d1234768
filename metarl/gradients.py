"""The one derivative primitive: a policy gradient that can itself be differentiated, once, by a written-out product."""

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
