"""Bandits and tabular Markov decision processes: what they pay, where they lead, what they refuse.

That native batches equal single environments is tested in envs/test_equality.py.
"""

import json

import gymnasium as gym
import numpy as np
import pytest

import metarl
from metarl.common.errors import UserError
from metarl.envs import get_family
from metarl.envs.bandit import BanditEnv
from metarl.envs.tabular import RandomMDPs, TabularMDPEnv, next_states

LARGEST = np.nextafter(1.0, 0.0)  # what a generator draws from [0, 1) at most


def mdp(means, transitions):
    """The task of given mean rewards [S, A] and transition probabilities [S, A, S]."""
    return np.concatenate([np.ravel(means), np.ravel(transitions)]).astype(np.float64)


def run_batch(family, tasks, actions, seeds):
    """Observations [step, slot, observation] before each action [step, slot], and rewards [step, slot]."""
    slots = len(tasks)
    batch = family.make_episodes(slots, len(actions))
    observations, rewards = np.zeros((len(actions) + 1, slots, *family.observation_space.shape)), np.zeros(slots)
    flags, gained = np.zeros((2, slots), bool), []
    batch.reset(tasks, seeds, observations[0])
    for step, chosen in enumerate(actions):
        batch.step(chosen, observations[step + 1], rewards, *flags)
        gained.append(rewards.copy())
    assert not flags[0].any()
    assert flags[1].all()
    return observations[:-1], np.array(gained)


def test_an_arm_pays_as_often_as_its_mean_says():
    means = np.array([0.0, 0.2, 0.7, 1.0])
    arms = np.tile(np.arange(4), 5000)
    _, rewards = run_batch(get_family("bandit", num_arms=4), np.tile(means, (20000, 1)), arms[None], range(20000))
    assert set(np.unique(rewards)) == {0.0, 1.0}
    paid = rewards[0].reshape(-1, 4).mean(axis=0)
    np.testing.assert_allclose(paid, means, atol=0.03)  # over four standard errors
    assert paid[0] == 0
    assert paid[3] == 1


def test_pulls_of_one_episode_are_independent():
    _, rewards = run_batch(get_family("bandit"), np.full((4000, 5), 0.5), np.zeros((10, 4000), int), range(4000))
    np.testing.assert_allclose(np.cov(rewards), np.eye(10) / 4, atol=0.02)


def test_a_bandit_shows_nothing_and_lasts_ten_pulls():
    env = gym.make("metarl/Bandit-v0")
    observations, ends = [env.reset(seed=0)[0]], []
    for _ in range(10):
        observation, _, *flags, _ = env.step(3)
        observations.append(observation)
        ends.append(flags)
    np.testing.assert_array_equal(observations, np.ones((11, 1)))
    assert ends == [[False, False]] * 9 + [[False, True]]


def test_arm_means_are_uniform():
    means = get_family("bandit").sample_tasks(2000, np.random.default_rng(0))
    assert means.shape == (2000, 5)
    np.testing.assert_allclose(np.histogram(means, 4, (0, 1))[0] / means.size, 0.25, atol=0.02)


def test_random_processes_have_the_published_distribution():
    family, distribution = get_family("tabular-mdp"), RandomMDPs(10, 5)
    tasks = family.sample_tasks(200, np.random.default_rng(0))
    assert tasks.shape == (200, 10 * 5 + 10 * 5 * 10)
    means, transitions = distribution.means(tasks), distribution.transitions(tasks)
    assert means.mean() == pytest.approx(1.0, abs=0.04)
    assert means.std() == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(transitions.sum(-1), 1.0, atol=1e-12)
    # A coordinate of the flat Dirichlet distribution in S dimensions has variance (S - 1) / (S^2 (S + 1))
    assert transitions.var() == pytest.approx(9 / (100 * 11), rel=0.03)


def test_rewards_are_normal_around_the_mean_of_state_and_action():
    means = np.array([[-3.0, 0.0], [2.0, 5.0]])
    task = mdp(means, np.full((2, 2, 2), 0.5))
    actions = np.random.default_rng(0).integers(2, size=(4, 10000))
    family = get_family("tabular-mdp", num_states=2, num_actions=2)
    observations, rewards = run_batch(family, np.tile(task, (10000, 1)), actions, range(10000))
    noise = rewards - means[observations.argmax(-1), actions]
    assert noise.mean() == pytest.approx(0.0, abs=0.02)
    assert noise.std() == pytest.approx(1.0, abs=0.02)
    assert np.abs(np.corrcoef(noise) - np.eye(4)).max() < 0.05


def test_transitions_follow_the_row_of_state_and_action():
    transitions = np.random.default_rng(1).dirichlet(np.ones(3), (3, 2))
    task = mdp(np.zeros((3, 2)), transitions)
    actions = np.random.default_rng(0).integers(2, size=(6, 20000))
    family = get_family("tabular-mdp", num_states=3, num_actions=2)
    observations, _ = run_batch(family, np.tile(task, (20000, 1)), actions, range(20000))
    states = observations.argmax(-1)
    np.testing.assert_array_equal(observations, np.eye(3)[states])
    np.testing.assert_array_equal(states[0], 0)
    counts = np.zeros((3, 2, 3))
    np.add.at(counts, (states[:-1], actions[:-1], states[1:]), 1)
    np.testing.assert_allclose(counts / counts.sum(-1, keepdims=True), transitions, atol=0.025)


