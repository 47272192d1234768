"""Supervised task families: regression and classification tasks instead of environments."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.common.errors import UserError
from metarl.envs.family import Family, Measure

DEFAULTS: Mapping[str, Any] = {
    "meta_optimiser": "adam",
    "hidden_sizes": (40, 40),
    "inner_lr": 0.01,
    "meta_batch_size": 4,
    "iterations": 50_000,
    "log_every": 100,
    "validate_every": 1_000,
    "validation_tasks": 100,
    "checkpoint_every": 5_000,
    "threads": 1,
}
"""Settings of sinusoids: network and inner step of Finn et al. 2017, section 5.1; meta-batch and iterations of Baik et
al. 2020, table L. A thread more would only wait on such small networks."""


class Examples(NamedTuple):
    """Examples of one task.

    Attributes:
        inputs: [example, input], float32.
        targets: [example, output] of float32; or classes, [example] of int64.
    """

    inputs: NDArray[np.float32]
    targets: NDArray[Any]


def drawn_sets(
    family: "SupervisedFamily", task: Any, shots: int, queries: int, rng: np.random.Generator
) -> tuple[Examples, Examples]:
    """What `SupervisedFamily.draw_sets` gives, also of a family that overrides it, in the family's types.

    Raises:
        UserError: If the examples do not have the shapes of the family.
    """
    support, query = family.draw_sets(task, shots, queries, rng)
    if type(family).draw_sets is not SupervisedFamily.draw_sets:  # Which has checked them.
        support, query = (family.checked(*part, len(part[0])) for part in (support, query))
    return support, query


class SupervisedFamily(Family):
    """A family of regression or classification tasks.

    The inner loss of a task is the error on its support set, the meta-objective the error on its query set: the squared
    error, averaged over examples and outputs, or the cross-entropy. A subclass needs a ``task_space``, ``num_inputs``,
    ``num_outputs`` and `draw`; see ``examples/line_family.py``.

    Attributes:
        num_inputs: Numbers in an input.
        num_outputs: Numbers in a target; for classification the number of classes.
        classes: Whether targets are classes, from 0 to ``num_outputs`` - 1.
        test_queries: Queries of an evaluation unless it says otherwise; None for as many as in training.
    """

    num_inputs: int
    num_outputs: int = 1
    classes: bool = False
    test_queries: int | None = 100
    defaults = DEFAULTS
    _needed: ClassVar[Mapping[str, str]] = {**Family._needed, "num_inputs": "1"}

    def independent(self, tasks: Sequence[Any] | NDArray[Any]) -> bool:
        """Whether test tasks are new, so that they have an interval; each repeat of one has examples of its own."""
        return self.finite_tasks is None

    @property
    def measure(self) -> Measure:
        """What an agent is measured by: "accuracy" if targets are classes, else "error"."""
        return "accuracy" if self.classes else "error"

    @abstractmethod
    def draw(self, task: Any, n: int, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """Draws examples of a task.

        Args:
            task: An element of ``task_space``.
            n: Number of examples.
            rng: Source of randomness.

        Returns:
            Inputs [n, ``num_inputs``], and targets: [n, ``num_outputs``], or classes [n].
        """

    def function(self, task: Any, x: NDArray[Any]) -> NDArray[Any] | None:
        """The true targets without noise, for figures: [n, ``num_outputs``] at inputs ``x`` [n, ``num_inputs``].

        None, the default, if there is no such function.
        """
        return None

    def draw_sets(self, task: Any, shots: int, queries: int, rng: np.random.Generator) -> tuple[Examples, Examples]:
        """Draws a support set and a query set; by default the first and the other ones of `draw`'s examples.

        Args:
            task: An element of ``task_space``.
            shots: Examples to adapt to; for a family whose sets are balanced, of each class.
            queries: Examples to measure on, likewise.
            rng: Source of randomness.

        Raises:
            UserError: If the examples do not have the shapes of the family.
        """
        examples = self.checked(*self.draw(task, shots + queries, rng), shots + queries)
        support, query = (Examples(*(part[rows] for part in examples)) for rows in (slice(shots), slice(shots, None)))
        return support, query

    def require_examples(self, n: int) -> None:
        """Refuses, before a training, ``n`` examples of a task that the family does not have.

        Args:
            n: Shots and queries together; for a family whose sets are balanced, of each class.

        Raises:
            UserError: If some task has fewer.
        """

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an input before it is flattened, such as an image's; by default (``num_inputs``,)."""
        return (self.num_inputs,)

    def checked(self, inputs: Any, targets: Any, n: int) -> Examples:
        """Converts ``n`` examples to the family's types.

        Raises:
            UserError: If they do not have the family's shapes, or are not finite.
        """
        kind: Any = np.int64 if self.classes else np.float32
        given = np.asarray(targets)
        if self.classes and given.dtype.kind == "f" and (given % 1 != 0).any():
            raise UserError(f"targets of {self.name} must be classes, whole numbers counted from 0.")
        examples = Examples(np.asarray(inputs, np.float32), given.astype(kind))
        wanted = (n, self.num_inputs), (n,) if self.classes else (n, self.num_outputs)
        for name, part, shape in zip(("inputs", "targets"), examples, wanted, strict=True):
            if part.shape != shape:
                raise UserError(f"{name} of {self.name} must have shape {shape}, got {part.shape}.")
            if not np.isfinite(part).all():
                raise UserError(f"{name} of {self.name} must be finite numbers.")
        if self.classes and not ((examples.targets >= 0) & (examples.targets < self.num_outputs)).all():
            raise UserError(f"classes of {self.name} must lie between 0 and {self.num_outputs - 1}.")
        return examples
