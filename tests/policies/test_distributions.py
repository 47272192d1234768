"""Action distributions against torch.distributions and automatic differentiation."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from metarl.policies.distributions import (
    Categorical,
    Categoricals,
    DifferentiableDistribution,
    Gaussian,
    SquashedGaussian,
    normal_kl,
)

TASKS, ROWS, ACTIONS = 2, 6, 3
SIZES = (3, 1, 2, 4)
KINDS = ["gaussian", "categorical", "categoricals"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(kind: str) -> DifferentiableDistribution:
    return {"gaussian": Gaussian(ACTIONS), "categorical": Categorical(ACTIONS), "categoricals": Categoricals(SIZES)}[
        kind
    ]


def parameters(distribution: DifferentiableDistribution, seed: int = 0) -> tuple[Tensor, Tensor]:
    return draw(TASKS, ROWS, distribution.num_outputs, seed=seed), 0.5 * draw(
        TASKS, distribution.num_extra, seed=seed + 1
    )


def some_actions(kind: str) -> Tensor:
    if kind == "gaussian":
        return draw(TASKS, ROWS, ACTIONS, seed=7)
    numbers = torch.arange(TASKS * ROWS).view(TASKS, ROWS)
    if kind == "categorical":
        return numbers % ACTIONS
    return torch.stack([(numbers + place) % size for place, size in enumerate(SIZES)], dim=-1)


def references(kind: str, outputs: Tensor, extra: Tensor) -> list[torch.distributions.Distribution]:
    """PyTorch's distribution, or that of each component."""
    if kind == "gaussian":
        return [torch.distributions.Independent(torch.distributions.Normal(outputs, extra.exp()[:, None]), 1)]
    sizes = [ACTIONS] if kind == "categorical" else SIZES
    return [torch.distributions.Categorical(logits=logits) for logits in outputs.split(sizes, dim=-1)]


def hessian_product(value, outputs: Tensor, extra: Tensor, d_outputs: Tensor, d_extra: Tensor) -> list[Tensor]:
    """Hessian of each row of ``value(outputs, extra)`` times a direction; each row has extra parameters of its own."""
    leaves = [rows.clone().requires_grad_() for rows in (outputs.flatten(0, 1)[:, None], per_row(extra))]
    direction = (d_outputs.flatten(0, 1)[:, None], per_row(d_extra))
    slopes = torch.autograd.grad(value(*leaves).sum(), leaves, create_graph=True, materialize_grads=True)
    along = sum((slope * part).sum() for slope, part in zip(slopes, direction, strict=True))
    products = torch.autograd.grad(along, leaves, materialize_grads=True)
    return [product.reshape(TASKS, ROWS, -1) for product in products]


def per_row(extra: Tensor) -> Tensor:
    return extra.repeat_interleave(ROWS, dim=0)


