"""Exact values of reference agents on Bernoulli bandits whose means are uniform in [0, 1].

An arm that paid s times in n pulls has a mean of distribution Beta(1 + s, 1 + n - s), so its next pull pays with
probability (1 + s) / (2 + n). All histories of all arms are summed by dynamic programming. Arms are exchangeable:
their counts are sorted, so that histories that differ in the names of arms are one state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

Floats = NDArray[np.float64]
State = tuple[tuple[int, int], ...]
"""How often each arm paid, and how often it did not; sorted."""
Agent = Callable[[State, Floats], Floats]
"""Probability of pulling each arm, [arm], from the state and the arms' exact values, [arm]. The values are the expected
reward from this pull on if the same agent pulls on."""


def value(agent: Agent, num_arms: int, num_pulls: int) -> float:
    """Expected total reward of an agent.

    Args:
        agent: The agent.
        num_arms: Number of arms.
        num_pulls: Number of pulls.
    """

    @cache
    def remaining(state: State) -> float:
        if sum(map(sum, state)) == num_pulls:
            return 0.0
        values = np.array([of_arm(state, arm) for arm in range(num_arms)])
        return float(agent(state, values) @ values)

    def of_arm(state: State, arm: int) -> float:
        paid, failed = state[arm]
        probability = (1 + paid) / (2 + paid + failed)
        others = state[:arm] + state[arm + 1 :]
        after = [remaining(tuple(sorted((*others, new)))) for new in ((paid + 1, failed), (paid, failed + 1))]
        return probability * (1 + after[0]) + (1 - probability) * after[1]

    return remaining(((0, 0),) * num_arms)


def bayes_optimal(state: State, values: Floats) -> Floats:
    """Pulls the arm of the largest value: no agent does better on average over tasks."""
    return _shared_by_best(values)


def greedy(state: State, values: Floats) -> Floats:
    """Pulls the arm with the largest posterior mean."""
    paid, failed = np.array(state).T
    return _shared_by_best((1 + paid) / (2 + paid + failed))


def ucb1(state: State, values: Floats) -> Floats:
    """Pulls each arm once, then that with the largest mean + sqrt(2 ln(all pulls) / pulls).

    Source: Auer et al. 2002, figure 1.
    """
    return _most_optimistic(state, lambda mean, error: 2.0 * np.ones_like(mean))


def ucb1_tuned(state: State, values: Floats) -> Floats:
    """UCB1 with an upper bound of the variance, at most 1/4, in place of 2: mean - mean^2 + sqrt(2 ln(all) / pulls).

    Source: Auer et al. 2002, section 4.
    """
    return _most_optimistic(state, lambda mean, error: np.minimum(0.25, mean - mean**2 + np.sqrt(2 * error)))


def thompson(state: State, values: Floats) -> Floats:
    """Pulls each arm with the probability that it is the best one, by the posterior.

    The probability is the integral of the arm's density times the other arms' distribution functions: a polynomial,
    which Gauss-Legendre quadrature integrates exactly.

    Source: Thompson 1933.
    """
    paid, failed = np.array(state).T[:, :, None]
    nodes, weights = np.polynomial.legendre.leggauss((paid + failed).sum() // 2 + len(state))
    points = (nodes + 1) / 2
    densities, below = (f(points, 1 + paid, 1 + failed) for f in (beta.pdf, beta.cdf))
    others = [np.delete(below, arm, axis=0).prod(axis=0) for arm in range(len(state))]
    return np.asarray((densities * others) @ weights / 2)


def random(state: State, values: Floats) -> Floats:
    """Pulls any arm."""
    return np.full(len(state), 1 / len(state))


def _most_optimistic(state: State, factor: Callable[[Floats, Floats], Floats]) -> Floats:
    """Pulls each arm once, then that with the largest mean + sqrt(factor * error), error = ln(all pulls) / pulls."""
    paid, failed = np.array(state).T
    pulls = paid + failed
    if not pulls.all():
        return _shared_by_best(-pulls.clip(max=1))
    mean, error = paid / pulls, np.log(pulls.sum()) / pulls
    return _shared_by_best(mean + np.sqrt(factor(mean, error) * error))


def _shared_by_best(scores: Floats) -> Floats:
    """The same probability for all arms with the largest score, up to rounding."""
    best = scores >= scores.max() - 1e-12
    return np.asarray(best / best.sum())
