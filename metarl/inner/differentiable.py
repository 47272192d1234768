"""Functions with hand-written Jacobian products, and their composition in autograd's graph.

A meta-step first takes one exact product with the transposed Jacobian of the inner loop: the meta-gradient. It then
takes many products with that Jacobian and its transpose; they may be approximate, and preparing for them pays. So a
function offers both: `pullback` is the exact single product, `jacobian` serves the many. The order of differentiation
alone decides between them: a first derivative calls `pullback`, all later ones call `jacobian`.
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
    """A function at fixed inputs."""

    def value(self) -> Tensor:
        """The function's value."""

    def pullback(self, direction: Tensor) -> Tensor:
        """The exact transposed Jacobian times ``direction``, which is shaped like the value: one gradient."""

    def jacobian(self) -> Jacobian:
        """The Jacobian for many products; called again for every one of them."""


def differentiable(inputs: Tensor, function: Function) -> Tensor:
    """The value of a function, as a node of autograd's graph.

    Its derivative by ``inputs`` calls the exact `Function.pullback`. That product is linear in its direction; all
    further derivatives, by the direction, call the products of `Function.jacobian`. `GraphJacobian` needs no more.
    Second derivatives by ``inputs`` are not available.

    Args:
        inputs: The inputs at which ``function`` was built.
        function: The function.
    """
    value: Tensor = _Value.apply(inputs, function)
    return value


class GraphJacobian:
    """The Jacobian of a tensor by a leaf, as products that all use one autograd graph.

    Let J be the exact Jacobian, and K the one for many products (every `differentiable` function on the way gives its
    `Function.jacobian`):

        q = J^T u    is linear in u, so its derivative by u along v is  K v: no forward-mode differentiation is needed.
        K v          is linear in v, so its derivative by v along w is  K^T w.

    Because both are linear, their graphs may be built at any u and v. We take u from the first gradient and v from the
    first product with K: their values are needed anyway, so the graphs are free.

    Args:
        inputs: A leaf of autograd's graph, [input].
        outputs: A tensor computed from ``inputs``, of any shape.

    Attributes:
        outputs: The same tensor without its graph.
    """

    def __init__(self, inputs: Tensor, outputs: Tensor) -> None:
        self._inputs, self._outputs, self.outputs = inputs, outputs, outputs.detach()
        self._transposed: tuple[Tensor, Tensor] | None = None
        self._forward: tuple[Tensor, Tensor] | None = None

    def gradient(self, cotangent: Tensor) -> Tensor:
        """J^T times ``cotangent`` [input], exact: the gradient of a loss with gradient ``cotangent`` by the outputs."""
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
        """A pair (u, J^T u) with its graph; built at u = 0 if no gradient was taken yet."""
        return self._transposed or self._trace_transposed(torch.zeros_like(self._outputs))

    @torch.enable_grad()
    def _trace_transposed(self, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Builds the graph of J^T u at u = ``cotangent``; returns (u, J^T u) and keeps the first such pair."""
        u = cotangent.detach().requires_grad_()
        traced = u, torch.autograd.grad(self._outputs, self._inputs, u, create_graph=True)[0]
        self._transposed = self._transposed or traced
        return traced

    @torch.enable_grad()
    def _trace_forward(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Builds the graph of K v at v = ``direction``; returns and keeps (v, K v)."""
        u, q = self._probe()
        v = direction.detach().requires_grad_()
        self._forward = v, torch.autograd.grad(q, u, v, create_graph=True)[0]
        return self._forward


# Without `setup_context`: with it, every call would inspect the signature of `forward`, which takes longer than a small
# network's gradient.
class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, function: Function) -> Tensor:
        # Do not store the output: the graph would then refer to itself and never be freed.
        ctx.function = function
        return function.value()

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None]:
        return _Gradient.apply(direction, ctx.function), None


class _Gradient(torch.autograd.Function):
    """The exact pullback of a function; its derivative by the direction is a product with `Function.jacobian`."""

    @staticmethod
    def forward(ctx: Any, direction: Tensor, function: Function) -> Tensor:
        ctx.function = function
        return function.pullback(direction)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None]:
        return _Product.apply(direction, ctx.function.jacobian()), None


class _Product(torch.autograd.Function):
    """A Jacobian times a direction."""

    @staticmethod
    def forward(ctx: Any, direction: Tensor, jacobian: Jacobian) -> Tensor:
        ctx.jacobian = jacobian
        return jacobian.pushforward(direction)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None]:
        return ctx.jacobian.pullback(direction), None
