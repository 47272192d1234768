"""PPO over trials: advantages across episodes, the loss's gradient, its limits, and that it asks for a memory."""

import dataclasses
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import problems
import pytest
import stable_baselines3
import torch
from problems import initial, make_policy, make_rule
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from metarl import PPOConfig, UserError
from metarl.agents.rl2 import RL2
from metarl.common.parallel import Workers
from metarl.config.algorithms import RL2Config
from metarl.config.settings import PolicySettings, RolloutSettings
from metarl.data import LearnerState, Rollouts
from metarl.inner.loop import adapt
from metarl.inner.memory import episodes, trials_of
from metarl.outer import ppo as ppo_module
from metarl.outer.ppo import PPO
from metarl.policies.distributions import Categorical, Gaussian
from metarl.policies.recurrent import RecurrentPolicy

OBSERVATION, TASKS, TIME, EPISODES = 3, 12, 6, 3
DISCOUNT = RolloutSettings(discount=0.9, gae_lambda=0.8)


@pytest.fixture
def workers():
    with Workers(2) as workers:
        yield workers


def make(kind="gaussian", cell="gru", lengths=None):
    """A rule, and trials that it has lived through, in float64; ``lengths`` of the episodes are random by default."""
    distribution = {"gaussian": Gaussian(2), "categorical": Categorical(3)}[kind]
    rule = RL2(RecurrentPolicy(OBSERVATION, distribution, RL2Config(cell, 5), PolicySettings(hidden_sizes=(4,))))
    meta = rule.initial(np.random.default_rng(0)).double()

    def collect(memory, phase, wanted):
        assert wanted in (1, None)
        rng = np.random.default_rng(phase)
        acting = rule.begin(meta, memory)
        noise = torch.from_numpy(distribution.noise(rng, (TASKS, 1, TIME))).double()
        ends = lengths or rng.integers(2, TIME + 1, TASKS)
        mask = (torch.arange(TIME) < torch.as_tensor(ends)[:, None])[:, None].double()
        observations = torch.from_numpy(rng.standard_normal((TASKS, 1, TIME, OBSERVATION)))
        rewards = torch.from_numpy(rng.standard_normal((TASKS, 1, TIME))) * mask
        actions, log_probs = [], []
        for step in range(TIME):
            outputs = acting.outputs(observations[:, :, step])
            actions.append(distribution.sample(outputs, acting.extra, noise[:, :, step]))
            log_probs.append(distribution.log_prob(outputs, acting.extra, actions[-1]))
            acting.receive(actions[-1], rewards[:, 0, step].numpy())
        actions, log_probs = torch.stack(actions, dim=2), torch.stack(log_probs, dim=2)
        return Rollouts(observations, actions, log_probs, rewards, mask, torch.zeros_like(rewards))

    stages = rule.stages((1.0,) * (EPISODES - 1))
    return rule, adapt(rule, meta, stages, torch.zeros(TASKS), collect, "ratio", each_task=False).loop


def step(loop, workers, state=None, **settings):
    ppo = PPO(PPOConfig(**settings), DISCOUNT)
    return ppo.step(state or LearnerState(loop.meta, {}), loop, workers, np.random.default_rng(0))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_recomputed_probabilities_are_those_of_acting(kind, cell):
    rule, loop = make(kind, cell)
    trials = trials_of(episodes(loop))
    judged = rule.forward(loop.meta, trials)
    again = rule.policy.distribution.log_prob(judged.outputs, judged.extra, trials.actions)
    for task in range(TASKS):
        acted = torch.cat([part.log_probs[task, 0][part.mask[task, 0] > 0] for part in episodes(loop)])
        torch.testing.assert_close(again[task, : len(acted)], acted, rtol=1e-12, atol=1e-12)


def test_the_gradient_equals_finite_differences_away_from_the_old_parameters(workers):
    rule, loop = make()
    ppo = PPO(PPOConfig(clip=0.05, entropy_weight=0.1), DISCOUNT)
    data = ppo._data(rule, LearnerState(loop.meta, {}), trials_of(episodes(loop)), workers)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(loop.meta.shape, dtype=torch.float64, generator=generator)
    direction[-3:] = 0  # Statistics of the rewards.
    meta = loop.meta + 0.02 * direction
    rows = torch.arange(TASKS)
    gradient, _ = ppo._gradient(rule, meta, data, rows.numpy(), workers)
    up, down = (float(ppo._loss(rule, meta + sign * 1e-5 * direction, data, rows)[0]) for sign in (1, -1))
    expected = (up - down) / 2e-5 / float(data.trials.mask.sum())
    assert float(gradient @ direction) == pytest.approx(expected, rel=1e-6)


