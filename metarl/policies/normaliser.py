"""Normalisation by statistics that are kept among the meta-parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Added to the variance: an entry that never changes is not scaled up to its rounding.
_LEAST_VARIANCE = 1e-8


@dataclass(frozen=True)
class Normaliser:
    """Shifts and scales values.

    Attributes:
        mean: [entry].
        std: Standard deviation, positive, [entry].
    """

    mean: Tensor
    std: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """(values - mean) / std, of values [..., entry]."""
        return (values - self.mean) / self.std

    def to(self, like: Tensor) -> Normaliser:
        """The same on the device of another tensor."""
        return Normaliser(self.mean.to(like.device), self.std.to(like.device))


class RunningStatistics:
    """Number, mean and variance of all values so far, in one flat tensor [1 + 2 entry].

    Args:
        entries: Length of a value.

    Attributes:
        size: Length of the tensor.
    """

    def __init__(self, entries: int) -> None:
        self._entries, self.size = entries, 1 + 2 * entries

    def initial(self) -> Tensor:
        """Statistics of no values: mean 0, variance 1."""
        return torch.cat([torch.zeros(1 + self._entries), torch.ones(self._entries)])

    def of(self, values: Tensor, mask: Tensor) -> Tensor:
        """Statistics of several sets of values.

        Args:
            values: [set, row, entry].
            mask: 1 for rows that count, [set, row].

        Returns:
            [set, 1 + 2 entry], float64.
        """
        count = mask.double().sum(1, keepdim=True)
        weights = (mask / count.clamp(min=1))[..., None]
        mean = (weights * values).sum(1)
        variance = (weights * (values - mean[:, None]) ** 2).sum(1)
        return torch.cat([count, mean, variance], dim=1)

    def pooled(self, statistics: Tensor, others: Tensor) -> Tensor:
        """Adds the values behind other statistics.

        Args:
            statistics: [1 + 2 entry].
            others: [set, 1 + 2 entry].

        Source: Chan et al. 1983.
        """
        every = torch.cat([statistics[None].to(others), others]).double()
        count, mean, variance = every.split([1, self._entries, self._entries], dim=1)
        share = count / count.sum()
        pooled = (share * mean).sum(0)
        spread = (share * (variance + (mean - pooled) ** 2)).sum(0)
        return torch.cat([count.sum(0), pooled, spread]).to(statistics)

    def normaliser(self, statistics: Tensor) -> Normaliser:
        """Shifts and scales values to mean 0 and variance 1."""
        _, mean, variance = statistics.detach().split([1, self._entries, self._entries])
        return Normaliser(mean, (variance + _LEAST_VARIANCE).sqrt())
