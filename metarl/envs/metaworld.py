"""Meta-World's meta-learning benchmarks ML1, ML10 and ML45: a Sawyer arm manipulates objects.

The benchmarks are those of the package metaworld, which is imported when a family is made.
"""

import importlib
import importlib.metadata
import pickle
from collections.abc import Hashable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.common.arrays import IntArray
from metarl.common.errors import UserError, nearest
from metarl.envs.family import TaskFamily
from metarl.envs.parameters import one_of, whole_between

# Length of the longest vector that says where goal and objects are.
_POSITIONS = 6


class MetaWorldFamily(TaskFamily):
    """A benchmark of Meta-World: environments such as "push-v3", each with 50 goals for training and 50 for tests.

    Task: ``{"environment": number, "goal": vector}``. The number is a place in ``kinds``. The vector, [6], says where
    goal and objects are, as Meta-World's ``rand_vec`` does, in metres, with zeros behind it if it is shorter. The agent
    does not observe the goal: the last three of the 39 observed numbers are 0.

    Splits: "train" and "test" have the benchmark's own tasks. "validation" has the training environments with 50 goals
    of their own. Environments are drawn equally often, then the goals of each.

    Args:
        goal_seed: Seed of the goals.
        reward_function_version: "v2", or "v1" for the rewards of Meta-World's first version.

    Raises:
        UserError: At first use, if the package is missing.

    Attributes:
        benchmark: The benchmark's name.

    Source: Yu et al. 2020 (Meta-World); McLean et al. 2025 (Meta-World+). The training defaults are those of the latter
    for MAML and RL^2, but for the width of the network (512 units a layer there).
    """

    benchmark: ClassVar[str]
    horizon = 500
    metrics: Mapping[str, Any] = {"success": "any"}
    defaults: Mapping[str, Any] = {
        "meta_batch_size": 20,
        "rollouts_per_task": 10,
        "activation": "tanh",
    }
    memory_defaults: Mapping[str, Any] = {
        "meta_batch_size": 20,
        "num_inner_steps": 9,
        "discount": 0.99,
        "gae_lambda": 0.95,
        "rl2": {"units": 256},
        "ppo": {"lr": 5e-4},
        "iterations": 200,
    }

    def __init__(self, goal_seed: int = 0, reward_function_version: str = "v2") -> None:
        self._goal_seed = whole_between(0, 2**31)("goal_seed", goal_seed)
        self._rewards = one_of("v1", "v2")("reward_function_version", reward_function_version)

    @cached_property
    def kinds(self) -> Sequence[str]:  # type: ignore[override]
        """Names of the environments, those of the training first."""
        split = getattr(_package("metaworld.env_dict"), f"{self.benchmark}_V3")
        return [*split["train"], *split["test"]]

    @property
    def num_modes(self) -> int:  # type: ignore[override]
        """Number of environments."""
        return len(self.kinds)

    @cached_property
    def task_space(self) -> spaces.Dict:  # type: ignore[override]
        """The number of an environment, and positions."""
        goal = spaces.Box(-np.inf, np.inf, (_POSITIONS,), np.float64)
        return spaces.Dict(environment=spaces.Discrete(len(self.kinds)), goal=goal)

    def split_tasks(self, split: str) -> list[dict[str, Any]]:
        """All tasks of the split, 50 of each environment."""
        # Of the next seed are the test goals of ML1.
        made = self._made(self._goal_seed + (2 if split == "validation" else 0))
        tasks = []
        for task in made.test_tasks if split == "test" else made.train_tasks:
            goal = pickle.loads(task.data)["rand_vec"]
            goal = np.pad(goal, (0, _POSITIONS - len(goal)))
            tasks.append({"environment": np.int64(self.kinds.index(task.env_name)), "goal": goal})
        return tasks

    def _made(self, seed: int) -> Any:
        return _benchmark(self.benchmark, seed)

    def modes(self, tasks: NDArray[Any]) -> IntArray:
        """The number of each task's environment, [task]."""
        return np.array([task["environment"] for task in tasks])

    def kind(self, task: Any) -> str:
        """The name of the task's environment, such as "push-v3"."""
        return self.kinds[task["environment"]]

    def make_env(self, render_mode: str | None = None, kind: Hashable = None) -> gym.Env[Any, Any]:
        """Makes one environment, by default of the first kind."""
        return _classes()[kind or self.kinds[0]](render_mode=render_mode, reward_function_version=self._rewards)

    def set_task(self, env: gym.Env[Any, Any], task: Any) -> None:
        """Gives the environment its goal.

        Raises:
            UserError: If the task is of another kind of environment.
        """
        name, sawyer = self.kind(task), env.unwrapped
        kind = _classes()[name]
        if not isinstance(sawyer, kind):
            raise UserError(
                f"the task is one of {name}, and the environment a {type(sawyer).__name__}; make one with "
                f"make_env(kind={name!r})."
            )
        goal = np.array(task["goal"])[: len(sawyer._random_reset_space.low)]
        given = {"env_cls": kind, "rand_vec": goal, "partially_observable": True}
        sawyer.set_task(_package("metaworld.types").Task(env_name=name, data=pickle.dumps(given)))

    def describe_task(self, task: Any) -> str:
        """Says the environment and where the goal is."""
        goal = ", ".join(f"{number:.2f}" for number in task["goal"])
        return f"{self.kind(task)}, goal ({goal})"


