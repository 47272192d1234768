"""Gymnasium-Robotics: a ball that has to find the goal in an open maze.

pip install gymnasium-robotics
python -m metarl.train --env examples.maze_family:MazeFamily --algo rl2
"""

import gymnasium as gym
import gymnasium_robotics
import numpy as np
from gymnasium import spaces

import metarl

gym.register_envs(gymnasium_robotics)


class KeepGoal(gym.Wrapper):
    """Keeps the goal at a reset without options, where the maze would draw another one."""

    options = None

    def reset(self, *, seed=None, options=None):
        self.options = options or self.options
        return self.env.reset(seed=seed, options=self.options)


class MazeFamily(metarl.TaskFamily):
    """The task is the goal's cell (row, column) among 3 x 5; the ball starts anywhere."""

    horizon = 100
    task_space = spaces.MultiDiscrete([3, 5], start=[1, 1])
    metrics = {"success": "any"}

    def make_env(self, render_mode=None):
        env = gym.make("PointMaze_OpenDense-v3", render_mode=render_mode)
        # Without "desired_goal": an agent that sees its task has nothing to adapt to.
        return KeepGoal(gym.wrappers.FilterObservation(env, ["observation"]))

    def set_task(self, env, task):
        return {"goal_cell": np.asarray(task)}


if __name__ == "__main__":
    metarl.check_task_family(MazeFamily())
    print("MazeFamily is fine.")
