"""Calls of a single environment, held to what Gymnasium asks for."""

import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from metarl.common.errors import UserError


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
