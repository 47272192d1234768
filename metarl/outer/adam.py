"""Adam on the meta-gradient: one step per meta-iteration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from metarl.common.errors import UserError
from metarl.common.parallel import Workers
from metarl.common.profiling import timed
from metarl.config.optimisers import AdamConfig
from metarl.data import LearnerState
from metarl.inner.loop import InnerLoop
from metarl.outer.objective import MetaObjective
from metarl.outer.optimiser import StepReport


class Adam:
    """The meta-optimiser of supervised meta-learning; its memory holds Adam's moments.

    With rollouts, the meta-gradient is the policy gradient of the adapted policies.

    Args:
        config: Settings.

    Source: Finn et al. 2017, algorithm 2; Kingma & Ba 2015.
    """

    def __init__(self, config: AdamConfig) -> None:
        self._config = config

    def step(
        self, state: LearnerState, loop: InnerLoop, workers: Workers, generator: np.random.Generator
    ) -> tuple[LearnerState, StepReport]:
        """One step; ``generator`` is not used.

        Outcomes are ``updated`` and ``non-finite`` (the gradient; the state stays). Numbers are ``meta_loss``, the loss
        before the step, and ``meta_gradient_norm``, before it is limited.
        """
        with timed("meta-gradient"):
            loss, gradient = MetaObjective(loop, workers).loss_and_gradient()
        norm = float(gradient.norm())
        numbers = {"meta_loss": loss, "meta_gradient_norm": norm}
        if not np.isfinite(norm):
            return state, StepReport("non-finite", numbers)
        parameter, adam = adam_of(state, self._config.lr)
        parameter.grad = limited(gradient, norm, self._config.max_gradient_norm)
        adam.step()
        return LearnerState(parameter.detach(), dict(adam.state[parameter])), StepReport("updated", numbers)


def limited(gradient: Tensor, norm: float, longest: float | None) -> Tensor:
    """The gradient, scaled down to a length of ``longest`` if its ``norm`` is more; None for no limit."""
    return gradient if longest is None or norm <= longest else gradient * (longest / norm)


def adam_of(state: LearnerState, lr: float) -> tuple[Tensor, torch.optim.Adam]:
    """PyTorch's Adam as it was after the previous meta-step, with a copy of the meta-parameters to move.

    Args:
        state: Meta-parameters, and the optimiser's ``step``, ``exp_avg`` and ``exp_avg_sq``; empty before the first
            step.
        lr: Step size.
    """
    parameter = state.meta.detach().clone().requires_grad_()
    adam = torch.optim.Adam([parameter], lr=lr, foreach=False)
    if state.memory:
        shapes = {name: value.shape for name, value in state.memory.items()}
        if shapes != {"step": torch.Size(()), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}:
            raise UserError("the checkpoint does not hold what Adam remembers; train again.")
        adam.state[parameter] = _copies(state.memory, parameter.device)
    return parameter, adam


def _copies(memory: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    # Copies, because Adam changes its memory in place. Adam counts its steps on the CPU.
    return {
        name: value.cpu().clone() if name == "step" else value.to(device, copy=True) for name, value in memory.items()
    }
