"""Walkers with random parameters or with crippled legs, and humanoids that run in a direction."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray
from metarl.common.statistics import Aggregate
from metarl.envs.mujoco_family import MujocoFamily, MujocoState, MujocoStep
from metarl.envs.native import SAMPLED_CURVATURE
from metarl.envs.parameters import positive, positive_whole

# As for half-cheetahs that run in a direction (cheetah.py): policies that start near zero action.
_DEFAULTS: Mapping[str, Any] = {**SAMPLED_CURVATURE, "activation": "tanh", "output_gain": 0.1}
_CHEETAH_DEFAULTS: Mapping[str, Any] = {**_DEFAULTS, "discount": 0.95, "action_scale": 0.2}


class LocomotionFamily(MujocoFamily):
    """A body that should run, as in Gymnasium's environments: forward, unless a subclass says otherwise.

    Args:
        horizon: Default length of an episode, in environment steps; None for 200.

    Attributes:
        ctrl_cost_weight: Coefficient of the squared norm of the action, before clipping.
        survive_bonus: Reward of a step if the body is healthy at its end.
    """

    metrics: Mapping[str, Aggregate] = {"x_velocity": "mean", "reward_without_survive": "sum"}
    defaults = _DEFAULTS
    ctrl_cost_weight: float
    survive_bonus: float = 0.0

    def __init__(self, horizon: int | None = None) -> None:
        self.horizon = self.horizon if horizon is None else positive_whole("horizon", horizon)

    def reward(self, step: MujocoStep) -> Mapping[str, Any]:
        """Velocity, bonus for health and cost of the action."""
        return {
            "reward_run": self.run_reward(step),
            "reward_survive": self.survive_bonus * self.healthy(step.after),
            "reward_ctrl": -self.cost(step),
        }

    def cost(self, step: MujocoStep) -> FloatArray:
        """The cost of the action, [k]."""
        return self.ctrl_cost_weight * np.sum(np.square(self.applied(step)), axis=-1)

    def info(self, step: MujocoStep) -> Mapping[str, Any]:
        """Forward velocity, and the reward without the bonus for health."""
        return {
            "x_velocity": step.forward_velocity,
            "reward_without_survive": self.run_reward(step) - self.cost(step),
        }

    def run_reward(self, step: MujocoStep) -> FloatArray:
        """The forward velocity, [k], m/s."""
        return step.forward_velocity

    def applied(self, step: MujocoStep) -> FloatArray:
        """The actions that cost something, [k, action]; by default all."""
        return step.actions

    def healthy(self, state: MujocoState) -> BoolArray:
        """Whether the bodies are healthy, [k]; by default always."""
        return np.ones(len(state.positions), bool)

    def terminated(self, step: MujocoStep) -> BoolArray:
        """Episodes end when a body is not healthy."""
        return ~self.healthy(step.after)


class ParametersFamily(LocomotionFamily):
    """A body whose masses, inertias, damping and friction are scaled at random; the task says how.

    Each number of the model that is not 0 is multiplied by its own factor: 1.5^u for masses and inertias of bodies and
    friction of geometries, 1.3^u for damping of joints, with u uniform in [-``log_scale``, ``log_scale``].

    Task: the exponents u, in the order of MuJoCo's arrays ``body_mass``, ``body_inertia``, ``dof_damping``,
    ``geom_friction``.

    Args:
        horizon: Default length of an episode, in environment steps; None for 200.
        log_scale: Bound of the exponents; 3 makes masses 0.30 to 3.4 times as large, damping 0.46 to 2.2 times.

    Source: rand_param_envs, which Rothfuss et al. 2019 (ProMP) use, with the same factors and bound. There, the root's
    numbers that are 0 have factors too, and what MuJoCo derives from masses stays that of the original model.
    """

    scaled: Mapping[str, float] = {"body_mass": 1.5, "body_inertia": 1.5, "dof_damping": 1.3, "geom_friction": 1.5}

    def __init__(self, horizon: int | None = None, log_scale: float = 3.0) -> None:
        super().__init__(horizon)
        self.log_scale = positive("log_scale", log_scale)

    @cached_property
    def task_space(self) -> spaces.Box:  # type: ignore[override]
        """Exponents within the bound; how many there are depends on the model."""
        size = sum(np.count_nonzero(getattr(self.model, name)) for name in self.scaled)
        return spaces.Box(-self.log_scale, self.log_scale, (size,), np.float64)

    def set_model(self, model: Any, task: Any) -> None:
        """Multiplies the model's numbers by the task's factors."""
        used = 0
        for name, base in self.scaled.items():
            values = getattr(model, name)
            scaled = values != 0
            count = int(np.count_nonzero(scaled))
            values[scaled] *= base ** task[used : used + count]
            used += count

    def describe_task(self, task: Any) -> str:
        """Says the total mass, and the geometric mean of the other factors."""
        model, original = self.task_model(np.asarray(task)), self.model

        def factor(name: str) -> float:
            values, base = getattr(model, name), getattr(original, name)
            return float(np.exp(np.mean(np.log(values[base != 0] / base[base != 0]))))

        return (
            f"{model.body_mass.sum():.1f} kg, damping x {factor('dof_damping'):.2f}, friction x "
            f"{factor('geom_friction'):.2f}"
        )


_BESIDE: Mapping[str, Any] = {"trackbodyid": 2, "lookat": np.array((0.0, 0.0, 1.15)), "elevation": -20.0}


class _UprightFamily(ParametersFamily):
    """What Gymnasium's Walker2d-v5 and Hopper-v5 have in common."""

    frame_skip = 4
    unobserved_positions = 1
    velocity_bound = 10.0
    reset_noise = 0.005
    ctrl_cost_weight = 1e-3
    survive_bonus = 1.0


