"""Bridge to Stable-Baselines3: its algorithms on a task family, its actors in metarl, metarl's policies in its tools.

Use ``import metarl.sb3``; the rest of metarl does not import Stable-Baselines3.
"""

from metarl.sb3.actors import policy_parameters
from metarl.sb3.adapted import AdaptedModel, start_from
from metarl.sb3.envs import TaskEnv, TaskVecEnv
from metarl.sb3.memory import LastReward, MemoryModel

__all__ = ["AdaptedModel", "LastReward", "MemoryModel", "TaskEnv", "TaskVecEnv", "policy_parameters", "start_from"]
