"""Shared types: batches of rollouts or examples, and a learner's state; axes are task, rollout, time, feature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metarl.common.lazy import lazy
from metarl.common.statistics import Aggregate

Row = Mapping[str, float | int | str]
"""The numbers of an iteration by the names of their columns in progress.csv."""


@dataclass(frozen=True)
class Samples:
    """Steps of the rollouts of several tasks, one row per step.

    Attributes:
        observations: [task, row, observation].
        actions: [task, row, action]: integers, one per component, for several choices; or [task, row] of integers for
            a categorical policy.
        log_probs: Log-probability of each action under the policy that took it, [task, row].
        advantages: [task, row].
        weights: Weight of each row in its task's mean, [task, row]; 0 for padding: after an episode's end, or after the
            last row of a task with fewer rows than others. The weights of a task sum to 1, unless a selection of rows
            has kept them as they were.
        episode_length: Number of consecutive rows that form one episode, in order; 0 if rows were left out.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    weights: Tensor
    episode_length: int

    @property
    def num_rows(self) -> int:
        """Number of rows of each task."""
        return self.observations.shape[1]

    def living(self) -> Samples:
        """Leaves out the padding; tasks with fewer rows than others keep some, at the end."""
        alive = self.weights > 0
        if alive.all():
            return self
        return self._gathered(alive.byte().argsort(dim=1, descending=True, stable=True)[:, : alive.sum(1).max()])

    def block(self, start: int, stop: int) -> Samples:
        """Rows ``start`` to ``stop`` of every task; weights are not rescaled."""
        return self._rows(lambda values: values[:, start:stop], self.episode_length)

    def subset(self, rows: Tensor) -> Samples:
        """The rows of every task with these indices, as far as they exist; weights then sum to 1 again.

        If none exists, which is where a task has few rows, all are kept.

        Args:
            rows: [row], on the CPU: a GPU would wait to learn how many of them exist.
        """
        existing = rows[rows < self.num_rows]
        if not len(existing):
            return self
        existing = existing.to(self.weights.device, non_blocking=True)
        chosen = self._rows(lambda values: values[:, existing])
        total = chosen.weights.sum(1, keepdim=True)
        # If a task has no live step among these rows, its weights stay 0: it contributes no curvature.
        return replace(chosen, weights=chosen.weights / torch.where(total > 0, total, 1))

    def largest_advantages(self, fraction: float) -> Samples:
        """Keeps the ``fraction`` of each task's living rows with the largest weight * |advantage|; keeps their weights.

        The contribution of a row to the derivatives of the inner loss is proportional to this product. For normally
        distributed advantages, the half with the largest |advantage| holds 93 % of the sum of squares.
        """
        size = (self.weights * self.advantages).abs()
        counts = (fraction * (self.weights > 0).sum(1, keepdim=True)).round().clamp(min=1)
        largest = size.argsort(dim=1, descending=True, stable=True)[:, : max(1, round(fraction * self.num_rows))]
        kept = torch.arange(largest.shape[1], device=size.device) < counts
        # Padding of tasks with fewer rows goes to the end.
        rows, order = torch.where(kept, largest, self.num_rows).sort(dim=1)
        chosen = self._gathered(rows.clamp(max=self.num_rows - 1))
        return replace(chosen, weights=chosen.weights * kept.gather(1, order))

    def _gathered(self, rows: Tensor) -> Samples:
        """The rows with the indices ``rows`` [task, row]."""

        def chosen(values: Tensor) -> Tensor:
            return values.gather(1, rows.view(*rows.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:]))

        return self._rows(chosen)

    def _rows(self, choose: Callable[[Tensor], Tensor], episode_length: int = 0) -> Samples:
        names = [part.name for part in fields(self) if part.name != "episode_length"]
        chosen: dict[str, Any] = {name: choose(getattr(self, name)) for name in names}
        return Samples(**chosen, episode_length=episode_length)


