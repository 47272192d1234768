"""Batches of episodes around any Gymnasium environment."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray

from metarl.arrays import BoolArray, FloatArray
from metarl.errors import UserError

if TYPE_CHECKING:
    from metarl.envs.family import TaskFamily


def flat_observation_space(space: spaces.Space[Any], name: str) -> spaces.Box:
    """The observation space flattened to one axis.

    Args:
        space: An environment's observation space.
        name: The family's name, for the message.

    Raises:
        UserError: If the observations are not arrays of real numbers.
    """
    if isinstance(space, (spaces.Box, spaces.Dict, spaces.Tuple)) and _holds_boxes(space):
        flat = spaces.utils.flatten_space(space)
        assert isinstance(flat, spaces.Box)
        return flat
    raise UserError(
        f"the observations of {name} are {space}, and only Box observations (or Dict and Tuple of them) are supported; "
        "wrap the environment in make_env so that it returns an array of numbers"
    )


def _holds_boxes(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return all(_holds_boxes(part) for part in space.values())
    if isinstance(space, spaces.Tuple):
        return all(_holds_boxes(part) for part in space)
    return isinstance(space, spaces.Box)


class TaskSlot(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that is told ``next_task`` before each of its resets, autoresets included.

    Gymnasium's vector environments hand one ``options`` to all slots, so a task for each slot is pushed into this
    wrapper with ``set_attr("next_task", [...])``.
    """

    def __init__(self, env: gym.Env[Any, Any], family: "TaskFamily") -> None:
        super().__init__(env)
        self.next_task: Any = None
        self._family = family

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment to ``next_task``; without one, as it would by itself."""
        if self.next_task is not None:
            options = self._family.set_task(self.env, self.next_task)
        return self.env.reset(seed=seed, options=options)


def make_slot(family: "TaskFamily") -> TaskSlot:
    """Makes an environment of the family for one slot: flat observations, task pushed from outside."""
    env = family.make_env()
    if not isinstance(env.observation_space, spaces.Box) or len(env.observation_space.shape) != 1:
        flat_observation_space(env.observation_space, family.name)
        env = FlattenObservation(env)
    return TaskSlot(env, family)


class VectorEpisodes:
    """Episodes of any family, through Gymnasium's vector environments; `EpisodeBatch` says the interface.

    Args:
        family: The task family; its ``make_env`` is called once per slot.
        num_envs: Number of slots.
        horizon: Steps after which an episode is truncated.
    """

    def __init__(self, family: "TaskFamily", num_envs: int, horizon: int) -> None:
        self.num_envs = num_envs
        self._horizon = horizon
        # NEXT_STEP: with autoreset disabled, stepping asserts once any episode has ended
        self._envs = SyncVectorEnv([partial(make_slot, family)] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)
        self._elapsed = 0

    def reset(self, tasks: NDArray[Any], seeds: Sequence[int], observations: FloatArray) -> None:
        """Begins an episode in every slot; see `EpisodeBatch.reset`."""
        self._envs.set_attr("next_task", list(tasks))
        observations[...], _ = self._envs.reset(seed=[int(seed) for seed in seeds])
        self._terminated[:] = False
        self._truncated[:] = False
        self._elapsed = 0

    def step(
        self,
        actions: NDArray[Any],
        observations: FloatArray,
        rewards: FloatArray,
        terminated: BoolArray,
        truncated: BoolArray,
    ) -> None:
        """Takes one step in every slot whose episode has not ended; see `EpisodeBatch.step`."""
        rewards[...] = 0
        living = ~(self._terminated | self._truncated)
        if living.any():
            stepped, gained, ended, cut, _ = self._envs.step(actions)
            self._elapsed += 1
            # What a slot does after its first end is another episode, which nobody asked for
            observations[living] = stepped[living]
            rewards[living] = gained[living]
            self._terminated |= living & ended
            self._truncated |= living & (cut | (self._elapsed >= self._horizon))
        terminated[...] = self._terminated
        truncated[...] = self._truncated

    def close(self) -> None:
        """Closes the environments."""
        self._envs.close()
