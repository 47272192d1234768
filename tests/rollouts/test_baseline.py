"""The linear baseline: many steps, few steps, and episodes that the environment cut off."""

import pytest
import torch
from torch import Tensor

from metarl.data import Rollouts
from metarl.rollouts.baseline import linear_baseline
from metarl.rollouts.returns import discounted_sum, gae
from metarl.rollouts.sampler import with_advantages

TASKS, ROLLOUTS, TIME = 3, 4, 6
SHAPE = (TASKS, ROLLOUTS, TIME)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mask_of(lengths: Tensor, time: int) -> Tensor:
    return (torch.arange(time) < lengths[..., None]).double()


def uneven_mask() -> Tensor:
    return mask_of(torch.arange(TASKS * ROLLOUTS).view(TASKS, ROLLOUTS) % TIME + 1, TIME)


def make_rollouts(observations: Tensor, rewards: Tensor, mask: Tensor, truncated: Tensor | None = None) -> Rollouts:
    return Rollouts(observations, rewards, rewards, rewards, mask, mask, truncated=truncated)


def features(observations: Tensor, steps: Tensor) -> Tensor:
    """[..., observation] at the steps [...], as the papers have it."""
    o, t = observations.double().clamp(-10, 10), steps.double()[..., None] / 100
    return torch.cat([o, o**2, t, t**2, t**3, torch.ones_like(t)], dim=-1)


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
    values, _ = linear_baseline(observations, rewards, mask, 0.9, ridge=0.0)
    torch.testing.assert_close(values * mask, returns, rtol=1e-7, atol=1e-7)


def test_baseline_does_not_see_steps_after_an_episodes_end():
    mask = uneven_mask()
    observations, rewards = draw(*SHAPE, 2), draw(*SHAPE, seed=1) * mask
    other = torch.where(mask[..., None] > 0, observations, 7.0)
    first, second = (linear_baseline(o, rewards, mask, 0.9)[0] for o in (observations, other))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_baseline_fits_each_task_on_its_own():
    observations, rewards, mask = draw(*SHAPE, 2), draw(*SHAPE, seed=1), uneven_mask()
    values, _ = linear_baseline(observations, rewards, mask, 0.9)
    for task in range(TASKS):
        alone, _ = linear_baseline(observations[[task]], rewards[[task]], mask[[task]], 0.9)
        torch.testing.assert_close(values[[task]], alone, rtol=1e-12, atol=1e-13)


def test_observation_that_never_changes_does_not_break_the_baseline():
    shape = (TASKS, 8, 40)
    moving, mask = draw(*shape, 2), torch.ones(shape).double()
    returns, rewards = linear_returns(moving, mask, 0.9)
    still = torch.full((*shape, 1), 0.7, dtype=torch.float64)
    for constant in (still, torch.zeros_like(still)):
        values, _ = linear_baseline(torch.cat([moving, constant], -1), rewards, mask, 0.9)
        # The default ridge leaves a trace.
        torch.testing.assert_close(values, returns, rtol=1e-2, atol=1e-2)


def test_baseline_clips_its_observations():
    observations, rewards, mask = 100 * draw(*SHAPE, 2), draw(*SHAPE, seed=1), uneven_mask()
    clipped, _ = linear_baseline(observations.clamp(-10, 10), rewards, mask, 0.9)
    assert torch.equal(linear_baseline(observations, rewards, mask, 0.9)[0], clipped)


def papers_advantages(observations: Tensor, rewards: Tensor, discount: float, gae_lambda: float) -> Tensor:
    """Plainly the papers' formula for whole episodes: fit, generalised advantages, standardisation."""
    returns, values = discounted_sum(rewards.double(), discount), []
    for of_task, targets in zip(observations, returns, strict=True):
        x = features(of_task, torch.arange(of_task.shape[1]).expand(of_task.shape[:2])).flatten(0, 1)
        gram = x.mT @ x + 1e-5 * torch.eye(x.shape[1], dtype=x.dtype)
        values.append((x @ torch.linalg.solve(gram, x.mT @ targets.flatten())).view_as(targets))
    now = torch.stack(values)
    following = torch.cat([now[..., 1:], torch.zeros_like(now[..., :1])], dim=-1)
    advantages = discounted_sum(rewards.double() + discount * following - now, discount * gae_lambda)
    centred = advantages - advantages.sum((1, 2), keepdim=True) / advantages[0].numel()
    deviation = ((centred * centred).sum((1, 2), keepdim=True) / advantages[0].numel()).sqrt()
    return (centred / (deviation + 1e-8)).float()


