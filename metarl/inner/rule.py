"""The interface of adaptation rules: a sequence of stages that map support data to task parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metarl.common.errors import UserError, shown
from metarl.inner.support import Support
from metarl.policies.base import Acting, Policy, require_derivatives
from metarl.policies.normaliser import Normaliser

if TYPE_CHECKING:
    from metarl.inner.loop import InnerLoop

UNKNOWN_MODE = -1
"""Marks a task whose mode is unknown."""


class StageKind(Enum):
    """The kind of a stage."""

    GRADIENT_STEP = auto()
    """A gradient step of the inner loop; partial adaptation may restrict it to some tensors."""
    STEP = auto()
    """Any other step of the inner loop."""
    PREPARATION = auto()
    """Comes before the steps, such as attenuation; reports do not count it."""


@dataclass(frozen=True)
class Stage:
    """One part of the inner loop.

    Attributes:
        update: Maps (meta-parameters [meta parameter], task parameters [task, task parameter], support) to the next
            task parameters; differentiable in the first two, inputs not modified.
        rollouts: Episodes per task that the update needs: None for the run's setting, 0 to reuse the previous stage's.
            After a step, 0 still collects episodes, to measure that step.
        kind: The kind of the update.
        query_weight: Weight of the policies after this stage in the meta-objective (multi-step loss); if it is not 0,
            they get query rollouts of their own. The adapted policies get the rest of the total weight 1. The last
            stage must keep 0.
        kl_weight: Weight, in TRPO's trust region, of the KL divergence of the policies before this stage, measured on
            its support; the adapted policies' has weight 1.
        kl_penalty: Weight, in TRPO's loss, of the mean KL divergence from the policies before this stage to those after
            it, on its support. Give ``kl_weight`` too: TRPO's step overshoots what its trust region does not see.
        reads: The fewest episodes per task that the update can do with.
    """

    update: Callable[[Tensor, Tensor, Support], Tensor]
    rollouts: int | None = None
    kind: StageKind = StageKind.GRADIENT_STEP
    query_weight: float = 0.0
    kl_weight: float = 0.0
    kl_penalty: float = 0.0
    reads: int = 1

    @property
    def is_step(self) -> bool:
        """Whether reports count the update as a step."""
        return self.kind is not StageKind.PREPARATION


def needs_every_episode(stages: Sequence[Stage]) -> bool:
    """Whether a stage reads a single episode of each task, so that none can be left out."""
    return any(stage.rollouts == 1 for stage in stages)


def fewest_episodes(stages: Sequence[Stage]) -> int:
    """The fewest episodes per task that the run's setting must ask for, so that each stage has what it reads."""
    fewest, by_setting = 1, False
    for stage in stages:
        if stage.rollouts != 0:
            by_setting = stage.rollouts is None
        if by_setting:
            fewest = max(fewest, stage.reads)
    return fewest


