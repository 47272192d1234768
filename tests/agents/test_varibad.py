"""VariBAD: its bound is the paper's, and each part of it learns from its own loss and from no other."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from quick import quick
from tiny_runs import assert_same_run, tiny
from trials import OBSERVATION, TASKS, blank, lived_through, some_trials

import metarl
from metarl import UserError, check_rule
from metarl.agents.varibad import VariBAD
from metarl.common.parallel import Workers
from metarl.config.algorithms import ALGORITHMS, VariBADConfig
from metarl.config.optimisers import PPOConfig
from metarl.config.settings import PolicySettings, RolloutSettings
from metarl.data import LearnerState, Rollouts
from metarl.envs.navigation import NavigationFamily
from metarl.inner.loop import InnerLoop, adapt
from metarl.outer.belief import train_belief
from metarl.outer.ppo import PPO
from metarl.policies.belief import BeliefPolicy
from metarl.policies.distributions import Categorical, Gaussian
from metarl.runs.training import train
from metarl.store.checkpoints import load_checkpoint
from metarl.store.config_file import load_config

LATENT, TASK = 2, 2
DISTRIBUTIONS = {"gaussian": Gaussian(2), "categorical": Categorical(3)}
DECODERS = ("reward", "reward-and-state", "task")


def make(decoder="reward", cell="gru", distribution="gaussian", **settings):
    options = VariBADConfig(cell, 6, LATENT, decoder, decoder_sizes=(7,), **settings)
    network = PolicySettings(hidden_sizes=(5,), activation="tanh", initial_std=0.5)
    rule = VariBAD(BeliefPolicy(OBSERVATION, DISTRIBUTIONS[distribution], options, network), TASK)
    meta = rule.initial(np.random.default_rng(0)).double()
    meta[-3:] = torch.tensor([10.0, 0.5, 4.0])  # Number, mean and variance of the rewards so far.
    return rule, meta


def trials_for(rule, lengths=(7, 3, 5, 7)):
    trials = some_trials(rule.policy, lengths)
    following = torch.randn(trials.observations.shape, generator=torch.Generator().manual_seed(2)).double()
    return dataclasses.replace(trials, next_observations=following)


def parts_of(rule, meta):
    """Parts of a vector like the meta-parameters, by the tensor's name; the reward statistics last."""
    layouts = (rule.policy.weights, rule._layout)
    names = [name for layout in layouts for name in layout.names]
    sizes = [size for layout in layouts for size in layout.sizes]
    return dict(zip([*names, "statistics"], meta.split([*sizes, 3]), strict=True))


RECURRENT = ["input_weight", "memory_weight", "input_bias", "memory_bias", "belief_weight1", "belief_bias1"]


