"""What an adaptation rule is, and the one fold of the inner loop that everything else goes through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metarl.gradients import policy_gradient
from metarl.losses import InnerLoss
from metarl.policies import Policy
from metarl.profiling import timed
from metarl.types import Rollouts


@dataclass(frozen=True)
class Stage:
    """One part of the inner loop.

    Attributes:
        update: Maps (meta-parameters [meta parameter], task parameters [task, parameter], support rollouts) to the next
            task parameters; differentiable in the first two, inputs not modified.
        reuse: Whether the update takes the previous stage's rollouts again instead of fresh ones.
        gradient_step: Whether the update counts as a gradient step in reports.
    """

    update: Callable[[Tensor, Tensor, Rollouts], Tensor]
    reuse: bool = False
    gradient_step: bool = True


class Adaptation(ABC):
    """An adaptation rule: maps meta-parameters and support rollouts to task parameters, in stages.

    Args:
        policy: The policy whose parameters are adapted.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @abstractmethod
    def initial(self, generator: np.random.Generator) -> Tensor:
        """Fresh meta-parameters, float32 [meta parameter]."""

    @abstractmethod
    def start(self, meta: Tensor, num_tasks: int) -> Tensor:
        """Task parameters before adaptation, [task, parameter]."""

    @abstractmethod
    def stages(self, step_scales: Sequence[float]) -> list[Stage]:
        """The inner loop.

        Args:
            step_scales: One factor on the step size for each gradient step: (1,) trains with one step, (1, 0.5, 0.5)
                adapts with three, the later ones half as long (Finn et al. 2017, appendix A.2).
        """

    def observe(self, meta: Tensor, supports: Sequence[Rollouts]) -> Tensor:
        """What the rule saw of each task, [task, feature], for `describe` and `after_meta_step`.

        Args:
            meta: Meta-parameters.
            supports: Each stage's rollouts, of some of the tasks.
        """
        return meta.new_zeros(supports[0].num_tasks if supports else 1, 0)

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        """Numbers worth logging about the latest adaptation, from what was observed of all tasks [task, feature]."""
        return {}

    def after_meta_step(self, meta: Tensor, observed: Tensor) -> Tensor:
        """Meta-parameters with what the meta-gradient does not move brought up to date, such as running statistics."""
        return meta


def fold(
    rule: Adaptation, meta: Tensor, stages: Sequence[Stage], supports: Sequence[Rollouts], num_tasks: int
) -> Tensor:
    """Replays the inner loop on stored rollouts.

    Args:
        rule: The adaptation rule.
        meta: Meta-parameters, [meta parameter].
        stages: The inner loop, from ``rule.stages``.
        supports: The rollouts of each stage.
        num_tasks: Number of tasks.

    Returns:
        Adapted parameters, [task, parameter]; differentiable with respect to ``meta``. Without stages, the start.
    """
    parameters = rule.start(meta, num_tasks)
    for stage, support in zip(stages, supports, strict=True):
        parameters = stage.update(meta, parameters, support)
    return parameters


@dataclass
class Adapted:
    """What an inner loop with fresh rollouts produced.

    Attributes:
        parameters: Adapted parameters, [task, parameter].
        supports: The rollouts of each stage; a stage that reuses rollouts has its predecessor's.
        query: Rollouts of the adapted policies.
        returns: Mean return of each task after 0, 1, ... gradient steps, [task, step].
        env_steps: Environment steps taken, all rollouts counted once.
        effective_sample_size: Of the likelihood ratios wherever rollouts were reused, as a share of their number: for
            each reuse [task].
    """

    parameters: Tensor
    supports: list[Rollouts] = field(default_factory=list)
    query: Rollouts = field(init=False)
    returns: Tensor = field(init=False)
    env_steps: int = 0
    effective_sample_size: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def adapt(
    rule: Adaptation,
    meta: Tensor,
    stages: Sequence[Stage],
    num_tasks: int,
    collect: Callable[[Tensor, int], Rollouts],
    each_task: bool = True,
) -> Adapted:
    """Runs the inner loop, collecting rollouts between the stages and with the adapted policies.

    Args:
        rule: The adaptation rule.
        meta: Meta-parameters, [meta parameter].
        stages: The inner loop, from ``rule.stages``.
        num_tasks: Number of tasks.
        collect: Called with task parameters and the phase's number; returns rollouts of all tasks.
        each_task: Update the tasks one by one (in the core's cache, on a CPU) instead of all at once.
    """
    result = Adapted(rule.start(meta, num_tasks).contiguous())
    returns: list[Tensor] = []
    phase, num_steps = 0, 0

    def collect_next() -> Rollouts:
        nonlocal phase
        rollouts = collect(result.parameters, phase)
        phase += 1
        result.env_steps += rollouts.env_steps
        if len(returns) == num_steps:
            returns.append(rollouts.mean_returns())
        return rollouts

    for stage in stages:
        if stage.reuse:
            support = result.supports[-1]
            with timed("effective sample size"):
                result.effective_sample_size.append(_effective_sample_size(rule.policy, result.parameters, support))
        else:
            support = collect_next()
        result.supports.append(support)
        with timed("adaptation"):
            result.parameters = _update(stage, meta, result.parameters, support, each_task)
        num_steps += stage.gradient_step
    result.query = collect_next()
    result.returns = torch.stack(returns, dim=1)
    return result


def _update(stage: Stage, meta: Tensor, parameters: Tensor, support: Rollouts, each_task: bool) -> Tensor:
    if not each_task:
        return stage.update(meta, parameters, support)
    tasks = range(support.num_tasks)
    return torch.cat([stage.update(meta, parameters[i : i + 1], support.tasks(i, i + 1)) for i in tasks])


def _effective_sample_size(policy: Policy, parameters: Tensor, support: Rollouts) -> Tensor:
    """(sum w)^2 / sum w^2 as a share of the number of samples, [task]; 1 on policy."""
    samples = support.samples
    outputs = policy.outputs(parameters, samples.observations)
    log_prob = policy.distribution.log_prob(outputs, policy.extra(parameters), samples.actions)
    alive = samples.weights > 0
    ratio = torch.exp((log_prob - samples.log_probs).double()) * alive
    return ratio.sum(1) ** 2 / ((ratio**2).sum(1) * alive.sum(1))


@dataclass(frozen=True)
class GradientStep:
    """One policy-gradient step for each task: theta'_i = theta_i - lr * grad L_i(theta_i).

    Attributes:
        policy: The policy.
        lr: Step size.
        loss: Inner loss, ``ratio`` or ``score``.
        first_order: Take the gradient as a constant in the meta-gradient.

    Source: Finn et al. 2017, algorithm 3.
    """

    policy: Policy
    lr: float
    loss: InnerLoss
    first_order: bool = False

    def __call__(self, parameters: Tensor, support: Rollouts, scale: float) -> Tensor:
        """Adapted parameters [task, parameter] after a step of length ``scale * lr``."""
        gradient = policy_gradient(self.policy, parameters, support, self.loss)
        return parameters - scale * self.lr * (gradient.detach() if self.first_order else gradient)

    def stage(self, scale: float) -> Stage:
        """The step as a stage of the inner loop, with fresh rollouts."""
        return Stage(lambda meta, parameters, support: self(parameters, support, scale))


def evaluation_scales(num_steps: int) -> tuple[float, ...]:
    """Factors on the step size when adapting: 1, then one half (Finn et al. 2017, appendix A.2)."""
    return (1.0, *[0.5] * num_steps)[:num_steps]
