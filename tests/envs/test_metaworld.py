"""Meta-World: its splits, tasks and environments; with a stand-in, and with the package where it is installed."""

import importlib.util
import pickle
from collections import Counter
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
from meta_worlds import stand_in
from tiny_runs import tiny

import metarl
from metarl.common.errors import UserError
from metarl.common.strict_json import one_line
from metarl.envs import OracleFamily, check_task_family, get_family, metaworld
from metarl.envs.family import SPLITS

installed = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="needs the package metaworld")


@pytest.fixture
def package():
    with stand_in():
        yield


def drawn(family, n, split, seed=0):
    return family.sample_tasks(n, np.random.default_rng(seed), split)


def names(family, tasks):
    return Counter(map(family.kind, tasks))


@pytest.mark.parametrize("name", ["metaworld-ml1", "metaworld-ml10"])
@pytest.mark.parametrize("wrap", [lambda family: family, OracleFamily], ids=["plain", "oracle"])
def test_the_families_pass_the_check(package, name, wrap):
    check_task_family(wrap(get_family(name)))


def test_training_and_test_have_their_own_environments(package):
    family = get_family("metaworld-ml10")
    assert names(family, drawn(family, 6, "train")) == {"reach-v3": 3, "push-v3": 3}
    assert names(family, drawn(family, 6, "validation")) == {"reach-v3": 3, "push-v3": 3}
    assert names(family, drawn(family, 6, "test")) == {"door-open-v3": 6}


@pytest.mark.parametrize("name", ["metaworld-ml1", "metaworld-ml10"])
def test_every_goal_of_a_split_is_drawn_equally_often_and_splits_share_none(package, name):
    family = get_family(name)
    goals = {split: Counter(map(one_line, family.split_tasks(split))) for split in SPLITS}
    for split, listed in goals.items():
        assert set(Counter(map(one_line, drawn(family, 2 * len(listed), split))).values()) == {2}
    assert len(goals["train"] | goals["validation"] | goals["test"]) == sum(map(len, goals.values()))


def test_the_seed_and_the_task_are_arguments(package):
    family = get_family("metaworld-ml1", task="push-v3", goal_seed=3)
    assert names(family, drawn(family, 4, "test")) == {"push-v3": 4}
    other = get_family("metaworld-ml1", task="push-v3", goal_seed=4)
    assert one_line(family.split_tasks("train")) != one_line(other.split_tasks("train"))
    env = get_family("metaworld-ml1", reward_function_version="v1").make_env()
    assert env.unwrapped.reward_function_version == "v1"
    assert "push-v3, goal (" in family.describe_task(drawn(family, 1, "train")[0])


def test_the_goal_is_hidden_from_the_agent_and_shown_to_the_oracle(package):
    family = get_family("metaworld-ml10")
    (task,) = drawn(family, 1, "test")
    env = family.make_env(kind=family.kind(task))
    family.set_task(env, task)
    assert not env.reset()[0][-3:].any()
    oracle = OracleFamily(family)
    env = oracle.make_env(kind=oracle.kind(task))
    oracle.set_task(env, task)
    np.testing.assert_array_equal(env.reset()[0][-6:], task["goal"])


def test_a_task_of_another_environment_is_refused(package):
    family = get_family("metaworld-ml10")
    with pytest.raises(UserError, match=r"one of door-open-v3, and the environment a Reach; make one with make_env\("):
        family.set_task(family.make_env(), drawn(family, 1, "test")[0])


def test_an_unknown_environment_is_refused_with_the_nearest_name(package, tmp_path):
    with pytest.raises(UserError, match=r"Meta-World has no environment 'push-v4'\. Did you mean 'push-v3'"):
        metarl.train(tiny(tmp_path / "run", env="metaworld-ml1", env_kwargs={"task": "push-v4"}))


