"""highway-env: drivers who like the right lane, and drivers who like the left one.

pip install highway-env
python -m metarl.train --env examples.highway_family:HighwayFamily --algo maml --meta-batch-size 8 --rollouts-per-task 5
"""

import gymnasium as gym
import highway_env
import numpy as np
from gymnasium import spaces

import metarl

gym.register_envs(highway_env)


class HighwayFamily(metarl.TaskFamily):
    """The task is the reward for a second in the right one of three lanes; the middle one gives half of it."""

    horizon = 30  # highway-env's own `duration`, after which it truncates the episode.
    task_space = spaces.Box(-0.5, 0.5, (), np.float64)
    metrics = {"crashed": "any", "speed": "mean"}
    costs = ("crashed",)

    def make_env(self, render_mode=None):
        # Its normalised reward would take back most of what the task changes.
        return gym.make("highway-fast-v0", render_mode=render_mode, config={"normalize_reward": False})

    def set_task(self, env, task):
        return {"config": {"right_lane_reward": float(task)}}  # For reset; the environment keeps it.


if __name__ == "__main__":
    metarl.check_task_family(HighwayFamily())
    print("HighwayFamily is fine.")
