"""Native batches: one core steps many copies of an environment. Episodes and vector environments build on it."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray, IntArray
from metarl.common.cores import available_cores
from metarl.common.errors import UserError, nearest, shown
from metarl.envs.family import TaskFamily
from metarl.envs.interface import BrokenEpisode, EpisodeBatch, reported
from metarl.envs.parameters import positive_whole
from metarl.envs.tasks import TaskDistribution, TaskEnvironment, task_option

Slots = IntArray | slice
ALL = slice(None)

# Training defaults of the families in published experiments. A tenth of the steps suffices for the Fisher matrix
# (Schulman et al. 2015, section 6). Half of them, those of largest |advantage|, suffice for the inner loss's Hessian
# (docs/performance.md). Gradients and the line search always use every step.
SAMPLED_CURVATURE: Mapping[str, Any] = {"trpo": {"fisher_fraction": 0.1, "hessian_fraction": 0.5}}


def rows(values: NDArray[Any], slots: Slots) -> NDArray[Any]:
    """Rows of some slots, [k, ...]; the result of indexing, but several times faster if the slots are an array."""
    return values[slots] if isinstance(slots, slice) else values.take(slots, axis=0)


def whole_actions(actions: Any, n: int) -> IntArray:
    """Discrete actions, [...], as an array; raises UserError unless all are whole numbers from 0 to n - 1."""
    chosen = np.asarray(actions)
    if chosen.dtype.kind not in "iu" or (chosen < 0).any() or (chosen >= n).any():
        raise UserError(f"actions must be whole numbers from 0 to {n - 1}, got {actions}.")
    return chosen


class NativeCore(ABC):
    """State, physics and rewards of ``num_envs`` copies of one environment.

    It knows neither episode lengths nor autoresets. In float64, it equals that many single environments.

    Attributes:
        num_envs: Number of slots.
        tasks: Each slot's task, [num_envs, *task shape]; written by the owner before ``start``.
        terms: The last step's reward terms and other numbers by name, [num_envs] each, as in the single environment's
            info.
        broken: Slots whose episode could not go on in the last step, each with the reason.
        draws: Whether it uses the generators that it is started with, at the start or at later steps.
    """

    draws: ClassVar[bool] = True

    def __init__(self, num_envs: int, task_shape: tuple[int, ...]) -> None:
        if num_envs < 1:
            raise UserError(f"the number of environments must be at least 1, got {num_envs}.")
        self.num_envs = num_envs
        self.tasks = np.zeros((num_envs, *task_shape))
        self.terms: dict[str, FloatArray] = {}
        self.broken: Mapping[int, str] = {}

    def use_threads(self, num_threads: int) -> None:  # noqa: B027 (most cores need no more than one)
        """Steps with several threads, if it can. Numbers do not depend on it. To be called before the first start."""

    @abstractmethod
    def start(self, slots: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Puts slots into the first state of an episode.

        Args:
            slots: Which slots, [k].
            generators: Their generators, k of them; none if ``draws`` is false.
        """

    @abstractmethod
    def advance(self, slots: Slots, actions: NDArray[Any], rewards: FloatArray, terminated: BoolArray) -> None:
        """Takes one step in some slots.

        Args:
            slots: Which slots; an index array or ``ALL``.
            actions: Actions of all slots, [num_envs, action]; not modified.
            rewards: Receives the rewards of these slots, [num_envs].
            terminated: Receives whether these slots are in a terminal state, [num_envs].
        """

    @abstractmethod
    def observe(self, observations: FloatArray) -> None:
        """Writes the observations of all slots, [num_envs, observation]."""

    def record_terms(self, slots: Slots, terms: dict[str, FloatArray], rewards: FloatArray) -> None:
        """Keeps the reward terms of some slots and writes their sum.

        Args:
            slots: Which slots.
            terms: Terms by name, [k] each.
            rewards: Receives the sums of these slots, [num_envs].
        """
        rewards[slots] = sum(terms.values())
        self.record(slots, terms)

    def record(self, slots: Slots, numbers: Mapping[str, FloatArray]) -> None:
        """Keeps numbers of some slots that are not part of the reward, by name, [k] each."""
        for name, values in numbers.items():
            self.terms.setdefault(name, np.zeros(self.num_envs))[slots] = values


