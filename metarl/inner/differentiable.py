"""The derivative primitive: functions whose Jacobian products are written out, and chains of them in autograd's graph.

A meta-step needs one exact product with the transposed Jacobian of the inner loop, its gradient, and then many products
with that Jacobian and its transpose, which may be approximate or prepared for being many. A function tells the two
apart: its `pullback` is exact, its `jacobian` is for many products. Which of them a product uses depends on nothing but
how often autograd has differentiated.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Jacobian(Protocol):
    """A Jacobian, or an approximation of it, ready for many products."""

    def pushforward(self, direction: Tensor) -> Tensor:
        """The Jacobian times ``direction``, which is shaped like the inputs."""

    def pullback(self, direction: Tensor) -> Tensor:
        """The transposed Jacobian times ``direction``, which is shaped like the value."""


class Function(Protocol):
    """A function at some inputs."""

    def value(self) -> Tensor:
        """The function's value."""

    def pullback(self, direction: Tensor) -> Tensor:
        """The exact transposed Jacobian times ``direction``, which is shaped like the value: one gradient."""

    def jacobian(self) -> Jacobian:
        """The Jacobian for many products; asked for at each of them."""


def differentiable(inputs: Tensor, function: Function) -> Tensor:
    """A function's value, as a node of autograd's graph.

    Differentiating it takes the exact `Function.pullback`. That product is linear in its direction; differentiating it
    by the direction takes the products of `Function.jacobian`, any number of times. This is all that `GraphJacobian`
    needs; derivatives of second order by ``inputs`` are not available.

    Args:
        inputs: The inputs that ``function`` was made for.
        function: The function.
    """
    value: Tensor = _Value.apply(inputs, function)
    return value


class GraphJacobian:
    """Jacobian of tensors that autograd has computed, from one graph.

    With J the exact Jacobian and K the one for many products (of all `differentiable` functions along the way):

        q = J^T u    is linear in u, so its derivative by u along v is  K v: no forward-mode differentiation is needed.
        K v          is linear in v, so its derivative by v along w is  K^T w.

    As both are linear, the graphs of q and of K v may be built at any u and v. They are built at the first gradient's
    and the first product's, whose values are needed anyway: no product is computed in vain.

    Args:
        inputs: A leaf of autograd's graph, [input].
        outputs: What was computed from it, of any shape.

    Attributes:
        outputs: Their values.
    """

    def __init__(self, inputs: Tensor, outputs: Tensor) -> None:
        self._inputs, self._outputs, self.outputs = inputs, outputs, outputs.detach()
        self._transposed: tuple[Tensor, Tensor] | None = None
        self._forward: tuple[Tensor, Tensor] | None = None

    def gradient(self, cotangent: Tensor) -> Tensor:
        """J^T times ``cotangent``, exact: the gradient [input] of what has this gradient by the outputs."""
        return self._trace_transposed(cotangent)[1].detach()

    def pushforward(self, direction: Tensor) -> Tensor:
        """K times ``direction`` [input], shaped like the outputs."""
        if self._forward is None:
            return self._trace_forward(direction)[1].detach()
        u, q = self._probe()
        return torch.autograd.grad(q, u, direction, retain_graph=True)[0]

    def pullback(self, direction: Tensor) -> Tensor:
        """K^T times ``direction``, which is shaped like the outputs: [input]."""
        v, product = self._forward or self._trace_forward(torch.zeros_like(self._inputs))
        return torch.autograd.grad(product, v, direction, retain_graph=True)[0]

    def _probe(self) -> tuple[Tensor, Tensor]:
        """Some u and J^T u."""
        return self._transposed or self._trace_transposed(torch.zeros_like(self._outputs))

    @torch.enable_grad()
    def _trace_transposed(self, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """(u, J^T u) at u = ``cotangent``; the first is kept."""
        u = cotangent.detach().requires_grad_()
        traced = u, torch.autograd.grad(self._outputs, self._inputs, u, create_graph=True)[0]
        self._transposed = self._transposed or traced
        return traced

    @torch.enable_grad()
    def _trace_forward(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """(v, K v) at v = ``direction``, which are kept."""
        u, q = self._probe()
        v = direction.detach().requires_grad_()
        self._forward = v, torch.autograd.grad(q, u, v, create_graph=True)[0]
        return self._forward


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(inputs: Tensor, function: Function) -> Tensor:
        return function.value()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Function], output: Tensor) -> None:
        # Never the output itself: the graph would hold itself alive.
        ctx.function = inputs[1]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None]:
        return _Gradient.apply(direction, ctx.function), None


class _Gradient(torch.autograd.Function):
    """A function's exact pullback, whose derivative by the direction is the Jacobian for many products."""

    @staticmethod
    def forward(direction: Tensor, function: Function) -> Tensor:
        return function.pullback(direction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Function], output: Tensor) -> None:
        ctx.function = inputs[1]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None]:
        return _Product.apply(direction, ctx.function.jacobian()), None


class _Product(torch.autograd.Function):
    """A Jacobian times a direction."""

    @staticmethod
    def forward(direction: Tensor, jacobian: Jacobian) -> Tensor:
        return jacobian.pushforward(direction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Jacobian], output: Tensor) -> None:
        ctx.jacobian = inputs[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None]:
        return ctx.jacobian.pullback(direction), None
