"""Task families as environments for training with Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from metarl.common.errors import UserError, shown
from metarl.data import over_episodes
from metarl.envs import FamilyLike, TaskFamily, get_family, require_environments
from metarl.envs.checked import CheckedEpisodes, checked_episodes
from metarl.envs.looped import LoopedEpisodes
from metarl.envs.native import threads_for
from metarl.envs.parameters import positive, positive_whole
from metarl.envs.spaces import choices, copied, stacked
from metarl.envs.tasks import task_option
from metarl.policies.action_map import ActionMap
from metarl.policies.distributions import Categoricals, Gaussian


class _Metrics:
    """Metrics of the episodes in some slots, for the infos with which they end.

    Args:
        family: The task family.
        num_envs: Number of slots.
        horizon: Most steps of an episode.
    """

    def __init__(self, family: TaskFamily, num_envs: int, horizon: int) -> None:
        family.check_metrics()
        self._metrics = family.metrics
        self._terms = {name: np.zeros((num_envs, horizon)) for name in family.metrics}
        self._elapsed = np.zeros(num_envs, int)

    def begin(self, slots: NDArray[np.intp]) -> None:
        """Forgets the steps of some slots, [k]."""
        self._elapsed[slots] = 0

    def add(self, terms: Mapping[str, NDArray[Any]]) -> None:
        """Adds a step of every slot; ``terms`` are [num_envs] by name."""
        for name, steps in self._terms.items():
            steps[np.arange(len(steps)), self._elapsed] = terms[name]
        self._elapsed += 1

    def info(self, slot: int) -> dict[str, Any]:
        """The part of a slot's info that tells of its episode so far; empty without metrics."""
        if not self._metrics:
            return {}
        ran = torch.ones(int(self._elapsed[slot]))
        of_episode = {
            name: float(over_episodes(how, torch.from_numpy(self._terms[name][slot, : len(ran)]), ran))
            for name, how in self._metrics.items()
        }
        success = {"is_success": bool(of_episode["success"])} if "success" in of_episode else {}
        return {"metrics": of_episode, **success}


