"""Statistics of returns over seeds: means, intervals, paired differences, tests.

The unit of replication is the seed. All tasks of one seed share one model, so the functions average over tasks first
and take intervals over seeds only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Aggregate = Literal["any", "last", "mean", "sum", "max"]
"""How a number of each step becomes one of the episode; "any" is 1 if a step's number is not 0, else 0."""

MIN_SEEDS_FOR_INTERVAL = 5
"""Below this many seeds, reports show every seed, no interval and no p-value."""

MIN_SEEDS_FOR_BOOTSTRAP = 10
"""Below this many seeds, interquartile means and probabilities of improvement have no interval: a bootstrap of 5 seeds
covers the truth in 4 of 5 cases, where it promises 19 of 20."""

_CONFIDENCE = 0.95
_RESAMPLES = 2000  # of a bootstrap


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds with a t interval.

    Attributes:
        mean: Mean over seeds, in the unit of the values; one entry for each trailing index.
        half_width: Half the interval's width, same shape as ``mean``; ``None`` for a single seed.
    """

    mean: NDArray[np.float64]
    half_width: NDArray[np.float64] | None

    @property
    def low(self) -> NDArray[np.float64] | None:
        """Lower end of the interval, ``None`` for a single seed."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> NDArray[np.float64] | None:
        """Upper end of the interval, ``None`` for a single seed."""
        return None if self.half_width is None else self.mean + self.half_width


def mean_and_interval(per_seed: ArrayLike) -> Estimate:
    """Mean over seeds and Student's 95 % t interval: mean +- t_{n-1} * s / sqrt(n).

    Args:
        per_seed: One value or one array for each seed, [seed, ...].

    Returns:
        The estimate. Its interval is ``None`` for a single seed, which says nothing about spread.

    Raises:
        ValueError: If there is no seed.
    """
    values = np.asarray(per_seed, dtype=np.float64)
    if values.ndim == 0 or len(values) == 0:
        raise ValueError(f"per_seed must have shape (seeds, ...) with at least one seed, got {values.shape}")
    count = len(values)
    half_width = None
    if count > 1:
        half_width = _t_quantile(count - 1, 0.5 + _CONFIDENCE / 2) * values.std(axis=0, ddof=1) / np.sqrt(count)
    return Estimate(values.mean(axis=0), half_width)


def aggregate(returns: ArrayLike) -> Estimate:
    """Headline number of an evaluation: mean over the tasks of each seed, then mean over seeds with a 95 % t interval.

    Args:
        returns: Returns by seed, task and gradient step, [seed, task, step].

    Returns:
        The estimate for each gradient step, [step].

    Raises:
        ValueError: If ``returns`` does not have three axes, or if one of them is empty.
    """
    return mean_and_interval(_seeds_tasks_steps(returns).mean(axis=1))


