"""Two kinds of environments in one family, with lists of tasks for training, validation and test."""

import itertools

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction, TransformObservation

import metarl


class ControlFamily(metarl.TaskFamily):
    """A pendulum and a car on a hill with loads; the task is (which of the two, load as a factor)."""

    horizon = 200
    kinds = ("Pendulum-v1", "MountainCarContinuous-v0")
    num_modes = len(kinds)
    task_space = spaces.Tuple([spaces.Discrete(2), spaces.Box(0.5, 2.0, (), np.float64)])
    loads = {
        "train": (0.7, 0.8, 0.9, 1.1, 1.2, 1.3),
        "validation": (0.75, 1.25),
        "test": (0.6, 1.0, 1.4),
    }

    def split_tasks(self, split):
        """All tasks of the split; each is drawn equally often."""
        return list(itertools.product(range(2), self.loads[split]))

    def modes(self, tasks):
        """Which of the two; both are drawn equally often."""
        return np.array([number for number, _ in tasks])

    def kind(self, task):
        return self.kinds[task[0]]

    def make_env(self, render_mode=None, kind=kinds[0]):
        """Makes one of the two, with three observed numbers and one action between -1 and 1."""
        env = gym.make(kind, render_mode=render_mode, max_episode_steps=-1)
        space = env.observation_space
        missing = (0, 3 - len(space.low))
        padded = spaces.Box(np.pad(space.low, missing), np.pad(space.high, missing), dtype=space.dtype)
        env = TransformObservation(env, lambda observation: np.pad(observation, missing), padded)
        return RescaleAction(env, np.float32(-1.0), np.float32(1.0))

    def set_task(self, env, task):
        number, load = task
        if number == 0:
            env.unwrapped.g = 10.0 * float(load)
        else:
            env.unwrapped.power = 0.0015 / float(load)

    def describe_task(self, task):
        return f"{self.kind(task)}, load {float(task[1]):.2f}"


if __name__ == "__main__":
    metarl.check_task_family(ControlFamily())
    print("The family has no problems.")
