"""Batches of episodes around any Gymnasium environment."""

import copy
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray, IntArray
from metarl.common.errors import UserError, shown
from metarl.envs.interface import BrokenEpisode, EpisodeBatch, reported
from metarl.envs.single import begin, new_env, require_gymnasium, take_step
from metarl.envs.spaces import FlatObservation, flat_observation_space, in_order_of, observed, same_form

if TYPE_CHECKING:
    from metarl.envs.family import TaskFamily


def make_flat_env(family: "TaskFamily", kind: Hashable = None) -> gym.Env[Any, Any]:
    """Makes an environment of the family with flat observations; wraps it only if necessary.

    Args:
        family: The family.
        kind: One of the family's ``kinds``, or None.

    Raises:
        UserError: If environments of this kind have other observations or actions than the family's.
    """
    env = new_env(family, kind)
    space = env.observation_space
    if kind is not None:
        usual, actions = family.single_observation_space, family.action_space
        space = in_order_of(usual, space)
        if not same_form(space, usual) or env.action_space != actions:
            env.close()
            raise UserError(
                f"environments of the kind {kind!r} have the observations {env.observation_space} and the actions "
                f"{env.action_space}, and those that make_env makes by default {usual} and {actions}; wrap them so "
                "that all kinds have the same."
            )
    flat = flat_observation_space(space, f"the observations of {family.name}")
    return env if flat is env.observation_space else FlatObservation(env, family.name, space)


class LoopedEpisodes(EpisodeBatch):
    """Episodes of any family, one environment after the other.

    Args:
        family: The task family; its ``make_env`` is called once per slot, and again where the next task of a slot needs
            an environment of another kind.
        num_envs: Number of slots.
        horizon: Steps after which an episode is truncated.

    Attributes:
        infos: The info of each slot's last reset or step.
    """

    def __init__(self, family: "TaskFamily", num_envs: int, horizon: int) -> None:
        self._family, self._horizon = family, horizon
        # The kind that a slot needs is known with its first task only; one environment shows errors now.
        self._kinds: list[Hashable] = [None] * num_envs
        self._envs: dict[int, gym.Env[Any, Any]] = {}
        try:
            for slot in range(1 if family.kinds else num_envs):
                self._envs[slot] = make_flat_env(family)
        except BaseException:
            self.close()
            raise
        require_gymnasium(self._envs[0], family.name)
        self._space = self._envs[0].observation_space
        super().__init__(num_envs, spaces.flatdim(self._space), family.metrics)
        self.infos: list[Mapping[str, Any]] = [{}] * num_envs
        self.broken: dict[int, str] = {}
        self._elapsed = np.zeros(num_envs, int)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)

    def reset(
        self, tasks: NDArray[Any], seeds: Sequence[int], observations: FloatArray, slots: IntArray | None = None
    ) -> None:
        slots = np.arange(self.num_envs) if slots is None else slots
        for slot, task, seed in zip(slots, tasks, seeds, strict=True):
            self.current, self.calling = int(slot), "make_env"
            env = self._env_for(int(slot), task)
            self.calling = "set_task"
            options = self._family.set_task(env, copy.deepcopy(task))
            self.calling = None
            observation, self.infos[slot] = begin(env, int(seed), options)
            with np.errstate(over="ignore"):  # What does not fit becomes infinite, and the door refuses it.
                observations[slot] = observed(self._space, observation, "reset")
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
        self.broken = {}
        for slot in np.flatnonzero(~(self._terminated | self._truncated)):
            self.current = current = int(slot)
            try:
                observation, reward, self._terminated[slot], cut, info = take_step(self._envs[current], actions[slot])
            except BrokenEpisode as error:
                self.broken[current], self._terminated[slot] = str(error), True
                continue
            with np.errstate(over="ignore"):
                observations[slot] = observed(self._space, observation, "step")
                rewards[slot] = reward
            for name, values in self.terms.items():  # In double precision.
                value = reported(info, name)
                try:
                    values[slot] = value
                except (TypeError, ValueError):
                    what = f"a step reports {shown(value)} as {name!r}, which the family's metrics name"
                    raise UserError(f"{what}; it must be one number.") from None
            self.infos[slot] = info
            self._elapsed[slot] += 1
            self._truncated[slot] = cut or self._elapsed[slot] >= self._horizon
        self.current = None
        terminated[...] = self._terminated
        truncated[...] = self._truncated

    def end(self, slots: IntArray) -> None:
        self._terminated[slots] = True

    def close(self) -> None:
        with ExitStack() as stack:  # Each is closed, whatever the others raise.
            for env in self._envs.values():
                stack.callback(env.close)

    def _env_for(self, slot: int, task: Any) -> gym.Env[Any, Any]:
        """The slot's environment, made anew if it is of another kind than the task's."""
        kind = self._family.kind(task)
        if self._family.kinds and kind not in self._family.kinds:
            raise UserError(f"kind of {self._family.name} gives {kind!r}, which is none of its kinds.")
        if kind != self._kinds[slot]:
            if slot in self._envs:
                self._envs.pop(slot).close()
            self._envs[slot], self._kinds[slot] = make_flat_env(self._family, kind), kind
        return self._envs[slot]