def paired_difference(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Difference of two algorithms on the same tasks and seeds: first minus second per seed, then mean over seeds.

    Pairing removes the variation that both share, so the interval is narrower than one from unpaired returns.

    Args:
        first: Returns of one algorithm, [seed, task, step].
        second: Returns of the other on the same seeds and tasks in the same order, [seed, task, step].

    Returns:
        The estimate of the difference for each gradient step, [step]; positive where ``first`` is larger.

    Raises:
        ValueError: If the shapes differ, so that the values cannot be paired.
    """
    one, other = _paired(first, second)
    return aggregate(one - other)


def paired_p_values(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Two-sided p-values of Student's paired t test over seeds: how often chance alone makes as large a difference.

    Args:
        first: Returns of one algorithm, [seed, task, step].
        second: Returns of the other on the same seeds and tasks in the same order, [seed, task, step].

    Returns:
        The p-value for each step, [step], not adjusted for the number of comparisons; 1 where all seeds are equal, NaN
        where a seed's difference is no finite number.

    Raises:
        ValueError: If the shapes differ, or if there is a single seed.
    """
    from scipy.special import stdtr

    one, other = _paired(first, second)
    count, per_seed = len(one), (one - other).mean(axis=1)
    if count == 1:
        raise ValueError("a p-value needs at least two seeds, got 1")
    with np.errstate(invalid="ignore"):  # A seed that has diverged.
        mean, error = np.abs(per_seed.mean(axis=0)), per_seed.std(axis=0, ddof=1) / np.sqrt(count)
    # Without spread, t is infinite, or, without a difference either, 0.
    t = np.divide(mean, error, out=np.where(mean > 0, np.inf, 0.0), where=error > 0)
    return np.where(np.isfinite(error), 2 * stdtr(count - 1, -t), np.nan)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusts p-values for their number, so that the chance of any false finding among them stays below the level.

    The k-th smallest of m is multiplied by m - k + 1; none is less than a smaller one's, none more than 1.

    Args:
        p_values: The p-values of one table's comparisons, [comparison].

    Returns:
        The adjusted p-values in the same order, [comparison].

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted


def interquartile_mean(returns: ArrayLike) -> NDArray[np.float64]:
    """Mean of the middle half of all seeds' and tasks' returns: few very good or bad ones do not move it.

    Args:
        returns: [seed, task, step].

    Returns:
        For each step, [step].

    Raises:
        ValueError: If ``returns`` does not have three axes, or if one of them is empty.

    Source: Agarwal et al. 2021, Deep reinforcement learning at the edge of the statistical precipice.
    """
    values = _seeds_tasks_steps(returns)
    ordered = np.sort(values.reshape(-1, values.shape[2]), axis=0)
    cut = len(ordered) // 4
    return np.asarray(ordered[cut : len(ordered) - cut].mean(axis=0), dtype=np.float64)


def probability_of_improvement(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Chance that a run of one algorithm beats a run of the other on a task drawn at random; ties count half.

    All pairs of seeds are compared: a run stands for its algorithm, whatever its seed.

    Args:
        first: Returns of one algorithm, [seed, task, step].
        second: Returns of the other on the same tasks, [seed, task, step]; the number of seeds may differ.

    Returns:
        Between 0 and 1 for each step, [step].

    Raises:
        ValueError: If tasks or steps differ in number.

    Source: Agarwal et al. 2021; for each task, the Mann-Whitney U statistic over the number of pairs.
    """
    one, other = _seeds_tasks_steps(first), _seeds_tasks_steps(second)
    if one.shape[1:] != other.shape[1:]:
        raise ValueError(f"returns must have the same tasks and steps, got {one.shape} and {other.shape}")
    # What is no number, because the policy has diverged, is the worst.
    one, other = (np.where(np.isnan(values), -np.inf, values) for values in (one, other))
    wins = (np.greater(one[:, None], other[None]).astype(float) - np.less(one[:, None], other[None])).mean((0, 1, 2))
    return np.asarray((1 + wins) / 2, dtype=np.float64)


def bootstrap_interval(
    statistic: Callable[..., NDArray[np.float64]], *returns: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """95 % percentile interval of a statistic, from seeds that are drawn again with replacement, all tasks with them.

    Args:
        statistic: `interquartile_mean` or `probability_of_improvement`, or any function of ``returns`` to [step].
        returns: What it takes, each [seed, task, step] with the same seeds, which are drawn together.

    Returns:
        Lower and upper ends, [step] each, the same in every call; None with fewer than `MIN_SEEDS_FOR_BOOTSTRAP` seeds.

    Source: Agarwal et al. 2021, with whole seeds where they draw within each task.
    """
    values = [_seeds_tasks_steps(of_one) for of_one in returns]
    count = len(values[0])
    if count < MIN_SEEDS_FOR_BOOTSTRAP:
        return None
    draws = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
    drawn = np.array([statistic(*(of_one[seeds] for of_one in values)) for seeds in draws])
    low, high = np.quantile(drawn, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2], axis=0)
    return low, high


def share_of_gap(returns: ArrayLike, bottom: float, top: float) -> NDArray[np.float64]:
    """Share of the gap between two references that returns close: 0 at the bottom, 1 at the top.

    Args:
        returns: Mean returns, [...].
        bottom: Return of the lower reference, such as standing still.
        top: Return of the upper reference, such as an oracle that knows the task.

    Returns:
        [...]; negative below the bottom, above 1 beyond the top.
    """
    return np.asarray((np.asarray(returns, dtype=np.float64) - bottom) / (top - bottom), dtype=np.float64)


def made_worse(returns: ArrayLike) -> NDArray[np.bool_]:
    """Whether a task's return is lower after adaptation than before it.

    A relative drop below one millionth counts as rounding, not as worse. What was finite and is no number any more,
    because the policy has diverged, is worse.

    Args:
        returns: Returns by gradient step, [..., step]; step 0 is before adaptation.

    Returns:
        [..., step]; False at step 0.
    """
    values = np.asarray(returns, dtype=np.float64)
    before = values[..., :1]
    return np.asarray(np.isfinite(before) & ~(values >= before - 1e-6 * np.abs(before)))


def share_made_worse(returns: ArrayLike) -> NDArray[np.float64]:
    """Share of tasks that are `made_worse`. A good mean can hide such tasks.

    Args:
        returns: Returns by task and gradient step, [..., task, step]; step 0 is before adaptation.

    Returns:
        Share between 0 and 1 for each gradient step, [..., step]; 0 at step 0.
    """
    return np.asarray(made_worse(returns).mean(axis=-2), dtype=np.float64)


def _seeds_tasks_steps(returns: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(returns, dtype=np.float64)
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"returns must have shape (seeds, tasks, steps), none of them empty, got {values.shape}")
    return values


def _paired(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    one, other = _seeds_tasks_steps(first), _seeds_tasks_steps(second)
    if one.shape != other.shape:
        raise ValueError(f"paired returns must have the same shape, got {one.shape} and {other.shape}")
    return one, other


def _t_quantile(degrees_of_freedom: int, probability: float) -> float:
    from scipy.special import stdtrit  # Imported here, because plots of a single seed do not need SciPy.

    return float(stdtrit(degrees_of_freedom, probability))
