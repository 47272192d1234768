"""The oracle sees the task in its observations, and nothing else is different."""

import pickle
from contextlib import nullcontext

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from machines import MachineFamily, SwitchesFamily

import metarl
from examples.cartpole_family import CartPoleFamily
from metarl.common.errors import UserError
from metarl.common.strict_json import plain
from metarl.envs import TaskFamily, check_task_family, get_family
from metarl.envs.checked import checked_episodes
from metarl.envs.oracle import OracleFamily

NAMES = ["navigation", "navigation-bimodal", "bandit", "tabular-mdp", "cheetah-dir"]


class Silent(gym.Env):
    """Takes its task from the reset's options, does not report it, and shows two tables of bytes."""

    observation_space = spaces.Dict(
        {"one": spaces.Box(0, 9, (2, 2), np.uint8), "two": spaces.Box(0, 9, (1,), np.uint8)}
    )
    action_space = spaces.Discrete(2)
    task = 3

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = (options or {"task": self.task})["task"]
        return self._observation(), {}

    def step(self, action):
        return self._observation(), float(self.task * action), False, False, {}

    def _observation(self):
        return {"one": np.full((2, 2), self.task, np.uint8), "two": np.full(1, 7, np.uint8)}


class SilentFamily(TaskFamily):
    horizon = 4
    data = "3 files"
    task_space = spaces.Discrete(6, start=2)

    def make_env(self):
        return Silent()


class TextFamily(SilentFamily):
    task_space = spaces.Dict({"goal": spaces.Text(3)})


def flat(family, task):
    """A task as the oracle shows it."""
    return spaces.flatten(family.task_space, task).astype(np.float64)


def flat_observation(family, observation):
    """An observation as every policy sees it; the environments that show bytes of the whole range are machines."""
    flat = spaces.flatten(family.make_env().observation_space, observation).astype(np.float64)
    return np.concatenate([flat[:-2], flat[-2:] / 255]) if isinstance(family, MachineFamily) else flat


FAMILIES = [get_family(name) for name in NAMES] + [CartPoleFamily(), SilentFamily(), MachineFamily(), SwitchesFamily()]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_oracle_families_pass_the_check_of_families(family):
    # Among others: batches equal single environments, a task lasts at a plain reset and at one without a seed
    check_task_family(OracleFamily(family))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_batch_shows_the_familys_observations_and_then_the_task(family):
    oracle = OracleFamily(family)
    (inner,), (outer,) = family.observation_space.shape, oracle.observation_space.shape
    tasks, seeds, horizon = family.sample_tasks(3, np.random.default_rng(0)), [4, 5, 6], 4
    appended = np.stack([flat(family, task) for task in tasks])
    assert outer == inner + appended.shape[1]
    plain, shown = family.make_episodes(3, horizon), oracle.make_episodes(3, horizon)
    seen, seen_with_task = np.zeros((3, inner)), np.full((3, outer), np.nan)
    results = [(np.zeros(3), np.zeros(3, bool), np.zeros(3, bool)) for _ in range(2)]
    plain.reset(tasks, seeds, seen)
    shown.reset(tasks, seeds, seen_with_task)
    np.testing.assert_array_equal(seen_with_task, np.column_stack([seen, appended]))
    family.action_space.seed(0)
    for _ in range(horizon):
        actions = np.stack([family.action_space.sample() for _ in range(3)])
        seen_with_task[:] = np.nan  # a sampler has a new buffer at each step
        plain.step(actions, seen, *results[0])
        shown.step(actions, seen_with_task, *results[1])
        np.testing.assert_array_equal(seen_with_task, np.column_stack([seen, appended]))
        np.testing.assert_array_equal(results[0], results[1])
    assert results[0][2].all()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_single_environment_shows_the_task_it_was_set_to_through_other_wrappers(family):
    oracle = OracleFamily(family)
    env, bare = TimeLimit(oracle.make_env(), 50), family.make_env()
    for task in family.sample_tasks(3, np.random.default_rng(1)):
        expected, _ = bare.reset(seed=2, options=family.set_task(bare, task))
        first, _ = env.reset(seed=2, options=oracle.set_task(env, task))
        observed = flat_observation(family, expected)
        np.testing.assert_array_equal(first, np.concatenate([observed, flat(family, task)]))
        for observation in (first, env.step(bare.action_space.sample())[0], env.reset()[0]):
            assert observation in oracle.observation_space
            np.testing.assert_array_equal(observation[len(observed) :], flat(family, task))


