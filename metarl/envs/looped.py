"""Batches of episodes around any Gymnasium environment."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray, IntArray
from metarl.common.errors import UserError
from metarl.envs.interface import EpisodeBatch, reported

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
        "wrap the environment in make_env so that it returns an array of numbers."
    )


def _holds_boxes(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return all(_holds_boxes(part) for part in space.values())
    if isinstance(space, spaces.Tuple):
        return all(_holds_boxes(part) for part in space)
    return isinstance(space, spaces.Box)


def make_flat_env(family: "TaskFamily") -> gym.Env[Any, Any]:
    """Makes an environment of the family with flat observations; wraps it only if necessary."""
    env = family.make_env()
    if not isinstance(env.observation_space, spaces.Box) or len(env.observation_space.shape) != 1:
        flat_observation_space(env.observation_space, family.name)
        env = FlattenObservation(env)
    return env


def begin(env: gym.Env[Any, Any], seed: int | None, options: dict[str, Any] | None) -> Any:
    """Resets an environment and returns the first observation.

    Raises:
        UserError: If its ``reset`` is not Gymnasium's.
    """
    result = env.reset(seed=seed, options=options)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise UserError(f"reset returned {_kinds(result)}; Gymnasium asks for (observation, info), info a dictionary.")
    return result[0]


def take_step(env: gym.Env[Any, Any], action: Any) -> tuple[Any, float, bool, bool, Mapping[str, Any]]:
    """Steps an environment and returns observation, reward, terminated, truncated and info.

    Raises:
        UserError: If its ``step`` is not Gymnasium's.
    """
    result = env.step(action)
    if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict | Mapping)):
        raise UserError(
            f"step returned {_kinds(result)}; Gymnasium asks for (observation, reward, terminated, truncated, info), "
            "info a dictionary."
        )
    observation, reward, terminated, truncated, info = result
    if not isinstance(reward, float):
        reward = _scalar("reward", reward)
    if not (isinstance(terminated, _BOOLS) and isinstance(truncated, _BOOLS)):
        terminated, truncated = bool(_scalar("terminated", terminated)), bool(_scalar("truncated", truncated))
    return observation, reward, terminated, truncated, info


_BOOLS = (bool, np.bool_)


def _scalar(name: str, value: Any) -> float:
    array = np.asarray(value)
    if array.shape != () or array.dtype.kind not in "biuf":
        raise UserError(f"step returned {value!r} as {name}; Gymnasium asks for one number, or a bool for an end.")
    return float(array)


def _kinds(result: Any) -> str:
    """Says what a call returned."""
    if isinstance(result, tuple):
        return f"{len(result)} values ({', '.join(type(part).__name__ for part in result)})"
    return f"one value ({type(result).__name__})"


def require_gymnasium(env: gym.Env[Any, Any], name: str) -> None:
    """Raises UserError unless the environment's ``reset`` takes a seed and options."""
    for layer in (env, env.unwrapped):
        try:
            inspect.signature(layer.reset).bind(seed=0, options=None)
        except TypeError as error:
            raise UserError(
                f"reset of {type(layer).__name__}, an environment of {name}, cannot be called as Gymnasium does "
                f"({error}); define it as reset(self, *, seed=None, options=None)."
            ) from None


class LoopedEpisodes(EpisodeBatch):
    """Episodes of any family, one environment after the other.

    Args:
        family: The task family; its ``make_env`` is called once per slot.
        num_envs: Number of slots.
        horizon: Steps after which an episode is truncated.
    """

    def __init__(self, family: "TaskFamily", num_envs: int, horizon: int) -> None:
        self._family, self._horizon = family, horizon
        self._envs = [make_flat_env(family) for _ in range(num_envs)]
        require_gymnasium(self._envs[0], family.name)
        super().__init__(num_envs, spaces.flatdim(self._envs[0].observation_space), family.terms)
        self._elapsed = np.zeros(num_envs, int)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)

    def reset(
        self, tasks: NDArray[Any], seeds: Sequence[int], observations: FloatArray, slots: IntArray | None = None
    ) -> None:
        slots = np.arange(self.num_envs) if slots is None else slots
        for slot, task, seed in zip(slots, tasks, seeds, strict=True):
            self.current, env = int(slot), self._envs[slot]
            self._put(observations, slot, begin(env, int(seed), self._family.set_task(env, task)))
        self.current = None
        self._elapsed[slots] = 0
        self._terminated[slots] = False
        self._truncated[slots] = False

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
        for slot in np.flatnonzero(~(self._terminated | self._truncated)):
            self.current = int(slot)
            observation, rewards[slot], self._terminated[slot], cut, info = take_step(self._envs[slot], actions[slot])
            self._put(observations, slot, observation)
            for name, values in self.terms.items():
                values[slot] = reported(info, name)
            self._elapsed[slot] += 1
            self._truncated[slot] = cut or self._elapsed[slot] >= self._horizon
        self.current = None
        terminated[...] = self._terminated
        truncated[...] = self._truncated

    def _put(self, observations: FloatArray, slot: np.intp, observation: Any) -> None:
        if np.shape(observation) != observations.shape[1:]:
            raise UserError(
                f"an environment of {self._family.name} returned an observation of shape {np.shape(observation)}, but "
                f"its observation space says {observations.shape[1:]}."
            )
        observations[slot] = observation

    def close(self) -> None:
        for env in self._envs:
            env.close()
