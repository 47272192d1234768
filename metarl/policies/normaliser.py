"""Normalisation of observations by fixed statistics."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Normaliser:
    """Shifts and scales observations.

    Attributes:
        mean: [observation].
        std: Standard deviation, positive, [observation].
    """

    mean: Tensor
    std: Tensor

    def __call__(self, observations: Tensor) -> Tensor:
        """(observations - mean) / std, of observations [..., observation]."""
        return (observations - self.mean) / self.std

    def to(self, like: Tensor) -> Normaliser:
        """The same on the device of another tensor."""
        return Normaliser(self.mean.to(like.device), self.std.to(like.device))
