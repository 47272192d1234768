"""What an adaptation rule is: a sequence of stages that map support rollouts to task parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from metarl.data import Rollouts
from metarl.inner.gradients import policy_gradient
from metarl.policies.base import Policy
from metarl.policies.losses import InnerLoss

if TYPE_CHECKING:
    from metarl.inner.loop import InnerLoop

UNKNOWN_MODE = -1
"""Mode of a task that nobody told."""


@dataclass(frozen=True)
class Stage:
    """One part of the inner loop.

    Attributes:
        update: Maps (meta-parameters [meta parameter], task parameters [task, task parameter], support rollouts) to the
            next task parameters; differentiable in the first two, inputs not modified.
        rollouts: Episodes of each task that the update wants: None for as many as the run is set to, 0 for the previous
            stage's again.
        gradient_step: Whether the update counts as a gradient step in reports.
        query_weight: Weight in the meta-objective of the policies after this stage, which get query rollouts of their
            own (multi-step loss); the adapted policies' weight is what is left of 1. Not for the last stage.
    """

    update: Callable[[Tensor, Tensor, Rollouts], Tensor]
    rollouts: int | None = None
    gradient_step: bool = True
    query_weight: float = 0.0


class Adaptation(ABC):
    """An adaptation rule: maps meta-parameters and support rollouts to task parameters, in stages.

    The first of a task's parameters are its policy's; what a rule appends to them is for its own later stages.

    Args:
        policy: The policy whose parameters are adapted.
        num_meta: Number of meta-parameters; `initialisation` says which of them are policies.
    """

    step_name: str = "gradient step"
    """What reports call one counted step of the inner loop."""

    def __init__(self, policy: Policy, num_meta: int) -> None:
        self.policy, self.num_meta = policy, num_meta

    @property
    def adapted(self) -> Sequence[str]:
        """Names of the policy's tensors that gradient steps change; by default all."""
        return self.policy.layout.names

    @abstractmethod
    def initial(self, generator: np.random.Generator) -> Tensor:
        """Fresh meta-parameters, float32 [meta parameter]."""

    def initialisation(self, modes: Tensor) -> Tensor:
        """Which meta-parameters are each task's initial policy theta, [task, parameter]; by default the first.

        Args:
            modes: Which mode of the task distribution each task comes from, integers on the CPU [task]; `UNKNOWN_MODE`
                where that is not known.
        """
        return torch.arange(self.policy.layout.size).expand(len(modes), -1)

    def start(self, meta: Tensor, modes: Tensor) -> Tensor:
        """Task parameters before adaptation, [task, task parameter]; by default the first meta-parameters."""
        return meta[: self.policy.layout.size].expand(len(modes), -1)

    @abstractmethod
    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        """The inner loop.

        Args:
            step_scales: One factor on the step size for each gradient step: (1,) trains with one step, (1, 0.5, 0.5)
                adapts with three, the later ones half as long (Finn et al. 2017, appendix A.2).
            iteration: Meta-iterations done before, for rules that change during training; None to adapt without a
                meta-step, which leaves out what serves training alone.
        """

    def observe(self, loop: InnerLoop) -> Tensor:
        """What the rule saw of each task, [task, feature], for `describe` and `after_meta_step`.

        Args:
            loop: The inner loop of some of the tasks, with at least one stage.
        """
        return loop.meta.new_zeros(loop.num_tasks, 0)

    @property
    def observed(self) -> Mapping[str, slice]:
        """What the columns of `observe`'s result are, by name; reports leave out columns without a name."""
        return {}

    def attenuation(self, meta: Tensor, observed: Tensor) -> Tensor | None:
        """What the rule multiplies the initialisation by: the mean factor on each tensor of the policy.

        Args:
            meta: Meta-parameters, [meta parameter].
            observed: What `observe` returned, [task, feature].

        Returns:
            [task, tensor]; None if the rule does not attenuate.
        """
        return None

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        """Numbers worth logging about the latest adaptation, from what was observed of all tasks [task, feature]."""
        return {}

    def after_meta_step(self, meta: Tensor, observed: Tensor) -> Tensor:
        """Meta-parameters with what the meta-gradient does not move brought up to date, such as running statistics."""
        return meta


def gradient_step(
    policy: Policy,
    parameters: Tensor,
    support: Rollouts,
    loss: InnerLoss,
    step_size: float | Tensor,
    first_order: bool = False,
) -> Tensor:
    """One policy-gradient step for each task: theta'_i = theta_i - step_size * grad L_i(theta_i).

    Args:
        policy: The policy.
        parameters: [task, parameter].
        support: Rollouts of as many tasks.
        loss: Inner loss, see `metarl.policies.losses.inner_loss`.
        step_size: One number, or one for each parameter, [parameter] or [task, parameter].
        first_order: Take the gradient as a constant in the meta-gradient.

    Returns:
        [task, parameter].

    Source: Finn et al. 2017, algorithm 3.
    """
    gradient = policy_gradient(policy, parameters, support, loss)
    return parameters - step_size * (gradient.detach() if first_order else gradient)


def evaluation_scales(num_steps: int) -> tuple[float, ...]:
    """Factors on the step size when adapting: 1, then one half (Finn et al. 2017, appendix A.2)."""
    return (1.0, *[0.5] * num_steps)[:num_steps]
