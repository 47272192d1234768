"""Trust-region policy optimisation on one flat vector: conjugate gradients and a backtracking line search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.common.parallel import Workers
from metarl.common.profiling import timed
from metarl.config.optimisers import TRPOConfig
from metarl.data import LearnerState
from metarl.inner.loop import InnerLoop
from metarl.outer.objective import MetaObjective
from metarl.outer.optimiser import StepReport


class Objective(Protocol):
    """The objective of TRPO, around the parameters at which the data were collected."""

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """Surrogate loss and its gradient [parameter], where the data were collected."""

    def fisher_product(self, direction: Tensor) -> Tensor:
        """Hessian of the mean KL divergence times ``direction`` [parameter]."""

    def evaluate(self, parameters: Tensor) -> tuple[float, float]:
        """(surrogate loss, mean KL divergence from the policies that collected the data) at ``parameters``."""


class TRPO:
    """The trust-region meta-optimiser; it has no memory.

    Args:
        config: Settings.
    """

    def __init__(self, config: TRPOConfig) -> None:
        self._config = config

    def step(
        self, state: LearnerState, loop: InnerLoop, workers: Workers, generator: np.random.Generator
    ) -> tuple[LearnerState, StepReport]:
        """One `trpo_step`; ``generator`` draws the rows of the Fisher information."""
        meta, report = trpo_step(state.meta, self.objective(loop, workers, generator), self._config)
        return replace(state, meta=meta), report

    def objective(self, loop: InnerLoop, workers: Workers, generator: np.random.Generator) -> MetaObjective:
        """The objective of a step; the settings say which fractions of the rows give its curvature."""
        config, rows = self._config, None
        if config.fisher_fraction < 1:
            num_rows = loop.queries[-1].num_rows
            chosen = generator.choice(num_rows, max(1, round(config.fisher_fraction * num_rows)), replace=False)
            rows = torch.from_numpy(np.sort(chosen))
        return MetaObjective(loop, workers, config.hessian_fraction, rows)


def conjugate_gradients(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Approximately solves A x = b for a symmetric positive-definite A.

    Args:
        product: A times a vector.
        target: b, [parameter].
        iterations: Number of products.

    Returns:
        (x, A x); A x is b minus the residual, so it costs no product.

    Source: Hestenes & Stiefel 1952.
    """
    x = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    norm = residual @ residual
    for _ in range(iterations):
        along = product(direction)
        curvature = direction @ along
        # Masks instead of branches: no need to wait for the device, and a solved system stays solved.
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
        parameters: Parameters at which the data were collected, [parameter].
        objective: Surrogate loss and KL divergence.
        config: Settings.

    Returns:
        The new parameters (the old ones unless a trial lowers the surrogate loss inside the trust region), and a
        report. Outcomes are ``accepted after k`` (k line-search trials), ``rejected`` (no trial passed), ``zero
        gradient`` and ``non-finite`` (gradient or direction). Numbers are ``line_search_trials``; ``surrogate_gain``,
        the decrease of the surrogate loss, in standardised advantages per step; ``kl``, the mean KL divergence, in nats
        per step; ``predicted_kl``, the same by the quadratic model; and ``meta_gradient_norm``.

    Source: Schulman et al. 2015, appendix C.
    """
    with timed("surrogate gradient"):
        old_loss, gradient = objective.loss_and_gradient()
    norm = float(gradient.norm())

    def report(outcome: str, trials: int, gain: float = 0.0, kl: float = 0.0, predicted: float = 0.0) -> StepReport:
        numbers = {"line_search_trials": trials, "surrogate_gain": gain, "kl": kl, "predicted_kl": predicted}
        numbers["meta_gradient_norm"] = norm
        return StepReport(outcome, numbers)

    if norm == 0:
        return parameters, report("zero gradient", 0)

    def product(vector: Tensor) -> Tensor:
        # Damped: with sampled rows and few tasks the Fisher matrix is rank-deficient.
        with timed("Fisher-vector product"):
            return objective.fisher_product(vector) + config.cg_damping * vector

    direction, curved = conjugate_gradients(product, gradient, config.cg_iterations)
    # The KL divergence of a step s is about 1/2 s^T F s. With s = length * direction, this equals max_kl at the length
    # below: the first trial is the longest step that the quadratic model allows.
    length = torch.sqrt(2 * config.max_kl / (direction @ curved))
    step = length * direction
    if not bool(torch.isfinite(step).all()):
        return parameters, report("non-finite", 0)
    for trial in range(config.max_backtracks):
        shrunk = config.backtrack_ratio**trial
        candidate = parameters - shrunk * step
        with timed("line-search trial"):
            loss, kl = objective.evaluate(candidate)
        # A loss or divergence of NaN fails these comparisons.
        if loss < old_loss and kl <= config.max_kl:
            predicted = config.max_kl * shrunk**2
            return candidate, report(f"accepted after {trial + 1}", trial + 1, old_loss - loss, kl, predicted)
    return parameters, report("rejected", config.max_backtracks)
