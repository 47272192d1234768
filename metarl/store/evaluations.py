"""The evaluation of a run as a value: the protocol returns it, ``evaluation.json`` holds it and figures show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from metarl.common.arrays import Floats, array_of_objects, rows_of_numbers
from metarl.common.errors import UserError, shown
from metarl.common.strict_json import plain
from metarl.config.checked import Natural, convert
from metarl.config.measuring import Checkpoint
from metarl.envs.family import Measure
from metarl.store.config_file import check_values

_HUGE = 1e300


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
class MetricResult:
    """A metric of the family after 0, 1, ... steps of adaptation, as the return is measured.

    Attributes:
        per_task: Mean over the episodes of each task, [task, step].
        mean: Mean over tasks, [step].
        interval: Half-width of the 95 % t interval over tasks, [step]; None where the return has none.
    """

    per_task: Floats
    mean: Floats
    interval: Floats | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Returns of an agent after 0, 1, ... steps of adaptation to tasks, fresh episodes at each step.

    Attributes:
        config: The run's settings, as in its ``config.json``.
        env: The family of the tasks.
        checkpoint: Which checkpoint of the run was evaluated.
        iteration: Meta-iterations done at that checkpoint. Where the last one was damaged, that of the one before.
            None in files of earlier versions.
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
        dropped_episodes: Number of the agent's episodes that were left out because they were bad.
        modulated: Mean return after attenuation or modulation and before the first step; None if not measured.
        adapted_layers: The policy's tensors that steps were allowed to change; empty for all.
        step_name: The rule's name for one step.
        measure: What ``returns``, ``mean`` and ``references`` hold: "return", or, of supervised tasks, "error" (squared
            error) or "accuracy".
        shots: Supervised tasks: examples of each task that were adapted to; ``rollouts`` then counts query examples.
        adaptation_episodes: Episodes of a task that adaptation had read before each return was measured, mean over
            tasks, [step]; of supervised tasks, examples. Episodes that only measure do not count, dropped ones neither.
            None in files of older versions.
        adaptation_steps: The environment steps of these episodes, mean over tasks, [step]; None in files of older
            versions, and for supervised tasks.
        metrics: The family's metrics (`metarl.TaskFamily.metrics`) by name.
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
    iteration: Natural | None = None
    dropped_episodes: Natural = 0
    modulated: float | None = None
    adapted_layers: tuple[str, ...] = ()
    step_name: str = "gradient step"
    measure: Measure = "return"
    shots: int | None = None
    adaptation_episodes: Floats | None = None
    adaptation_steps: Floats | None = None
    metrics: Mapping[str, MetricResult] = field(default_factory=dict)

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
            UserError: If another field is missing, or if a field has the wrong content.
        """
        if not isinstance(content, Mapping):
            raise UserError(f"it must be a dictionary, got {shown(content)}.")
        for part in fields(Evaluation):
            if part.default is MISSING and part.default_factory is MISSING and part.name not in content:
                raise UserError(f"it has no {part.name!r}.")
        kinds = get_type_hints(Evaluation)
        names = [part.name for part in fields(Evaluation) if part.name in content]
        evaluation = Evaluation(**{name: _read(name, content[name], kinds[name]) for name in names})
        evaluation._check_shapes()
        if "algo" not in evaluation.config:
            raise UserError("its 'config' has no 'algo'.")
        check_values(evaluation.config)
        return evaluation

    def _check_shapes(self) -> None:
        """Raises UserError unless the arrays fit together."""
        if self.returns.ndim != 2 or self.tasks.shape[:1] != self.returns.shape[:1] or not self.returns.size:
            raise UserError("'returns' must be a table with a row for each of 'tasks'.")
        try:
            rows_of_numbers(self.tasks)
        except (TypeError, ValueError):
            raise UserError("'tasks' must hold as many numbers of each task.") from None
        for name in ("mean", "interval", "share_made_worse", "adaptation_episodes", "adaptation_steps"):
            numbers = getattr(self, name)
            if numbers is not None and numbers.shape != self.returns.shape[1:]:
                raise UserError(f"{name!r} must have a number for each column of 'returns'.")
        for name, metric in self.metrics.items():
            intervals = [] if metric.interval is None else [metric.interval]
            shapes = [metric.per_task[:1].shape, *(numbers[None].shape for numbers in (metric.mean, *intervals))]
            if len(metric.per_task) != len(self.returns) or set(shapes) != {self.returns[:1].shape}:
                raise UserError(f"the metric {name!r} must have the numbers of 'returns' and 'mean'.")
        random = self.references.random_initialisation
        if random.ndim != 1 or len(random) < len(self.mean):
            raise UserError("'random_initialisation' must have a number for each column of 'returns'.")
        if self.task_names is not None and len(self.task_names) != len(self.tasks):
            raise UserError("'task_names' must have a name for each of 'tasks'.")

    def per_task(self, name: str) -> Floats | None:
        """The measure or metric ``name`` of each task after each step, [task, step]; None if it was not measured."""
        if name == self.measure:
            return self.returns
        return self.metrics[name].per_task if name in self.metrics else None

    def returns_by_name(self) -> dict[str, Floats]:
        """Mean returns of each of a family's two tasks, [step] by the task's name; empty for other families."""
        names = np.array(self.task_names or (), dtype=str)
        return {str(name): self.returns[names == name].mean(0) for name in np.unique(names)}


