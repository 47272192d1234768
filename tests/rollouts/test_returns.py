"""Returns, advantages and what of them is noise."""

import pytest
import torch
from torch import Tensor

from metarl.data import Rollouts
from metarl.rollouts.returns import above_noise, discounted_sum, gae, standardise
from metarl.rollouts.sampler import with_advantages

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
    mask = uneven_mask()
    values, rewards = draw(*SHAPE, seed=1) * mask, draw(*SHAPE) * mask
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


def test_no_reward_after_an_episodes_end_enters_its_advantages():
    mask, rewards = uneven_mask(), draw(*SHAPE)
    values = draw(*SHAPE, seed=1) * mask
    advantages = gae(rewards, values, mask, 0.9, 0.8)
    assert torch.equal(advantages, gae(torch.where(mask > 0, rewards, 99), values, mask, 0.9, 0.8))
    assert not (advantages * (1 - mask)).any()
    # The same episode, cut out: its last step has no value after it.
    length = int(mask[0, 2].sum())
    assert length < TIME
    alone = gae(rewards[:1, 2:3, :length], values[:1, 2:3, :length], mask[:1, 2:3, :length], 0.9, 0.8)
    torch.testing.assert_close(advantages[0, 2, :length], alone[0, 0])


def test_gae_by_hand_with_a_value_after_the_last_step():
    rewards = torch.tensor([[[1.0, 2.0, 0.0, 0.0]]], dtype=torch.float64)
    mask = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]], dtype=torch.float64)
    values = torch.tensor([[[4.0, 8.0, 16.0, 0.0]]], dtype=torch.float64)
    # delta_1 = 2 + 0.5 * 16 - 8 = 2, delta_0 = 1 + 0.5 * 8 - 4 = 1, A_0 = 1 + 0.5 * 0.5 * 2.
    expected = torch.tensor([[[1.5, 2.0, 0.0, 0.0]]], dtype=torch.float64)
    assert torch.equal(gae(rewards, values, mask, 0.5, 0.5), expected)
    # With lambda 1, the completed return minus the value: 2 + 0.5 * 16 - 8 and 1 + 0.5 * 2 + 0.25 * 16 - 4.
    expected = torch.tensor([[[2.0, 2.0, 0.0, 0.0]]], dtype=torch.float64)
    assert torch.equal(gae(rewards, values, mask, 0.5, 1.0), expected)


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


def test_returns_that_are_the_same_in_all_rollouts_say_nothing():
    mask = uneven_mask()
    shared = (40 + draw(TIME)) * mask  # a function of time alone
    rounding = 40 * 1e-8 * draw(*SHAPE, seed=1) * mask
    noise = 1e-3 * draw(*SHAPE, seed=2) * mask
    assert not above_noise(noise, shared + rounding, shared, mask).any()
    assert above_noise(noise, shared + 1e3 * rounding, shared, mask).all()


def test_differences_that_the_baseline_explains_say_nothing():
    mask, returns = uneven_mask(), 40 + draw(*SHAPE)
    unexplained = draw(*SHAPE, seed=1) * mask
    assert not above_noise(1e-6 * unexplained, returns * mask, returns, mask).any()
    assert above_noise(1e-2 * unexplained, returns * mask, returns, mask).all()


def test_the_rewards_of_a_single_rollout_are_compared_with_one_another():
    mask = torch.ones(1, 1, TIME).double()
    noise, returns = draw(1, 1, TIME, seed=1), discounted_sum(mask, 0.9)
    assert above_noise(noise, returns, draw(1, 1, TIME), mask).all()
    assert not above_noise(noise, returns, 3 * mask, mask).any()


def test_each_task_has_its_own_noise():
    mask, returns = torch.ones(SHAPE).double(), draw(*SHAPE)
    returns[1] = 5
    assert above_noise(draw(*SHAPE, seed=1), returns, returns, mask).tolist() == [True, False, True]


def advantages_with(constant: float, discount: float) -> Tensor:
    """Advantages of 20 rollouts of 100 steps, whose rewards vary by about 0.5 around a constant."""
    places = draw(1, 20, 100, 2).cumsum(2) / 10
    rewards = (draw(1, 20, 100, seed=1) / 10 - places.norm(dim=-1) + constant).float()
    nothing = torch.zeros_like(rewards)
    rollouts = Rollouts(
        observations=places.float(),
        actions=torch.zeros_like(places).float(),
        log_probs=nothing,
        rewards=rewards,
        mask=torch.ones_like(rewards),
        advantages=nothing,
        terms={},
        truncated=torch.zeros(1, 20, dtype=torch.bool),
    )
    return with_advantages(rollouts, discount, 1.0).advantages.flatten()


# As docs/algorithms.md has it.
@pytest.mark.parametrize(
    ("discount", "correlations"),
    [(1.0, [1.00, 1.00, 1.00, 1.00]), (0.99, [1.00, 1.00, 1.00, 0.78]), (0.95, [1.00, 0.87, 0.09, -0.08])],
)
def test_a_large_constant_reward_is_in_the_advantages_unless_the_discount_is_1(discount, correlations):
    plain = advantages_with(0.0, discount)
    found = [torch.stack([plain, advantages_with(c, discount)]).corrcoef()[0, 1].item() for c in (1, 10, 100, 1000)]
    assert found == pytest.approx(correlations, abs=0.05)
