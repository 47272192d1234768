"""Proximal meta-policy search: Adam on a clipped surrogate, several epochs on the same rollouts."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.common.parallel import Workers
from metarl.common.profiling import timed
from metarl.config.optimisers import ProMPConfig
from metarl.data import LearnerState
from metarl.inner.loop import InnerLoop
from metarl.outer.adam import adam_of
from metarl.outer.objective import MetaObjective
from metarl.outer.optimiser import StepReport


class ProximalObjective(Protocol):
    """The objective of ProMP, around the meta-parameters at which the data were collected."""

    def proximal(self, meta: Tensor, clip: float, kl_penalty: float) -> tuple[float, Tensor]:
        """Clipped surrogate with KL penalty, and its gradient [meta parameter], at any meta-parameters."""

    def evaluate(self, meta: Tensor) -> tuple[float, float]:
        """(surrogate loss, mean KL divergence of the adapted policies) at any meta-parameters."""


class ProMP:
    """The proximal meta-optimiser; its memory holds Adam's moments.

    Args:
        config: Settings.
    """

    def __init__(self, config: ProMPConfig) -> None:
        self._config = config

    def step(
        self, state: LearnerState, loop: InnerLoop, workers: Workers, generator: np.random.Generator
    ) -> tuple[LearnerState, StepReport]:
        """One `promp_step`; ``generator`` is not used."""
        return promp_step(state, MetaObjective(loop, workers), self._config)


def promp_step(
    state: LearnerState, objective: ProximalObjective, config: ProMPConfig
) -> tuple[LearnerState, StepReport]:
    """Several epochs, each one gradient step with Adam on all data.

    Args:
        state: Meta-parameters at which the data were collected. The memory holds Adam's ``step``, ``exp_avg`` and
            ``exp_avg_sq`` from the previous meta-step; it is empty before the first one.
        objective: The clipped surrogate.
        config: Settings.

    Returns:
        The new state (the old one if a gradient is not finite), and a report. Outcomes are ``k epochs`` and
        ``non-finite`` (a gradient). Numbers are ``epochs`` done; ``surrogate_gain``, the decrease of the surrogate
        loss, in standardised advantages per step; ``kl``, the mean KL divergence, in nats per step; and the first
        ``meta_gradient_norm``.

    Source: Rothfuss et al. 2019, algorithm 1.
    """
    parameter, adam = adam_of(state, config.lr)
    norms: list[float] = []

    def report(outcome: str, epochs: int, gain: float = 0.0, kl: float = 0.0) -> StepReport:
        numbers = {"epochs": epochs, "surrogate_gain": gain, "kl": kl, "meta_gradient_norm": norms[0]}
        return StepReport(outcome, numbers)

    for epoch in range(config.epochs):
        with timed("proximal gradient"):
            _, parameter.grad = objective.proximal(parameter.detach(), config.clip, config.kl_penalty)
        norms.append(float(parameter.grad.norm()))
        if not bool(torch.isfinite(parameter.grad).all()):
            return state, report("non-finite", epoch)
        adam.step()
    moved = parameter.detach()
    with timed("surrogate and divergence"):
        (before, _), (after, kl) = objective.evaluate(state.meta), objective.evaluate(moved)
    memory = dict(adam.state[parameter])
    return LearnerState(moved, memory), report(f"{config.epochs} epochs", config.epochs, before - after, kl)
