"""Deployment: load an agent, adapt it to one environment, act."""

import json
import shutil

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_runs import ROOT, everything_in, tiny

import metarl
from metarl import UserError
from metarl.envs.navigation import NavigationFamily
from metarl.inner.rule import evaluation_scales
from metarl.runs.training import train
from metarl.store.folder import RunFolder

GOAL = np.array([0.3, -0.2])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on navigation."""
    return train(tiny(tmp_path_factory.mktemp("runs") / "run", algo="l2f")).path


@pytest.fixture
def agent(run):
    return metarl.load(run)


def navigation(goal=GOAL, seed=0):
    env = gymnasium.make("metarl/Navigation-v0")
    env.reset(seed=seed, options={"task": goal})
    return env


class Recorded(gymnasium.Wrapper):
    """Keeps the task and the return of every episode, and counts the steps."""

    def __init__(self, env):
        super().__init__(env)
        self.tasks, self.returns, self.steps = [], [], 0

    def reset(self, **options):
        observation, info = self.env.reset(**options)
        self.tasks.append(info["task"])
        self.returns.append(0.0)
        return observation, info

    def step(self, action):
        self.steps += 1
        assert self.action_space.contains(action)
        observation, reward, *ends = self.env.step(action)
        self.returns[-1] += reward
        return observation, reward, *ends


def test_every_episode_of_the_adaptation_has_the_environments_task(agent):
    env = Recorded(navigation())
    policy = agent.adapt(env, num_steps=2, num_rollouts=3, horizon=5)
    # Three stages collect three episodes each: none of L2F's own, since it reuses the first ones.
    assert len(env.tasks) == 9
    np.testing.assert_array_equal(env.tasks, [GOAL] * 9)
    assert env.steps == 9 * 5
    assert policy.returns.shape == (3,)
    np.testing.assert_array_equal(env.reset()[1]["task"], GOAL)


def test_the_adapted_policys_returns_are_those_of_its_episodes(agent):
    env = Recorded(navigation(np.array([0.5, 0.5])))
    returns = agent.adapt(env, num_steps=1, num_rollouts=2, horizon=3).returns
    np.testing.assert_allclose(returns, np.reshape(env.returns, (2, 2)).mean(1), rtol=1e-6)


def test_adaptation_changes_the_policy_and_no_steps_leave_it(agent):
    before = agent.meta.clone()
    unadapted = agent.adapt(navigation(), num_steps=0, num_rollouts=2)
    adapted = agent.adapt(navigation(), num_steps=1, num_rollouts=2)
    size = agent.rule.policy.layout.size
    assert torch.equal(unadapted.parameters, agent.meta[:size])
    assert not torch.equal(adapted.parameters, unadapted.parameters)
    assert torch.equal(agent.meta, before)
    assert unadapted.returns.shape == (1,)


def test_adaptation_repeats_under_the_same_seeds_and_only_then(agent):
    first, again = (agent.adapt(navigation(), 2, 3, seed=7) for _ in range(2))
    other = agent.adapt(navigation(), 2, 3, seed=8)
    assert torch.equal(first.parameters, again.parameters)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert not torch.equal(first.parameters, other.parameters)


def test_predict_gives_an_action_within_the_bounds_the_same_each_time(agent):
    env = navigation()
    policy = agent.adapt(env, num_steps=1, num_rollouts=2)
    observation, _ = env.reset()
    action = policy.predict(observation)
    assert env.action_space.contains(action)
    np.testing.assert_array_equal(action, policy.predict(observation))
    np.testing.assert_array_equal(action, policy.predict(observation.tolist()))
    far = policy.predict(np.array([1e6, -1e6]))
    assert env.action_space.contains(far)
    env.step(action)


def test_predict_draws_from_the_generator_it_is_given(agent):
    policy = agent.adapt(navigation(), num_steps=0, num_rollouts=1)
    draws = [policy.predict(np.zeros(2), deterministic=False, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert all(policy.action_map(np.zeros(2, np.float32)).dtype == draw.dtype for draw in draws)


def test_predict_says_what_it_needs(agent):
    policy = agent.adapt(navigation(), num_steps=0, num_rollouts=1)
    with pytest.raises(ValueError, match=r"observation must have shape \(2,\), got \(3,\)\. Several .* a first axis"):
        policy.predict(np.zeros(3))
    with pytest.raises(ValueError, match="observation must be finite numbers, got array"):
        policy.predict(np.array([[0.0, 0.0], [0.0, np.nan]]))
    with pytest.raises(ValueError, match=r"needs a generator: rng=numpy.random.default_rng\(seed\)"):
        policy.predict(np.zeros(2), deterministic=False)


class Other(gymnasium.Env):
    """Whatever spaces a test wants."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space


