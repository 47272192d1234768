"""Multilayer perceptrons whose tensors are given at each call."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

_ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}


class Perceptron:
    """A multilayer perceptron.

    Args:
        name: Beginning of its tensors' names.
        sizes: Number of inputs, of units of each hidden layer, and of outputs.
        activation: Activation of the hidden layers.
        output_gain: Factor on the last layer's initial weights.

    Attributes:
        shapes: Name and shape of each tensor: weight and bias of each layer.
        num_outputs: Number of outputs.
    """

    def __init__(
        self, name: str, sizes: Sequence[int], activation: Literal["relu", "tanh"], output_gain: float = 1.0
    ) -> None:
        self._activation, self._gain, self.num_outputs = _ACTIVATIONS[activation], output_gain, sizes[-1]
        self.shapes: list[tuple[str, tuple[int, ...]]] = [
            (f"{name}_{kind}{index}", shape)
            for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), start=1)
            for kind, shape in (("weight", (fan_out, fan_in)), ("bias", (fan_out,)))
        ]

    def initial(self, generator: np.random.Generator) -> list[np.ndarray]:
        """Fresh tensors: Glorot-uniform weights, and biases of 0."""
        *hidden, last = [shape for _, shape in self.shapes[::2]]
        weights = [_glorot(generator, shape) for shape in hidden] + [self._gain * _glorot(generator, last)]
        return [part for weight in weights for part in (weight, np.zeros(len(weight)))]

    def __call__(self, tensors: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """The outputs, [..., output], at inputs [..., input]."""
        for weight, bias in zip(tensors[:-2:2], tensors[1:-2:2], strict=True):
            inputs = self._activation(linear(inputs, weight, bias))
        return linear(inputs, *tensors[-2:])


def _glorot(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    limit = math.sqrt(6 / sum(shape))
    return generator.uniform(-limit, limit, shape)
