"""PPO on all tasks at once, iteration by iteration, and the baselines that start from it."""

from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
import torch
from machines import Machine
from quick import quick
from test_sb3 import TANH, Chain, ChainEnv
from tiny_runs import assert_same_run, final_parameters, numbers, tiny

from metarl.common.errors import UserError
from metarl.common.streams import Purpose, stream
from metarl.data import LearnerState
from metarl.envs import get_family
from metarl.policies.distributions import Categorical
from metarl.policies.mlp import MLPPolicy
from metarl.runs.build import build
from metarl.runs.training import train
from metarl.sb3 import envs, policy_parameters
from metarl.sb3.ppo import PPOLearner

PPO = {"baseline": {"trainer": "ppo"}}


def learner(tmp_path, family="navigation", **settings):
    config = tiny(tmp_path, **{**TANH, "horizon": 10, "algo": "pretrain", **PPO, **settings})
    known = get_family(family) if isinstance(family, str) else family
    settings = config.resolve()
    return PPOLearner(settings, known, build(settings)[1].policy)


def assert_equal_tensors(got, want):
    assert got.keys() == want.keys()
    assert all(torch.equal(value, want[name]) for name, value in got.items())


@pytest.mark.parametrize("algo", quick(["pretrain", "oracle"], "pretrain"))
def test_resumed_run_is_bit_for_bit_an_uninterrupted_one(tmp_path, algo):
    train(tiny(tmp_path / "whole", algo=algo, **PPO, iterations=4))
    train(tiny(tmp_path / "parts", algo=algo, **PPO, iterations=2))
    train(tiny(tmp_path / "parts", algo=algo, **PPO, iterations=4, resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    train(tiny(tmp_path / "other", algo=algo, **PPO, iterations=2, seed=1))
    assert numbers(tmp_path / "other") != numbers(tmp_path / "whole")[:2]
    # 4 tasks, 4 rollouts, 20 steps, before and after adaptation.
    assert [int(row["env_steps"]) for row in numbers(tmp_path / "whole")] == [640, 1280, 1920, 2560]


def test_runs_in_two_threads_of_one_process_are_those_of_one(tmp_path):
    for seed in (0, 1):
        train(tiny(tmp_path / f"alone{seed}", algo="pretrain", **PPO, seed=seed, iterations=2))
    together = [tiny(tmp_path / f"both{seed}", algo="pretrain", **PPO, seed=seed, iterations=2) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, together))
    for seed in (0, 1):
        assert_same_run(tmp_path / f"alone{seed}", tmp_path / f"both{seed}")


def test_the_number_of_torchs_threads_makes_no_difference(tmp_path):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            train(tiny(tmp_path / str(threads), algo="pretrain", **PPO, iterations=1, hidden_sizes=(100, 100)))
    finally:
        torch.set_num_threads(before)
    assert_same_run(tmp_path / "1", tmp_path / "2")


def test_it_steps_on_as_many_threads_as_the_run_has(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(envs, "threads_for", lambda slots, threads: asked.append(threads) or 1)
    for threads in (1, 0):
        learner(tmp_path, threads=threads).close()
    assert asked == [1, None]


def test_environments_at_once_would_change_its_results(tmp_path):
    with pytest.raises(UserError, match="envs_per_process is not for Stable-Baselines3's ppo"):
        tiny(tmp_path, algo="oracle", **PPO, envs_per_process=5)


def test_oracle_sees_the_task(tmp_path):
    sizes = {}
    for algo in ("pretrain", "oracle"):
        train(tiny(tmp_path / algo, algo=algo, **PPO, iterations=0))
        sizes[algo] = len(final_parameters(tmp_path / algo))
    assert sizes["oracle"] - sizes["pretrain"] == 2 * 16  # Weights of the goal's two coordinates.


@pytest.mark.slow
def test_an_iteration_depends_on_its_arguments_alone(tmp_path):
    ppo = learner(tmp_path)
    start = ppo.initial()
    for state in (start, ppo.iteration(start, 0)[0]):
        before = {name: value.clone() for name, value in state.memory.items()}
        first, other_index, again = (ppo.iteration(state, index)[0] for index in (0, 7, 0))
        assert torch.equal(first.meta, again.meta)
        assert_equal_tensors(first.memory, again.memory)
        assert not torch.equal(first.meta, other_index.meta)
        assert_equal_tensors(state.memory, before)


def test_a_memory_that_is_not_ppos_is_refused(tmp_path):
    ppo = learner(tmp_path)
    start = ppo.initial()
    for wrong in ({"policy.log_std": torch.zeros(7)}, {"another": torch.zeros(1)}):
        with pytest.raises(UserError, match="the checkpoint does not hold what this PPO remembers; train again"):
            ppo.iteration(LearnerState(start.meta, {**start.memory, **wrong}), 0)


def test_an_iteration_leaves_the_global_generators_as_they_were(tmp_path):
    ppo = learner(tmp_path)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    ppo.iteration(ppo.initial(), 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("settings", "slots", "steps"),
    [
        ({"meta_batch_size": 4, "rollouts_per_task": 4}, 16, 4 * 4 * 10 * 2),
        ({"meta_batch_size": 10, "rollouts_per_task": 6, "num_inner_steps": 2}, 30, 10 * 6 * 10 * 3),
        ({"meta_batch_size": 3, "rollouts_per_task": 1}, 3, 3 * 10 * 2),
    ],
)
def test_an_iteration_takes_as_many_steps_as_a_meta_iteration(tmp_path, settings, slots, steps):
    ppo = learner(tmp_path, **settings)
    assert (ppo.model.n_envs, ppo.env_steps) == (slots, steps)
    assert ppo.iteration(ppo.initial(), 0)[1]["env_steps"] == steps


class Constant(Chain):
    """Every step of every task is rewarded by 2."""

    def make_env(self, render_mode=None):
        return gym.wrappers.TransformReward(ChainEnv(), lambda _: 2.0)


def test_the_return_told_is_that_of_the_episodes(tmp_path):
    config = tiny(tmp_path, **{**TANH, "horizon": 10})
    ppo = PPOLearner(config.resolve(), Constant(), MLPPolicy(1, Categorical(2), (16,), "tanh"))
    row = ppo.iteration(ppo.initial(), 0)[1]
    assert row["pre_adaptation_return"] == 20
    assert "post_adaptation_return" not in row


def test_ppo_trains_on_actions_and_observations_of_several_parts(tmp_path):
    settings = {**TANH, **PPO, "horizon": 5, "iterations": 1}
    agent = train(tiny(tmp_path, env="machines:MachineFamily", algo="pretrain", **settings)).agent
    policy = agent.adapt(Machine(), num_steps=0, num_rollouts=1)
    assert policy.predict(Machine().reset(seed=0)[0]) in Machine.action_space


def test_the_actor_starts_as_the_policy_of_every_rule_does(tmp_path):
    settings = {**TANH, "initial_std": 0.3, "output_gain": 0.1}
    ppo = learner(tmp_path, **settings, action_scale=0.5, discount=0.9)
    policy = build(tiny(tmp_path, **settings).resolve())[1].policy
    start = policy.initial(stream(0, Purpose.INITIALISATION))
    state = ppo.initial()
    meta = state.meta
    assert torch.equal(meta, start)
    assert torch.equal(policy_parameters(ppo.model, policy), start)
    assert meta[-1].exp().item() == pytest.approx(0.3)
    assert ppo.model.action_space.high.tolist() == [2, 2]
    assert (ppo.model.gamma, ppo.model.n_steps) == (0.9, 10)
    assert not torch.equal(ppo.iteration(state, 0)[0].meta, start)


def test_a_policy_with_another_body_is_refused(tmp_path):
    config = tiny(tmp_path, policy_body="problems:make_body")
    family, rule = build(config.resolve())
    with pytest.raises(UserError, match="leave out policy_body"):
        PPOLearner(config.resolve(), family, rule.policy)


def test_one_step_is_too_few(tmp_path):
    with pytest.raises(UserError, match="more than one step"):
        learner(tmp_path, meta_batch_size=1, rollouts_per_task=1, horizon=1)


def test_training_finds_the_goal_that_is_always_the_same(tmp_path):
    class OneGoal(type(get_family("navigation"))):
        def draw_tasks(self, n, rng, split):
            return np.tile([0.4, 0.4], (n, 1))

    ppo = learner(tmp_path, OneGoal(), meta_batch_size=10, rollouts_per_task=8, initial_std=0.5)
    state, returns = ppo.initial(), []
    for index in range(5):
        state, row = ppo.iteration(state, index)
        returns.append(row["pre_adaptation_return"])
    assert returns[-1] > 0.75 * returns[0], returns
