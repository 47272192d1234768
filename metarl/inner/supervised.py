"""Runs the inner loops of supervised tasks: support and query examples instead of rollouts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.common.streams import Purpose, stream
from metarl.config.settings import ExampleSettings
from metarl.data import ExampleBatch
from metarl.envs import Family, SupervisedFamily
from metarl.envs.supervised import Examples, drawn_sets
from metarl.inner.loop import Adapted, InnerLoop, Timing
from metarl.inner.rule import UNKNOWN_MODE, Adaptation, Stage
from metarl.inner.support import SupervisedSupport
from metarl.policies.base import require_derivatives


def modes_of(family: Family, tasks: NDArray[Any]) -> Tensor:
    """The mode of each task, integers on the CPU [task].

    They are `UNKNOWN_MODE` if the family has one mode: it does not say which of a rule's modes applies, if the rule was
    trained with several.

    Args:
        family: The tasks' family.
        tasks: [task, ...].
    """
    return torch.from_numpy(family.checked_modes(tasks) if family.num_modes > 1 else np.full(len(tasks), UNKNOWN_MODE))


def fit(
    rule: Adaptation, meta: Tensor, stages: Sequence[Stage], modes: Tensor, support: ExampleBatch, query: ExampleBatch
) -> Adapted:
    """Runs the inner loop on support examples, and measures the policies on query examples after every step.

    Every stage sees the same support set, and the meta-objective the same query set.

    Args:
        rule: The adaptation rule.
        meta: Meta-parameters, [meta parameter].
        stages: The inner loop, from ``rule.stages``.
        modes: Mode of each task, [task].
        support: Examples to adapt to.
        query: Examples to measure on.
    """
    seen = SupervisedSupport(rule.policy, support, support.loss)
    queries = [query] * (1 + sum(stage.query_weight > 0 for stage in stages))
    loop = InnerLoop(rule, stages, meta, modes, [seen] * len(stages), queries)
    loop = replace(loop, traced=loop.trace())
    policies = [policy.detach() for policy in loop.trace()[1]]
    steps = [number + 1 for number, stage in enumerate(stages) if stage.is_step]
    returns = torch.stack([measure(rule, policies[number], query) for number in (0, *steps)], dim=1)
    prepared = steps[0] - 1 if steps else 0
    modulated = measure(rule, policies[prepared], query) if prepared else None
    return Adapted(returns, modulated, loop=loop, parameters=policies[-1])


@torch.no_grad()
def measure(rule: Adaptation, parameters: Tensor, examples: ExampleBatch) -> Tensor:
    """Squared error, averaged over examples and outputs, or the share of right classes: [task], float64.

    NaN of a task whose outputs are no numbers.

    Args:
        rule: The adaptation rule.
        parameters: Policies, [task, parameter].
        examples: Examples of each task.
    """
    outputs = require_derivatives(rule.policy).outputs(parameters, examples.inputs)
    if examples.targets.ndim == 2:
        right = (outputs.argmax(-1) == examples.targets).double()
        return torch.where(outputs.isnan().any(-1), torch.nan, right).mean(1)
    return ((outputs - examples.targets) ** 2).double().mean((1, 2))


@dataclass(frozen=True)
class SupervisedRunner:
    """Runs inner loops on freshly drawn examples, all tasks at once; like `metarl.inner.runner.Runner`.

    Attributes:
        family: The task family.
        rule: The adaptation rule.
        settings: Sizes of the support and query sets.
        device: Where adaptation computes.
    """

    family: SupervisedFamily
    rule: Adaptation
    settings: ExampleSettings
    device: torch.device

    def run(
        self, meta: Tensor, tasks: NDArray[Any], stages: Sequence[Stage], seed: int, purpose: Purpose, *key: int
    ) -> tuple[Adapted, Timing]:
        """Runs the inner loop for each task; see `metarl.inner.runner.Runner.run`."""
        begin = time.perf_counter()
        sizes = self.settings.shots, self.settings.queries
        drawn = [drawn_sets(self.family, task, *sizes, stream(seed, purpose, *key, i)) for i, task in enumerate(tasks)]
        support, query = (_batch(sets).to(self.device) for sets in zip(*drawn, strict=True))
        drawn_at = time.perf_counter()
        adapted = fit(self.rule, meta, stages, modes_of(self.family, tasks), support, query)
        return adapted, Timing(drawn_at - begin, time.perf_counter() - drawn_at)

    def close(self) -> None:
        """Does nothing: there are no environments."""


def _batch(sets: Sequence[Examples]) -> ExampleBatch:
    inputs, targets = (torch.from_numpy(np.stack(parts)) for parts in zip(*sets, strict=True))
    return ExampleBatch(inputs, targets)
