"""The derivative primitive: which products are exact, which are for many, and that none is computed in vain."""

import pytest
import torch
from torch import Tensor

from metarl.inner.differentiable import GraphJacobian, differentiable

INPUTS, OUTPUTS = 4, 3


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Matrix:
    """A Jacobian that counts its products."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.products = matrix, []

    def pushforward(self, direction: Tensor) -> Tensor:
        self.products.append("forward")
        return self.matrix @ direction

    def pullback(self, direction: Tensor) -> Tensor:
        self.products.append("transposed")
        return self.matrix.T @ direction


class Linear:
    """Maps x to A x, and has the matrix K for many products."""

    def __init__(self, exact: Tensor, many: Tensor, x: Tensor) -> None:
        self.exact, self.many, self.x = exact, Matrix(many), x.detach()
        self.products = []

    def value(self) -> Tensor:
        self.products.append("value")
        return self.exact @ self.x

    def pullback(self, direction: Tensor) -> Tensor:
        self.products.append("gradient")
        return self.exact.T @ direction

    def jacobian(self) -> Matrix:
        return self.many


@pytest.fixture
def function() -> Linear:
    exact, many = draw(OUTPUTS, INPUTS, seed=1), draw(OUTPUTS, INPUTS, seed=2)
    return Linear(exact, many, draw(INPUTS, seed=3))


def jacobian_of(function: Linear) -> GraphJacobian:
    """Of y = sin(A x) + (sum of x): other operations stand around the function."""
    x = function.x.clone().requires_grad_()
    return GraphJacobian(x, differentiable(x, function).sin() + x.sum())


def around(function: Linear, matrix: Tensor) -> Tensor:
    """The Jacobian of what `jacobian_of` differentiates, if the function's is ``matrix``."""
    return (function.exact @ function.x).cos()[:, None] * matrix + 1


def test_gradient_is_exact_and_many_products_are_of_the_jacobian_for_many(function):
    jacobian = jacobian_of(function)
    exact, many = around(function, function.exact), around(function, function.many.matrix)
    for seed in (5, 6):
        cotangent, direction = draw(OUTPUTS, seed=seed), draw(INPUTS, seed=seed)
        torch.testing.assert_close(jacobian.gradient(cotangent), exact.T @ cotangent)
        torch.testing.assert_close(jacobian.pushforward(direction), many @ direction)
        torch.testing.assert_close(jacobian.pullback(cotangent), many.T @ cotangent)
    torch.testing.assert_close(jacobian.outputs, (function.exact @ function.x).sin() + function.x.sum())


def test_no_product_is_computed_in_vain(function):
    jacobian = jacobian_of(function)
    jacobian.gradient(draw(OUTPUTS, seed=4))
    for seed in range(3):
        jacobian.pullback(jacobian.pushforward(draw(INPUTS, seed=seed)))
    assert function.products == ["value", "gradient"]
    assert function.many.products == 3 * ["forward", "transposed"]


@pytest.mark.parametrize("product", ["pushforward", "pullback"])
def test_products_may_come_in_any_order(function, product):
    jacobian, many = jacobian_of(function), around(function, function.many.matrix)
    direction = draw(INPUTS if product == "pushforward" else OUTPUTS, seed=4)
    want = many @ direction if product == "pushforward" else many.T @ direction
    for _ in range(2):
        torch.testing.assert_close(getattr(jacobian, product)(direction), want)


def test_directions_are_left_alone(function):
    jacobian, cotangent, direction = jacobian_of(function), draw(OUTPUTS, seed=4), draw(INPUTS, seed=5)
    for product, argument in ((jacobian.gradient, cotangent), (jacobian.pushforward, direction)):
        result = product(argument)
        assert not argument.requires_grad
        assert not result.requires_grad


def test_a_product_with_the_transposed_jacobian_cannot_be_differentiated_any_further(function):
    x, u, v, w = (
        draw(size, seed=seed).requires_grad_() for seed, size in enumerate((INPUTS, OUTPUTS, INPUTS, OUTPUTS))
    )
    transposed = torch.autograd.grad(differentiable(x, function), x, u, create_graph=True)[0]
    forward = torch.autograd.grad(transposed, u, v, create_graph=True)[0]
    product = torch.autograd.grad(forward, v, w, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiate twice"):
        product.sum().backward()
