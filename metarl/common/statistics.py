"""Statistics of returns over seeds: means, intervals, paired differences.

The unit of replication is the seed. All tasks of one seed share one model, so the functions average over tasks first
and take intervals over seeds only.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metarl.common.strict_json import one_line

Aggregate = Literal["any", "last", "mean", "sum", "max"]
"""How a number of each step becomes one of the episode; "any" is 1 if a step's number is not 0, else 0."""

MIN_SEEDS_FOR_INTERVAL = 5
"""Below this many seeds, reports show every seed and no interval."""


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds with a t interval.

    Attributes:
        mean: Mean over seeds, in the unit of the values; one entry for each trailing index.
        half_width: Half the interval's width, same shape as ``mean``; ``None`` for a single seed.
        num_seeds: Number of seeds.
    """

    mean: NDArray[np.float64]
    half_width: NDArray[np.float64] | None
    num_seeds: int

    @property
    def low(self) -> NDArray[np.float64] | None:
        """Lower end of the interval, ``None`` for a single seed."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> NDArray[np.float64] | None:
        """Upper end of the interval, ``None`` for a single seed."""
        return None if self.half_width is None else self.mean + self.half_width


def mean_and_interval(per_seed: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean over seeds and Student's t interval: mean +- t_{n-1} * s / sqrt(n).

    Args:
        per_seed: One value or one array for each seed, [seed, ...].
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        The estimate. Its interval is ``None`` for a single seed, which says nothing about spread.

    Raises:
        ValueError: If there is no seed or the confidence is not between 0 and 1.
    """
    values = np.asarray(per_seed, dtype=np.float64)
    if values.ndim == 0 or len(values) == 0:
        raise ValueError(f"per_seed must have shape (seeds, ...) with at least one seed, got {values.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    count = len(values)
    half_width = None
    if count > 1:
        half_width = _t_quantile(count - 1, 0.5 + confidence / 2) * values.std(axis=0, ddof=1) / np.sqrt(count)
    return Estimate(values.mean(axis=0), half_width, count)


def aggregate(returns: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Headline number of an evaluation: mean over the tasks of each seed, then mean over seeds with a t interval.

    Args:
        returns: Returns by seed, task and gradient step, [seed, task, step].
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        The estimate for each gradient step, [step].

    Raises:
        ValueError: If ``returns`` does not have three axes, or if one of them is empty.
    """
    return mean_and_interval(_seeds_tasks_steps(returns).mean(axis=1), confidence)


def paired_difference(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Difference of two algorithms on the same tasks and seeds: first minus second per seed, then mean over seeds.

    Pairing removes the variation that both share, so the interval is narrower than one from unpaired returns.

    Args:
        first: Returns of one algorithm, [seed, task, step].
        second: Returns of the other on the same seeds and tasks in the same order, [seed, task, step].
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        The estimate of the difference for each gradient step, [step]; positive where ``first`` is better.

    Raises:
        ValueError: If the shapes differ, so that the values cannot be paired.
    """
    one, other = _seeds_tasks_steps(first), _seeds_tasks_steps(second)
    if one.shape != other.shape:
        raise ValueError(f"paired returns must have the same shape, got {one.shape} and {other.shape}")
    return aggregate(one - other, confidence)


def share_made_worse(returns: ArrayLike) -> NDArray[np.float64]:
    """Share of tasks whose return is lower after adaptation than before it. A good mean can hide such tasks.

    Args:
        returns: Returns by task and gradient step, [..., task, step]; step 0 is before adaptation. A relative drop
            below one millionth counts as rounding, not as worse.

    Returns:
        Share between 0 and 1 for each gradient step, [..., step]; 0 at step 0.
    """
    values = np.asarray(returns, dtype=np.float64)
    before = values[..., :1]
    return np.asarray((values < before - 1e-6 * np.abs(before)).mean(axis=-2), dtype=np.float64)


def tasks_in_words(tasks: Sequence[Any] | NDArray[Any], finite: bool) -> str:
    """Says on how many tasks returns were measured, and whether the tasks were held out.

    Args:
        tasks: Tasks of an evaluation, repeats included, [task, ...].
        finite: Whether the family has finitely many tasks, so that training has seen them all.

    Returns:
        For example "40 held-out tasks", or "2 tasks (none held out), 20 repeats each".
    """
    repeats = Counter(map(one_line, tasks)).values()
    low, high = min(repeats), max(repeats)
    if not finite and high == 1:
        return _count(len(tasks), "held-out task")
    what = f"{_count(len(repeats), 'task')} (none held out)" if finite else _count(len(repeats), "held-out task")
    how_often = _count(high, "repeat") if low == high else f"{low} to {high} repeats"
    return f"{what}, {how_often} each"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _seeds_tasks_steps(returns: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(returns, dtype=np.float64)
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"returns must have shape (seeds, tasks, steps), none of them empty, got {values.shape}")
    return values


def _t_quantile(degrees_of_freedom: int, probability: float) -> float:
    from scipy.special import stdtrit  # Imported here, because plots of a single seed do not need SciPy.

    return float(stdtrit(degrees_of_freedom, probability))
