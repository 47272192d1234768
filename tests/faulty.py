"""Task families whose environments fail in one way each."""

import threading

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from metarl import BrokenEpisode, TaskFamily

NAN, INF = float("nan"), float("inf")


class Faulty(gym.Env):
    """Moves by its action; in step 3 of the tasks from 0.5 on it does what ``fault`` says, if ``chance`` has it so."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, fault, chance):
        self.fault, self.chance, self.task = fault, chance, 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = float((options or {}).get("task", self.task))
        self.place, self.steps = np.zeros(2), 0
        self.fails = self.task >= 0.5 and self.np_random.random() < self.chance
        if self.fails and self.fault == "reset":
            return np.array([0.0, NAN]), {}
        return self.place.copy(), {}

    def step(self, action):
        self.steps += 1
        self.place[0] += float(action[0])
        result = (self.place.copy(), -abs(float(self.place[0]) - self.task), False, False, {"steps": self.steps})
        if self.fails and self.steps == 3 and self.fault != "reset":
            return FAULTS[self.fault](*result)
        return result


def _exits(*_):
    raise SystemExit(0)


def _raises(*_):
    raise KeyError("lost")


def _broken(*_):
    raise BrokenEpisode("the arm has left its base")


def _breaks(*_):
    raise BrokenPipeError("the simulator's pipe")


def hangs(*_):
    """Never returns; a test waits for ``hanging`` to be set."""
    hanging.set()
    threading.Event().wait()


hanging = threading.Event()

FAULTS = {
    "nan observation": lambda o, r, *rest: (np.array([NAN, 0.0]), r, *rest),
    "infinite observation": lambda o, r, *rest: (np.array([0.0, -INF]), r, *rest),
    "nan reward": lambda o, r, *rest: (o, NAN, *rest),
    "huge reward": lambda o, r, *rest: (o, 1e300, *rest),
    "reward of shape (1,)": lambda o, r, *rest: (o, np.array([r]), *rest),
    "reward of text": lambda o, r, *rest: (o, "1", *rest),
    "reward of None": lambda o, r, *rest: (o, None, *rest),
    "terminated of None": lambda o, r, terminated, *rest: (o, r, None, *rest),
    "observation of None": lambda o, *rest: (None, *rest),
    "observation of text": lambda o, *rest: ("left", *rest),
    "observation beyond float32": lambda o, *rest: (np.array([1e308, 0.0]), *rest),
    "term beyond float32": lambda *rest: (*rest[:4], {"steps": 1e308}),
    "nan term": lambda *rest: (*rest[:4], {"steps": NAN}),
    "4 values": lambda o, r, terminated, truncated, info: (o, r, terminated, info),
    "info of None": lambda o, r, terminated, truncated, info: (o, r, terminated, truncated, None),
    "shape": lambda o, *rest: (np.zeros(3), *rest),
    "exits": _exits,
    "raises": _raises,
    "breaks": _breaks,
    "broken": _broken,
    "hangs": hangs,
}


class FaultyFamily(TaskFamily):
    """Two tasks, of which task 1 fails.

    Args:
        fault: A fault of `FAULTS`, or "reset".
        chance: Its probability in an episode.
    """

    horizon = 6
    task_space = spaces.Discrete(2)
    metrics = {"steps": "last"}  # noqa: RUF012

    def __init__(self, fault="nan observation", chance=1.0):
        self.fault, self.chance = fault, chance

    def make_env(self, render_mode=None):
        return Faulty(self.fault, self.chance)

    def describe_task(self, task):
        return f"task {int(task)}"
