"""Families around MuJoCo models: what the task changes, what Gymnasium's environments say, and faults that are told."""

import copy
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from marks import needs_mujoco_batch

import metarl
from examples.pendulum_family import PendulumFamily
from examples.walker_family import WalkerFamily
from metarl.common.errors import UserError
from metarl.envs import get_family, mujoco_core
from metarl.envs.checked import checked_episodes
from metarl.envs.looped import LoopedEpisodes

BUILT_IN = ["walker-params", "hopper-params", "cheetah-params", "cheetah-crippled", "ant-crippled", "humanoid-dir"]


def some_task(family, seed=0):
    return family.sample_tasks(1, np.random.default_rng(seed))[0]


def test_the_worked_example_passes_the_check():
    metarl.check_task_family(PendulumFamily())


@pytest.mark.filterwarnings("ignore:.*has no mujoco.batch")
def test_without_a_mujoco_batch_the_example_falls_back_and_passes_the_check(monkeypatch):
    monkeypatch.setattr(mujoco_core, "batch_module", lambda: None)
    assert isinstance(PendulumFamily().make_episodes(2, 5), LoopedEpisodes)
    metarl.check_task_family(PendulumFamily())


class Mixing(PendulumFamily):
    """Its reward depends on the other environments of a batch."""

    def reward(self, step):
        return {"reward": step.after.velocities[:, 0] - step.after.velocities.mean()}


class ContactForces(metarl.MujocoFamily):
    """It observes what the batch does not refresh."""

    model_file = "ant.xml"
    data_fields = ("cfrc_ext",)
    task_space = spaces.Box(0.5, 1.5, (), np.float64)

    def set_model(self, model, task):
        model.opt.gravity[2] *= task

    def reward(self, step):
        return {"reward": np.abs(step.after.data["cfrc_ext"]).sum(axis=(1, 2)) + step.forward_velocity}


@needs_mujoco_batch
@pytest.mark.parametrize("family", [Mixing, ContactForces])
def test_the_check_tells_a_batch_that_differs_from_single_environments(family):
    with pytest.raises(UserError, match="make_episodes differs from a single environment"):
        metarl.check_task_family(family())


GYMNASIUM = [
    ("walker-params", "Walker2d-v5", {}),
    ("hopper-params", "Hopper-v5", {}),
    ("cheetah-params", "HalfCheetah-v5", {"ctrl_cost_weight": 0.05}),
    ("humanoid-dir", "Humanoid-v5", {"contact_cost_weight": 0.0}),
]


@pytest.mark.parametrize(("name", "gymnasium_id", "parameters"), GYMNASIUM)
def test_the_task_that_changes_nothing_is_gymnasiums_environment(name, gymnasium_id, parameters):
    env = get_family(name).make_env()
    task, rng = np.zeros(env.tasks.space.shape), np.random.default_rng(0)
    reference = gym.make(gymnasium_id, **parameters).unwrapped
    for seed in range(3):
        first, _ = env.reset(seed=seed, options={"task": task})
        size = len(first)
        reference.reset(seed=seed)
        reference.set_state(env.data.qpos, env.data.qvel)
        for _ in range(30):
            action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
            observation, reward, terminated, *_ = env.step(action)
            expected, expected_reward, expected_end, *_ = reference.step(action)
            # In older MuJoCo, mj_setConst rounds differently from the compiler.
            np.testing.assert_allclose(observation, expected[:size], rtol=0, atol=1e-8)
            assert reward == pytest.approx(expected_reward, abs=1e-6)  # Gymnasium squares actions in float32.
            assert terminated == expected_end
            if terminated:
                break


def around(environment, **attributes):
    """A family around one of Gymnasium's environments, whose only task changes nothing."""
    given = {
        "environment": environment,
        "task_space": spaces.Discrete(1),
        "reward": lambda self, s: {"reward_run": s.forward_velocity},
        **attributes,
    }
    return type("Around", (metarl.MujocoFamily,), given)


