"""Proximal meta-policy search: Adam on a clipped surrogate, several epochs on the same rollouts."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from metarl.common.profiling import timed
from metarl.config.optimisers import ProMPConfig
from metarl.outer.trpo import StepReport


class ProximalObjective(Protocol):
    """What ProMP minimises, around the meta-parameters that the data were collected with."""

    def proximal(self, meta: Tensor, clip: float, kl_penalty: float) -> tuple[float, Tensor]:
        """Clipped surrogate with KL penalty, and its gradient [meta parameter], at any meta-parameters."""

    def evaluate(self, meta: Tensor) -> tuple[float, float]:
        """(surrogate loss, mean KL divergence of the adapted policies) at any meta-parameters."""


def promp_step(
    meta: Tensor, state: Tensor, objective: ProximalObjective, config: ProMPConfig
) -> tuple[Tensor, Tensor, StepReport]:
    """Some epochs of gradient steps with Adam.

    Args:
        meta: Where the data were collected, [meta parameter].
        state: Adam's from the step before, empty before the first one.
        objective: The clipped surrogate.
        config: Settings.

    Returns:
        The new meta-parameters and state (the old ones if a gradient is not finite), and what happened.

    Source: Rothfuss et al. 2019, algorithm 1.
    """
    parameter = meta.detach().clone().requires_grad_()
    adam = torch.optim.Adam([parameter], lr=config.lr)
    if len(state):
        moments = state[1:].to(meta.device).view(2, -1).clone()
        adam.state[parameter] = {"step": state[0].cpu(), "exp_avg": moments[0], "exp_avg_sq": moments[1]}
    norms = []
    for _ in range(config.epochs):
        with timed("proximal gradient"):
            _, parameter.grad = objective.proximal(parameter.detach(), config.clip, config.kl_penalty)
        norms.append(float(parameter.grad.norm()))
        if not bool(torch.isfinite(parameter.grad).all()):
            return meta, state, StepReport("non-finite", False, 0, 0.0, 0.0, norms[0])
        adam.step()
    moved = parameter.detach()
    with timed("surrogate and divergence"):
        (before, _), (after, kl) = objective.evaluate(meta), objective.evaluate(moved)
    entry = adam.state[parameter]
    state = torch.cat([entry["step"].to(meta).view(1), entry["exp_avg"], entry["exp_avg_sq"]])
    return moved, state, StepReport(f"{config.epochs} epochs", True, 0, before - after, kl, norms[0])
