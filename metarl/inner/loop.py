"""The inner loop as one fold over its stages; training, evaluation and derivatives all go through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Self, TypeVar

import torch
from torch import Tensor

from metarl.common.errors import UserError
from metarl.common.parallel import Workers
from metarl.common.profiling import timed
from metarl.common.statistics import Aggregate
from metarl.data import ExampleBatch, Rollouts, joined_by_name
from metarl.inner.rule import Adaptation, Stage
from metarl.inner.support import PolicyGradientSupport, SupervisedSupport
from metarl.policies.base import require_derivatives
from metarl.policies.losses import InnerLoss


@dataclass(frozen=True)
class InnerLoop:
    """A finished inner loop, with all data to replay it from other meta-parameters.

    Attributes:
        rule: The adaptation rule.
        stages: The stages that were run, from ``rule.stages``.
        meta: Meta-parameters at the start, [meta parameter].
        modes: Mode of each task, [task].
        supports: Support data of each stage; a stage that reuses rollouts shares its predecessor's.
        queries: Query data of each policy in the meta-objective; the last entry is of the adapted policies.
        identities: Each task as numbers, [task, number]; None if the rule does not see tasks.
        traced: The result of `trace`, if the inner loop was run with its graph; None if not.
    """

    rule: Adaptation
    stages: Sequence[Stage]
    meta: Tensor
    modes: Tensor
    supports: Sequence[PolicyGradientSupport | SupervisedSupport]
    queries: Sequence[Rollouts | ExampleBatch]
    identities: Tensor | None = None
    traced: tuple[Tensor, Sequence[Tensor]] | None = None

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return len(self.modes)

    @property
    def query_weights(self) -> list[float]:
        """Weights of the ``queries``; they sum to 1."""
        earlier = [stage.query_weight for stage in self.stages if stage.query_weight]
        return [*earlier, 1 - sum(earlier)]

    def consumed(self) -> Tensor:
        """What adaptation had read of each task before its policy after 0, 1, ... steps, float64 [task, step, 2].

        The last axis is episodes (of supervised tasks, examples) and environment steps. Preparation counts, a support
        that several stages share counts once, and queries do not count.
        """
        total = torch.zeros(self.num_tasks, 2, dtype=torch.float64)
        totals, seen = [total], None
        for stage, support in zip(self.stages, self.supports, strict=True):
            if support is not seen:
                total, seen = total + support.data.amounts().cpu(), support
            if stage.is_step:
                totals.append(total)
        return torch.stack(totals, dim=1)

    def tasks(self, start: int, stop: int) -> InnerLoop:
        """The inner loop of tasks ``start`` to ``stop``."""
        supports = [support.tasks(start, stop) for support in self.supports]
        queries = [query.tasks(start, stop) for query in self.queries]
        modes, identities = self.modes[start:stop], None if self.identities is None else self.identities[start:stop]
        return replace(self, modes=modes, supports=supports, queries=queries, identities=identities, traced=None)

    def pieces(self) -> list[InnerLoop]:
        """The inner loop in pieces that are computed at once: on a CPU single tasks, whose data fit the cache.

        Supervised tasks have few examples; one by one, they would cost more in calls than in arithmetic.
        """
        if self.meta.device.type != "cpu" or any(isinstance(query, ExampleBatch) for query in self.queries):
            return [self]
        return [self.tasks(task, task + 1) for task in range(self.num_tasks)]

    def with_curvature(self, fraction: float) -> InnerLoop:
        """The same inner loop; repeated Jacobian products use this fraction of the support rows, in (0, 1]."""
        if fraction == 1:
            return self
        return replace(self, supports=[support.with_curvature(fraction) for support in self.supports], traced=None)

    def trace(self) -> tuple[Tensor, Sequence[Tensor]]:
        """A copy of ``meta`` that is a leaf of autograd's graph, and the policies of `replay` at it."""
        if self.traced is not None:
            return self.traced
        with torch.enable_grad():
            meta = self.meta.detach().clone().requires_grad_()
            return meta, self.replay(meta)

    def replay(self, meta: Tensor) -> list[Tensor]:
        """The policies before the first stage and after every stage, a list of [task, parameter].

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
        """Selects the replayed policies that correspond to ``queries``, [query, task, parameter]."""
        after = zip(self.stages, policies[1:], strict=True)
        return torch.stack([*(policy for stage, policy in after if stage.query_weight), policies[-1]])


Piece = TypeVar("Piece")
Result = TypeVar("Result")


def over_pieces(workers: Workers, function: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
    """Applies ``function`` to the pieces of every process, in parallel.

    Returns:
        The results of all processes, in the order of their pieces; on the CPU where there are several processes.
    """
    # A single piece needs no other thread, which takes time to wake.
    results = workers.map(function, pieces) if len(pieces) > 1 else [function(piece) for piece in pieces]
    return [result for part in workers.group.gather(results) for result in part]


def added(parts: Sequence[Tensor]) -> Tensor:
    """The sum of the parts, added one by one in their order: its last bits depend on nothing else."""
    total = torch.zeros_like(parts[0])
    for part in parts:
        total += part
    return total


@torch.no_grad()
def observe(loop: InnerLoop, workers: Workers) -> Tensor:
    """The rule's features of each task, [task, feature]; see `Adaptation.observe`."""
    return torch.cat(over_pieces(workers, loop.rule.observe, loop.pieces()))