class ML1Family(MetaWorldFamily):
    """One environment of Meta-World with different goals.

    Args:
        task: The environment, such as "push-v3".
        goal_seed: As of `MetaWorldFamily`.
        reward_function_version: As of `MetaWorldFamily`.

    Raises:
        UserError: At first use, if the package is missing or has no such environment.
    """

    benchmark = "ML1"

    def __init__(self, task: str = "reach-v3", goal_seed: int = 0, reward_function_version: str = "v2") -> None:
        super().__init__(goal_seed, reward_function_version)
        self._task = str(task)

    @cached_property
    def kinds(self) -> Sequence[str]:  # type: ignore[override]
        """The name of the environment."""
        if self._task not in _classes():
            raise UserError(f"Meta-World has no environment {self._task!r}.{nearest(self._task, _classes())}")
        return [self._task]

    def _made(self, seed: int) -> Any:
        return _benchmark(self.benchmark, seed, *self.kinds)


class ML10Family(MetaWorldFamily):
    """Ten training and five test environments of Meta-World, with different goals."""

    benchmark = "ML10"


class ML45Family(MetaWorldFamily):
    """45 training and five test environments of Meta-World, with different goals."""

    benchmark = "ML45"
    defaults: Mapping[str, Any] = {**MetaWorldFamily.defaults, "meta_batch_size": 45, "iterations": 200}
    memory_defaults: Mapping[str, Any] = {**MetaWorldFamily.memory_defaults, "meta_batch_size": 45}


def _package(module: str) -> Any:
    """Imports a module of Meta-World; raises UserError if the package is not installed."""
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "metaworld":
            raise
        raise UserError(
            "the families of Meta-World need the package metaworld; install it from a clone of metarl: pip install "
            "'.[metaworld]'."
        ) from None
    return found


def environment_names() -> list[str]:
    """The names of all environments of Meta-World; raises UserError if the package is missing."""
    return list(_classes())


@cache
def _classes() -> dict[Any, Any]:
    """Meta-World's environments by name, repaired where they need it."""
    _repair_welds(_package("metaworld.sawyer_xyz_env").SawyerMocapBase)
    return _package("metaworld.env_dict").ALL_V3_ENVIRONMENTS


@cache
def _benchmark(name: str, seed: int, *task: str) -> Any:
    """One of Meta-World's benchmarks, which draws its tasks when it is made; ML1 needs a ``task``."""
    _classes()
    return getattr(_package("metaworld"), name)(*task, seed=seed)


def _repair_welds(base: Any) -> None:
    """Lets environments of Meta-World 3.1.1 be made with MuJoCo 4.

    Meta-World sets the eleven numbers of a weld that MuJoCo had at the time; a twelfth has been added, which stays as
    compiled.
    """
    if importlib.metadata.version("metaworld") == "3.1.1" and mujoco.mjNEQDATA > len(_WELD):
        base.reset_mocap_welds = _reset_mocap_welds


# Anchor, position and orientation of the second body as seen from the first, weight of the rotation.
_WELD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)


def _reset_mocap_welds(env: Any) -> None:
    """As the environment's own method, on rows of any length."""
    env.model.eq_data[env.model.eq_type == mujoco.mjtEq.mjEQ_WELD, : len(_WELD)] = _WELD
