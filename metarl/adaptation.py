"""What an adaptation rule is, and the one fold of the inner loop that everything else goes through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from metarl.gradients import policy_gradient
from metarl.losses import InnerLoss
from metarl.parallel import Workers
from metarl.policies import Policy
from metarl.profiling import timed
from metarl.types import Rollouts

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

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        """Numbers worth logging about the latest adaptation, from what was observed of all tasks [task, feature]."""
        return {}

    def after_meta_step(self, meta: Tensor, observed: Tensor) -> Tensor:
        """Meta-parameters with what the meta-gradient does not move brought up to date, such as running statistics."""
        return meta


@dataclass(frozen=True)
class InnerLoop:
    """A finished inner loop, with all that is needed to replay it from other meta-parameters.

    Attributes:
        rule: The adaptation rule.
        stages: The inner loop that was run, from ``rule.stages``.
        meta: The meta-parameters that it started from, [meta parameter].
        modes: Mode of each task, [task].
        supports: The rollouts of each stage; a stage that reuses rollouts has its predecessor's.
        queries: Rollouts of each policy in the meta-objective; the last are the adapted policies'.
    """

    rule: Adaptation
    stages: Sequence[Stage]
    meta: Tensor
    modes: Tensor
    supports: Sequence[Rollouts]
    queries: Sequence[Rollouts]

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return len(self.modes)

    @property
    def query_weights(self) -> list[float]:
        """Weight of each of the ``queries``; they sum to 1."""
        earlier = [stage.query_weight for stage in self.stages if stage.query_weight]
        return [*earlier, 1 - sum(earlier)]

    def tasks(self, start: int, stop: int) -> InnerLoop:
        """The inner loop of tasks ``start`` to ``stop``."""
        supports, queries = ([r.tasks(start, stop) for r in kind] for kind in (self.supports, self.queries))
        return replace(self, modes=self.modes[start:stop], supports=supports, queries=queries)

    def replay(self, meta: Tensor) -> list[Tensor]:
        """The policies before each stage and after the last, each [task, parameter].

        Args:
            meta: Meta-parameters, [meta parameter]; the policies are differentiable with respect to them.
        """
        size, parameters = self.rule.policy.layout.size, self.rule.start(meta, self.modes)
        policies = [parameters[:, :size]]
        for stage, support in zip(self.stages, self.supports, strict=True):
            parameters = stage.update(meta, parameters, support)
            policies.append(parameters[:, :size])
        return policies

    def queried(self, policies: Sequence[Tensor]) -> Tensor:
        """Those of the replayed policies that ``queries`` are rollouts of, [query, task, parameter]."""
        after = zip(self.stages, policies[1:], strict=True)
        return torch.stack([*(policy for stage, policy in after if stage.query_weight), policies[-1]])


@torch.no_grad()
def observe(loop: InnerLoop, workers: Workers) -> Tensor:
    """What the rule saw of each task, [task, feature]; see `Adaptation.observe`."""
    one_by_one = [loop.tasks(task, task + 1) for task in range(loop.num_tasks)]
    return torch.cat(workers.map(loop.rule.observe, one_by_one))


@dataclass
class Adapted:
    """What an inner loop with fresh rollouts produced.

    Attributes:
        loop: The inner loop.
        parameters: The adapted policies, [task, parameter].
        returns: Mean return of each task after 0, 1, ... gradient steps, [task, step].
        modulated_returns: Mean return of each task after what precedes the first gradient step (such as modulation),
            [task]; None where nothing does, or where its rollouts are not measured.
        env_steps: Environment steps taken, all rollouts counted once.
        effective_sample_size: Of the likelihood ratios wherever rollouts were reused, as a share of their number: for
            each reuse [task].
    """

    loop: InnerLoop
    parameters: Tensor
    returns: Tensor
    modulated_returns: Tensor | None
    env_steps: int
    effective_sample_size: list[Tensor]


@torch.no_grad()
def adapt(
    rule: Adaptation,
    meta: Tensor,
    stages: Sequence[Stage],
    modes: Tensor,
    collect: Callable[[Tensor, int, int | None], Rollouts],
    each_task: bool = True,
) -> Adapted:
    """Runs the inner loop, collecting rollouts between the stages and with the adapted policies.

    Args:
        rule: The adaptation rule.
        meta: Meta-parameters, [meta parameter].
        stages: The inner loop, from ``rule.stages``.
        modes: Mode of each task, [task].
        collect: Called with the policies [task, parameter], the phase's number and how many episodes of each task
            (None: as set); returns rollouts of all tasks.
        each_task: Update the tasks one by one (in the core's cache, on a CPU) instead of all at once.
    """
    parameters = rule.start(meta, modes).contiguous()
    supports: list[Rollouts] = []
    queries: list[Rollouts] = []
    returns: list[Tensor] = []
    sizes: list[Tensor] = []
    modulated: Tensor | None = None
    phase = num_steps = env_steps = 0

    def policies() -> Tensor:
        return parameters[:, : rule.policy.layout.size]

    def collect_next(rollouts_per_task: int | None = None) -> Rollouts:
        nonlocal phase, env_steps
        rollouts = collect(policies(), phase, rollouts_per_task)
        phase += 1
        env_steps += rollouts.env_steps
        if len(returns) == num_steps:
            returns.append(rollouts.mean_returns())
        return rollouts

    for stage in stages:
        if stage.rollouts == 0:
            support = supports[-1]
            with timed("effective sample size"):
                sizes.append(_effective_sample_size(rule.policy, policies(), support))
        else:
            support = collect_next(stage.rollouts)
            if supports and num_steps == 0:
                modulated = support.mean_returns()
        supports.append(support)
        with timed("adaptation"):
            parameters = _update(stage, meta, parameters, support, each_task)
        num_steps += stage.gradient_step
        if stage.query_weight:
            queries.append(collect_next())
    queries.append(collect_next())
    loop = InnerLoop(rule, stages, meta, modes, supports, queries)
    return Adapted(loop, policies(), torch.stack(returns, dim=1), modulated, env_steps, sizes)


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
        loss: Inner loss, see `metarl.losses.inner_loss`.
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
