"""A custom task family: cart-poles with poles of different lengths.

    python -m metarl.train --env examples.cartpole_family:CartPoleFamily --algo maml

The environment has discrete actions and takes no task at reset, so ``set_task`` changes it before every reset.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import metarl


class CartPoleFamily(metarl.TaskFamily):
    """Gymnasium's CartPole; the task is half the pole's length in metres, 0.25 to 1.5 (0.5 in CartPole-v1)."""

    horizon = 200
    task_space = spaces.Box(0.25, 1.5, (), np.float64)

    def make_env(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Makes a cart-pole."""
        return gym.make("CartPole-v1", render_mode=render_mode)

    def set_task(self, env: gym.Env[Any, Any], task: Any) -> None:
        """Sets the length of the pole, and the product of mass and length that the simulation also uses."""
        cartpole: Any = env.unwrapped
        cartpole.length = float(task)
        cartpole.polemass_length = cartpole.masspole * cartpole.length

    def describe_task(self, task: Any) -> str:
        """Describes the length of the pole."""
        return f"pole of {2 * float(task):.2f} m"


if __name__ == "__main__":
    metarl.check_task_family(CartPoleFamily())
    print("CartPoleFamily is fine.")
