"""What the environments do: tasks, rewards, ends, seeds, pictures."""

import copy
import inspect
import json
import pickle
from functools import partial

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.envs.mujoco.ant_v5 import AntEnv as GymnasiumAntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium_ids import IDS
from marks import needs_mujoco_batch
from stable_baselines3.common.env_checker import check_env as sb3_check
from tiny_runs import ROOT

from metarl.common.errors import UserError
from metarl.common.streams import Purpose, stream
from metarl.envs import get_family
from metarl.envs.ant import AntDirEnv, AntGoalEnv, AntVelEnv
from metarl.envs.bandit import BanditEnv
from metarl.envs.cheetah import CheetahDirEnv, CheetahVelEnv
from metarl.envs.navigation import NavigationEnv
from metarl.envs.tabular import TabularMDPEnv

CLASSES = [
    NavigationEnv,
    BanditEnv,
    TabularMDPEnv,
    CheetahDirEnv,
    CheetahVelEnv,
    AntDirEnv,
    AntVelEnv,
    AntGoalEnv,
]


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasiums_checker_warns_of_unbounded_observations_only(env_id, recwarn):
    gymnasium_check(gym.make(f"metarl/{env_id}-v0").unwrapped, skip_render_check=True)
    messages = [str(warning.message) for warning in recwarn]
    unbounded = env_id not in ("Bandit", "TabularMDP")
    assert ["minimum value is -infinity" in message for message in messages] == [True, False] * unbounded
    assert ["maximum value is infinity" in message for message in messages] == [False, True] * unbounded


@pytest.mark.parametrize("env_id", IDS)
def test_stable_baselines3s_checker_warns_of_action_bounds_other_than_1_only(env_id, recwarn):
    sb3_check(gym.make(f"metarl/{env_id}-v0"))
    messages = [str(warning.message) for warning in recwarn]
    assert ["symmetric and normalized Box action space" in message for message in messages] == (
        [True] if env_id in ("Navigation", "HumanoidDir") else []
    )


@pytest.mark.parametrize("env_class", CLASSES)
def test_a_given_task_lasts_until_another_or_a_new_seed(env_class):
    env = env_class()
    given = env.tasks.draw(1, np.random.default_rng(3))[0]
    drawn = env.reset(seed=1)[1]["task"]
    np.testing.assert_array_equal(env.reset()[1]["task"], drawn)
    np.testing.assert_array_equal(env.reset(options={"task": given})[1]["task"], given)
    env.step(env.action_space.sample())
    np.testing.assert_array_equal(env.reset()[1]["task"], given)
    np.testing.assert_array_equal(env.reset(seed=1)[1]["task"], drawn)
    np.testing.assert_array_equal(env.reset(seed=1, options={"task": given})[1]["task"], given)


@pytest.mark.parametrize("env_class", CLASSES)
def test_different_seeds_draw_different_tasks(env_class):
    env = env_class()
    assert len({env.reset(seed=seed)[1]["task"].tobytes() for seed in range(12)}) > 1


def test_changing_the_task_in_info_changes_nothing():
    env = NavigationEnv()
    given = np.array([0.25, 0.5])
    env.reset(options={"task": given})[1]["task"][:] = 9.0
    given[:] = 8.0
    np.testing.assert_array_equal(env.task, [0.25, 0.5])


def test_a_slot_keeps_its_task_through_an_autoreset():
    tasks = np.array([[0.5, 0.0], [0.0, 0.5]])
    for mode in ("vector_entry_point", "sync"):
        envs = gym.make_vec("metarl/Navigation-v0", 2, vectorization_mode=mode)
        if mode == "sync":
            for env, task in zip(envs.envs, tasks, strict=True):
                env.reset(seed=0, options={"task": task})
            envs.reset()
        else:
            envs.reset(seed=0, options={"task": tasks})
        for _ in range(101):
            *_, info = envs.step(np.zeros((2, 2), np.float32))
        np.testing.assert_array_equal(info["task"], tasks)
        _, rewards, *_ = envs.step(np.array([[0.1, 0.0], [0.1, 0.0]], np.float32))
        np.testing.assert_allclose(rewards, [-0.4, -np.hypot(0.1, 0.5)], atol=1e-12)


