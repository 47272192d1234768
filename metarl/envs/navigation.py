"""Two-dimensional navigation: a point moves to a goal that it cannot see."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray, IntArray
from metarl.common.errors import UserError
from metarl.common.statistics import Aggregate
from metarl.envs.drawing import Canvas
from metarl.envs.native import SAMPLED_CURVATURE, NativeCore, NativeFamily, Slots, rows
from metarl.envs.parameters import Check, between, flag, not_negative, one_of, optional, positive, whole_between
from metarl.envs.tasks import Modes, TaskDistribution, TaskEnvironment, Uniform


class NavigationEnv(TaskEnvironment, gym.Env[FloatArray, FloatArray]):
    """A point in the plane is rewarded for being near a goal; only the reward reveals the goal.

    Observation, ``Box(-inf, inf, (2,), float64)``:

    | index | meaning | minimum | maximum | unit |
    |---|---|---|---|---|
    | 0 | x position | -inf | inf | length |
    | 1 | y position | -inf | inf | length |

    Action, ``Box(-0.1, 0.1, (2,), float32)``: the change of x and y in one step, clipped to the bounds.

    Reward, after the step: minus the distance to the goal (coefficient 1, unit length); the squared distance (unit
    length squared) if ``squared_distance``. The published figures use the plain distance; the papers print the squared
    one.

    Info, after the step: ``distance``, the Euclidean distance to the goal, and ``success``, 1 if the episode terminates
    there, else 0.

    Episode: it starts at the origin, without noise, and terminates where ``|dx| < end_distance`` and
    ``|dy| < end_distance`` (``end_norm="max"``) or where the Euclidean distance is below ``end_distance``
    (``end_norm="euclidean"``). It is truncated after 100 steps if made by ``gymnasium.make``.

    Task: the goal (x, y); with ``start_bound`` > 0 the goal and the start (goal x, goal y, start x, start y), all
    uniform. With ``goal_modes`` the goal and the number of its mode (x, y, 0 to goal_modes - 1): goals are normal
    around the corners of a regular polygon, each equally likely; corner 0 is at the angle pi/4 and the others follow
    counter-clockwise (`metarl.envs.tasks.Modes`). The number changes nothing in the environment.

    Args:
        goal_bound: Goals are uniform in [-goal_bound, goal_bound]^2; by default 0.5.
        start_bound: Starts are uniform in [-start_bound, start_bound]^2 and belong to the task, if greater than 0.
        goal_modes: If given, the number of modes of the goals, 2 to 6, instead of uniform goals.
        goal_distance: Distance of the modes' centres from the origin, 0 to 4; by default 1.
        goal_deviation: Standard deviation of each coordinate of the goals around the centre of their mode; by default
            0.5.
        action_bound: Largest change of a coordinate in one step.
        squared_distance: Whether the reward is minus the squared distance.
        end_distance: Distance to the goal below which the episode ends.
        end_norm: "max" or "euclidean".
        render_mode: "rgb_array" or None.

    Version history: v0, first version.

    Source: Finn et al. 2017, section 5.3; two modes at the distance sqrt(0.5) Vuorio et al. 2019; more are our own.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (as in Gymnasium)
    checks: ClassVar[Mapping[str, Check]] = {
        "goal_bound": optional(positive),
        "start_bound": not_negative,
        "goal_modes": optional(whole_between(2, 6)),
        "goal_distance": optional(between(0, 4)),
        "goal_deviation": optional(not_negative),
        "action_bound": positive,
        "squared_distance": flag,
        "end_distance": not_negative,
        "end_norm": one_of("max", "euclidean"),
    }

    def __init__(
        self,
        goal_bound: float | None = None,
        start_bound: float = 0.0,
        goal_modes: int | None = None,
        goal_distance: float | None = None,
        goal_deviation: float | None = None,
        action_bound: float = 0.1,
        squared_distance: bool = False,
        end_distance: float = 0.01,
        end_norm: Literal["max", "euclidean"] = "max",
        render_mode: str | None = None,
    ) -> None:
        chosen = self.checked(
            {
                "goal_bound": goal_bound,
                "start_bound": start_bound,
                "goal_modes": goal_modes,
                "goal_distance": goal_distance,
                "goal_deviation": goal_deviation,
                "action_bound": action_bound,
                "squared_distance": squared_distance,
                "end_distance": end_distance,
                "end_norm": end_norm,
            }
        )
        self.tasks = self.distribution(chosen)
        self._action_bound: float = chosen["action_bound"]
        self._squared_distance: bool = chosen["squared_distance"]
        self._end_distance: float = chosen["end_distance"]
        self._end_norm: str = chosen["end_norm"]
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Box(-self._action_bound, self._action_bound, (2,), np.float32)
        self.render_mode = render_mode
        self._trail: list[FloatArray] = []

    @staticmethod
    def distribution(parameters: Mapping[str, Any]) -> TaskDistribution:
        start_bound: float = parameters["start_bound"]
        bound, distance, deviation = (parameters[f"goal_{name}"] for name in ("bound", "distance", "deviation"))
        if parameters["goal_modes"] is not None:
            if start_bound > 0:
                raise UserError("goal_modes and start_bound cannot be combined: with modes, episodes start at 0.")
            if bound is not None:
                raise UserError("goal_bound would do nothing with goal_modes; choose goal_distance and goal_deviation.")
            return Modes(parameters["goal_modes"], _or(distance, 1.0), _or(deviation, 0.5))
        if distance is not None or deviation is not None:
            raise UserError("goal_distance and goal_deviation would do nothing without goal_modes; choose goal_bound.")
        bounds = np.array([_or(bound, 0.5)] * 2 + [start_bound] * (2 if start_bound > 0 else 0))
        return Uniform(-bounds, bounds)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begins an episode; ``options={"task": task}`` sets the task."""
        info = self.seed_and_choose_task(seed, options)
        self._trail = [starts(np.asarray(self.task))]
        return self._trail[-1].copy(), info

    def step(self, action: NDArray[Any]) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Moves the point by ``action``, [2]; raises UserError if it has another shape."""
        if np.shape(action) != (2,):
            raise UserError(f"the action must have shape (2,), got {np.shape(action)}.")
        position = self.move(self._trail[-1], np.asarray(action))
        self._trail.append(position)
        offset = position - np.asarray(self.task)[:2]
        reward, arrived = self.reward(offset), self.arrived(offset)
        info = {name: float(values) for name, values in self.numbers(offset, arrived).items()}
        return position.copy(), float(reward), bool(arrived), False, {"reward_distance": float(reward), **info}

    def move(self, positions: FloatArray, actions: NDArray[Any]) -> FloatArray:
        """Positions after the actions, [..., 2]."""
        return positions + np.clip(actions.astype(np.float64), -self._action_bound, self._action_bound)

    def reward(self, offsets: FloatArray) -> FloatArray:
        """Rewards at these offsets from the goal, [..., 2] to [...]."""
        squared = _squared_length(offsets)
        return -squared if self._squared_distance else -np.sqrt(squared)

    def numbers(self, offsets: FloatArray, arrived: BoolArray) -> dict[str, FloatArray]:
        """What ``info`` holds beside the reward, at these offsets from the goal: [..., 2] and [...] to [...]."""
        return {"distance": np.sqrt(_squared_length(offsets)), "success": np.asarray(arrived, np.float64)}

    def arrived(self, offsets: FloatArray) -> BoolArray:
        """Whether the episode ends at these offsets from the goal, [..., 2] to [...]."""
        if self._end_norm == "euclidean":
            return np.asarray(np.sqrt(_squared_length(offsets)) < self._end_distance)
        distances = np.abs(offsets)
        return np.asarray(np.maximum(distances[..., 0], distances[..., 1]) < self._end_distance)

    def render(self) -> NDArray[np.uint8] | None:
        """Draws start (ring), goal (disc), trail and position; [256, 256, 3] of bytes."""
        if self.render_mode is None:
            gym.logger.warn("Calling render without a render_mode; give it at construction, render_mode='rgb_array'.")
            return None
        goal = np.asarray(self.task)[:2]
        canvas = Canvas(1.15 * max(0.5, *(float(np.abs(point).max()) for point in [goal, *self._trail])))
        canvas.disc(goal, 9, (214, 69, 65))
        canvas.trail(self._trail, 1.5, (66, 113, 174))
        canvas.ring(self._trail[0], 6, 2, (90, 90, 90))
        canvas.disc(self._trail[-1], 5, (20, 60, 120))
        return canvas.image()


