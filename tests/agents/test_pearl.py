"""PEARL: its posterior is a product of normal distributions, and its losses are those of soft actor-critic."""

import copy
import dataclasses
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from stable_baselines3 import SAC as SB3SAC
from stable_baselines3.common.buffers import ReplayBufferSamples
from stable_baselines3.common.logger import configure
from tiny_runs import assert_same_run, tiny
from trials import OBSERVATION, REWARDS, STEPS, TASKS, blank, lived_through, some_trials

import metarl
from metarl import Config, EvaluationConfig, UserError, check_rule
from metarl.agents.pearl import PEARL, Transitions
from metarl.common.parallel import Workers
from metarl.config.algorithms import PEARLConfig
from metarl.config.optimisers import SACConfig
from metarl.config.settings import PolicySettings, RolloutSettings
from metarl.data import LearnerState, Rollouts
from metarl.envs.navigation import NavigationFamily
from metarl.inner.loop import adapt
from metarl.outer.replay import as_rollouts, latest_trials
from metarl.outer.sac import SAC, _Steps
from metarl.policies.distributions import Categorical, Gaussian
from metarl.policies.memory import Remembering
from metarl.policies.posterior import PosteriorPolicy
from metarl.rollouts.sampler import Sampler
from metarl.store.checkpoints import load_checkpoint
from metarl.store.config_file import load_config

ACTIONS, LATENT, ROWS = 2, 3, 5
DISCOUNT, STD = 0.9, 2.0


def make(**settings):
    options = PEARLConfig(LATENT, **settings)
    network = PolicySettings(hidden_sizes=(6,), initial_std=0.5)
    rule = PEARL(PosteriorPolicy(OBSERVATION, Gaussian(ACTIONS), options, network))
    meta = rule.initial(np.random.default_rng(0)).double()
    meta[-3:] = torch.tensor([10.0, 0.5, STD**2])  # Number, mean and variance of the rewards so far.
    return rule, meta


def transitions(seed=0, rows=ROWS):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return torch.from_numpy(rng.standard_normal((TASKS, rows, *shape)))

    terminated = torch.from_numpy(rng.integers(0, 2, (TASKS, rows))).double()
    return Transitions(draw(OBSERVATION), draw(ACTIONS).tanh(), draw(), draw(OBSERVATION), terminated)


def test_a_deviation_at_its_limit_is_refused():
    options, largest = PEARLConfig(LATENT), math.exp(2)
    with pytest.raises(UserError, match=r"initial_std must be less than 7\.39 with pearl, got 20: at this limit"):
        PosteriorPolicy(OBSERVATION, Gaussian(ACTIONS), options, PolicySettings(initial_std=20.0))
    PosteriorPolicy(OBSERVATION, Gaussian(ACTIONS), options, PolicySettings(initial_std=largest - 1e-3))


ONCE = torch.ones(1, 1)  # Each transition counts once.


def policy_and_network():
    rule, meta = make()
    return rule.policy, rule.network(meta)


# The posterior


