"""Half-cheetahs that run in a direction or at a velocity; only the reward reveals the task."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import mujoco
import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.mujoco_env import DEFAULT_SIZE
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray
from metarl.common.statistics import Aggregate
from metarl.envs.mujoco_core import (
    DirectionFamily,
    MujocoCore,
    MujocoTask,
    VelocityFamily,
    check_not_diverged,
    compile_model,
)
from metarl.envs.native import SAMPLED_CURVATURE, Slots
from metarl.envs.parameters import Check, flag, interval, not_negative, number, one_of, positive_whole
from metarl.envs.tasks import Directions, TaskEnvironment, Uniform

# From our own experiments, not from a paper (docs/results.md). Half-cheetahs need a policy that starts near zero
# action: a ReLU network with Glorot's initialisation saturates the torques, and thereby the likelihood ratios of L2F's
# reused rollouts. At Gymnasium's 20 control steps per second, the original discount of 0.99 looks five times as far
# ahead in seconds, and agents learned nothing with it. 0.95 looks one second ahead, like 0.99 in the original timing.
_DEFAULTS: Mapping[str, Any] = {**SAMPLED_CURVATURE, "activation": "tanh", "output_gain": 0.1}
_GYMNASIUM_DEFAULTS: Mapping[str, Any] = {**_DEFAULTS, "discount": 0.95, "action_scale": 0.2}
# With an initial standard deviation of 0.5, the published initial attenuation of 0.5 reduces the effective sample size
# of the reused rollouts to 13 % after 29 iterations, and L2F falls behind.
_RLLAB_DEFAULTS: Mapping[str, Any] = {**_DEFAULTS, "initial_std": 0.5, "l2f": {"initial_gamma": 0.95}}
# Timing of the original release's experiments: 100 control steps per second, see CheetahEnv.
_RLLAB_TIMING: Mapping[str, Any] = {
    "frame_skip": 1,
    "velocity_of": "centre-of-mass",
    "qpos_noise": 0.01,
    "qvel_noise": 0.1,
    "normal_qpos_noise": True,
}


class CheetahEnv(MujocoTask, TaskEnvironment, HalfCheetahEnv):
    """Gymnasium's half-cheetah with a task.

    Observation, ``Box(-inf, inf, (17,), float64)``:

    | index | meaning | minimum | maximum | unit |
    |---|---|---|---|---|
    | 0 | height of the torso | -inf | inf | m |
    | 1 | pitch of the torso | -inf | inf | rad |
    | 2-4 | angles of back thigh, shin and foot | -inf | inf | rad |
    | 5-7 | angles of front thigh, shin and foot | -inf | inf | rad |
    | 8 | forward velocity of the torso | -inf | inf | m/s |
    | 9 | vertical velocity of the torso | -inf | inf | m/s |
    | 10 | angular velocity of the torso | -inf | inf | rad/s |
    | 11-13 | angular velocities of back thigh, shin and foot | -inf | inf | rad/s |
    | 14-16 | angular velocities of front thigh, shin and foot | -inf | inf | rad/s |

    Action, ``Box(-1, 1, (6,), float32)``: share of the largest torque at back thigh, shin and foot, front thigh, shin
    and foot (the simulator clips it).

    Forward velocity (m/s): displacement of the torso over the step's duration, or, with
    ``velocity_of="centre-of-mass"``, the velocity of the whole body's centre of mass after the step.

    Reset: Gymnasium's rest pose plus noise on positions (uniform within +-``qpos_noise``; normal with that deviation
    if ``normal_qpos_noise``) and on velocities (normal with deviation ``qvel_noise``); in m, rad, m/s, rad/s.
    The episode never terminates; it is truncated after 200 steps if made by ``gymnasium.make``.

    Info, after the step: the reward's terms, ``x_position`` (m), ``x_velocity``, the forward velocity (m/s), and, with
    a target velocity, ``velocity_error``, the absolute difference (m/s).

    Args:
        frame_skip: Physics steps of 0.01 s in one environment step; 5, as in Gymnasium, gives 20 control steps per
            second.
        ctrl_cost_weight: Coefficient of the squared norm of the action, before clipping.
        velocity_of: "torso" or "centre-of-mass".
        qpos_noise: Noise of the first positions, m and rad.
        qvel_noise: Noise of the first velocities, m/s and rad/s.
        normal_qpos_noise: Whether the noise of the positions is normal.
        render_mode: As in Gymnasium's environment.
        width: Pixels of a frame in a row.
        height: Pixels of a frame in a column.
    """

    num_skipped = 1  # The forward position is not observed.
    checks: ClassVar[Mapping[str, Check]] = {
        "frame_skip": positive_whole,
        "ctrl_cost_weight": not_negative,
        "velocity_of": one_of("torso", "centre-of-mass"),
        "qpos_noise": not_negative,
        "qvel_noise": not_negative,
        "normal_qpos_noise": flag,
    }

    def __init__(self, render_mode: str | None, width: int, height: int, **parameters: Any) -> None:
        chosen = self.checked(parameters)
        self.tasks = self.distribution(chosen)
        self.of_centre_of_mass = chosen["velocity_of"] == "centre-of-mass"
        self._qpos_noise: float = chosen["qpos_noise"]
        self._qvel_noise: float = chosen["qvel_noise"]
        self._normal_qpos_noise: bool = chosen["normal_qpos_noise"]
        HalfCheetahEnv.__init__(
            self,
            frame_skip=chosen["frame_skip"],
            ctrl_cost_weight=chosen["ctrl_cost_weight"],
            render_mode=render_mode,
            width=width,
            height=height,
        )
        EzPickle.__init__(self, **parameters, render_mode=render_mode, width=width, height=height)

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float64], np.float64, bool, bool, dict[str, Any]]:
        """Takes one step with torques ``action``, [6]."""
        before = float(self.data.qpos[0])
        self.do_simulation(action, self.frame_skip)
        check_not_diverged(self)
        velocity = self._velocity_since(before)
        terms = self.reward_terms(np.asarray(self.task), velocity, np.asarray(action, np.float64))
        info = {"x_position": self.data.qpos[0], **self.numbers(np.asarray(self.task), velocity), **terms}
        if self.render_mode == "human":
            self.render()
        return self._get_obs(), np.float64(sum(terms.values())), False, False, info

    def reward_terms(self, tasks: FloatArray, velocities: Any, actions: FloatArray) -> dict[str, Any]:
        """The terms whose sum is the reward.

        Args:
            tasks: Tasks, [...].
            velocities: Forward velocities, [...], m/s.
            actions: Actions, [..., 6].

        Returns:
            ``reward_run`` and ``reward_ctrl``, [...].
        """
        cost = self._ctrl_cost_weight * np.sum(np.square(actions), axis=-1)
        return {"reward_run": self.run_reward(tasks, velocities), "reward_ctrl": -cost}

    def numbers(self, tasks: FloatArray, velocities: Any) -> dict[str, Any]:
        """What ``info`` holds beside the reward's terms and the position, [...]; arguments as for `reward_terms`."""
        return {"x_velocity": velocities}

    @abstractmethod
    def run_reward(self, tasks: FloatArray, velocities: Any) -> Any:
        """Task reward at these velocities, [...]."""

    def initial_state(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draws the first positions [9] and velocities [9] of an episode."""
        if self._normal_qpos_noise:
            noise = self._qpos_noise * rng.standard_normal(self.init_qpos.size)
        else:
            noise = rng.uniform(-self._qpos_noise, self._qpos_noise, self.init_qpos.size)
        return self.init_qpos + noise, self.init_qvel + self._qvel_noise * rng.standard_normal(self.init_qvel.size)

    def _velocity_since(self, before: float) -> float:
        if not self.of_centre_of_mass:
            return (float(self.data.qpos[0]) - before) / self.dt
        # After a step, sensors lag one substep behind; `mj_step1` updates what depends on positions and velocities.
        mujoco.mj_step1(self.model, self.data)
        return float(self.data.sensordata[0])

    def _initialize_simulation(self) -> tuple[Any, Any]:
        model = compile_model(self.fullpath, velocity_sensor=self.of_centre_of_mass)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model, mujoco.MjData(model)


class CheetahDirEnv(CheetahEnv):
    """A half-cheetah that should run forward or backward.

    Reward, in one step:

    | term | value | coefficient | unit |
    |---|---|---|---|
    | ``reward_run`` | direction * forward velocity | 1 | m/s |
    | ``reward_ctrl`` | - squared norm of the action | ``ctrl_cost_weight``, 0.05 | 1 |

    Task: the direction, -1 or +1. Observation, action, reset and the other arguments are `CheetahEnv`'s.

    Version history: v0, first version.

    Source: Finn et al. 2017, section 5.3.
    """

    def __init__(
        self,
        frame_skip: int = 5,
        ctrl_cost_weight: float = 0.05,
        velocity_of: Literal["torso", "centre-of-mass"] = "torso",
        qpos_noise: float = 0.1,
        qvel_noise: float = 0.1,
        normal_qpos_noise: bool = False,
        render_mode: str | None = None,
        width: int = DEFAULT_SIZE,
        height: int = DEFAULT_SIZE,
    ) -> None:
        super().__init__(
            render_mode,
            width,
            height,
            frame_skip=frame_skip,
            ctrl_cost_weight=ctrl_cost_weight,
            velocity_of=velocity_of,
            qpos_noise=qpos_noise,
            qvel_noise=qvel_noise,
            normal_qpos_noise=normal_qpos_noise,
        )

    @staticmethod
    def distribution(parameters: Mapping[str, Any]) -> Directions:
        return Directions()

    def run_reward(self, tasks: FloatArray, velocities: Any) -> Any:
        """Direction times velocity."""
        return tasks * velocities


class CheetahVelEnv(CheetahEnv):
    """A half-cheetah that should run at a target velocity.

    Reward, in one step:

    | term | value | coefficient | unit |
    |---|---|---|---|
    | ``reward_run`` | - absolute difference of forward velocity and target | 1 | m/s |
    | ``reward_ctrl`` | - squared norm of the action | ``ctrl_cost_weight``, 0.05 | 1 |

    Task: the target velocity in m/s, uniform in [``lowest``, ``highest``]. Observation, action, reset and the other
    arguments are `CheetahEnv`'s.

    Version history: v0, first version.

    Source: Finn et al. 2017, section 5.3.
    """

    checks: ClassVar[Mapping[str, Check]] = {"lowest": number, "highest": number, **CheetahEnv.checks}

    def __init__(
        self,
        lowest: float = 0.0,
        highest: float = 2.0,
        frame_skip: int = 5,
        ctrl_cost_weight: float = 0.05,
        velocity_of: Literal["torso", "centre-of-mass"] = "torso",
        qpos_noise: float = 0.1,
        qvel_noise: float = 0.1,
        normal_qpos_noise: bool = False,
        render_mode: str | None = None,
        width: int = DEFAULT_SIZE,
        height: int = DEFAULT_SIZE,
    ) -> None:
        super().__init__(
            render_mode,
            width,
            height,
            lowest=lowest,
            highest=highest,
            frame_skip=frame_skip,
            ctrl_cost_weight=ctrl_cost_weight,
            velocity_of=velocity_of,
            qpos_noise=qpos_noise,
            qvel_noise=qvel_noise,
            normal_qpos_noise=normal_qpos_noise,
        )

    @staticmethod
    def distribution(parameters: Mapping[str, Any]) -> Uniform:
        return Uniform(*interval(parameters["lowest"], parameters["highest"]))

    def run_reward(self, tasks: FloatArray, velocities: Any) -> Any:
        """Minus the distance from the target velocity."""
        return -np.abs(velocities - tasks)

    def numbers(self, tasks: FloatArray, velocities: Any) -> dict[str, Any]:
        """Forward velocity, and its distance from the target."""
        return {**super().numbers(tasks, velocities), "velocity_error": np.abs(velocities - tasks)}


class CheetahCore(MujocoCore):
    """Many half-cheetahs at once; arguments as for `MujocoCore`."""

    def bind(self) -> None:
        """Finds the state's arrays, see `MujocoCore.bind`."""
        super().bind()
        if self.env.of_centre_of_mass:
            self._sensors: FloatArray = self.batch.bind("sensordata")

    def move(self, slots: Slots, actions: FloatArray, rewards: FloatArray, terminated: BoolArray) -> None:
        """Simulates some slots; a half-cheetah's episode never terminates; see `MujocoCore.move`."""
        velocities = self._simulate_and_measure(slots)
        self.record_terms(slots, self.env.reward_terms(self.tasks[slots], velocities, actions), rewards)
        self.record(slots, self.env.numbers(self.tasks[slots], velocities))
        terminated[slots] = False

    def _simulate_and_measure(self, slots: Slots) -> FloatArray:
        """Forward velocities, [k]."""
        if self.env.of_centre_of_mass:
            self.simulate(slots, stage=mujoco.mjtStage.mjSTAGE_VEL.value)
            return self._sensors[slots, 0].copy()
        # Copied: the bound array is a live view of the state.
        before = self.positions[slots, 0].copy()
        self.simulate(slots)
        return (self.positions[slots, 0] - before) / self.env.dt


class CheetahDirFamily(DirectionFamily):
    """Half-cheetahs that run forward or backward. There are only two tasks, so none can be held out.

    Args:
        horizon: Default length of an episode, in environment steps.
        **parameters: Parameters of `CheetahDirEnv`.
    """

    name = "cheetah-dir"
    metrics: Mapping[str, Aggregate] = {"x_velocity": "mean"}
    defaults = _GYMNASIUM_DEFAULTS
    env_class = CheetahDirEnv
    core_class = CheetahCore


class CheetahVelFamily(VelocityFamily):
    """Half-cheetahs that run at a target velocity.

    Args:
        horizon: Default length of an episode, in environment steps.
        **parameters: Parameters of `CheetahVelEnv`.
    """

    name = "cheetah-vel"
    metrics: Mapping[str, Aggregate] = {"x_velocity": "mean", "velocity_error": "mean"}
    costs = ("velocity_error",)
    defaults = _GYMNASIUM_DEFAULTS
    env_class = CheetahVelEnv
    core_class = CheetahCore


class RllabCheetahDirFamily(CheetahDirFamily):
    """`CheetahDirFamily` in the original release's timing, velocity and reset noise.

    Args:
        horizon: Default length of an episode, in environment steps.
        **parameters: Parameters of `CheetahDirEnv`, which override the original ones.
    """

    name = "cheetah-dir-rllab"
    defaults = _RLLAB_DEFAULTS
    overrides = _RLLAB_TIMING


class RllabCheetahVelFamily(CheetahVelFamily):
    """`CheetahVelFamily` in the original release's timing, velocity and reset noise.

    Args:
        horizon: Default length of an episode, in environment steps.
        **parameters: Parameters of `CheetahVelEnv`, which override the original ones.
    """

    name = "cheetah-vel-rllab"
    defaults = _RLLAB_DEFAULTS
    overrides = _RLLAB_TIMING
