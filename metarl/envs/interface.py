"""Batches of episodes: the only interface for collecting rollouts."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray, IntArray
from metarl.common.errors import UserError


class BrokenEpisode(RuntimeError):
    """Raised by an environment's ``step`` where its episode cannot go on, such as after a simulation has diverged.

    Its text says what happened. Training then does what ``on_bad_episode`` says, as after a reward that is no number.
    """


@dataclass(frozen=True)
class Buffers:
    """Arrays that receive a batch of episodes, initially 0.

    Attributes:
        observations: Observations before each step and after the last one, [time + 1, num_envs, observation].
        rewards: [time, num_envs].
        alive: 1 where the episode was running before the step, else 0, [time, num_envs].
        terminated: Whether each episode has ended in a terminal state so far, [num_envs].
        truncated: Whether each episode has been cut off so far, [num_envs].
        terms: Numbers that steps report beside the reward, by name, [time, num_envs].
    """

    observations: FloatArray
    rewards: FloatArray
    alive: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    terms: Mapping[str, FloatArray]


class EpisodeBatch(ABC):
    """One episode in each of ``num_envs`` slots, side by side. A slot whose episode has ended stands still.

    Batches share no mutable state: two threads may step two batches.

    Args:
        num_envs: Number of slots.
        observation_size: Length of an observation.
        terms: Names of the numbers that steps report beside the reward, those of `TaskFamily.metrics`.

    Attributes:
        terms: Numbers that the last step reported beside the reward, by name, [num_envs]; 0 in slots that had ended
            before it.
        current: The slot that is at work inside a call; None between calls, or if all slots work at once.
        calling: The family's method that is at work inside a call of another name, such as "set_task"; else None.
        broken: Slots whose episode could not go on in the last step, each with the reason; what the step has written
            for them means nothing.
        dropped: Slots whose episode is left out, each with the reason, as `metarl.envs.checked.CheckedEpisodes` says;
            a batch of your own says ``broken``.
    """

    terms: Mapping[str, Any]
    current: int | None = None
    calling: str | None = None
    broken: Mapping[int, str] = MappingProxyType({})
    dropped: Mapping[int, str] = MappingProxyType({})

    def __init__(self, num_envs: int, observation_size: int, terms: Iterable[str] = ()) -> None:
        self.num_envs, self.observation_size = num_envs, observation_size
        self.terms = {name: np.zeros(num_envs) for name in terms}

    def buffers(self, num_steps: int) -> Buffers:
        """Makes arrays that can receive ``num_steps`` steps of this batch, in single precision."""
        steps = (num_steps, self.num_envs)
        return Buffers(
            np.zeros((num_steps + 1, self.num_envs, self.observation_size), np.float32),
            np.zeros(steps, np.float32),
            np.zeros(steps, np.float32),
            np.zeros(self.num_envs, bool),
            np.zeros(self.num_envs, bool),
            {name: np.zeros(steps, np.float32) for name in self.terms},
        )

    @abstractmethod
    def reset(
        self, tasks: NDArray[Any], seeds: Sequence[int], observations: FloatArray, slots: IntArray | None = None
    ) -> None:
        """Begins an episode in every slot, or in some slots while the others go on.

        Args:
            tasks: One task per slot that begins, [k, *task shape].
            seeds: One seed per slot that begins, with the meaning of ``env.reset(seed=...)``.
            observations: Receives the first observations of these slots, [num_envs, observation]; the rows of the other
                slots must hold their current observations.
            slots: The slots that begin, ascending, [k]; by default all. The first call must begin all.
        """

    @abstractmethod
    def step(
        self,
        actions: NDArray[Any],
        observations: FloatArray,
        rewards: FloatArray,
        terminated: BoolArray,
        truncated: BoolArray,
    ) -> None:
        """Takes one step in every slot whose episode has not ended.

        A slot that had ended before keeps its observation and its flags; its reward and its terms are 0.

        Args:
            actions: Elements of the action space, [num_envs, *action shape].
            observations: Receives the observations after the step, [num_envs, observation].
            rewards: Receives this step's rewards, [num_envs].
            terminated: Receives whether each episode has ended in a terminal state so far, [num_envs].
            truncated: Receives whether each episode has been cut off so far, [num_envs].
        """

    def end(self, slots: IntArray) -> None:  # noqa: B027 (a batch need not be able to)
        """Ends the episodes in some slots, [k], so that later steps leave them alone. By default they go on unseen."""

    def use_threads(self, num_threads: int) -> None:  # noqa: B027 (a batch need not be able to)
        """Steps with several threads, if it can. Numbers do not depend on it. To be called before the first reset."""

    @abstractmethod
    def close(self) -> None:
        """Releases what the batch holds."""


def reported(step: Mapping[str, Any], term: str) -> Any:
    """Returns a step's value of a term that `TaskFamily.metrics` names; raises UserError if the step lacks it.

    Args:
        step: Numbers that the step reports, by name.
        term: The term's name.
    """
    if term not in step:
        known = ", ".join(step) or "nothing"
        raise UserError(f"the family's metrics name {term!r}, which its steps do not report; they report {known}.")
    return step[term]


def require_episode_batch(episodes: Any) -> EpisodeBatch:
    """Returns the result of a family's ``make_episodes``; raises UserError unless it is an `EpisodeBatch`."""
    if not isinstance(episodes, EpisodeBatch):
        made = type(episodes).__name__
        raise UserError(f"make_episodes made a {made}, which is no batch of episodes; derive it from EpisodeBatch.")
    return episodes