def test_advantages_go_on_across_episodes_as_in_stable_baselines3(workers):
    rule, loop = make(lengths=[TIME] * TASKS)
    data = PPO(PPOConfig(), DISCOUNT)._data(rule, LearnerState(loop.meta, {}), trials_of(episodes(loop)), workers)
    # The whole trial is one episode of Stable-Baselines3's, which ends after its last step.
    space = gym.spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(TIME * EPISODES, space, space, gae_lambda=0.8, gamma=0.9, n_envs=TASKS)
    for now in range(TIME * EPISODES):
        start, nothing = np.full(TASKS, now == 0), np.zeros((TASKS, 1), np.float32)
        value, log_prob = data.before.values[:, now], data.log_probs[:, now]
        buffer.add(nothing, nothing, data.trials.rewards[:, now].numpy(), start, value, log_prob)
    buffer.compute_returns_and_advantage(torch.zeros(TASKS), np.ones(TASKS))
    advantages = buffer.advantages.T
    expected = (advantages - advantages.mean()) / advantages.std()
    np.testing.assert_allclose(data.advantages.numpy(), expected, rtol=1e-4, atol=1e-5)
    targets = buffer.returns.T
    np.testing.assert_allclose(data.targets.numpy(), (targets - targets.mean()) / targets.std(), rtol=1e-4, atol=1e-5)


class _Judging(torch.nn.Module):
    """What Stable-Baselines3's PPO needs of a policy; ``evaluate`` gives values, log-probabilities and entropies."""

    def __init__(self, meta, evaluate):
        super().__init__()
        self.meta, self._evaluate = torch.nn.Parameter(meta.clone()), evaluate
        self.optimizer = torch.optim.SGD([self.meta], lr=1.0)  # One step moves the parameters by minus the gradient.

    def set_training_mode(self, mode):
        self.train(mode)

    def evaluate_actions(self, observations, actions):
        return self._evaluate(self.meta)


def stable_baselines3_ppo(meta, evaluate, old_log_probs, advantages, targets, normalise=False):
    """What `stable_baselines3.PPO.train` logs of one minibatch, without "train/", and the gradient of its loss."""
    settings = {"ent_coef": 0.1, "vf_coef": 0.5, "max_grad_norm": 1e9, "learning_rate": 1.0, "n_epochs": 1}
    theirs = stable_baselines3.PPO(
        ActorCriticPolicy, None, normalize_advantage=normalise, device="cpu", _init_setup_model=False, **settings
    )
    theirs.action_space = gym.spaces.Box(-1, 1, (1,))
    theirs.clip_range = lambda progress: 0.05
    theirs.policy = policy = _Judging(meta, evaluate)
    theirs.set_logger(Logger(None, []))
    theirs._setup_lr_schedule()
    unused = torch.zeros(len(advantages), 1)
    samples = RolloutBufferSamples(unused, unused, targets, old_log_probs, advantages, targets)
    theirs.rollout_buffer = SimpleNamespace(
        get=lambda size: iter([samples]), values=targets.numpy(), returns=targets.numpy()
    )
    theirs.train()
    logged = {name.removeprefix("train/"): value for name, value in theirs.logger.name_to_value.items()}
    return logged, meta - policy.meta.detach()


def away(meta, by=0.05):
    """Meta-parameters beside those that lived through the trials; the statistics of the rewards stay."""
    direction = torch.randn(meta.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direction[-3:] = 0
    return meta + by * direction


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_the_update_is_that_of_stable_baselines3_on_the_same_minibatch(workers, kind):
    rule, loop = make(kind)
    ppo = PPO(PPOConfig(clip=0.05, entropy_weight=0.1, value_weight=0.5), DISCOUNT)
    data = ppo._data(rule, LearnerState(loop.meta, {}), trials_of(episodes(loop)), workers)
    meta, tasks = away(loop.meta), torch.tensor([7, 0, 3, 10])  # One of the minibatches.
    trials, living = data.trials.tasks(tasks), data.trials.mask[tasks] > 0  # Theirs has no padding.
    assert not living.all()

    def evaluate(meta):
        judged, distribution = rule.forward(meta, trials), rule.policy.distribution
        log_probs = distribution.log_prob(judged.outputs, judged.extra, trials.actions)
        entropy = distribution.entropy(judged.outputs, judged.extra)
        return judged.values[living], log_probs[living], entropy[living]

    advantages = data.advantages[tasks][living]
    given = meta, evaluate, data.log_probs[tasks][living], advantages, data.targets[tasks][living]
    theirs, their_gradient = stable_baselines3_ppo(*given)
    gradient, report = ppo._gradient(rule, meta, data, tasks.numpy(), workers)
    surrogate_gain, _, entropy = report.tolist()
    loss = float(ppo._loss(rule, meta, data, tasks)[0] / living.sum())
    surrogate = surrogate_gain + float(advantages.mean())
    assert 0.1 < theirs["clip_fraction"] < 0.9  # Not reported by ours, which must therefore clip the same steps.
    assert -surrogate == pytest.approx(theirs["policy_gradient_loss"], rel=1e-9)
    assert -entropy == pytest.approx(theirs["entropy_loss"], rel=1e-9)
    assert (loss + surrogate + 0.1 * entropy) / 0.5 == pytest.approx(theirs["value_loss"], rel=1e-9)
    assert loss == pytest.approx(theirs["loss"], rel=1e-9)
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-7, atol=1e-12)
    other = PPO(PPOConfig(clip=0.2, entropy_weight=0.1, value_weight=0.5), DISCOUNT)
    elsewhere, _ = other._gradient(rule, meta, data, tasks.numpy(), workers)
    assert not torch.allclose(elsewhere, their_gradient, rtol=1e-3)  # Negative control: another clipping.


