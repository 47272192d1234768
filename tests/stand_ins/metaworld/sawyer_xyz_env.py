import pickle

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class SawyerMocapBase(gym.Env):
    """Its welds are set as Meta-World 3.1.1 does, which only works with 11 numbers."""

    def reset_mocap_welds(self):
        for row in self.model.eq_data:
            row[:] = np.zeros(11)


class SawyerXYZEnv(SawyerMocapBase):
    """A point that moves by its action and should come to a goal that it does not see."""

    observation_space = spaces.Box(-np.inf, np.inf, (39,), np.float64)
    action_space = spaces.Box(-1, 1, (4,), np.float32)
    speed = 0.1

    def __init__(self, render_mode=None, reward_function_version="v2"):
        self.render_mode, self.reward_function_version = render_mode, reward_function_version

    def set_task(self, task):
        data = pickle.loads(task.data)
        assert isinstance(self, data["env_cls"])
        assert data["partially_observable"]
        self.vector = data["rand_vec"]
        self._target_pos = self.vector[-3:]
        assert self.vector.shape == self._random_reset_space.shape

    def reset(self, seed=None, options=None):
        self.place = np.zeros(3)
        return self._observation(), {}

    def step(self, action):
        self.place = self.place + self.speed * action[:3]
        distance = float(np.linalg.norm(self.place - self.vector[-3:]))
        reward = -distance if self.reward_function_version == "v2" else -(distance**2)
        return self._observation(), reward, False, False, {"success": float(distance < 0.2)}

    def _observation(self):
        return np.pad(self.place, (0, 36))
