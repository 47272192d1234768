"""Reference agents: exact values against brute force, planning against enumeration, posterior means against fits."""

import itertools
import json
from fractions import Fraction
from math import factorial

import numpy as np
import pytest

from benchmarks import bandit_agents, references, tabular_agents
from benchmarks.bandit_agents import bayes_optimal, greedy, thompson, ucb1, ucb1_tuned, value
from benchmarks.regression_posterior import posterior_mean
from benchmarks.tabular_agents import Belief, optimum, plan, play
from metarl.common.streams import Purpose, stream
from metarl.envs.bandit import BanditFamily
from metarl.envs.regression import MultimodalRegressionFamily
from metarl.envs.supervised import Examples
from metarl.envs.tabular import TabularMDPFamily

HALF = Fraction(1, 2)


@pytest.mark.parametrize("agent", [bayes_optimal, greedy, ucb1, ucb1_tuned, thompson, bandit_agents.random])
def test_nothing_can_be_gained_with_one_arm_or_one_pull(agent):
    assert value(agent, 1, 4) == pytest.approx(2, abs=1e-12)
    assert value(agent, 3, 1) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    ("agent", "pulls", "expected"),
    [
        # Stay after a win, whose arm then pays with 2/3; else try the other one.
        (bayes_optimal, 2, HALF + HALF * Fraction(2, 3) + HALF * HALF),
        (greedy, 2, HALF + HALF * Fraction(2, 3) + HALF * HALF),
        # After a win the arm is the better one with 2/3, after a failure with 1/3.
        (thompson, 2, HALF + HALF * (Fraction(4, 9) + Fraction(1, 6)) + HALF * (Fraction(1, 9) + Fraction(1, 3))),
        # Each arm once, then the one that paid; 2/3 unless both failed.
        (ucb1, 3, 1 + Fraction(3, 4) * Fraction(2, 3) + Fraction(1, 4) * Fraction(1, 3)),
        (ucb1_tuned, 3, 1 + Fraction(3, 4) * Fraction(2, 3) + Fraction(1, 4) * Fraction(1, 3)),
        (bandit_agents.random, 3, 3 * HALF),
    ],
)
def test_value_with_two_arms_is_that_computed_by_hand(agent, pulls, expected):
    assert value(agent, 2, pulls) == pytest.approx(float(expected), abs=1e-12)


def best_by_brute_force(num_pulls):
    """The best of all deterministic agents with two arms: each is a table from histories of rewards to arms."""

    def likelihood(counts):
        """The probability of what the arms paid: of each arm, the integral of mean^paid (1 - mean)^failed."""
        parts = [Fraction(factorial(s) * factorial(f), factorial(s + f + 1)) for s, f in counts]
        return parts[0] * parts[1]

    # The history of rewards says which arms a deterministic agent has pulled.
    histories = [h for length in range(num_pulls) for h in itertools.product((0, 1), repeat=length)]
    totals = []
    for choices in itertools.product((0, 1), repeat=len(histories)):
        table, total = dict(zip(histories, choices, strict=True)), Fraction(0)
        for rewards in itertools.product((0, 1), repeat=num_pulls):
            counts = [[0, 0], [0, 0]]
            for time, reward in enumerate(rewards):
                counts[table[rewards[:time]]][1 - reward] += 1
            total += likelihood(counts) * sum(rewards)
        totals.append(total)
    return max(totals)


@pytest.mark.parametrize("num_pulls", [1, 2, 3])
def test_the_optimum_is_that_of_all_agents(num_pulls):
    assert value(bayes_optimal, 2, num_pulls) == pytest.approx(float(best_by_brute_force(num_pulls)), abs=1e-12)


def test_known_values_with_five_arms_and_ten_pulls():
    assert value(bayes_optimal, 5, 10) == pytest.approx(6.660, abs=5e-4)
    assert value(greedy, 5, 10) == pytest.approx(6.62, abs=0.01)
    assert value(ucb1_tuned, 5, 10) == pytest.approx(5.92, abs=0.01)


def test_thompson_sampling_pulls_arms_as_often_as_they_are_best():
    state = ((0, 2), (1, 1), (4, 0))
    paid, failed = np.array(state).T
    samples = np.random.default_rng(0).beta(1 + paid, 1 + failed, (200_000, 3))
    expected = np.bincount(samples.argmax(1), minlength=3) / len(samples)
    probabilities = thompson(state, np.zeros(3))
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(probabilities, expected, atol=0.005)


