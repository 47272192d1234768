"""Task families: sets of related tasks; those of reinforcement learning are environments that differ in their task."""

import copy
import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.common.arrays import FloatArray, IntArray
from metarl.common.errors import UserError, blaming, nearest, shown
from metarl.common.statistics import Aggregate
from metarl.common.strict_json import one_line
from metarl.envs.interface import EpisodeBatch
from metarl.envs.looped import LoopedEpisodes
from metarl.envs.parameters import positive_whole
from metarl.envs.single import new_env
from metarl.envs.spaces import (
    MOST_FINITE,
    all_elements,
    check_parts,
    element,
    flat_observation_space,
    flat_space,
    flatten,
    in_words,
    is_countable,
    num_elements,
    sampled,
    stacked,
)

SPLITS = ("train", "validation", "test")
# Splits of the elements of a countable task space with many elements, in equal parts.
_PARTS = ("train", "train", "train", "validation", "test")
Measure = Literal["return", "error", "accuracy"]
# Columns of progress.csv have these names after "post_adaptation_".
_TAKEN = ("return", "return_std", "error", "error_std", "accuracy", "accuracy_std")


class FamilySpec(NamedTuple):
    """The arguments with which `metarl.get_family` makes a family again.

    Attributes:
        name: A registered name, or "package.module:Class".
        kwargs: Arguments in addition to those registered with the name.
    """

    name: str
    kwargs: dict[str, Any]