def test_navigations_rewards_are_distances_after_the_step():
    env = NavigationEnv()
    env.reset(options={"task": [0.3, 0.5]})
    observation, reward, *_ = env.step(np.array([0.1, 0.9]))
    np.testing.assert_allclose(observation, [0.1, 0.1], atol=1e-15)
    assert reward == pytest.approx(-np.sqrt(0.2**2 + 0.4**2), abs=1e-15)
    squared = NavigationEnv(squared_distance=True)
    squared.reset(options={"task": [0.3, 0.5]})
    assert squared.step(np.array([0.1, 0.1]))[1] == pytest.approx(-0.2, abs=1e-15)


def test_navigation_starts_where_the_task_says():
    env = NavigationEnv(start_bound=0.5)
    observation, _ = env.reset(options={"task": [0.3, 0.5, -0.2, 0.1]})
    np.testing.assert_array_equal(observation, [-0.2, 0.1])


@pytest.mark.parametrize(
    ("end_norm", "offset", "ends"), [("max", 0.009, True), ("max", 0.011, False), ("euclidean", 0.009, False)]
)
def test_navigation_terminates_near_the_goal_in_the_chosen_norm(end_norm, offset, ends):
    env = NavigationEnv(end_norm=end_norm)
    env.reset(options={"task": [offset, offset]})
    assert env.step(np.zeros(2))[2:4] == (ends, False)


def test_navigation_is_truncated_and_not_terminated_at_its_horizon():
    env = gym.make("metarl/Navigation-v0")
    env.reset(options={"task": [0.5, 0.5]})
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(100)]
    assert ends == [(False, False)] * 99 + [(False, True)]


def test_standing_still_in_navigation_scores_the_published_reference():
    family = get_family("navigation")
    episodes = family.make_episodes(20000, 100)
    tasks = family.sample_tasks(20000, np.random.default_rng(0))
    observations, rewards = np.zeros((20000, 2)), np.zeros(20000)
    flags = np.zeros((2, 20000), bool)
    episodes.reset(tasks, [0] * 20000, observations)
    total = 0.0
    for _ in range(100):
        episodes.step(np.zeros((20000, 2)), observations, rewards, *flags)
        total += rewards.mean()
    assert total == pytest.approx(-38.3, abs=0.4)  # the mean of 100 distances from the centre of the unit square


def test_bimodal_goals_have_two_modes():
    family = get_family("navigation-bimodal")
    tasks = family.sample_tasks(4000, np.random.default_rng(0))
    goals, modes = tasks[:, :2], family.modes(tasks)
    np.testing.assert_allclose(goals.mean(axis=0), 0.0, atol=0.06)
    # Each coordinate has variance 0.5^2 + 0.5^2; the modes make the coordinates covary by 0.5^2
    np.testing.assert_allclose(np.cov(goals.T), [[0.5, 0.25], [0.25, 0.5]], atol=0.04)
    assert family.num_modes == 2
    assert modes.mean() == pytest.approx(0.5, abs=0.03)
    for mode, centre in ((0, 0.5), (1, -0.5)):
        np.testing.assert_allclose(goals[modes == mode].mean(axis=0), centre, atol=0.04)
        np.testing.assert_allclose(goals[modes == mode].std(axis=0), 0.5, atol=0.03)
    # The modes overlap: a goal's side of the diagonal is not its mode, for Phi(-sqrt 2) = 7.9 % of the goals
    assert np.mean((goals.sum(axis=1) < 0) != modes) == pytest.approx(0.0786, abs=0.015)


def test_bimodal_goals_are_those_of_version_0_1():
    tasks = get_family("navigation-bimodal").sample_tasks(200, stream(20_261_121, Purpose.TEST_TASKS), "test")
    stored = json.loads((ROOT / "benchmarks/task_lists/navigation-bimodal.json").read_text())["tasks"]
    np.testing.assert_array_equal(tasks, stored)


