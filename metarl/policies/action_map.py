"""Maps a policy's actions to an action space: chooses the distribution, scales and clips."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from metarl.common.errors import Diverged, UserError
from metarl.envs.spaces import check_actions, choices, zero_action
from metarl.policies.distributions import Categorical, Categoricals, DifferentiableDistribution, Gaussian


class ActionMap:
    """Converts a policy's actions to elements of an environment's action space.

    ``Box`` of floats: centre + scale * half-width * action, clipped to the bounds. With scale 1, [-1, 1] covers the
    action space, so unit-variance exploration fits every environment.
    ``Box`` of integers: the same with an interval of length 1 for each integer, rounded down: [-1, 1] is divided
    equally among all integers.
    ``Discrete``, ``MultiDiscrete`` and ``MultiBinary``: the choices plus the space's start.

    Args:
        space: The environment's action space.
        scale: Factor on the half-width; below 1, a policy action of 1 reaches only part of the way to the bound.

    Attributes:
        space: As given.
        scale: As given.
        distribution: The distribution of the policy's actions.

    Raises:
        UserError: If the space is not supported (`metarl.envs.spaces.check_actions`), or the scaled half-width is not a
            finite number.
    """

    def __init__(self, space: gymnasium.Space[Any], scale: float = 1.0) -> None:
        check_actions(space)
        self.distribution: DifferentiableDistribution
        self.space, self.scale = space, float(scale)
        self._dtype, self._shape = space.dtype, space.shape or ()
        self._start: Any = None  # Added to choices; None if actions are numbers.
        if isinstance(space, Box):
            self.distribution = Gaussian(space.shape[0])
            self._scale_to(space, self.scale)
        elif isinstance(space, Discrete):
            self.distribution, self._start = Categorical(int(space.n)), int(space.start)
        else:
            self.distribution, self._start = Categoricals(choices(space)), getattr(space, "start", 0)

    def _scale_to(self, space: Box, scale: float) -> None:
        low, high = space.low, space.high
        if low.dtype.kind in "biu":
            # Count from 0, and add the start to whole numbers: sums of large floats are not exact.
            self._start = low.astype(np.int64)
            low, high = np.zeros(low.shape), (high.astype(np.int64) - self._start).astype(float)
            upper = high + 1
        else:
            upper = high
        # Halves first, because the difference of large bounds overflows.
        with np.errstate(over="ignore"):
            half_width = scale * (0.5 * upper - 0.5 * low)
        if not np.isfinite(half_width).all():
            raise UserError(f"half the width of {space} times {scale:g} is not finite; lower action_scale.")
        self._low, self._high = _narrowest(low), _narrowest(high)
        self._centre, self._half_width = _narrowest(0.5 * low + 0.5 * upper), _narrowest(half_width)

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Converts the policy's actions to the environment's.

        Args:
            actions: [..., action]; [..., component] of integers for several choices; [...] of integers for one.

        Returns:
            Elements of the action space, [..., *action shape], of its type.
        """
        if isinstance(self.distribution, Gaussian):
            actions = self._scaled(actions)
            if self._start is None:
                return actions.astype(self._dtype, copy=False)
        batch = actions.shape if isinstance(self.distribution, Categorical) else actions.shape[:-1]
        return (actions.reshape(batch + self._shape) + self._start).astype(self._dtype, copy=False)

    def _scaled(self, actions: np.ndarray) -> np.ndarray:
        """Actions of a Gaussian between the bounds; numbers of integers from the lowest on."""
        with np.errstate(over="ignore"):
            scaled = actions * self._half_width
        scaled += self._centre
        if self._start is not None:
            np.floor(scaled, out=scaled)
        np.maximum(scaled, self._low, out=scaled)
        np.minimum(scaled, self._high, out=scaled)
        if self._start is None:
            return scaled
        if np.isnan(scaled).any():  # No integer says so.
            raise Diverged("the policy's action is not finite")
        return scaled.astype(np.int64)

    def outputs_of_zero(self) -> NDArray[np.float64] | None:
        """The policy's action that stands for 0, [action]; None if 0 is no element of the space, or a choice."""
        if zero_action(self.space) is None:
            return None
        # An integer is its whole interval, counted from the lowest.
        zero = 0.0 if self._start is None else 0.5 - self._start
        half_width = np.broadcast_to(np.asarray(self._half_width, np.float64), self._shape)
        difference = zero - np.asarray(self._centre, np.float64)
        return np.divide(difference, half_width, out=np.zeros(self._shape), where=half_width > 0)

    def traced(self, actions: Tensor) -> Tensor:
        """The same as calling, in operations of PyTorch that can be exported."""
        if isinstance(self.distribution, Gaussian):
            # As NumPy computes: a tensor of one number would leave actions in single precision.
            dtype = np.result_type(np.float32, self._half_width)
            low, high, centre, half_width = (
                torch.as_tensor(np.asarray(bound, dtype))
                for bound in (self._low, self._high, self._centre, self._half_width)
            )
            actions = actions.to(half_width.dtype) * half_width + centre
            actions = (actions if self._start is None else actions.floor()).clamp(low, high)
        batch = actions.shape if isinstance(self.distribution, Categorical) else actions.shape[:-1]
        actions = actions.reshape(batch + self._shape)
        if self._start is not None:
            actions = actions.long() + torch.as_tensor(self._start)
        return actions.to(torch.from_numpy(np.zeros(0, self._dtype)).dtype)


def _narrowest(values: np.ndarray) -> Any:
    """One number if all values are equal, else the values. NumPy is several times faster with a number."""
    return values[0] if (values == values[0]).all() else values