class Family(ABC):
    """A distribution of tasks: what `TaskFamily` and `metarl.envs.supervised.SupervisedFamily` have in common.

    Attributes:
        name: The family's id; the class's name unless set.
        task_space: The space that tasks are elements of.
        num_modes: Number of modes of the distribution of tasks; see `modes`.
        metrics: What is told of an episode beside its return, such as {"success": "any", "distance": "last"}: names of
            numbers in a step's info, and how they are aggregated over the episode's steps, by "any", "last", "mean",
            "sum" or "max". Rollouts keep these numbers. Supervised families have none.
        costs: Names of the metrics of which less is better.
        defaults: Training defaults that differ from those of `metarl.Config`: values by the names of its fields; nested
            settings are dictionaries, {"trpo": {"fisher_fraction": 0.1}}.
        memory_defaults: The same for agents with a recurrent memory, which train in another way; ``defaults`` are not
            for them (`metarl.config.algorithms.Algorithm.family_defaults`).
        spec: Arguments of the call of `metarl.get_family`; None if the family was made without it.
    """

    name: str
    task_space: spaces.Space[Any]
    num_modes: int = 1
    metrics: Mapping[str, Aggregate] = {}
    costs: Sequence[str] = ()
    defaults: Mapping[str, Any] = {}
    memory_defaults: Mapping[str, Any] = {}
    spec: FamilySpec | None = None
    _needed: ClassVar[Mapping[str, str]] = {"task_space": "gymnasium.spaces.Box(-1.0, 1.0, (2,))"}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__
        if inspect.isfunction(cls.finite_tasks):
            raise UserError(f"{cls.__name__}.finite_tasks must be a property; write @property above it.")
        try:
            inspect.signature(cls.draw_tasks).bind("self", "n", "rng", "split")
        except TypeError:
            raise UserError(
                f"{cls.__name__}.draw_tasks must take the split that it draws for; write "
                "draw_tasks(self, n, rng, split), and leave split unused if all splits have one distribution."
            ) from None

    @property
    def data(self) -> str:
        """What the tasks are made of beside the family's parameters, such as files, in a few words that change with it.

        By default nothing. A run keeps it, and is neither resumed nor evaluated on other data.
        """
        return ""

    @property
    def measure(self) -> Measure:
        """What an agent is measured by on a task: its "return", "error" or "accuracy"."""
        return "return"

    @property
    def sign(self) -> int:
        """1 if a larger ``measure`` is better, -1 if a smaller one is."""
        return self.sign_of(self.measure)

    def sign_of(self, name: str) -> int:
        """1 if more of the measure or metric ``name`` is better, -1 if less is."""
        return -1 if name == "error" or name in self.costs else 1

    def check_complete(self) -> None:
        """Raises UserError unless the subclass has set what has no default."""
        for name, example in self._needed.items():
            if inspect.getattr_static(self, name, None) is None:
                raise UserError(f"{self.name} has no {name}; set it, such as {name} = {example}.")

    def check_metrics(self) -> None:
        """Raises UserError unless ``metrics`` have known aggregates and names of their own, and name all ``costs``."""
        if not isinstance(self.metrics, Mapping):
            raise UserError(
                f"{self.name}.metrics must be a dictionary such as {{'success': 'any'}}, got {shown(self.metrics)}."
            )
        for name, how in self.metrics.items():
            if how not in get_args(Aggregate):
                known = ", ".join(get_args(Aggregate))
                raise UserError(
                    f"{self.name}.metrics: {name!r} must be aggregated by one of {known}; got {shown(how)}."
                )
            if name in _TAKEN:
                raise UserError(f"{self.name}.metrics: {name!r} is the name of something else; take another name.")
        for name in self.costs:
            if name not in self.metrics:
                raise UserError(f"{self.name}.costs: there is no metric {name!r}.{nearest(name, self.metrics)}")

    @property
    def finite_tasks(self) -> NDArray[Any] | None:
        """All tasks, [number of tasks, *task shape], if they are few and every split has all of them; else None.

        By default, the elements of a task space of whole numbers with at most 100 elements, unless a subclass overrides
        `draw_tasks` or `split_tasks`.
        """
        kind = type(self)
        alike = kind.draw_tasks is Family.draw_tasks and kind.split_tasks is Family.split_tasks
        return all_elements(self.task_space) if alike else None

    def split_tasks(self, split: str) -> Sequence[Any] | NDArray[Any] | None:
        """All tasks of a split, if there are finitely many and it should have each equally often; else None.

        By default `finite_tasks`, the same for every split. Override it if the splits have lists of their own.

        Args:
            split: "train", "validation" or "test".

        Returns:
            A list of tasks, or an array, [number of tasks, *task shape].
        """
        return self.finite_tasks

    def independent(self, tasks: Sequence[Any] | NDArray[Any]) -> bool:
        """Whether test tasks are new and differ, so that they have an interval: repeats would make it too narrow."""
        return self.finite_tasks is None and len(set(map(one_line, tasks))) == len(tasks)

    def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> NDArray[Any]:
        """Draws tasks for a split.

        The splits have separate random streams: held-out tasks come from a stream that training never uses, whatever
        generators are passed in. All splits have the same distribution, unless `draw_tasks` distinguishes them.

        Where `split_tasks` lists the tasks of the split, each is drawn equally often (up to the remainder), in random
        order. If they come from several `modes`, the modes are drawn equally often, then each task of a mode, and tasks
        of one mode follow each other. The splits of a family with `finite_tasks` coincide.

        Args:
            n: Number of tasks.
            rng: Source of randomness; advanced by one draw.
            split: "train", "validation" or "test".

        Returns:
            Tasks, [n, *task shape]; of a ``Dict`` or ``Tuple`` task space, an array of objects, [n].

        Raises:
            UserError: If n is no whole number of at least 1, ``rng`` no generator, the split unknown, or the task space
                not supported.
        """
        n = positive_whole("n, the number of tasks,", n)
        if not isinstance(rng, np.random.Generator):
            raise UserError(f"rng must be a generator, numpy.random.default_rng(seed), got {shown(rng)}.")
        if split not in SPLITS:
            raise UserError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}.{nearest(split, SPLITS)}")
        check_parts(self.task_space, f"the tasks of {self.name}")
        stream = np.random.default_rng([int(rng.integers(2**63)), SPLITS.index(split)])
        listed = self.listed_tasks(split)
        if listed is not None:
            return _balanced(listed, self.checked_modes(listed), n, stream)
        drawn = self.draw_tasks(n, stream, split)
        if len(drawn) != n:
            raise UserError(f"{self.name}.draw_tasks must return {n} tasks, as many as asked for, got {len(drawn)}.")
        return stacked([*drawn])

    def listed_tasks(self, split: str) -> NDArray[Any] | None:
        """The tasks of `split_tasks` as an array, [number of tasks, *task shape]."""
        listed = self.split_tasks(split)
        if listed is not None and len(listed) == 0:
            raise UserError(f"{self.name}.split_tasks lists no task for {split!r}; return None to draw tasks.")
        return None if listed is None else stacked([*listed])

    def draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> NDArray[Any]:
        """Draws tasks from the family's distribution; by default what ``task_space`` samples.

        By default all splits have one distribution. If the task space is one of whole numbers, so that tasks repeat,
        and has more than 100 elements, each element belongs to one split only.

        Args:
            n: Number of tasks.
            rng: Source of randomness.
            split: "train", "validation" or "test"; a family may draw other tasks for its tests.

        Returns:
            Tasks, [n, *task shape]; of a ``Dict`` or ``Tuple`` task space, an array of objects, [n].

        Raises:
            UserError: If the task space consists of integers without bounds.
        """
        space = copy.deepcopy(self.task_space)
        space.seed(int(rng.integers(2**31)))
        count = num_elements(space)
        if is_countable(space) and count == math.inf:
            raise UserError(
                f"the tasks of {self.name} are integers without bounds, {space}, which all splits would repeat; give "
                "task_space bounds, or override draw_tasks."
            )
        apart = MOST_FINITE < count < math.inf
        tasks: list[Any] = []
        while len(tasks) < n:
            task = sampled(space)
            if not apart or _split_of(task) == split:
                tasks.append(task)
        return stacked(tasks)

    def check_task(self, task: Any) -> None:
        """Raises UserError unless ``task`` is a task of the family; by default, an element of ``task_space``."""
        if not self.task_space.contains(task):
            raise UserError(f"{task} is no task of {self.name}: {self.task_space}.")

    def task_from(self, value: Any) -> Any:
        """The task that a user's value stands for, such as one read from JSON.

        Raises:
            UserError: If it is no task of the family.
        """
        task = element(self.task_space, value, "the task")
        self.check_task(task)
        return task

    def is_held_out(self, task: Any) -> bool:
        """Whether training cannot have seen a task, where a family tells; by default it does not, and says yes."""
        return True

    def modes(self, tasks: NDArray[Any]) -> IntArray:
        """Which mode of the distribution each task was drawn from; by default all come from one.

        Args:
            tasks: [task, *task shape].

        Returns:
            Numbers from 0 to ``num_modes`` - 1, [task].
        """
        return np.zeros(len(tasks), int)

    def checked_modes(self, tasks: NDArray[Any]) -> IntArray:
        """What `modes` says of tasks, [task].

        Raises:
            UserError: If it does not say one whole number from 0 to ``num_modes`` - 1 of each.
        """
        modes = np.asarray(self.modes(tasks))
        numbers = modes.dtype.kind in "iuf" and modes.shape == (len(tasks),)
        if not (numbers and np.isin(modes, np.arange(self.num_modes)).all()):
            raise UserError(
                f"{self.name}.modes must return a whole number from 0 to {self.num_modes - 1} for each of the "
                f"{len(tasks)} tasks, got {shown(modes)}."
            )
        return modes.astype(int)

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an observation or input before it is flattened."""

    @property
    def task_size(self) -> int:
        """How many numbers a task has in `flat_tasks`; raises UserError if the task space is not supported."""
        return flat_space(self.task_space, f"the tasks of {self.name}").shape[0]

    def flat_tasks(self, tasks: Sequence[Any] | NDArray[Any]) -> FloatArray:
        """Tasks as numbers (`metarl.envs.spaces.flatten`), [task, number]."""
        return np.array([flatten(self.task_space, task, f"a task of {self.name}") for task in tasks])

    def describe_task(self, task: Any) -> str:
        """Says in a few words what a task is."""
        return f"task {in_words(task)}"


class TaskFamily(Family):
    """A family of tasks around one Gymnasium environment, or around several kinds of them.

    A subclass needs a ``task_space`` and ``make_env``. It also needs ``set_task`` if the environment does not take its
    task from ``reset(options={"task": task})``. See ``examples/cartpole_family.py``. If tasks need environments of
    different kinds, with the same spaces, it needs ``kinds`` and ``kind`` too, see ``examples/control_family.py``.

    Attributes:
        horizon: Default length of an episode, in environment steps.
        kinds: The kinds of environments, if they depend on the task; ``make_env`` then takes one of them as ``kind``,
            by default the first.
        min_envs_per_shard: With fewer environments than this, one thread is faster than several. None: training finds
            out whether threads pay, by its first three iterations.
    """

    horizon: int = 200
    min_envs_per_shard: int | None = None
    kinds: Sequence[Hashable] = ()

    @abstractmethod
    def make_env(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Makes one environment of the family, without a limit on the episode's length that is below the horizon.

        Args:
            render_mode: Gymnasium's render mode; a family that is never drawn may leave this parameter out.
        """

    def kind(self, task: Any) -> Hashable:
        """Which of ``kinds`` a task's environment is; None for a family without."""
        return None

    def set_task(self, env: gym.Env[Any, Any], task: Any) -> dict[str, Any] | None:
        """Tells an environment its task; called before every reset, whose options it returns.

        The environment must keep the task: a plain ``env.reset()`` continues with it until another task is given.

        Override it for an environment that takes no task at reset: change the environment, for example
        ``env.unwrapped.gravity = float(task)``, and return None.

        Args:
            env: An environment made by ``make_env``, of the task's kind, perhaps in a wrapper.
            task: An element of ``task_space``.

        Returns:
            The options to hand to ``env.reset``, or None.
        """
        return {"task": task}

    def make_episodes(self, num_envs: int, horizon: int) -> EpisodeBatch:
        """Makes a batch of slots in which episodes run side by side.

        Args:
            num_envs: Number of slots.
            horizon: Steps after which an episode is truncated.
        """
        return LoopedEpisodes(self, num_envs, horizon)

    @cached_property
    def observation_space(self) -> spaces.Box:
        """What the policy observes: the environment's observation space, flattened to one axis."""
        return flat_observation_space(self._spaces[0], f"the observations of {self.name}")

    @property
    def single_observation_space(self) -> spaces.Space[Any]:
        """The observation space of one environment, before it is flattened."""
        return self._spaces[0]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an observation before it is flattened, such as an image's; of one with several parts, (numbers,)."""
        flat, shape = self.observation_space.shape, self._spaces[0].shape
        return shape if shape and math.prod(shape) == flat[0] else flat

    @cached_property
    def action_space(self) -> spaces.Space[Any]:
        """The action space of one environment."""
        return self._spaces[1]

    @cached_property
    def _spaces(self) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        with blaming(lambda: f"while an environment of {self.name} was made"):
            env = new_env(self)
            env.close()
        return env.observation_space, env.action_space