ONLY_STATE = {
    "Ant-v5": {"include_cfrc_ext_in_observation": False},
    "Humanoid-v5": {
        f"include_{name}_in_observation": False for name in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")
    },
}
# Environment, positions that it does not observe, bound of the velocities.
AROUND = [
    ("Walker2d-v5", 1, 10.0),
    ("Hopper-v5", 1, 10.0),
    ("HalfCheetah-v5", 1, np.inf),
    ("Ant-v5", 2, np.inf),
    ("Humanoid-v5", 2, np.inf),
    ("Swimmer-v5", 2, np.inf),
    ("InvertedPendulum-v5", 0, np.inf),
]


@pytest.mark.parametrize(("gymnasium_id", "unobserved", "bound"), AROUND)
def test_a_family_around_an_environment_has_its_physics_first_states_and_observations(gymnasium_id, unobserved, bound):
    parameters = ONLY_STATE.get(gymnasium_id, {})
    family = around(gymnasium_id, environment_kwargs=parameters)()
    env, reference = family.make_env(), gym.make(gymnasium_id, **parameters).unwrapped
    assert (family.unobserved_positions, family.velocity_bound) == (unobserved, bound)
    assert env.action_space == reference.action_space
    assert env.observation_space == reference.observation_space
    assert env.dt == reference.dt
    rng = np.random.default_rng(0)
    for seed in range(3):
        # Both draw the first state from a generator with this seed.
        observation, expected = env.reset(seed=seed, options={"task": 0})[0], reference.reset(seed=seed)[0]
        np.testing.assert_array_equal(observation, expected)
        np.testing.assert_array_equal(env.data.qpos, reference.data.qpos)
        for _ in range(20):
            action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
            observation, _, _, _, info = env.step(action)
            expected, _, _, _, expected_info = reference.step(action)
            np.testing.assert_array_equal(observation, expected)
            if gymnasium_id in ("Walker2d-v5", "HalfCheetah-v5"):
                assert info["reward_run"] == pytest.approx(expected_info["x_velocity"])


def test_what_else_an_environment_observes_is_left_out():
    env, reference = around("Ant-v5")().make_env(), gym.make("Ant-v5").unwrapped
    observation, expected = env.reset(seed=0, options={"task": 0})[0], reference.reset(seed=0)[0]
    assert (len(observation), len(expected)) == (27, 105)
    np.testing.assert_array_equal(observation, expected[:27])


def test_the_parameters_of_the_environment_are_taken_over():
    chosen = {"frame_skip": 2, "reset_noise_scale": 0.0, "exclude_current_positions_from_observation": False}
    family = around("Hopper-v5", environment_kwargs=chosen)()
    env = family.make_env()
    assert (family.frame_skip, env.dt) == (2, 0.004)
    np.testing.assert_array_equal(env.reset()[0], [0, 1.25, *[0] * 10])
    assert family.camera["distance"] == 3.0
    assert around("Hopper-v5", camera={"distance": 9.0}).camera == {"distance": 9.0}


def test_a_user_may_write_the_observations_of_an_environment():
    family = around("Reacher-v5", observation=lambda self, s: s.positions)()
    assert family.make_env().reset(seed=0)[0].shape == (4,)


@needs_mujoco_batch
def test_a_batch_around_an_environment_equals_single_environments():
    metarl.check_task_family(WalkerFamily())


def test_first_states_do_not_depend_on_threads():
    family = WalkerFamily()

    def draw(seed):
        return np.concatenate(family.initial_state(np.random.default_rng(seed)))

    with ThreadPoolExecutor(4) as threads:
        drawn = list(threads.map(draw, range(200)))
    np.testing.assert_array_equal(drawn, [draw(seed) for seed in range(200)])


def test_the_humanoids_reward_is_for_its_own_direction():
    rewards = []
    for task in (0.0, np.pi):
        env = get_family("humanoid-dir").make_env()
        env.reset(seed=0, options={"task": task})
        rewards.append(env.step(np.full(17, 0.3, np.float32))[4]["reward_run"])
    assert rewards[0] == pytest.approx(-rewards[1]) != 0


