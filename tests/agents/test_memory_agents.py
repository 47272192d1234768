"""Agents with memory from a user's point of view: they learn, remember while deployed, and refuse what does not fit."""

from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from tiny_runs import assert_same_run, numbers, tiny

import metarl
from metarl import Config, EvaluationConfig, UserError
from metarl.data import Rollouts
from metarl.envs.bandit import BanditFamily
from metarl.envs.navigation import NavigationFamily
from metarl.inner.memory import trials_of
from metarl.reports.tables import evaluation_table
from metarl.rollouts.sampler import Sampler
from metarl.sb3 import AdaptedModel, LastReward, MemoryModel, TaskEnv, start_from


def make_env():
    env = gym.make("metarl/Navigation-v0", max_episode_steps=10)
    env.reset(seed=0, options={"task": [0.3, -0.2]})
    return env


@pytest.fixture(scope="module", params=["gru", "lstm"])
def agent(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    metarl.train(tiny(folder, algo="rl2", rl2={"cell": request.param, "units": 8}, horizon=10))
    return metarl.load(folder)


@pytest.mark.slow
def test_it_learns_to_pull_the_better_arm(tmp_path):
    settings = {"env": "bandit", "env_kwargs": {"num_arms": 2}, "horizon": 10, "num_inner_steps": 0}
    settings |= {"iterations": 30, "meta_batch_size": 100, "validate_every": 0, "ppo": {"lr": 5e-3}}
    run = metarl.train(Config(algo="rl2", run_dir=tmp_path, **settings))
    returns = run.progress["post_adaptation_return"]
    assert returns[:5].mean() < 5.3  # Chance makes 5, and knowing the better arm 6.67.
    assert returns[-10:].mean() > returns[:5].mean() + 0.5


def test_results_do_not_depend_on_the_number_of_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(NavigationFamily, "min_envs_per_shard", 1)
    for threads in (1, 3):
        metarl.train(tiny(tmp_path / str(threads), algo="rl2", meta_batch_size=13, threads=threads))
    assert_same_run(tmp_path / "1", tmp_path / "3")


def test_tasks_are_repeated_to_measure_several_episodes(tmp_path):
    metarl.train(tiny(tmp_path, algo="rl2", env="cheetah-dir", horizon=5, iterations=1, validation_tasks=6))
    row = numbers(tmp_path)[-1]
    assert "validation_post_adaptation_return" in row
    result = metarl.evaluate(tmp_path, EvaluationConfig(tasks=2, rollouts=3, gradient_steps=2))
    assert result.returns.shape == (2, 3)
    assert result.env_steps == 2 * 3 * 3 * 5
    assert result.step_name == "episode"
    assert result.metrics["x_velocity"].per_task.shape == (2, 3)
    header, *rows = [line.split() for line in evaluation_table(result).splitlines()[1:5]]
    assert (header[0], header.count("episodes")) == ("episodes", 1)
    assert [row[0] for row in rows] == ["0", "1", "2"]


def test_deployed_it_remembers_what_happened(agent):
    """Its memory after two episodes is what reading them gives."""
    policy, env = agent.adapt(make_env(), num_steps=0), make_env()
    rule, normaliser = agent.rule.core, agent.rule.normaliser(agent.meta)
    recorded = []
    for _ in range(2):
        policy.start()
        observation, _ = env.reset()
        reward, ended, steps = None, False, []
        while not ended:
            action = policy.predict(observation, reward)
            seen = normaliser(torch.as_tensor(observation, dtype=torch.float32))
            observation, reward, terminated, truncated, _ = env.step(action)
            steps.append((seen, policy._action[0], torch.tensor(reward, dtype=torch.float32)))
            ended = terminated or truncated
        policy.finish(reward)
        recorded.append(steps)
    memory = rule.blank(1, agent.meta)
    for steps in recorded:
        seen, actions, rewards = (torch.stack(part)[None, None] for part in zip(*steps, strict=True))
        ones = torch.ones_like(rewards)
        episode = Rollouts(seen, actions, ones, rewards, ones, ones)
        memory = rule.policy.read(rule.network(agent.meta), rule.rewards(agent.meta), memory, trials_of([episode]))
    torch.testing.assert_close(policy.memory, memory[0], rtol=1e-4, atol=1e-5)


def test_adaptation_reads_one_episode_a_step(agent, monkeypatch):
    starts = []
    collect = Sampler.collect

    def recorded(self, begin, parameters, *rest):
        starts.append(parameters.clone())
        return collect(self, begin, parameters, *rest)

    monkeypatch.setattr(Sampler, "collect", recorded)
    policy = agent.adapt(make_env(), num_steps=2)
    assert len(starts) == 3
    assert not starts[0].any()
    assert all(start.any() for start in starts[1:])
    assert torch.equal(policy.memory, starts[2][0])
    assert policy.returns.shape == (3,)


def test_actions_are_reproducible_and_modes_need_no_chance(agent):
    def actions(seed, deterministic=False):
        policy = agent.adapt(make_env(), num_steps=1, seed=seed)
        policy.start()
        first = policy.predict(np.zeros(2), deterministic=deterministic)
        return np.stack([first, policy.predict(np.ones(2), -1.0, deterministic=deterministic)])

    np.testing.assert_array_equal(actions(0), actions(0))
    assert (actions(0) != actions(1)).any()
    policy = agent.adapt(make_env(), num_steps=0)
    policy.start()
    again = agent.adapt(make_env(), num_steps=0, seed=5)
    again.start()
    ones = [one.predict(np.zeros(2), deterministic=True) for one in (policy, again)]
    np.testing.assert_array_equal(*ones)


def test_what_is_missing_is_asked_for(agent):
    policy = agent.adapt(make_env(), num_steps=1)
    with pytest.raises(UserError, match=r"no episode is running: call start\(\) first"):
        policy.predict(np.zeros(2))
    policy.start()
    with pytest.raises(UserError, match="no episode with an action is running"):
        policy.finish(0.0)
    with pytest.raises(UserError, match="the first action of an episode has no reward before it: leave out reward"):
        policy.predict(np.zeros(2), 1.0)
    policy.predict(np.zeros(2))
    with pytest.raises(UserError, match="predict needs the reward of the action before"):
        policy.predict(np.zeros(2))
    with pytest.raises(UserError, match="reward must be"):
        policy.predict(np.zeros(2), float("nan"))
    with pytest.raises(UserError, match="the episode before has not ended: call finish"):
        policy.start()
    with pytest.raises(UserError, match="observation must be finite numbers"):
        policy.predict(np.full(2, np.nan), 1.0)
    with pytest.raises(UserError, match="num_rollouts must be 1: rl2 reads one episode a step, got 4"):
        agent.adapt(make_env(), num_rollouts=4)


def test_a_failed_call_changes_no_memory(agent):
    policy = agent.adapt(make_env(), num_steps=1)
    policy.start()
    policy.predict(np.zeros(2))
    before = policy.memory.clone()
    for refused in ((np.zeros(2), None), (np.zeros(3), 1.0), (np.zeros(2), np.inf), (np.zeros(2), 1.0, "yes")):
        with pytest.raises(UserError):
            policy.predict(*refused)
    assert torch.equal(policy.memory, before)


def test_stable_baselines3_evaluates_it(agent):
    policy = agent.adapt(make_env(), num_steps=1)
    model, env = MemoryModel(policy), LastReward(make_env())
    mean, deviation = evaluate_policy(model, env, n_eval_episodes=3, deterministic=False, warn=False)
    assert np.isfinite(mean)
    # Modes are not random, nor is the environment, so every episode from the same memory is the same.
    mean, deviation = evaluate_policy(model, env, n_eval_episodes=3, deterministic=True, warn=False)
    assert deviation == 0
    alone, total, reward = agent.adapt(make_env(), num_steps=1), 0.0, None
    observation, _ = (single := make_env()).reset()
    alone.start()
    for _ in range(10):
        observation, reward, *_ = single.step(alone.predict(observation, reward, deterministic=True))
        total += reward
    assert total == pytest.approx(mean)


class Parts(gym.ObservationWrapper):
    """Navigation with its observation in two parts, and rewards that are huge."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict({"x": spaces.Box(-9, 9, (1,)), "left": spaces.Discrete(2)})

    def observation(self, observation):
        return {"x": observation[:1].astype(np.float32), "left": int(observation[1] < 0)}

    def step(self, action):
        observation, reward, *ends = super().step(action)
        return observation, 1e14 * reward, *ends


class PartsFamily(NavigationFamily):
    """Tasks of `Parts`."""

    name = "parts"

    def make_env(self, render_mode=None):
        return Parts(super().make_env(render_mode))

    make_episodes = metarl.TaskFamily.make_episodes


def test_observations_of_several_parts_and_huge_rewards_are_no_obstacle_to_stable_baselines3(tmp_path):
    metarl.train(tiny(tmp_path, env=f"{__name__}:PartsFamily", algo="rl2", rl2={"units": 8}, horizon=10))
    agent = metarl.load(tmp_path, trust=True)
    env = Parts(make_env())
    model = MemoryModel(agent.adapt(env, num_steps=1))
    mean, _ = evaluate_policy(model, LastReward(env), n_eval_episodes=2, deterministic=True, warn=False)
    alone, total, reward = agent.adapt(Parts(make_env()), num_steps=1), 0.0, None
    observation, _ = (single := Parts(make_env())).reset()
    alone.start()
    for _ in range(10):
        observation, reward, *_ = single.step(alone.predict(observation, reward, deterministic=True))
        total += reward
    assert total == pytest.approx(mean)
    assert total < -1e13


def test_parts_have_their_names_whatever_their_order(tmp_path):
    class Turned(gym.ObservationWrapper):
        """The same parts, in the other order."""

        def __init__(self, env):
            super().__init__(env)
            self.observation_space = spaces.Dict([(name, env.observation_space[name]) for name in ("x", "left")])

        def observation(self, observation):
            return observation

    metarl.train(tiny(tmp_path, env=f"{__name__}:PartsFamily", algo="rl2", rl2={"units": 8}, horizon=10))
    agent = metarl.load(tmp_path, trust=True)
    returns = []
    for env in (Parts(make_env()), Turned(Parts(make_env()))):
        model = MemoryModel(agent.adapt(env, num_steps=1))
        returns.append(evaluate_policy(model, LastReward(env), n_eval_episodes=1, deterministic=True, warn=False)[0])
    assert list(env.observation_space) == ["x", "left"]
    assert returns[0] == returns[1]


def test_a_model_is_a_copy_whose_samples_repeat_with_the_seed(agent):
    policy = agent.adapt(make_env(), num_steps=1)
    before, state = policy.memory.clone(), policy._rng.bit_generator.state

    def returns(seed, num_envs=1):
        model, env = MemoryModel(policy, seed), DummyVecEnv([lambda: LastReward(make_env())] * num_envs)
        return evaluate_policy(
            model, env, n_eval_episodes=2, deterministic=False, return_episode_rewards=True, warn=False
        )[0]

    assert returns(1) == returns(1) == returns(1, num_envs=2)
    assert returns(1) != returns(2)
    assert torch.equal(policy.memory, before)
    assert policy._rng.bit_generator.state == state
    model = MemoryModel(policy)
    policy.start()
    with pytest.raises(UserError, match=r"an episode of the agent is running: .* or abandon\(\)"):
        MemoryModel(policy)
    seen = {"observation": np.zeros(2), "reward": np.zeros(1)}
    with pytest.raises(UserError, match="of several environments, along a first axis"):
        model.predict(seen)


def test_an_episode_that_cannot_be_finished_is_abandoned(agent):
    policy = agent.adapt(make_env(), num_steps=1)
    before = policy.memory.clone()
    policy.abandon()
    policy.start()
    with pytest.raises(UserError, match=r"no episode with an action is running"):
        policy.finish(0.0)
    policy.abandon()
    policy.start()
    policy.predict(np.zeros(2))
    policy.predict(np.zeros(2), -1.0)
    with pytest.raises(UserError, match=r"call finish\(reward\) with its last reward first, or abandon\(\)"):
        policy.start()
    policy.abandon()
    assert torch.equal(policy.memory, before)
    policy.start()
    policy.predict(np.zeros(2))
    policy.finish(-1.0)
    assert not torch.equal(policy.memory, before)


def test_stable_baselines3_needs_the_last_reward(agent):
    model = MemoryModel(agent.adapt(make_env(), num_steps=0))
    with pytest.raises(UserError, match=r"wrapped in metarl\.sb3\.LastReward"):
        model.predict(np.zeros((1, 2)))
    with pytest.raises(UserError, match="adapted must be"):
        AdaptedModel(agent.adapt(make_env(), num_steps=0))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"algo": "maml", "rl2": {"units": 8}}, "rl2 would do nothing: it is for algo rl2"),
        ({"algo": "maml", "ppo": {"clip": 0.1}}, "ppo would do nothing: it is for meta_optimiser ppo"),
        (
            {"algo": "maml", "meta_optimiser": "ppo"},
            "agent without memory: meta_optimiser must be trpo or promp or adam, got ppo",
        ),
        ({"algo": "rl2", "meta_optimiser": "trpo"}, "agent with memory: meta_optimiser must be ppo, got trpo"),
        ({"algo": "rl2", "attenuate": True}, "attenuate needs gradient steps, and rl2 is an agent with memory"),
        ({"algo": "rl2", "inner_lr": 0.3}, "inner_lr would do nothing: it is for agents that take gradient steps"),
        ({"algo": "rl2", "policy_body": "a:b"}, "policy_body would do nothing"),
        ({"algo": "rl2", "rollouts_per_task": 4}, "rollouts_per_task must be 1 with rl2"),
        ({"algo": "rl2", "on_bad_episode": "drop"}, "on_bad_episode drop would leave gaps in what rl2 remembers"),
        ({"algo": "rl2", "env": "sinusoid"}, "rl2 acts in environments, and sinusoid is supervised"),
        ({"algo": "rl2", "rl2": {"cell": "rnn"}}, "rl2.cell must be"),
    ],
)
def test_settings_of_the_other_kind_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        Config(**settings)


class Pulls(BanditFamily):
    """With defaults for either kind of agent."""

    defaults: ClassVar = {"meta_batch_size": 7}
    memory_defaults: ClassVar = {"num_inner_steps": 0}


def test_families_have_defaults_for_either_kind_of_agent(monkeypatch):
    settings = Config(env=Pulls, algo="rl2").resolve()
    assert settings.inner.num_inner_steps == 0
    assert settings.meta.meta_batch_size != 7
    assert Config(env=Pulls, algo="maml").resolve().meta.meta_batch_size == 7
    monkeypatch.setattr(Pulls, "memory_defaults", {"wings": 2})
    with pytest.raises(UserError, match=r"Pulls.memory_defaults: there is no setting 'wings'"):
        Config(env=Pulls, algo="rl2")


def test_a_memory_is_no_start_for_stable_baselines3():
    model = PPO("MlpPolicy", TaskEnv("navigation"), device="cpu")
    with pytest.raises(UserError, match="no initial policy of its own"):
        start_from(model, Config(env="navigation", algo="rl2"))
