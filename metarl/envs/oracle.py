"""The oracle's view of a task family: every observation includes the task."""

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray, IntArray
from metarl.common.errors import UserError
from metarl.envs.family import TaskFamily
from metarl.envs.interface import EpisodeBatch, require_episode_batch
from metarl.envs.single import begin, new_env, take_step
from metarl.envs.spaces import copied, flat_observation_space, flatten, in_order_of


class TaskObservation(gym.Wrapper[FloatArray, Any, Any, Any]):
    """Appends the task to the observations of an environment, both flat (`metarl.envs.spaces.flatten`).

    The task comes from the reset's info, else from its options, unless they are those of ``set_task``; else it stays.

    Args:
        env: The environment.
        family: Its family.

    Attributes:
        known_task: The current task, or None if it is not known.
    """

    known_task: Any = None
    _its_options: dict[str, Any] | None = None

    def __init__(self, env: gym.Env[Any, Any], family: TaskFamily) -> None:
        super().__init__(env)
        self._family = family
        self._space = in_order_of(family.single_observation_space, env.observation_space)
        flat = flat_observation_space(self._space, f"the observations of {family.name}")
        self.observation_space: spaces.Space[Any] = _space_with_task(flat, family)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Resets the environment and determines its task.

        Raises:
            UserError: If the task is not known.
        """
        observation, info = begin(self.env, seed, options)
        given = {} if options is self._its_options else options or {}
        self.known_task = info.get("task", given.get("task", self.known_task))
        if self.known_task is None:
            raise UserError(
                f"the environment of {self._family.name} does not tell its task; set it with the family's set_task "
                "before the reset, or let the environment return it as info['task']."
            )
        return self._with_task(observation), dict(info)

    def set_task(self, task: Any) -> dict[str, Any] | None:
        """Sets the task of the environment. What it returns as the reset's options need not be the task itself."""
        self.known_task = copied(task)
        self._its_options = self._family.set_task(self.env, task)
        return self._its_options

    def step(self, action: Any) -> tuple[FloatArray, Any, bool, bool, dict[str, Any]]:
        """Takes one step."""
        observation, reward, terminated, truncated, info = take_step(self.env, action)
        return self._with_task(observation), reward, terminated, truncated, dict(info)

    def _with_task(self, observation: Any) -> FloatArray:
        flat = flatten(self._space, observation, f"an observation of {self._family.name}")
        return np.concatenate([flat, self._family.flat_tasks([self.known_task])[0]])


class OracleEpisodes(EpisodeBatch):
    """Episodes whose observations have the task appended.

    Args:
        episodes: The episodes without the task; owned from now on.
        family: Their family.
    """

    def __init__(self, episodes: EpisodeBatch, family: TaskFamily) -> None:
        super().__init__(episodes.num_envs, episodes.observation_size + family.task_size)
        self.terms = episodes.terms
        self._episodes, self._family = episodes, family
        self._tasks = np.zeros((episodes.num_envs, family.task_size))

    @property
    def current(self) -> int | None:  # type: ignore[override]
        """The slot that is at work inside a call."""
        return self._episodes.current

    @property
    def calling(self) -> str | None:  # type: ignore[override]
        """The family's method that is at work inside a call of another name."""
        return self._episodes.calling

    @property
    def broken(self) -> Mapping[int, str]:  # type: ignore[override]
        """Slots whose episode could not go on in the last step, each with the reason."""
        return self._episodes.broken

    def reset(
        self, tasks: NDArray[Any], seeds: Sequence[int], observations: FloatArray, slots: IntArray | None = None
    ) -> None:
        self._tasks[... if slots is None else slots] = self._family.flat_tasks(tasks)
        self._episodes.reset(tasks, seeds, self._without_task(observations), slots)

    def step(
        self,
        actions: NDArray[Any],
        observations: FloatArray,
        rewards: FloatArray,
        terminated: BoolArray,
        truncated: BoolArray,
    ) -> None:
        self._episodes.step(actions, self._without_task(observations), rewards, terminated, truncated)
        self.terms = self._episodes.terms

    def use_threads(self, num_threads: int) -> None:
        self._episodes.use_threads(num_threads)

    def end(self, slots: IntArray) -> None:
        self._episodes.end(slots)

    def close(self) -> None:
        self._episodes.close()

    def _without_task(self, observations: FloatArray) -> FloatArray:
        """Writes the task columns of ``observations``, [num_envs, observation + task], and returns the rest."""
        first = observations.shape[1] - self._tasks.shape[1]
        observations[:, first:] = self._tasks
        return observations[:, :first]


