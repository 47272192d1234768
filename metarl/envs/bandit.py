"""Bernoulli bandits: arms that pay with unknown probabilities, which only pulls reveal."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray, IntArray
from metarl.envs.native import NativeCore, NativeFamily, SlotGenerators, Slots, rows, whole_actions
from metarl.envs.parameters import Check, positive_whole
from metarl.envs.tasks import Probabilities, TaskEnvironment


class BanditEnv(TaskEnvironment, gym.Env[FloatArray, Any]):
    """A bandit with Bernoulli arms, whose means are the task.

    Observation, ``Box(0, 1, (1,), float64)``:

    | index | meaning | minimum | maximum | unit |
    |---|---|---|---|---|
    | 0 | always 1: there is nothing to see | 0 | 1 | 1 |

    Action, ``Discrete(num_arms)``: the arm to pull.

    Reward: 1 with a probability equal to the arm's mean, else 0 (coefficient 1, no unit).

    Episode: it never terminates. It is truncated after 10 pulls if made by ``gymnasium.make``. A reset draws nothing.

    Task: the arms' means, [num_arms], each uniform in [0, 1].

    Args:
        num_arms: Number of arms.
        render_mode: As in Gymnasium; there is nothing to draw.

    Version history: v0, first version.

    Source: Duan et al. 2016 (RL^2), section 3.1.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as in Gymnasium)
    checks: ClassVar[Mapping[str, Check]] = {"num_arms": positive_whole}

    def __init__(self, num_arms: int = 5, render_mode: str | None = None) -> None:
        chosen = self.checked({"num_arms": num_arms})
        self.num_arms: int = chosen["num_arms"]
        self.render_mode = render_mode
        self.tasks = self.distribution(chosen)
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float64)
        self.action_space = spaces.Discrete(self.num_arms)

    @staticmethod
    def distribution(parameters: Mapping[str, Any]) -> Probabilities:
        return Probabilities(parameters["num_arms"])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begins an episode; ``options={"task": task}`` sets the task."""
        info = self.seed_and_choose_task(seed, options)
        return np.ones(1), info

    def step(self, action: Any) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Pulls the arm ``action``, a whole number."""
        mean = np.asarray(self.task)[whole_actions(action, self.num_arms)]
        return np.ones(1), float(self.np_random.random() < mean), False, False, {}


class BanditCore(NativeCore):
    """Many bandits at once.

    Args:
        env: A single environment: its rules hold for all.
        num_envs: Number of slots.
    """

    def __init__(self, env: BanditEnv, num_envs: int) -> None:
        super().__init__(num_envs, env.tasks.space.shape)
        self._num_arms = env.num_arms
        self._generators = SlotGenerators(num_envs)

    def start(self, slots: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Keeps the generators of some slots, for the rewards."""
        self._generators.keep(slots, generators)

    def advance(self, slots: Slots, actions: NDArray[Any], rewards: FloatArray, terminated: BoolArray) -> None:
        """Pulls an arm in some slots; see `NativeCore.advance`."""
        arms = whole_actions(rows(actions, slots), self._num_arms)
        means = np.take_along_axis(rows(self.tasks, slots), arms[:, None], axis=1)[:, 0]
        uniform = np.array([generator.random() for generator in self._generators.of(slots)])
        rewards[slots] = uniform < means
        terminated[slots] = False

    def observe(self, observations: FloatArray) -> None:
        """Writes ones, [num_envs, 1]."""
        observations[...] = 1.0


class BanditFamily(NativeFamily):
    """Bandits whose arms pay with different probabilities.

    Args:
        horizon: Default length of an episode, in pulls.
        **parameters: Parameters of `BanditEnv`.
    """

    name = "bandit"
    horizon = 10
    # One episode is a whole trial: there is nothing to carry over to another. Ten short steps are cheap to compute, so
    # many updates; every pull counts alike; and some entropy keeps the policy from settling on one arm too early.
    memory_defaults: Mapping[str, Any] = {
        "num_inner_steps": 0,
        "meta_batch_size": 400,
        "discount": 1.0,
        "ppo": {"minibatches": 16, "lr": 7e-4, "entropy_weight": 3e-3},
    }
    env_class = BanditEnv
    core_class = BanditCore

    def describe_task(self, task: Any) -> str:
        """Says which arm is best."""
        means = np.asarray(task)
        return f"best of {means.size} arms: number {means.argmax()} with mean {means.max():.2f}"