DEFAULTS = {
    "navigation": (2, 20, 100),
    "cheetah": (17, 20, 200),
    "ant": (27, 40, 200),
    "ant-goal": (29, 20, 200),
    "bandit": (1, 20, 10),
    "tabular-mdp": (10, 20, 10),
}


@pytest.mark.parametrize("gae_lambda", [1.0, 0.95])
@pytest.mark.parametrize("family", DEFAULTS)
def test_advantages_at_default_sizes_equal_the_papers_bit_for_bit(family, gae_lambda):
    size, rollouts, time = DEFAULTS[family]
    observations, rewards = draw(2, rollouts, time, size).float(), draw(2, rollouts, time, seed=1).float()
    # Cut off at the horizon, which the papers count as the end.
    truncated = torch.ones(2, rollouts, dtype=torch.bool)
    result = with_advantages(
        make_rollouts(observations, rewards, torch.ones_like(rewards), truncated), 0.99, gae_lambda
    )
    assert torch.equal(result.advantages, papers_advantages(observations, rewards, 0.99, gae_lambda))


def linear_gaussian(size: int, rollouts: int, time: int, noise: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(observations, rewards, values) of a task whose value is linear in the baseline's features.

    A reward is V(s_t) - discount V(s_t+1) plus what the action adds, which is noise: the true advantage.
    """
    steps, keep = draw(rollouts, time, size, seed=seed), 0.9
    observations = [steps[:, 0]]
    for t in range(1, time):
        observations.append(keep * observations[-1] + (1 - keep**2) ** 0.5 * steps[:, t])
    observations = torch.stack(observations, dim=1)
    values = observations @ draw(size, seed=100 + seed) / size**0.5 + 5 * (1 - torch.arange(time) / time)
    following = torch.cat([values[:, 1:], torch.zeros(rollouts, 1)], dim=1)
    return observations, values - 0.99 * following + noise * draw(rollouts, time, seed=200 + seed), values


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def correlations_with_the_truth(size: int, rollouts: int, time: int, noise: float) -> tuple[float, float]:
    """Mean over ten tasks: of the advantages of the papers' formula, and of ours."""
    toys = [linear_gaussian(size, rollouts, time, noise, seed) for seed in range(10)]
    observations, rewards, values = (torch.stack(parts) for parts in zip(*toys, strict=True))
    ones = torch.ones_like(rewards)
    truth = gae(rewards, values, ones, 0.99, 1.0)
    ours = with_advantages(make_rollouts(observations, rewards, ones), 0.99, 1.0).advantages
    papers = papers_advantages(observations, rewards, 0.99, 1.0)
    means = [sum(map(correlation, found, truth)) / len(toys) for found in (papers, ours)]
    return means[0], means[1]


# Observation, rollouts and steps; noise; what our correlation must be at least.
@pytest.mark.parametrize(
    ("size", "rollouts", "time", "noise", "least"),
    [
        (4, 40, 100, 0.3, 0.97),
        (20, 10, 20, 1.0, 0.87),
        (20, 10, 20, 0.3, 0.72),
        (20, 10, 10, 1.0, 0.83),
        (20, 10, 10, 0.3, 0.63),
        (20, 5, 10, 1.0, 0.80),
        (20, 5, 10, 0.3, 0.42),
        (20, 3, 10, 1.0, 0.75),
        (54, 4, 25, 1.0, 0.85),
        (300, 10, 60, 1.0, 0.92),
    ],
)
def test_advantages_correlate_with_the_true_ones_whatever_the_number_of_features(size, rollouts, time, noise, least):
    papers, ours = correlations_with_the_truth(size, rollouts, time, noise)
    assert ours > least
    # Enough steps for each feature: the papers' formula. Else it takes the noise for the value.
    if rollouts * time >= 8 * (2 * size + 4):
        assert ours == pytest.approx(papers, rel=1e-6)
    else:
        assert ours > papers + 0.15


def test_with_few_steps_each_rollout_is_predicted_by_others():
    observations, rewards, ones = draw(1, 10, 8, 5), draw(1, 10, 8, seed=1), torch.ones(1, 10, 8).double()
    values, _ = linear_baseline(observations, rewards, ones, 0.9)
    # So small a change of the first rollout leaves the penalty as it is.
    changed = rewards.clone()
    changed[0, 0] += 1e-6
    others, _ = linear_baseline(observations, changed, ones, 0.9)
    same = (values == others).all(2)[0]
    assert same.tolist() == [True, False, False, False, False, True, False, False, False, False]


def test_images_are_not_fitted_but_time_is():
    observations, rewards, ones = draw(1, 4, 20, 3072), draw(1, 4, 20, seed=1), torch.ones(1, 4, 20).double()
    values, _ = linear_baseline(observations, rewards, ones, 0.9)
    blind, _ = linear_baseline(observations[..., :0], rewards, ones, 0.9)
    assert torch.equal(values, blind)
    assert torch.equal(values[0], values[0, :1].expand(4, -1))


def test_a_single_short_rollout_has_no_baseline():
    ones = torch.ones(1, 1, 10).double()
    values, returns = linear_baseline(draw(1, 1, 10, 2), draw(1, 1, 10, seed=1), ones, 0.9)
    assert not values.any()
    assert torch.equal(returns, discounted_sum(draw(1, 1, 10, seed=1), 0.9))


@pytest.mark.parametrize("size", [(2, 20, 100), (1, 20, 10), (20, 10, 10), (300, 4, 10)])
@pytest.mark.parametrize("reward", [1.0, -0.1, 1e4, 0.0])
def test_a_constant_reward_gives_no_advantage(size, reward):
    num, rollouts, time = size
    observations, mask = draw(1, rollouts, time, num).float(), torch.ones(1, rollouts, time)
    assert not with_advantages(make_rollouts(observations, reward * mask, mask), 0.99, 1.0).advantages.any()
    # Half of the episodes are cut off by the environment; the reward would have gone on.
    lengths = torch.where(torch.arange(rollouts) % 2 == 0, time, time // 2)[None]
    mask = mask_of(lengths, time).float()
    cut = make_rollouts(observations, reward * mask, mask, lengths < time)
    assert not with_advantages(cut, 0.99, 1.0).advantages.any()
    # If they end in a terminal state, the reward does not go on.
    terminal = with_advantages(make_rollouts(observations, reward * mask, mask), 0.99, 1.0)
    assert bool(terminal.advantages.any()) == (reward != 0)


def test_a_small_signal_on_top_of_large_rewards_counts():
    observations, mask = draw(1, 20, 100, 2).float(), torch.ones(1, 20, 100)
    signal = draw(1, 20, 100, seed=1)
    result = with_advantages(make_rollouts(observations, (1000 + signal).float(), mask), 1.0, 1.0)
    assert float(result.advantages.std()) == pytest.approx(1, rel=1e-2)
    assert correlation(result.advantages, discounted_sum(signal, 1.0)) > 0.95


def first_after(mask: Tensor) -> Tensor:
    """Marks the step after the last one."""
    return torch.cat([torch.zeros_like(mask[..., :1]), mask[..., :-1] - mask[..., 1:]], dim=-1) > 0


def chain(rollouts: int, goal: int = 5, horizon: int = 250) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(observations, rewards, mask, truncated, true values) of walks along a chain from a random state to the goal.

    Observations are indicators of the state. Reaching the goal pays 1 and ends the episode: V(s) = discount^(steps
    left - 1) with a discount of 0.9. The environment cuts some episodes off, after a random number of steps.
    """
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(goal, (1, rollouts), generator=generator)
    stops = torch.randint(1, goal + 1, (1, rollouts), generator=generator)
    lengths = torch.minimum(goal - starts, stops)
    states = (starts[..., None] + torch.arange(horizon)).clamp(max=goal)
    mask = mask_of(lengths, horizon)
    rewards = ((states + 1 == goal) * mask).double()
    values = torch.where(states < goal, 0.9 ** (goal - 1 - states.double()), 0)
    return torch.nn.functional.one_hot(states, goal + 1).double(), rewards, mask, lengths < goal - starts, values


def test_values_and_returns_of_a_chain_that_is_cut_off_are_exact():
    observations, rewards, mask, truncated, true_values = chain(100)
    assert 20 < int(truncated.sum()) < 80
    values, returns = linear_baseline(observations, rewards, mask, 0.9, truncated, ridge=1e-9)
    known = (mask > 0) | (first_after(mask) & truncated[..., None])
    torch.testing.assert_close(values, true_values * known, rtol=0, atol=1e-6)
    torch.testing.assert_close(returns, true_values * mask, rtol=0, atol=1e-6)
    torch.testing.assert_close(gae(rewards, values, mask, 0.9, 0.7), torch.zeros_like(values), rtol=0, atol=1e-6)
    # The cut as an end of all reward.
    values, _ = linear_baseline(observations, rewards, mask, 0.9, ridge=1e-9)
    assert float((values - true_values)[mask > 0].abs().max()) > 0.1


def test_a_cut_off_reward_goes_on_up_to_the_horizon():
    # Each episode pays its own constant reward, which it observes; half of them are cut off.
    lengths = torch.where(torch.arange(40) % 2 == 0, 30, 1 + torch.arange(40) % 29)[None]
    mask, observations = mask_of(lengths, 30), draw(1, 40, 1, 1).expand(1, 40, 30, 1)
    rewards = observations[..., 0] * mask
    _, returns = linear_baseline(observations, rewards, mask, 0.95, lengths < 30, ridge=1e-9)
    torch.testing.assert_close(returns, discounted_sum(observations[..., 0], 0.95) * mask, rtol=0, atol=1e-6)


def test_values_after_the_cut_are_the_fixed_point_of_their_targets():
    shape, discount = (1, 40, 30), 0.9
    lengths = torch.randint(5, 31, shape[:2], generator=torch.Generator().manual_seed(0))
    mask, truncated = mask_of(lengths, 30), torch.arange(40)[None] % 3 > 0
    observations, rewards = 0.3 * draw(*shape, 2).cumsum(2).cos(), draw(*shape, seed=1) * mask
    values, returns = linear_baseline(observations, rewards, mask, discount, truncated)

    alive, after = mask > 0, first_after(mask) & truncated[..., None]
    to_come = (1 - discount ** (30 - torch.arange(30).double())) / (1 - discount)
    x = to_come[:, None] * torch.cat([observations, observations**2, torch.ones(*shape, 1)], dim=-1)
    gram = x[alive].mT @ x[alive] + 1e-5 * torch.eye(5)
    completed = rewards.clone()
    for _ in range(300):
        targets = discounted_sum(completed, discount) * mask
        completed[after] = x[after] @ torch.linalg.solve(gram, x[alive].mT @ targets[alive])
    torch.testing.assert_close(returns, targets, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(values[after], completed[after], rtol=1e-9, atol=1e-9)
    # The predictions are an ordinary fit to the completed returns.
    x = features(observations, torch.arange(30).expand(shape))[alive]
    coefficients = torch.linalg.solve(x.mT @ x + 1e-5 * torch.eye(8), x.mT @ targets[alive])
    torch.testing.assert_close(values[alive], x @ coefficients, rtol=1e-9, atol=1e-9)


def test_an_episode_that_is_cut_off_at_the_horizon_is_not_completed():
    observations, rewards, mask = draw(*SHAPE, 2), draw(*SHAPE, seed=1), torch.ones(SHAPE).double()
    completed = linear_baseline(observations, rewards, mask, 0.9, torch.ones(TASKS, ROLLOUTS, dtype=torch.bool))
    for got, want in zip(completed, linear_baseline(observations, rewards, mask, 0.9), strict=True):
        assert torch.equal(got, want)


def test_a_value_after_the_cut_is_a_sum_of_rewards():
    # All episodes are cut off where the observation is far from what was seen before.
    observations, mask = draw(1, 20, 40, 1), mask_of(torch.full((1, 20), 10), 40)
    observations[:, :, 10] = 10
    rewards = -(1 + draw(1, 20, 40, seed=1).abs()) * mask
    values, _ = linear_baseline(observations, rewards, mask, 0.9, torch.ones(1, 20, dtype=torch.bool))
    to_come = (1 - 0.9**30) / (1 - 0.9)
    assert (values[..., 10] >= rewards.min() * to_come - 1e-9).all()
    assert (values[..., 10] <= rewards[mask > 0].max() * to_come + 1e-9).all()
