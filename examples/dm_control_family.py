"""dm_control through Shimmy: swing up a pole under different gravity.

pip install "shimmy[dm-control]" "mujoco<4"
python -m metarl.train --env examples.dm_control_family:SwingUpFamily --algo maml

dm_control 1.0.50 does not run on MuJoCo 4.
"""

import gymnasium as gym
import numpy as np
import shimmy
from gymnasium import spaces

import metarl

gym.register_envs(shimmy)


class SwingUpFamily(metarl.TaskFamily):
    """dm_control's cart-pole; the task is gravity in m/s^2, 9.81 in the original."""

    horizon = 200
    task_space = spaces.Box(2.0, 20.0, (), np.float64)

    def make_env(self, render_mode=None):
        return gym.make("dm_control/cartpole-swingup-v0", render_mode=render_mode)

    def set_task(self, env, task):
        env.unwrapped.physics.model.opt.gravity[2] = -float(task)


if __name__ == "__main__":
    metarl.check_task_family(SwingUpFamily())
    print("SwingUpFamily is fine.")