class SlotGenerators:
    """One generator per slot, for a core that draws random numbers at its steps.

    Args:
        num_envs: Number of slots.
    """

    def __init__(self, num_envs: int) -> None:
        self._generators: list[Any] = [None] * num_envs

    def keep(self, slots: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Keeps the generators of some slots, [k], until others are given."""
        for slot, generator in zip(slots, generators, strict=True):
            self._generators[slot] = generator

    def of(self, slots: Slots) -> list[np.random.Generator]:
        """The generators of some slots, [k]."""
        if isinstance(slots, slice):
            return self._generators[slots]
        return [self._generators[slot] for slot in slots]


class NativeEpisodes(EpisodeBatch):
    """One episode per slot of a native core.

    Args:
        core: The core; owned from now on.
        observation_size: Numbers in an observation.
        horizon: Steps after which an episode is truncated.
        terms: Names of the core's terms to report.
    """

    def __init__(self, core: NativeCore, observation_size: int, horizon: int, terms: Iterable[str] = ()) -> None:
        super().__init__(core.num_envs, observation_size, terms)
        self._core = core
        self._horizon = horizon
        self._terminated = np.zeros(core.num_envs, bool)
        self._truncated = np.zeros(core.num_envs, bool)
        self._living: Slots = ALL
        self._elapsed = np.zeros(core.num_envs, int)

    def reset(
        self, tasks: NDArray[Any], seeds: Sequence[int], observations: FloatArray, slots: IntArray | None = None
    ) -> None:
        slots = np.arange(self.num_envs) if slots is None else slots
        self._core.tasks[slots] = tasks
        generators = [seeding.np_random(int(seed))[0] for seed in seeds] if self._core.draws else []
        self._core.start(slots, generators)
        self._core.observe(observations)
        self._terminated[slots] = False
        self._truncated[slots] = False
        self._elapsed[slots] = 0
        self._find_living()

    def step(
        self,
        actions: NDArray[Any],
        observations: FloatArray,
        rewards: FloatArray,
        terminated: BoolArray,
        truncated: BoolArray,
    ) -> None:
        for values in (rewards, *self.terms.values()):
            values[...] = 0
        self.broken = {}
        if isinstance(self._living, slice) or len(self._living):
            self._core.advance(self._living, actions, rewards, self._terminated)
            self.broken = self._core.broken
            for name, values in self.terms.items():
                values[self._living] = reported(self._core.terms, name)[self._living]
            self._elapsed[self._living] += 1
            self._truncated[self._living] = self._elapsed[self._living] >= self._horizon
            self._find_living()
        self._core.observe(observations)
        terminated[...] = self._terminated
        truncated[...] = self._truncated

    def end(self, slots: IntArray) -> None:
        self._terminated[slots] = True
        self._find_living()

    def use_threads(self, num_threads: int) -> None:
        self._core.use_threads(num_threads)

    def close(self) -> None:
        """Nothing to release."""

    def _find_living(self) -> None:
        ended = self._terminated | self._truncated
        self._living = np.flatnonzero(~ended) if ended.any() else ALL


class NativeVectorEnv(VectorEnv[FloatArray, NDArray[Any], NDArray[Any]]):
    """A Gymnasium vector environment on a native core, with autoreset at the next step.

    Observations, rewards and ends equal those of ``SyncVectorEnv`` over the single environments, step by step, in
    float64; infos hold the reward's terms and the family's metrics. ``reset`` takes ``options={"task": tasks}``, one
    task per slot, [num_envs, *task shape]; tasks last as in the single environment.

    Args:
        core: The core; owned from now on.
        env: A single environment, which has the spaces and the distribution of tasks.
        max_episode_steps: Steps after which an episode is truncated; -1 for no limit.
        num_threads: Threads that step the core; by default as many as there are cores. It changes no number.

    Raises:
        UserError: If ``max_episode_steps`` is anything else than -1 or a positive whole number.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (as in Gymnasium)

    def __init__(self, core: NativeCore, env: Any, max_episode_steps: int, num_threads: int | None = None) -> None:
        core.use_threads(threads_for(core.num_envs, num_threads))
        self.num_envs = core.num_envs
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, core.num_envs)
        self.action_space = batch_space(env.action_space, core.num_envs)
        self._core = core
        self._distribution: TaskDistribution = env.tasks
        unlimited = max_episode_steps == -1
        self._horizon = math.inf if unlimited else positive_whole("max_episode_steps", max_episode_steps)
        self._generators: list[np.random.Generator] | None = None
        self._elapsed = np.zeros(core.num_envs, int)
        self._ended = np.zeros(core.num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begins an episode in every slot.

        Args:
            seed: One seed per slot, or one number: slot i then has ``seed + i``.
            options: ``{"task": tasks}`` with one task per slot, [num_envs, *task shape].

        Returns:
            Observations, [num_envs, observation], and info with the tasks.

        Raises:
            UserError: If the options hold anything else. Nothing has changed then.
        """
        seeds, tasks = self._seeds(seed), self._checked_tasks(task_option(options))
        unsettled = [number is not None or self._generators is None for number in seeds]
        self._seed(seeds)
        self._settle_tasks(tasks, unsettled)
        info = self._start(np.arange(self.num_envs))
        self._ended[:] = False
        return self._observe(), info

    def step(self, actions: NDArray[Any]) -> tuple[FloatArray, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Takes one step in every slot; resets a slot instead if its episode ended in the last step.

        Args:
            actions: [num_envs, action].

        Returns:
            Observations [num_envs, observation], rewards, terminated and truncated [num_envs], and the core's terms.
        """
        if self._generators is None:
            raise gym.error.ResetNeeded("call reset before step.")
        actions = np.asarray(actions)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions must have shape {self.action_space.shape}, got {actions.shape}.")
        rewards, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        stepping = ~self._ended
        slots: Slots = ALL if stepping.all() else np.flatnonzero(stepping)
        self._core.advance(slots, actions, rewards, terminated)
        for slot, reason in self._core.broken.items():
            raise BrokenEpisode(f"{reason} in slot {slot}")
        self._elapsed[slots] += 1
        info = self._start(np.flatnonzero(self._ended)) if self._ended.any() else {}
        for name, values in self._core.terms.items():
            info |= {name: np.where(stepping, values, 0.0), f"_{name}": stepping}
        truncated = stepping & (self._elapsed >= self._horizon)
        self._ended = terminated | truncated
        return self._observe(), rewards, terminated, truncated, info

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + slot for slot in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"there must be one seed for each of {self.num_envs} slots, got {len(seed)}.")
        return list(seed)

    def _seed(self, seeds: list[int | None]) -> None:
        """Gives a new generator to each slot that has a seed; the first time, to all slots."""
        if self._generators is None:
            self._generators = [seeding.np_random(number)[0] for number in seeds]
            return
        for slot, number in enumerate(seeds):
            if number is not None:
                self._generators[slot] = seeding.np_random(number)[0]

    def _checked_tasks(self, tasks: Any) -> list[NDArray[Any]] | None:
        """The tasks that a user gave, one for each slot."""
        if tasks is None:
            return None
        if not isinstance(tasks, Sequence | np.ndarray) or np.ndim(tasks) == 0 or len(tasks) != self.num_envs:
            raise UserError(f"there must be one task for each of {self.num_envs} slots, got {shown(tasks)}.")
        return [self._distribution.check(task) for task in tasks]

    def _settle_tasks(self, tasks: list[NDArray[Any]] | None, unsettled: list[bool]) -> None:
        """Sets ``tasks``; if None, draws tasks for the unsettled slots, which have no task or a new seed."""
        if tasks is not None:
            self._core.tasks[...] = tasks
            return
        assert self._generators is not None
        for slot in np.flatnonzero(unsettled):
            self._core.tasks[slot] = self._distribution.draw(1, self._generators[slot])[0]

    def _start(self, slots: IntArray) -> dict[str, Any]:
        assert self._generators is not None
        self._core.start(slots, [self._generators[slot] for slot in slots])
        self._elapsed[slots] = 0
        started = np.zeros(self.num_envs, bool)
        started[slots] = True
        return {"task": self._core.tasks.copy(), "_task": started}

    def _observe(self) -> FloatArray:
        observations = np.empty(self.observation_space.shape or (), self.single_observation_space.dtype)
        self._core.observe(observations)
        return observations


