"""Agents with memory in Stable-Baselines3's tools."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple, flatten, flatten_space, unflatten
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from metarl.common.errors import UserError
from metarl.config.checked import Seed, convert, expect
from metarl.runs.adapted import AdaptedMemory


class LastReward(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose observations also tell the last reward: {"observation": ..., "reward": [1]}.

    An agent with memory needs it, and Stable-Baselines3's tools do not pass it on. At a reset it is 0. Observations of
    several parts (Dict, Tuple) are flattened, as by ``gymnasium.spaces.flatten``, those of a Dict in the order of their
    names.

    Args:
        env: The environment.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(expect("env", env, gymnasium.Env))
        # Stable-Baselines3 has no dictionaries inside dictionaries.
        self._parts = _by_name(env.observation_space) if isinstance(env.observation_space, Dict | Tuple) else None
        observed = env.observation_space if self._parts is None else flatten_space(self._parts)
        self.observation_space = Dict({"observation": observed, "reward": Box(-np.inf, np.inf, (1,))})

    def reset(self, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Resets the environment."""
        observation, info = self.env.reset(**arguments)
        return self._with_reward(observation, 0.0), info

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Steps the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_reward(observation, float(reward)), float(reward), terminated, truncated, info

    def _with_reward(self, observation: Any, reward: float) -> dict[str, Any]:
        seen = observation if self._parts is None else flatten(self._parts, observation)
        return {"observation": seen, "reward": np.array([reward], np.float32)}


def _by_name(space: gymnasium.Space[Any]) -> gymnasium.Space[Any]:
    """The space with the parts of each Dict in the order of their names, which two equal spaces may not share."""
    if isinstance(space, Dict):
        return Dict([(name, _by_name(space[name])) for name in sorted(space)])
    return Tuple(map(_by_name, space)) if isinstance(space, Tuple) else space


class MemoryModel:
    """An agent with memory with the ``predict`` of a recurrent model, for ``evaluate_policy`` and other tools.

    Its environments are wrapped in `LastReward`. Every episode begins with the memory that the agent has now; nothing
    is carried from one to the next, and the agent itself does not change.

    Args:
        adapted: The agent after adaptation, from `metarl.runs.trained_agent.Agent.adapt`.
        seed: Seed of sampled actions. Each episode has a generator of its own, in the order in which they begin.

    Raises:
        UserError: If an episode of the agent is running.
    """

    def __init__(self, adapted: AdaptedMemory, seed: int = 0) -> None:
        self._seed, self._begun = convert("seed", seed, Seed), 0
        self._adapted = expect("adapted", adapted, AdaptedMemory).copied(np.random.default_rng(self._seed))
        if self._adapted.running:
            raise UserError("an episode of the agent is running: call its finish(reward) first, or abandon().")

    def predict(
        self,
        observation: dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool | None = None,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...]]:
        """Actions for the observations of several environments.

        Args:
            observation: Observations of `LastReward` environments, along a first axis.
            state: What the last call returned; None at first.
            episode_start: Whether an episode begins in each environment; by default in all if there is no state.
            deterministic: As of `metarl.runs.adapted.AdaptedMemory.predict`.

        Returns:
            One action for each observation, [observation, *action shape]; and the new state.

        Raises:
            UserError: If the observations are not those of `LastReward`.
        """
        if not isinstance(observation, dict) or set(observation) != {"observation", "reward"}:
            raise UserError("observation must be of environments that are wrapped in metarl.sb3.LastReward.")
        if np.ndim(observation["reward"]) != 2:
            raise UserError("observation must be of several environments, along a first axis, also where there is one.")
        rewards = np.asarray(observation["reward"])[:, 0]
        agents = np.empty(len(rewards), object) if state is None else state[0].copy()
        begins = np.full(len(rewards), state is None) if episode_start is None else episode_start
        space, given = self._adapted.observation_space, observation["observation"]
        if isinstance(space, Dict | Tuple):
            each = iter([unflatten(_by_name(space), flat) for flat in given])
        else:
            each = iterate(batch_space(space, len(rewards)), given)
        actions = []
        for index, (one, reward, start) in enumerate(zip(each, rewards, begins, strict=True)):
            if start:
                agents[index] = self._adapted.copied(np.random.default_rng([self._seed, self._begun]))
                agents[index].start()
                self._begun += 1
            else:
                agents[index] = copy.copy(agents[index])
            before = None if start else float(reward)
            actions.append(agents[index].predict(one, before, deterministic))
        return np.stack(actions), (agents,)