class WalkerParamsFamily(_UprightFamily):
    """Gymnasium's Walker2d-v5 with random masses, inertias, damping and friction; it should walk forward.

    Observation, ``Box(-inf, inf, (17,), float64)``: height (m) and pitch (rad) of the torso; angles of thigh, leg and
    foot, right then left (rad); then velocities of these nine coordinates with the forward one first, m/s and rad/s,
    clipped to [-10, 10]. Action, ``Box(-1, 1, (6,), float32)``: share of the largest torque at these joints.

    Reward, in one step:

    | term | value | coefficient | unit |
    |---|---|---|---|
    | ``reward_run`` | forward velocity | 1 | m/s |
    | ``reward_survive`` | 1 if healthy | 1 | 1 |
    | ``reward_ctrl`` | - squared norm of the action, before clipping | 0.001 | 1 |

    Healthy: height within (0.8, 2.0) m, pitch within (-1, 1) rad; otherwise the episode terminates. Reset: rest pose,
    plus uniform noise within 0.005 on positions and velocities. A step lasts 4 physics steps, 0.008 s. The task and the
    arguments are `ParametersFamily`'s.

    Version history: v0, first version.

    Source: ProMP's Walker2DRandParamsEnv, with the model and timing of Gymnasium's Walker2d-v5.
    """

    name = "walker-params"
    model_file = "walker2d_v5.xml"
    camera: Mapping[str, Any] = {**_BESIDE, "distance": 4.0}

    def healthy(self, state: MujocoState) -> BoolArray:
        """Whether height and pitch are within bounds, [k]."""
        height, pitch = state.positions[:, 1], state.positions[:, 2]
        return (height > 0.8) & (height < 2.0) & (pitch > -1) & (pitch < 1)


class HopperParamsFamily(_UprightFamily):
    """Gymnasium's Hopper-v5 with random masses, inertias, damping and friction; it should hop forward.

    Observation, ``Box(-inf, inf, (11,), float64)``: height (m) and pitch (rad) of the torso; angles of thigh, leg and
    foot (rad); then velocities of these six coordinates with the forward one first, m/s and rad/s, clipped to
    [-10, 10]. Action, ``Box(-1, 1, (3,), float32)``: share of the largest torque at these joints.

    Reward: as `WalkerParamsFamily`'s. Healthy: height above 0.7 m, pitch within (-0.2, 0.2) rad, all other numbers of
    the state within (-100, 100); otherwise the episode terminates. Reset: rest pose, plus uniform noise within 0.005 on
    positions and velocities. A step lasts 4 physics steps, 0.008 s. The task and the arguments are
    `ParametersFamily`'s.

    Version history: v0, first version.

    Source: ProMP's HopperRandParamsEnv, with the model of Gymnasium's Hopper-v5.
    """

    name = "hopper-params"
    model_file = "hopper.xml"
    camera: Mapping[str, Any] = {**_BESIDE, "distance": 3.0}

    def healthy(self, state: MujocoState) -> BoolArray:
        """Whether height, pitch and all others are within bounds, [k]."""
        others = np.concatenate([state.positions[:, 2:], state.velocities], axis=1)
        within = (np.abs(others) < 100).all(axis=-1)
        return within & (state.positions[:, 1] > 0.7) & (np.abs(state.positions[:, 2]) < 0.2)