@dataclass
class Measured:
    """What inner loops measure.

    Attributes:
        returns: Mean return of each task after 0, 1, ... steps, [task, step]; of supervised tasks, error or accuracy on
            the query set.
        modulated_returns: The same between preparation (such as modulation) and first step, [task]; None without
            preparation, or if no rollouts are collected in between.
        env_steps: Environment steps taken; reused rollouts count once. 0 for supervised tasks.
        effective_sample_size: Effective sample size of the likelihood ratios as a share of the number of samples; one
            [task] for every reuse of rollouts.
        dropped: What was wrong with each episode that was dropped.
        num_episodes: Number of episodes that were collected, dropped ones included; 0 for supervised tasks.
        metrics: Mean metrics of each task's episodes by name, as of ``returns``, [task, step].
    """

    returns: Tensor
    modulated_returns: Tensor | None
    env_steps: int = 0
    effective_sample_size: list[Tensor] = field(default_factory=list)
    dropped: Sequence[str] = ()
    num_episodes: int = 0
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    def on_cpu(self) -> Measured:
        """These numbers alone, on the CPU."""
        return Measured(
            self.returns.cpu(),
            None if self.modulated_returns is None else self.modulated_returns.cpu(),
            self.env_steps,
            [size.cpu() for size in self.effective_sample_size],
            self.dropped,
            self.num_episodes,
            {name: values.cpu() for name, values in self.metrics.items()},
        )

    def over_trials(self, trials: int) -> Self:
        """Means of returns and metrics over ``trials`` copies of each task, which follow one another."""

        def mean(values: Tensor) -> Tensor:
            return values.unflatten(0, (-1, trials)).mean(1)

        by_name = {name: mean(values) for name, values in self.metrics.items()}
        return replace(self, returns=mean(self.returns), metrics=by_name)

    @staticmethod
    def joined(parts: Sequence[Measured]) -> Measured:
        """Joins the tasks of several inner loops, in their order."""
        modulated = [part.modulated_returns for part in parts if part.modulated_returns is not None]
        return Measured(
            torch.cat([part.returns for part in parts]),
            torch.cat(modulated) if modulated else None,
            sum(part.env_steps for part in parts),
            [torch.cat(sizes) for sizes in zip(*(part.effective_sample_size for part in parts), strict=True)],
            [what for part in parts for what in part.dropped],
            sum(part.num_episodes for part in parts),
            joined_by_name([part.metrics for part in parts]),
        )


@dataclass(kw_only=True)
class Adapted(Measured):
    """The result of an inner loop with fresh rollouts.

    Attributes:
        loop: The inner loop.
        parameters: The adapted policies, [task, parameter].
    """

    loop: InnerLoop
    parameters: Tensor


@dataclass(frozen=True)
class Timing:
    """Wall seconds of one inner loop, mean over shards.

    Attributes:
        rollout: Simulation, including policies and advantages; of supervised tasks, drawing the examples.
        adaptation: Updates of the task parameters.
    """

    rollout: float
    adaptation: float