PLANE = spaces.Box(-np.inf, np.inf, (2,))


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (spaces.Box(-1, 1, (3,)), spaces.Box(-0.1, 0.1, (2,)), "observations have 3 numbers.* navigation with 2"),
        (PLANE, spaces.Box(-0.1, 0.1, (3,)), r"actions are Box\(-0.1, 0.1, \(3,\).*was trained with Box"),
        (PLANE, spaces.Discrete(2), r"actions are Discrete\(2\)"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(agent, observation_space, action_space, message):
    with pytest.raises(UserError, match=message):
        agent.adapt(Other(observation_space, action_space))


class Pixels(gymnasium.ObservationWrapper):
    """Navigation seen as a picture of four pixels."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (2, 2), np.uint8)

    def observation(self, observation):
        return np.full((2, 2), 100 + 50 * np.clip(observation, -1, 1), np.uint8)


class PixelFamily(NavigationFamily):
    """Tasks of `Pixels`."""

    name = "pixels"

    def make_env(self, render_mode=None):
        return Pixels(super().make_env(render_mode))

    make_episodes = metarl.TaskFamily.make_episodes


def test_an_environment_whose_observations_mean_something_else_is_refused(tmp_path):
    """As many numbers, of which the agent would make others."""
    train(tiny(tmp_path / "run", env=f"{__name__}:PixelFamily", iterations=1))
    agent = metarl.load(tmp_path / "run", trust=True)
    actions = agent.family.action_space
    agent.check_fits(spaces.Box(0, 255, (2, 2), np.uint8), actions)
    for other in (spaces.Box(0, 255, (2, 2)), spaces.Box(0, 255, (4,), np.uint8), spaces.MultiBinary((2, 2))):
        with pytest.raises(UserError, match=r"observations are .*; this agent was trained on .* with Box\(0, 255"):
            agent.check_fits(other, actions)


class Restless(gymnasium.Wrapper):
    """Draws another task at each reset."""

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=int(self.np_random.integers(2**31)))


class NoGymnasium(gymnasium.Wrapper):
    """Has a reset of its own."""

    def reset(self):
        return self.env.reset()


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [(Restless, "has changed its task, from .* to .* must keep its task"), (NoGymnasium, "define it as reset")],
)
def test_an_environment_that_does_not_keep_its_task_is_refused(agent, wrapper, message):
    with pytest.raises(UserError, match=message):
        agent.adapt(wrapper(navigation()), num_steps=0, num_rollouts=2)


def test_an_adapted_policy_is_a_value_of_its_own(agent):
    before = agent.meta.clone()
    policies = [agent.adapt(navigation(), num_steps=0, num_rollouts=1) for _ in range(2)]
    policies[0].parameters.add_(1.0)
    assert torch.equal(agent.meta, before)
    assert policies.index(policies[1]) == 1
    assert len({*policies}) == 2


def test_discrete_actions_are_elements_of_the_action_space(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    train(tiny(tmp_path / "run", env="examples.cartpole_family:CartPoleFamily", iterations=1))
    env = gymnasium.make("CartPole-v1")
    policy = metarl.load(tmp_path / "run").adapt(env, num_steps=1, num_rollouts=3)
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(policy.predict(observation))
    env.step(policy.predict(observation))


def test_the_best_checkpoint_can_be_loaded(run):
    best = load_file(RunFolder(run).checkpoint("best"))["meta"]
    assert torch.equal(metarl.load(str(run), "best").meta, best)


def test_a_run_may_be_moved(run, tmp_path):
    shutil.copytree(run, tmp_path / "moved")
    moved = metarl.load(tmp_path / "moved")
    assert moved.config.folder == tmp_path / "moved"
    assert torch.equal(moved.meta, metarl.load(run).meta)


def _missing(folder):
    RunFolder(folder).checkpoint("last").unlink()


def _corrupted(folder):
    path = RunFolder(folder).checkpoint("last")
    path.write_bytes(b"\x00" * 200 + path.read_bytes()[200:])


def _empty(folder):
    RunFolder(folder).checkpoint("last").write_bytes(b"")


def _foreign(folder):
    save_file({"weight": torch.zeros(3)}, RunFolder(folder).checkpoint("last"))


def _without_checksum(metadata):
    """As files of before have it; a wrong checksum would be told first."""
    return {name: value for name, value in metadata.items() if name != "sha256"}


def _not_finite(folder):
    path = RunFolder(folder).checkpoint("last")
    with safe_open(path, "pt") as file:
        meta, metadata = file.get_tensor("meta"), _without_checksum(file.metadata())
    save_file({"meta": meta * float("nan")}, path, metadata)


def _without_progress(folder):
    path = RunFolder(folder).checkpoint("last")
    with safe_open(path, "pt") as file:
        meta, metadata = file.get_tensor("meta"), _without_checksum(file.metadata())
    save_file({"meta": meta}, path, {**metadata, "progress": "{}}"})


def _of_another_seed(folder):
    train(tiny(folder.parent / "seed", seed=9, iterations=0))
    shutil.copy(RunFolder(folder.parent / "seed").checkpoint("last"), RunFolder(folder).checkpoint("last"))


def _other_size(folder):
    train(tiny(folder.parent / "other", algo="l2f", iterations=0, hidden_sizes=(8,)))
    shutil.copy(RunFolder(folder.parent / "other").checkpoint("last"), RunFolder(folder).checkpoint("last"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_missing, r"has no checkpoint 'last' .* has the run saved one yet\?"),
        (_corrupted, r"last.safetensors is damaged and cannot be read"),
        (_empty, r"last.safetensors is damaged and cannot be read"),
        (_foreign, r"is not a metarl checkpoint; it was written by another program"),
        (_not_finite, r"is damaged: its meta-parameters are not a vector of finite numbers"),
        (_without_progress, r"is damaged: it does not say where the run stood"),
        (_of_another_seed, r"belongs to another run \(\w+ on navigation, seed 9\), not to"),
        (_other_size, r"holds \d+ meta-parameters and the configuration's l2f needs \d+; it belongs to another run"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_told(run, tmp_path, damage, message):
    shutil.copytree(run, tmp_path / "run")
    RunFolder(tmp_path / "run").checkpoint("previous").unlink()
    damage(tmp_path / "run")
    before = everything_in(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        metarl.load(tmp_path / "run")
    assert everything_in(tmp_path / "run") == before


def test_a_mumomaml_of_before_each_layer_had_its_own_network_is_told(tmp_path):
    agent = train(tiny(tmp_path, algo="mumomaml", hidden_sizes=(16, 8), iterations=0)).agent
    path = RunFolder(tmp_path).checkpoint("last")
    with safe_open(path, "pt") as file:
        metadata = _without_checksum(file.metadata())
    shared = agent.rule.num_meta - 8 * 8 - 8  # One hidden layer of the modulation networks instead of two.
    save_file({"meta": torch.zeros(shared)}, path, metadata)
    message = f"holds {shared} meta-parameters and the configuration's mumomaml needs .* another run or version of"
    with pytest.raises(UserError, match=message):
        metarl.load(tmp_path)
    with pytest.raises(UserError, match=message):
        train(tiny(tmp_path, algo="mumomaml", hidden_sizes=(16, 8), iterations=1, resume=True))


def test_a_folder_that_is_no_run_is_told(run, tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist; give the folder that"):
        metarl.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is not the folder of a run: it holds no config.json"):
        metarl.load(tmp_path)
    with pytest.raises(UserError, match=r"checkpoint must be one of last, best; got 'lst'. Did you mean 'last'"):
        metarl.load(run, "lst")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"env": "naviga', r"config\.json is damaged, or no JSON: .+"),
        ("[]", r"config\.json is damaged: .+"),
        (
            '{"env": "navigation", "trpo": {"max_k": 1}}',
            r"config\.json: trpo has no setting 'max_k'\. Did you mean 'max_kl'",
        ),
    ],
)
def test_a_damaged_configuration_is_told(run, tmp_path, content, message):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        metarl.load(tmp_path / "run")


def test_a_setting_of_another_version_is_told(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "inner_learning_rate": 1}))
    with pytest.raises(UserError, match="unknown setting 'inner_learning_rate' in the configuration"):
        metarl.load(tmp_path / "run")


def test_trained_steps_have_the_training_step_size_and_later_ones_half():
    assert evaluation_scales(0, 1) == ()
    assert evaluation_scales(1, 1) == (1.0,)
    assert evaluation_scales(4, 1) == (1.0, 0.5, 0.5, 0.5)
    assert evaluation_scales(4, 2) == (1.0, 1.0, 0.5, 0.5)
    assert evaluation_scales(2, 3) == (1.0, 1.0)
    assert evaluation_scales(2, 0) == (1.0, 0.5)
    assert evaluation_scales(4, 1, wanted=(1.0, 0.25)) == (1.0, 0.25, 0.25, 0.25)
    assert evaluation_scales(1, 3, wanted=(0.5, 0.25)) == (0.5,)


@pytest.mark.parametrize("trained_steps", [1, 2])
def test_an_agent_takes_the_steps_it_was_trained_for_in_full(tmp_path, trained_steps, monkeypatch):
    agent = train(tiny(tmp_path, iterations=0, num_inner_steps=trained_steps)).agent
    asked = []
    stages = agent.rule.stages
    monkeypatch.setattr(agent.rule, "stages", lambda scales: asked.append(scales) or stages(scales))
    agent.adapt(navigation(), num_steps=3, num_rollouts=2, horizon=5)
    assert asked == [(1.0, 1.0, 0.5) if trained_steps == 2 else (1.0, 0.5, 0.5)]
