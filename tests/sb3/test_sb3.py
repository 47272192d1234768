"""The bridge to Stable-Baselines3."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from fault_table import fault
from faulty import FaultyFamily
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from gymnasium.wrappers import NormalizeObservation
from machines import LeverFamily, Machine, MachineFamily, SwitchesFamily
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from tiny_runs import tiny
from torch import nn

from metarl import TaskFamily, UserError
from metarl.common.streams import Purpose, stream
from metarl.config.settings import PolicySettings
from metarl.envs import get_family
from metarl.envs.mujoco_core import batch_module
from metarl.policies.action_map import ActionMap
from metarl.policies.blueprint import Blueprint
from metarl.policies.distributions import Categorical, Categoricals, Gaussian
from metarl.policies.mlp import MLPPolicy
from metarl.runs.adapted import AdaptedPolicy
from metarl.sb3 import AdaptedModel, TaskEnv, TaskVecEnv, policy_parameters, start_from

GOAL = np.array([0.3, -0.2])
TANH = {"activation": "tanh", "hidden_sizes": (16,)}


class Chain(TaskFamily):
    """A corridor with observations of integers and actions counted from 3; the task is where the reward lies."""

    horizon = 6
    task_space = spaces.Box(0.0, 4.0, (), np.float64)

    def make_env(self, render_mode=None):
        return ChainEnv()


class ChainEnv(gym.Env):
    observation_space = spaces.Box(0, 4, (1, 1), np.int64)
    action_space = spaces.Discrete(2, start=3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = (options or {}).get("task", 0.0)
        self.position = int(self.np_random.integers(5))
        return np.array([[self.position]]), {}

    def step(self, action):
        assert action in (3, 4), "an action outside the space"
        self.position = int(np.clip(self.position + (1 if action == 4 else -1), 0, 4))
        return np.array([[self.position]]), -abs(self.position - float(self.goal)), False, False, {}


def model_on(family, algorithm=PPO, hidden=(16,), activation=nn.Tanh, action_scale=1.0, **settings):
    """An SB3 model with random parameters, none of them zero."""
    arch = {"pi": list(hidden), "vf": [8]}
    env = TaskEnv(family, action_scale=action_scale)
    kwargs = {"net_arch": arch, "activation_fn": activation, **settings.pop("policy_kwargs", {})}
    model = algorithm("MlpPolicy", env, policy_kwargs=kwargs, device="cpu", **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def episodes(env, number, seed):
    """Tasks, observations and rewards of episodes with the actions that ``seed`` draws."""
    env.action_space.seed(seed)
    record = []
    for index in range(number):
        observation, info = env.reset(seed=seed if index == 0 else None)
        record += [np.ravel(info["task"]), observation]
        done = False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            record += [observation, [reward]]
            done = terminated or truncated
    return np.concatenate(record)


@pytest.mark.parametrize("family", ["navigation", "cheetah-vel", Chain()], ids=["box", "mujoco", "discrete"])
def test_both_checkers_accept_a_task_environment(family, recwarn):
    env = TaskEnv(family)
    check_env(env)
    assert [str(warning.message) for warning in recwarn] == []


def test_the_seed_decides_everything_and_another_gives_something_else():
    env = TaskEnv("cheetah-vel", horizon=4)
    first = episodes(env, 3, seed=0)
    np.testing.assert_array_equal(episodes(env, 3, seed=0), first)
    np.testing.assert_array_equal(episodes(TaskEnv("cheetah-vel", horizon=4), 3, seed=0), first)
    assert not np.array_equal(episodes(env, 3, seed=1), first)


def test_every_reset_draws_a_new_task_of_the_split():
    train, test = TaskEnv("navigation"), TaskEnv("navigation", split="test")
    drawn = [[env.reset(seed=0)[1]["task"], *(env.reset()[1]["task"] for _ in range(9))] for env in (train, test)]
    assert len(np.unique(np.concatenate(drawn), axis=0)) == 20


def test_given_tasks_come_in_their_order_and_again_after_a_seed():
    tasks = np.array([[0.1, 0.2], [0.3, 0.4]])
    env = TaskEnv("navigation", tasks=tasks)
    np.testing.assert_array_equal([env.reset()[1]["task"] for _ in range(3)], tasks[[0, 1, 0]])
    np.testing.assert_array_equal(env.reset(seed=0)[1]["task"], tasks[0])
    np.testing.assert_array_equal(env.reset(options={"task": GOAL})[1]["task"], GOAL)
    np.testing.assert_array_equal(env.reset()[1]["task"], tasks[1])


def test_the_environment_has_the_task_that_its_reset_tells():
    env = TaskEnv("navigation", split="validation")
    for _ in range(3):
        goal = env.reset()[1]["task"]
        position, reward, *_ = env.step(np.array([1.0, -0.5], np.float32))
        np.testing.assert_allclose(position, [0.1, -0.05], rtol=1e-6)
        assert reward == pytest.approx(-np.linalg.norm(position - goal), rel=1e-6)


@pytest.mark.parametrize(("family", "scale"), [("navigation", 1.0), ("navigation", 0.25), (Chain(), 1.0)])
def test_the_policys_actions_reach_the_whole_action_space_and_no_more(family, scale):
    env = TaskEnv(family, action_scale=scale)
    if isinstance(env.action_space, spaces.Discrete):
        assert (env.action_space.n, env.action_space.start) == (2, 0)
        env.reset(seed=0, options={"task": 0.0})
        positions = [int(env.step(action)[0][0]) for action in (0, 0, 0, 0, 1)]
        assert positions[3:] == [0, 1]
        return
    np.testing.assert_allclose(env.action_space.high, [1 / scale] * 2)
    env.reset(seed=0)
    np.testing.assert_allclose(env.step(env.action_space.high)[0], [0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(env.step(-np.ones(2, np.float32))[0], [0.1 - 0.1 * scale] * 2, atol=1e-7)


def test_observations_are_flat_and_float32():
    env = TaskEnv(Chain())
    assert env.observation_space == spaces.Box(0, 4, (1,), np.float32)
    assert env.observation_space.contains(env.reset(seed=0)[0])


def test_episodes_are_truncated_at_the_horizon():
    for env, horizon in ((TaskEnv("navigation", horizon=5), 5), (TaskEnv(Chain()), 6)):
        env.reset(seed=0)
        truncated = [env.step(env.action_space.sample())[3] for _ in range(horizon)]
        assert truncated == [False] * (horizon - 1) + [True]


def test_the_environments_of_make_vec_env_have_tasks_of_their_own():
    envs = make_vec_env(TaskEnv, 3, seed=0, env_kwargs={"family": "navigation", "horizon": 4})
    envs.reset()
    first = [info["task"] for info in envs.reset_infos]
    for _ in range(4):
        _, _, dones, infos = envs.step(np.zeros((3, 2), np.float32))
    assert dones.all()
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert len(np.unique([*first, *(info["task"] for info in envs.reset_infos)], axis=0)) == 6


@pytest.mark.slow
def test_processes_of_their_own_give_what_one_process_gives():
    settings = {"n_envs": 2, "seed": 0, "env_kwargs": {"family": "navigation", "horizon": 4}}
    together = make_vec_env(TaskEnv, **settings)
    apart = make_vec_env(TaskEnv, **settings, vec_env_cls=SubprocVecEnv)
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 2, 2)).astype(np.float32)
    try:
        np.testing.assert_array_equal(together.reset(), apart.reset())
        for action in actions:
            for one, other in zip(together.step(action)[:3], apart.step(action)[:3], strict=True):
                # Stable-Baselines3 narrows the rewards in one process only.
                np.testing.assert_array_equal(one, np.asarray(other, one.dtype))
    finally:
        apart.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "navigatoin"}, "Did you mean 'navigation'"),
        ({"family": "navigation", "split": "trian"}, "Did you mean 'train'"),
        ({"family": "navigation", "tasks": []}, "at least one task, got none"),
        ({"family": "navigation", "tasks": "abc"}, "the task must be numbers of shape"),
        ({"family": "navigation", "tasks": [[0.0, np.nan]]}, r"\[ 0\. nan\] is no task of navigation"),
        ({"family": "navigation", "horizon": 0}, "horizon must be a positive whole number, got 0"),
        ({"family": "navigation", "action_scale": 0.0}, "action_scale must be a positive number, got 0.0"),
    ],
)
def test_a_task_environment_says_what_is_wrong_with_its_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        TaskEnv(**arguments)


def test_each_slot_of_a_batch_is_an_environment_of_its_own_task():
    # Episodes end near the goal, so that slots begin again at different steps, and some are cut off.
    family = get_family("navigation", end_distance=0.3)
    batch, env, horizon = TaskVecEnv(family, 8, horizon=5, action_scale=0.5), family.make_env(), 5
    rng, ends, tasks = np.random.default_rng(0), [], []
    batch.seed(3)
    observations = batch.reset()
    np.testing.assert_array_equal(observations, np.zeros((8, 2)))
    ages = np.zeros(8, int)
    for _ in range(30):
        known = [info["task"] for info in batch.reset_infos]
        actions = rng.uniform(-2, 2, (8, 2)).astype(np.float32)
        stepped, rewards, ended, infos = batch.step(actions)
        ages += 1
        for slot in range(8):
            env.reset(options={"task": known[slot]})
            env._trail = [observations[slot].astype(float)]
            expected, reward, terminated, _, _ = env.step(0.05 * actions[slot])
            assert rewards[slot] == pytest.approx(reward, abs=1e-6)
            truncated = bool(ages[slot] == horizon)
            assert ended[slot] == (terminated or truncated)
            if ended[slot]:
                np.testing.assert_allclose(infos[slot]["terminal_observation"], expected, atol=1e-6)
                np.testing.assert_array_equal(infos[slot]["task"], known[slot])
                assert infos[slot]["TimeLimit.truncated"] == (truncated and not terminated)
                np.testing.assert_array_equal(stepped[slot], [0, 0])
                ends.append(infos[slot]["TimeLimit.truncated"])
                tasks.append(known[slot])
                ages[slot] = 0
            else:
                np.testing.assert_allclose(stepped[slot], expected, atol=1e-6)
                assert set(infos[slot]) == {"success", "distance"}
        observations = stepped
    assert True in ends
    assert False in ends
    assert len(np.unique(tasks, axis=0)) == len(tasks)


@pytest.mark.parametrize("family", ["cheetah-vel", Chain()], ids=["mujoco", "python"])
def test_the_seed_of_a_batch_decides_everything(family):
    def run(batch, seed):
        batch.seed(seed)
        seen = [batch.reset()]
        for _ in range(7):
            action = np.zeros((3, 6), np.float32) if family == "cheetah-vel" else np.zeros(3, int)
            seen += [np.column_stack(batch.step(action)[:3])]
            seen += [np.ravel(info["task"]) for info in batch.reset_infos]
        return np.concatenate([np.ravel(each) for each in seen])

    batch = TaskVecEnv(family, 3, horizon=4)
    first = run(batch, 0)
    np.testing.assert_array_equal(run(batch, 0), first)
    np.testing.assert_array_equal(run(TaskVecEnv(family, 3, horizon=4), 0), first)
    assert not np.array_equal(run(batch, 1), first)


def test_a_batch_has_the_spaces_of_its_single_environment_and_serves_stable_baselines3():
    one, batch = TaskEnv(Chain(), horizon=3), TaskVecEnv(Chain(), 4, horizon=3)
    assert (batch.observation_space, batch.action_space) == (one.observation_space, one.action_space)
    model = PPO("MlpPolicy", batch, n_steps=16, batch_size=32, device="cpu").learn(64)
    assert model.num_timesteps == 64
    returns, lengths = evaluate_policy(model, batch, 6, return_episode_rewards=True, warn=False)
    assert lengths == [3] * 6
    assert min(returns) < 0
    batch.close()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: TaskVecEnv("navigation", 0), "num_envs must be a positive whole number, got 0"),
        (lambda: TaskVecEnv("navigation", 2, split="trian"), "Did you mean 'train'"),
        (
            lambda: with_options(TaskVecEnv("navigation", 2)).reset(),
            r"no options, got \{'task': 1\}; use TaskEnv",
        ),
        (
            lambda: with_options(TaskVecEnv("navigation", 2), [{}, {"task": 1}]).reset(),
            r"no options, got \{'task': 1\}; use TaskEnv",
        ),
    ],
)
def test_a_batch_says_what_is_wrong(use, message):
    with pytest.raises(UserError, match=message):
        use()


@pytest.mark.parametrize(
    ("family", "action", "message"),
    [
        ("navigation", np.zeros((3, 1)), r"actions must be finite numbers of shape \(3, 2\)"),
        ("navigation", np.zeros((1, 2)), r"of shape \(3, 2\)"),
        ("navigation", np.zeros(2), r"of shape \(3, 2\)"),
        ("navigation", np.full((3, 2), np.nan), "actions must be finite numbers"),
        ("bandit", [0, 1.5, 0], "actions must be choices of Discrete"),
        ("bandit", [0, 5, 0], "actions must be choices of Discrete"),
        ("bandit", [0, -1, 0], "actions must be choices of Discrete"),
    ],
)
def test_actions_that_do_not_fit_are_refused_before_anything_changes(family, action, message):
    batch, alone = TaskVecEnv(family, 3), TaskEnv(family)
    batch.reset(), alone.reset(seed=0)
    with pytest.raises(UserError, match=message):
        batch.step(action)
    # One slot's part of it, with an axis too many where the shape is wrong.
    wrong = action[1:2] if "shape" in message else action[1]
    with pytest.raises(UserError, match="actions must be"):
        alone.step(wrong)
    fitting = np.zeros((3, *batch.action_space.shape), batch.action_space.dtype)
    batch.step(fitting)
    alone.step(fitting[0])


def test_a_task_given_at_reset_is_one_of_the_family():
    env = TaskEnv("navigation")
    for task in ([0.1], [np.nan, 0.0], "there"):
        with pytest.raises(UserError, match=r"the task must|no task of navigation"):
            env.reset(options={"task": task})
    _, info = env.reset(options={"task": (0.1, 0.2)})
    assert info["task"].tolist() == [0.1, 0.2]


def with_options(batch, options={"task": 1}):  # noqa: B006 (it is not changed)
    batch.set_options(options)
    return batch


def test_a_whole_number_of_environments_may_be_written_as_a_float():
    assert TaskVecEnv("navigation", 2.0).reset().shape == (2, 2)


@pytest.mark.parametrize("algorithm", [PPO, A2C])
@pytest.mark.parametrize(("name", "activation"), [("tanh", nn.Tanh), ("relu", nn.ReLU)])
def test_the_policy_has_the_gaussian_actors_distribution(algorithm, name, activation):
    model = model_on("navigation", algorithm, (16, 12), activation)
    policy = MLPPolicy(2, Gaussian(2), (16, 12), name)
    parameters = policy_parameters(model, policy)
    observations = torch.randn(50, 2, generator=torch.Generator().manual_seed(2))
    expected = model.policy.get_distribution(observations).distribution
    torch.testing.assert_close(policy.outputs(parameters[None], observations[None])[0], expected.mean)
    torch.testing.assert_close(policy.extra(parameters[None])[0].exp().expand(50, 2), expected.stddev)
    assert not torch.allclose(expected.stddev[:, 0], expected.stddev[:, 1])


def test_the_policy_has_the_categorical_actors_distribution():
    model = model_on(Chain())
    policy = MLPPolicy(1, Categorical(2), (16,), "tanh")
    observations = torch.arange(5.0)[:, None]
    expected = model.policy.get_distribution(observations).distribution
    outputs = policy.outputs(policy_parameters(model, policy)[None], observations[None])[0]
    torch.testing.assert_close(outputs.log_softmax(-1), expected.logits)
    assert not torch.allclose(expected.logits[0], expected.logits[4])


def test_the_policy_has_the_distribution_of_an_actor_of_several_choices():
    model = model_on(MachineFamily())
    (size,) = model.observation_space.shape
    policy = MLPPolicy(size, Categoricals([3, 2]), (16,), "tanh")
    observations = torch.rand(5, size, generator=torch.Generator().manual_seed(2))
    expected = torch.cat([part.logits for part in model.policy.get_distribution(observations).distribution], 1)
    outputs = policy.outputs(policy_parameters(model, policy)[None], observations[None])[0]
    logits = torch.cat([part.log_softmax(-1) for part in outputs.split([3, 2], 1)], 1)
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize(("family", "sizes"), [(MachineFamily(), [3, 2]), (SwitchesFamily(), [2] * 8)])
def test_several_choices_are_counted_from_zero(family, sizes):
    env, batch = TaskEnv(family), TaskVecEnv(family, 2)
    assert env.action_space == batch.action_space == spaces.MultiDiscrete(sizes)
    check_env(env)
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert info["task"] in family.task_space
    batch.reset()
    assert batch.reset_infos[1]["task"] in family.task_space
    env.step(np.zeros(len(sizes), int))  # The machine and the switches refuse what is no action of theirs.
    batch.step(np.stack([env.action_space.sample(), env.action_space.nvec - 1]))


def test_integers_and_images_are_numbers():
    env = TaskEnv(LeverFamily())
    assert env.action_space == spaces.Box(-1, 1, (1,), np.float32)
    assert env.observation_space == spaces.Box(0, 1, (4,), np.float32)
    observation, info = env.reset(seed=0)
    assert observation.tolist() == [1, 1, 1, 1]
    down, size = info["task"]
    assert env.step(np.ones(1))[1] == (0 if down else 5 * size[0])


def test_a_model_of_parts_predicts_for_one_observation_or_for_many():
    env = Machine()
    policy = MLPPolicy(7, Categoricals([3, 2]), (4,), "tanh")
    adapted = AdaptedPolicy(
        policy,
        3 * policy.initial(np.random.default_rng(0)),
        ActionMap(env.action_space),
        env.observation_space,
        np.zeros(1),
        Blueprint(PolicySettings(), (7,)),
    )
    observations = [env.reset(seed=seed)[0] for seed in range(4)]
    model, batch = AdaptedModel(adapted), create_empty_array(env.observation_space, 4)
    actions, _ = model.predict(concatenate(env.observation_space, observations, batch), deterministic=True)
    for observation, action in zip(observations, actions, strict=True):
        np.testing.assert_array_equal(model.predict(observation, deterministic=True)[0], action)
        assert action in env.action_space
    with pytest.raises(UserError, match="the observation must be a dictionary with the keys 'dial', 'panel'"):
        adapted.predict(np.zeros(7))


def test_taking_the_actor_over_copies_it():
    model = model_on("navigation")
    parameters = policy_parameters(model, MLPPolicy(2, Gaussian(2), (16,), "tanh"))
    before = parameters.clone()
    with torch.no_grad():
        model.policy.log_std.add_(1)
    assert torch.equal(parameters, before)
    assert not parameters.requires_grad


class Doubled(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 2)

    def forward(self, observations):
        return 2 * observations


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": (16, 16)}, r"hidden sizes \[16, 16\] instead of \[16\];"),
        ({"family": "cheetah-dir"}, "number of observations 17 instead of 2;"),
        ({"family": Chain()}, "action distribution Categorical instead of Gaussian;"),
        ({"activation": nn.ReLU}, "activation ReLU instead of the policy's;"),
        ({"activation": nn.ELU}, "activation ELU instead of the policy's;"),
        ({"use_sde": True}, "gSDE"),
        ({"policy_kwargs": {"features_extractor_class": Doubled}}, "Doubled as its features extractor"),
    ],
)
def test_an_actor_that_does_not_fit_is_refused_with_what_differs(settings, message):
    with pytest.raises(UserError, match=message):
        policy_parameters(model_on(**{"family": "navigation", **settings}), MLPPolicy(2, Gaussian(2), (16,), "tanh"))


def test_a_model_without_an_actor_is_refused():
    with pytest.raises(UserError, match="the model is DQN with DQNPolicy"):
        policy_parameters(DQN("MlpPolicy", TaskEnv(Chain()), device="cpu"), MLPPolicy(1, Categorical(2), (64, 64)))


def normalised_model(mean, variance, clip_obs=np.inf):
    """A model whose environment normalises observations by a given mean and variance."""
    model = model_on("navigation")
    env = VecNormalize(TaskVecEnv("navigation", 1), clip_obs=clip_obs)
    env.obs_rms.mean, env.obs_rms.var = np.array(mean), np.array(variance)
    model.set_env(env)
    return model


def test_normalisation_of_the_models_environment_is_folded_into_the_start():
    model, policy = normalised_model([3.0, -20.0], [4.0, 0.25]), MLPPolicy(2, Gaussian(2), (16,), "tanh")
    parameters = policy_parameters(model, policy)
    observations = np.random.default_rng(0).normal([3, -20], [2, 0.5], (50, 2)).astype(np.float32)
    expected = model.predict(model.get_vec_normalize_env().normalize_obs(observations), deterministic=True)[0]
    got = policy.outputs(parameters[None], torch.from_numpy(observations)[None])[0].numpy()
    np.testing.assert_allclose(np.clip(got, -1, 1), expected, atol=1e-4)
    without = model.predict(observations, deterministic=True)[0]
    assert np.abs(without - expected).max() > 0.5


def test_a_model_that_normalises_rewards_alone_starts_as_it_is():
    policy = MLPPolicy(2, Gaussian(2), (16,), "tanh")
    plain = model_on("navigation")
    model = model_on("navigation")
    model.set_env(VecNormalize(TaskVecEnv("navigation", 1), norm_obs=False))
    assert torch.equal(policy_parameters(model, policy), policy_parameters(plain, policy))


@fault(
    "Settings and Python",
    "`start_from` a model whose normalisation of observations a policy cannot repeat",
    "refused in a sentence (what it can repeat is taken over)",
)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: normalised_model([0.0, 0.0], [1.0, 1.0], clip_obs=10),
            r"clips normalised observations at 10, and a policy cannot; .* set model\.get_vec_normalize_env",
        ),
        (lambda: normalised_model([1e7, 0.0], [1.0, 1.0]), "the observations are large beside how much they vary"),
        (
            lambda: model_in(DummyVecEnv([lambda: NormalizeObservation(TaskEnv("navigation"))])),
            "Gymnasium's NormalizeObservation, each with its own statistics",
        ),
        (lambda: "model.zip", "model must be a Stable-Baselines3 model, got 'model.zip'"),
    ],
)
def test_a_normalisation_that_the_policy_cannot_repeat_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        policy_parameters(make(), MLPPolicy(2, Gaussian(2), (16,), "tanh"))


def model_in(env):
    model = model_on("navigation")
    model.set_env(env)
    return model


@pytest.mark.parametrize("algo", ["maml", "l2f"])
def test_an_agent_starts_from_the_actor_and_the_rest_of_its_rule(tmp_path, algo):
    config, model = tiny(tmp_path, algo=algo, **TANH), model_on("navigation")
    agent = start_from(model, config)
    policy = agent.rule.policy
    assert torch.equal(agent.meta[: policy.layout.size], policy_parameters(model, policy))
    rest = agent.rule.initial(stream(config.seed, Purpose.INITIALISATION))[policy.layout.size :]
    assert torch.equal(agent.meta[policy.layout.size :], rest)
    assert (len(rest) > 0) == (algo == "l2f")


def test_an_unadapted_agent_acts_like_the_actor(tmp_path):
    model = model_on("navigation", action_scale=0.5)
    agent = start_from(model, tiny(tmp_path, action_scale=0.5, **TANH))
    plain = gym.make("metarl/Navigation-v0")
    plain.reset(seed=0, options={"task": GOAL})
    unadapted = agent.adapt(plain, num_steps=0, num_rollouts=1)
    env = TaskEnv("navigation", action_scale=0.5, tasks=[GOAL])
    one, other = env.reset()[0], plain.reset()[0]
    for _ in range(5):
        one = env.step(model.predict(one, deterministic=True)[0])[0]
        other = plain.step(unadapted.predict(other))[0]
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(one).max() > 0.05


def test_a_model_that_acts_in_the_environments_units_is_refused(tmp_path):
    model = PPO("MlpPolicy", gym.make("metarl/Navigation-v0"), device="cpu", policy_kwargs={"net_arch": [16]})
    with pytest.raises(UserError, match=r"TaskEnv\('navigation', action_scale=1.0\)"):
        start_from(model, tiny(tmp_path, **TANH))


def adapted_to(goal, tmp_path):
    env = gym.make("metarl/Navigation-v0", max_episode_steps=20)
    env.reset(seed=0, options={"task": goal})
    agent = start_from(model_on("navigation"), tiny(tmp_path, **TANH))
    return agent.adapt(env, num_steps=1, num_rollouts=2), env


def test_evaluate_policy_gives_the_returns_of_a_loop_by_hand(tmp_path):
    adapted, env = adapted_to(GOAL, tmp_path)
    observation, _ = env.reset()
    by_hand, done = 0.0, False
    while not done:
        observation, reward, terminated, truncated, _ = env.step(adapted.predict(observation))
        by_hand += reward
        done = terminated or truncated
    mean, deviation = evaluate_policy(AdaptedModel(adapted), env, n_eval_episodes=3, warn=False)
    assert mean == pytest.approx(by_hand, rel=1e-6)
    assert deviation == pytest.approx(0, abs=1e-5)
    random, spread = evaluate_policy(AdaptedModel(adapted), env, 3, deterministic=False, warn=False)
    assert random != pytest.approx(by_hand, rel=1e-3)
    assert spread > 1e-3


def test_a_batch_of_observations_gets_the_actions_of_each(tmp_path):
    model = AdaptedModel(adapted_to(GOAL, tmp_path)[0])
    observations = np.random.default_rng(0).standard_normal((5, 2))
    memory = (np.zeros(1),)
    actions, state = model.predict(observations, memory, np.ones(5, bool), deterministic=True)
    assert actions.shape == (5, 2)
    assert state is memory
    for observation, action in zip(observations, actions, strict=True):
        one, state = model.predict(observation, deterministic=True)
        np.testing.assert_array_equal(one, action)
        assert state is None
    with pytest.raises(ValueError, match="shape"):
        model.predict(np.zeros(3))


def test_observations_of_several_parts_are_flattened():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float64), "b": spaces.Box(-1, 1, (1,), np.float64)})
    policy, action_map = MLPPolicy(3, Gaussian(1), (4,), "tanh"), ActionMap(spaces.Box(-1, 1, (1,)))
    parameters = policy.initial(np.random.default_rng(0))
    adapted = AdaptedPolicy(policy, parameters, action_map, space, np.zeros(1), Blueprint(PolicySettings(), (3,)))
    rows = np.random.default_rng(1).uniform(-1, 1, (4, 3))
    actions, _ = AdaptedModel(adapted).predict({"a": rows[:, :2], "b": rows[:, 2:]}, deterministic=True)
    expected = policy.outputs(parameters[None], torch.from_numpy(rows[None].astype(np.float32)))[0].numpy()
    np.testing.assert_allclose(actions, np.clip(expected, -1, 1), rtol=1e-5)


def test_drawn_actions_repeat_with_the_seed(tmp_path):
    adapted, _ = adapted_to(GOAL, tmp_path)
    drawn = [AdaptedModel(adapted, seed).predict(np.zeros((4, 2)))[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert len(np.unique(drawn[0], axis=0)) == 4


def test_start_from_refuses_a_policy_with_another_body(tmp_path):
    config = tiny(tmp_path, policy_body="problems:make_body")
    with pytest.raises(UserError, match="leave out policy_body"):
        start_from(model_on("navigation"), config)


def test_start_from_gives_every_modes_policy_the_actor(tmp_path):
    model = model_on("navigation-bimodal")
    agent = start_from(model, tiny(tmp_path, env="navigation-bimodal", **{**TANH, "algo": "multi-maml"}))
    first, second = agent.meta.view(2, -1)
    assert torch.equal(first, policy_parameters(model, agent.rule.policy))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("fault", "error", "told"),
    [
        (
            "nan observation",
            UserError,
            r"the observation \(entry 0\) is nan in FaultyFamily, task 1, rollout 0, step 3, seed",
        ),
        ("nan reward", UserError, "the reward is nan"),
        (
            "4 values",
            UserError,
            "step returned 4 values .* It happened in step of FaultyFamily, task 1, rollout 0, step 3, seed",
        ),
        ("raises", KeyError, "lost"),
    ],
)
def test_faults_of_an_environment_are_told_with_their_place(fault, error, told):
    env = TaskEnv(FaultyFamily(fault))
    env.reset(seed=0, options={"task": np.int64(1)})
    for _ in range(2):
        env.step(np.zeros(1))
    with pytest.raises(error, match=told) as caught:
        env.step(np.zeros(1))
    assert (
        error is UserError
        or "It happened in step of FaultyFamily, task 1, rollout 0, step 3" in caught.value.__notes__[0]
    )


@pytest.mark.skipif(batch_module() is None, reason="needs mujoco.batch")
def test_threads_change_no_number(monkeypatch):
    monkeypatch.setattr("metarl.envs.native.available_cores", lambda: 3)
    envs = [TaskVecEnv("cheetah-dir", 5, horizon=4, num_threads=number) for number in (1, None)]
    assert [env._episodes._episodes._core.batch.nthread for env in envs] == [1, 3]
    for env in envs:
        env.seed(0)
        env.reset()
    rng = np.random.default_rng(0)
    for _ in range(6):
        actions = rng.uniform(-1, 1, (5, 6))
        for one, other in zip(*(env.step(actions)[:3] for env in envs), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_step_without_an_episode_is_told():
    env = TaskEnv("navigation", horizon=1)
    with pytest.raises(UserError, match="no episode is under way: call reset before the first step"):
        env.step(np.zeros(2))
    env.reset(seed=0)
    assert env.step(np.zeros(2))[3]
    with pytest.raises(UserError, match="no episode is under way"):
        env.step(np.zeros(2))
    batch = TaskVecEnv("navigation", 2, horizon=1)
    with pytest.raises(UserError, match="no episode is under way"):
        batch.step(np.zeros((2, 2)))
    batch.reset()
    for _ in range(3):  # Slots begin again by themselves.
        assert batch.step(np.zeros((2, 2)))[2].all()