@pytest.mark.parametrize(
    ("modes", "distance", "corners"),
    [
        (2, np.sqrt(2), [[1, 1], [-1, -1]]),
        (4, np.sqrt(2), [[1, 1], [-1, 1], [-1, -1], [1, -1]]),
        (3, 4.0, None),
        (6, 0.0, [[0, 0]] * 6),
    ],
)
def test_modes_of_navigation_are_the_corners_of_a_regular_polygon(modes, distance, corners):
    parameters = {"goal_modes": modes, "goal_distance": distance, "goal_deviation": 0.2}
    family = get_family("navigation-modes", **parameters)
    tasks = family.sample_tasks(6000, np.random.default_rng(0))
    numbers, counts = np.unique(family.modes(tasks), return_counts=True)
    assert family.num_modes == modes
    np.testing.assert_array_equal(numbers, np.arange(modes))
    np.testing.assert_allclose(counts / 6000, 1 / modes, atol=0.03)
    of_mode = [tasks[family.modes(tasks) == mode, :2] for mode in range(modes)]
    centres = np.array([goals.mean(axis=0) for goals in of_mode])
    np.testing.assert_allclose(np.hypot(*centres.T), distance, atol=0.03)
    np.testing.assert_allclose([goals.std(axis=0) for goals in of_mode], 0.2, atol=0.02)
    sides = np.hypot(*(centres - np.roll(centres, 1, axis=0)).T)
    np.testing.assert_allclose(sides, 2 * distance * np.sin(np.pi / modes), atol=0.05)
    if corners is not None:
        np.testing.assert_allclose(centres, corners, atol=0.03)
        # Without a spread the corners are exact.
        exact = get_family("navigation-modes", **{**parameters, "goal_deviation": 0})
        drawn = exact.sample_tasks(50, np.random.default_rng(0))
        np.testing.assert_array_equal(drawn[:, :2], np.array(corners)[exact.modes(drawn)])


def test_signed_velocities_are_forward_and_backward_and_paid_as_such():
    family = get_family("cheetah-vel-signed")
    tasks = family.sample_tasks(2000, np.random.default_rng(0))
    assert tasks.min() == pytest.approx(-3, abs=0.05)
    assert tasks.max() == pytest.approx(3, abs=0.05)
    assert tasks.mean() == pytest.approx(0, abs=0.15)
    terms = family.make_env().reward_terms(np.array([-2.0, 2.0]), np.array([-1.5, -1.5]), np.zeros((2, 6)))
    np.testing.assert_allclose(terms["reward_run"], [-0.5, -3.5])


@pytest.mark.parametrize("mode", [0, 1])
def test_the_mode_of_a_bimodal_goal_changes_nothing_in_the_environment(mode):
    env = get_family("navigation-bimodal").make_env()
    observation, info = env.reset(options={"task": [0.3, 0.5, mode]})
    np.testing.assert_array_equal(observation, [0.0, 0.0])
    np.testing.assert_array_equal(info["task"], [0.3, 0.5, mode])
    _, reward, *_ = env.step(np.array([0.1, 0.1]))
    assert reward == pytest.approx(-np.hypot(0.2, 0.4), abs=1e-15)


@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_cheetah_dir_is_gymnasiums_half_cheetah_with_a_signed_velocity(direction):
    ours, theirs = CheetahDirEnv(), HalfCheetahEnv(ctrl_cost_weight=0.05)
    observation, _ = ours.reset(seed=4, options={"task": direction})
    np.testing.assert_array_equal(observation, theirs.reset(seed=4)[0])
    for action in np.random.default_rng(0).uniform(-1, 1, (30, 6)):
        observation, reward, terminated, truncated, info = ours.step(action)
        expected, _, _, _, expected_info = theirs.step(action)
        np.testing.assert_array_equal(observation, expected)
        assert reward == direction * expected_info["x_velocity"] + expected_info["reward_ctrl"]
        assert reward == info["reward_run"] + info["reward_ctrl"]
        assert not terminated
        assert not truncated


