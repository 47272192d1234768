"""Conjugate gradients and the trust-region step on problems whose solution is known."""

import math

import pytest
import torch
from torch import Tensor

from metarl import TRPOConfig
from metarl.outer.trpo import conjugate_gradients, trpo_step

SIZE = 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def positive_definite(seed: int = 0) -> Tensor:
    root = draw(SIZE, SIZE, seed=seed)
    return root @ root.mT + torch.eye(SIZE, dtype=torch.float64)


class Quadratic:
    """Loss and divergence, quadratic around ``centre``; the divergence may exceed what the Fisher matrix says."""

    def __init__(self, kl_factor: float = 1.0) -> None:
        self.centre, self.slope, self.fisher = draw(SIZE, seed=1), draw(SIZE, seed=2), positive_definite()
        self.kl_factor, self.calls = kl_factor, 0

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        return 0.0, self.slope

    def fisher_product(self, direction: Tensor) -> Tensor:
        return self.fisher @ direction

    def evaluate(self, parameters: Tensor) -> tuple[float, float]:
        self.calls += 1
        moved = parameters - self.centre
        loss = self.slope @ moved + 0.01 * moved @ moved
        return float(loss), float(0.5 * self.kl_factor * moved @ self.fisher @ moved)


class Uphill(Quadratic):
    def evaluate(self, parameters):
        return float((parameters - self.centre).norm()), 0.0


class Undefined(Quadratic):
    def evaluate(self, parameters):
        loss, kl = super().evaluate(parameters)
        return (loss, kl) if torch.equal(parameters, self.centre) else (math.nan, kl)


class NotANumber(Quadratic):
    def loss_and_gradient(self):
        return 0.0, torch.full((SIZE,), math.nan, dtype=torch.float64)


class Concave(Quadratic):
    def fisher_product(self, direction):
        return -direction


def test_conjugate_gradients_solve_a_positive_definite_system_in_as_many_iterations_as_unknowns():
    matrix, target = positive_definite(), draw(SIZE, seed=3)
    x, product = conjugate_gradients(matrix.matmul, target, SIZE)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, target), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(product, matrix @ x, rtol=1e-10, atol=1e-12)
    early, _ = conjugate_gradients(matrix.matmul, target, SIZE // 2)
    assert not torch.allclose(early, x, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conjugate_gradients_stay_where_they_converged(dtype):
    diagonal = torch.tensor([1.0, 2.0, 4.0], dtype=dtype)
    target = torch.tensor([1.0, -2.0, 3.0], dtype=dtype)
    x, product = conjugate_gradients(diagonal.mul, target, 200)
    torch.testing.assert_close(x, target / diagonal)
    torch.testing.assert_close(product, target)


def test_conjugate_gradients_of_a_zero_target_are_zero():
    x, product = conjugate_gradients(positive_definite().matmul, torch.zeros(SIZE).double(), 5)
    assert not x.any()
    assert not product.any()


def test_step_is_the_natural_gradient_as_long_as_the_trust_region():
    objective, config = Quadratic(), TRPOConfig()
    parameters, report = trpo_step(objective.centre, objective, config)
    damped = objective.fisher + config.cg_damping * torch.eye(SIZE, dtype=torch.float64)
    natural = torch.linalg.solve(damped, objective.slope)
    expected = -natural * torch.sqrt(2 * config.max_kl / (objective.slope @ natural))
    torch.testing.assert_close(parameters - objective.centre, expected, rtol=1e-7, atol=1e-9)
    assert (report.outcome, report.numbers["line_search_trials"]) == ("accepted after 1", 1)
    loss, kl = objective.evaluate(parameters)
    assert report.numbers["kl"] == kl == pytest.approx(config.max_kl, rel=1e-3)
    assert kl <= config.max_kl
    assert report.numbers["surrogate_gain"] == -loss > 0
    assert report.numbers["meta_gradient_norm"] == pytest.approx(float(objective.slope.norm()))


def test_line_search_shortens_the_step_until_the_divergence_fits():
    # Four times the predicted divergence: 0.8^k <= 1/2 holds from k = 4 on, the fifth trial.
    objective, config = Quadratic(kl_factor=4.0), TRPOConfig(backtrack_ratio=0.8)
    parameters, report = trpo_step(objective.centre, objective, config)
    assert (report.outcome, report.numbers["line_search_trials"]) == ("accepted after 5", 5)
    assert objective.calls == 5
    assert report.numbers["kl"] == pytest.approx(4 * 0.8**8 * config.max_kl, rel=1e-3)
    full, _ = trpo_step(objective.centre, Quadratic(), config)
    torch.testing.assert_close(parameters - objective.centre, 0.8**4 * (full - objective.centre))


@pytest.mark.parametrize("objective", [Uphill(), Undefined(), Quadratic(kl_factor=1e9)])
def test_step_without_a_trial_that_passes_is_rejected(objective):
    parameters, report = trpo_step(objective.centre, objective, TRPOConfig(max_backtracks=7))
    assert (report.outcome, report.numbers["line_search_trials"]) == ("rejected", 7)
    assert (report.numbers["surrogate_gain"], report.numbers["kl"]) == (0.0, 0.0)
    assert torch.equal(parameters, Quadratic().centre)


@pytest.mark.parametrize("objective", [NotANumber(), Concave()])
def test_step_without_a_finite_direction_is_not_taken(objective):
    parameters, report = trpo_step(objective.centre, objective, TRPOConfig())
    assert (report.outcome, report.numbers["line_search_trials"]) == ("non-finite", 0)
    assert objective.calls == 0
    assert torch.equal(parameters, Quadratic().centre)


def test_step_leaves_its_inputs_alone():
    objective = Quadratic()
    before = objective.centre.clone()
    trpo_step(objective.centre, objective, TRPOConfig())
    assert torch.equal(objective.centre, before)