@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_equals_torch_distributions(kind):
    outputs, extra = parameters(make(kind))
    actions = some_actions(kind)
    components = actions.unbind(-1) if kind == "categoricals" else [actions]
    parts = zip(references(kind, outputs, extra), components, strict=True)
    expected = sum(part.log_prob(chosen) for part, chosen in parts)
    torch.testing.assert_close(make(kind).log_prob(outputs, extra, actions), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_score_is_the_gradient_of_log_prob(kind):
    distribution, actions = make(kind), some_actions(kind)
    outputs, extra = parameters(distribution)
    leaves = [rows.clone().requires_grad_() for rows in (outputs.flatten(0, 1)[:, None], per_row(extra))]
    total = distribution.log_prob(*leaves, actions.flatten(0, 1)[:, None]).sum()
    expected = torch.autograd.grad(total, leaves, materialize_grads=True)
    for got, gradient in zip(distribution.score(outputs, extra, actions), expected, strict=True):
        torch.testing.assert_close(got, gradient.reshape(TASKS, ROWS, -1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_score_tangent_is_the_hessian_of_log_prob_times_a_direction(kind):
    distribution, actions = make(kind), some_actions(kind)
    point, direction = parameters(distribution), parameters(distribution, seed=20)
    rows = actions.flatten(0, 1)[:, None]
    expected = hessian_product(lambda o, e: distribution.log_prob(o, e, rows), *point, *direction)
    for got, product in zip(distribution.score_tangent(*point, actions, *direction), expected, strict=True):
        torch.testing.assert_close(got, product, rtol=1e-12, atol=1e-13)


def test_gaussian_fisher_is_minus_the_expected_hessian():
    distribution = Gaussian(ACTIONS)
    (mean, log_std), direction = parameters(distribution), parameters(distribution, seed=20)
    # The Hessian is quadratic in each action, so three Gauss-Hermite nodes integrate it exactly.
    expected = [torch.zeros_like(mean), torch.zeros_like(mean)]
    for node, weight in ((-math.sqrt(3), 1 / 6), (0.0, 2 / 3), (math.sqrt(3), 1 / 6)):
        actions = mean + node * log_std.exp()[:, None]
        for total, product in zip(
            expected, distribution.score_tangent(mean, log_std, actions, *direction), strict=True
        ):
            total -= weight * product
    for got, want in zip(distribution.fisher(mean, log_std, *direction), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_categorical_fisher_is_the_expected_outer_product_of_scores():
    distribution = Categorical(ACTIONS)
    (logits, nothing), (direction, _) = parameters(distribution), parameters(distribution, seed=20)
    p = logits.softmax(-1)
    expected = torch.zeros_like(logits)
    for action in range(ACTIONS):
        score, _ = distribution.score(logits, nothing, torch.full((TASKS, ROWS), action))
        expected += p[..., action, None] * score * (score * direction).sum(-1, keepdim=True)
    got, by_extra = distribution.fisher(logits, nothing, direction, nothing)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    assert by_extra.shape == (TASKS, ROWS, 0)
    dense = torch.diag(p[0, 0]) - torch.outer(p[0, 0], p[0, 0])
    torch.testing.assert_close(got[0, 0], dense @ direction[0, 0], rtol=1e-12, atol=1e-14)


def test_fisher_of_several_choices_is_the_expected_outer_product_of_scores_in_blocks():
    distribution = Categoricals(SIZES)
    (logits, nothing), (direction, _) = parameters(distribution), parameters(distribution, seed=20)
    expected = torch.zeros_like(logits)
    for joint in itertools.product(*map(range, SIZES)):
        actions = torch.tensor(joint).expand(TASKS, ROWS, len(SIZES))
        p = distribution.log_prob(logits, nothing, actions).exp()[..., None]
        score, _ = distribution.score(logits, nothing, actions)
        expected += p * score * (score * direction).sum(-1, keepdim=True)
    got, by_extra = distribution.fisher(logits, nothing, direction, nothing)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    assert by_extra.shape == (TASKS, ROWS, 0)
    only_first = torch.zeros_like(direction)
    only_first[..., : SIZES[0]] = direction[..., : SIZES[0]]
    block, _ = distribution.fisher(logits, nothing, only_first, nothing)
    assert torch.equal(block[..., SIZES[0] :], torch.zeros_like(block[..., SIZES[0] :]))
    torch.testing.assert_close(block[..., : SIZES[0]], got[..., : SIZES[0]])


def test_one_choice_of_several_is_the_categorical():
    one, single = Categoricals([ACTIONS]), Categorical(ACTIONS)
    point, other, chosen = parameters(single), parameters(single, seed=10), some_actions("categorical")
    assert torch.equal(one.log_prob(*point, chosen[..., None]), single.log_prob(*point, chosen))
    assert torch.equal(one.score(*point, chosen[..., None])[0], single.score(*point, chosen)[0])
    assert torch.equal(one.fisher(*point, *other)[0], single.fisher(*point, *other)[0])
    assert torch.equal(one.kl(*point, *other), single.kl(*point, *other))
    noise = torch.from_numpy(one.noise(np.random.default_rng(0), (TASKS, ROWS)))
    assert torch.equal(one.sample(*point, noise)[..., 0], single.sample(*point, noise))


@pytest.mark.parametrize(
    ("kind", "actions", "expected"),
    [
        ("gaussian", [0.5, -1.0, 2.0], [0.5, -1.0, 2.0]),
        ("categorical", 2, [0, 0, 1]),
        ("categoricals", [1, 0, 0, 3], [0, 1, 0, 1, 1, 0, 0, 0, 0, 1]),
    ],
)
def test_features_are_the_action_or_its_choices_one_hot(kind, actions, expected):
    assert make(kind).features(torch.tensor([[actions]])).tolist() == [[expected]]


@pytest.mark.parametrize("kind", KINDS)
def test_fisher_is_the_hessian_of_the_divergence_at_its_minimum(kind):
    distribution = make(kind)
    point, direction = parameters(distribution), parameters(distribution, seed=20)
    old = (point[0].flatten(0, 1)[:, None], per_row(point[1]))
    expected = hessian_product(lambda o, e: distribution.kl(*old, o, e), *point, *direction)
    for got, product in zip(distribution.fisher(*point, *direction), expected, strict=True):
        torch.testing.assert_close(got, product, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_equals_torch_distributions_and_is_asymmetric(kind):
    distribution = make(kind)
    old, new = parameters(distribution), parameters(distribution, seed=10)
    parts = zip(references(kind, *old), references(kind, *new), strict=True)
    expected = sum(torch.distributions.kl_divergence(*pair) for pair in parts)
    torch.testing.assert_close(distribution.kl(*old, *new), expected, rtol=1e-12, atol=1e-13)
    assert not torch.allclose(distribution.kl(*new, *old), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_from_itself_is_exactly_zero(kind):
    point = parameters(make(kind))
    assert torch.equal(make(kind).kl(*point, *point), torch.zeros(TASKS, ROWS, dtype=torch.float64))


def test_gaussian_samples_have_the_mean_and_the_deviation():
    num = 100_000
    mean, log_std = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[0.5, -1.0]])
    noise = torch.from_numpy(Gaussian(2).noise(np.random.default_rng(0), (1, num)))
    actions = Gaussian(2).sample(mean.expand(1, num, 2), log_std, noise)[0].double()
    std = log_std[0].double().exp()
    # Five standard errors.
    assert ((actions.mean(0) - mean[0, 0]).abs() < 5 * std / math.sqrt(num)).all()
    assert ((actions.std(0) / std - 1).abs() < 5 / math.sqrt(2 * num)).all()


def test_categorical_samples_have_the_probabilities():
    num = 100_000
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    noise = torch.from_numpy(Categorical(4).noise(np.random.default_rng(0), (1, num)))
    actions = Categorical(4).sample(logits.expand(1, num, 4), torch.zeros(1, 0), noise)
    frequencies = torch.bincount(actions[0], minlength=4) / num
    p = logits.softmax(-1)
    assert ((frequencies - p).abs() < 5 * (p * (1 - p) / num).sqrt()).all()


def test_samples_of_several_choices_have_the_joint_probabilities():
    num, distribution = 100_000, Categoricals([3, 2])
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, -0.5])
    noise = torch.from_numpy(distribution.noise(np.random.default_rng(0), (1, num)))
    actions = distribution.sample(logits.expand(1, num, 5), torch.zeros(1, 0), noise)[0]
    frequencies = torch.bincount(2 * actions[:, 0] + actions[:, 1], minlength=6) / num
    p = torch.outer(logits[:3].softmax(-1), logits[3:].softmax(-1)).flatten()
    assert ((frequencies - p).abs() < 5 * (p * (1 - p) / num).sqrt()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_float32_with_an_entry_for_each_output(kind):
    noise = make(kind).noise(np.random.default_rng(0), (4, 5))
    assert noise.shape == (4, 5, make(kind).num_outputs)
    assert noise.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_mode_is_more_likely_than_any_other_action(kind):
    distribution = make(kind)
    outputs, extra = parameters(distribution)
    best = distribution.log_prob(outputs, extra, distribution.mode(outputs))
    assert (best >= distribution.log_prob(outputs, extra, some_actions(kind))).all()


def test_a_squashed_gaussian_is_tanh_of_a_gaussian():
    squashed, generator = SquashedGaussian(2, math.log(0.01)), torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 5, 4, generator=generator).double()
    noise, extra = torch.randn(3, 5, 2, generator=generator).double(), torch.zeros(3, 0)
    mean, log_std = outputs.chunk(2, dim=-1)
    normal = torch.distributions.Normal(mean, log_std.exp())
    reference = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform())
    actions, log_probs = squashed.sample_with_log_prob(outputs, noise)
    torch.testing.assert_close(actions, (mean + noise * log_std.exp()).tanh())
    torch.testing.assert_close(log_probs, reference.log_prob(actions).sum(-1))
    torch.testing.assert_close(squashed.log_prob(outputs, extra, actions), log_probs)
    torch.testing.assert_close(squashed.sample(outputs, extra, noise), actions)
    torch.testing.assert_close(squashed.mode(outputs), mean.tanh())
    narrow = torch.cat([mean, torch.full_like(mean, -20)], dim=-1)
    torch.testing.assert_close(squashed.sample(narrow, extra, noise), (mean + 0.01 * noise).tanh())


def test_a_squashed_action_at_the_bound_has_a_finite_density():
    squashed = SquashedGaussian(1, math.log(1e-6))
    outputs = torch.tensor([[[9.5, 0.0]]])
    action = squashed.sample(outputs, torch.zeros(1, 0), torch.full((1, 1, 1), 0.5))
    assert action == 1
    assert torch.isfinite(squashed.log_prob(outputs, torch.zeros(1, 0), action)).all()
    assert torch.isfinite(squashed.sample_with_log_prob(outputs, torch.full((1, 1, 1), 0.5))[1]).all()


def test_the_divergence_of_normal_distributions_is_that_of_torch():
    numbers = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    first, second = (torch.distributions.Normal(m, (v / 2).exp()) for m, v in (numbers[:2], numbers[2:]))
    wanted = torch.distributions.kl_divergence(first, second).sum(-1)
    torch.testing.assert_close(normal_kl(*numbers), wanted, rtol=1e-12, atol=1e-12)
    assert not normal_kl(*numbers[:2], *numbers[:2]).any()
