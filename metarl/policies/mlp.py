"""The built-in network: a multilayer perceptron with explicit derivatives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metarl.data import Samples
from metarl.policies.base import Curvature, DifferentiablePolicy, Linearised
from metarl.policies.distributions import DifferentiableDistribution
from metarl.policies.losses import InnerLoss, OutputDerivatives

# Rows per block on the CPU, so that the activations of a task stay in the core's cache. The size must not depend on the
# number of tasks: otherwise the last bits of the results would.
_CPU_BLOCK_ROWS = 2000
# If one factor is narrower than this, BLAS computes the transposed product up to six times faster.
_NARROW = 32


class _ReLU:
    """max(x, 0). The derivative is a function of the value h: 1 if h > 0, else 0."""

    has_curvature = False

    @staticmethod
    def apply(x: Tensor) -> Tensor:
        return x.relu_()

    @staticmethod
    def backward_(gradient: Tensor, value: Tensor) -> Tensor:
        """Multiplies ``gradient`` by the derivative where the activation's value is ``value``, in place."""
        return torch.ops.aten.threshold_backward.grad_input(gradient, value, 0, grad_input=gradient)


class _Tanh:
    """Hyperbolic tangent. The derivative is a function of the value h: 1 - h^2."""

    has_curvature = True

    @staticmethod
    def apply(x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.requires_grad:
            return x.tanh_()
        # On a CPU, PyTorch's tanh takes seven times as long as NumPy's, a third of a forward pass.
        values = x.numpy()
        np.tanh(values, out=values)
        return x

    @staticmethod
    def backward_(gradient: Tensor, value: Tensor) -> Tensor:
        """Multiplies ``gradient`` by the derivative where the activation's value is ``value``, in place."""
        return torch.ops.aten.tanh_backward.grad_input(gradient, value, grad_input=gradient)


_ACTIVATIONS: dict[str, type[_ReLU] | type[_Tanh]] = {"relu": _ReLU, "tanh": _Tanh}
Weights = list[tuple[Tensor, Tensor]]


class MLPPolicy(DifferentiablePolicy):
    """A multilayer perceptron; its derivatives are batched matrix products over blocks of rows.

    Args:
        observation_size: Length of an observation.
        distribution: The action distribution.
        hidden_sizes: Width of each hidden layer.
        activation: ``relu`` or ``tanh``.
        initial_std: Gaussian only: initial standard deviation.
        min_std: Gaussian only: floor of the standard deviation.
        output_gain: Factor on the last layer's initial weights.
    """

    def __init__(
        self,
        observation_size: int,
        distribution: DifferentiableDistribution,
        hidden_sizes: Sequence[int] = (100, 100),
        activation: Literal["relu", "tanh"] = "relu",
        initial_std: float = 1.0,
        min_std: float = 1e-6,
        output_gain: float = 1.0,
    ) -> None:
        sizes = [observation_size, *hidden_sizes, distribution.num_outputs]
        body: list[tuple[str, tuple[int, ...]]] = []
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), start=1):
            body += [(f"weight{index}", (fan_out, fan_in)), (f"bias{index}", (fan_out,))]
        super().__init__(observation_size, distribution, body, initial_std, min_std)
        self._num_layers = len(sizes) - 1
        self._activation = _ACTIVATIONS[activation]
        self._output_gain = output_gain

    def activations(self, parameters: Tensor, observations: Tensor) -> dict[str, Tensor]:
        _, *hidden, output = self._forward(self._weights(parameters[None]), observations[None])
        return {f"hidden{k}": values[0] for k, values in enumerate(hidden, start=1)} | {"output": output[0]}

    @property
    def head(self) -> list[str]:
        return self.layout.names[2 * self._num_layers - 2 :]

    def initial_body(self, generator: np.random.Generator) -> Tensor:
        """Glorot-uniform weights and zero biases, as in the original release (Glorot & Bengio 2010)."""
        parts = []
        for index, shape in enumerate(self.layout.shapes[: 2 * self._num_layers]):
            if len(shape) == 2:
                limit = math.sqrt(6 / sum(shape))
                if index == 2 * self._num_layers - 2:
                    limit *= self._output_gain
                parts.append(generator.uniform(-limit, limit, shape).ravel())
            else:
                parts.append(np.zeros(shape))
        return torch.from_numpy(np.concatenate(parts).astype(np.float32))

    def outputs(self, parameters: Tensor, observations: Tensor) -> Tensor:
        weights = self._weights(parameters)
        size = _block_rows(parameters)
        blocks = [self._forward(weights, block)[-1] for block in observations.split(size, dim=1)]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)

    def network(self, parameters: Tensor) -> Callable[[Tensor], Tensor]:
        weights = self._weights(parameters)
        return lambda observations: self._forward(weights, observations)[-1]

    def inner_gradient(
        self, parameters: Tensor, samples: Samples, loss: InnerLoss, adapted: Collection[str] | None = None
    ) -> Tensor:
        weights, extra, lowest = self._weights(parameters), self.extra(parameters), self._lowest(adapted)
        result = torch.zeros_like(parameters, memory_format=torch.contiguous_format)
        into = self._weights(result)
        for block in _blocks(samples, parameters, whole_episodes=loss == "dice"):
            values = self._forward(weights, block.observations)
            derivatives = OutputDerivatives(self.distribution, values[-1], extra, block, loss)
            self._raw_extra(result).add_(derivatives.extra_gradient)
            self._backward(weights, values, derivatives.gradient, into, lowest)
        self._raw_extra(result).mul_(self._extra_slope(parameters))
        return self._only(adapted, result.device)(result)

    def inner_curvature(
        self, parameters: Tensor, samples: Samples, loss: InnerLoss, adapted: Collection[str] | None = None
    ) -> Curvature:
        return _MLPCurvature(self, parameters, samples, loss, adapted)

    def linearise(self, parameters: Tensor, samples: Samples) -> Linearised:
        return _MLPLinearised(self, parameters, samples)

    def _weights(self, flat: Tensor) -> Weights:
        views = self.layout.views(flat)
        return list(zip(views[0 : 2 * self._num_layers : 2], views[1 : 2 * self._num_layers : 2], strict=True))

    def _lowest(self, tensors: Collection[str] | None) -> int:
        """Index of the first layer that has one of these tensors (None: all); the number of layers if none has."""
        layers = [i // 2 for i in range(2 * self._num_layers) if tensors is None or self.layout.names[i] in tensors]
        return min(layers, default=self._num_layers)

    def _forward(self, weights: Weights, observations: Tensor) -> list[Tensor]:
        """Returns the input of every layer, then the output."""
        values = [observations]
        for index, (weight, bias) in enumerate(weights):
            value = _affine(bias, values[-1], weight)
            values.append(self._activation.apply(value) if index < self._num_layers - 1 else value)
        return values

    def _backward(self, weights: Weights, values: list[Tensor], delta: Tensor, into: Weights, lowest: int = 0) -> None:
        """Adds J^T ``delta`` [task, row, output] to ``into`` for the layers from ``lowest`` on; J is the Jacobian."""
        for index in reversed(range(lowest, self._num_layers)):
            _add_outer(into[index], delta, values[index])
            if index > lowest:
                delta = self._activation.backward_(torch.bmm(delta, weights[index][0]), values[index])

    def _tangent(
        self, weights: Weights, values: list[Tensor], direction: Weights, lowest: int = 0
    ) -> dict[int, Tensor]:
        """Changes of the layers' inputs h_i and of the output along ``direction``, by the layer's index.

        For a direction (V_i, v_i) of weights and biases, dh_{i+1} = s(h_{i+1}) * (V_i h_i + W_i dh_i + v_i), where s(h)
        is the activation's derivative at the value h, and 1 for the output. Layers before ``lowest`` do not change.
        """
        tangents = {} if lowest < self._num_layers else {lowest: torch.zeros_like(values[-1])}
        for index in range(lowest, self._num_layers):
            (weight, _), (d_weight, d_bias) = weights[index], direction[index]
            tangent = _linear(values[index], d_weight)
            if index in tangents:
                _add_linear(tangent, tangents[index], weight)
            tangent += d_bias[:, None]
            if index < self._num_layers - 1:
                tangent = self._activation.backward_(tangent, values[index + 1])
            tangents[index + 1] = tangent
        return tangents


def _block_rows(parameters: Tensor) -> int:
    # A GPU is fastest with few, large kernels.
    return _CPU_BLOCK_ROWS if parameters.device.type == "cpu" else 1 << 40


def _blocks(samples: Samples, parameters: Tensor, whole_episodes: bool = False) -> Iterator[Samples]:
    size = min(_block_rows(parameters), samples.num_rows)
    if whole_episodes and samples.episode_length:
        size = max(size // samples.episode_length, 1) * samples.episode_length
    for start in range(0, samples.num_rows, size):
        yield samples.block(start, min(start + size, samples.num_rows))


def _affine(bias: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """Returns values weight^T + bias, [task, row, output]."""
    if weight.shape[1] == 1:
        # With one output and one task, `baddbmm` would use a matrix-vector kernel, which gives other last bits.
        return bias[:, None] + (values * weight).sum(-1, keepdim=True)
    return torch.baddbmm(bias[:, None], values, weight.mT)


def _linear(values: Tensor, weight: Tensor) -> Tensor:
    """Returns values weight^T, [task, row, output]."""
    if weight.shape[1] < _NARROW:
        return torch.bmm(weight, values.mT).mT
    return torch.bmm(values, weight.mT)


def _add_linear(total: Tensor, values: Tensor, weight: Tensor) -> None:
    """Adds values weight^T to ``total`` [task, row, output]."""
    if weight.shape[1] < _NARROW:
        total.mT.baddbmm_(weight, values.mT)
    else:
        total.baddbmm_(values, weight.mT)


def _add_outer(into: tuple[Tensor, Tensor], delta: Tensor, values: Tensor) -> None:
    """Adds a layer's gradient to ``into``, its (weight, bias): delta^T values, and the sum of delta over rows.

    ``delta`` is the layer's backward signal [task, row, output], ``values`` its input [task, row, input].
    """
    weight, bias = into
    if values.shape[-1] < _NARROW:
        weight += torch.bmm(values.mT, delta).mT
    else:
        weight.baddbmm_(delta.mT, values)
    bias += delta.sum(1)


class _MLPCurvature:
    """Forward-over-reverse products with the Hessian of the inner loss; keeps all activations."""

    def __init__(
        self,
        policy: MLPPolicy,
        parameters: Tensor,
        samples: Samples,
        loss: InnerLoss,
        adapted: Collection[str] | None,
    ) -> None:
        self._policy, self._lowest = policy, policy._lowest(adapted)
        # Built only once, because on a GPU every product would wait for it.
        self._only_adapted = policy._only(adapted, parameters.device)
        self._weights = policy._weights(parameters)
        self._extra_slope = policy._extra_slope(parameters)
        extra = policy.extra(parameters)
        self._blocks = []
        for block in _blocks(samples, parameters, whole_episodes=loss == "dice"):
            values = policy._forward(self._weights, block.observations)
            derivatives = OutputDerivatives(policy.distribution, values[-1], extra, block, loss)
            self._blocks.append((values, derivatives, *self._deltas(values, derivatives.gradient)))

    def _deltas(self, values: list[Tensor], delta: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Returns two dictionaries by layer index: backward signals, and second-derivative factors of the activation.

        For tanh, h = tanh(a) has the derivative s(h) = 1 - h^2, so ds = -2 h dh. Backpropagation multiplies the
        incoming gradient e by s(h). Along dh the result changes by e ds = -2 e h dh: the factor on dh is -2 e h.
        """
        policy, last = self._policy, self._policy._num_layers - 1
        deltas, bends = {last: delta}, {}
        for index in range(last, self._lowest, -1):
            incoming = torch.bmm(deltas[index], self._weights[index][0])
            if policy._activation.has_curvature:
                bends[index] = -2 * incoming * values[index]
            deltas[index - 1] = policy._activation.backward_(incoming, values[index])
        return deltas, bends

    def pushforward(self, direction: Tensor) -> Tensor:
        return self._only_adapted(self._product(direction, 0, self._lowest))

    def pullback(self, direction: Tensor) -> Tensor:
        return self._product(self._only_adapted(direction), self._lowest, 0)

    def _product(self, direction: Tensor, moved: int, wanted: int) -> Tensor:
        """Hessian times ``direction``, which is 0 before layer ``moved``; computes only rows from layer ``wanted`` on.

        Backpropagation gives layer i, with input h_i, the gradient delta_i h_i^T, where delta_{i-1} = s(h_i) *
        (W_i^T delta_i) and s(h) is the activation's derivative. The product rule along a direction V gives
            d(delta_i h_i^T) = d_delta_i h_i^T + delta_i dh_i^T
            d_delta_{i-1} = s(h_i) * (W_i^T d_delta_i + V_i^T delta_i) + s'(h_i) * (W_i^T delta_i) * dh_i
        with dh_i from the forward pass (`_tangent`), d_delta of the last layer from the Hessian of the loss with
        respect to the outputs, and s'(h_i) * (W_i^T delta_i) from `_deltas` (``bends``).
        """
        policy, weights = self._policy, self._weights
        direction = direction.expand(self._extra_slope.shape[0], -1)
        along, d_extra = policy._weights(direction), policy._raw_extra(direction) * self._extra_slope
        result = torch.zeros_like(direction, memory_format=torch.contiguous_format)
        into = policy._weights(result)
        for values, derivatives, deltas, bends in self._blocks:
            tangents = policy._tangent(weights, values, along, moved)
            d_delta, by_extra = derivatives.tangent(tangents[policy._num_layers], d_extra)
            policy._raw_extra(result).add_(by_extra)
            for index in reversed(range(wanted, policy._num_layers)):
                _add_outer(into[index], d_delta, values[index])
                if index in tangents:
                    into[index][0].baddbmm_(deltas[index].mT, tangents[index])
                if index > wanted:
                    incoming = torch.bmm(d_delta, weights[index][0])
                    if index >= moved:
                        incoming.baddbmm_(deltas[index], along[index][0])
                    d_delta = policy._activation.backward_(incoming, values[index])
                    if index in tangents and index in bends:
                        d_delta.addcmul_(bends[index], tangents[index])
        policy._raw_extra(result).mul_(self._extra_slope)
        return result


class _MLPLinearised:
    """Outputs of all blocks; keeps the activations for products with the Jacobian."""

    def __init__(self, policy: MLPPolicy, parameters: Tensor, samples: Samples) -> None:
        self._policy = policy
        self._weights = policy._weights(parameters)
        self._extra_slope = policy._extra_slope(parameters)
        self._blocks = [
            (policy._forward(self._weights, block.observations), block.weights[..., None])
            for block in _blocks(samples, parameters)
        ]
        self.outputs = torch.cat([values[-1] for values, _ in self._blocks], dim=1)
        self.extra = policy.extra(parameters)
        self._shape = parameters.shape

    def pullback(self, d_outputs: Tensor, d_extra: Tensor) -> Tensor:
        policy = self._policy
        result, into = self._empty(d_outputs)
        deltas = d_outputs.split([values[0].shape[1] for values, _ in self._blocks], dim=1)
        for (values, _), delta in zip(self._blocks, deltas, strict=True):
            policy._backward(self._weights, values, delta, into)
        policy._raw_extra(result).add_(d_extra * self._extra_slope)
        return result

    def fisher_product(self, direction: Tensor) -> Tensor:
        policy = self._policy
        along, d_extra = policy._weights(direction), policy._raw_extra(direction) * self._extra_slope
        result, into = self._empty(direction)
        # J^T F J v with F the distribution's Fisher information: forward pass for J v, F row by row, backward pass.
        for values, row_weights in self._blocks:
            tangent = policy._tangent(self._weights, values, along)[policy._num_layers]
            by_outputs, by_extra = policy.distribution.fisher(values[-1], self.extra, tangent, d_extra)
            policy._backward(self._weights, values, by_outputs.mul_(row_weights), into)
            policy._raw_extra(result).add_((by_extra * row_weights).sum(1) * self._extra_slope)
        return result

    def _empty(self, like: Tensor) -> tuple[Tensor, Weights]:
        result = like.new_zeros(self._shape)
        return result, self._policy._weights(result)
