"""A family is a value: environments, and the models that they compile, are made for rollouts and for spaces only."""

import numpy as np
import pytest
from marks import native_batches

from metarl import Config
from metarl.common.errors import UserError
from metarl.envs import OracleFamily, cheetah, get_family, native

NAMES = ["navigation", "navigation-bimodal", "bandit", "tabular-mdp", "cheetah-dir", "cheetah-vel-rllab", "ant-goal"]


@pytest.fixture
def made(monkeypatch):
    """Counts the environments that are made, by class."""
    counts = []

    def count(name):
        env_class = type(get_family(name)).env_class
        original = env_class.__init__

        def counting(self, *args, **kwargs):
            counts.append(env_class)
            original(self, *args, **kwargs)

        # The signature is what a family's defaults come from.
        counting.__wrapped__ = original
        monkeypatch.setattr(env_class, "__init__", counting)
        return counts

    native._shared_env.cache_clear()
    yield count
    native._shared_env.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_a_family_makes_no_environment_for_what_needs_none(name, made):
    counts = made(name)
    for family in (get_family(name), OracleFamily(get_family(name, horizon=7))):
        tasks = family.sample_tasks(3, np.random.default_rng(0), "test")
        for task in tasks:
            family.check_task(np.asarray(task))
            family.describe_task(task)
        assert family.horizon > 0
        _ = family.defaults, family.metrics, family.finite_tasks, family.num_modes, family.task_space
        family.modes(tasks)
    Config(env=name)
    assert counts == []


@pytest.mark.parametrize("name", native_batches(NAMES))
def test_spaces_and_batches_of_equal_families_share_one_environment(name, made):
    counts = made(name)
    for family in (get_family(name), get_family(name, horizon=7), OracleFamily(get_family(name))):
        _ = family.observation_space, family.action_space
        for num_envs in (1, 3):
            family.make_episodes(num_envs, 5)
    assert len(counts) == 1
    family.make_env()
    assert len(counts) == 2


def test_other_parameters_need_another_environment(made):
    counts = made("navigation")
    bounds = [get_family("navigation", action_bound=bound).action_space.high[0] for bound in (0.1, 0.2, 0.1)]
    np.testing.assert_array_equal(bounds, np.float32([0.1, 0.2, 0.1]))
    assert len(counts) == 2


@pytest.mark.parametrize("name", native_batches(["cheetah-dir"]))
def test_a_configuration_compiles_no_model_and_a_batch_one(name, monkeypatch):
    compiled = []

    def compile_model(*args, **kwargs):
        compiled.append(args)
        return original(*args, **kwargs)

    original = cheetah.compile_model
    monkeypatch.setattr(cheetah, "compile_model", compile_model)
    native._shared_env.cache_clear()
    Config(env=name)
    with pytest.raises(UserError, match=r"frame_skip must be a positive whole number, got 0\."):
        Config(env=name, env_kwargs={"frame_skip": 0})
    assert compiled == []
    for _ in range(3):
        get_family(name).make_episodes(20, 5)
    assert len(compiled) == 1


def test_a_family_with_another_make_env_runs_its_own_environments(made):
    class Slow(type(get_family("navigation"))):
        def make_env(self, render_mode=None):
            env = super().make_env(render_mode)
            env._action_bound = self.bound
            return env

    moved = []
    for bound in (0.01, 0.02):
        family = Slow()
        family.bound = bound
        batch, observations = family.make_episodes(1, 5), np.zeros((1, 2))
        batch.reset(np.zeros((1, 2)), [0], observations)
        batch.step(np.ones((1, 2)), observations, np.zeros(1), *np.zeros((2, 1), bool))
        moved.append(observations[0, 0])
    assert moved == [0.01, 0.02]
