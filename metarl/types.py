"""Shared types: batches of rollouts. Axis order everywhere: task, rollout, time, feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from metarl.lazy import lazy


@dataclass(frozen=True)
class Samples:
    """Steps of several tasks' rollouts as rows.

    Attributes:
        observations: [task, row, observation].
        actions: [task, row, action], or [task, row] of integers for a categorical policy.
        log_probs: Log-probability of each action under the policy that took it, [task, row].
        advantages: [task, row].
        weights: Share of each row in its task's mean, [task, row]; 0 after an episode's end, each task sums to 1.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    weights: Tensor

    @property
    def num_rows(self) -> int:
        """Rows of each task."""
        return self.observations.shape[1]

    def block(self, start: int, stop: int) -> Samples:
        """Rows ``start`` to ``stop`` of every task, weights as they are."""
        return Samples(*(getattr(self, field.name)[:, start:stop] for field in fields(self)))

    def subset(self, rows: Tensor) -> Samples:
        """The rows named by ``rows`` [row] of every task, with weights that sum to 1 again."""
        chosen = Samples(*(getattr(self, field.name)[:, rows] for field in fields(self)))
        total = chosen.weights.sum(1, keepdim=True)
        # A task none of whose chosen steps is alive contributes no curvature instead of a division by zero.
        return replace(chosen, weights=chosen.weights / torch.where(total > 0, total, 1))


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
        curvature_rows: Rows (rollout-major) that second derivatives use, [row]; all if None.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    mask: Tensor
    advantages: Tensor
    curvature_rows: Tensor | None = None

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
        )

    @lazy
    def curvature_samples(self) -> Samples:
        """The rows that second derivatives use."""
        return self.samples if self.curvature_rows is None else self.samples.subset(self.curvature_rows)

    def mean_returns(self) -> Tensor:
        """Mean undiscounted return of each task, [task]."""
        return self.rewards.sum(2, dtype=torch.float64).mean(1)

    def tasks(self, start: int, stop: int) -> Rollouts:
        """The rollouts of tasks ``start`` to ``stop``."""
        return replace(self, **{name: getattr(self, name)[start:stop] for name in _TENSORS})

    def to(self, device: torch.device) -> Rollouts:
        """The same rollouts on ``device``."""
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in _TENSORS})

    @staticmethod
    def concatenate(parts: Sequence[Rollouts], axis: int = 0) -> Rollouts:
        """Joins ``parts`` in order: along the tasks, or with ``axis`` 1 along the rollouts."""
        return Rollouts(**{name: torch.cat([getattr(part, name) for part in parts], axis) for name in _TENSORS})


_TENSORS = [field.name for field in fields(Rollouts) if field.name != "curvature_rows"]