def test_exact_value_is_what_the_family_pays():
    family, num_tasks, horizon = BanditFamily(num_arms=3), 4000, 4
    tasks = family.sample_tasks(num_tasks, stream(0, Purpose.TEST_TASKS), "test")
    episodes = family.make_episodes(num_tasks, horizon)
    observations, rewards = np.zeros((num_tasks, 1), np.float32), np.zeros(num_tasks)
    ended = np.zeros(num_tasks, bool)
    episodes.reset(tasks, list(range(num_tasks)), observations)
    counts, total = np.zeros((num_tasks, 3, 2)), np.zeros(num_tasks)
    for _ in range(horizon):
        arms = ((1 + counts[:, :, 0]) / (2 + counts.sum(-1))).argmax(1)
        episodes.step(arms, observations, rewards, ended, ended.copy())
        counts[np.arange(num_tasks), arms, 1 - rewards.astype(int)] += 1
        total += rewards
    error = total.std() / num_tasks**0.5
    assert abs(total.mean() - value(greedy, 3, horizon)) < 4 * error


# Two states and two actions: action 0 stays, action 1 goes to the other state; only staying in state 1 pays well.
MEANS = np.array([[1.0, 0.0], [3.0, 0.0]])
MOVES = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])


def test_plan_gives_up_reward_now_for_more_later():
    actions, values = plan((MEANS[None, None], MOVES[None, None]), 3)
    assert actions[:, 0].tolist() == [[1, 0], [1, 0], [0, 0]]
    assert values[0].tolist() == [6.0, 9.0]


def test_plan_is_the_best_of_all_policies():
    rng = np.random.default_rng(0)
    means, transitions = rng.normal(size=(1, 1, 2, 2)), rng.dirichlet(np.ones(2), (1, 1, 2, 2))
    values = []
    for policy in itertools.product((0, 1), repeat=2 * 3):  # action in each state at each of three times
        reached, total = np.array([1.0, 0.0]), 0.0
        for actions in np.array(policy).reshape(3, 2):
            total += reached @ means[0, 0, [0, 1], actions]
            reached = reached @ transitions[0, 0, [0, 1], actions]
        values.append(total)
    assert plan((means, transitions), 3)[1][0, 0] == pytest.approx(max(values), abs=1e-12)


def test_plan_with_several_models_believes_the_best_in_each_state_and_action():
    other = np.array([[0.0, 2.0], [0.0, 0.0]])
    models = np.stack([MEANS, other])[:, None], np.stack([MOVES, MOVES])[:, None]
    actions, values = plan(models, 2)
    # 2 for the move by the other model, then 3 for staying by the first.
    assert values[0].tolist() == [5.0, 6.0]
    assert actions[0, 0, 0] == 1


def test_belief_is_the_posterior():
    belief = Belief(1, 3, 2)
    for reward, next_state in ((4.0, 2), (1.0, 0)):
        belief.observe(np.array([1]), np.array([0]), np.array([reward]), np.array([next_state]))
    means, transitions = belief.mean()
    # Of the prior N(1, 1) and two rewards of noise 1; of one imaginary visit of each next state and two real ones.
    assert means[0, 0].tolist() == [[1, 1], [2, 1], [1, 1]]
    np.testing.assert_allclose(transitions[0, 0, 1], [[2 / 5, 1 / 5, 2 / 5], [1 / 3] * 3])
    sampled_means, sampled_transitions = belief.sample(np.random.default_rng(0), 20_000)
    np.testing.assert_allclose(sampled_means.mean(0), means[0], atol=0.05)
    np.testing.assert_allclose(sampled_means[:, 0, 1, 0].std(), 3**-0.5, atol=0.02)
    np.testing.assert_allclose(sampled_transitions.mean(0), transitions[0], atol=0.01)
    # The variance of a Dirichlet distribution's component of mean 2/5 and total 5.
    np.testing.assert_allclose(sampled_transitions[:, 0, 1, 0, 0].var(), 0.4 * 0.6 / 6, atol=0.002)


def test_who_knows_the_process_gets_the_most_and_random_actions_the_mean():
    family = TabularMDPFamily(num_states=1, num_actions=3)
    tasks = family.sample_tasks(50, stream(0, Purpose.TEST_TASKS), "test")
    np.testing.assert_allclose(optimum(family, tasks, 7), 7 * tasks[:, :3].max(1))
    np.testing.assert_allclose(tabular_agents.random(family, tasks, 7), 7 * tasks[:, :3].mean(1))