def test_the_posterior_is_the_product_of_the_prior_and_a_factor_of_each_transition():
    rule, meta = make()
    context = transitions()
    mean, variance = rule.posterior(meta, context, ONCE)
    inputs = torch.cat([context.observations, context.actions, (context.rewards[..., None] - 0.5) / STD], dim=2)
    factor_mean, spread = rule.policy._encoder(rule.network(meta)[:4], inputs).chunk(2, dim=2)
    deviation = torch.nn.functional.softplus(spread).sqrt()
    grid = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
    for task in range(TASKS):
        for entry in range(LATENT):
            of_entry = factor_mean[task, :, entry], deviation[task, :, entry]
            factors = torch.distributions.Normal(*(part[:, None] for part in of_entry))
            prior = torch.distributions.Normal(torch.zeros(()).double(), torch.ones(()).double())
            density = (factors.log_prob(grid).sum(0) + prior.log_prob(grid)).softmax(0)
            expected = (density * grid).sum()
            torch.testing.assert_close(mean[task, entry], expected, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(
                variance[task, entry], (density * (grid - expected) ** 2).sum(), rtol=1e-6, atol=1e-6
            )


def test_transitions_that_were_drawn_again_count_once():
    """An agent has met each once, and 4 of each were drawn."""
    rule, meta = make()
    context = transitions(rows=3)
    drawn = Transitions(*(getattr(context, part.name).repeat_interleave(4, 1) for part in dataclasses.fields(context)))
    torch.testing.assert_close(rule.posterior(meta, drawn, ONCE / 4), rule.posterior(meta, context, ONCE))
    mean, variance = rule.posterior(meta, drawn, 0 * ONCE)
    assert not mean.any()
    assert (variance == 1).all()


@pytest.mark.parametrize("lengths", [(STEPS,) * TASKS, (3, 7, 1, 5)], ids=["equal", "different"])
def test_acting_step_by_step_is_reading_at_once(lengths):
    policy, network = policy_and_network()
    trials = some_trials(policy, lengths)
    read = policy.read(network, REWARDS, blank(policy), trials)
    states = policy.states(network, REWARDS, blank(policy), trials)
    for task, length in enumerate(lengths):
        outputs, memory = lived_through(policy, network, trials, task)
        torch.testing.assert_close(read[task], memory, rtol=1e-12, atol=1e-12)
        latents = torch.zeros(length, LATENT).double()  # No episode was started, so none was drawn.
        torch.testing.assert_close(outputs, policy.outputs(network, latents, trials.observations[task, :length]))
        precision, weighted, *_ = policy.layout.views(read)
        torch.testing.assert_close(states[task, length - 1], weighted[task] / (1 + precision[task]))


def test_an_episode_has_one_sample_of_the_posterior():
    policy, network = policy_and_network()
    memory = policy.read(network, REWARDS, blank(policy), some_trials(policy))
    draws = torch.randn(2000, LATENT, generator=torch.Generator().manual_seed(0)).double()
    precision, weighted, latents, _ = policy.layout.views(policy.started(memory[:1].expand(2000, -1), draws))
    variance = 1 / (1 + precision[0])
    torch.testing.assert_close(latents.mean(0), weighted[0] * variance, atol=0.05, rtol=0)
    torch.testing.assert_close(latents.var(0), variance, rtol=0.15, atol=0)
    acting = Remembering(policy, network, REWARDS, memory)
    acting.draw([np.random.default_rng(task) for task in range(TASKS)])
    before = acting._memory
    observations = torch.zeros(TASKS, 1, OBSERVATION).double()
    first = acting.outputs(observations)
    acting.receive(torch.ones(TASKS, 1, ACTIONS).double(), np.ones(TASKS))
    assert torch.equal(acting.outputs(observations), first)  # What is learned within an episode serves the next one.
    assert not torch.equal(acting._memory[:, :LATENT], before[:, :LATENT])


# The losses


def of_stable_baselines(rule, meta, targets, batch, latents, noise, monkeypatch):
    """What Stable-Baselines3's soft actor-critic logs, with the same networks, transitions and noise."""
    observations = Box(-np.inf, np.inf, (OBSERVATION + LATENT,))
    env = gym.make("metarl/Navigation-v0")  # Only its spaces are used.
    env.observation_space, env.action_space = observations, Box(-1, 1, (ACTIONS,))
    network = {"net_arch": [6], "activation_fn": torch.nn.ReLU}
    model = SB3SAC("MlpPolicy", env, learning_rate=0.0, gamma=DISCOUNT, policy_kwargs=network, buffer_size=1)
    model.set_logger(configure(format_strings=[]))
    tensors = dict(zip(rule.policy.weights.names, rule.network(meta), strict=True))
    actor = model.policy.actor
    last = [tensors[f"policy_{kind}2"] for kind in ("weight", "bias")]
    means, log_stds = [part[:ACTIONS] for part in last], [part[ACTIONS:] for part in last]
    values = [tensors["policy_weight1"], tensors["policy_bias1"], *means, *log_stds]
    copy_into([*actor.latent_pi.parameters(), *actor.mu.parameters(), *actor.log_std.parameters()], values)
    for critic, weights in ((model.critic, meta[rule.critics]), (model.critic_target, targets)):
        views = [view[0] for view in rule._layout.views(weights[None])]
        # Ours sees observation, action and latent variable, theirs the action last.
        order = [*range(OBSERVATION), *range(OBSERVATION + ACTIONS, OBSERVATION + ACTIONS + LATENT)]
        order += range(OBSERVATION, OBSERVATION + ACTIONS)
        copy_into(critic.parameters(), [view[:, order] if view.shape[-1] == len(order) else view for view in views])
    copy_into([model.log_ent_coef], [meta[rule.critics.stop : rule.critics.stop + 1]])

    def rows(values):
        return values.flatten(0, 1).float()  # They compute in single precision.

    def seen(values):
        return torch.cat([rows(values), rows(latents)], dim=1)

    column = (rows(batch.terminated)[:, None], rows(batch.rewards / STD)[:, None])
    sample = ReplayBufferSamples(seen(batch.observations), rows(batch.actions), seen(batch.next_observations), *column)
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *arguments, **options: sample)
    numbers = iter([rows(noise.actions), rows(noise.next_actions)])
    monkeypatch.setattr(torch.distributions.Normal, "rsample", lambda normal: normal.loc + normal.scale * next(numbers))
    model.train(gradient_steps=1)
    logged = model.logger.name_to_value
    return {name: logged[f"train/{name}"] for name in ("critic_loss", "actor_loss", "ent_coef_loss", "ent_coef")}


