"""The one derivative primitive: a policy gradient that can itself be differentiated, once, by a written-out product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarl.lazy import lazy
from metarl.losses import InnerLoss
from metarl.policies import Curvature, Policy
from metarl.types import Rollouts


def policy_gradient(policy: Policy, parameters: Tensor, support: Rollouts, loss: InnerLoss = "ratio") -> Tensor:
    """Gradient of the inner loss at each task's parameters; differentiable.

    Its derivative is the Hessian of the inner loss over ``support.curvature_samples``, evaluated as products. Those
    products are linear and can be differentiated again with respect to their direction, which is all that Jacobian
    products through an adaptation rule need; derivatives of third order are not available.

    Args:
        policy: The policy.
        parameters: [task, parameter].
        support: Rollouts of as many tasks, collected with any policies.
        loss: ``ratio`` or ``score``, see `metarl.losses.inner_loss`.

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

    def gradient(self) -> Tensor:
        return self.policy.inner_gradient(self.parameters, self.support.samples, self.loss)

    @lazy
    def curvature(self) -> Curvature:
        # Built at the first product: evaluation and the line search never pay for it.
        return self.policy.inner_curvature(self.parameters, self.support.curvature_samples, self.loss)


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
        return _HessianVectorProduct.apply(direction, ctx.problem.curvature), None


class _HessianVectorProduct(torch.autograd.Function):
    @staticmethod
    def forward(direction: Tensor, curvature: Curvature) -> Tensor:
        return curvature.product(direction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Curvature], output: Tensor) -> None:
        ctx.curvature = inputs[1]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None]:
        # Linear and symmetric: its own transpose.
        return _HessianVectorProduct.apply(direction, ctx.curvature), None
