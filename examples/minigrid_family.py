"""MiniGrid: a room in which the agent has to find the goal.

pip install minigrid
python -m metarl.train --env examples.minigrid_family:HiddenGoalFamily --algo rl2
"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from minigrid.core.world_object import Goal
from minigrid.envs import EmptyEnv

import metarl


class HiddenGoalEnv(EmptyEnv):
    """MiniGrid's empty room of 6 x 6 cells, with the goal anywhere."""

    goal = (6, 6)

    def _gen_grid(self, width, height):
        super()._gen_grid(width, height)
        self.grid.set(width - 2, height - 2, None)  # MiniGrid's goal.
        self.put_obj(Goal(), *self.goal)

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"success": terminated}  # Only the goal ends an episode.


class Place(gym.ObservationWrapper):
    """Observes the agent's cell and direction: neither the goal nor the mission, a text that no network reads."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.MultiDiscrete([6, 6, 4], start=[1, 1, 0])

    def observation(self, observation):
        return np.array([*self.unwrapped.agent_pos, self.unwrapped.agent_dir])


class HiddenGoalFamily(metarl.TaskFamily):
    """The task is the goal's cell (column, row), 1 to 6 each; the agent starts at (1, 1)."""

    horizon = 100
    task_space = spaces.MultiDiscrete([6, 6], start=[1, 1])
    metrics = {"success": "any"}

    def make_env(self, render_mode=None):
        # MiniGrid's reward falls linearly until max_steps, when it truncates the episode.
        env = HiddenGoalEnv(size=8, max_steps=self.horizon, render_mode=render_mode)
        # Of its 7 actions, an empty room needs left, right and forward.
        return Place(gym.wrappers.TransformAction(env, int, spaces.Discrete(3)))

    def set_task(self, env, task):
        env.unwrapped.goal = tuple(map(int, task))


if __name__ == "__main__":
    metarl.check_task_family(HiddenGoalFamily())
    print("HiddenGoalFamily is fine.")