def copy_into(parameters, values):
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data.copy_(value.detach())


def test_the_losses_are_stable_baselines(monkeypatch):
    rule, meta = make(kl_weight=0.0)
    targets = meta[rule.critics] + 0.1 * torch.randn(len(meta[rule.critics]), dtype=torch.float64)
    context, batch = transitions(1, rows=8), transitions(2)
    noise = rule.noise(batch, torch.Generator().manual_seed(0))
    loss, (of_critics, _, entropy, temperature) = rule.loss(meta, targets, DISCOUNT, context, ONCE, batch, noise)
    mean, variance = rule.posterior(meta, context, ONCE)
    latents = (mean + noise.latents * variance.sqrt())[:, None].expand(-1, ROWS, -1)
    theirs = of_stable_baselines(rule, meta, targets, batch, latents, noise, monkeypatch)
    # They add 1e-6 before a logarithm.
    close = {"rel": 1e-4}
    assert float(of_critics) == pytest.approx(theirs["critic_loss"], **close)
    assert float(temperature) == pytest.approx(theirs["ent_coef"], **close)
    of_temperature = float(meta[rule.critics.stop] * (entropy + ACTIONS))
    assert of_temperature == pytest.approx(theirs["ent_coef_loss"], **close)
    assert float(loss - of_critics) - of_temperature == pytest.approx(theirs["actor_loss"], **close)


def test_the_divergence_is_from_the_prior():
    rule, meta = make(kl_weight=0.7)
    context, batch = transitions(1), transitions(2)
    noise = rule.noise(batch, torch.Generator().manual_seed(0))
    arguments = meta[rule.critics], DISCOUNT, context, ONCE, batch, noise
    loss, report = rule.loss(meta, *arguments)
    rule.options = dataclasses.replace(rule.options, kl_weight=0.0)
    without, _ = rule.loss(meta, *arguments)
    mean, variance = rule.posterior(meta, context, ONCE)
    posterior, prior = (torch.distributions.Normal(*pair) for pair in ((mean, variance.sqrt()), (0 * mean, 1)))
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(1).mean()
    torch.testing.assert_close(loss - without, 0.7 * divergence)
    torch.testing.assert_close(report[1], divergence)


def moved(rule, gradient):
    """The parts of the meta-parameters whose gradient is not 0."""
    encoder = sum(math.prod(shape) for _, shape in rule.policy._encoder.shapes)
    sizes = [encoder, rule.policy.weights.size - encoder, len(gradient[rule.critics]), 1, 3]
    names = ("encoder", "policy", "critics", "temperature", "statistics")
    return {name for name, part in zip(names, gradient.split(sizes), strict=True) if part.any()}


