"""Distributions of tasks, and a mixin with parameters and task for the built-in environments."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.common.arrays import FloatArray, IntArray
from metarl.common.errors import UserError
from metarl.envs.parameters import Check


class TaskDistribution(ABC):
    """A distribution of tasks.

    Attributes:
        space: The space that tasks are elements of.
        num_modes: Number of modes.
    """

    space: spaces.Box
    num_modes: int = 1

    @abstractmethod
    def draw(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draws n tasks, [n, *task shape]."""

    def modes(self, tasks: NDArray[Any]) -> IntArray:
        """Which mode each of the tasks, [task, *task shape], was drawn from, [task]; 0 unless overridden."""
        return np.zeros(len(tasks), int)

    def check(self, task: Any) -> FloatArray:
        """Returns a copy of a task that a user gave, as float64.

        Tasks outside the distribution's bounds are allowed: out-of-distribution evaluation needs them.

        Raises:
            UserError: If it has another shape or is not finite.
        """
        checked = np.array(task, np.float64)
        if checked.shape != self.space.shape:
            raise UserError(f"the task must have shape {self.space.shape}, got {checked.shape}.")
        if not np.isfinite(checked).all():
            raise UserError(f"the task must be finite, got {checked}.")
        return checked


class Directions(TaskDistribution):
    """Forward (+1) or backward (-1), each with probability 1/2."""

    all_tasks = np.array([-1.0, 1.0])

    def __init__(self) -> None:
        self.space = spaces.Box(-1.0, 1.0, (), np.float64)

    def draw(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draws n directions, [n]."""
        return rng.choice(self.all_tasks, n)

    def check(self, task: Any) -> FloatArray:
        """Returns a copy of the direction; raises UserError unless it is -1 or +1."""
        checked = super().check(task)
        if checked not in self.all_tasks:
            raise UserError(f"the task must be a direction, -1 or +1, got {checked}.")
        return checked


class Uniform(TaskDistribution):
    """Uniform in a box.

    Args:
        low: Lower bounds, [*task shape].
        high: Upper bounds, of the same shape.

    Raises:
        UserError: If the width of the box is no finite number.
    """

    def __init__(self, low: Any, high: Any) -> None:
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        with np.errstate(over="ignore"):
            if not np.isfinite(high - low).all():
                raise UserError(f"tasks from {low} to {high} are too far apart for double precision.")
        self.space = spaces.Box(low, high, low.shape, np.float64)

    def draw(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draws n points of the box, [n, *task shape]."""
        return rng.uniform(self.space.low, self.space.high, (n, *self.space.shape))


@dataclass
class Disc(TaskDistribution):
    """Uniform in a disc around the origin of the plane.

    Attributes:
        radius: The disc's radius.
    """

    radius: float

    def __post_init__(self) -> None:
        self.space = spaces.Box(-self.radius, self.radius, (2,), np.float64)

    def draw(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draws n points of the disc, [n, 2]."""
        angle = rng.uniform(0, 2 * np.pi, n)
        # The area within a distance grows with its square, so the square root makes the density uniform.
        distance = self.radius * np.sqrt(rng.uniform(size=n))
        return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)


class Modes(TaskDistribution):
    """Normal distributions in the plane, equally likely, around the corners of a regular polygon.

    Corner k of N is at ``distance`` from the origin, at the angle pi/4 + 2 pi k / N. Two corners are the bimodal goals
    of Vuorio et al. 2019 (MuMoMAML): (m, m) and (-m, -m) with m = distance / sqrt(2).

    A task is (x, y, number of its mode). The number is part of the task because the modes overlap: the point alone does
    not determine it.

    Args:
        num_modes: Number of corners.
        distance: Distance of the corners from the origin.
        deviation: Standard deviation of each coordinate around its corner.
    """

    def __init__(self, num_modes: int, distance: float, deviation: float) -> None:
        self.num_modes, self._deviation = num_modes, deviation
        low, high = np.array([-np.inf, -np.inf, 0.0]), np.array([np.inf, np.inf, num_modes - 1.0])
        self.space = spaces.Box(low, high, dtype=np.float64)
        angles = np.pi / 4 + 2 * np.pi * np.arange(num_modes) / num_modes
        # Rounded, so that a corner on an axis or a diagonal lies on it exactly.
        self._centres = np.round(distance * np.stack([np.cos(angles), np.sin(angles)], axis=1), 12)

    def draw(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draws n points of the plane, each with the number of its mode, [n, 3]."""
        # Counted from the last, so that a seed draws the same bimodal tasks as in version 0.1.
        modes = rng.choice(np.arange(self.num_modes)[::-1], n)
        points = self._centres[modes] + self._deviation * rng.standard_normal((n, 2))
        return np.concatenate([points, modes[:, None]], axis=1)

    def modes(self, tasks: NDArray[Any]) -> IntArray:
        """Which mode each of the tasks, [task, 3], was drawn from, [task]."""
        return np.asarray(tasks)[:, 2].astype(int)

    def check(self, task: Any) -> FloatArray:
        """Returns a copy of the task; raises UserError unless it is a point followed by the number of a mode."""
        checked = super().check(task)
        if checked[2] not in range(self.num_modes):
            raise UserError(
                f"the task must be (x, y, mode) with a whole mode from 0 to {self.num_modes - 1}, got mode "
                f"{checked[2]}."
            )
        return checked


@dataclass
class Probabilities(TaskDistribution):
    """Independent probabilities, each uniform in [0, 1].

    Attributes:
        size: Number of probabilities.
    """

    size: int

    def __post_init__(self) -> None:
        self.space = spaces.Box(0.0, 1.0, (self.size,), np.float64)

    def draw(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draws n vectors of probabilities, [n, size]."""
        return rng.uniform(size=(n, self.size))

    def check(self, task: Any) -> FloatArray:
        """Returns a copy of the probabilities; raises UserError unless all lie in [0, 1]."""
        checked = super().check(task)
        if checked.min() < 0 or checked.max() > 1:
            raise UserError(f"the task must hold probabilities, each between 0 and 1, got {checked}.")
        return checked


class TaskKeeper:
    """Mixin for environments: the distribution of tasks and the current task.

    A task given at reset lasts until another is given, or until a reset with a seed and without a task. That reset
    draws a task with the new seed.

    Attributes:
        tasks: The distribution of the environment's tasks.
        task: The current task, [*task shape].
    """

    tasks: TaskDistribution
    task: FloatArray | None = None

    def seed_and_choose_task(self, seed: int | None, options: dict[str, Any] | None) -> dict[str, Any]:
        """Seeds the environment and chooses its task; a reset calls it first.

        Args:
            seed: As in ``reset``.
            options: As in ``reset``; ``options["task"]`` is the task.

        Returns:
            The part of the reset's info that holds the task.

        Raises:
            UserError: If the options hold something other than a valid task.
        """
        assert isinstance(self, gym.Env)
        gym.Env.reset(self, seed=seed)
        given = task_option(options)
        if given is not None:
            self.task = self.tasks.check(given)
        elif seed is not None or self.task is None:
            self.task = self.tasks.draw(1, self.np_random)[0]
        return {"task": np.array(self.task)}


class TaskEnvironment(TaskKeeper):
    """Mixin for built-in environments with parameters, which decide what their tasks are.

    Attributes:
        checks: The check of each parameter, by name; Gymnasium checks ``render_mode``.
    """

    checks: ClassVar[Mapping[str, Check]]

    @classmethod
    def checked(cls, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Checks all parameters of the environment, by name, without making one.

        Returns:
            The parameters as the environment uses them, 50.0 as 50 where a whole number is meant.

        Raises:
            UserError: If one of them has a wrong value.
        """
        return {name: check(name, parameters[name]) for name, check in cls.checks.items()}

    @staticmethod
    @abstractmethod
    def distribution(parameters: Mapping[str, Any]) -> TaskDistribution:
        """The distribution of tasks under checked parameters; raises UserError if they contradict each other."""


def task_option(options: dict[str, Any] | None) -> Any:
    """The task in a reset's options, or None; raises UserError for any other option."""
    unknown = set(options or {}) - {"task"}
    if unknown:
        raise UserError(f"reset takes the option 'task' only, got {', '.join(sorted(map(repr, unknown)))}.")
    return (options or {}).get("task")
