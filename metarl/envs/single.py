"""Calls of a single environment, held to what Gymnasium asks for."""

import inspect
import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit

from metarl.common.errors import UserError, blaming, shown

if TYPE_CHECKING:
    from metarl.envs.family import TaskFamily


def new_env(family: "TaskFamily", kind: Hashable = None, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Makes an environment of a family; raises UserError if ``make_env`` returns something else.

    Args:
        family: The family.
        kind: One of the family's ``kinds``, or None.
        render_mode: Gymnasium's render mode, or None.
    """
    # Pass only what was chosen: make_env may lack the parameters.
    given = {"kind": kind, "render_mode": render_mode}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    env = family.make_env(**chosen)
    if not isinstance(env, gym.Env):
        raise UserError(f"make_env of {family.name} returned {shown(env)}, and it must return a gymnasium.Env.")
    return env


def require_whole_episodes(family: "TaskFamily", horizon: int) -> None:
    """Raises UserError if an outer wrapper of a family's environments ends episodes before the horizon.

    A wrapper whose `step` is the user's may count other steps, so that nothing inside it counts here.

    Args:
        family: The family; an environment of each kind is made.
        horizon: Steps of an episode.
    """
    for kind in family.kinds or [None]:
        with blaming(lambda: f"in make_env of {family.name}"):
            env = layer = new_env(family, kind)
            env.close()
        while isinstance(layer, gym.Wrapper) and type(layer).step.__module__.startswith(("gymnasium.", "metarl.")):
            limit = layer._max_episode_steps if isinstance(layer, TimeLimit) else math.inf
            if limit < horizon:
                raise UserError(
                    f"make_env limits episodes to {limit} steps, and horizon is {horizon}; give "
                    f"max_episode_steps=-1 to gymnasium.make, or take horizon {limit}."
                )
            layer = layer.env


def begin(env: gym.Env[Any, Any], seed: int | None, options: dict[str, Any] | None) -> tuple[Any, Mapping[str, Any]]:
    """Resets an environment and returns the first observation and its info.

    Raises:
        UserError: If its ``reset`` is not Gymnasium's.
    """
    result = env.reset(seed=seed, options=options)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise UserError(f"reset returned {_kinds(result)}; Gymnasium asks for (observation, info), info a dictionary.")
    return result


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
        reward = _scalar("reward", reward, "one number")
    if not (isinstance(terminated, _BOOLS) and isinstance(truncated, _BOOLS)):
        terminated, truncated = (
            bool(_scalar(name, end, "a bool")) for name, end in (("terminated", terminated), ("truncated", truncated))
        )
    return observation, reward, terminated, truncated, info


_BOOLS = (bool, np.bool_)


def _scalar(name: str, value: Any, wanted: str) -> float:
    array = np.asarray(value)
    if array.shape != () or array.dtype.kind not in "biuf":
        raise UserError(f"step returned {shown(value)} as {name}; Gymnasium asks for {wanted}.")
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