def perceptron(tensors, name, inputs):
    """One hidden layer of rectified units, written out."""
    w1, b1, w2, b2 = (tensors[f"{name}_{kind}"] for kind in ("weight1", "bias1", "weight2", "bias2"))
    return w2.view(-1, 7) @ torch.relu(w1.view(7, -1) @ inputs + b1) + b2


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_bound_is_the_papers(decoder, distribution):
    sizes = {"prefixes": 3, **({} if decoder == "task" else {"decoded_steps": 2})}
    rule, meta = make(decoder, distribution=distribution, kl_weight=0.3, **sizes)
    trials, tasks = trials_for(rule), torch.randn(TASKS, TASK, generator=torch.Generator().manual_seed(3)).double()
    draws = rule.draws(np.random.default_rng(0), trials)
    bound, report = rule.bound(meta, trials, tasks, draws)
    tensors, network = parts_of(rule, meta), rule.network(meta)
    actions = rule.policy.distribution.features(trials.actions).double()
    for trial, length in enumerate(trials.mask.sum(1).long()):
        terms, divergences, squares = [], [], []
        for prefix, noise in zip(draws.prefixes[trial], draws.noise[trial], strict=True):
            beliefs = []
            for end in (prefix, prefix + 1):  # What was read before this step, and with it.
                if end == 0:
                    beliefs.append(torch.distributions.Normal(torch.zeros(LATENT), torch.ones(LATENT)))
                    continue
                memory = blank(rule.policy, 1)
                for step in range(end):
                    at = (slice(trial, trial + 1), step)
                    _, memory = rule.policy.act(network, memory, trials.observations[at], trials.first[at])
                    after, rewards = memory, rule.rewards(meta)
                    memory = rule.policy.received(network, rewards, memory, trials.actions[at], trials.rewards[at])
                mean, log_variance = (part[0] for part in rule.policy.belief(network, after[:, :6]))
                beliefs.append(torch.distributions.Normal(mean, (log_variance / 2).exp()))
            before, belief = beliefs
            divergences.append(torch.distributions.kl_divergence(belief, before).sum())
            latent, error = belief.mean + belief.stddev * noise, torch.zeros(())
            if decoder == "task":
                square = (perceptron(tensors, "task", latent) - tasks[trial]) ** 2
                squares.append(square)
                error = square.mean() / 2
            else:
                for step in draws.steps[trial]:
                    seen = torch.cat([latent, trials.observations[trial, step], actions[trial, step]])
                    following = trials.next_observations[trial, step]
                    reward = (trials.rewards[trial, step] - 0.5) / math.sqrt(4 + 1e-8)
                    square = (perceptron(tensors, "reward", torch.cat([seen, following])) - reward) ** 2
                    squares.append(square)
                    error = error + square.mean() / 2 / 2  # Half the square, and the mean of 2 steps.
                    if decoder == "reward-and-state":
                        square = (perceptron(tensors, "state", seen) - following) ** 2
                        squares.append(square)
                        error = error + square.mean() / 2 / 2
            terms.append(error + 0.3 * divergences[-1])
        torch.testing.assert_close(bound[trial], torch.stack(terms).mean(), rtol=1e-10, atol=1e-10)
        by_decoder = [torch.stack(squares[k :: len(decoder.split("-and-"))]).mean() for k in range(2)]
        error = sum(by_decoder) / 2 if decoder == "reward-and-state" else torch.stack(squares).mean()
        wanted = torch.stack([error, torch.stack(divergences).mean() * length])
        torch.testing.assert_close(report[trial], wanted, rtol=1e-10, atol=1e-10)


def test_a_draw_just_below_one_is_of_the_last_step():
    """As a float32 it would be 1, and of the step behind the last one."""

    class Highest:
        random = staticmethod(lambda shape: np.full(shape, 1 - 2.0**-53))
        standard_normal = staticmethod(np.zeros)

    rule, _ = make(prefixes=3, decoded_steps=4)
    trials = trials_for(rule)
    draws, last = rule.draws(Highest(), trials), trials.mask.sum(1, keepdim=True).long() - 1
    assert torch.equal(draws.prefixes, last.expand(-1, 3))
    assert torch.equal(draws.steps, last.expand(-1, 4))


def test_draws_are_among_the_steps_that_took_place():
    rule, _ = make(prefixes=200, decoded_steps=200)
    draws = rule.draws(np.random.default_rng(0), trials_for(rule))
    for steps in (draws.prefixes, draws.steps):
        assert [sorted(set(row.tolist())) for row in steps] == [list(range(length)) for length in (7, 3, 5, 7)]
    assert draws.noise.shape == (TASKS, 200, LATENT)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_acting_step_by_step_is_judging_at_once(cell):
    rule, meta = make(cell=cell)
    trials = trials_for(rule)
    judged = rule.forward(meta, trials)
    again = rule.forward(meta, rule.with_states(meta, trials))
    assert torch.equal(judged.outputs, again.outputs)
    assert torch.equal(judged.values, again.values)
    rewards = rule.rewards(meta)
    for task, length in enumerate((7, 3, 5, 7)):
        outputs, _ = lived_through(rule.policy, rule.network(meta), trials, task, rewards)
        torch.testing.assert_close(judged.outputs[task, :length], outputs, rtol=1e-12, atol=1e-12)


def test_policy_and_critic_see_mean_and_log_variance():
    rule, meta = make()
    states = rule.states(meta, trials_for(rule))
    seen = rule.policy.summary(rule.network(meta), states)
    assert torch.equal(seen, torch.cat(rule.policy.belief(rule.network(meta), states), dim=2))


def moved(rule, gradient):
    """Names of the tensors whose gradient is not 0."""
    return {name for name, part in parts_of(rule, gradient).items() if part.any()}