def test_each_number_of_the_model_has_its_own_factor():
    family = get_family("walker-params", log_scale=2.0)
    task = some_task(family)
    original, changed = family.model, family.task_model(task)
    factors = []
    for name in ("body_mass", "body_inertia", "dof_damping", "geom_friction"):
        old, new = getattr(original, name), getattr(changed, name)
        np.testing.assert_array_equal(new[old == 0], 0)
        factors.append(new[old != 0] / old[old != 0])
    masses, inertias, damping, friction = factors
    expected = np.concatenate([masses, inertias, damping, friction])
    bases = np.repeat([1.5, 1.5, 1.3, 1.5], [len(part) for part in factors])
    np.testing.assert_allclose(bases**task, expected)
    assert np.abs(task).max() <= 2.0
    # What MuJoCo derives from masses follows.
    assert changed.body_subtreemass[0] == pytest.approx(changed.body_mass.sum())
    assert original.body_subtreemass[0] == pytest.approx(original.body_mass.sum())


@pytest.mark.parametrize(("name", "task", "motors"), [("cheetah-crippled", 4, [4]), ("ant-crippled", 0, [2, 3])])
def test_a_disabled_motor_does_nothing_and_the_others_do_something(name, task, motors):
    states = []
    for actions in (np.zeros, np.ones):
        env = get_family(name).make_env()
        env.reset(seed=0, options={"task": task})
        action = np.full(env.action_space.shape, 0.25, np.float32)
        action[motors] = actions(len(motors))
        states.append(env.step(action)[0])
        env.reset(seed=0, options={"task": (task + 1) % 4})
        states.append(env.step(action)[0])
    np.testing.assert_array_equal(states[0], states[2])
    assert not np.array_equal(states[1], states[3])


def test_the_disabled_motor_costs_nothing():
    env = get_family("cheetah-crippled").make_env()
    env.reset(seed=0, options={"task": 4})
    action = np.zeros(6, np.float32)
    action[[2, 4]] = 0.5, 1.0
    assert env.step(action)[4]["reward_ctrl"] == pytest.approx(-0.05 * 0.25)


def test_the_crippled_leg_is_the_one_that_is_named():
    family = get_family("ant-crippled")
    corners = {"front left": (1, 1), "front right": (-1, 1), "back left": (-1, -1), "back right": (1, -1)}
    for task in range(4):
        joints = {family.model.actuator(motor).trnid[0] for motor in family.motors[task]}
        bodies = [family.model.jnt_bodyid[joint] for joint in sorted(joints)]
        hip = family.model.body_pos[bodies[0]]
        leg = family.describe_task(task).removesuffix(" leg disabled")
        assert tuple(np.sign(hip[:2])) == corners[leg]