class OracleFamily(TaskFamily):
    """A family whose observations have the task appended: it shows what a policy can reach without having to infer it.

    Name, horizon, tasks, splits, modes and rewards are those of the family.

    Args:
        family: The family; not changed.

    Raises:
        UserError: If the task space is not supported.

    Source: the oracle baseline of Finn et al. 2017, section 5.3.
    """

    def __init__(self, family: TaskFamily) -> None:
        self._family = family
        self.name = family.name
        self.horizon = family.horizon
        self.min_envs_per_shard = family.min_envs_per_shard
        self.kinds = family.kinds
        self.task_space = family.task_space
        self.num_modes = family.num_modes
        self.metrics = family.metrics
        self.costs = family.costs
        self.defaults = family.defaults
        _ = family.task_size  # A wrong task space should fail here, not at the first episode.

    def make_env(self, render_mode: str | None = None, kind: Hashable = None) -> gym.Env[Any, Any]:
        """Makes one environment that shows its task, without a limit on the episode's length."""
        return TaskObservation(new_env(self._family, kind, render_mode), self._family)

    def kind(self, task: Any) -> Hashable:
        """Which kind of environment a task needs, as of the family."""
        return self._family.kind(task)

    def set_task(self, env: gym.Env[Any, Any], task: Any) -> dict[str, Any] | None:
        """Sets the task of an environment and of the wrapper that shows it; see `TaskFamily.set_task`."""
        layer = env
        while not isinstance(layer, TaskObservation):
            if not isinstance(layer, gym.Wrapper):
                raise UserError(f"the environment does not show its task; make it with make_env, got {env}.")
            layer = layer.env
        return layer.set_task(task)

    @property
    def finite_tasks(self) -> NDArray[Any] | None:
        """All tasks if there are finitely many, else None."""
        return self._family.finite_tasks

    def split_tasks(self, split: str) -> Sequence[Any] | NDArray[Any] | None:
        """All tasks of a split if they are listed, else None."""
        return self._family.split_tasks(split)

    def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> NDArray[Any]:
        """Draws tasks for a split, the same as the family, [n, *task shape]."""
        return self._family.sample_tasks(n, rng, split)

    def draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> NDArray[Any]:
        """Draws tasks from the family's distribution, [n, *task shape]."""
        return self._family.draw_tasks(n, rng, split)

    def check_task(self, task: Any) -> None:
        """Raises UserError unless ``task`` is a task of the inner family."""
        self._family.check_task(task)

    def modes(self, tasks: NDArray[Any]) -> IntArray:
        """Which mode each task comes from, [task]."""
        return self._family.modes(tasks)

    @property
    def data(self) -> str:
        return self._family.data

    def make_episodes(self, num_envs: int, horizon: int) -> EpisodeBatch:
        """Makes the family's batch of slots, with the task in every observation."""
        episodes = require_episode_batch(self._family.make_episodes(num_envs, horizon))
        return OracleEpisodes(episodes, self._family)

    def describe_task(self, task: Any) -> str:
        """Says in a few words what a task is."""
        return self._family.describe_task(task)

    @cached_property
    def _spaces(self) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        return _space_with_task(self._family.observation_space, self._family), self._family.action_space


def _space_with_task(observations: spaces.Box, family: TaskFamily) -> spaces.Box:
    """The space of a family's flat observations with the task appended."""
    # Unbounded, because an evaluation may give tasks outside the task space's bounds.
    unbounded = np.full(family.task_size, np.inf)
    low, high = np.concatenate([observations.low, -unbounded]), np.concatenate([observations.high, unbounded])
    return spaces.Box(low, high, dtype=np.float64)
