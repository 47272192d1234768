"""The environment's door: every batch of episodes is checked here, and every fault is told with its place."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray, IntArray
from metarl.common.errors import Diverged, Fault, blame, blaming
from metarl.common.output import say
from metarl.envs.family import TaskFamily
from metarl.envs.interface import EpisodeBatch, require_episode_batch

BadEpisode = Literal["stop", "drop"]
_LARGEST = np.finfo(np.float32).max


class CheckedEpisodes(EpisodeBatch):
    """A batch of episodes that lets nothing pass that is not a finite number, and that says where a fault happened.

    Exceptions of an environment go on, with a note that names family, task, rollout, step and seed.

    Args:
        episodes: The batch; owned from now on.
        family: The task family.
        rollouts_per_task: Slots of each task, task-major.
        on_bad_episode: After a number that is not finite, or where an episode breaks off, "stop" raises `Fault`, and
            "drop" ends the episode instead. None stops where there is no choice.

    Attributes:
        dropped: What was wrong with each dropped episode since the last reset of all slots, by slot.

    Raises:
        UserError: If ``episodes`` is no `EpisodeBatch`.
    """

    def __init__(
        self, episodes: Any, family: TaskFamily, rollouts_per_task: int = 1, on_bad_episode: BadEpisode | None = None
    ) -> None:
        self._episodes = require_episode_batch(episodes)
        super().__init__(episodes.num_envs, episodes.observation_size)
        self.terms = episodes.terms
        self.dropped: dict[int, str] = {}
        self._family, self._rollouts, self._on_bad_episode = family, rollouts_per_task, on_bad_episode
        self._steps, self._begun = 0, np.zeros(self.num_envs, int)
        self._tasks: NDArray[Any] = np.empty(self.num_envs, object)
        self._seeds: list[Any] = [None] * self.num_envs
        self._inside = ""

    @property
    def place(self) -> tuple[int, int | None] | None:
        """Where a call is that has not returned yet: the number of the step, and the slot if it is known."""
        return (self._steps, self._episodes.current) if self._inside else None

    def where(self) -> str:
        """Names the call that has not returned yet."""
        return f"in {self._episodes.calling or self._inside or 'a call'} of {self._named(self._episodes.current)}"

    def reset(
        self, tasks: NDArray[Any], seeds: Sequence[int], observations: FloatArray, slots: IntArray | None = None
    ) -> None:
        if slots is None:
            self.dropped, self._tasks, self._seeds = {}, tasks.copy(), list(seeds)
            self._begun[:] = self._steps
        else:
            for slot, task, seed in zip(slots.tolist(), tasks, seeds, strict=True):
                self._tasks[slot], self._seeds[slot], self._begun[slot] = task, seed, self._steps
                self.dropped.pop(slot, None)
        self._inside = "reset"
        with blaming(self.where):
            self._episodes.reset(tasks, seeds, observations, slots)
        self._inside = ""
        if _bad(observations).any():
            self._refuse({"observation": observations}, {})
            observations[list(self.dropped)] = 0

    def step(
        self,
        actions: NDArray[Any],
        observations: FloatArray,
        rewards: FloatArray,
        terminated: BoolArray,
        truncated: BoolArray,
    ) -> None:
        self._steps, self._inside = self._steps + 1, "step"
        try:
            self._episodes.step(actions, observations, rewards, terminated, truncated)
        except BaseException as error:
            if isinstance(error, Exception):
                self._require_finite(actions)
            blame(error, self.where)
        self._inside, self.terms, broken = "", self._episodes.terms, self._episodes.broken
        reported = (observations, rewards, *self.terms.values())
        # Sums of squares take less time than to look at each number, and miss nothing.
        squares = sum([float(np.vdot(values, values)) for values in reported])
        if broken or (not squares <= _LARGEST and any(_bad(values).any() for values in reported)):
            self._require_finite(actions)
            self._refuse({"observation": observations, "reward": rewards, **self.terms}, broken)
        if self.dropped:
            slots = list(self.dropped)
            for values in reported:
                values[slots] = 0
            terminated[slots] = True

    def use_threads(self, num_threads: int) -> None:
        self._episodes.use_threads(num_threads)

    def close(self) -> None:
        try:
            self._episodes.close()
        except Exception as error:  # What they have done is done, and another fault may be on its way.
            say(f"environments of {self._family.name} could not be closed: {type(error).__name__}: {error}")

    def _require_finite(self, actions: NDArray[Any]) -> None:
        """Raises Diverged if it is the policy that was not finite."""
        bad = ~np.isfinite(actions).reshape(self.num_envs, -1).all(1)
        if bad.any():
            slot = int(np.flatnonzero(bad)[0])
            raise Diverged(f"the policy's action is not finite in {self._named(slot)}")

    def _refuse(self, values: dict[str, Any], broken: Mapping[int, str]) -> None:
        """Stops at the first bad episode, or drops all of them.

        Args:
            values: What is to be finite, [num_envs, ...] by name.
            broken: Slots whose episode cannot go on, with the reason.
        """
        for slot, what in (*broken.items(), *self._not_finite(values)):
            told = f"{what} in {self._named(slot)}"
            if self._on_bad_episode != "drop":
                choice = ", or leave such episodes out (on_bad_episode drop)" if self._on_bad_episode else ""
                raise Fault(f"{told}; mend the environment{choice}.")
            self.dropped.setdefault(slot, told)
        self._episodes.end(np.array(list(self.dropped)))

    def _not_finite(self, values: dict[str, Any]) -> Iterator[tuple[int, str]]:
        for name, of_slots in values.items():
            bad = _bad(of_slots).reshape(self.num_envs, -1)
            for slot in np.flatnonzero(bad.any(1)).tolist():
                number = np.ravel(of_slots[slot])[bad[slot]][0]
                place = f" (entry {np.flatnonzero(bad[slot])[0]})" if bad.shape[1] > 1 else ""
                yield slot, f"the {name}{place} is {_in_words(number)}"

    def _named(self, slot: int | None) -> str:
        """Names an episode at its present step; all of them if ``slot`` is None."""
        if slot is None and self.num_envs > 1:
            return f"{self.num_envs} environments of {self._family.name}, step {self._steps - self._begun.min()}"
        slot, name = slot or 0, self._family.name
        step, task = f"step {self._steps - self._begun[slot]}", self._tasks[slot]
        if isinstance(task, np.ndarray) and not task.size:  # An environment that the caller made and reset.
            return f"{name}, {step}"
        words = self._family.describe_task(task)
        return f"{name}, {words}, rollout {slot % self._rollouts}, {step}, seed {self._seeds[slot]}"


def _bad(values: NDArray[Any]) -> BoolArray:
    """Where values are not finite in single precision."""
    return ~(np.isfinite(values) if values.dtype == np.float32 else np.abs(values) <= _LARGEST)


def _in_words(number: float) -> str:
    limit = f"does not fit single precision (at most {_LARGEST:.1e}),"
    if np.isinf(number):  # Perhaps only since it was written into an array of single precision.
        return f"{number}, or {limit}"
    return str(number) if np.isnan(number) else f"{number}, which {limit}"


def checked_episodes(
    family: TaskFamily,
    num_envs: int,
    horizon: int,
    rollouts_per_task: int = 1,
    on_bad_episode: BadEpisode | None = None,
) -> CheckedEpisodes:
    """Makes a family's environments, checked.

    Args:
        family: The task family.
        num_envs: Number of slots.
        horizon: Steps after which an episode is truncated.
        rollouts_per_task: Slots of each task, task-major.
        on_bad_episode: See `CheckedEpisodes`.

    Raises:
        UserError: If the family does not make an `EpisodeBatch`.
    """
    with blaming(lambda: f"while {num_envs} environments of {family.name} were made"):
        episodes = family.make_episodes(num_envs, horizon)
    return CheckedEpisodes(episodes, family, rollouts_per_task, on_bad_episode)


class Watch:
    """Notices an environment that does not return.

    Args:
        seconds: The longest time of one call; of one environment, or of a batch that steps all of its slots at once.

    Attributes:
        interval: Seconds between two checks; a call that hangs is noticed at most two of them late.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.interval = seconds, min(1.0, seconds / 4)
        self._since: dict[int, tuple[Any, float]] = {}

    def check(self, batches: Iterable[CheckedEpisodes]) -> None:
        """Call it again and again while the batches are stepped.

        Raises:
            Fault: If a call has lasted longer since it was first seen.
        """
        now = monotonic()
        for index, batch in enumerate(batches):
            place, (seen, since) = batch.place, self._since.get(index, (None, now))
            if place is None or place != seen:
                self._since[index] = place, now
            elif now - since > self.seconds:
                raise Fault(f"nothing has come back for {self.seconds:g} seconds (step_timeout) {batch.where()}.")


def watching(batches: Sequence[CheckedEpisodes], seconds: float) -> tuple[Callable[[], None], float] | tuple[()]:
    """What to call again and again while batches are stepped, and the seconds between the calls; () to watch nothing.

    Args:
        batches: The batches; more may be added to the list.
        seconds: As of `Watch`; 0 to watch nothing.
    """
    if not seconds:
        return ()
    watch = Watch(seconds)
    return lambda: watch.check(batches), watch.interval