class _Cheetah(LocomotionFamily):
    """Gymnasium's HalfCheetah-v5, which never terminates."""

    metrics: Mapping[str, Aggregate] = {"x_velocity": "mean"}
    defaults = _CHEETAH_DEFAULTS
    model_file = "half_cheetah.xml"
    unobserved_positions = 1
    reset_noise = 0.1
    camera: Mapping[str, Any] = {"distance": 4.0}
    ctrl_cost_weight = 0.05

    def initial_state(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draws the first positions [9], uniform, and velocities [9], normal."""
        positions = self.model.qpos0 + rng.uniform(-self.reset_noise, self.reset_noise, self.model.nq)
        return positions, self.reset_noise * rng.standard_normal(self.model.nv)


class CheetahParamsFamily(_Cheetah, ParametersFamily):
    """Gymnasium's HalfCheetah-v5 with random masses, inertias, damping and friction; it should run forward.

    Reward: forward velocity (``reward_run``, m/s) minus 0.05 times the squared norm of the action (``reward_ctrl``).
    The episode never terminates. The task and the arguments are `ParametersFamily`'s. Observation, action and reset are
    those of `metarl.envs.cheetah.CheetahEnv` with its default parameters.

    Version history: v0, first version.

    Source: the factors of rand_param_envs (ProMP's Walker and Hopper) on Gymnasium's HalfCheetah-v5.
    """

    name = "cheetah-params"


class _CrippledFamily(LocomotionFamily):
    """A body of which some part is disabled; the task is the number of the part, of which one is for tests only.

    Attributes:
        held_out: The part that the test disables. Training and validation disable the others: there are too few for a
            validation of its own.
    """

    task_space: spaces.Discrete
    held_out: int

    def split_tasks(self, split: str) -> NDArray[Any]:
        """The held-out part for the test, all others for training and validation."""
        parts = np.arange(self.task_space.n)
        return parts[(parts == self.held_out) == (split == "test")]


class CheetahCrippledFamily(_Cheetah, _CrippledFamily):
    """Gymnasium's HalfCheetah-v5 with one motor disabled; it should run forward.

    Task: which motor, 0 to 5: back thigh, shin and foot, front thigh, shin and foot. The test disables motor 0,
    training and validation the others.

    Reward: forward velocity (``reward_run``, m/s) minus 0.05 times the squared norm of the action without the disabled
    motor's part (``reward_ctrl``). The episode never terminates. Observation, action and reset are those of
    `metarl.envs.cheetah.CheetahEnv` with its default parameters.

    Args:
        horizon: Default length of an episode, in environment steps; None for 200.

    Version history: v0, first version.

    Source: Nagabandi et al. 2019 (Learning to Adapt), whose code holds out the same motor.
    """

    name = "cheetah-crippled"
    task_space = spaces.Discrete(6)
    held_out = 0

    def set_model(self, model: Any, task: Any) -> None:
        """Disables a motor."""
        model.actuator_gear[task] = 0

    def applied(self, step: MujocoStep) -> FloatArray:
        """The actions without those of disabled motors, [k, 6]."""
        return step.actions * (np.arange(6) != step.tasks[:, None])

    def describe_task(self, task: Any) -> str:
        """Names the motor."""
        return f"{self.model.actuator(int(task)).name} disabled"


class AntCrippledFamily(_CrippledFamily):
    """Gymnasium's Ant-v5 with both motors of a leg disabled; it should run forward.

    Task: which leg, 0 to 3: front left, front right, back left, back right. The test disables leg 3, training and
    validation the others.

    Reward: forward velocity of the torso (``reward_run``, m/s), plus 0.05 (``reward_survive``); actions cost nothing.
    The episode never terminates. Observation, action and reset are those of `metarl.envs.ant.AntEnv` with its default
    parameters.

    Args:
        horizon: Default length of an episode, in environment steps; None for 200.

    Version history: v0, first version.

    Source: Nagabandi et al. 2019 (Learning to Adapt), whose code holds out the same leg, and also makes the disabled
    leg smaller.
    """

    name = "ant-crippled"
    model_file = "ant.xml"
    unobserved_positions = 2
    reset_noise = 0.1
    data_fields = ("xpos",)
    camera: Mapping[str, Any] = {"distance": 4.0}
    task_space = spaces.Discrete(4)
    held_out = 3
    ctrl_cost_weight = 0.0
    survive_bonus = 0.05
    legs = ("front left", "front right", "back left", "back right")
    motors = ((2, 3), (4, 5), (6, 7), (0, 1))

    def set_model(self, model: Any, task: Any) -> None:
        """Disables the motors of a leg."""
        model.actuator_gear[list(self.motors[task])] = 0

    def initial_state(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draws the first positions [15], uniform, and velocities [14], normal."""
        positions = self.model.qpos0 + rng.uniform(-self.reset_noise, self.reset_noise, self.model.nq)
        return positions, self.reset_noise * rng.standard_normal(self.model.nv)

    def run_reward(self, step: MujocoStep) -> FloatArray:
        """The torso's velocity along x, [k], m/s."""
        return (step.after.data["xpos"][:, 1, 0] - step.before.data["xpos"][:, 1, 0]) / step.seconds

    def describe_task(self, task: Any) -> str:
        """Names the leg."""
        return f"{self.legs[int(task)]} leg disabled"


class HumanoidDirFamily(LocomotionFamily):
    """Gymnasium's Humanoid-v5 that should run in a direction of the plane; only the reward reveals it.

    Observation, ``Box(-inf, inf, (45,), float64)``: positions of Gymnasium's humanoid without x and y (22, m and rad),
    then its velocities (23, m/s and rad/s). Inertias, velocities of bodies and forces are not observed: the first two
    follow from the others, and contact forces are not refreshed by batched stepping. Action,
    ``Box(-0.4, 0.4, (17,), float32)``: torques as in Gymnasium.

    Reward, in one step:

    | term | value | coefficient | unit |
    |---|---|---|---|
    | ``reward_run`` | velocity of the centre of mass along the direction | 1.25 | m/s |
    | ``reward_survive`` | 1 if healthy | 5 | 1 |
    | ``reward_ctrl`` | - squared norm of the action, before clipping | 0.1 | 1 |

    Healthy: height of the torso within (1, 2) m; otherwise the episode terminates. Reset: rest pose, plus uniform noise
    within 0.01 on positions and velocities. A step lasts 5 physics steps, 0.015 s.

    Task: the direction's angle, uniform in [0, 2 pi], rad; 0 is along x.

    Args:
        horizon: Default length of an episode, in environment steps; None for 200.

    Version history: v0, first version.

    Source: Rothfuss et al. 2019 (ProMP), HumanoidRandDirec2DEnv, and Rakelly et al. 2019 (PEARL), without the cost of
    contact forces.
    """

    name = "humanoid-dir"
    metrics: Mapping[str, Aggregate] = {"reward_run": "mean", "reward_without_survive": "sum"}
    model_file = "humanoid.xml"
    unobserved_positions = 2
    data_fields = ("subtree_com",)
    camera: Mapping[str, Any] = {
        "trackbodyid": 1,
        "distance": 4.0,
        "lookat": np.array((0.0, 0.0, 2.0)),
        "elevation": -20.0,
    }
    task_space = spaces.Box(0.0, 2 * np.pi, (), np.float64)
    ctrl_cost_weight = 0.1
    survive_bonus = 5.0

    def run_reward(self, step: MujocoStep) -> FloatArray:
        """1.25 times the velocity of the centre of mass along the direction, [k]."""
        moved = step.after.data["subtree_com"][:, 1] - step.before.data["subtree_com"][:, 1]
        velocity = moved / step.seconds
        return 1.25 * (np.cos(step.tasks) * velocity[:, 0] + np.sin(step.tasks) * velocity[:, 1])

    def healthy(self, state: MujocoState) -> BoolArray:
        """Whether the torso's height is within bounds, [k]."""
        height = state.positions[:, 2]
        return (height > 1.0) & (height < 2.0)

    def describe_task(self, task: Any) -> str:
        """Says the direction."""
        return f"direction {np.degrees(float(task)):.0f} degrees"
