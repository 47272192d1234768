"""Policies that remember: acting step by step is reading at once, and what is remembered is what happened."""

import dataclasses

import numpy as np
import pytest
import torch
from trials import OBSERVATION, REWARDS, STEPS, TASKS, blank, lived_through, some_trials

from metarl.config.algorithms import RL2Config
from metarl.config.settings import PolicySettings
from metarl.policies.distributions import Categorical, Categoricals, Gaussian
from metarl.policies.memory import Remembering
from metarl.policies.recurrent import RecurrentPolicy

DISTRIBUTIONS = {"gaussian": Gaussian(2), "categorical": Categorical(3), "categoricals": Categoricals([2, 3])}


def make(cell="gru", distribution="gaussian", hidden_sizes=(5,)):
    network = PolicySettings(hidden_sizes=hidden_sizes, activation="tanh", initial_std=0.5)
    policy = RecurrentPolicy(OBSERVATION, DISTRIBUTIONS[distribution], RL2Config(cell, 6), network)
    return policy, policy.network(policy.initial(np.random.default_rng(0)).double())


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("lengths", [(STEPS,) * TASKS, (3, 7, 1, 5)], ids=["equal", "different"])
def test_acting_step_by_step_is_reading_at_once(cell, distribution, lengths):
    policy, network = make(cell, distribution)
    trials = some_trials(policy, lengths)
    states = policy.states(network, REWARDS, blank(policy), trials)
    outputs, read = (
        policy.outputs(network, states, trials.observations),
        policy.read(network, REWARDS, blank(policy), trials),
    )
    for task, length in enumerate(lengths):
        alone, memory = lived_through(policy, network, trials, task)
        torch.testing.assert_close(outputs[task, :length], alone, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(read[task], memory, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_two_readings_are_one(cell):
    policy, network = make(cell)
    trials = some_trials(policy)
    known = {name: value for name, value in vars(trials).items() if value is not None}
    parts = [
        dataclasses.replace(trials, **{name: value[:, cut] for name, value in known.items()})
        for cut in (slice(0, 3), slice(3, None))
    ]
    memory = blank(policy)
    for part in parts:
        memory = policy.read(network, REWARDS, memory, part)
    torch.testing.assert_close(memory, policy.read(network, REWARDS, blank(policy), trials), rtol=1e-12, atol=1e-12)


def test_the_recurrent_layers_are_pytorchs():
    for cell, module in (("gru", torch.nn.GRU), ("lstm", torch.nn.LSTM)):
        policy, network = make(cell)
        layer = module(OBSERVATION + 2 + 2, 6, batch_first=True).double()
        for parameter, value in zip(layer.parameters(), network[:4], strict=True):
            parameter.data.copy_(value)
        trials = some_trials(policy)
        before = torch.cat([trials.actions, REWARDS(trials.rewards[..., None])], dim=2)
        before = torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1]], dim=1)
        inputs = torch.cat([trials.observations, before, trials.first[..., None]], dim=2)
        states = policy.states(network, REWARDS, blank(policy), trials)
        torch.testing.assert_close(states, layer(inputs)[0], rtol=1e-12, atol=1e-12)


def test_the_memory_holds_the_last_action_and_the_normalised_reward():
    policy, network = make(distribution="categorical")
    trials = some_trials(policy, (2, 5, 5, 4))
    read = policy.read(network, REWARDS, blank(policy), trials)
    assert policy.layout.names == ["state", "last_action", "last_reward"]
    _, action, reward = policy.layout.views(read)
    assert action.argmax(1).tolist() == [int(trials.actions[task, last]) for task, last in enumerate((1, 4, 4, 3))]
    wanted = torch.stack([(trials.rewards[task, last] - 0.3) / 2 for task, last in enumerate((1, 4, 4, 3))])
    torch.testing.assert_close(reward[:, 0], wanted)


def test_several_episodes_can_start_from_one_memory():
    policy, network = make()
    memory = torch.randn(TASKS, policy.layout.size, generator=torch.Generator().manual_seed(0)).double()
    observations = torch.randn(TASKS, 2, OBSERVATION, generator=torch.Generator().manual_seed(1)).double()
    acting = Remembering(policy, network, REWARDS, memory)
    outputs = acting.outputs(observations)
    for rollout in range(2):
        one = Remembering(policy, network, REWARDS, memory).outputs(observations[:, rollout : rollout + 1])
        torch.testing.assert_close(outputs[:, rollout], one[:, 0])
    assert acting.extra.shape == (TASKS, 2)


def test_values_see_the_time_and_outputs_do_not():
    policy, network = make()
    trials = some_trials(policy)
    later = dataclasses.replace(trials, elapsed=trials.elapsed + 0.5)
    states = policy.states(network, REWARDS, blank(policy), trials)
    assert (policy.values(network, states, trials) != policy.values(network, states, later)).all()
    assert torch.equal(states, policy.states(network, REWARDS, blank(policy), later))


def test_living_steps_come_first_and_in_order():
    policy, _ = make()
    trials = some_trials(policy)
    mask = torch.tensor(
        [[1, 1, 0, 1, 0, 0, 1], [1, 0, 0, 1, 1, 1, 1], [1] * 4 + [0] * 3, [1, 0, 1, 0, 1, 0, 0]]
    ).double()
    living = dataclasses.replace(trials, mask=mask).living()
    assert living.mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    for task in range(TASKS):
        kept = mask[task].bool()
        for name in ("observations", "actions", "rewards", "first", "elapsed"):
            before, after = getattr(trials, name)[task][kept], getattr(living, name)[task][: int(kept.sum())]
            assert torch.equal(before, after)


def test_initial_weights_are_pytorchs_and_glorots():
    policy, _ = make(hidden_sizes=(40,))
    weights = dict(zip(policy.weights.names, policy.network(policy.initial(np.random.default_rng(0))), strict=True))
    for name, limit in (("memory_weight", 6**-0.5), ("policy_weight1", (6 / (40 + 6 + OBSERVATION)) ** 0.5)):
        assert 0.95 * limit < weights[name].abs().max() <= limit
    assert not weights["value_bias2"].any()
    assert torch.equal(weights["log_std"], torch.full((2,), np.log(0.5)).float())