@pytest.mark.parametrize(
    ("name", "training", "held_out"), [("cheetah-crippled", [1, 2, 3, 4, 5], 0), ("ant-crippled", [0, 1, 2], 3)]
)
def test_one_crippled_part_is_for_tests_only(name, training, held_out):
    family = get_family(name)
    for split, expected in (("train", training), ("validation", training), ("test", [held_out])):
        tasks = family.sample_tasks(60, np.random.default_rng(0), split)
        assert family.task_space.contains(tasks[0])
        assert Counter(tasks.tolist()) == dict.fromkeys(expected, 60 // len(expected))
    env = family.make_env()
    assert {int(env.reset(seed=seed)[1]["task"]) for seed in range(40)} == set(training)
    assert family.finite_tasks is None  # A run may therefore call its test tasks held out,
    assert not family.independent(tasks[:2])  # but repetitions of the only one have no interval.
    for wrong in (-1, 7):
        with pytest.raises(UserError, match=r"the task must be an element of Discrete\("):
            env.reset(options={"task": wrong})
    metarl.check_task_family(family)


@needs_mujoco_batch
def test_slots_of_one_task_share_its_model_and_models_of_past_tasks_are_dropped():
    family = PendulumFamily()
    core = family.core_class(family.make_env(), 4)
    tasks = family.sample_tasks(3, np.random.default_rng(0))
    core.tasks[:] = tasks[[0, 0, 1, 1]]
    generators = [np.random.default_rng(slot) for slot in range(4)]
    core.start(np.arange(4), generators)
    first = list(core.batch.models)
    assert first[0] is first[1] is not first[2] is first[3]
    core.tasks[1] = tasks[2]
    core.start(np.array([1]), generators[:1])
    second = list(core.batch.models)
    assert [new is old for new, old in zip(second, first, strict=True)] == [True, False, True, True]
    np.testing.assert_array_equal(second[1].body("bob").mass, tasks[2, 0])


class Plain(PendulumFamily):
    """It hands on what it is given, without a copy."""

    def reward(self, step):
        return {"reward": step.after.velocities[:, 0] + step.before.positions[:, 0]}

    def observation(self, state):
        return state.positions


def test_functions_may_hand_on_what_they_are_given_but_not_change_it():
    metarl.check_task_family(Plain())
    env = Plain().make_env()
    first, _ = env.reset(seed=0)
    kept = first.copy()
    env.step(np.ones(1, np.float32))
    np.testing.assert_array_equal(first, kept)
    for name in ("positions", "velocities"):
        with pytest.raises(ValueError, match="read-only"):
            step(faulty(observation=lambda self, s, name=name: np.negative(getattr(s, name), out=getattr(s, name))))


@needs_mujoco_batch
def test_the_shared_model_stays_as_it_is():
    family = PendulumFamily()
    before = copy.copy(family.model)
    metarl.check_task_family(family)
    assert family.model.body("bob").mass == before.body("bob").mass
    np.testing.assert_array_equal(family.model.opt.gravity, before.opt.gravity)
    assert PendulumFamily().model is family.model


@pytest.mark.parametrize("name", BUILT_IN)
def test_environments_can_be_pickled(name):
    env = gym.make(f"metarl/{name.title().replace('-', '')}-v0").unwrapped
    env.reset(seed=3)
    copied = pickle.loads(pickle.dumps(env))
    action = env.action_space.high
    for one in (env, copied):
        one.reset()
    np.testing.assert_array_equal(env.step(action)[0], copied.step(action)[0])


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_given_task_lasts_until_another_or_a_new_seed(name):
    family = get_family(name)
    env, given = family.make_env(), some_task(family, 3)
    drawn = env.reset(seed=1)[1]["task"]
    np.testing.assert_array_equal(env.reset()[1]["task"], drawn)
    np.testing.assert_array_equal(env.reset(options={"task": given})[1]["task"], given)
    env.step(env.action_space.sample())
    np.testing.assert_array_equal(env.reset()[1]["task"], given)
    np.testing.assert_array_equal(env.reset(seed=1)[1]["task"], drawn)


def test_gymnasium_makes_environments_with_parameters():
    env = gym.make("metarl/HopperParams-v0", log_scale=1.5)
    assert env.unwrapped.tasks.space.high.max() == 1.5
    assert env.spec.max_episode_steps == 200


def test_a_picture_shows_the_model_of_the_task():
    class Bobs(PendulumFamily):
        def set_model(self, model, task):
            model.geom_size[-1] = task[0] / 4

    env = Bobs().make_env(render_mode="rgb_array")
    pictures = []
    try:
        for mass in (0.5, 2.0):
            env.reset(seed=0, options={"task": [mass, 9.81]})
            pictures.append(env.render())
    except (ImportError, AttributeError, RuntimeError, mujoco.FatalError) as error:
        pytest.skip(f"no renderer here: {error}")
    assert pictures[0].shape == (480, 480, 3)
    assert not np.array_equal(*pictures)


def faulty(**attributes):
    return type("Faulty", (PendulumFamily,), attributes)()


FAULTS = [
    (
        lambda: around("Hooper-v5"),
        "Around has the environment 'Hooper-v5', which Gymnasium cannot make .*`Hopper`.*; give the id of a MuJoCo",
    ),
    (lambda: around("Hopper-v5", environment_kwargs={"mass": 1}), "with the environment_kwargs {'mass': 1}"),
    (lambda: around("CartPole-v1"), "which is no MuJoCo environment: it must derive from .*, got CartPoleEnv"),
    (lambda: around("Reacher-v5"), "whose observations do not begin with positions and velocities; define observation"),
    (
        lambda: around("Hopper-v5", frame_skip=2, reset_noise=0.1),
        "'Hopper-v5', which defines frame_skip and reset_noise; leave that out, and change .* by environment_kwargs",
    ),
    (lambda: around("Hopper-v5", model_file="hopper.xml"), "'Hopper-v5', which defines model_file"),
    (lambda: faulty(model_file="none.xml").make_env(), "has the model_file 'none.xml', which does not exist; write"),
    (lambda: type("Bare", (metarl.MujocoFamily,), {})().model, "Bare has no model_file; set it to the path"),
    (
        lambda: faulty(data_fields=("xposs",)).make_env(),
        "no array 'xposs', one of the data_fields .* Did you mean 'xpos'",
    ),
    (lambda: faulty(task_space=spaces.Dict(a=spaces.Discrete(2))).make_env(), "must be arrays, got Dict"),
    (lambda: step(faulty(reward=lambda self, s: s.forward_velocity)), "must return the terms of the reward by name"),
    (lambda: step(faulty(reward=lambda self, s: {})), "must return the terms of the reward by name"),
    (
        lambda: step(faulty(reward=lambda self, s: {"r": s.actions})),
        r"the term 'r' of Faulty must have shape \(1,\), a number for each environment, got \(1, 1\); reduce over",
    ),
    (lambda: step(faulty(terminated=lambda self, s: s.actions > 0)), r"terminated of Faulty must have shape \(1,\)"),
    # What reduces over all environments would end or reward all of them.
    (
        lambda: step(faulty(terminated=lambda self, s: np.abs(s.after.positions).max() > 9)),
        r"terminated of Faulty must have shape \(1,\), a number for each environment, got \(\); reduce",
    ),
    (lambda: step(faulty(reward=lambda self, s: {"r": s.actions.mean()})), r"the term 'r' of Faulty must have shape"),
    *[
        (
            lambda drawn=drawn: faulty(initial_state=lambda self, rng: drawn).make_env().reset(seed=0),
            r"initial_state of Faulty must return finite positions of shape \(1,\) and velocities of shape \(1,\), got",
        )
        for drawn in (np.zeros(1), (0.0, 0.0), (np.zeros((1, 1)), 0.0), (np.zeros(1), np.full(1, np.nan)), None)
    ],
    (
        lambda: faulty(set_model=lambda self, m, t: copy.copy(m)).task_model(None),
        "set_model of Faulty must change the model that it is given, and return nothing; got <mujoco",
    ),
    (
        lambda: faulty(set_model=lambda self, m, t: m.qpos0.fill(1.0)).task_model(None),
        "set_model of Faulty changes qpos0, which the first positions would not follow",
    ),
    (
        lambda: faulty(data_fields=("time",)).make_env(),
        r"no array 'time', one .* of Faulty\.($| Did you mean '(?!time'))",
    ),
    (lambda: faulty(frame_skip=0).make_env(), "frame_skip of Faulty must be a positive whole number, got 0"),
    (lambda: faulty(frame_skip=2.5).make_env(), "frame_skip of Faulty must be a positive whole number, got 2.5"),
    (lambda: faulty(reset_noise=-1.0).make_env(), "reset_noise of Faulty must be a number, 0 or greater, got -1.0"),
    (lambda: faulty(unobserved_positions=2).make_env(), "unobserved_positions of Faulty must be .* from 0 to 1, got 2"),
    (
        lambda: faulty(observation=lambda self, s: s.positions[:, 0]).make_env(),
        r"observation of Faulty must have shape \(1, observation\), a row for each environment, got \(1,\)",
    ),
    (
        lambda: faulty(set_model=lambda self, m, t: setattr(m.opt, "timestep", 0.001)).task_model(None),
        "set_model of Faulty changes the time step from 0.01 to 0.001 s; all tasks must have the same",
    ),
]


def step(family):
    env = family.make_env()
    env.reset(seed=0)
    return env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize(("call", "message"), FAULTS)
def test_faults_of_a_definition_are_told(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_a_motor_without_bounds_is_told(tmp_path):
    path = tmp_path / "pendulum.xml"
    text = Path(PendulumFamily.model_file).read_text()
    path.write_text(text.replace(' ctrllimited="true" ctrlrange="-1 1"', ""))
    with pytest.raises(UserError, match=r"actuator 'motor' in .* has no ctrlrange, so its actions are unbounded; give"):
        faulty(model_file=str(path)).make_env()
    path.write_text(text)
    assert faulty(model_file=str(path)).action_space.high == 1.0


@pytest.mark.parametrize(("task", "message"), [([1.0], "shape"), ([1.0, np.nan], "finite")])
def test_a_wrong_task_is_refused(task, message):
    with pytest.raises(UserError, match=message):
        PendulumFamily().make_env().reset(options={"task": task})


def test_a_task_of_whole_numbers_stays_whole():
    with pytest.raises(UserError, match="whole numbers"):
        get_family("ant-crippled").make_env().reset(options={"task": 1.5})


@pytest.mark.parametrize(
    ("name", "value"),
    [("environment_kwargs", {"frame_skip": 1}), ("environment", "Hopper-v5"), ("reset_noise", 1.0), ("frame_skip", 1)],
)
def test_what_an_instance_cannot_set_beside_an_environment_is_told(name, value):
    class Variant(WalkerFamily):
        def __init__(self):
            super().__init__()
            setattr(self, name, value)

    with pytest.raises(UserError, match=f"Variant sets self.{name}, which has no effect beside an environment; set"):
        Variant().make_env()


class Unstable(PendulumFamily):
    """The second of its tasks has a model that diverges."""

    task_space = spaces.Discrete(2)
    describe_task = metarl.TaskFamily.describe_task

    def set_model(self, model, task):
        model.actuator_gear[:] = 1e12 if task else 1.0


@pytest.mark.filterwarnings("ignore:.*has no mujoco.batch")
@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_mujoco_batch), False])
def test_a_simulation_that_diverges_is_a_bad_episode(monkeypatch, native):
    if not native:
        monkeypatch.setattr(mujoco_core, "batch_module", lambda: None)

    def stepped(on_bad_episode):
        batch = checked_episodes(Unstable(), 4, 5, 2, on_bad_episode)
        observations, rewards, ends = np.zeros((4, batch.observation_size)), np.zeros(4), np.zeros((2, 4), bool)
        batch.reset(np.array([0, 0, 1, 1]), [5, 6, 7, 8], observations)
        for _ in range(5):
            batch.step(np.ones((4, 1), np.float32), observations, rewards, *ends)
        return batch, observations, ends

    told = r"^the simulation diverged \(controls.*\) in Unstable, .*, rollout 0, step \d, seed 7; mend the environment"
    with pytest.raises(UserError, match=told):
        stepped("stop")
    batch, observations, (terminated, truncated) = stepped("drop")
    assert set(batch.dropped) == {2, 3}
    assert observations[:2].any()
    assert truncated.tolist() == [True, True, False, False]
    assert terminated.tolist() == [False, False, True, True]


@needs_mujoco_batch
def test_an_episode_is_broken_in_the_step_in_which_it_breaks():
    batch = Unstable().make_episodes(2, 5)
    observations, rewards, ends = np.zeros((2, batch.observation_size)), np.zeros(2), np.zeros((2, 2), bool)
    batch.reset(np.array([1, 1]), [5, 6], observations)
    for _ in range(5):
        batch.step(np.ones((2, 1), np.float32), observations, rewards, *ends)
        if batch.broken:
            break
    assert set(batch.broken) == {0, 1}
    batch.end(np.array([0, 1]))
    batch.step(np.ones((2, 1), np.float32), observations, rewards, *ends)
    assert not batch.broken


@needs_mujoco_batch
def test_arrays_that_a_batch_cannot_read_are_told():
    family = faulty(data_fields=("efc_force",))
    with pytest.raises(UserError, match="data_fields of Faulty cannot be read in a batch: efc_force is in the arena"):
        family.make_episodes(2, 5)