def require_environments(family: Family, purpose: str) -> TaskFamily:
    """Returns ``family``, whose tasks must be environments; ``purpose`` says what for.

    Raises:
        UserError: If it is a supervised family.
    """
    if isinstance(family, TaskFamily):
        return family
    raise UserError(f"{family.name} is a supervised family without environments, and {purpose} needs one with them.")


def _split_of(task: Any) -> str:
    """The split that an element of a countable task space belongs to, the same in every run."""
    digest = hashlib.sha256(one_line(task).encode()).digest()
    return _PARTS[int.from_bytes(digest[:8]) % len(_PARTS)]


def _balanced(tasks: NDArray[Any], modes: IntArray, n: int, rng: np.random.Generator) -> NDArray[Any]:
    """Draws n of finitely many tasks, each mode equally often, and each task of a mode, [n, *task shape].

    "Equally often" means that two counts differ by at most one.
    """
    groups = [tasks[modes == mode] for mode in np.unique(modes)]
    if len(groups) == 1:
        return tasks[_evenly(len(tasks), n, rng)]
    # Mode after mode: a slot that gets the same place in every batch can then keep its kind of environment.
    counts = np.bincount(_evenly(len(groups), n, rng), minlength=len(groups)).tolist()
    drawn = [group[_evenly(len(group), count, rng)] for group, count in zip(groups, counts, strict=True) if count]
    return np.concatenate(drawn)


def _evenly(size: int, n: int, rng: np.random.Generator) -> IntArray:
    """Draws n of the numbers below ``size`` so that the counts of any two differ by at most one, [n]."""
    # Concatenate whole permutations, cut off the last one, and shuffle, so that no round is visible in the order.
    order = np.concatenate([rng.permutation(size) for _ in range(-(-n // size))])[:n]
    return rng.permutation(order)