@pytest.mark.parametrize("decoder", DECODERS)
def test_policy_and_belief_learn_from_losses_of_their_own(decoder):
    rule, meta = make(decoder)
    trials, leaf = trials_for(rule), meta.requires_grad_()
    judged = rule.forward(leaf, trials)
    total = judged.outputs.sum() + judged.extra.sum() + judged.values.sum()
    (of_reinforcement,) = torch.autograd.grad(total, leaf)
    bound, _ = rule.bound(leaf, trials, torch.ones(TASKS, TASK), rule.draws(np.random.default_rng(0), trials))
    (of_bound,) = torch.autograd.grad(bound.sum(), leaf)
    decoders = {name for name, _ in parts_of(rule, meta).items() if name.split("_")[0] in decoder.split("-and-")}
    assert len(decoders) == 4 * len(decoder.split("-and-"))
    assert moved(rule, of_bound) == {*RECURRENT, *decoders}
    heads = {f"{head}_{kind}{layer}" for head in ("policy", "value") for kind in ("weight", "bias") for layer in (1, 2)}
    assert moved(rule, of_reinforcement) == {*heads, "log_std"}


# Training


def loop_of(rule, meta, steps=8, tasks=20, first=0, scale=1.0):
    """Two episodes of each task, of random actions; the reward is the task's, times a number that all tasks share."""
    values = torch.linspace(-1, 1, tasks).double()

    def collect(memory, phase, wanted):
        rng = np.random.default_rng(first + phase)
        observations = torch.from_numpy(rng.standard_normal((tasks, 1, steps + 1, OBSERVATION)))
        actions = torch.from_numpy(rng.standard_normal((tasks, 1, steps, 2)))
        rewards = scale * values[:, None, None] * (1 + observations[:, :, :-1, 0])
        return Rollouts(
            observations[:, :, :-1],
            actions,
            torch.zeros_like(rewards),
            rewards,
            torch.ones_like(rewards),
            torch.zeros_like(rewards),
            last_observations=observations[:, :, -1],
        )

    stages = rule.stages((1.0,))
    loop = adapt(rule, meta, stages, torch.zeros(tasks), collect, "ratio", each_task=False).loop
    return dataclasses.replace(loop, identities=torch.stack([values, 3 + values], dim=1))


def trained(rule, meta, iterations, scale=1.0):
    """Reconstruction errors of the first and the last of some iterations in which the belief is trained."""
    state, errors = LearnerState(meta, {}), []
    for index in range(iterations):
        state, report = train_belief(
            rule, state, loop_of(rule, state.meta, first=10 * index, scale=scale), np.random.default_rng(index)
        )
        errors.append(report["reconstruction_error"])
    return errors[0], errors[-1]


@pytest.mark.parametrize("decoder", quick(["reward", "task"], "task"))
def test_the_belief_learns_what_rewards_tell_of_the_task(decoder):
    rule, meta = make(decoder, lr=1e-2, updates=20)
    meta[-3:] = torch.tensor([10.0, 0.0, 1.0])
    first, last = trained(rule, meta, 10)
    # A decoder that knows nothing of the task has an error of a variance: that of the rewards or of the tasks.
    assert first > 0.5
    assert last < 0.3 * first


def test_a_belief_that_hears_no_rewards_learns_no_task():
    rule, meta = make("task", lr=1e-2, updates=20)
    _, last = trained(rule, meta, 5, scale=0.0)
    assert last > 0.8


def test_the_buffer_holds_the_latest_trials():
    rule, meta = make("task", buffer=30, updates=1)
    state, loops = LearnerState(meta, {}), []
    for index in range(3):
        loops.append(loop_of(rule, meta, first=10 * index))
        state, _ = train_belief(rule, state, loops[-1], np.random.default_rng(0))
        assert len(state.memory["buffer.rewards"]) == min(20 * (index + 1), 30)
    *_, before, last = (
        Rollouts.concatenate([loop.supports[0].rollouts, loop.queries[0]], axis=1).rewards for loop in loops
    )
    assert torch.equal(state.memory["buffer.rewards"], torch.cat([before[10:], last]))
    assert state.memory["buffer.rewards"].shape == (30, 2, 8)
    assert torch.equal(state.memory["buffer.tasks"][-20:], loops[-1].identities)


