"""What an analysis finds, as values. `metarl.common.strict_json.plain` makes them the content of ``analysis.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from metarl.common.strict_json import plain
from metarl.config.evaluation import AnalysisConfig
from metarl.reports.measures import Floats, Summary


@dataclass(frozen=True, eq=False, kw_only=True)
class Angles(Summary):
    """Angles between meta-gradients and their sum, [tensor] of the policy and [task, tensor].

    Attributes:
        num_vectors: Meta-gradients in a sum; the most, where sums differ.
        unrelated: The angle that as many unrelated meta-gradients would have.
    """

    num_vectors: int
    unrelated: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Conflict:
    """Degree of conflict of meta-gradients, see `metarl.reports.inspection.conflict`.

    Attributes:
        unit: Unit of the angles.
        between_tasks: Of whole tasks.
        within_task: Of single episodes of one task.
        between_episodes: Of single episodes, each of another task.
    """

    unit: str = "radian"
    between_tasks: Angles
    within_task: Angles
    between_episodes: Angles


@dataclass(frozen=True, eq=False, kw_only=True)
class Attenuation:
    """What the initialisation is multiplied by.

    Attributes:
        unit: Unit of gamma: it is a ratio.
        gamma: Mean factor on each of the policy's tensors, [tensor] and [task, tensor].
    """

    unit: str = "1"
    gamma: Summary


@dataclass(frozen=True, eq=False, kw_only=True)
class Landscape:
    """Smoothness of the inner loss along the inner steps, mean over them; see `metarl.reports.measures.along_step`.

    Attributes:
        units: Unit of each of the following.
        fractions: The points, as multiples of the step.
        loss_change: Inner loss minus that at the step's start, [point] and [task, point].
        gradient_change: Distance between the gradient and that at the start, [point] and [task, point].
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
    """How much the inner loop changes what the policy's layers make of observations.

    Attributes:
        unit: Unit of a similarity: it is a ratio.
        names: Names of the representations.
        start: Similarity since the start of the inner loop.
        gradient_steps: Since the first gradient step; None where nothing precedes it.
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
        norm: Euclidean norm before, mean over tasks, [tensor].
    """

    distance: Summary
    norm: Floats


@dataclass(frozen=True, eq=False, kw_only=True)
class Movement:
    """How far the inner loop moves the policy.

    Attributes:
        unit: Unit of distances and norms.
        start: Since the start of the inner loop.
        gradient_steps: Since the first gradient step; None where nothing precedes it.
    """

    unit: str = "parameter"
    start: Moved
    gradient_steps: Moved | None = None

    def to_json(self) -> dict[str, Any]:
        """Its fields but for those that are None."""
        return _without_none(self)


@dataclass(frozen=True, eq=False, kw_only=True)
class Freezing:
    """Returns after an inner loop whose steps leave the first k layers where they are.

    Attributes:
        unit: Unit of the numbers.
        frozen_layers: k.
        names: What each k is called.
        returns: Return after the inner loop, [k] and [task, k].
        difference: Mean difference to k = 0, [k].
        interval: Half-width of its 95 % t interval over tasks, [k]; None where tasks are no sample: there are finitely
            many, which repeat.
    """

    unit: str = "return"
    frozen_layers: Sequence[int]
    names: Sequence[str]
    returns: Summary
    difference: Floats
    interval: Floats | None


@dataclass(frozen=True, eq=False)
class Projected:
    """What a rule saw of each task, in two dimensions.

    Attributes:
        features: What it saw, [task, feature].
        coordinates: The features' projection, [task, 2].
        variance_shares: Share of the variance along each coordinate, [2]; None for t-SNE.
    """

    features: Floats
    coordinates: Floats
    variance_shares: Floats | None


@dataclass(frozen=True, eq=False)
class Embedding:
    """Tasks by what the rule sees of them before its first gradient step.

    Attributes:
        projection: How they were brought to two dimensions.
        rollouts: Episodes of each task that the rule looked at.
        tasks: The tasks, [task, ...].
        modes: Which mode of the family each of them is from, [task].
        num_modes: Modes of the family.
        seen: What the rule saw, by its name in `metarl.inner.rule.Adaptation.observed`; without what is the same for
            every task.
    """

    projection: str
    rollouts: int
    tasks: NDArray[Any]
    modes: NDArray[Any]
    num_modes: int
    seen: Mapping[str, Projected]

    def to_json(self) -> dict[str, Any]:
        """Its fields, and the parts of ``seen`` in place of that."""
        return {**{name: value for name, value in vars(self).items() if name != "seen"}, **self.seen}


@dataclass(frozen=True, eq=False, kw_only=True)
class Inspection:
    """What one inner loop of each task shows of a rule's meta-parameters; None for what does not apply.

    Attributes:
        conflict: Whether tasks pull the initialisation into different directions.
        attenuation: Learn-to-Forget's gamma.
        landscape: Smoothness of the inner loss along the inner steps.
        representations: Similarity of representations before and after adaptation.
        movement: How far the policy moves.
        left_out: Why something is left out, by the name of what is None. ``similarity`` says that the similarities of
            ``representations`` are not defined, ``embedding of NAME`` that NAME is not in an embedding.
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
        returns: Return after 0, 1, ... gradient steps, mean over tasks, [step].
    """

    iteration: int
    returns: Floats

    def to_json(self) -> dict[str, Any]:
        """Its fields without the single tasks' values, which would fill the file, and without ``left_out``."""
        return {name: _without_tasks(plain(value)) for name, value in vars(self).items() if name != "left_out"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Analysis(Inspection):
    """What a trained agent learned.

    Attributes:
        config: The run's settings, as in its ``config.json``.
        settings: What it was analysed on, with the folder that was written to; ``analysis`` in the file.
        metarl: What it was analysed with: version, commit, packages and hardware.
        checkpoint: Which checkpoint was analysed.
        iteration: Meta-iterations done at it.
        tasks: The tasks, [task, ...].
        modes: Which mode of the family each of them is from, [task].
        finite: Whether the family has finitely many tasks, so that none is held out and ``tasks`` repeats them.
        tensors: Names of the policy's tensors.
        layers: The same, layer by layer.
        returns: Mean return of an episode, [task, gradient step].
        freezing: Returns with layers frozen in the inner loop; None where no step changes the policy.
        embedding: Tasks by what the rule saw of them; None where it looks at none or sees the same of all.
        through_training: The checkpoints that were kept, in order, and the analysed one among them; None if that is the
            only one, or if nothing could be measured at all of them.
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
    freezing: Freezing | None
    embedding: Embedding | None
    through_training: Sequence[AtCheckpoint] | None
    env_steps: int

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON can hold them: arrays as nested lists, what is not finite as None."""
        names = {"settings": "analysis"}
        return {names.get(name, name): plain(value) for name, value in vars(self).items()}


def _without_none(value: Any) -> dict[str, Any]:
    return {name: part for name, part in vars(value).items() if part is not None}


def _without_tasks(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _without_tasks(part) for name, part in value.items() if name != "per_task"}
