"""What a meta-optimiser is: it takes one meta-step on a finished inner loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from metarl.common.parallel import Workers
from metarl.data import LearnerState
from metarl.inner.loop import InnerLoop


@dataclass(frozen=True)
class StepReport:
    """What became of a meta-step.

    Attributes:
        outcome: In words; the meta-optimiser says which there are.
        numbers: What else it has to tell, by name: columns of a run's progress.
    """

    outcome: str
    numbers: Mapping[str, float | int]


class Optimiser(Protocol):
    """Moves meta-parameters; made with its own settings, see `metarl.config.optimisers.META_OPTIMISERS`."""

    def step(
        self, state: LearnerState, loop: InnerLoop, workers: Workers, generator: np.random.Generator
    ) -> tuple[LearnerState, StepReport]:
        """One meta-step.

        Args:
            state: Meta-parameters, those that ``loop`` started from, and what `step` remembered the last time; nothing
                before the first one.
            loop: The inner loop that was run, of all tasks.
            workers: Threads.
            generator: Source of the step's randomness.

        Returns:
            The new state, and what happened. Inputs are not modified.
        """
