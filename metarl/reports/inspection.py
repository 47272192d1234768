"""Inspects a rule by one inner loop per task: conflict, attenuation, smoothness, reuse of representations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.common.arrays import Floats
from metarl.common.parallel import Workers
from metarl.data import ExampleBatch, Rollouts, Samples
from metarl.inner.differentiable import GraphJacobian
from metarl.inner.loop import InnerLoop, observe
from metarl.inner.memory import MemoryRule, episodes, trials_of
from metarl.inner.rule import Adaptation
from metarl.inner.support import PolicyGradientSupport, SupervisedSupport
from metarl.policies.base import DifferentiablePolicy, Policy, require_derivatives
from metarl.policies.layout import Layout
from metarl.policies.losses import InnerLoss, inner_loss
from metarl.reports.measures import (
    Line,
    Summary,
    along_step,
    angles_to_sum,
    linear_cka,
    mean_cca,
    mean_of_finite,
    over_tasks,
    unrelated_angle,
    with_interval,
)
from metarl.reports.results import (
    Angles,
    Attenuation,
    Conflict,
    Inspection,
    Landscape,
    Moved,
    Movement,
    Representations,
    Similarity,
)

FRACTIONS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Points along an inner step at which the inner loss is evaluated, as multiples of the step."""


def inspect(loop: InnerLoop, workers: Workers, independent: bool = True) -> Inspection:
    """Everything that one inner loop per task shows about a rule's meta-parameters.

    Args:
        loop: The inner loop of all tasks.
        workers: Threads.
        independent: Whether the tasks are independent draws, so that intervals over tasks make sense.
    """
    rule, layout = loop.rule, loop.rule.policy.layout
    if rule.remembers:
        parts = ("conflict", "attenuation", "landscape", "representations", "movement")
        none = dict.fromkeys(parts)
        return Inspection(**none, left_out=dict.fromkeys(parts, "the agent has a memory and takes no gradient steps"))
    groups = _tasks_by_start(rule, loop.modes)
    num_episodes = min(loop.queries[-1].num_parts, min(map(len, groups), default=0))
    tasks = [loop.tasks(i, i + 1) for i in range(loop.num_tasks)]
    inspected = workers.map(partial(_inspect_task, num_episodes=num_episodes), tasks)
    gradients = np.stack([task.gradients for task in inspected])
    gamma = rule.attenuation(loop.meta, observe(loop, workers)) if loop.supports else None
    conflicting, moving = bool(groups and gradients.any()), any(task.steps_move for task in inspected)
    representations = _representations(inspected) if moving else None
    left_out: dict[str, str] = {}
    if not conflicting:
        left_out["conflict"] = "all gradients are zero" if groups else "no two tasks start from the same parameters"
    if gamma is None:
        left_out["attenuation"] = "the rule does not attenuate"
    if not moving:
        left_out |= dict.fromkeys(("landscape", "representations", "movement"), "no gradient step changes the policy")
    if representations and not np.isfinite(representations.start.cka.per_task).any():
        left_out["similarity"] = "what the layers make of the observations does not vary"
    return Inspection(
        conflict=conflict(gradients, groups, layout, independent) if conflicting else None,
        attenuation=None if gamma is None else Attenuation(gamma=over_tasks(gamma.double().numpy())),
        landscape=_landscape([task.lines for task in inspected]) if moving else None,
        representations=representations,
        movement=_movement(inspected, layout) if moving else None,
        left_out=left_out,
    )


@dataclass(frozen=True)
class _Inspected:
    """The inspection of one task's inner loop.

    Attributes:
        gradients: Meta-gradients by the task's initial parameters, [1 + episode, parameter]: of the whole query loss,
            then of single query episodes.
        policies: Policies [parameter] by name: at the start, before the gradient steps if something precedes them, and
            adapted.
        lines: The inner loss along each gradient step.
        similarity: (CKA, CCA) with the adapted policy, by name of the earlier policy and of the representation.
    """

    gradients: Floats
    policies: dict[str, Floats]
    lines: list[Line]
    similarity: dict[str, dict[str, tuple[float, float]]]

    @property
    def steps_move(self) -> bool:
        """Whether the gradient steps change the policy."""
        before = self.policies.get("gradient_steps", self.policies["start"])
        return bool(self.lines and (self.policies["adapted"] != before).any())