def test_cheetah_vel_pays_for_the_distance_from_the_target_velocity_and_for_torque():
    env = CheetahVelEnv()
    terms = env.reward_terms(np.array([2.0, 0.5]), np.array([0.5, 1.5]), np.array([[0.5] * 6, [1.0] * 6]))
    np.testing.assert_allclose(terms["reward_run"], [-1.5, -1.0])
    np.testing.assert_allclose(terms["reward_ctrl"], [-0.05 * 1.5, -0.05 * 6])


def test_original_timing_measures_the_centre_of_mass_after_each_hundredth_of_a_second():
    family = get_family("cheetah-dir-rllab")
    env = family.make_env()
    assert env.dt == pytest.approx(0.01)
    env.reset(seed=0, options={"task": 1})
    for action in np.random.default_rng(0).uniform(-1, 1, (50, 6)):
        *_, info = env.step(action)
    mujoco.mj_forward(env.model, env.data)
    mujoco.mj_subtreeVel(env.model, env.data)
    assert info["x_velocity"] == pytest.approx(env.data.subtree_linvel[1, 0], abs=1e-12)
    assert info["x_velocity"] != pytest.approx(env.data.qvel[0], abs=1e-3)  # the torso's own velocity differs


def test_original_reset_noise_is_smaller_in_positions():
    rng = np.random.default_rng(0)
    for name, deviation in (("cheetah-dir-rllab", 0.01), ("cheetah-dir", 0.1 / np.sqrt(3))):
        env = get_family(name).make_env()
        positions, velocities = zip(*(env.initial_state(rng) for _ in range(500)), strict=True)
        assert np.std(positions - env.init_qpos) == pytest.approx(deviation, rel=0.05)
        assert np.std(velocities) == pytest.approx(0.1, rel=0.05)


def test_ant_dir_is_gymnasiums_ant_without_contact_forces():
    ours = AntDirEnv()
    theirs = GymnasiumAntEnv(contact_cost_weight=0.0, include_cfrc_ext_in_observation=False)
    np.testing.assert_array_equal(ours.reset(seed=4, options={"task": 1})[0], theirs.reset(seed=4)[0])
    for action in np.random.default_rng(0).uniform(-1, 1, (60, 8)):
        observation, reward, *ends, info = ours.step(action)
        expected, expected_reward, *expected_ends, expected_info = theirs.step(action)
        np.testing.assert_array_equal(observation, expected)
        assert reward == pytest.approx(expected_reward, abs=1e-12)
        assert info["reward_survive"] == expected_info["reward_survive"]
        assert ends == expected_ends


def test_ant_rewards_by_hand():
    places, velocities = np.array([[1.0, 2.0, 0.5]]), np.array([[0.5, 9.0, 9.0]])
    actions, healthy = np.full((1, 8), 0.5), np.array([True])

    def total(env, task):
        return sum(env.reward_terms(np.array([task]), places, velocities, actions, healthy).values())

    np.testing.assert_allclose(total(AntDirEnv(), -1.0), -0.5 + 1 - 0.5 * 2)
    np.testing.assert_allclose(total(AntDirEnv(survive_bonus=0.0, ctrl_cost_weight=0.0), -1.0), -0.5)
    np.testing.assert_allclose(total(AntVelEnv(), 3.0), -2.5 + 1 - 0.5 * 2)
    np.testing.assert_allclose(total(AntGoalEnv(), [-2.0, -2.0]), -7 - 0.1 * 2)
    np.testing.assert_allclose(total(AntGoalEnv(distance="euclidean"), [-2.0, -2.0]), -5 - 0.1 * 2)


def test_an_ant_that_leaves_the_healthy_heights_terminates_without_bonus_but_not_on_its_way_to_a_goal():
    for env, ends in ((AntDirEnv(), True), (AntGoalEnv(), False)):
        env.reset(seed=0)
        positions = env.init_qpos.copy()
        positions[2] = 1.5
        env.set_state(positions, env.init_qvel)
        _, _, terminated, truncated, info = env.step(np.zeros(8))
        assert (terminated, truncated) == (ends, False)
        assert info["reward_survive"] == 0


def test_ant_goal_observes_its_place():
    env = AntGoalEnv()
    observation, _ = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape == (29,)
    np.testing.assert_array_equal(observation[:2], env.data.qpos[:2])