def test_each_loss_moves_its_own_part():
    rule, meta = make()
    context, batch = transitions(1), transitions(2)
    noise = rule.noise(batch, torch.Generator().manual_seed(0))

    def gradient(**changed):
        rule.options = dataclasses.replace(rule.options, **changed)
        leaf = meta.clone().requires_grad_()
        loss, _ = rule.loss(leaf, meta[rule.critics], DISCOUNT, context, ONCE, batch, noise)
        return torch.autograd.grad(loss, leaf)[0]

    everything = gradient(kl_weight=0.0)
    assert moved(rule, everything) == {"encoder", "policy", "critics", "temperature"}
    assert moved(rule, gradient(kl_weight=1.0) - everything) == {"encoder"}
    # Rewards are what the critics and, through them, the encoder learn from.
    batch = dataclasses.replace(batch, rewards=batch.rewards + 1)
    assert moved(rule, gradient(kl_weight=0.0) - everything) == {"encoder", "critics"}


# The meta-optimiser


def loop_of(rule, meta, first=0, lengths=(6, 4, 2, 6)):
    """Two episodes of each task, of random actions, each of which wants another one; the third task's terminate."""
    values, steps = torch.linspace(-1, 1, TASKS).to(meta), max(lengths)

    def collect(memory, phase, wanted):
        rng = np.random.default_rng(first + phase)
        observations = torch.from_numpy(rng.standard_normal((TASKS, 1, steps + 1, OBSERVATION))).to(meta)
        actions = torch.from_numpy(rng.uniform(-1, 1, (TASKS, 1, steps, ACTIONS))).to(meta)
        mask = (torch.arange(steps) < torch.tensor(lengths)[:, None, None]).to(meta)
        rewards = -((actions[..., 0] - values[:, None, None]) ** 2) * mask
        return Rollouts(
            observations[:, :, :-1],
            actions,
            torch.zeros_like(rewards),
            rewards,
            mask,
            torch.zeros_like(rewards),
            last_observations=observations[:, :, -1],
            truncated=torch.tensor([[True], [True], [False], [True]]),
        )

    return adapt(rule, meta, rule.stages((1.0,)), torch.zeros(TASKS), collect, "ratio", each_task=False).loop


def stepped(rule, state, loop, **settings):
    config = SACConfig(**{"updates": 3, "trials": 2, "transitions": 4, **settings})
    return SAC(config, RolloutSettings(discount=0.0)).step(state, loop, Workers(1), np.random.default_rng(0))


def every_step(steps, last):
    """Many transitions of each trial until its episode ``last``."""
    trials = torch.arange(TASKS)[:, None]
    return steps.drawn(trials, torch.full_like(trials, last), 300, torch.Generator().manual_seed(0))


def test_only_steps_that_took_place_are_drawn_and_only_the_end_of_an_episode_terminates():
    rule, meta = make()
    loop = loop_of(rule, meta)
    joined = Rollouts.concatenate([loop.supports[0].rollouts, loop.queries[0]], axis=1)
    steps = _Steps(joined)
    assert steps.counts.tolist() == [[6, 12], [4, 8], [2, 4], [6, 12]]
    drawn = every_step(steps, last=1)
    for task, length in enumerate((6, 4, 2, 6)):
        wanted = joined.observations[task, :, :length].reshape(-1, OBSERVATION)
        found = {tuple(row) for row in drawn.observations[task].tolist()}
        assert found == {tuple(row) for row in wanted.tolist()}
        after = joined.observations[task, :, 1:length].reshape(-1, OBSERVATION)
        assert {tuple(row) for row in after.tolist()} < {tuple(row) for row in drawn.next_observations[task].tolist()}
    assert drawn.terminated[[0, 1, 3]].sum() == 0
    last = joined.observations[2, :, 1]
    for row, terminated in zip(drawn.observations[2], drawn.terminated[2], strict=True):
        assert bool(terminated) == any(torch.equal(row, end) for end in last)