def test_a_process_without_chance_walks_its_cycle_and_starts_again_in_state_zero():
    cycle = np.zeros((3, 2, 3))
    cycle[range(3), 0, [1, 2, 0]] = 1  # action 0 goes on
    cycle[range(3), 1, range(3)] = 1  # action 1 stays
    env = gym.make("metarl/TabularMDP-v0", num_states=3, num_actions=2)
    for _ in range(2):
        seen = [env.reset(options={"task": mdp(np.zeros((3, 2)), cycle)})[0].argmax()]
        seen += [env.step(action)[0].argmax() for action in (0, 0, 1, 0, 0)]
        assert seen == [0, 1, 2, 2, 0, 1]


def test_next_states_invert_the_distribution_function():
    probabilities = np.array([0.25, 0.0, 0.5, 0.25])
    uniform = np.array([0.0, 0.2499, 0.25, 0.7499, 0.75, LARGEST])
    np.testing.assert_array_equal(next_states(np.tile(probabilities, (6, 1)), uniform), [0, 0, 2, 2, 3, 3])


def test_a_state_of_probability_zero_is_never_next():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(9), 2000)
    probabilities = np.concatenate([np.zeros((2000, 1)), probabilities, np.zeros((2000, 1))], axis=1)
    # The case that matters is among them: probabilities whose sum rounds to less than 1
    assert (probabilities.cumsum(-1)[:, -1] <= LARGEST).any()
    for extreme in (0.0, LARGEST):
        chosen = next_states(probabilities, np.full(2000, extreme))
        assert (probabilities[range(2000), chosen] > 0).all()


@pytest.mark.parametrize("family", ["bandit", "tabular-mdp"])
def test_a_stored_task_is_the_same_when_read_again(family):
    family = get_family(family)
    tasks = family.sample_tasks(3, np.random.default_rng(0))
    for task, again in zip(tasks, np.array(json.loads(json.dumps(tasks.tolist()))), strict=True):
        np.testing.assert_array_equal(family.make_env().reset(options={"task": again})[1]["task"], task)


def _process(**changes):
    transitions = np.full((2, 2, 2), 0.5)
    for row, values in changes.get("rows", {}).items():
        transitions[row] = values
    return mdp(changes.get("means", np.zeros((2, 2))), transitions)


@pytest.mark.parametrize(
    ("env", "task", "message"),
    [
        (BanditEnv(2), [0.5], r"the task must have shape \(2,\), got \(1,\)"),
        (BanditEnv(2), [0.5, 1.5], r"must hold probabilities, each between 0 and 1, got \[0.5 1.5\]"),
        (BanditEnv(2), [-0.1, 0.5], "must hold probabilities"),
        (BanditEnv(2), [np.nan, 0.5], "the task must be finite"),
        (TabularMDPEnv(2, 2), np.zeros(11), r"the task must have shape \(12,\), got \(11,\)"),
        (TabularMDPEnv(2, 2), _process(means=np.full((2, 2), np.inf)), "the task must be finite"),
        (
            TabularMDPEnv(2, 2),
            _process(rows={(1, 0): [0.5, 0.4]}),
            r"probabilities of state 1, action 0 must sum to 1; got \[0.5 0.4\], whose sum is 0.9",
        ),
        (
            TabularMDPEnv(2, 2),
            _process(rows={(0, 1): [-0.5, 1.5]}),
            r"probabilities of state 0, action 1 must not be negative; got \[-0.5  1.5\]",
        ),
    ],
)
def test_a_task_that_is_no_bandit_or_process_is_told(env, task, message):
    with pytest.raises(UserError, match=message):
        env.reset(options={"task": task})


def test_sums_may_be_off_by_rounding():
    env = TabularMDPEnv(2, 2)
    env.reset(options={"task": _process(rows={(0, 0): [0.5, 0.5 + 1e-10]})})
    with pytest.raises(UserError, match="must sum to 1"):
        env.reset(options={"task": _process(rows={(0, 0): [0.5, 0.5 + 1e-7]})})


@pytest.mark.parametrize("name", ["bandit", "tabular-mdp"])
@pytest.mark.parametrize("action", [5, -1, 0.5])
def test_an_action_that_does_not_exist_is_told_by_single_environment_and_batch(name, action):
    family = get_family(name)
    env = family.make_env()
    env.reset(seed=0)
    with pytest.raises(UserError, match=f"actions must be whole numbers from 0 to 4, got {action}"):
        env.step(action)
    tasks = family.sample_tasks(2, np.random.default_rng(0))
    with pytest.raises(UserError, match="actions must be whole numbers from 0 to 4"):
        run_batch(family, tasks, np.array([[0, action]]), [0, 1])


@pytest.mark.parametrize("name", ["bandit", "tabular-mdp"])
def test_a_categorical_policy_trains_on_the_native_batch(name, tmp_path):
    config = metarl.Config(
        env=name, algo="maml", run_dir=tmp_path / "run", iterations=2, meta_batch_size=3, rollouts_per_task=5
    )
    metarl.train(config)
    progress = (tmp_path / "run" / "progress.csv").read_text().splitlines()
    steps = [dict(zip(progress[0].split(","), row.split(","), strict=True))["env_steps"] for row in progress[1:]]
    # No episode ends early: tasks times rollouts, before and after adaptation, of ten steps each
    assert [float(number) for number in steps] == [3 * 5 * 2 * 10, 2 * 3 * 5 * 2 * 10]
