"""What an adaptation rule is: a sequence of stages that map support data to task parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from metarl.inner.support import Support
from metarl.policies.base import DifferentiablePolicy

if TYPE_CHECKING:
    from metarl.inner.loop import InnerLoop

UNKNOWN_MODE = -1
"""Marks a task whose mode is unknown."""


class StageKind(Enum):
    """What a stage counts as."""

    GRADIENT_STEP = auto()
    """A step of the inner loop along a gradient, which partial adaptation may restrict."""
    STEP = auto()
    """Another step of the inner loop."""
    PREPARATION = auto()
    """Precedes the steps, such as attenuation, and is not counted in reports."""


@dataclass(frozen=True)
class Stage:
    """One part of the inner loop.

    Attributes:
        update: Maps (meta-parameters [meta parameter], task parameters [task, task parameter], support) to the next
            task parameters; differentiable in the first two, inputs not modified.
        rollouts: Episodes of each task that the update wants: None for as many as the run is set to, 0 for the previous
            stage's again.
        kind: What the update counts as.
        query_weight: Weight in the meta-objective of the policies after this stage, which get query rollouts of their
            own (multi-step loss); the adapted policies' weight is what is left of 1. Not for the last stage.
    """

    update: Callable[[Tensor, Tensor, Support], Tensor]
    rollouts: int | None = None
    kind: StageKind = StageKind.GRADIENT_STEP
    query_weight: float = 0.0

    @property
    def is_step(self) -> bool:
        """Whether reports count the update as a step."""
        return self.kind is not StageKind.PREPARATION


class Adaptation(ABC):
    """An adaptation rule: maps meta-parameters and support data to task parameters, in stages.

    The first of a task's parameters are its policy's; what a rule appends to them is for its own later stages.

    Args:
        policy: The policy whose parameters are adapted.
        num_meta: Number of meta-parameters; `initialisation` says which of them are policies.
    """

    exact: bool = True
    """Whether derivatives of the stages leave nothing out; first-order rules leave out the Hessian, on purpose."""

    def __init__(self, policy: DifferentiablePolicy, num_meta: int) -> None:
        self.policy, self.num_meta = policy, num_meta

    @property
    def adapted(self) -> Sequence[str]:
        """Names of the policy's tensors that gradient steps change; by default all."""
        return self.policy.layout.names

    @property
    def step_name(self) -> str:
        """What reports call a step of the inner loop."""
        return "gradient step"

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


class WrappedAdaptation(Adaptation):
    """A rule around another one, which does what is not overridden.

    Args:
        rule: The other rule.
        num_meta: Number of meta-parameters; by default the other rule's.
    """

    def __init__(self, rule: Adaptation, num_meta: int | None = None) -> None:
        super().__init__(rule.policy, rule.num_meta if num_meta is None else num_meta)
        self._rule, self.exact = rule, rule.exact

    @property
    def adapted(self) -> Sequence[str]:
        return self._rule.adapted

    @property
    def step_name(self) -> str:
        return self._rule.step_name

    def initial(self, generator: np.random.Generator) -> Tensor:
        return self._rule.initial(generator)

    def initialisation(self, modes: Tensor) -> Tensor:
        return self._rule.initialisation(modes)

    def start(self, meta: Tensor, modes: Tensor) -> Tensor:
        return self._rule.start(meta, modes)

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        return self._rule.stages(step_scales, iteration)

    def observe(self, loop: InnerLoop) -> Tensor:
        return self._rule.observe(loop)

    @property
    def observed(self) -> Mapping[str, slice]:
        return self._rule.observed

    def attenuation(self, meta: Tensor, observed: Tensor) -> Tensor | None:
        return self._rule.attenuation(meta, observed)

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        return self._rule.describe(meta, observed)

    def after_meta_step(self, meta: Tensor, observed: Tensor) -> Tensor:
        return self._rule.after_meta_step(meta, observed)


def evaluation_scales(num_steps: int) -> tuple[float, ...]:
    """Factors on the step size when adapting: 1, then one half (Finn et al. 2017, appendix A.2)."""
    return (1.0, *[0.5] * num_steps)[:num_steps]
