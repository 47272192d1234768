"""The evaluation of a run as a value: the protocol returns it, ``evaluation.json`` holds it and figures show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.common.arrays import array_of_objects
from metarl.common.strict_json import plain
from metarl.config.measuring import Checkpoint

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class References:
    """Returns on the same tasks for comparison with the agent.

    Attributes:
        standstill: Return of the zero action, mean over tasks; None if there is no zero action.
        random_initialisation: Return after 0, 1, ... policy-gradient steps from a random initialisation of the same
            network, mean over tasks, [step].
    """

    standstill: float | None
    random_initialisation: Floats


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Returns of an agent after 0, 1, ... steps of adaptation to tasks, fresh episodes at each step.

    Attributes:
        config: The run's settings, as in its ``config.json``.
        env: The family of the tasks.
        checkpoint: Which checkpoint of the run was evaluated.
        seed: Seed of tasks and episodes.
        rollouts: Episodes of each task at each step.
        step_scales: Factor on the step size of each step.
        tasks: The tasks, [task, ...]; if they are dictionaries or tuples, an array of objects, [task].
        finite: Whether the family has finitely many tasks, so that none is held out and ``tasks`` repeats them.
        task_names: Names of ``tasks`` if the family has two tasks; else None.
        returns: Mean return of an episode, [task, step].
        mean: Mean over tasks, [step].
        interval: Half-width of the 95 % t interval over tasks, [step]. It shows the uncertainty about this one model,
            not the spread over seeds. None for a single task, and if tasks repeat because there are finitely many.
        share_made_worse: Share of the tasks whose return is lower than before adaptation, [step]; None if no step
            changes the policy.
        env_steps: Total number of environment steps that the agent took.
        references: Returns for comparison.
        metarl: Version, commit, packages and hardware of the evaluation.
        modulated: Mean return after attenuation or modulation and before the first step; None if not measured.
        adapted_layers: The policy's tensors that steps were allowed to change; empty for all.
        step_name: The rule's name for one step.
        measure: What ``returns``, ``mean`` and ``references`` hold: "return", or, of supervised tasks, "error" (squared
            error) or "accuracy".
        shots: Supervised tasks: examples of each task that were adapted to; ``rollouts`` then counts query examples.
    """

    config: Mapping[str, Any]
    env: str
    checkpoint: Checkpoint
    seed: int
    rollouts: int
    step_scales: tuple[float, ...]
    tasks: NDArray[Any]
    finite: bool
    task_names: tuple[str, ...] | None
    returns: Floats
    mean: Floats
    interval: Floats | None
    share_made_worse: Floats | None
    env_steps: int
    references: References
    metarl: Mapping[str, str]
    modulated: float | None = None
    adapted_layers: tuple[str, ...] = ()
    step_name: str = "gradient step"
    measure: str = "return"
    shots: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values: arrays as nested lists, NaN as None."""
        return {name: plain(value) for name, value in vars(self).items()}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Evaluation:
        """Restores an evaluation from the result of `to_json`; None in a list of numbers stands for NaN.

        Args:
            content: Content of a file. Fields with a default may be missing, because older files lack them.

        Returns:
            The evaluation. Tasks that are dictionaries or tuples are as JSON holds them: lists instead of arrays.

        Raises:
            ValueError: If another field is missing, or if a field has the wrong content.
        """
        for field in fields(Evaluation):
            if field.default is MISSING and field.name not in content:
                raise ValueError(f"it has no {field.name!r}")
        values = {field.name: content[field.name] for field in fields(Evaluation) if field.name in content}
        try:
            for name in ("returns", "mean", "interval", "share_made_worse"):
                values[name] = None if values[name] is None else np.array(values[name], dtype=np.float64)
            for name in ("step_scales", "task_names", "adapted_layers"):
                values[name] = None if values.get(name, ()) is None else tuple(values.get(name, ()))
            values["tasks"] = _tasks(values["tasks"])
            of_steps = np.array(values["references"]["random_initialisation"], dtype=np.float64)
            values["references"] = References(values["references"]["standstill"], of_steps)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"its content cannot be read ({error!r})") from error
        if np.ndim(values["returns"]) != 2 or np.shape(values["tasks"])[:1] != np.shape(values["returns"])[:1]:
            raise ValueError("'returns' must be a table with a row for each of 'tasks'")
        return Evaluation(**values)

    def returns_by_name(self) -> dict[str, Floats]:
        """Mean returns of each of a family's two tasks, [step] by the task's name; empty for other families."""
        names = np.array(self.task_names or (), dtype=str)
        return {str(name): self.returns[names == name].mean(0) for name in np.unique(names)}


def _tasks(values: list[Any]) -> NDArray[Any]:
    """Tasks as an array of numbers if they are lists of one shape, else as an array of objects, [task]."""
    try:
        tasks = np.array(values)
    except ValueError:  # Lists of different lengths.
        return array_of_objects(values)
    return array_of_objects(values) if tasks.dtype == object else tasks
