"""Shared types: batches of rollouts, and what a learner knows. Axis order everywhere: task, rollout, time, feature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from metarl.common.lazy import lazy


@dataclass(frozen=True)
class Samples:
    """Steps of several tasks' rollouts as rows.

    Attributes:
        observations: [task, row, observation].
        actions: [task, row, action], or [task, row] of integers for a categorical policy.
        log_probs: Log-probability of each action under the policy that took it, [task, row].
        advantages: [task, row].
        weights: Share of each row in its task's mean, [task, row]; 0 after an episode's end, each task sums to 1.
        episode_length: Consecutive rows that are an episode's steps in order; 0 where rows were left out.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    weights: Tensor
    episode_length: int

    @property
    def num_rows(self) -> int:
        """Rows of each task."""
        return self.observations.shape[1]

    def block(self, start: int, stop: int) -> Samples:
        """Rows ``start`` to ``stop`` of every task, weights as they are."""
        return self._rows(lambda values: values[:, start:stop], self.episode_length)

    def subset(self, rows: Tensor) -> Samples:
        """The rows named by ``rows`` [row] of every task, with weights that sum to 1 again."""
        chosen = self._rows(lambda values: values[:, rows])
        total = chosen.weights.sum(1, keepdim=True)
        # A task none of whose chosen steps is alive contributes no curvature instead of a division by zero.
        return replace(chosen, weights=chosen.weights / torch.where(total > 0, total, 1))

    def largest_advantages(self, fraction: float) -> Samples:
        """Keeps the ``fraction`` of each task's rows with the largest weight times |advantage|, weights as they are.

        What a row adds to the inner loss's derivatives is proportional to that: of normally distributed advantages the
        larger half holds 93 % of the sum of squares.
        """
        size = (self.weights * self.advantages).abs()
        largest = size.argsort(dim=1, descending=True, stable=True)[:, : max(1, round(fraction * self.num_rows))]
        rows = largest.sort(dim=1).values

        def chosen(values: Tensor) -> Tensor:
            return values.gather(1, rows.view(*rows.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:]))

        return self._rows(chosen)

    def _rows(self, choose: Callable[[Tensor], Tensor], episode_length: int = 0) -> Samples:
        names = [part.name for part in fields(self) if part.name != "episode_length"]
        chosen: dict[str, Any] = {name: choose(getattr(self, name)) for name in names}
        return Samples(**chosen, episode_length=episode_length)


@dataclass(frozen=True)
class Rollouts:
    """Episodes of several tasks, each task's collected with one policy.

    Attributes:
        observations: [task, rollout, time, observation].
        actions: What the policy drew, before scaling and clipping to the action space: [task, rollout, time, action],
            or [task, rollout, time] of integers for a categorical policy.
        log_probs: Log-probability of each action under the policy that took it, [task, rollout, time].
        rewards: [task, rollout, time]; 0 after an episode's end.
        mask: 1 while the episode ran, 0 after its end, [task, rollout, time].
        advantages: Standardised per task, [task, rollout, time].
        terms: What the family reports beside the reward (`TaskFamily.terms`), by name, [task, rollout, time]; 0 after
            an episode's end.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    mask: Tensor
    advantages: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return self.rewards.shape[0]

    @property
    def env_steps(self) -> int:
        """Environment steps taken."""
        return int(self.mask.sum(dtype=torch.float64))

    @lazy
    def samples(self) -> Samples:
        """Every step as a row."""
        mask = self.mask.flatten(1)
        return Samples(
            self.observations.flatten(1, 2),
            self.actions.flatten(1, 2),
            self.log_probs.flatten(1),
            self.advantages.flatten(1),
            mask / mask.sum(1, keepdim=True),
            self.rewards.shape[2],
        )

    def tensors(self) -> dict[str, Any]:
        """By name, the tensors that begin with the axes task, rollout and time."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: part for name, part in parts.items() if isinstance(part, Tensor)}

    def mean_returns(self) -> Tensor:
        """Mean undiscounted return of each task, [task]."""
        return self.rewards.sum(2, dtype=torch.float64).mean(1)

    def tasks(self, start: int, stop: int) -> Rollouts:
        """The rollouts of tasks ``start`` to ``stop``."""
        return self._each(lambda values: values[start:stop])

    def episode(self, index: int) -> Rollouts:
        """One episode of each task; its advantages stay as they are among the others."""
        return self._each(lambda values: values[:, index : index + 1])

    def to(self, device: torch.device) -> Rollouts:
        """The same rollouts on ``device``; copies from the CPU to a GPU go on in the background."""
        in_background = device.type == "cuda" and self.rewards.device.type == "cpu"
        held = self._each(Tensor.pin_memory) if in_background else self
        return held._each(lambda values: values.to(device, non_blocking=in_background))

    @staticmethod
    def concatenate(parts: Sequence[Rollouts], axis: int = 0) -> Rollouts:
        """Joins ``parts`` in order: along the tasks, or with ``axis`` 1 along the rollouts."""
        joined: dict[str, Any] = _joined([part.tensors() for part in parts], axis)
        return replace(parts[0], **joined, terms=_joined([part.terms for part in parts], axis))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Rollouts:
        """The same rollouts with every tensor changed, the terms too."""
        changed: dict[str, Any] = {name: change(values) for name, values in self.tensors().items()}
        return replace(self, **changed, terms={name: change(values) for name, values in self.terms.items()})


def _joined(parts: Sequence[Mapping[str, Tensor]], axis: int) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts], axis) for name in parts[0]}


@dataclass(frozen=True)
class LearnerState:
    """What a learner knows between two iterations.

    Attributes:
        meta: Meta-parameters, [meta parameter].
        memory: What its optimiser remembers, by name.
    """

    meta: Tensor
    memory: Mapping[str, Tensor]
