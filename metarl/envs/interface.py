"""Batches of episodes: the one interface through which rollouts are collected."""

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray, IntArray


class EpisodeBatch(Protocol):
    """One episode in each of ``num_envs`` slots, side by side; a slot whose episode has ended stands still.

    A batch shares no mutable state with another one: two of them may be stepped from two threads.
    """

    num_envs: int

    def reset(
        self, tasks: NDArray[Any], seeds: Sequence[int], observations: FloatArray, slots: IntArray | None = None
    ) -> None:
        """Begins an episode in every slot, or in some while the others go on.

        Args:
            tasks: One task for each of these slots, [k, *task shape].
            seeds: One seed for each of these slots, with the meaning of ``env.reset(seed=...)``.
            observations: Receives the first observations of these slots, [num_envs, observation]; what the others'
                rows hold must be their current observations.
            slots: Which slots, ascending, [k]; by default all. The first time it has to be all.
        """

    def step(
        self,
        actions: NDArray[Any],
        observations: FloatArray,
        rewards: FloatArray,
        terminated: BoolArray,
        truncated: BoolArray,
    ) -> None:
        """Takes one step in every slot whose episode has not ended.

        A slot that had ended before keeps its observation, has reward 0 and keeps its flags.

        Args:
            actions: Elements of the action space, [num_envs, *action shape].
            observations: Receives the observations after the step, [num_envs, observation].
            rewards: Receives this step's rewards, [num_envs].
            terminated: Receives whether each episode has ended in a terminal state, by now, [num_envs].
            truncated: Receives whether each episode has been cut off, by now, [num_envs].
        """

    def close(self) -> None:
        """Releases what the batch holds."""