class Adaptation(ABC):
    """An adaptation rule: maps meta-parameters and support data to task parameters, in stages.

    A task's parameters begin with its policy's; a rule may append values that its later stages need.

    Args:
        policy: The policy whose parameters are adapted.
        num_meta: Number of meta-parameters; `initialisation` says which of them form the initial policies.
    """

    exact: bool = True
    """Whether the stages' derivatives are exact; False for first-order rules, which omit the Hessian on purpose."""
    remembers: bool = False
    """Whether what adapts is a memory, which a step reads one episode into, while all tasks share the weights."""

    sees_tasks: bool = False
    """Whether training, and nothing else, shows it the tasks as numbers (`metarl.envs.Family.flat_tasks`)."""

    def __init__(self, policy: Policy, num_meta: int) -> None:
        self.policy, self.num_meta = policy, num_meta

    @property
    def adapted(self) -> Sequence[str]:
        """Names of the policy's tensors that gradient steps change; by default all."""
        return self.policy.layout.names

    @property
    def core(self) -> Adaptation:
        """The innermost rule, if rules are wrapped; its meta-parameters come first."""
        return self

    @property
    def step_name(self) -> str:
        """The name of an inner step in reports."""
        return "gradient step"

    @abstractmethod
    def initial(self, generator: np.random.Generator) -> Tensor:
        """Fresh meta-parameters, float32 [meta parameter]."""

    def initialisation(self, modes: Tensor) -> Tensor:
        """Indices of the meta-parameters in each task's initial policy theta, [task, parameter]; by default the first.

        Args:
            modes: The mode of the task distribution that each task comes from, integers on the CPU [task];
                `UNKNOWN_MODE` where it is not known.
        """
        return torch.arange(self.policy.layout.size).expand(len(modes), -1)

    def start(self, meta: Tensor, modes: Tensor) -> Tensor:
        """Task parameters before adaptation, [task, task parameter]; by default the first meta-parameters."""
        return meta[: self.policy.layout.size].expand(len(modes), -1)

    @abstractmethod
    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        """The inner loop.

        Args:
            step_scales: One factor on the step size for each gradient step, learned step sizes included: (1,) is one
                step, (1, 0.5, 0.5) is three of which the last two are half as long (see `evaluation_scales`).
            iteration: Number of meta-iterations done, for rules that change during training. None if no meta-step
                follows: the stages then omit everything that only training needs.
        """

    def begin(self, meta: Tensor, parameters: Tensor) -> Acting:
        """Begins an episode, or several side by side, with each task's policy.

        Args:
            meta: Meta-parameters, [meta parameter].
            parameters: The policies' parameters, [task, parameter].
        """
        return require_derivatives(self.policy).begin(parameters)

    def normaliser(self, meta: Tensor) -> Normaliser | None:
        """How the policies' observations are normalised; by default not at all."""
        return None

    def observe(self, loop: InnerLoop) -> Tensor:
        """The rule's features of each task, [task, feature]; input of `describe` and `after_meta_step`.

        Args:
            loop: The inner loop of some of the tasks.
        """
        return loop.meta.new_zeros(loop.num_tasks, 0)

    @property
    def observed(self) -> Mapping[str, slice]:
        """Named columns of the features that `observe` returns; reports leave out columns without a name."""
        return {}

    def attenuation(self, meta: Tensor, observed: Tensor) -> Tensor | None:
        """The mean factor by which the rule scales each tensor of the initialisation.

        Args:
            meta: Meta-parameters, [meta parameter].
            observed: The result of `observe`, [task, feature].

        Returns:
            [task, tensor]; None if the rule does not attenuate.
        """
        return None

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        """Numbers to log about the latest adaptation; ``observed`` holds the features of all tasks, [task, feature]."""
        return {}

    def after_meta_step(self, meta: Tensor, observed: Tensor) -> Tensor:
        """Updates the meta-parameters that have no meta-gradient, such as running statistics."""
        return meta


