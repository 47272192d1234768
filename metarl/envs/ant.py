"""Ants that run in a direction, at a velocity, or to a place; only the reward reveals the task."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv as GymnasiumAntEnv
from gymnasium.envs.mujoco.mujoco_env import DEFAULT_SIZE
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray
from metarl.common.statistics import Aggregate
from metarl.envs.mujoco_core import (
    DirectionFamily,
    MujocoCore,
    MujocoTask,
    SimulatedFamily,
    VelocityFamily,
    check_not_diverged,
)
from metarl.envs.native import SAMPLED_CURVATURE, NativeFamily, Slots
from metarl.envs.parameters import Check, interval, not_negative, number, one_of, positive, positive_whole
from metarl.envs.tasks import Directions, Disc, TaskEnvironment, Uniform

_TORSO = 1  # MuJoCo's index of this body.
# As half-cheetahs, from our own experiments: with a ReLU network, whole torques and a discount of 0.99 ants learn to
# fall, because a step costs four times what the survive bonus brings.
_DEFAULTS: Mapping[str, Any] = {
    **SAMPLED_CURVATURE,
    "activation": "tanh",
    "output_gain": 0.1,
    "discount": 0.95,
    "action_scale": 0.2,
}
_METRICS: Mapping[str, Aggregate] = {"x_velocity": "mean", "reward_without_survive": "sum"}


class AntEnv(MujocoTask, TaskEnvironment, GymnasiumAntEnv):
    """Gymnasium's ant with a task, without contact forces.

    Contact forces are neither observed nor penalised. Batched stepping does not refresh them, and code bases differ in
    them by more than the gains that they report.

    Observation, ``Box(-inf, inf, (27,), float64)``; ant-goal has x and y before it, (29,):

    | index | meaning | minimum | maximum | unit |
    |---|---|---|---|---|
    | 0 | height of the torso | -inf | inf | m |
    | 1-4 | orientation of the torso, a quaternion | -inf | inf | 1 |
    | 5-12 | angles of hip and ankle: front left, front right, back left, back right leg | -inf | inf | rad |
    | 13-15 | velocity of the torso, x, y, z | -inf | inf | m/s |
    | 16-18 | angular velocity of the torso | -inf | inf | rad/s |
    | 19-26 | angular velocities of the joints, in the order of 5-12 | -inf | inf | rad/s |

    Action, ``Box(-1, 1, (8,), float32)``: share of the largest torque at the joints, in the order of Gymnasium's ant
    (the simulator clips it).

    Reset: Gymnasium's rest pose plus noise on positions (uniform within +-``reset_noise``, in m and rad) and on
    velocities (normal with deviation ``reset_noise``, in m/s and rad/s). The episode is truncated after 200 steps if
    made by ``gymnasium.make``.

    Info, after the step: the reward's terms, their sum without the bonus, ``reward_without_survive``, x and y of the
    torso (m) and its velocity along them (m/s), and, if the task has one, ``velocity_error``, the absolute difference
    from the target (m/s), or ``distance``, that from the goal, as in the reward (m).

    Args:
        frame_skip: Physics steps of 0.01 s in one environment step.
        ctrl_cost_weight: Coefficient of the squared norm of the action, before clipping.
        survive_bonus: Reward of a step if the ant is healthy at its end: finite state, height within [0.2, 1.0] m.
        reset_noise: Noise of the first state.
        render_mode: As in Gymnasium's environment.
        width: Pixels of a frame in a row.
        height: Pixels of a frame in a column.

    Attributes:
        num_skipped: Number of leading positions that are not observed.
        terminates: Whether the episode terminates with the torso's height outside [0.2, 1.0] m.
    """

    num_skipped = 2
    terminates = True
    checks: ClassVar[Mapping[str, Check]] = {
        "frame_skip": positive_whole,
        "ctrl_cost_weight": not_negative,
        "survive_bonus": number,
        "reset_noise": not_negative,
    }

    def __init__(self, render_mode: str | None, width: int, height: int, **parameters: Any) -> None:
        chosen = self.checked(parameters)
        self.tasks = self.distribution(chosen)
        GymnasiumAntEnv.__init__(
            self,
            frame_skip=chosen["frame_skip"],
            ctrl_cost_weight=chosen["ctrl_cost_weight"],
            healthy_reward=chosen["survive_bonus"],
            reset_noise_scale=chosen["reset_noise"],
            exclude_current_positions_from_observation=self.num_skipped == 2,
            include_cfrc_ext_in_observation=False,
            render_mode=render_mode,
            width=width,
            height=height,
        )
        EzPickle.__init__(self, **parameters, render_mode=render_mode, width=width, height=height)

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float64], np.float64, bool, bool, dict[str, Any]]:
        """Takes one step with torques ``action``, [8]."""
        before = self.data.xpos[_TORSO].copy()
        self.do_simulation(action, self.frame_skip)
        check_not_diverged(self)
        place = self.data.xpos[_TORSO]
        velocity = (place - before) / self.dt
        state = self.state_vector()
        healthy = self.healthy(state)
        terms = self.reward_terms(np.asarray(self.task), place, velocity, np.asarray(action, np.float64), healthy)
        info = {"x_position": state[0], "y_position": state[1], "y_velocity": velocity[1]}
        info |= self.numbers(np.asarray(self.task), place, velocity, terms)
        if self.render_mode == "human":
            self.render()
        reward = np.float64(sum(terms.values()))
        return self._get_obs(), reward, bool(self.terminates and not healthy), False, {**info, **terms}

    def healthy(self, states: FloatArray) -> BoolArray:
        """Whether positions and velocities [..., 29] are finite and the torso's height is within bounds, [...]."""
        lowest, highest = self._healthy_z_range
        height = states[..., 2]
        return np.isfinite(states).all(axis=-1) & (lowest <= height) & (height <= highest)

    def reward_terms(
        self, tasks: FloatArray, places: FloatArray, velocities: FloatArray, actions: FloatArray, healthy: BoolArray
    ) -> dict[str, Any]:
        """The terms whose sum is the reward.

        Args:
            tasks: Tasks, [..., *task shape].
            places: Positions of the torso, [..., 3], m.
            velocities: Velocities of the torso, [..., 3], m/s.
            actions: Actions, [..., 8].
            healthy: Whether the ant is healthy after the step, [...].

        Returns:
            ``reward_task``, ``reward_survive`` and ``reward_ctrl``, [...].
        """
        cost = self._ctrl_cost_weight * np.sum(np.square(actions), axis=-1)
        return {
            "reward_task": self.task_reward(tasks, places, velocities),
            "reward_survive": self._healthy_reward * healthy,
            "reward_ctrl": -cost,
        }

    def numbers(
        self, tasks: FloatArray, places: FloatArray, velocities: FloatArray, terms: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What ``info`` holds beside ``terms``, the reward's, and y, [...]; other arguments as for `reward_terms`."""
        return {
            "x_velocity": velocities[..., 0],
            "reward_without_survive": terms["reward_task"] + terms["reward_ctrl"],
        }

    @abstractmethod
    def task_reward(self, tasks: FloatArray, places: FloatArray, velocities: FloatArray) -> Any:
        """Task reward at these positions and velocities, [...]."""

    def initial_state(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draws the first positions [15] and velocities [14] of an episode."""
        scale = self._reset_noise_scale
        positions = self.init_qpos + rng.uniform(-scale, scale, self.init_qpos.size)
        return positions, self.init_qvel + scale * rng.standard_normal(self.init_qvel.size)


class AntDirEnv(AntEnv):
    """An ant that should run forward or backward.

    Reward, in one step:

    | term | value | coefficient | unit |
    |---|---|---|---|
    | ``reward_task`` | direction * velocity along x | 1 | m/s |
    | ``reward_survive`` | 1 if healthy | ``survive_bonus``, 1 | 1 |
    | ``reward_ctrl`` | - squared norm of the action | ``ctrl_cost_weight``, 0.5 | 1 |

    Task: the direction, -1 or +1. The episode terminates with the torso's height outside [0.2, 1.0] m. Observation,
    action, reset and the other arguments are `AntEnv`'s. Report returns with and without the survive bonus.

    Version history: v0, first version.

    Source: Finn et al. 2017, section 5.3; coefficients of Gymnasium's Ant-v5.
    """

    def __init__(
        self,
        frame_skip: int = 5,
        ctrl_cost_weight: float = 0.5,
        survive_bonus: float = 1.0,
        reset_noise: float = 0.1,
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
            survive_bonus=survive_bonus,
            reset_noise=reset_noise,
        )

    @staticmethod
    def distribution(parameters: Mapping[str, Any]) -> Directions:
        return Directions()

    def task_reward(self, tasks: FloatArray, places: FloatArray, velocities: FloatArray) -> Any:
        """Direction times velocity along x."""
        return tasks * velocities[..., 0]


class AntVelEnv(AntEnv):
    """An ant that should run forward at a target velocity.

    Reward, in one step:

    | term | value | coefficient | unit |
    |---|---|---|---|
    | ``reward_task`` | - absolute difference of velocity along x and target | 1 | m/s |
    | ``reward_survive`` | 1 if healthy | ``survive_bonus``, 1 | 1 |
    | ``reward_ctrl`` | - squared norm of the action | ``ctrl_cost_weight``, 0.5 | 1 |

    Task: the target velocity in m/s, uniform in [``lowest``, ``highest``]. The episode terminates with the torso's
    height outside [0.2, 1.0] m. Observation, action, reset and the other arguments are `AntEnv`'s. Report returns with
    and without the survive bonus.

    Version history: v0, first version.

    Source: Finn et al. 2017, section 5.3; coefficients of Gymnasium's Ant-v5.
    """

    checks: ClassVar[Mapping[str, Check]] = {"lowest": number, "highest": number, **AntEnv.checks}

    def __init__(
        self,
        lowest: float = 0.0,
        highest: float = 3.0,
        frame_skip: int = 5,
        ctrl_cost_weight: float = 0.5,
        survive_bonus: float = 1.0,
        reset_noise: float = 0.1,
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
            survive_bonus=survive_bonus,
            reset_noise=reset_noise,
        )

    @staticmethod
    def distribution(parameters: Mapping[str, Any]) -> Uniform:
        return Uniform(*interval(parameters["lowest"], parameters["highest"]))

    def task_reward(self, tasks: FloatArray, places: FloatArray, velocities: FloatArray) -> Any:
        """Minus the distance from the target velocity."""
        return -np.abs(velocities[..., 0] - tasks)

    def numbers(
        self, tasks: FloatArray, places: FloatArray, velocities: FloatArray, terms: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The same as of other ants, and the distance from the target velocity."""
        error = np.abs(velocities[..., 0] - tasks)
        return {**super().numbers(tasks, places, velocities, terms), "velocity_error": error}


class AntGoalEnv(AntEnv):
    """An ant that should go to a goal.

    Reward, in one step:

    | term | value | coefficient | unit |
    |---|---|---|---|
    | ``reward_task`` | - distance of the torso from the goal, after the step | 1 | m |
    | ``reward_survive`` | 1 if healthy | ``survive_bonus``, 0 | 1 |
    | ``reward_ctrl`` | - squared norm of the action | ``ctrl_cost_weight``, 0.1 | 1 |

    The distance is ``|dx| + |dy|`` as in the public code of ProMP and its relatives, or Euclidean.

    Task: the goal (x, y) in m, uniform in a disc around the start. The episode never terminates. x and y of the
    torso come first in the observation, which otherwise is `AntEnv`'s, as are action, reset and the other arguments.

    Args:
        goal_radius: Radius of the goals' disc, m.
        distance: "l1" or "euclidean".

    Version history: v0, first version.

    Source: Rothfuss et al. 2019 (ProMP), public code.
    """

    num_skipped = 0
    terminates = False
    checks: ClassVar[Mapping[str, Check]] = {
        "goal_radius": positive,
        "distance": one_of("l1", "euclidean"),
        **AntEnv.checks,
    }

    def __init__(
        self,
        goal_radius: float = 3.0,
        distance: Literal["l1", "euclidean"] = "l1",
        frame_skip: int = 5,
        ctrl_cost_weight: float = 0.1,
        survive_bonus: float = 0.0,
        reset_noise: float = 0.1,
        render_mode: str | None = None,
        width: int = DEFAULT_SIZE,
        height: int = DEFAULT_SIZE,
    ) -> None:
        super().__init__(
            render_mode,
            width,
            height,
            goal_radius=goal_radius,
            distance=distance,
            frame_skip=frame_skip,
            ctrl_cost_weight=ctrl_cost_weight,
            survive_bonus=survive_bonus,
            reset_noise=reset_noise,
        )
        self._distance = distance

    @staticmethod
    def distribution(parameters: Mapping[str, Any]) -> Disc:
        return Disc(parameters["goal_radius"])

    def task_reward(self, tasks: FloatArray, places: FloatArray, velocities: FloatArray) -> Any:
        """Minus the distance from the goal."""
        dx, dy = np.abs(places[..., 0] - tasks[..., 0]), np.abs(places[..., 1] - tasks[..., 1])
        return -(dx + dy) if self._distance == "l1" else -np.sqrt(dx * dx + dy * dy)

    def numbers(
        self, tasks: FloatArray, places: FloatArray, velocities: FloatArray, terms: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The same as of other ants, and the distance from the goal."""
        return {**super().numbers(tasks, places, velocities, terms), "distance": -terms["reward_task"]}


class AntCore(MujocoCore):
    """Many ants at once; arguments as for `MujocoCore`."""

    def bind(self) -> None:
        """Finds the state's arrays, see `MujocoCore.bind`."""
        super().bind()
        # Positions of the bodies as the last Runge-Kutta stage left them; the single environment reads the same.
        self._places: FloatArray = self.batch.bind("xpos")

    def move(self, slots: Slots, actions: FloatArray, rewards: FloatArray, terminated: BoolArray) -> None:
        """Simulates some slots; see `MujocoCore.move`."""
        before = self._places[slots, _TORSO].copy()
        self.simulate(slots)
        places = self._places[slots, _TORSO]
        velocities = (places - before) / self.env.dt
        healthy = self.env.healthy(np.concatenate([self.positions[slots], self.velocities[slots]], axis=-1))
        terms = self.env.reward_terms(self.tasks[slots], places, velocities, actions, healthy)
        self.record_terms(slots, terms, rewards)
        self.record(slots, self.env.numbers(self.tasks[slots], places, velocities, terms))
        terminated[slots] = self.env.terminates & ~healthy


class AntDirFamily(DirectionFamily):
    """Ants that run forward or backward. There are only two tasks, so none can be held out.

    Args:
        horizon: Default length of an episode, in environment steps.
        **parameters: Parameters of `AntDirEnv`.
    """

    name = "ant-dir"
    metrics = _METRICS
    defaults = _DEFAULTS
    env_class = AntDirEnv
    core_class = AntCore


class AntVelFamily(VelocityFamily):
    """Ants that run at a target velocity.

    Args:
        horizon: Default length of an episode, in environment steps.
        **parameters: Parameters of `AntVelEnv`.
    """

    name = "ant-vel"
    metrics: Mapping[str, Aggregate] = {**_METRICS, "velocity_error": "mean"}
    costs = ("velocity_error",)
    defaults = _DEFAULTS
    env_class = AntVelEnv
    core_class = AntCore


class AntGoalFamily(SimulatedFamily, NativeFamily):
    """Ants that go to a goal.

    Args:
        horizon: Default length of an episode, in environment steps.
        **parameters: Parameters of `AntGoalEnv`.
    """

    name = "ant-goal"
    metrics: Mapping[str, Aggregate] = {"reward_without_survive": "sum", "distance": "last"}
    costs = ("distance",)
    # With a step of 0.1 adaptation still changed next to nothing after 14 million steps (docs/results.md).
    defaults: Mapping[str, Any] = {**_DEFAULTS, "inner_lr": 1.0}
    env_class = AntGoalEnv
    core_class = AntCore

    def describe_task(self, task: Any) -> str:
        """Says where the goal is."""
        return f"goal ({task[0]:+.2f}, {task[1]:+.2f}) m"
