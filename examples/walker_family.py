"""One of Gymnasium's MuJoCo environments as a family, stepped natively: walkers that carry loads.

    python -m metarl.train --env examples.walker_family:WalkerFamily --algo maml

Model, timing, first states and observations are those of Gymnasium's Walker2d-v5; task, reward and termination are told
here.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

import metarl


class WalkerFamily(metarl.MujocoFamily):
    """Gymnasium's walker with a load on its torso, which should walk forward; the task is the load in kg."""

    environment = "Walker2d-v5"
    task_space = spaces.Box(0.0, 5.0, (), np.float64)

    def set_model(self, model: Any, task: Any) -> None:
        """Adds the load."""
        model.body("torso").mass += task

    def reward(self, step: metarl.MujocoStep) -> dict[str, Any]:
        """Forward velocity in m/s, a bonus for every step, and the cost of the motors."""
        return {
            "reward_run": step.forward_velocity,
            "reward_survive": 1.0,
            "reward_ctrl": -0.001 * np.sum(np.square(step.actions), axis=-1),
        }

    def terminated(self, step: metarl.MujocoStep) -> Any:
        """The episode ends when the walker falls: by the height of its torso, m, and its pitch, rad."""
        height, pitch = step.after.positions[:, 1], step.after.positions[:, 2]
        return (height <= 0.8) | (height >= 2.0) | (np.abs(pitch) >= 1.0)

    def describe_task(self, task: Any) -> str:
        """Describes the load."""
        return f"load {float(task):.1f} kg"


if __name__ == "__main__":
    metarl.check_task_family(WalkerFamily())
    print("WalkerFamily is fine.")