@torch.no_grad()
def adapt(
    rule: Adaptation,
    meta: Tensor,
    stages: Sequence[Stage],
    modes: Tensor,
    collect: Callable[[Tensor, int, int | None], Rollouts],
    loss: InnerLoss,
    each_task: bool = True,
    metrics: Mapping[str, Aggregate] = MappingProxyType({}),
) -> Adapted:
    """Runs the inner loop; collects rollouts for its stages and, at the end, with the adapted policies.

    Args:
        rule: The adaptation rule.
        meta: Meta-parameters, [meta parameter].
        stages: The inner loop, from ``rule.stages``.
        modes: Mode of each task, [task].
        collect: Called with the policies [task, parameter], the number of the phase and the number of episodes per
            task (None for the run's setting); returns rollouts of all tasks.
        loss: Inner loss, see `metarl.policies.losses.inner_loss`.
        each_task: Update the tasks one by one instead of all at once: on a CPU, one task's data fit the core's cache.
        metrics: The family's metrics.
    """
    parameters = rule.start(meta, modes).contiguous()
    supports: list[PolicyGradientSupport] = []
    queries: list[Rollouts] = []
    returns: list[Tensor] = []
    measured: list[dict[str, Tensor]] = []
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
        # Only the first rollouts after a step measure it, not further rollouts of the same policies.
        if len(returns) == num_steps:
            returns.append(rollouts.mean_returns())
            measured.append(rollouts.mean_metrics(metrics))
        return rollouts

    for stage in stages:
        if stage.rollouts == 0:
            if not supports:
                raise UserError("the first stage has no rollouts before it to use again; leave out its rollouts=0.")
            if len(returns) == num_steps:  # Else no return would belong to the step before.
                collect_next()
            support = supports[-1]
            with timed("effective sample size"):
                sizes.append(_effective_sample_size(policies(), support))
        else:
            support = PolicyGradientSupport(rule.policy, collect_next(stage.rollouts), loss)
            if supports and num_steps == 0:
                modulated = support.rollouts.mean_returns()
        supports.append(support)
        with timed("adaptation"):
            parameters = _update(stage, meta, parameters, support, each_task)
        num_steps += stage.is_step
        if stage.query_weight:
            queries.append(collect_next())
    queries.append(collect_next())
    loop = InnerLoop(rule, stages, meta, modes, supports, queries)
    by_name = {name: torch.stack([step[name] for step in measured], dim=1) for name in metrics}
    stacked = torch.stack(returns, dim=1)
    return Adapted(stacked, modulated, env_steps, sizes, metrics=by_name, loop=loop, parameters=policies())


def _update(stage: Stage, meta: Tensor, parameters: Tensor, support: PolicyGradientSupport, each_task: bool) -> Tensor:
    if not each_task:
        return stage.update(meta, parameters, support)
    tasks = range(support.num_tasks)
    return torch.cat([stage.update(meta, parameters[i : i + 1], support.tasks(i, i + 1)) for i in tasks])


_LARGE_LOG_RATIO = 300.0  # Its exponential, and the square of that, are still numbers.


def _effective_sample_size(parameters: Tensor, support: PolicyGradientSupport) -> Tensor:
    """(sum w)^2 / sum w^2 of the weights w, as a share of the number of samples, [task]; 1 on policy.

    A step's weight is its likelihood ratio; in the loss ``dice`` it is the product of those of its episode so far.
    """
    samples = support.samples
    log_prob = require_derivatives(support.policy).log_prob(parameters, samples.observations, samples.actions)
    alive = samples.weights > 0
    log_ratio = torch.where(alive, (log_prob - samples.log_probs).double(), 0.0)
    if support.loss == "dice":
        log_ratio = log_ratio.unflatten(1, (-1, samples.episode_length)).cumsum(2).flatten(1)
    log_ratio = torch.where(alive, log_ratio, -math.inf)
    # A common factor of the ratios changes nothing, but without it they could all overflow, or all vanish.
    largest = log_ratio.amax(1, keepdim=True)
    ratio = torch.exp(log_ratio - torch.where(largest.abs() > _LARGE_LOG_RATIO, largest, 0.0))
    return ratio.sum(1) ** 2 / ((ratio**2).sum(1) * alive.sum(1))
