"""The interface of meta-optimisers: one meta-step on a finished inner loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from metarl.common.parallel import Workers
from metarl.data import LearnerState
from metarl.inner.loop import InnerLoop

NOT_ACCEPTED = ("rejected", "zero gradient", "non-finite")
"""Outcomes of a meta-step that leaves the meta-parameters as they were."""


@dataclass(frozen=True)
class StepReport:
    """The result of a meta-step.

    Attributes:
        outcome: The outcome in words; the meta-optimiser documents the possible ones. One of `NOT_ACCEPTED` if the
            meta-parameters stay as they were.
        numbers: Further results by name; they become columns of the run's progress.
    """

    outcome: str
    numbers: Mapping[str, float | int]


class Optimiser(Protocol):
    """Updates meta-parameters; built from its own settings, see `metarl.config.optimisers.META_OPTIMISERS`."""

    def step(
        self, state: LearnerState, loop: InnerLoop, workers: Workers, generator: np.random.Generator
    ) -> tuple[LearnerState, StepReport]:
        """One meta-step.

        Args:
            state: The meta-parameters that ``loop`` started from, and the memory that the previous `step` returned;
                the memory is empty before the first step.
            loop: The inner loop of this process's tasks, which are all if there is one process.
                `metarl.outer.objective.MetaObjective` adds up those of all processes; so must whatever is not from it.
            workers: Threads.
            generator: Source of randomness.

        Returns:
            The new state, and a report. Inputs are not modified.
        """