@pytest.mark.parametrize("settings", [{"algo": "maml"}, {"algo": "rl2", "num_inner_steps": 1, "rl2": {"units": 8}}])
def test_success_is_measured_in_training_and_evaluation(package, tmp_path, settings):
    run = metarl.train(tiny(tmp_path / "run", env="metaworld-ml10", best_by="success", horizon=5, **settings))
    assert np.isfinite(run.progress["post_adaptation_success"]).all()
    result = metarl.evaluate(run.path, metarl.EvaluationConfig(tasks=4, rollouts=2, gradient_steps=1))
    assert result.metrics["success"].per_task.shape == (4, 2)
    assert not result.finite
    assert result.interval is not None


def test_the_missing_package_is_named(package, monkeypatch, tmp_path):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="metaworld")

    monkeypatch.setattr(metaworld, "importlib", SimpleNamespace(import_module=missing))
    config = tiny(tmp_path / "run", env="metaworld-ml10")  # A stored run can be read without the package.
    with pytest.raises(
        UserError, match=r"need the package metaworld; install it from a clone of metarl: pip install '\.\[metaworld"
    ):
        metarl.train(config)


@pytest.mark.parametrize("columns", [11, 12])
def test_welds_are_set_whatever_their_length(columns):
    welds = np.full((2, columns), 7.0)
    types = np.array([mujoco.mjtEq.mjEQ_WELD, mujoco.mjtEq.mjEQ_CONNECT])
    metaworld._reset_mocap_welds(SimpleNamespace(model=SimpleNamespace(eq_data=welds, eq_type=types)))
    np.testing.assert_array_equal(welds[0], [*metaworld._WELD, *[7.0] * (columns - 11)])
    np.testing.assert_array_equal(welds[1], 7.0)


def test_only_a_release_that_needs_it_is_repaired(package, monkeypatch):
    base = SimpleNamespace(reset_mocap_welds="own")
    monkeypatch.setattr(mujoco, "mjNEQDATA", 11)
    metaworld._repair_welds(base)
    assert base.reset_mocap_welds == "own"
    monkeypatch.setattr(mujoco, "mjNEQDATA", 12)
    monkeypatch.setattr(metaworld.importlib.metadata, "version", lambda name: "3.2.0")
    metaworld._repair_welds(base)
    assert base.reset_mocap_welds == "own"
    monkeypatch.setattr(metaworld.importlib.metadata, "version", lambda name: "3.1.1")
    metaworld._repair_welds(base)
    assert base.reset_mocap_welds is metaworld._reset_mocap_welds


# With the package


@installed
@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), [("metaworld-ml1", {"task": "push-v3"}), ("metaworld-ml10", {})])
def test_the_package_passes_the_check(name, arguments):
    check_task_family(get_family(name, **arguments))


@installed
@pytest.mark.parametrize(
    ("name", "train", "test", "goals"), [("metaworld-ml10", 10, 5, 250), ("metaworld-ml1", 1, 1, 50)]
)
def test_the_package_has_the_environments_of_the_benchmark(name, train, test, goals):
    family = get_family(name)
    assert len(names(family, drawn(family, 2 * train, "train"))) == train
    assert set(names(family, drawn(family, goals, "test")).values()) == {50}
    assert len(names(family, drawn(family, goals, "test"))) == test


@installed
@pytest.mark.parametrize("name", ["reach-v3", "push-v3", "door-open-v3", "drawer-close-v3"])
def test_scripted_policies_succeed(name):
    from metaworld.policies import ENV_POLICY_MAP

    family, policy = get_family("metaworld-ml1", task=name), ENV_POLICY_MAP[name]()
    env, succeeded = family.make_env(), []
    for task in drawn(family, 4, "test"):
        family.set_task(env, task)
        observation, _ = env.reset()
        assert not observation[-3:].any()
        reached = 0.0
        while not reached and env.unwrapped.curr_path_length < family.horizon:
            # The scripted policies see the goal.
            action = policy.get_action(np.concatenate([observation[:-3], env.unwrapped._target_pos]))
            observation, _, _, _, info = env.step(np.clip(action, -1, 1))
            reached = info["success"]
        succeeded.append(bool(reached))
    assert all(succeeded)


@installed
def test_families_with_the_package_can_be_sent_to_processes():
    family = get_family("metaworld-ml1")
    tasks = drawn(family, 3, "train")
    assert one_line(drawn(pickle.loads(pickle.dumps(family)), 3, "train")) == one_line(tasks)