def test_the_posterior_reads_the_first_episodes_of_a_trial(monkeypatch):
    rule, meta = make()
    loop = loop_of(rule, meta)
    first = Rollouts.concatenate([loop.supports[0].rollouts, loop.queries[0]], axis=1).observations[:, 0, :, 0]
    drawn = every_step(_Steps(as_rollouts(latest_trials({}, loop, 9, ["truncated"]), loop)), last=0)
    assert {*drawn.observations[..., 0].flatten().tolist()} <= {*first.flatten().tolist()}
    seen, loss = [], rule.loss

    def recorded(meta, targets, discount, context, weight, batch, noise):
        assert {round(64 * one) for one in weight.flatten().tolist()} <= {6, 4, 2}  # The lengths of the first episodes.
        seen.append((context, batch))
        return loss(meta, targets, discount, context, weight, batch, noise)

    monkeypatch.setattr(rule, "loss", recorded)
    state, _ = stepped(rule, LearnerState(meta, {}), loop)
    stepped(rule, state, loop, updates=20)
    inside = [
        [bool(torch.isin(part.observations[..., 0], first).all()) for part in (context, batch)]
        for context, batch in seen
    ]
    assert all(of_context for of_context, _ in inside)  # A trial of two episodes has one that another one follows.
    assert not all(of_batch for _, of_batch in inside)


def test_the_first_iteration_fills_the_buffer_and_later_ones_keep_the_latest_trials():
    rule, meta = make()
    loops = [loop_of(rule, meta, first=10 * index) for index in range(3)]
    state, report = stepped(rule, LearnerState(meta, {}), loops[0], buffer=6)
    assert (report.outcome, torch.equal(state.meta, meta)) == ("first trials", True)
    for loop in loops[1:]:
        state, report = stepped(rule, state, loop, buffer=6)
    assert report.outcome == "3 updates"
    assert not torch.equal(state.meta, meta)
    kept = [Rollouts.concatenate([loop.supports[0].rollouts, loop.queries[0]], axis=1).rewards for loop in loops]
    assert torch.equal(state.memory["buffer.rewards"], torch.cat(kept)[-6:])
    assert torch.equal(meta[-3:], state.meta[-3:])  # Only `after_meta_step` moves the statistics.


def test_the_target_critics_follow_the_critics():
    rule, meta = make()
    first, second = loop_of(rule, meta), loop_of(rule, meta, first=10)
    state, _ = stepped(rule, LearnerState(meta, {}), first)
    at_once, _ = stepped(rule, state, second, polyak=1.0)
    assert torch.equal(at_once.memory["targets"], at_once.meta[rule.critics])
    slowly, _ = stepped(rule, state, second, updates=1, polyak=0.25)
    wanted = 0.75 * meta[rule.critics] + 0.25 * slowly.meta[rule.critics]
    torch.testing.assert_close(slowly.memory["targets"], wanted)


def test_a_gradient_that_is_not_finite_leaves_the_state():
    rule, meta = make()
    state, _ = stepped(rule, LearnerState(meta, {}), loop_of(rule, meta))
    state.memory["buffer.rewards"][:] = math.inf
    new, report = stepped(rule, state, loop_of(rule, meta, first=10))
    assert report.outcome == "non-finite"
    assert new is state


def test_it_learns_from_random_actions_which_action_each_task_wants():
    rule, meta = make(kl_weight=1e-3)
    state = LearnerState(meta.float(), {})
    for index in range(3):
        loop = loop_of(rule, state.meta, first=10 * index)
        state, _ = stepped(rule, state, loop, updates=200, trials=8, transitions=16, lr=1e-2)
    context = every_step(_Steps(loop.queries[0]), last=0)
    latents, _ = rule.posterior(state.meta, context, ONCE)
    outputs = rule.policy.outputs(rule.network(state.meta), latents, torch.zeros(TASKS, OBSERVATION))
    chosen = rule.policy.distribution.mode(outputs)[:, 0]
    # Before, all tasks had the same action, with a mean distance of 0.67.
    assert (chosen - torch.linspace(-1, 1, TASKS)).abs().mean() < 0.4


# Runs