class WrappedAdaptation(Adaptation):
    """A rule around another rule; delegates to it whatever a subclass does not override.

    Args:
        rule: The other rule.
        num_meta: Number of meta-parameters; by default the other rule's.
    """

    def __init__(self, rule: Adaptation, num_meta: int | None = None) -> None:
        super().__init__(rule.policy, rule.num_meta if num_meta is None else num_meta)
        self._rule, kind = rule, type(self)
        self.exact, self.remembers = kind.exact and rule.exact, kind.remembers or rule.remembers
        self.sees_tasks = kind.sees_tasks or rule.sees_tasks

    @property
    def adapted(self) -> Sequence[str]:
        return self._rule.adapted

    @property
    def core(self) -> Adaptation:
        return self._rule.core

    @property
    def step_name(self) -> str:
        return self._rule.step_name

    def initial(self, generator: np.random.Generator) -> Tensor:
        return self._rule.initial(generator)

    def initialisation(self, modes: Tensor) -> Tensor:
        return self._rule.initialisation(modes)

    def start(self, meta: Tensor, modes: Tensor) -> Tensor:
        return self._rule.start(self._of_rule(meta), modes)

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        return [self._stage_of_rule(stage) for stage in self._rule.stages(step_scales, iteration)]

    def begin(self, meta: Tensor, parameters: Tensor) -> Acting:
        return self._rule.begin(self._of_rule(meta), parameters)

    def normaliser(self, meta: Tensor) -> Normaliser | None:
        return self._rule.normaliser(self._of_rule(meta))

    def observe(self, loop: InnerLoop) -> Tensor:
        return self._rule.observe(replace(loop, rule=self._rule, meta=self._of_rule(loop.meta)))

    @property
    def observed(self) -> Mapping[str, slice]:
        return self._rule.observed

    def attenuation(self, meta: Tensor, observed: Tensor) -> Tensor | None:
        return self._rule.attenuation(self._of_rule(meta), observed)

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        return self._rule.describe(self._of_rule(meta), observed)

    def after_meta_step(self, meta: Tensor, observed: Tensor) -> Tensor:
        of_rule = self._rule.after_meta_step(self._of_rule(meta), observed)
        return torch.cat([of_rule, meta[self._rule.num_meta :]])

    def _of_rule(self, meta: Tensor) -> Tensor:
        """The other rule's meta-parameters, which come first."""
        return meta[: self._rule.num_meta]

    def _stage_of_rule(self, stage: Stage) -> Stage:
        """A stage of the other rule that takes the meta-parameters of this one."""

        def update(meta: Tensor, parameters: Tensor, support: Support) -> Tensor:
            return stage.update(self._of_rule(meta), parameters, support)

        return replace(stage, update=update)


def before_others(observed: Mapping[str, slice], appended: int) -> dict[str, slice]:
    """Named columns of features, as of `Adaptation.observed`, where ``appended`` other columns follow all of them."""

    def moved(end: int | None) -> int | None:
        return end - appended if end is not None and end < 0 else end

    return {
        name: slice(moved(columns.start), -appended if columns.stop is None else moved(columns.stop))
        for name, columns in observed.items()
    }


def report_of(rule: Adaptation, meta: Tensor, observed: Tensor) -> dict[str, float]:
    """The rule's `Adaptation.describe`; raises UserError unless it is numbers by name."""
    report: object = rule.describe(meta, observed)
    if not isinstance(report, Mapping):
        raise UserError(f"the rule's `describe` must return a dictionary of numbers by name, got {shown(report)}.")
    return numbers_of(report, "the rule's `describe` must return numbers")


def numbers_of(report: Mapping[str, Any], wanted: str) -> dict[str, float]:
    """A report as Python's numbers; raises UserError, which begins with ``wanted``, for what is no single number."""
    numbers: dict[str, float] = {}
    for name, value in report.items():
        try:
            numbers[name] = value if type(value) in (int, float) else float(value)
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"{wanted}, got {shown(value)} for {name!r}.") from None
    return numbers


def updated_meta(rule: Adaptation, meta: Tensor, observed: Tensor) -> Tensor:
    """The rule's `Adaptation.after_meta_step`; raises UserError unless it has the shape of ``meta``."""
    after: object = rule.after_meta_step(meta, observed)
    if not isinstance(after, Tensor) or after.shape != meta.shape:
        got = tuple(after.shape) if isinstance(after, Tensor) else shown(after)
        raise UserError(f"the rule's `after_meta_step` must return the {len(meta)} meta-parameters, got {got}.")
    return after


def evaluation_scales(num_steps: int, trained_steps: int, wanted: Sequence[float] = ()) -> tuple[float, ...]:
    """Factors on the step size outside of training: 1 for the steps that were trained, one half for later ones.

    With one trained step these are 1, 1/2, 1/2, ... (Finn et al. 2017, appendix A.2). The first step always has 1.

    Args:
        num_steps: Steps to take.
        trained_steps: Steps of the inner loop in training.
        wanted: Factors of the first steps to take instead; the last one holds for all later steps.
    """
    factors = tuple(wanted) or (1.0,) * max(trained_steps, 1) + (0.5,)
    return tuple(factors[min(step, len(factors) - 1)] for step in range(num_steps))