@pytest.mark.parametrize("env_class", CLASSES)
def test_the_same_seed_gives_the_same_episode(env_class):
    def episode(seed):
        env = env_class()
        env.action_space.seed(0)
        seen = [env.reset(seed=seed)[0]]
        for _ in range(20):
            observation, reward, *_ = env.step(env.action_space.sample())
            seen += [observation, [reward]]
        return np.concatenate(seen)

    np.testing.assert_array_equal(episode(5), episode(5))
    assert not np.array_equal(episode(5), episode(6))


@pytest.mark.parametrize("env_class", CLASSES)
def test_environments_can_be_pickled(env_class):
    first = next(iter(inspect.signature(env_class).parameters))
    env = env_class(**{first: 1})
    again = pickle.loads(pickle.dumps(env))
    assert again.tasks.space == env.tasks.space
    assert getattr(again, "frame_skip", None) == getattr(env, "frame_skip", None)
    assert again.task is None
    for one in (env, again):
        one.reset(seed=3)
    np.testing.assert_array_equal(again.task, env.task)
    np.testing.assert_array_equal(again.reset()[0], env.reset()[0])
    copied = copy.deepcopy(env)
    np.testing.assert_array_equal(copied.task, env.task)
    for one in (env, copied):  # The generator is a copy, too.
        one.reset()
    action = np.zeros(env.action_space.shape, env.action_space.dtype)
    np.testing.assert_array_equal(env.step(action)[0], copied.step(action)[0])


def test_a_diverged_simulation_raises():
    env = get_family("cheetah-dir").make_env()
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"the simulation diverged \(controls"):
        env.step(np.full(6, np.nan))


@needs_mujoco_batch
def test_a_diverged_simulation_in_a_batch_is_told_with_its_slot():
    actions = np.zeros((3, 6))
    actions[1] = np.nan
    episodes = get_family("cheetah-dir").make_episodes(3, 10)
    observations, flags = np.zeros((3, 17)), np.zeros((2, 3), bool)
    episodes.reset(np.ones(3), [0, 1, 2], observations)
    episodes.step(actions, observations, np.zeros(3), *flags)
    assert list(episodes.broken) == [1]
    environments = gym.make_vec("metarl/CheetahDir-v0", num_envs=3, vectorization_mode="vector_entry_point")
    environments.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"the simulation diverged \(controls.*\) in slot 1"):
        environments.step(actions)


def test_navigation_draws_start_goal_and_trail():
    env = gym.make("metarl/Navigation-v0", render_mode="rgb_array")
    env.reset(seed=0, options={"task": [0.4, 0.3]})
    before = env.render()
    assert before.shape == (256, 256, 3)
    assert before.dtype == np.uint8
    # The goal lies to the upper right of the centre, 0.4 and 0.3 of an extent of 0.575
    row, column = int(128 - 0.3 / 0.575 * 128), int(128 + 0.4 / 0.575 * 128)
    np.testing.assert_array_equal(before[row, column], [214, 69, 65])
    env.step(np.array([-0.1, -0.1], np.float32))
    after = env.render()
    changed = np.argwhere((before != after).any(axis=-1))
    assert changed[:, 0].max() > 128 > changed[:, 1].min()


@pytest.mark.parametrize("name", ["cheetah-dir", "ant-goal"])
def test_mujoco_environments_draw_themselves(name):
    env = get_family(name).make_env(render_mode="rgb_array")
    env.reset(seed=0)
    try:
        frame = env.render()
    except Exception as error:  # no OpenGL on this machine
        pytest.skip(f"cannot draw here: {error}")
    assert frame.shape == (480, 480, 3)
    assert frame.std() > 0
    simulation = env.unwrapped
    positions = simulation.data.qpos.copy()
    positions[0] += 50
    simulation.set_state(positions, simulation.data.qvel)
    red, _, blue = np.moveaxis(env.render().astype(int), -1, 0)
    assert (red - blue > 40).sum() > 1000  # The body is not out of sight.
    env.close()


