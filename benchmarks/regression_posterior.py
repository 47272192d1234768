"""The best prediction from a few examples for who knows how functions are drawn: the posterior mean.

No learner has a lower expected squared error. The posterior is represented by functions drawn from the family, each
weighted by its likelihood of the support set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metarl.envs.regression import MultimodalRegressionFamily
from metarl.envs.supervised import Examples

Floats = NDArray[np.floating]


def posterior_mean(
    family: MultimodalRegressionFamily, drawn: Floats, noise: float, support: Examples, x: Floats
) -> tuple[Floats, float]:
    """The expected values of the function at inputs, given a support set with Gaussian noise.

    Args:
        family: The family.
        drawn: Functions drawn from the prior: tasks of the family, [function, 4].
        noise: Standard deviation of the noise.
        support: The examples that are known.
        x: Inputs, [query, 1].

    Returns:
        The mean [query, 1], and the effective number of functions: (sum of weights)^2 / sum of squared weights. The
        mean is as accurate as that of so many functions drawn from the posterior.
    """
    log_weights = -((values(family, drawn, support.inputs) - support.targets.T) ** 2).sum(1) / (2 * noise**2)
    log_weights -= log_weights.max()
    likely = log_weights > -30  # The others add less than 1e-7 of the largest weight, even a million of them.
    weights = np.exp(log_weights[likely], dtype=np.float64)
    weights /= weights.sum()
    return (weights @ values(family, drawn[likely], x))[:, None], float(1 / (weights**2).sum())


def values(family: MultimodalRegressionFamily, functions: Floats, x: Floats) -> Floats:
    """Values of functions [function, 4] at inputs [input, 1], without noise: [function, input]."""
    result = np.empty((len(functions), len(x)), np.float32)
    kinds = family.modes(functions)
    for kind in range(family.num_modes):
        parameters = functions[kinds == kind, 1:].T[..., None].astype(np.float32)
        result[kinds == kind] = family.function((kind, *parameters), x.T)
    return result
