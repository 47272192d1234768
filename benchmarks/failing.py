"""Environments that fail at random, for `benchmarks.soak`."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import metarl

FAULTS = ("none", "nan", "raises", "hangs", "4 values")
released = threading.Event()
"""Lets the environments that hang go on."""


class Failing(gym.Env[Any, Any]):
    """Moves by its action towards the task; fails in a step with a small probability."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, fault: str) -> None:
        self.fault, self.task = fault, 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.task = float((options or {}).get("task", self.task))
        self.place = np.zeros(2)
        return self.place.copy(), {}

    def step(self, action: Any) -> Any:
        self.place[0] += float(action[0])
        result = self.place.copy(), -abs(self.place[0] - self.task), False, False, {}
        if self.fault == "none" or self.np_random.random() > 3e-4:
            return result
        if self.fault == "nan":
            return np.full(2, np.nan), *result[1:]
        if self.fault == "raises":
            raise LookupError("lost")
        if self.fault == "hangs":
            released.wait()
        return result[:4]


class FailingFamily(metarl.TaskFamily):
    """Places to go to, with environments of one fault.

    Args:
        fault: One of `FAULTS`.
    """

    horizon = 20
    task_space = spaces.Box(-1.0, 1.0, (), np.float64)

    def __init__(self, fault: str = "none") -> None:
        self.fault = fault

    def make_env(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Makes an environment with the fault."""
        return Failing(self.fault)