def test_the_buffer_is_normalised_by_the_statistics_of_the_iteration(tmp_path):
    # Observations are kept raw: after an update of the statistics, old and new trials are normalised alike.
    run = tiny(tmp_path / "run", algo="varibad", normalise_observations=True, iterations=3)
    train(run)
    state = load_checkpoint(run, "last").learner
    observations = state.memory["buffer.observations"]
    assert observations.shape == (12, 3, 20, 2)
    # The agents of navigation start at the origin.
    torch.testing.assert_close(observations[:, :, 0], torch.zeros(12, 3, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["reward_weight1", "policy_weight1"])
def test_a_gradient_that_is_not_finite_leaves_the_state(name):
    rule, meta = make()
    with Workers(1) as workers:
        ppo = PPO(PPOConfig(), RolloutSettings())
        meta = meta.float()
        broken = parts_of(rule, meta)[name].fill_(math.inf)
        assert torch.isinf(broken).all()
        state = LearnerState(meta, {})
        new, report = ppo.step(state, as_float(loop_of(rule, meta.double())), workers, np.random.default_rng(0))
    assert report.outcome == "non-finite"
    assert new is state
    assert {"reconstruction_error", "belief_kl"} < report.numbers.keys()  # As in every other iteration.


def as_float(loop: InnerLoop) -> InnerLoop:
    def to(rollouts):
        return dataclasses.replace(rollouts, **{k: v.float() for k, v in rollouts.tensors().items()})

    supports = [dataclasses.replace(support, data=to(support.data)) for support in loop.supports]
    return dataclasses.replace(loop, supports=supports, queries=[to(query) for query in loop.queries])


# Runs

SETTINGS = {"algo": "varibad", "varibad": {"batch": 3, "buffer": 6, "updates": 2}}
WITH_TASKS = {"algo": "varibad", "varibad": {"decoder": "task"}}


@pytest.mark.parametrize("settings", quick({"rewards": SETTINGS, "tasks": WITH_TASKS}, "rewards"))
def test_a_resumed_run_is_bit_for_bit_an_uninterrupted_one(tmp_path, settings):
    train(tiny(tmp_path / "whole", iterations=4, **settings))
    train(tiny(tmp_path / "parts", iterations=1, **settings))
    train(tiny(tmp_path / "parts", iterations=4, resume=True, **settings))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    whole, parts = (load_checkpoint(load_config(tmp_path / name), "last").learner.memory for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_results_do_not_depend_on_the_number_of_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(NavigationFamily, "min_envs_per_shard", 1)
    for threads in (1, 2, 3):
        train(tiny(tmp_path / str(threads), threads=threads, meta_batch_size=13, **WITH_TASKS))
    assert_same_run(tmp_path / "1", tmp_path / "2")
    assert_same_run(tmp_path / "1", tmp_path / "3")


def test_the_rule_passes_its_check():
    check_rule("varibad")
    check_rule("varibad", {"cell": "lstm", "decoder": "reward-and-state"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"buffer": 10}, "varibad.buffer must be at least varibad.batch, 20, which is drawn from it; got 10."),
        ({"decoder": "task", "decoded_steps": 5}, "varibad.decoded_steps is for rewards"),
        ({"latent_size": 0}, "varibad.latent_size must be"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        VariBADConfig(**settings)


class Tight(NavigationFamily):
    """Says one of PPO's settings."""

    memory_defaults: ClassVar = {"ppo": {"clip": 0.1}}


def test_defaults_of_algorithm_and_family_for_one_component_are_joined(monkeypatch):
    defaults = ALGORITHMS["varibad"].defaults
    row = dataclasses.replace(ALGORITHMS["varibad"], defaults={**defaults, "ppo": {"minibatches": 7, "clip": 0.3}})
    monkeypatch.setitem(ALGORITHMS, "varibad", row)
    settings = metarl.Config(env=Tight, algo="varibad", ppo={"epochs": 2}).resolve().optimiser
    assert (settings.minibatches, settings.clip, settings.epochs) == (7, 0.1, 2)


def test_a_decoder_without_hidden_layers_learns(tmp_path):
    run = train(tiny(tmp_path, algo="varibad", varibad={"decoder_sizes": (), "units": 4}))
    assert np.isfinite(run.progress["post_adaptation_return"]).all()


def test_tasks_are_shown_to_their_decoder_alone(tmp_path):
    shown = {}
    for decoder in ("reward", "task"):
        run = tiny(tmp_path / decoder, algo="varibad", varibad={"decoder": decoder}, iterations=1)
        train(run)
        shown[decoder] = load_checkpoint(run, "last").learner.memory
    assert "buffer.tasks" not in shown["reward"]
    goals = shown["task"]["buffer.tasks"]
    assert goals.shape == (4, 2)
    assert NavigationFamily().task_space.contains(goals[0].numpy())