class NavigationCore(NativeCore):
    """Many navigating points at once.

    Args:
        env: A single environment, whose rules hold for all slots.
        num_envs: Number of slots.
    """

    draws = False

    def __init__(self, env: NavigationEnv, num_envs: int) -> None:
        super().__init__(num_envs, env.tasks.space.shape)
        self._env = env
        self._positions = np.zeros((num_envs, 2))

    def start(self, slots: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Moves the points of some slots to their start."""
        self._positions[slots] = starts(self.tasks[slots])

    def advance(self, slots: Slots, actions: NDArray[Any], rewards: FloatArray, terminated: BoolArray) -> None:
        """Moves the points of some slots; see `NativeCore.advance`."""
        positions = self._env.move(rows(self._positions, slots), rows(actions, slots))
        offsets = positions - rows(self.tasks, slots)[:, :2]
        self._positions[slots] = positions
        self.record_terms(slots, {"reward_distance": self._env.reward(offsets)}, rewards)
        terminated[slots] = arrived = self._env.arrived(offsets)
        self.record(slots, self._env.numbers(offsets, arrived))

    def observe(self, observations: FloatArray) -> None:
        """Writes all positions, [num_envs, 2]."""
        observations[...] = self._positions


class NavigationFamily(NativeFamily):
    """Navigation to one of many goals.

    Args:
        horizon: Default length of an episode, in environment steps.
        **parameters: Parameters of `NavigationEnv`.
    """

    name = "navigation"
    horizon = 100
    metrics: Mapping[str, Aggregate] = {"success": "any", "distance": "last"}
    costs = ("distance",)
    defaults: Mapping[str, Any] = {**SAMPLED_CURVATURE, "meta_batch_size": 20}
    memory_defaults: Mapping[str, Any] = {"initial_std": 0.6, "ppo": {"lr": 2e-3}, "iterations": 168}
    # Steps are so short that threads mostly wait for the interpreter's lock: up to 1600 slots, two threads are slower
    # than one.
    min_envs_per_shard = 800
    env_class = NavigationEnv
    core_class = NavigationCore

    def describe_task(self, task: Any) -> str:
        """Says where the goal is, and where the start is if it belongs to the task."""
        goal, start = np.asarray(task)[:2], starts(np.asarray(task))
        described = f"goal ({goal[0]:+.2f}, {goal[1]:+.2f})"
        return f"{described}, start ({start[0]:+.2f}, {start[1]:+.2f})" if _has_start(task) else described


def _or(chosen: float | None, usual: float) -> float:
    return usual if chosen is None else chosen


def starts(tasks: FloatArray) -> FloatArray:
    """Starts of the tasks, or the origin if tasks have no start, [..., 2, 3 or 4] to [..., 2]."""
    return tasks[..., 2:].copy() if _has_start(tasks) else np.zeros_like(tasks[..., :2])


def _has_start(tasks: Any) -> bool:
    # (x, y) is a goal alone, (x, y, mode) one of a mode, and four numbers are goal and start.
    return np.shape(tasks)[-1] == 4


def _squared_length(offsets: FloatArray) -> FloatArray:
    # Written out: library norms of one vector and of many may differ in the last bit.
    return offsets[..., 0] * offsets[..., 0] + offsets[..., 1] * offsets[..., 1]
