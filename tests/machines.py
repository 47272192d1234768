"""Families whose actions, observations and tasks have several parts."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from metarl.envs import TaskFamily


class Machine(gym.Env):
    """A dial and a switch: each pays its weight if it is set as the task says."""

    action_space = spaces.MultiDiscrete([3, 2], start=[1, 0])
    observation_space = spaces.Dict(
        {
            "dial": spaces.Discrete(3, start=1),
            "panel": spaces.Tuple([spaces.MultiBinary(2), spaces.Box(0, 255, (2, 1), np.uint8)]),
        }
    )

    def __init__(self):
        self.task = {"target": np.array([1, 0]), "weights": (1.0, 0.5)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = (options or {"task": self.task})["task"]
        self.set = np.array([self.np_random.integers(1, 4), 0])
        return self._observation(), {}

    def step(self, action):
        assert action in self.action_space
        self.set = action
        return self._observation(), float((action == self.task["target"]) @ self.task["weights"]), False, False, {}

    def _observation(self):
        dial, switch = self.set
        return {"dial": dial, "panel": (np.array([switch, 1 - switch]), np.full((2, 1), 51 * dial, np.uint8))}


class MachineFamily(TaskFamily):
    """Its tasks hold real numbers, so that no two are the same."""

    horizon = 5
    task_space = spaces.Dict(
        {
            "target": spaces.MultiDiscrete([3, 2], start=[1, 0]),
            "weights": spaces.Tuple([spaces.Box(0.5, 1, (), np.float64), spaces.Box(0.1, 0.5, (), np.float64)]),
        }
    )

    def make_env(self):
        return Machine()


class Switches(gym.Env):
    """Switches that pay for each that is as the task says."""

    action_space = spaces.MultiBinary((2, 4))
    observation_space = spaces.Discrete(2)
    task = np.zeros(8, np.int8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = (options or {"task": self.task})["task"]
        return self.np_random.integers(2), {}

    def step(self, action):
        assert action in self.action_space
        return self.np_random.integers(2), float((action.ravel() == self.task).mean()), False, False, {}


class SwitchesFamily(TaskFamily):
    """256 tasks, so that no split holds those of another."""

    horizon = 5
    task_space = spaces.MultiBinary(8)

    def make_env(self):
        return Switches()


class Lever(gym.Env):
    """A lever with 6 places: the reward is how far it is up, or down if the task says so; its place is not seen."""

    action_space = spaces.Box(0, 5, (1,), np.int32)
    observation_space = spaces.Box(0, 255, (2, 2), np.uint8)
    task = (np.int64(0), np.array([1]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = (options or {"task": self.task})["task"]
        return np.full((2, 2), 255, np.uint8), {}

    def step(self, action):
        assert action in self.action_space
        down, size = self.task
        reward = float(size[0] * (5 - action[0] if down else action[0]))
        return np.full((2, 2), 51 * action[0], np.uint8), reward, False, False, {}


class LeverFamily(TaskFamily):
    """Four tasks."""

    horizon = 5
    task_space = spaces.Tuple([spaces.Discrete(2), spaces.Box(1, 2, (1,), np.int64)])

    def make_env(self):
        return Lever()


class Countdown(gym.Env):
    """Rewards equal to the task, until a number of steps that is drawn at each reset."""

    action_space = spaces.Discrete(3)
    observation_space = spaces.Dict({"left": spaces.Discrete(6), "noise": spaces.Box(-1, 1, (1,), np.float32)})
    task = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task, self.left = float((options or {"task": self.task})["task"]), int(self.np_random.integers(1, 6))
        return self._observation(), {}

    def step(self, action):
        assert action in self.action_space
        self.left -= 1
        return self._observation(), self.task, self.left == 0, False, {}

    def _observation(self):
        return {"left": self.left, "noise": self.np_random.uniform(-1, 1, 1).astype(np.float32)}


class CountdownFamily(TaskFamily):
    """Its episodes end early."""

    horizon = 5
    task_space = spaces.Box(-1, 1, (), np.float64)

    def make_env(self):
        return Countdown()