class CoreFamily(TaskFamily):
    """A family whose batch is a native core.

    It makes no environment until rollouts or the spaces need one.

    Attributes:
        core_class: The native core; made from a single environment and the number of slots.
    """

    core_class: ClassVar[type[Any]]

    def make_episodes(self, num_envs: int, horizon: int) -> EpisodeBatch:
        """Makes a native batch of slots in which episodes run side by side."""
        core = self.core_class(self._rules(), num_envs)
        (size,) = self.observation_space.shape
        return NativeEpisodes(core, size, horizon, self.metrics)

    @cached_property
    def _spaces(self) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        env = self._rules()
        return env.observation_space, env.action_space

    @abstractmethod
    def _rules(self) -> Any:
        """An environment whose rules, spaces and compiled model hold for a whole batch; never stepped."""


class NativeFamily(CoreFamily):
    """A built-in family: the class of its single environment, with parameters, and a native core that equals it.

    Args:
        horizon: Default length of an episode, in environment steps; None for the family's own.
        **parameters: Parameters of the environment, ``env_class``.

    Attributes:
        env_class: The single environment.
        overrides: The family's parameters that differ from the environment's defaults.

    Raises:
        UserError: If the environment has no such parameter, or not with this value.
    """

    env_class: ClassVar[type[TaskEnvironment]]
    overrides: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, horizon: int | None = None, **parameters: Any) -> None:
        accepted = self.env_class.checks
        for name in parameters:
            if name not in accepted:
                raise UserError(
                    f"{self.name} has no parameter {name!r}; it accepts horizon, {', '.join(accepted)}."
                    f"{nearest(name, accepted)}"
                )
        self.horizon = self.horizon if horizon is None else positive_whole("horizon", horizon)
        defaults = {name: known.default for name, known in inspect.signature(self.env_class).parameters.items()}
        self._parameters = self.env_class.checked({**defaults, **self.overrides, **parameters})
        self._distribution: TaskDistribution = self.env_class.distribution(self._parameters)
        self.num_modes = self._distribution.num_modes

    def make_env(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Makes one environment, without a limit on the episode's length."""
        make: Any = self.env_class
        return make(**self._parameters, render_mode=render_mode)

    def draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> FloatArray:
        """Draws tasks from the environment's distribution, the same for every split, [n, *task shape]."""
        return self._distribution.draw(n, rng)

    def check_task(self, task: Any) -> None:
        """Raises UserError unless ``task`` is one that the environment accepts and the task space holds."""
        super().check_task(task)
        self._distribution.check(task)

    def modes(self, tasks: NDArray[Any]) -> IntArray:
        """Which mode of the distribution each task was drawn from, [task]."""
        return self._distribution.modes(tasks)

    @property
    def task_space(self) -> spaces.Box:  # type: ignore[override]
        """The space that tasks are elements of."""
        return self._distribution.space

    @property
    def finite_tasks(self) -> FloatArray | None:
        """All tasks if there are finitely many (both directions), else None."""
        return getattr(self._distribution, "all_tasks", None)

    def _rules(self) -> Any:
        if type(self).make_env is NativeFamily.make_env:
            env_class: Any = self.env_class
            return _shared_env(env_class, *self._parameters.items())
        # An overridden make_env may depend on more than the parameters.
        return self.make_env()


@cache
def _shared_env(env_class: Any, *parameters: tuple[str, Any]) -> Any:
    """One environment per process for each class and its parameters."""
    return env_class(**dict(parameters))


def make_vector_env(
    family: type[NativeFamily],
    num_envs: int,
    max_episode_steps: int,
    num_threads: int | None = None,
    **parameters: Any,
) -> NativeVectorEnv:
    """Makes the native vector environment of a family.

    Args:
        family: The family.
        num_envs: Number of slots.
        max_episode_steps: Steps after which an episode is truncated.
        num_threads: Threads that step them; by default as many as there are cores. It changes no number.
        **parameters: Parameters of the family's ``env_class``.
    """
    make: Any = family.env_class
    env = make(**parameters)
    return NativeVectorEnv(family.core_class(env, num_envs), env, max_episode_steps, num_threads)


def threads_for(num_envs: int, num_threads: int | None) -> int:
    """How many threads step some environments: as many as wanted, or else as there are cores; not more than these."""
    wanted = available_cores() if num_threads is None else positive_whole("num_threads", num_threads)
    return min(wanted, num_envs)
