import numpy as np
from gymnasium import spaces

from metaworld.sawyer_xyz_env import SawyerXYZEnv


class Reach(SawyerXYZEnv):
    _random_reset_space = spaces.Box(-0.5, 0.5, (6,), np.float64)


class Push(SawyerXYZEnv):
    speed = 0.05
    _random_reset_space = spaces.Box(-0.4, 0.4, (6,), np.float64)


class DoorOpen(SawyerXYZEnv):
    _random_reset_space = spaces.Box(-0.3, 0.3, (3,), np.float64)


ALL_V3_ENVIRONMENTS = {"reach-v3": Reach, "push-v3": Push, "door-open-v3": DoorOpen}
ML10_V3 = {
    "train": {name: ALL_V3_ENVIRONMENTS[name] for name in ("reach-v3", "push-v3")},
    "test": {"door-open-v3": DoorOpen},
}
