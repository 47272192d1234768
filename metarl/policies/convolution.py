"""Convolutional networks for images, as ``policy_body``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metarl.common.errors import UserError


def conv4(inputs: int, outputs: int) -> nn.Module:
    """The network for Omniglot: four convolutions of 64 filters and stride 2, the mean over positions, a linear layer.

    Normalisation is transductive: a row's output depends on the other rows, see `BatchStatistics`.

    Args:
        inputs: Numbers in an image: a square of one channel or three, channel after channel.
        outputs: Number of outputs.

    Raises:
        UserError: If ``inputs`` is no such image.

    Source: Finn et al. 2017, section 5.2; the mean over positions as in the authors' code.
    """
    return _FourConvolutions(inputs, outputs, 64, stride=2)


def conv4_pool(inputs: int, outputs: int) -> nn.Module:
    """The network for miniImageNet: four convolutions of 32 filters, each with 2 x 2 max-pooling, and a linear layer.

    As `conv4`; images need at least 16 x 16 pixels.

    Source: Ravi & Larochelle 2017; Finn et al. 2017, section 5.2.
    """
    return _FourConvolutions(inputs, outputs, 32, stride=1)


class BatchStatistics(nn.Module):
    """Batch normalisation by the statistics of the batch alone, with learned scale and shift.

    It has no running averages, so it is a function of parameters and batch; but rows of a batch depend on each other.
    Support and query sets are normalised each by itself, as in the release of MAML: classes of queries are predicted
    transductively, in the presence of the other queries.

    Args:
        channels: Number of channels.

    Source: Ioffe & Szegedy 2015, algorithm 1.
    """

    # TensorFlow's default, which MAML's release uses; PyTorch's is 1e-5.
    epsilon = 1e-3

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, values: Tensor) -> Tensor:
        """Normalises each channel of values [row, channel, height, width]."""
        variance, mean = torch.var_mean(values, (0, 2, 3), correction=0, keepdim=True)
        scale = torch.rsqrt(variance + self.epsilon) * self.weight[:, None, None]
        return (values - mean) * scale + self.bias[:, None, None]


class _FourConvolutions(nn.Module):
    """Four blocks of 3 x 3 convolution, `BatchStatistics`, ReLU and, with stride 1, max-pooling; then a linear head."""

    def __init__(self, inputs: int, outputs: int, filters: int, stride: int) -> None:
        super().__init__()
        channels, side = _channels_and_side(inputs)
        pools = stride == 1
        if pools and side < 16:
            raise UserError(f"conv4_pool halves images four times: they need 16 x 16 pixels, got {side} x {side}.")
        self._shape = channels, side, side
        self.blocks = nn.Sequential()
        for number in range(4):
            # No bias: the normalisation would take it away again.
            convolution = nn.Conv2d(filters if number else channels, filters, 3, stride, padding=1, bias=False)
            nn.init.xavier_uniform_(convolution.weight)
            pooling = [nn.MaxPool2d(2)] if pools else []
            self.blocks.append(nn.Sequential(convolution, BatchStatistics(filters), nn.ReLU(), *pooling))
        self.summary: nn.Module = nn.Flatten() if pools else _MeanOverPositions()
        self.head = nn.Linear(filters * (side // 16) ** 2 if pools else filters, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """Outputs [row, output] of images [row, channels * side * side]."""
        return self.head(self.summary(self.blocks(rows.unflatten(-1, self._shape))))


class _MeanOverPositions(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.mean((2, 3))


def _channels_and_side(inputs: int) -> tuple[int, int]:
    """Channels and side of a square image of this many numbers."""
    for channels in (1, 3):
        side = math.isqrt(inputs // channels)
        if channels * side**2 == inputs:
            return channels, side
    raise UserError(f"a convolutional body needs square images of 1 or 3 channels, and {inputs} numbers are none.")