def _inspect_task(loop: InnerLoop, num_episodes: int) -> _Inspected:
    policy, samples = require_derivatives(loop.rule.policy), loop.queries[-1].samples
    start = loop.rule.initialisation(loop.modes)[0]
    parts = ([_part(query, number, num_episodes) for query in loop.queries] for number in range(num_episodes))
    choices: list[Sequence[_Data]] = [loop.queries, *parts]
    gradients = meta_gradients(loop, choices)[:, start]
    with torch.no_grad():
        policies = loop.replay(loop.meta)
        steps = [i for i, stage in enumerate(loop.stages) if stage.is_step]
        lines = [_along(policy, policies[i], policies[i + 1], loop.supports[i]) for i in steps]
        observed = samples.observations[0][samples.weights[0] > 0]
        compared = {"start": policies[0]}
        if steps and steps[0] > 0:
            compared["gradient_steps"] = policies[steps[0]]
        after = policy.activations(policies[-1][0], observed)
        similarity = {name: _similarity(policy.activations(p[0], observed), after) for name, p in compared.items()}
    compared["adapted"] = policies[-1]
    return _Inspected(
        gradients.double().numpy(), {name: p[0].double().numpy() for name, p in compared.items()}, lines, similarity
    )


class _Selected(NamedTuple):
    """Some rows of a task's data, and their loss."""

    samples: Samples
    loss: InnerLoss


_Data = Rollouts | ExampleBatch | _Selected


