"""A batch, native or not, is equal, in float64 and exactly, to single environments."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium_ids import IDS
from marks import native_batches, needs_mujoco_batch

from metarl.common.errors import UserError
from metarl.envs import OracleFamily, get_family
from metarl.envs.native import NativeEpisodes, NativeVectorEnv

FAMILIES = [
    "navigation",
    "navigation-b",
    "navigation-c",
    "navigation-d",
    "navigation-bimodal",
    "navigation-modes",
    "bandit",
    "tabular-mdp",
    "cheetah-dir",
    "cheetah-vel",
    "cheetah-vel-signed",
    "cheetah-dir-rllab",
    "cheetah-vel-rllab",
    "ant-dir",
    "ant-vel",
    "ant-goal",
    "walker-params",
    "hopper-params",
    "cheetah-params",
    "cheetah-crippled",
    "ant-crippled",
    "humanoid-dir",
]
SLOTS = 3


def actions_beyond_bounds(space, seed=0):
    rng = np.random.default_rng(seed)
    while isinstance(space, Discrete):
        yield rng.integers(space.n, size=SLOTS)
    while True:
        yield (1.2 * rng.uniform(-1, 1, (SLOTS, *space.shape)) * space.high).astype(np.float32)


def vector_pair(name, max_episode_steps):
    family = get_family(name)
    env = family.make_env()
    native = NativeVectorEnv(family.core_class(env, SLOTS), env, max_episode_steps)
    return native, SyncVectorEnv([lambda: TimeLimit(family.make_env(), max_episode_steps)] * SLOTS)


def assert_same_steps(native, looped, steps):
    ends = 0
    for _, actions in zip(range(steps), actions_beyond_bounds(native.single_action_space), strict=False):
        *results, native_info = native.step(actions)
        *expected, looped_info = looped.step(actions)
        for result, wanted in zip(results, expected, strict=True):
            assert result.dtype == wanted.dtype
            np.testing.assert_array_equal(result, wanted)
        assert {"task", "_task"} & set(native_info) == {"task", "_task"} & set(looped_info)
        for term in (name for name in native_info if name.startswith("reward_")):
            np.testing.assert_array_equal(native_info[term], looped_info.get(term, np.zeros(SLOTS)))
        ends += (results[2] | results[3]).sum()
    return ends


@pytest.mark.parametrize("name", native_batches(FAMILIES))
def test_vector_environment_equals_single_environments_through_autoresets(name):
    native, looped = vector_pair(name, max_episode_steps=20)
    observations, info = native.reset(seed=11)
    expected, expected_info = looped.reset(seed=11)
    np.testing.assert_array_equal(observations, expected)
    np.testing.assert_array_equal(info["task"], expected_info["task"])
    assert assert_same_steps(native, looped, 64) >= 2 * SLOTS


@needs_mujoco_batch
def test_ants_end_early_in_these_comparisons():
    native, looped = vector_pair("ant-dir", max_episode_steps=10**6)
    native.reset(seed=3)
    looped.reset(seed=3)
    assert assert_same_steps(native, looped, 200) > 0


@pytest.mark.parametrize("env_id", native_batches(IDS))
def test_registered_vector_environment_equals_the_looped_one(env_id):
    native = gym.make_vec(f"metarl/{env_id}-v0", SLOTS, vectorization_mode="vector_entry_point")
    looped = gym.make_vec(f"metarl/{env_id}-v0", SLOTS, vectorization_mode="sync")
    assert native.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    np.testing.assert_array_equal(native.reset(seed=[5, 1, 9])[0], looped.reset(seed=[5, 1, 9])[0])
    assert_same_steps(native, looped, 20)
    np.testing.assert_array_equal(native.reset()[0], looped.reset()[0])
    assert_same_steps(native, looped, 5)


@pytest.mark.parametrize("name", native_batches(FAMILIES))
def test_built_in_families_run_on_native_batches(name):
    assert isinstance(get_family(name).make_episodes(1, 5), NativeEpisodes)


@pytest.mark.parametrize("name", FAMILIES)
def test_episodes_equal_single_environments_and_stand_still_after_their_end(name):
    horizon, seeds = 200, [7, 8, 9]
    family = get_family(name)
    tasks = family.sample_tasks(SLOTS, np.random.default_rng(0))
    batch, envs = family.make_episodes(SLOTS, horizon), [TimeLimit(family.make_env(), horizon) for _ in range(SLOTS)]
    observations, rewards = np.zeros((SLOTS, *family.observation_space.shape)), np.zeros(SLOTS)
    terminated, truncated = np.ones(SLOTS, bool), np.ones(SLOTS, bool)
    batch.reset(tasks, seeds, observations)
    last = [env.reset(seed=s, options={"task": t})[0] for env, s, t in zip(envs, seeds, tasks, strict=True)]
    np.testing.assert_array_equal(observations, last)
    ended = np.zeros((SLOTS, 2), bool)
    for _, actions in zip(range(horizon), actions_beyond_bounds(family.action_space), strict=False):
        batch.step(actions, observations, rewards, terminated, truncated)
        for slot, env in enumerate(envs):
            expected_reward = 0.0
            if not ended[slot].any():
                last[slot], expected_reward, *ended[slot], _ = env.step(actions[slot])
            assert rewards[slot] == expected_reward
        np.testing.assert_array_equal(observations, last)
        np.testing.assert_array_equal(np.stack([terminated, truncated], axis=1), ended)
    assert ended.any(axis=1).all()


@pytest.mark.parametrize("name", ["ant-vel", "bandit", "tabular-mdp"])
def test_a_batch_begins_again_as_if_it_were_new(name):
    family = get_family(name)
    tasks = family.sample_tasks(SLOTS, np.random.default_rng(0))
    used, new = family.make_episodes(SLOTS, 30), family.make_episodes(SLOTS, 30)
    seen = np.zeros((2, SLOTS, *family.observation_space.shape))
    rewards, flags = np.zeros((2, SLOTS)), np.zeros((2, 2, SLOTS), bool)
    used.reset(tasks[::-1], [1, 2, 3], seen[0])
    for _, actions in zip(range(30), actions_beyond_bounds(family.action_space), strict=False):
        used.step(actions, seen[0], rewards[0], *flags[0])
    used.reset(tasks, [4, 5, 6], seen[0])
    new.reset(tasks, [4, 5, 6], seen[1])
    for _, actions in zip(range(30), actions_beyond_bounds(family.action_space, seed=1), strict=False):
        used.step(actions, seen[0], rewards[0], *flags[0])
        new.step(actions, seen[1], rewards[1], *flags[1])
        np.testing.assert_array_equal(seen[0], seen[1])
        np.testing.assert_array_equal(rewards[0], rewards[1])
        np.testing.assert_array_equal(flags[0], flags[1])


@pytest.mark.parametrize("name", [*FAMILIES, "tests.envs.test_families:CountingFamily"])
@pytest.mark.parametrize("seen_task", [False, True])
def test_some_slots_begin_again_while_others_go_on(name, seen_task):
    family = OracleFamily(get_family(name)) if seen_task else get_family(name)
    tasks, horizon = family.sample_tasks(4, np.random.default_rng(0)), 12
    batch, envs = family.make_episodes(3, horizon), [TimeLimit(family.make_env(), horizon) for _ in range(3)]
    observations, rewards = np.zeros((3, *family.observation_space.shape)), np.zeros(3)
    flags, ended = np.zeros((2, 3), bool), np.zeros((2, 3), bool)
    batch.reset(tasks[:3], [1, 2, 3], observations)
    for slot, env in enumerate(envs):
        env.reset(seed=slot + 1, options=family.set_task(env, tasks[slot]))
    ends = []
    for step, actions in zip(range(20), actions_beyond_bounds(family.action_space), strict=False):
        if step == 5:
            batch.reset(tasks[[3, 0]], [8, 9], observations, np.array([0, 2]))
            for slot, task, seed in ((0, tasks[3], 8), (2, tasks[0], 9)):
                first, _ = envs[slot].reset(seed=seed, options=family.set_task(envs[slot], task))
                np.testing.assert_array_equal(observations[slot], np.ravel(first))
                ended[:, slot] = False
        batch.step(actions, observations, rewards, *flags)
        for slot, env in enumerate(envs):
            if not ended[:, slot].any():
                expected, reward, *ended[:, slot], _ = env.step(actions[slot])
                np.testing.assert_array_equal(observations[slot], np.ravel(expected))
                assert rewards[slot] == reward
        np.testing.assert_array_equal(flags, ended)
        ends.append(ended.any(0).copy())
    assert ends[-1].all()
    assert len(set(np.argmax(ends, axis=0))) > 1


def test_single_precision_buffers_receive_rounded_values():
    family = get_family("cheetah-dir")
    seen = {kind: np.zeros((1, 17), kind) for kind in (np.float32, np.float64)}
    for observations in seen.values():
        family.make_episodes(1, 10).reset(np.array([1.0]), [0], observations)
    np.testing.assert_array_equal(seen[np.float32], seen[np.float64].astype(np.float32))


@needs_mujoco_batch
@pytest.mark.parametrize("env_id", ["CheetahDir", "AntGoal", "WalkerParams"])
def test_threads_change_no_number(env_id):
    one, many = (gym.make_vec(f"metarl/{env_id}-v0", SLOTS, num_threads=number) for number in (1, 2))
    assert [envs._core.batch.nthread for envs in (one, many)] == [1, 2]
    np.testing.assert_array_equal(one.reset(seed=1)[0], many.reset(seed=1)[0])
    assert_same_steps(one, many, 20)


@needs_mujoco_batch
def test_a_vector_environment_uses_every_core(monkeypatch):
    monkeypatch.setattr("metarl.envs.native.available_cores", lambda: 4)
    numbers = [gym.make_vec("metarl/CheetahDir-v0", size)._core.batch.nthread for size in (2, 9)]
    assert numbers == [2, 4]
    with pytest.raises(UserError, match="num_threads must be a positive whole number, got 0"):
        gym.make_vec("metarl/CheetahDir-v0", 2, num_threads=0)