@pytest.mark.parametrize("env_class", CLASSES)
def test_docstrings_have_the_tables(env_class):
    told = (env_class.__doc__ or "") + (env_class.__mro__[1].__doc__ or "")
    for part in ("| index | meaning | minimum | maximum | unit |", "Reward", "Version history: v0", "Task:", "Source:"):
        assert part in told


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        (NavigationEnv, {"task": [1.0]}, r"the task must have shape \(2,\), got \(1,\)"),
        (NavigationEnv, {"task": [np.nan, 0]}, "the task must be finite"),
        (NavigationEnv, {"goal": [0, 0]}, "reset takes the option 'task' only, got 'goal'"),
        (partial(NavigationEnv, goal_modes=2), {"task": [0, 0]}, r"the task must have shape \(3,\), got \(2,\)"),
        (partial(NavigationEnv, goal_modes=2), {"task": [0, 0, 2]}, r"with a whole mode from 0 to 1, got mode 2\.0"),
        (partial(NavigationEnv, goal_modes=5), {"task": [0, 0, -1]}, r"with a whole mode from 0 to 4, got mode -1\.0"),
        (partial(NavigationEnv, goal_modes=2), {"task": [0, 0, 0.5]}, r"with a whole mode from 0 to 1, got mode 0\.5"),
        (CheetahDirEnv, {"task": 0.5}, r"the task must be a direction, -1 or \+1, got 0.5"),
    ],
)
def test_a_wrong_task_is_told(env, options, message):
    with pytest.raises(UserError, match=message):
        env().reset(options=options)


def test_a_vector_environment_tells_wrong_sizes():
    envs = gym.make_vec("metarl/Navigation-v0", 3)
    with pytest.raises(gym.error.ResetNeeded, match="call reset before step"):
        envs.step(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="one seed for each of 3 slots, got 2"):
        envs.reset(seed=[1, 2])
    for wrong in (np.zeros((1, 2)), 1.0, [[0.1, 0.2]]):
        with pytest.raises(UserError, match="one task for each of 3 slots, got"):
            envs.reset(options={"task": wrong})
    _, info = envs.reset()
    assert np.abs(info["task"]).min() > 0  # Drawn, as if the refused reset had not been.
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions must have shape \(3, 2\), got \(2,\)"):
        envs.step(np.zeros(2))


def test_a_vector_environment_may_have_no_limit():
    make = partial(gym.make_vec, "metarl/Navigation-v0", 2, vectorization_mode="vector_entry_point")
    envs = make(max_episode_steps=-1)
    envs.reset(seed=0)
    assert not any(envs.step(np.zeros((2, 2)))[3].any() for _ in range(150))
    with pytest.raises(UserError, match="max_episode_steps must be a positive whole number, got 0"):
        make(max_episode_steps=0)


def test_parameters_of_navigation_that_would_do_nothing_are_refused():
    with pytest.raises(UserError, match="goal_bound would do nothing with goal_modes"):
        NavigationEnv(goal_modes=2, goal_bound=50)
    for name in ("goal_distance", "goal_deviation"):
        with pytest.raises(UserError, match="would do nothing without goal_modes"):
            NavigationEnv(**{name: 2.0})


@pytest.mark.parametrize("bound", [1e308, 10**400])
def test_bounds_without_a_finite_width_are_refused(bound):
    with pytest.raises(UserError, match=r"too far apart for double precision|goal_bound must be"):
        NavigationEnv(goal_bound=bound)


@pytest.mark.parametrize("env_id", ["CheetahDir", "CheetahVel", "AntDir", "AntVel", "AntGoal", "WalkerParams"])
def test_frames_have_the_size_that_is_asked_for(env_id):
    small, default = (
        gym.make(f"metarl/{env_id}-v0", width=64, height=48).unwrapped,
        gym.make(f"metarl/{env_id}-v0").unwrapped,
    )
    assert (small.width, small.height) == (64, 48)
    assert (default.width, default.height) == (480, 480)
    large = gym.make(f"metarl/{env_id}-v0", width=500, height=600).unwrapped
    assert large.model.vis.global_.offwidth >= 500
    assert large.model.vis.global_.offheight >= 600
    copy = pickle.loads(pickle.dumps(large))
    assert (copy.width, copy.height) == (500, 600)
