"""Trust-region policy optimisation on one flat vector: conjugate gradients and a backtracking line search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metarl.common.profiling import timed
from metarl.config.optimisers import TRPOConfig


class Objective(Protocol):
    """What TRPO minimises, around the parameters that the data were collected with."""

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """Surrogate loss where the data were collected, and its gradient [parameter]."""

    def fisher_product(self, direction: Tensor) -> Tensor:
        """Hessian of the mean KL divergence times ``direction`` [parameter]."""

    def evaluate(self, parameters: Tensor) -> tuple[float, float]:
        """(surrogate loss, mean KL divergence from the data's policies) at ``parameters``."""


@dataclass(frozen=True)
class StepReport:
    """What became of a step.

    Attributes:
        outcome: ``accepted after k`` (k line-search trials), ``rejected`` (no trial passed), ``zero gradient``,
            ``non-finite`` (gradient or direction), or ``k epochs`` of an optimiser without a line search; the
            parameters are unchanged unless accepted.
        accepted: Whether the parameters moved.
        trials: Line-search trials.
        surrogate_gain: Decrease of the surrogate loss, standardised advantage per step.
        kl: Mean KL divergence, nats per step.
        gradient_norm: Euclidean norm of the meta-gradient.
    """

    outcome: str
    accepted: bool
    trials: int
    surrogate_gain: float
    kl: float
    gradient_norm: float


def conjugate_gradients(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Approximately solves A x = b for a symmetric positive-definite A.

    Args:
        product: A times a vector.
        target: b, [parameter].
        iterations: Number of products.

    Returns:
        (x, A x); the second comes for free as b minus the residual.

    Source: Hestenes & Stiefel 1952.
    """
    x = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    norm = residual @ residual
    for _ in range(iterations):
        along = product(direction)
        curvature = direction @ along
        # Masked, not branched on: the device need not be waited for, and a solved system stays solved.
        step = torch.where(curvature > 0, norm / curvature, torch.zeros_like(norm))
        x = x + step * direction
        residual = residual - step * along
        new_norm = residual @ residual
        direction = residual + torch.where(norm > 0, new_norm / norm, torch.zeros_like(norm)) * direction
        norm = new_norm
    return x, target - residual


def trpo_step(parameters: Tensor, objective: Objective, config: TRPOConfig) -> tuple[Tensor, StepReport]:
    """One step along the natural gradient, as long as the trust region allows.

    Args:
        parameters: Where the data were collected, [parameter].
        objective: Surrogate loss and KL divergence.
        config: Settings.

    Returns:
        The new parameters (the old ones unless a trial lowers the surrogate loss inside the trust region), and what
        happened.

    Source: Schulman et al. 2015, appendix C.
    """
    with timed("surrogate gradient"):
        old_loss, gradient = objective.loss_and_gradient()
    norm = float(gradient.norm())
    if norm == 0:
        return parameters, StepReport("zero gradient", False, 0, 0.0, 0.0, norm)

    def product(vector: Tensor) -> Tensor:
        # Damped: with sampled rows and few tasks the Fisher matrix is rank-deficient.
        with timed("Fisher-vector product"):
            return objective.fisher_product(vector) + config.cg_damping * vector

    direction, curved = conjugate_gradients(product, gradient, config.cg_iterations)
    length = torch.sqrt(2 * config.max_kl / (direction @ curved))
    step = length * direction
    if not bool(torch.isfinite(step).all()):
        return parameters, StepReport("non-finite", False, 0, 0.0, 0.0, norm)
    for trial in range(config.max_backtracks):
        candidate = parameters - config.backtrack_ratio**trial * step
        with timed("line-search trial"):
            loss, kl = objective.evaluate(candidate)
        # Written so that a loss or divergence that is not a number fails.
        if loss < old_loss and kl <= config.max_kl:
            report = StepReport(f"accepted after {trial + 1}", True, trial + 1, old_loss - loss, kl, norm)
            return candidate, report
    return parameters, StepReport("rejected", False, config.max_backtracks, 0.0, 0.0, norm)
