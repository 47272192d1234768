"""Results of an analysis. `metarl.common.strict_json.plain` turns them into the content of ``analysis.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from metarl.common.arrays import Floats
from metarl.common.strict_json import plain
from metarl.config.measuring import AnalysisConfig
from metarl.reports.measures import Difference, Summary


@dataclass(frozen=True, eq=False, kw_only=True)
class Angles(Summary):
    """Angles between meta-gradients and their sum, [tensor] and [task, tensor].

    Attributes:
        num_vectors: Number of meta-gradients in a sum; the largest number if sums differ.
        unrelated: Angle of the same number of unrelated meta-gradients.
    """

    num_vectors: int
    unrelated: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Conflict:
    """Degree of conflict of meta-gradients, see `metarl.reports.inspection.conflict`.

    Attributes:
        unit: Unit of the angles.
        between_tasks: Between meta-gradients of whole tasks.
        within_task: Between meta-gradients of single episodes of one task.
        between_episodes: Between meta-gradients of single episodes of different tasks.
        excess: ``between_episodes`` minus ``within_task``, [tensor] and [task, tensor]: the conflict that comes from
            the tasks and not from noise. A task's angle also depends on the tasks it is compared with, so that the
            interval over tasks is approximate.
    """

    unit: str = "radian"
    between_tasks: Angles
    within_task: Angles
    between_episodes: Angles
    excess: Difference


@dataclass(frozen=True, eq=False, kw_only=True)
class Attenuation:
    """Factors on the initialisation.

    Attributes:
        unit: Unit of gamma: it is a ratio.
        gamma: Mean factor on every tensor of the policy, [tensor] and [task, tensor].
    """

    unit: str = "1"
    gamma: Summary


@dataclass(frozen=True, eq=False, kw_only=True)
class Landscape:
    """Smoothness of the inner loss, mean over inner steps; see `metarl.reports.measures.along_step`.

    Attributes:
        units: Units of the changes and the smoothness.
        fractions: The points, as multiples of the step.
        loss_change: Inner loss minus its value at the start of the step, [point] and [task, point].
        gradient_change: Distance of the gradient from its value at the start, [point] and [task, point].
        smoothness: Effective beta-smoothness, [] and [task].
    """

    units: Mapping[str, str] = field(
        default_factory=lambda: {
            "loss_change": "inner loss",
            "gradient_change": "inner loss / parameter",
            "smoothness": "inner loss / parameter^2",
        }
    )
    fractions: Sequence[float]
    loss_change: Summary
    gradient_change: Summary
    smoothness: Summary


@dataclass(frozen=True, eq=False)
class Similarity:
    """Similarity of representations before and after adaptation, [representation] and [task, representation].

    Attributes:
        cka: `metarl.reports.measures.linear_cka`.
        cca: `metarl.reports.measures.mean_cca`.
    """

    cka: Summary
    cca: Summary


@dataclass(frozen=True, eq=False, kw_only=True)
class Representations:
    """How much the inner loop changes the representations, the outputs of the policy's layers.

    Attributes:
        unit: Unit of a similarity: it is a ratio.
        names: Names of the representations.
        start: Similarity between the start and the end of the inner loop.
        gradient_steps: Similarity between the start of the first gradient step and the end; None if that step comes
            first.
    """

    unit: str = "1"
    names: Sequence[str]
    start: Similarity
    gradient_steps: Similarity | None = None

    def to_json(self) -> dict[str, Any]:
        """Its fields but for those that are None."""
        return _without_none(self)


@dataclass(frozen=True, eq=False)
class Moved:
    """How far the policy's tensors move.

    Attributes:
        distance: Euclidean distance, [tensor] and [task, tensor].
        norm: Euclidean norm before the movement, mean over tasks, [tensor].
    """

    distance: Summary
    norm: Floats


@dataclass(frozen=True, eq=False, kw_only=True)
class Movement:
    """How far the inner loop moves the policy.

    Attributes:
        unit: Unit of distances and norms.
        start: Movement from the start of the inner loop to its end.
        gradient_steps: Movement from the start of the first gradient step to the end; None if that step comes first.
    """

    unit: str = "parameter"
    start: Moved
    gradient_steps: Moved | None = None

    def to_json(self) -> dict[str, Any]:
        """Its fields but for those that are None."""
        return _without_none(self)


@dataclass(frozen=True, eq=False, kw_only=True)
class Freezing:
    """Returns after an inner loop whose gradient steps leave the first k layers unchanged.

    Attributes:
        unit: Unit of the numbers: the family's measure.
        frozen_layers: The values of k.
        names: Names of the values of k.
        returns: Return after the inner loop, [k] and [task, k].
        difference: Mean difference to k = 0, [k].
        interval: Half-width of its 95 % t interval over tasks, [k]; None for a finite family, whose repeated tasks are
            not independent.
    """

    unit: str
    frozen_layers: Sequence[int]
    names: Sequence[str]
    returns: Summary
    difference: Floats
    interval: Floats | None


@dataclass(frozen=True, eq=False)
class Gap:
    """The gain of the best gammas as a share of the gap from standing still to an oracle.

    Attributes:
        standstill: Return of the zero action on the same tasks.
        oracle: Return of the oracle, as given.
        share: Gain over the gap, [part].
        interval: Half-width of its 95 % t interval over tasks, with the gap taken as known, [part]; None for a finite
            family.
    """

    standstill: float
    oracle: float
    share: Floats
    interval: Floats | None


@dataclass(frozen=True, eq=False, kw_only=True)
class GammaSweep:
    """Returns after an inner loop that starts from an initialisation attenuated by hand, the same for every task.

    Every inner loop runs twice, with support and query episodes of its own: its two halves. ``returns`` is the mean of
    both. The best gamma of each task is chosen on one half and scored on the other (`best_on_the_other_half` in
    `metarl.reports.measures`), so that neither lucky episodes nor a lucky support count as a gain.

    Attributes:
        unit: Unit of the returns: the family's measure.
        gammas: The factors; 1 is the rule itself.
        parts: What a gamma attenuates: each layer, then the whole network.
        tensors: Names of each part's tensors; a weight and its bias share a gamma, and the log-std keeps 1.
        returns: Return after the inner loop, [part, gamma] and [task, part, gamma].
        unattenuated: Return with gamma = 1, [] and [task].
        best: Return with each task's best gamma, [part] and [task, part].
        gain: ``best`` minus ``unattenuated``, or the reverse of errors, so that more is better, [part] and [task,
            part]; with an interval unless the family is finite.
        chosen: The gamma chosen on each half, [half, task, part].
        gap: The gain as a share of a gap; None if no oracle's return was given.
    """

    unit: str
    gammas: Sequence[float]
    parts: Sequence[str]
    tensors: Sequence[Sequence[str]]
    returns: Summary
    unattenuated: Summary
    best: Summary
    gain: Difference
    chosen: Floats
    gap: Gap | None


@dataclass(frozen=True, eq=False)
class Projected:
    """A rule's features of tasks, projected to two dimensions.

    Attributes:
        features: The features, [task, feature].
        coordinates: The features' projection, [task, 2].
        variance_shares: Share of the variance along each coordinate, [2]; None for t-SNE.
        r2: How well the features predict the task, `metarl.reports.measures.task_r2`: of each number of the task, and
            for tasks of several numbers of the components of its direction (the unit vector) and of its length, by
            name; NaN if constant.
    """

    features: Floats
    coordinates: Floats
    variance_shares: Floats | None
    r2: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Embedding:
    """Tasks, represented by the rule's features of them before its first gradient step.

    Attributes:
        projection: Method of projection to two dimensions.
        rollouts: Episodes per task that the features are computed from.
        tasks: The tasks, [task, ...].
        modes: Mode of the family that each task comes from, [task].
        num_modes: Number of modes of the family.
        seen: Features by their name in `metarl.inner.rule.Adaptation.observed`, except features that are equal for all
            tasks.
    """

    projection: str
    rollouts: int
    tasks: NDArray[Any]
    modes: NDArray[Any]
    num_modes: int
    seen: Mapping[str, Projected]

    def to_json(self) -> dict[str, Any]:
        """Its fields, with the entries of ``seen`` in place of ``seen``."""
        return {**{name: value for name, value in vars(self).items() if name != "seen"}, **self.seen}


@dataclass(frozen=True, eq=False)
class Memory:
    """What an agent with memory holds of its task in the course of a trial.

    The state of a step is a recurrent layer's, from which the action is chosen: it has read the observation and
    everything before it. PEARL's is the posterior's mean, which has read the step's action and reward, too. An episode
    that has ended keeps its last state until the next one begins.

    Attributes:
        tasks: The tasks, [task, ...]; each has one trial, with as many episodes as in training.
        modes: Mode of the family that each task comes from, [task].
        num_modes: Number of modes of the family.
        lengths: Steps of each episode, [task, episode].
        ends: State at the last step of each episode, [task, episode, unit].
        coordinates: ``ends`` along their two principal axes, which all episodes share, [task, episode, 2].
        variance_shares: Share of the variance of ``ends`` along each axis, [2].
        paths: The states of some tasks, the first ones, at each step along the same axes, [task, episode, step, 2].
        r2: How well the state of each step predicts the task, [episode, step], by name as in `Projected`.
    """

    tasks: NDArray[Any]
    modes: NDArray[Any]
    num_modes: int
    lengths: NDArray[Any]
    ends: Floats
    coordinates: Floats
    variance_shares: Floats
    paths: Floats
    r2: Mapping[str, Floats]


@dataclass(frozen=True, eq=False, kw_only=True)
class Inspection:
    """The inspection of a rule's meta-parameters by one inner loop per task; None for parts that do not apply.

    Attributes:
        conflict: Whether tasks pull the initialisation into different directions.
        attenuation: Learn-to-Forget's gamma.
        landscape: Smoothness of the inner loss along the inner steps.
        representations: Similarity of representations before and after adaptation.
        movement: How far the policy moves.
        left_out: Reasons for the parts that are None, by name. Two further names: ``similarity`` if the similarities in
            ``representations`` are not defined, and ``embedding of NAME`` if the embedding omits the feature NAME.
    """

    conflict: Conflict | None
    attenuation: Attenuation | None
    landscape: Landscape | None
    representations: Representations | None
    movement: Movement | None
    left_out: Mapping[str, str]


@dataclass(frozen=True, eq=False, kw_only=True)
class AtCheckpoint(Inspection):
    """An inspection of one checkpoint.

    Attributes:
        iteration: Meta-iterations done at the checkpoint.
        returns: Return after 0, 1, ... steps of adaptation, mean over tasks, [step].
    """

    iteration: int
    returns: Floats

    def to_json(self) -> dict[str, Any]:
        """Its fields, without ``left_out`` and without values of single tasks, which would bloat the file."""
        return {name: _without_tasks(plain(value)) for name, value in vars(self).items() if name != "left_out"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Analysis(Inspection):
    """The analysis of a trained agent.

    Attributes:
        config: The run's settings, as in its ``config.json``.
        settings: Settings of the analysis, with the folder that it was written to; named ``analysis`` in the file.
        metarl: Version, commit, packages and hardware of the analysis.
        checkpoint: The analysed checkpoint.
        iteration: Meta-iterations done at that checkpoint.
        tasks: The tasks, [task, ...].
        modes: Mode of the family that each task comes from, [task].
        finite: Whether the family has finitely many tasks: then none is held out, and ``tasks`` repeats them.
        tensors: Names of the policy's tensors; empty for an agent with memory, whose tasks share all of them.
        layers: The same names, grouped by layer.
        returns: Mean return of an episode after 0, 1, ... steps of adaptation, [task, step]; of supervised tasks, the
            error or accuracy.
        measure: What returns are: "return", or of supervised tasks "error" or "accuracy".
        freezing: Returns with layers frozen in the inner loop; None if no step changes the policy.
        gamma_sweep: Returns with the initialisation attenuated by hand; None unless asked for, if no step changes the
            policy, or if the rule attenuates by itself.
        embedding: Tasks, represented by the rule's features; None if it has no features, or equal ones for all tasks.
        memory: The memory of the task along a trial; None if the agent has none.
        through_training: The kept checkpoints, in order, including the analysed one; None if there is no other one, or
            if no measure is defined at every checkpoint.
        env_steps: Environment steps of the whole analysis.
    """

    config: Mapping[str, Any]
    settings: AnalysisConfig
    metarl: Mapping[str, str]
    checkpoint: str
    iteration: int
    tasks: NDArray[Any]
    modes: NDArray[Any]
    finite: bool
    tensors: Sequence[str]
    layers: Sequence[Sequence[str]]
    returns: Floats
    measure: str
    freezing: Freezing | None
    gamma_sweep: GammaSweep | None
    embedding: Embedding | None
    memory: Memory | None
    through_training: Sequence[AtCheckpoint] | None
    env_steps: int

    def to_json(self) -> dict[str, Any]:
        """Its fields in JSON types: arrays as nested lists, values that are not finite as None."""
        names = {"settings": "analysis"}
        return {names.get(name, name): plain(value) for name, value in vars(self).items()}


def _without_none(value: Any) -> dict[str, Any]:
    return {name: part for name, part in vars(value).items() if part is not None}


def _without_tasks(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _without_tasks(part) for name, part in value.items() if name != "per_task"}