def _read(name: str, value: Any, kind: Any) -> Any:
    """Returns a field's value from that in the file; raises UserError if its type is wrong."""
    if name == "references":
        if not isinstance(value, Mapping) or not {part.name for part in fields(References)} <= value.keys():
            raise UserError(f"'references' must hold 'standstill' and 'random_initialisation', got {shown(value)}.")
        standstill = convert("references.standstill", value["standstill"], float | None)
        return References(standstill, _floats("random_initialisation", value["random_initialisation"]))
    if name == "tasks":
        return _tasks(value)
    if name == "metrics":
        return _metrics(value)
    if kind in (Floats, Floats | None):
        return None if value is None and kind != Floats else _floats(name, value)
    return convert(name, value, kind)


def _metrics(value: Any) -> dict[str, MetricResult]:
    """Metrics by name."""
    parts = {part.name for part in fields(MetricResult)}
    if not isinstance(value, Mapping) or not all(
        isinstance(of, Mapping) and parts <= of.keys() for of in value.values()
    ):
        raise UserError(f"'metrics' must hold {', '.join(sorted(parts))} of each metric, got {shown(value)}.")

    def of(name: str, metric: Mapping[str, Any]) -> MetricResult:
        interval = None if metric["interval"] is None else _floats(f"interval of {name}", metric["interval"])
        return MetricResult(_floats(name, metric["per_task"]), _floats(f"mean of {name}", metric["mean"]), interval)

    return {name: of(name, metric) for name, metric in value.items()}


def _floats(name: str, value: Any) -> Floats:
    """An array of numbers; None stands for NaN."""
    try:
        numbers = _array(name, value, "iufO").astype(np.float64)
    except OverflowError:
        raise UserError(f"{name!r} must hold finite numbers.") from None
    if np.isinf(numbers).any():
        raise UserError(f"{name!r} must hold finite numbers.")
    return numbers


def _array(name: str, value: Any, kinds: str) -> NDArray[Any]:
    """A list as an array whose type is one of NumPy's ``kinds``; an array of objects must hold numbers and None."""
    try:
        array = np.array(value)
    except ValueError:
        raise UserError(f"{name!r} must be a list of numbers, or of lists of equal length.") from None
    fits = array.ndim and array.dtype.kind in kinds
    if not fits or not all(part is None or isinstance(part, int | float) for part in array.ravel().tolist()):
        raise UserError(f"{name!r} must be a list of numbers, got {shown(value)}.")
    return array


def _tasks(value: Any) -> NDArray[Any]:
    """Tasks as an array of numbers if they are lists of one shape, else as an array of objects, [task]."""
    if not (isinstance(value, list) and _holds_numbers(value)):
        raise UserError(f"'tasks' must be a list of numbers, or of lists or dictionaries of them, got {shown(value)}.")
    try:
        tasks = np.array(value)
    except ValueError:  # Lists of different lengths.
        return array_of_objects(value)
    return array_of_objects(value) if tasks.dtype == object else tasks


def _holds_numbers(value: Any) -> bool:
    if isinstance(value, list | dict):
        return all(map(_holds_numbers, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int | float) and abs(value) < _HUGE