SETTINGS = {"algo": "pearl", "sac": {"updates": 3, "trials": 3, "transitions": 8, "buffer": 6}}


def test_a_resumed_run_is_bit_for_bit_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr(NavigationFamily, "min_envs_per_shard", 1)
    metarl.train(tiny(tmp_path / "whole", iterations=4, threads=1, meta_batch_size=9, **SETTINGS))
    metarl.train(tiny(tmp_path / "parts", iterations=2, threads=2, meta_batch_size=9, **SETTINGS))
    metarl.train(tiny(tmp_path / "parts", iterations=4, threads=1, meta_batch_size=9, resume=True, **SETTINGS))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    whole, parts = (load_checkpoint(load_config(tmp_path / name), "last").learner.memory for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_outside_of_training_it_acts_by_the_mode(tmp_path, monkeypatch):
    modes, collect = [], Sampler.collect

    def recorded(self, *arguments):
        modes.append(arguments[-1])
        return collect(self, *arguments)

    monkeypatch.setattr(Sampler, "collect", recorded)
    run = metarl.train(tiny(tmp_path, iterations=1, validate_every=0, **SETTINGS))
    assert modes
    assert not any(modes)
    modes.clear()
    metarl.evaluate(tmp_path, EvaluationConfig(tasks=2, rollouts=1, gradient_steps=1))
    env = gym.make("metarl/Navigation-v0", max_episode_steps=10)
    env.reset(seed=0)
    policy = run.agent.adapt(env, num_steps=1)
    assert all(modes)
    policy.start()
    actions = [copy.deepcopy(policy).predict(np.zeros(2), deterministic=by_mode) for by_mode in (None, True, False)]
    np.testing.assert_array_equal(actions[0], actions[1])
    assert (actions[0] != actions[2]).any()


def test_a_saved_agent_goes_on_as_it_would_have(tmp_path):
    run = metarl.train(tiny(tmp_path / "run", iterations=2, **SETTINGS))
    env = gym.make("metarl/Navigation-v0", max_episode_steps=10)
    env.reset(seed=0)
    policy = run.agent.adapt(env, num_steps=2)
    policy.save(tmp_path / "agent.safetensors")
    again = metarl.load_policy(tmp_path / "agent.safetensors")
    assert torch.equal(policy.memory, again.memory)
    for one in (policy, again):
        one.start()
        one.predict(np.zeros(2))
        one.predict(np.full(2, 0.1), -0.5)
        one.finish(-0.4)
        one.start()
    assert policy.memory.any()
    assert torch.equal(policy.memory, again.memory)  # The samples, too.


def test_the_rule_passes_its_check():
    check_rule("pearl")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algo": "pearl", "meta_optimiser": "ppo"}, "pearl is an agent with memory: meta_optimiser must be sac"),
        ({"algo": "rl2", "meta_optimiser": "sac"}, "rl2 is an agent with memory: meta_optimiser must be ppo"),
        ({"algo": "maml", "meta_optimiser": "sac"}, "maml is an agent without memory: meta_optimiser must be trpo"),
        ({"algo": "pearl", "gae_lambda": 0.5}, "gae_lambda would do nothing: it is for meta-optimisers other than sac"),
        ({"algo": "pearl", "inner_lr": 0.5}, "inner_lr would do nothing"),
        ({"algo": "pearl", "pearl": {"latent_size": 0}}, "pearl.latent_size must be"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**settings).resolve()


def test_actions_that_are_choices_are_refused(tmp_path):
    with pytest.raises(UserError, match="pearl needs actions that are numbers, and here they are choices; take rl2"):
        metarl.train(tiny(tmp_path, env="bandit", **SETTINGS))
    with pytest.raises(UserError, match="pearl needs actions"):
        PosteriorPolicy(OBSERVATION, Categorical(3), PEARLConfig(), PolicySettings())


def test_families_defaults_for_other_agents_with_memory_are_not_its_own():
    settings = Config(env="cheetah-vel", algo="pearl").resolve()
    assert (settings.rollouts.action_scale, settings.inner.num_inner_steps) == (1.0, 2)