class TaskEnv(gym.Env[NDArray[np.float32], Any]):
    """A task family as one environment whose task changes from episode to episode.

    An algorithm that knows nothing of tasks can train one policy on all tasks in it. `TaskVecEnv` batches many of them.
    Observations are the family's, flattened, as a ``Box`` of float32. Actions are in the policy's units, as everywhere
    in metarl (`metarl.policies.action_map.ActionMap`). For ``Box`` actions the space is
    ``Box(-1 / action_scale, 1 / action_scale)``, where 1 means ``action_scale`` half-widths of the family's bounds; for
    ``Discrete`` actions it is ``Discrete``, for ``MultiDiscrete`` and ``MultiBinary`` ones ``MultiDiscrete`` with one
    axis, all counted from 0.

    The info of a reset holds the episode's task under ``"task"``. That of an episode's last step holds the family's
    metrics, by name, under ``"metrics"``; if one of them is called ``"success"``, ``"is_success"`` says whether it is
    not 0, for Stable-Baselines3's ``EvalCallback``.

    Args:
        family: A task family, or an argument for `metarl.get_family`.
        split: Split that the tasks are drawn from.
        horizon: Steps after which an episode is truncated; by default the family's.
        action_scale: Half-widths of the family's actions that a policy action of 1 corresponds to.
        tasks: Tasks to use in this order, repeatedly, instead of drawing them.

    Raises:
        UserError: If there is no such family or split, if its spaces are not supported, if ``tasks`` is empty or holds
            what is no task of the family, or if a number is not positive.
    """

    def __init__(
        self,
        family: FamilyLike,
        split: str = "train",
        horizon: int | None = None,
        action_scale: float = 1.0,
        tasks: Sequence[Any] | NDArray[Any] | None = None,
    ) -> None:
        if tasks is not None and not isinstance(tasks, Sequence | np.ndarray):
            raise UserError(f"tasks must be a list or an array of tasks, got {tasks!r}.")
        if tasks is not None and len(tasks) == 0:
            raise UserError("tasks must hold at least one task, got none; leave it out to draw tasks from the split.")
        self._family, steps = _family_and_horizon(family, split, horizon)
        self._tasks = None if tasks is None else [self._family.task_from(task) for task in tasks]
        self._split, self._next, self._under_way = split, 0, False
        self._batch = LoopedEpisodes(self._family, 1, steps)
        self._episodes = CheckedEpisodes(self._batch, self._family)
        self._metrics = _Metrics(self._family, 1, steps)
        self.observation_space = _policy_observations(self._family)
        self.action_space = policy_actions(self._family, action_scale)
        self._action_map = ActionMap(self._family.action_space, action_scale)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins an episode of the next task.

        Args:
            seed: Determines this episode and all that follow; a list of tasks restarts with its first one.
            options: ``{"task": task}`` sets the task of this episode only.

        Raises:
            UserError: If the options hold anything else, or no task of the family.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._next = 0
        given = task_option(options)
        task = self._choose_task() if given is None else self._family.task_from(given)
        episode_seed = int(self.np_random.integers(2**31))
        self._observation = np.zeros((1, self._batch.observation_size), np.float32)
        self._episodes.reset(stacked([task]), [episode_seed], self._observation)
        self._metrics.begin(np.arange(1))
        self._under_way = True
        return self._observation[0].copy(), {**self._batch.infos[0], "task": copied(task)}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Takes one step with an action in the policy's units, [action].

        Raises:
            UserError: If no episode is under way, or the action does not fit the action space.
        """
        if not self._under_way:
            raise UserError("no episode is under way: call reset before the first step, and after an episode's end.")
        reward, (terminated, truncated) = np.zeros(1), np.zeros((2, 1), bool)
        actions = self._action_map(_policy_action(self.action_space, action))[None]
        self._episodes.step(actions, self._observation, reward, terminated, truncated)
        self._metrics.add(self._episodes.terms)
        info = dict(self._batch.infos[0])
        if terminated[0] or truncated[0]:
            info |= self._metrics.info(0)
            self._under_way = False
        return self._observation[0].copy(), float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def close(self) -> None:
        """Closes the environment."""
        self._episodes.close()

    def _choose_task(self) -> Any:
        if self._tasks is None:
            return self._family.sample_tasks(1, self.np_random, self._split)[0]
        task = self._tasks[self._next % len(self._tasks)]
        self._next += 1
        return task


class TaskVecEnv(VecEnv):
    """Many `TaskEnv` at once, stepped as one batch; for the built-in families the batch is native and much faster.

    Each episode has its own task. ``reset_infos`` holds it under ``"task"`` when the episode begins, and the step's
    info when the episode ends. Observations and actions are those of `TaskEnv`. ``seed`` determines everything after
    the next ``reset``.

    Args:
        family: A task family, or an argument for `metarl.get_family`.
        num_envs: Number of slots.
        split: Split that the tasks are drawn from.
        horizon: Steps after which an episode is truncated; by default the family's.
        action_scale: Half-widths of the family's actions that a policy action of 1 corresponds to.
        num_threads: Threads that step a MuJoCo family; by default as many as there are cores. It changes no number.

    Raises:
        UserError: If there is no such family or split, if its spaces are not supported, or if a number is not positive.
    """

    render_mode = None

    def __init__(
        self,
        family: FamilyLike,
        num_envs: int,
        split: str = "train",
        horizon: int | None = None,
        action_scale: float = 1.0,
        num_threads: int | None = None,
    ) -> None:
        self._family, steps = _family_and_horizon(family, split, horizon)
        self._split, num_envs = split, positive_whole("num_envs", num_envs)
        self._episodes = checked_episodes(self._family, num_envs, steps)
        self._metrics = _Metrics(self._family, num_envs, steps)
        self._episodes.use_threads(threads_for(num_envs, num_threads))
        self._action_map = ActionMap(self._family.action_space, action_scale)
        self._rng = np.random.default_rng()
        observation_space = _policy_observations(self._family)
        super().__init__(num_envs, observation_space, policy_actions(self._family, action_scale))
        self._observations = np.zeros((num_envs, *observation_space.shape), np.float32)
        self._flags = np.zeros((2, num_envs), bool)
        self._begun = False

    def reset(self) -> NDArray[np.float32]:
        """Begins an episode in every slot; observations [slot, observation].

        Raises:
            UserError: If ``set_options`` has set any.
        """
        for options in filter(None, self._options):
            raise UserError(f"a TaskVecEnv draws its tasks and takes no options, got {options}; use TaskEnv.")
        if self._seeds[0] is not None:
            self._rng = np.random.default_rng(self._seeds[0])
        self._reset_seeds()
        self._begin(np.arange(self.num_envs))
        self._begun = True
        return self._observations.copy()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Stores the actions, [slot, action], for `step_wait`.

        Raises:
            UserError: Before the first `reset`, or if the actions do not fit the action space.
        """
        if not self._begun:
            raise UserError("no episode is under way: call reset before the first step.")
        self._actions = self._action_map(_policy_action(self.action_space, actions, self.num_envs))

    def step_wait(self) -> VecEnvStepReturn:
        """Takes one step in every slot; a slot whose episode ends begins another one at once.

        Returns:
            Observations [slot, observation], rewards [slot], ends [slot] and infos, which hold the terms of the
            family's metrics. If an episode has ended, its info also holds ``"terminal_observation"``, ``"task"``,
            ``"TimeLimit.truncated"``, and the metrics, as that of `TaskEnv`.
        """
        rewards = np.zeros(self.num_envs, np.float32)
        terminated, truncated = self._flags
        self._episodes.step(self._actions, self._observations, rewards, terminated, truncated)
        ended = terminated | truncated
        terms = self._episodes.terms
        self._metrics.add(terms)
        infos: list[dict[str, Any]] = [{name: terms[name][slot] for name in terms} for slot in range(self.num_envs)]
        slots = np.flatnonzero(ended)
        for slot in slots:
            infos[slot] |= {
                **self.reset_infos[slot],
                **self._metrics.info(int(slot)),
                "terminal_observation": self._observations[slot].copy(),
                "TimeLimit.truncated": bool(truncated[slot] and not terminated[slot]),
            }
        if len(slots):
            self._begin(slots)
        return self._observations.copy(), rewards, ended, infos

    def close(self) -> None:
        """Closes the environments."""
        self._episodes.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Returns the batch's attribute once per slot, because slots are not separate objects."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refused, because slots are not separate objects."""
        raise NotImplementedError("the slots of a batch have no attributes; use DummyVecEnv over metarl.sb3.TaskEnv.")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Refused, because slots are not separate objects."""
        raise NotImplementedError("the slots of a batch have no methods; use DummyVecEnv over metarl.sb3.TaskEnv.")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """False for each slot."""
        return [False for _ in self._get_indices(indices)]

    def _begin(self, slots: NDArray[np.intp]) -> None:
        tasks = self._family.sample_tasks(len(slots), self._rng, self._split)
        seeds = self._rng.integers(2**31, size=len(slots)).tolist()
        self._episodes.reset(tasks, seeds, self._observations, slots)
        self._metrics.begin(slots)
        for slot, task in zip(slots, tasks, strict=True):
            self.reset_infos[slot] = {"task": copied(task)}


def _policy_action(space: spaces.Space[Any], action: Any, *slots: int) -> NDArray[Any]:
    """The action of a policy, or those of some slots, as an array; numbers may lie outside the bounds of a ``Box``.

    Raises:
        UserError: If it does not have the space's shape, holds what is not finite, or no choices of the space.
    """
    actions, shape = np.asarray(action), (*slots, *(space.shape or ()))
    if actions.shape != shape or actions.dtype.kind not in "biuf" or not np.isfinite(actions).all():
        raise UserError(f"actions must be finite numbers of shape {shape}, got {shown(action)}.")
    if isinstance(space, spaces.Box):
        return actions
    sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else choices(space)[0]
    if ((actions < 0) | (actions >= sizes) | (actions % 1 != 0)).any():
        raise UserError(f"actions must be choices of {space}, got {shown(action)}.")
    return actions.astype(int)


def _family_and_horizon(family: FamilyLike, split: str, horizon: int | None) -> tuple[TaskFamily, int]:
    """Returns the family and the length of its episodes; checks family, split and length."""
    known = family if isinstance(family, TaskFamily) else require_environments(get_family(family), "metarl.sb3")
    # Sample once and discard: an unknown split should fail here, not at the first reset.
    known.sample_tasks(1, np.random.default_rng(0), split)
    return known, positive_whole("horizon", known.horizon if horizon is None else horizon)


def _policy_observations(family: TaskFamily) -> Any:
    bounds = family.observation_space
    return spaces.Box(bounds.low.astype(np.float32), bounds.high.astype(np.float32))


def policy_actions(family: TaskFamily, action_scale: float) -> spaces.Space[Any]:
    """Returns the space of a policy's actions for the family; larger actions would be clipped."""
    distribution = ActionMap(family.action_space).distribution
    if isinstance(distribution, Gaussian):
        bound = 1 / positive("action_scale", action_scale)
        return spaces.Box(-bound, bound, (distribution.num_outputs,), np.float32)
    if isinstance(distribution, Categoricals):
        return spaces.MultiDiscrete(distribution.sizes)
    return spaces.Discrete(distribution.num_outputs)