def _part(query: Rollouts | ExampleBatch, number: int, count: int) -> _Data:
    """One of ``count`` episodes; or one example, beside all others, over which a network may normalise."""
    if isinstance(query, Rollouts):
        return query.part(number)
    # Examples may be sorted by their classes: take them from all over.
    weights = torch.zeros_like(query.samples.weights)
    weights[:, number * query.num_parts // count] = 1
    return _Selected(replace(query.samples, weights=weights), query.loss)


# Conflict


def meta_gradients(loop: InnerLoop, queries: Sequence[Sequence[_Data]]) -> Tensor:
    """Meta-gradients of one task by the meta-parameters, for several choices of query rollouts.

    Args:
        loop: The inner loop of one task.
        queries: For each choice, the rollouts that replace ``loop.queries``.

    Returns:
        [choice, meta parameter].
    """
    policy, weights = require_derivatives(loop.rule.policy), loop.query_weights
    with torch.enable_grad():
        meta = loop.meta.detach().clone().requires_grad_()
        adaptation = GraphJacobian(meta, loop.queried(loop.replay(meta)))
    cotangents = []
    for chosen in queries:
        # At the policy that collected the rollouts, the gradient of the ratio loss is that of the surrogate.
        parts = zip(adaptation.outputs, chosen, weights, strict=True)
        cotangents.append(
            torch.stack([w * policy.inner_gradient(p, query.samples, query.loss) for p, query, w in parts])
        )
    first, *others = cotangents
    return torch.stack([adaptation.gradient(first), *(adaptation.pullback(cotangent) for cotangent in others)])


def conflict(gradients: Floats, groups: Sequence[Sequence[int]], layout: Layout, independent: bool = True) -> Conflict:
    """Degree of conflict of each tensor: the angle between meta-gradients and their sum, restricted to the tensor.

    Three comparisons, between tasks that share their initialisation:

    - ``between_tasks``: meta-gradients of whole tasks, as in the paper.
    - ``within_task``: meta-gradients of single query episodes of one task.
    - ``between_episodes``: meta-gradients of the same single episodes, but every gradient in a sum is of another task.

    Angles to a sum grow with the number of gradients and with their noise (`angles_to_sum` derives by how much). So
    ``within_task`` compares with ``between_episodes``, whose sums have as many equally noisy gradients, and not with
    ``between_tasks``. ``excess`` is their difference.

    Args:
        gradients: [task, 1 + episode, parameter]: of a task's whole query loss, then of its single query episodes.
        groups: Groups of tasks that share their initialisation. A group has at least two tasks, and at least as many as
            there are episodes.
        layout: The policy's tensors.
        independent: Whether the tasks are independent draws.

    Source: Baik et al. 2020, section 3.3; within a task appendix F.
    """
    num_tasks, num_vectors = len(gradients), gradients.shape[1] - 1
    shape = num_tasks, len(layout.names)
    between, within, episodes = (np.full(shape, np.nan) for _ in range(3))
    bounds = np.cumsum([0, *layout.sizes])
    for tensor in range(len(layout.names)):
        part = gradients[:, :, bounds[tensor] : bounds[tensor + 1]]
        for group in map(list, groups):
            between[group, tensor] = angles_to_sum(part[group, 0])
            within[group, tensor] = [mean_of_finite(angles_to_sum(part[task, 1:])) for task in group]
            for first in range(0, len(group), num_vectors):
                # All sums have the same number of tasks; the last one reuses tasks that have been compared already.
                few = group[min(first, len(group) - num_vectors) :][:num_vectors]
                crossed = np.array([angles_to_sum(part[few, 1 + e]) for e in range(num_vectors)])
                episodes[few, tensor] = [mean_of_finite(angles) for angles in crossed.T]
    sizes = [len(group) for group in groups]
    return Conflict(
        between_tasks=_compared(between, sizes),
        within_task=_compared(within, [num_vectors]),
        between_episodes=_compared(episodes, [num_vectors]),
        excess=with_interval(over_tasks(episodes - within), independent),
    )


def _compared(angles: Floats, sizes: Sequence[int]) -> Angles:
    unrelated = float(np.mean([unrelated_angle(size) for size in sizes]))
    return Angles(**vars(over_tasks(angles)), num_vectors=max(sizes), unrelated=unrelated)


def _tasks_by_start(rule: Adaptation, modes: Tensor) -> list[list[int]]:
    """Groups of two or more tasks that share a starting point."""
    groups: dict[int, list[int]] = {}
    for task, index in enumerate(rule.initialisation(modes)[:, 0].tolist()):
        groups.setdefault(index, []).append(task)
    return [group for group in groups.values() if len(group) > 1]


# Smoothness, representations, movement


def _along(
    policy: DifferentiablePolicy, before: Tensor, after: Tensor, support: PolicyGradientSupport | SupervisedSupport
) -> Line:
    """The inner loss of one task along an update, on the data that the update was computed from."""
    samples = support.samples

    def point(parameters: Floats) -> Tensor:
        return torch.from_numpy(parameters)[None].to(before.dtype)

    def loss(parameters: Floats) -> float:
        at = point(parameters)
        outputs = policy.outputs(at, samples.observations)
        return float(inner_loss(policy.distribution, outputs, policy.extra(at), samples, support.loss))

    def gradient(parameters: Floats) -> Floats:
        return policy.inner_gradient(point(parameters), samples, support.loss)[0].double().numpy()

    start, stop = (parameters[0].double().numpy() for parameters in (before, after))
    return along_step(loss, gradient, start, stop - start, FRACTIONS)


def _landscape(lines: Sequence[Sequence[Line]]) -> Landscape:
    """Means over steps of the lines [task][step], summarised over tasks."""

    def over_steps(name: str) -> Summary:
        return over_tasks([np.mean([getattr(line, name) for line in of_task], axis=0) for of_task in lines])

    # Overflowed ratios are infinite, and sums of opposite infinities are undefined.
    with np.errstate(invalid="ignore"):
        return Landscape(
            fractions=FRACTIONS,
            loss_change=over_steps("loss_change"),
            gradient_change=over_steps("gradient_change"),
            smoothness=over_steps("smoothness"),
        )


def _similarity(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    pairs = {name: (before[name].double().numpy(), after[name].double().numpy()) for name in before}
    return {name: (linear_cka(*pair), mean_cca(*pair)) for name, pair in pairs.items()}


def _representations(inspected: Sequence[_Inspected]) -> Representations:
    first = inspected[0].similarity
    names = list(first["start"])

    def since(part: str) -> Similarity:
        values = np.array([[task.similarity[part][name] for name in names] for task in inspected])
        return Similarity(over_tasks(values[..., 0]), over_tasks(values[..., 1]))

    later = since("gradient_steps") if "gradient_steps" in first else None
    return Representations(names=names, start=since("start"), gradient_steps=later)


def _movement(inspected: Sequence[_Inspected], layout: Layout) -> Movement:
    def norms(vectors: Floats) -> Floats:
        parts = np.split(vectors, np.cumsum(layout.sizes)[:-1], axis=1)
        return np.stack([np.linalg.norm(part, axis=1) for part in parts], axis=1)

    def since(part: str) -> Moved:
        before, adapted = (np.stack([task.policies[name] for task in inspected]) for name in (part, "adapted"))
        return Moved(over_tasks(norms(adapted - before)), norms(before).mean(0))

    later = since("gradient_steps") if "gradient_steps" in inspected[0].similarity else None
    return Movement(start=since("start"), gradient_steps=later)


# Memory


def states_of(loop: InnerLoop) -> tuple[Floats, NDArray[np.intp]]:
    """The states of an agent with memory in the course of a trial.

    Args:
        loop: The inner loop of all tasks.

    Returns:
        The state at each step, see `Memory`, [task, episode, step, unit], where an episode that has ended keeps its
        last state; and the length of each episode, [task, episode].
    """
    rule, data = loop.rule.core, episodes(loop)
    assert isinstance(rule, MemoryRule)
    with torch.no_grad():
        states = rule.states(loop.meta, trials_of(data))
    lengths = torch.stack([episode.mask[:, 0].sum(1).long() for episode in data], dim=1)
    # Trials hold the steps that took place, one episode after the other.
    first, last = lengths.cumsum(1) - lengths, lengths - 1
    steps = first[..., None] + torch.minimum(torch.arange(int(lengths.max())), last[..., None])
    held = states[torch.arange(len(states))[:, None, None], steps]
    return held.double().numpy(), lengths.numpy()


# Layers


def layers(policy: Policy) -> list[list[str]]:
    """The policy's tensors, layer by layer; a Gaussian's log-std counts as part of the last."""
    head = require_derivatives(policy).head
    by_module: dict[str, list[str]] = {}
    for name in policy.layout.names:
        module = name.rpartition(".")[0] or re.sub(r"\D", "", name)
        by_module.setdefault("head" if name in head else module, []).append(name)
    return list(by_module.values())