def test_a_task_that_the_environment_draws_itself_is_shown():
    env = OracleFamily(get_family("navigation")).make_env()
    tasks = []
    for seed in range(3):
        observation, info = env.reset(seed=seed)
        np.testing.assert_array_equal(observation[2:], info["task"])
        tasks.append(info["task"].tolist())
    assert len(set(map(tuple, tasks))) == 3


def test_the_task_in_a_resets_info_goes_before_the_one_that_was_set():
    oracle = OracleFamily(get_family("navigation"))
    env = oracle.make_env()
    oracle.set_task(env, [0.1, 0.2])
    observation, _ = env.reset(options={"task": [0.3, 0.4]})
    np.testing.assert_array_equal(observation, [0, 0, 0.3, 0.4])


def test_a_task_in_the_options_is_shown_where_the_environment_does_not_report_it():
    env = OracleFamily(SilentFamily()).make_env()
    observation, _ = env.reset(options={"task": 5})
    np.testing.assert_array_equal(observation, [5, 5, 5, 5, 7, *[0, 0, 0, 1, 0, 0]])
    np.testing.assert_array_equal(env.reset()[0], observation)
    with pytest.raises(
        UserError, match=r"a task of SilentFamily must be an element of Discrete\(6, start=2\), got \[8\]"
    ):
        env.reset(options={"task": 8})


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_everything_but_the_observations_is_the_familys_own(family):
    oracle = pickle.loads(pickle.dumps(OracleFamily(family)))
    tasks = family.sample_tasks(5, np.random.default_rng(3), "test")
    assert plain(oracle.sample_tasks(5, np.random.default_rng(3), "test")) == plain(tasks)
    np.testing.assert_array_equal(oracle.modes(tasks), family.modes(tasks))
    drawn = [each.draw_tasks(5, np.random.default_rng(3), "test") for each in (oracle, family)]
    assert plain(drawn[0]) == plain(drawn[1])
    assert oracle.describe_task(tasks[0]) == family.describe_task(tasks[0])
    for attribute in ("name", "data", "horizon", "task_space", "action_space", "num_modes", "min_envs_per_shard"):
        assert getattr(oracle, attribute) == getattr(family, attribute)
    assert (oracle.metrics, oracle.costs, oracle.defaults) == (family.metrics, family.costs, family.defaults)
    np.testing.assert_array_equal(oracle.finite_tasks, family.finite_tasks)


def test_an_environment_of_unknown_task_is_told():
    with pytest.raises(UserError, match=r"environment of SilentFamily does not tell its task; set it with .*set_task"):
        OracleFamily(SilentFamily()).make_env().reset(seed=0)


def test_an_environment_that_cannot_show_its_task_is_told():
    with pytest.raises(UserError, match="the environment does not show its task; make it with make_env, got <Silent"):
        OracleFamily(SilentFamily()).set_task(Silent(), 3)


def test_tasks_that_are_no_arrays_are_told():
    with pytest.raises(
        UserError, match=r"the tasks of TextFamily are Dict.*, and Text\(.*\) is not supported: use Box"
    ):
        OracleFamily(TextFamily())


class Breaking(Silent):
    """Cannot go on from its second step on."""

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.steps += 1
        if self.steps == 2:
            raise metarl.BrokenEpisode("its arm came off")
        return super().step(action)


class BreakingFamily(TaskFamily):
    horizon = 4
    task_space = spaces.Discrete(9)

    def make_env(self, render_mode=None):
        return Breaking()


@pytest.mark.parametrize("wrap", [lambda family: family, OracleFamily])
def test_broken_episodes_are_no_others_with_the_task_in_sight(wrap):
    family = wrap(BreakingFamily())
    observations, rewards, flags = np.zeros((2, *family.observation_space.shape)), np.zeros(2), np.zeros((2, 2), bool)
    for choice in ("stop", "drop"):
        batch = checked_episodes(family, 2, 4, on_bad_episode=choice)
        batch.reset(np.array([1, 2]), [0, 1], observations)
        batch.step(np.zeros(2, int), observations, rewards, *flags)
        with pytest.raises(UserError, match="its arm came off") if choice == "stop" else nullcontext():
            batch.step(np.zeros(2, int), observations, rewards, *flags)
    assert sorted(batch.dropped) == [0, 1]
