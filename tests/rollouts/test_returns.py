"""Returns, advantages and the linear baseline."""

import pytest
import torch
from torch import Tensor

from metarl.rollouts.baseline import linear_baseline
from metarl.rollouts.returns import discounted_sum, gae, standardise

TASKS, ROLLOUTS, TIME = 3, 4, 6
SHAPE = (TASKS, ROLLOUTS, TIME)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uneven_mask() -> Tensor:
    lengths = torch.arange(TASKS * ROLLOUTS).view(TASKS, ROLLOUTS) % TIME + 1
    return (torch.arange(TIME) < lengths[..., None]).double()


def test_discounted_return_of_constant_reward_tends_to_the_geometric_series():
    discount = 0.9
    result = discounted_sum(torch.ones(400, dtype=torch.float64), discount)
    assert float(result[0]) == pytest.approx(1 / (1 - discount), rel=1e-14)
    steps_left = torch.arange(400, 0, -1, dtype=torch.float64)
    torch.testing.assert_close(result, (1 - discount**steps_left) / (1 - discount), rtol=1e-13, atol=0)


def test_discounted_sum_with_factor_0_is_the_identity_and_with_1_the_sum_to_come():
    values = draw(*SHAPE)
    assert torch.equal(discounted_sum(values, 0.0), values)
    torch.testing.assert_close(discounted_sum(values, 1.0), values.flip(-1).cumsum(-1).flip(-1))


def test_gae_with_lambda_1_is_the_return_minus_the_value():
    mask, values = uneven_mask(), draw(*SHAPE, seed=1)
    rewards = draw(*SHAPE) * mask
    expected = (discounted_sum(rewards, 0.95) - values) * mask
    torch.testing.assert_close(gae(rewards, values, mask, 0.95, 1.0), expected, rtol=1e-12, atol=1e-13)


def test_gae_with_lambda_0_is_the_one_step_temporal_difference():
    rewards, values = draw(*SHAPE), draw(*SHAPE, seed=1)
    expected = rewards - values
    expected[..., :-1] += 0.95 * values[..., 1:]
    torch.testing.assert_close(gae(rewards, values, torch.ones(SHAPE).double(), 0.95, 0.0), expected)


def test_gae_lies_between_and_follows_its_recursion():
    rewards, values = draw(*SHAPE), draw(*SHAPE, seed=1)
    ones = torch.ones(SHAPE).double()
    difference, advantages = gae(rewards, values, ones, 0.9, 0.0), gae(rewards, values, ones, 0.9, 0.7)
    torch.testing.assert_close(advantages[..., :-1], difference[..., :-1] + 0.9 * 0.7 * advantages[..., 1:])


def test_nothing_after_an_episodes_end_enters_its_advantages():
    mask, rewards, values = uneven_mask(), draw(*SHAPE), draw(*SHAPE, seed=1)
    advantages = gae(rewards, values, mask, 0.9, 0.8)
    other = gae(torch.where(mask > 0, rewards, 99), torch.where(mask > 0, values, -99), mask, 0.9, 0.8)
    assert torch.equal(advantages, other)
    assert not (advantages * (1 - mask)).any()
    # The same episode, cut out: its last step has no value after it.
    length = int(mask[0, 2].sum())
    assert length < TIME
    alone = gae(rewards[:1, 2:3, :length], values[:1, 2:3, :length], mask[:1, 2:3, :length], 0.9, 0.8)
    torch.testing.assert_close(advantages[0, 2, :length], alone[0, 0])


def test_standardised_advantages_have_mean_0_and_deviation_1_over_the_steps_taken():
    mask = uneven_mask()
    scale = torch.tensor([0.1, 5.0, 300.0], dtype=torch.float64)[:, None, None]
    result = standardise(scale * (draw(*SHAPE) + 3) + 40, mask)
    count = mask.sum((1, 2))
    torch.testing.assert_close(result.sum((1, 2)) / count, torch.zeros(TASKS).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close((result**2).sum((1, 2)) / count, torch.ones(TASKS).double(), rtol=1e-6, atol=0)
    assert not (result * (1 - mask)).any()


def test_permuting_tasks_permutes_standardised_advantages():
    mask, advantages, order = uneven_mask(), draw(*SHAPE), [2, 0, 1]
    assert torch.equal(standardise(advantages[order], mask[order]), standardise(advantages, mask)[order])


def test_equal_advantages_are_standardised_to_zero():
    assert not standardise(torch.full(SHAPE, 2.0, dtype=torch.float64), uneven_mask()).any()


def linear_returns(observations: Tensor, mask: Tensor, discount: float) -> tuple[Tensor, Tensor]:
    """(returns that are linear in the baseline's features, rewards that add up to them)."""
    time = torch.arange(observations.shape[2], dtype=torch.float64) / 100
    weight = torch.tensor([[1.5, -2.0], [0.3, 0.8], [-4.0, 0.0]], dtype=torch.float64)[:, None, None]
    returns = (weight * observations + 0.5 * observations**2).sum(-1) + 30 * time - 200 * time**2 + 2
    returns = returns * mask
    following = torch.cat([returns[..., 1:], torch.zeros_like(returns[..., :1])], dim=-1)
    return returns, returns - discount * following


@pytest.mark.parametrize("uneven", [False, True])
def test_baseline_recovers_a_return_that_is_linear_in_its_features(uneven):
    shape = (TASKS, 8, 40)
    lengths = torch.arange(TASKS * 8).view(TASKS, 8) * 2 % 40 + 1 if uneven else torch.full((TASKS, 8), 40)
    mask = (torch.arange(40) < lengths[..., None]).double()
    observations = draw(*shape, 2)
    returns, rewards = linear_returns(observations, mask, 0.9)
    values = linear_baseline(observations, rewards, mask, 0.9, ridge=0.0)
    torch.testing.assert_close(values * mask, returns, rtol=1e-7, atol=1e-7)


def test_baseline_does_not_see_steps_after_an_episodes_end():
    mask = uneven_mask()
    observations, rewards = draw(*SHAPE, 2), draw(*SHAPE, seed=1) * mask
    other = torch.where(mask[..., None] > 0, observations, 7.0)
    first, second = (linear_baseline(o, rewards, mask, 0.9) * mask for o in (observations, other))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_baseline_fits_each_task_on_its_own():
    observations, rewards, mask = draw(*SHAPE, 2), draw(*SHAPE, seed=1), uneven_mask()
    values = linear_baseline(observations, rewards, mask, 0.9)
    for task in range(TASKS):
        alone = linear_baseline(observations[[task]], rewards[[task]], mask[[task]], 0.9)
        torch.testing.assert_close(values[[task]], alone, rtol=1e-12, atol=1e-13)


def test_observation_that_never_changes_does_not_break_the_baseline():
    shape = (TASKS, 8, 40)
    moving, mask = draw(*shape, 2), torch.ones(shape).double()
    returns, rewards = linear_returns(moving, mask, 0.9)
    still = torch.full((*shape, 1), 0.7, dtype=torch.float64)
    for constant in (still, torch.zeros_like(still)):
        values = linear_baseline(torch.cat([moving, constant], -1), rewards, mask, 0.9)
        # The default ridge leaves a trace.
        torch.testing.assert_close(values, returns, rtol=1e-2, atol=1e-2)


def test_baseline_clips_its_observations():
    observations, rewards, mask = 100 * draw(*SHAPE, 2), draw(*SHAPE, seed=1), uneven_mask()
    clipped = linear_baseline(observations.clamp(-10, 10), rewards, mask, 0.9)
    assert torch.equal(linear_baseline(observations, rewards, mask, 0.9), clipped)