@dataclass(frozen=True)
class Rollouts:
    """Episodes of several tasks; each task has one policy that collected its episodes.

    Attributes:
        observations: [task, rollout, time, observation]; after an episode's end the first is the one that followed.
        actions: The policy's samples, before scaling and clipping to the action space: [task, rollout, time, action],
            integers, one per component, for several choices; or [task, rollout, time] of integers for a categorical
            policy.
        log_probs: Log-probability of each action under the policy that took it, [task, rollout, time].
        rewards: [task, rollout, time]; 0 after an episode's end.
        mask: 1 while the episode ran, 0 after its end, [task, rollout, time].
        advantages: Standardised per task, [task, rollout, time].
        terms: Numbers that the family reports beside the reward (`TaskFamily.metrics`), by name, [task, rollout, time];
            0 after an episode's end.
        last_observations: The observation after the last step of the time axis, [task, rollout, observation]; None if
            it was not kept.
        truncated: Whether each episode was cut off and had not terminated, by the environment or at the horizon, which
            is the length of the time axis, [task, rollout]; None if the environment never did.
        loss: The loss, of `metarl.policies.losses.inner_loss`, by which the meta-objective measures policies on them.
    """

    loss: ClassVar[Literal["ratio"]] = "ratio"

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    mask: Tensor
    advantages: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    last_observations: Tensor | None = None
    truncated: Tensor | None = None

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return self.rewards.shape[0]

    @property
    def next_observations(self) -> Tensor | None:
        """The observation after each step, [task, rollout, time, observation]; None if the last was not kept."""
        if self.last_observations is None:
            return None
        return torch.cat([self.observations[:, :, 1:], self.last_observations[:, :, None]], dim=2)

    @property
    def env_steps(self) -> int:
        """Environment steps taken."""
        return int(self.mask.sum(dtype=torch.float64))

    @property
    def num_rows(self) -> int:
        """Rows of each task's `whole_episodes`."""
        return self.rewards[0].numel()

    @lazy
    def samples(self) -> Samples:
        """The steps that took place, as rows."""
        return self.whole_episodes.living()

    @lazy
    def whole_episodes(self) -> Samples:
        """All steps as rows; episodes that ended early are padded."""
        mask = self.mask.flatten(1)
        return Samples(
            self.observations.flatten(1, 2),
            self.actions.flatten(1, 2),
            self.log_probs.flatten(1),
            self.advantages.flatten(1),
            mask / mask.sum(1, keepdim=True).clamp(min=1),
            self.rewards.shape[2],
        )

    def tensors(self) -> dict[str, Any]:
        """Returns the fields that are tensors, by name; their first axes are task and rollout."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: part for name, part in parts.items() if isinstance(part, Tensor)}

    def mean_returns(self) -> Tensor:
        """Mean undiscounted return of each task's episodes, [task]; dropped ones do not count."""
        return self.rewards.sum(2, dtype=torch.float64).sum(1) / self._begun.sum(1)

    def mean_metrics(self, metrics: Mapping[str, Aggregate]) -> dict[str, Tensor]:
        """Mean metrics of each task's episodes, by name, float64 [task]; dropped episodes do not count.

        Args:
            metrics: How each of the ``terms`` that they name is aggregated over an episode.
        """
        begun = self._begun
        of_episodes = {name: over_episodes(how, self.terms[name], self.mask) for name, how in metrics.items()}
        return {name: torch.where(begun > 0, values, 0).sum(1) / begun.sum(1) for name, values in of_episodes.items()}

    def amounts(self) -> Tensor:
        """Episodes and environment steps of each task, float64 [task, 2]; dropped episodes do not count."""
        return torch.stack(
            [part.sum((1, 2), dtype=torch.float64) for part in (self._begun[:, :, None], self.mask)], dim=1
        )

    @property
    def _begun(self) -> Tensor:
        """1 for an episode, 0 for one that was dropped, [task, rollout]."""
        return self.mask[:, :, 0]

    def tasks(self, start: int, stop: int) -> Rollouts:
        """The rollouts of tasks ``start`` to ``stop``."""
        return self._each(lambda values: values[start:stop])

    @property
    def num_parts(self) -> int:
        """Episodes of each task."""
        return self.rewards.shape[1]

    def part(self, index: int) -> Rollouts:
        """One episode of each task; its advantages are not recomputed."""
        return self._each(lambda values: values[:, index : index + 1])

    def to(self, device: torch.device) -> Rollouts:
        """The same rollouts on ``device``. Copies from the CPU to a GPU are asynchronous."""
        in_background = device.type == "cuda" and self.rewards.device.type == "cpu"
        # Only copies from pinned memory can run in the background.
        source = self._each(Tensor.pin_memory) if in_background else self
        return source._each(lambda values: values.to(device, non_blocking=in_background))

    @staticmethod
    def concatenate(parts: Sequence[Rollouts], axis: int = 0) -> Rollouts:
        """Joins ``parts`` in order along the tasks, or along the rollouts if ``axis`` is 1."""
        joined: dict[str, Any] = joined_by_name([part.tensors() for part in parts], axis)
        return replace(parts[0], **joined, terms=joined_by_name([part.terms for part in parts], axis))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Rollouts:
        """Applies ``change`` to every tensor, including the terms."""
        changed: dict[str, Any] = {name: change(values) for name, values in self.tensors().items()}
        return replace(self, **changed, terms={name: change(values) for name, values in self.terms.items()})


