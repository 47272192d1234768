"""Observations that are normalised by running statistics."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tiny_runs import assert_same_run, final_parameters, numbers, tiny

import metarl
from metarl import TaskFamily
from metarl.common.errors import UserError
from metarl.config.measuring import EvaluationConfig

OFFSET, HORIZON = 1000.0, 6


class Shifted(gym.Env):
    """The first number counts steps from ``OFFSET`` on, the second is the place; the task is the place to go to."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    task = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = float((options or {}).get("task", self.task))
        self.state = np.array([OFFSET, OFFSET])
        return self.state.copy(), {}

    def step(self, action):
        self.state += [1, float(action[0])]
        return self.state.copy(), -abs(self.state[1] - OFFSET - self.task), False, False, {}


class ShiftedFamily(TaskFamily):
    horizon = HORIZON
    task_space = spaces.Box(-1.0, 1.0, (), np.float64)

    def make_env(self, render_mode=None):
        return Shifted()


ENV = f"{__name__}:ShiftedFamily"


def run(path, **settings):
    return metarl.train(tiny(path, env=ENV, horizon=HORIZON, validate_every=0, normalise_observations=True, **settings))


def outcomes(path):
    return [row["outcome"] for row in numbers(path)]


def test_it_learns_where_it_could_not(tmp_path):
    metarl.train(tiny(tmp_path / "raw", env=ENV, horizon=HORIZON, validate_every=0, iterations=8))
    run(tmp_path / "normalised", iterations=8)
    assert sum("accepted" in outcome for outcome in outcomes(tmp_path / "raw")) <= 2
    assert all("accepted" in outcome for outcome in outcomes(tmp_path / "normalised")[1:])


@pytest.mark.parametrize("iterations", [1, 3])
def test_statistics_are_those_of_all_observations_of_training(iterations, tmp_path):
    agent = run(tmp_path, iterations=iterations).agent
    count, mean, _, variance, _ = agent.meta[-5:].double().tolist()
    assert count == iterations * 2 * 4 * 4 * HORIZON  # Two phases of 4 tasks with 4 episodes each.
    assert mean == pytest.approx(OFFSET + (HORIZON - 1) / 2, rel=1e-6)
    assert variance == pytest.approx((HORIZON**2 - 1) / 12, rel=1e-3)


def test_the_first_iteration_sees_raw_observations(tmp_path):
    run(tmp_path / "normalised", iterations=1)
    metarl.train(tiny(tmp_path / "raw", env=ENV, horizon=HORIZON, validate_every=0, iterations=1))
    assert numbers(tmp_path / "normalised") == numbers(tmp_path / "raw")
    np.testing.assert_array_equal(final_parameters(tmp_path / "normalised")[:-5], final_parameters(tmp_path / "raw"))


def test_an_adapted_policy_predicts_from_raw_observations(tmp_path):
    agent = run(tmp_path).agent
    adapted = agent.adapt(Shifted(), num_steps=1, num_rollouts=4)
    _, mean, variance = agent.meta[-5:].split([1, 2, 2])
    raw = np.array([OFFSET + 2, OFFSET - 0.5])
    rows = ((torch.from_numpy(raw).float() - mean) / (variance + 1e-8).sqrt())[None, None]
    outputs = adapted.policy.outputs(adapted.parameters[None], rows)
    np.testing.assert_array_equal(adapted.predict(raw), adapted.action_map(outputs[0, 0].numpy()))


def test_evaluation_uses_the_statistics(tmp_path):
    run(tmp_path, iterations=6)
    result = metarl.evaluate(tmp_path, EvaluationConfig(tasks=6, rollouts=4, gradient_steps=1))
    assert np.isfinite(result.returns).all()
    trained = float(numbers(tmp_path)[-1]["pre_adaptation_return"])
    assert np.mean(np.array(result.returns)[:, 0]) == pytest.approx(trained, abs=3)


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one_on_any_number_of_threads(tmp_path):
    run(tmp_path / "whole", iterations=4, threads=1)
    run(tmp_path / "parts", iterations=2, threads=2)
    run(tmp_path / "parts", iterations=4, threads=2, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    "settings",
    [
        {"algo": "l2f"},
        {"algo": "l2f", "l2f": {"normalise_embedding": True, "attenuation_rollouts": "fresh"}},
        {"algo": "mumomaml"},
        {"algo": "mamlpp", "num_inner_steps": 2},
        {"algo": "anil", "meta_optimiser": "promp"},
        {"algo": "context"},
        {"algo": "pretrain"},
        {"algo": "oracle"},
        {"algo": "maml", "num_inner_steps": 0},
    ],
    ids=str,
)
def test_every_rule_takes_them(settings, tmp_path):
    agent = run(tmp_path, **settings).agent
    assert np.isfinite(final_parameters(tmp_path)).all()
    assert agent.rule.normaliser(agent.meta).mean[0] == pytest.approx(OFFSET + (HORIZON - 1) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"env": "sinusoid"}, "normalise_observations would do nothing: it is for reinforcement learning"),
        ({"algo": "pretrain", "baseline": {"trainer": "ppo"}}, "normalise_observations .* ppo"),
    ],
)
def test_where_it_cannot_be_it_is_refused(settings, told):
    with pytest.raises(UserError, match=told):
        metarl.Config(**settings, normalise_observations=True).resolve()