@pytest.mark.parametrize("agent", list(dict.fromkeys(agent for agent, _ in references._TABULAR_AGENTS.values())))
@pytest.mark.parametrize("each_step", [False, True])
def test_agents_remember_from_episode_to_episode_and_stay_below_the_optimum(agent, each_step):
    family = TabularMDPFamily(num_states=2, num_actions=3)
    tasks = family.sample_tasks(300, stream(0, Purpose.TEST_TASKS), "test")
    returns = play(agent, family, tasks, 8, 5, 1, each_step)
    assert returns.shape == (300, 8)
    mean = returns.mean(0)
    assert mean[0] + 1 < mean[-1] < optimum(family, tasks, 5).mean()
    np.testing.assert_array_equal(returns, play(agent, family, tasks, 8, 5, 1, each_step))


def test_posterior_mean_of_lines_is_the_least_squares_line_where_the_prior_is_flat():
    rng, noise = np.random.default_rng(0), 0.5
    family = MultimodalRegressionFamily(2, noise)
    lines = np.stack([np.ones(400_000), *rng.uniform(-3, 3, (2, 400_000)), np.zeros(400_000)], axis=1)
    x = np.linspace(-5, 5, 7)[:, None]
    support = Examples(x, 1.2 * x - 0.7 + noise * rng.standard_normal(x.shape))
    mean, count = posterior_mean(family, lines, noise, support, np.array([[-4.0], [0.0], [6.0]]))
    fitted = np.polyval(np.polyfit(x[:, 0], support.targets[:, 0], 1), [[-4.0], [0.0], [6.0]])
    assert 500 < count < 10_000
    np.testing.assert_allclose(mean, fitted, atol=0.05)
    # Without an example it is the prior's mean.
    mean, count = posterior_mean(family, lines, noise, Examples(np.zeros((0, 1)), np.zeros((0, 1))), x)
    assert count == pytest.approx(len(lines))
    np.testing.assert_allclose(mean, 0, atol=0.05)


def test_posterior_mean_has_a_lower_error_than_the_prediction_of_any_other_noise():
    """With the noise of the family the error is least: the posterior is neither too wide nor too narrow."""
    noise, rng = 1.0, np.random.default_rng(0)
    family = MultimodalRegressionFamily(2, noise)
    drawn = family.draw_tasks(20_000, rng, "train")
    errors = dict.fromkeys((0.3, 1.0, 4.0), 0.0)
    for task in family.draw_tasks(200, rng, "test"):
        support, query = family.draw_sets(task, 5, 20, rng)
        for assumed in errors:
            mean, _ = posterior_mean(family, drawn, assumed, support, query.inputs)
            errors[assumed] += float(((mean - query.targets) ** 2).mean()) / 200
    assert noise**2 < errors[1.0] < min(errors[0.3], errors[4.0])


def test_command_stores_its_figures_and_keeps_those_of_the_other_family(tmp_path, monkeypatch, capsys):
    output = tmp_path / "references.json"
    output.write_text('{"bandit": "kept"}')
    options = ["--tasks", "5", "--episodes", "2", "--seed", "3", "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["references", "tabular-mdp", *options])
    references.main()
    stored = json.loads(output.read_text())
    assert stored["bandit"] == "kept"
    part = stored["tabular-mdp"]
    assert (part["tasks"], part["seed"], part["episodes"], part["horizon"]) == (5, 3, 2, 10)
    assert {"commit", "hardware", "numpy"} <= part["metarl"].keys()
    printed = capsys.readouterr().out
    for name, entry in part["return"].items():
        assert entry["mean"] == pytest.approx(sum(entry["per_episode"]), abs=0.01)
        assert f"| {name} " in printed


def test_command_measures_the_posterior_mean_of_functions(tmp_path, monkeypatch, capsys):
    output = tmp_path / "references.json"
    options = ["--tasks", "40", "--functions", "5000", "--seed", "3", "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["references", "regression", *options])
    references.main()
    part = json.loads(output.read_text())["regression"]
    assert (part["tasks"], part["shots"], part["functions"]) == (40, 5, 5000)
    errors = part["posterior_mean"]
    assert len(errors) == 6
    printed = capsys.readouterr().out
    for name, entry in errors.items():
        assert entry["error"] > 0.09  # The variance of the noise.
        assert f"| {name} " in printed