def over_episodes(how: Aggregate, values: Tensor, mask: Tensor) -> Tensor:
    """One number of each episode from a number of each of its steps.

    Args:
        how: The aggregate.
        values: [..., time].
        mask: 1 while the episode ran, 0 after its end, [..., time].

    Returns:
        Float64, [...]; of episodes without a step, a number without meaning.
    """
    values, ran = values.double(), mask > 0
    if how == "any":
        return ((values != 0) & ran).any(-1).double()
    if how == "last":
        return values.gather(-1, (ran.sum(-1, keepdim=True) - 1).clamp(min=0)).squeeze(-1)
    if how == "max":
        return values.masked_fill(~ran, -torch.inf).amax(-1)
    total = (values * ran).sum(-1)
    return total / ran.sum(-1).clamp(min=1) if how == "mean" else total


def joined_by_name(parts: Sequence[Mapping[str, Tensor]], axis: int = 0) -> dict[str, Any]:
    """Tensors by name, joined in order along an axis."""
    return {name: torch.cat([part[name] for part in parts], axis) for name in parts[0]}


@dataclass(frozen=True)
class ExampleBatch:
    """Examples of several supervised tasks.

    Attributes:
        inputs: [task, example, input].
        targets: [task, example, output], or classes, [task, example] of integers.
        loss: As of `Rollouts`: minus the log-likelihood, which is the squared error or the cross-entropy.
    """

    inputs: Tensor
    targets: Tensor

    loss: ClassVar[Literal["score"]] = "score"

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return self.inputs.shape[0]

    @lazy
    def samples(self) -> Samples:
        """The examples as rows: with advantages of 1, minus the mean log-likelihood is the ``score`` loss."""
        shape, num_rows = self.inputs.shape[:2], self.inputs.shape[1]
        one = self.inputs.new_ones(())
        return Samples(
            self.inputs,
            self.targets,
            (0 * one).expand(shape),
            one.expand(shape),
            (one / num_rows).expand(shape),
            episode_length=1,
        )

    def amounts(self) -> Tensor:
        """Examples and environment steps (0) of each task, float64 [task, 2]; see `Rollouts.amounts`."""
        return torch.tensor([float(self.num_rows), 0.0], dtype=torch.float64).expand(self.num_tasks, 2)

    def tasks(self, start: int, stop: int) -> ExampleBatch:
        """The examples of tasks ``start`` to ``stop``."""
        return ExampleBatch(self.inputs[start:stop], self.targets[start:stop])

    @property
    def num_rows(self) -> int:
        """Examples of each task."""
        return self.inputs.shape[1]

    @property
    def num_parts(self) -> int:
        """Examples of each task."""
        return self.inputs.shape[1]

    def part(self, index: int) -> ExampleBatch:
        """One example of each task."""
        return ExampleBatch(self.inputs[:, index : index + 1], self.targets[:, index : index + 1])

    def to(self, device: torch.device) -> ExampleBatch:
        """The same examples on ``device``."""
        return ExampleBatch(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True)
class LearnerState:
    """State of a learner between two iterations.

    Attributes:
        meta: Meta-parameters, [meta parameter].
        memory: State of the learner's optimiser, by name.
    """

    meta: Tensor
    memory: Mapping[str, Tensor]
