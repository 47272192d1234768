"""Maps a policy's actions to an action space: chooses the distribution, scales and clips."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from metarl.common.errors import UserError
from metarl.policies.distributions import Categorical, Distribution, Gaussian


class ActionMap:
    """Converts a policy's actions to an environment's actions.

    ``Box``: centre + scale * half-width * action, clipped to the bounds. With scale 1, [-1, 1] covers the action space,
    so unit-variance exploration fits every environment. ``Discrete``: the choice plus the space's start.

    Args:
        space: The environment's action space.
        scale: Factor on the half-width; below 1, a policy action of 1 reaches only part of the way to the bound.

    Raises:
        UserError: If the space is neither a bounded one-dimensional ``Box`` nor ``Discrete``.
    """

    def __init__(self, space: gymnasium.Space[Any], scale: float = 1.0) -> None:
        self.distribution: Distribution
        if isinstance(space, Discrete):
            self.distribution = Categorical(int(space.n))
            self._start = int(space.start)
        elif isinstance(space, Box) and len(space.shape) == 1 and space.is_bounded():
            self.distribution = Gaussian(space.shape[0])
            self._low, self._high = _narrowest(space.low), _narrowest(space.high)
            self._centre = _narrowest((0.5 * (space.low + space.high)).astype(space.dtype))
            self._half_width = _narrowest((0.5 * scale * (space.high - space.low)).astype(space.dtype))
        else:
            raise UserError(f"action space {space} is not supported: use a bounded one-dimensional Box or Discrete.")
        self._discrete = isinstance(space, Discrete)

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Converts the policy's actions, [..., action] or [...] of integers, to the environment's, same shape."""
        if self._discrete:
            return actions + self._start
        scaled = actions * self._half_width
        scaled += self._centre
        np.maximum(scaled, self._low, out=scaled)
        return np.minimum(scaled, self._high, out=scaled)


def _narrowest(values: np.ndarray) -> Any:
    """One number if all values are equal, else the values. NumPy is several times faster with a number."""
    return values[0] if (values == values[0]).all() else values