def test_stable_baselines3_standardises_a_minibatch_where_ours_standardises_all_steps_once(workers):
    rule, loop = make()
    ppo = PPO(PPOConfig(clip=0.05), DISCOUNT)
    data = ppo._data(rule, LearnerState(loop.meta, {}), trials_of(episodes(loop)), workers)
    meta, living = away(loop.meta), data.trials.mask > 0

    def evaluate(meta):
        judged, distribution = rule.forward(meta, data.trials), rule.policy.distribution
        log_probs = distribution.log_prob(judged.outputs, judged.extra, data.trials.actions)[living]
        return judged.values[living], log_probs, torch.zeros_like(log_probs)

    given = meta, evaluate, data.log_probs[living], data.advantages[living], data.targets[living]
    plain, standardised = (stable_baselines3_ppo(*given, normalise=normalise)[0] for normalise in (False, True))
    # On all steps the two differ by the divisor of the variance alone: n - 1 there, n here.
    n = int(living.sum())
    factor = standardised["policy_gradient_loss"] / plain["policy_gradient_loss"]
    assert factor == pytest.approx(np.sqrt((n - 1) / n), rel=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_the_divergence_of_stable_baselines3_is_an_estimate_of_ours(workers, kind):
    rule, loop = make(kind)
    ppo, distribution = PPO(PPOConfig(), DISCOUNT), rule.policy.distribution
    data = ppo._data(rule, LearnerState(loop.meta, {}), trials_of(episodes(loop)), workers)
    meta, tasks, living = away(loop.meta, 0.1), torch.arange(TASKS), data.trials.mask > 0
    # Theirs: mean of ratio - 1 - log ratio over actions of the old policy, whose expectation is KL(old || new). Ours is
    # that expectation at each step. Many actions are drawn anew at each step, with the states as they were.
    draws, before, now = 2000, data.before, rule.forward(meta, data.trials)
    noise = torch.from_numpy(distribution.noise(np.random.default_rng(1), (draws, *living.shape))).double()
    actions = [distribution.sample(before.outputs, before.extra, of_draw) for of_draw in noise]

    def log_probs(judged):
        return torch.cat([distribution.log_prob(judged.outputs, judged.extra, drawn)[living] for drawn in actions])

    old, nothing = log_probs(before).detach(), torch.zeros(draws * int(living.sum()), dtype=torch.float64)
    theirs, _ = stable_baselines3_ppo(
        meta, lambda leaf: (nothing + 0 * leaf.sum(), log_probs(now).detach(), nothing), old, nothing, nothing
    )
    _, report = ppo._gradient(rule, meta, data, tasks.numpy(), workers)
    assert theirs["approx_kl"] == pytest.approx(float(report[1]), rel=0.02)


def test_padding_changes_nothing(workers):
    rule, loop = make()
    trials = trials_of(episodes(loop))
    noise = torch.randn(trials.observations.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = dataclasses.replace(trials, observations=trials.observations + noise * (1 - trials.mask[..., None]))
    ppo, state = PPO(PPOConfig(), DISCOUNT), LearnerState(loop.meta, {})
    gradients = []
    for part in (trials, other):
        data = ppo._data(rule, state, part, workers)
        gradients.append(ppo._gradient(rule, loop.meta + 0.01, data, np.arange(TASKS), workers)[0])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_padding_whose_numbers_overflow_changes_nothing(workers):
    """Padded observations are zeros, and normalised by the spread of an entry that never changes they are huge."""
    rule, loop = make()
    trials = trials_of(episodes(loop))
    data = PPO(PPOConfig(), DISCOUNT)._data(rule, LearnerState(loop.meta, {}), trials, workers)
    # As if the actions in the padding had become e^1000 times as likely.
    unlikely = dataclasses.replace(data, log_probs=data.log_probs - 1000 * (1 - trials.mask))
    ppo, every = PPO(PPOConfig(), DISCOUNT), np.arange(TASKS)
    results = [ppo._gradient(rule, loop.meta, part, every, workers) for part in (data, unlikely)]
    gradients, reports = zip(*results, strict=True)
    assert torch.isfinite(gradients[1]).all()
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
    torch.testing.assert_close(*reports, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("rewards", "unit"),
    [
        # Standard deviation of -1, 1, 3.
        ([-1.0, 1.0, 3.0], (8 / 3) ** 0.5),
        ([2.0, 2.0, 2.0], 0.6),
        ([0.0, 0.0, 0.0], 1.0),
        ([10.0, 10.0, 10.3], 0.3 * (306.09 / 3) ** 0.5),
        ([-1e-5, 1e-5, 3e-5], 1e-5 * (8 / 3) ** 0.5),
        ([1e-6, 1e-6, 1e-6], 0.3e-6),
    ],
)
def test_the_unit_of_rewards_is_not_the_rounding_of_a_constant_one(rewards, unit):
    rule, loop = make()
    values = torch.tensor(rewards).double()[None, :, None]
    seen = rule._statistics.of(values, torch.ones(1, 3))
    meta = torch.cat([loop.meta[: rule._num_weights], seen[0]])
    normaliser = rule.rewards(meta)
    assert float(normaliser.mean) == pytest.approx(np.mean(rewards))
    assert float(normaliser.std) == pytest.approx(unit, rel=1e-5)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    monkeypatch.setattr(ppo_module, "_TASKS_AT_ONCE", 4)
    _, loop = make()
    results = []
    for threads in (1, 3):
        with Workers(threads) as workers:
            results.append(step(loop, workers)[0].meta)
    assert torch.equal(*results)


def test_it_remembers_adams_moments_and_the_targets(workers):
    _, loop = make()
    state, report = step(loop, workers, epochs=2, minibatches=3, max_kl=10.0)
    assert report.outcome == "2 epochs"
    assert report.numbers["updates"] == 6
    assert set(state.memory) == {"step", "exp_avg", "exp_avg_sq", "values"}
    again, _ = step(loop, workers, state, epochs=2, minibatches=3, max_kl=10.0)
    assert float(again.memory["step"]) == 12
    steps = sum(part.env_steps for part in episodes(loop))
    assert (float(state.memory["values"][0]), float(again.memory["values"][0])) == (steps, 2 * steps)


def test_there_are_no_more_minibatches_than_tasks(workers):
    _, loop = make()
    state, report = step(loop.tasks(0, 2), workers, epochs=1, minibatches=4, max_kl=10.0)
    assert report.numbers["updates"] == float(state.memory["step"]) == 2


def test_the_statistics_of_rewards_are_not_moved_by_gradients(workers):
    _, loop = make()
    moved = step(loop, workers)[0].meta != loop.meta
    assert moved[:-3].any()
    assert not moved[-3:].any()


def test_updates_end_at_the_divergence_allowed(workers):
    _, loop = make()
    _, free = step(loop, workers, lr=0.05, epochs=3, max_kl=1e3)
    _, held = step(loop, workers, lr=0.05, epochs=3, max_kl=0.01)
    assert free.outcome == "3 epochs"
    assert held.outcome == "KL limit after 0 epochs"
    assert free.numbers["updates"] == 12
    assert 1 <= held.numbers["updates"] < 12
    assert held.numbers["kl"] > 0.01  # Of the last update, which is kept.
    assert held.numbers["surrogate_gain"] != 0


def test_the_step_size_falls_to_zero(workers):
    _, loop = make()
    settings = {"epochs": 1, "minibatches": 2, "anneal_updates": 4}
    first, _ = step(loop, workers, **settings)
    second, _ = step(loop, workers, first, **settings)
    third, _ = step(loop, workers, second, **settings)
    assert not torch.equal(first.meta, second.meta)
    assert torch.equal(second.meta, third.meta)


def test_a_gradient_that_is_not_finite_leaves_the_state(workers):
    _, loop = make()
    loop.queries[-1].rewards[0, 0, 0] = np.nan
    state = LearnerState(loop.meta, {})
    after, report = step(loop, workers, state)
    assert after is state
    assert report.outcome == "non-finite"


def test_entropy_weight_raises_the_entropy(workers):
    _, loop = make()
    rule = loop.rule

    def entropy(weight):
        meta = step(loop, workers, entropy_weight=weight, max_kl=10.0, epochs=10)[0].meta
        judged = rule.forward(meta, trials_of(episodes(loop)))
        return float(rule.policy.distribution.entropy(judged.outputs, judged.extra).mean())

    assert entropy(1.0) > entropy(0.0)


def test_a_rule_without_memory_is_refused(workers):
    rule = make_rule("maml", make_policy())
    loop = problems.run(rule, initial(rule), 1)
    with pytest.raises(UserError, match="ppo is for agents with a recurrent memory; take trpo or promp"):
        step(loop, workers)
