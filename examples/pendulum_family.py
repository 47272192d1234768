"""A MuJoCo model of your own, stepped natively: pendulums of different mass under different gravity.

    python -m metarl.train --env examples.pendulum_family:PendulumFamily --algo maml

One definition gives the single environment and the native batch; `metarl.check_task_family` compares them.
"""

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

import metarl


class PendulumFamily(metarl.MujocoFamily):
    """A pendulum that a weak motor should swing up; the task is (mass of the bob in kg, gravity in m/s^2)."""

    model_file = str(Path(__file__).resolve().with_name("pendulum.xml"))
    frame_skip = 5
    reset_noise = 0.1
    horizon = 100
    task_space = spaces.Box(np.array([0.5, 2.0]), np.array([2.0, 12.0]), (2,), np.float64)

    def set_model(self, model: Any, task: Any) -> None:
        """Sets mass and gravity."""
        model.body("bob").mass = task[0]
        model.opt.gravity[2] = -task[1]

    def reward(self, step: metarl.MujocoStep) -> dict[str, Any]:
        """How far up the bob is, -1 to 1, and the cost of the motor."""
        return {
            "reward_height": -np.cos(step.after.positions[:, 0]),
            "reward_ctrl": -0.01 * np.sum(np.square(step.actions), axis=-1),
        }

    def terminated(self, step: metarl.MujocoStep) -> Any:
        """The episode ends when the pendulum spins too fast."""
        return np.abs(step.after.velocities[:, 0]) > 25.0

    def observation(self, state: metarl.MujocoState) -> Any:
        """Sine and cosine of the angle, and the angular velocity."""
        angle = state.positions
        return np.concatenate([np.sin(angle), np.cos(angle), state.velocities], axis=1)

    def describe_task(self, task: Any) -> str:
        """Describes mass and gravity."""
        return f"{task[0]:.2f} kg, gravity {task[1]:.1f} m/s^2"


if __name__ == "__main__":
    metarl.check_task_family(PendulumFamily())
    print("PendulumFamily is fine.")
