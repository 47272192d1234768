"""The built-in task families, one row each, with their names in `metarl` and Gymnasium.

A new family needs one file and one row here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

from metarl.envs import registry


@dataclass(frozen=True)
class Environment:
    """An environment for Gymnasium's registry.

    Attributes:
        name: NAME in its id, ``metarl/NAME-v0``.
        spec: The single environment, "package.module:Class"; None if the family, a `metarl.MujocoFamily`, makes it.
        max_episode_steps: Steps after which an episode is truncated.
    """

    name: str
    spec: str | None
    max_episode_steps: int


@dataclass(frozen=True)
class BuiltIn:
    """A built-in family.

    Attributes:
        name: Its name.
        family: Its class, "package.module:Class".
        summary: Its description, in one sentence.
        environment: Its environment for Gymnasium's registry; None if it only changes parameters of another family's.
        kwargs: Arguments for the class.
    """

    name: str
    family: str
    summary: str
    environment: Environment | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)


_REGRESSION = "metarl.envs.regression:MultimodalRegressionFamily"
_SINUSOID = "metarl.envs.regression:SinusoidFamily"
_NAVIGATION = "metarl.envs.navigation:NavigationFamily"

BUILT_IN = (
    BuiltIn(
        "navigation",
        _NAVIGATION,
        "A point in the plane moves to one of many goals; it starts at the origin.",
        Environment("Navigation", "metarl.envs.navigation:NavigationEnv", 100),
    ),
    BuiltIn(
        "navigation-b",
        _NAVIGATION,
        "Navigation from a start that changes with the goal.",
        kwargs={"start_bound": 0.5},
    ),
    BuiltIn(
        "navigation-c",
        _NAVIGATION,
        "Navigation to goals up to four times as far away.",
        kwargs={"goal_bound": 2.0},
    ),
    BuiltIn(
        "navigation-d",
        _NAVIGATION,
        "Navigation with goals and starts up to four times as far away.",
        kwargs={"goal_bound": 2.0, "start_bound": 2.0},
    ),
    BuiltIn(
        "navigation-bimodal",
        _NAVIGATION,
        "Navigation to goals around one of two centres.",
        kwargs={"goal_modes": 2, "goal_distance": 0.5 * math.sqrt(2), "end_norm": "euclidean"},
    ),
    BuiltIn(
        "navigation-modes",
        _NAVIGATION,
        "Navigation to goals around the corners of a polygon, which pull a shared start apart.",
        kwargs={"goal_modes": 4, "goal_distance": 2.0, "end_norm": "euclidean"},
    ),
    BuiltIn(
        "bandit",
        "metarl.envs.bandit:BanditFamily",
        "Bernoulli bandits whose arms pay with different probabilities.",
        Environment("Bandit", "metarl.envs.bandit:BanditEnv", 10),
    ),
    BuiltIn(
        "tabular-mdp",
        "metarl.envs.tabular:TabularMDPFamily",
        "Random Markov decision processes with finitely many states.",
        Environment("TabularMDP", "metarl.envs.tabular:TabularMDPEnv", 10),
    ),
    BuiltIn(
        "cheetah-dir",
        "metarl.envs.cheetah:CheetahDirFamily",
        "A half-cheetah runs forward or backward.",
        Environment("CheetahDir", "metarl.envs.cheetah:CheetahDirEnv", 200),
    ),
    BuiltIn(
        "cheetah-vel",
        "metarl.envs.cheetah:CheetahVelFamily",
        "A half-cheetah runs at a target velocity.",
        Environment("CheetahVel", "metarl.envs.cheetah:CheetahVelEnv", 200),
    ),
    BuiltIn(
        "cheetah-vel-signed",
        "metarl.envs.cheetah:CheetahVelFamily",
        "A half-cheetah runs at a target velocity, forward or backward.",
        kwargs={"lowest": -3.0, "highest": 3.0},
    ),
    BuiltIn(
        "cheetah-dir-rllab",
        "metarl.envs.cheetah:RllabCheetahDirFamily",
        "cheetah-dir with the timing and the reset noise of the first experiments with MAML.",
    ),
    BuiltIn(
        "cheetah-vel-rllab",
        "metarl.envs.cheetah:RllabCheetahVelFamily",
        "cheetah-vel with the timing and the reset noise of the first experiments with MAML.",
    ),
    BuiltIn(
        "ant-dir",
        "metarl.envs.ant:AntDirFamily",
        "An ant runs forward or backward.",
        Environment("AntDir", "metarl.envs.ant:AntDirEnv", 200),
    ),
    BuiltIn(
        "ant-vel",
        "metarl.envs.ant:AntVelFamily",
        "An ant runs at a target velocity.",
        Environment("AntVel", "metarl.envs.ant:AntVelEnv", 200),
    ),
    BuiltIn(
        "ant-goal",
        "metarl.envs.ant:AntGoalFamily",
        "An ant runs to a goal.",
        Environment("AntGoal", "metarl.envs.ant:AntGoalEnv", 200),
    ),
    BuiltIn(
        "walker-params",
        "metarl.envs.locomotion:WalkerParamsFamily",
        "A walker with random masses, inertias, damping and friction walks forward.",
        Environment("WalkerParams", None, 200),
    ),
    BuiltIn(
        "hopper-params",
        "metarl.envs.locomotion:HopperParamsFamily",
        "A hopper with random masses, inertias, damping and friction hops forward.",
        Environment("HopperParams", None, 200),
    ),
    BuiltIn(
        "cheetah-params",
        "metarl.envs.locomotion:CheetahParamsFamily",
        "A half-cheetah with random masses, inertias, damping and friction runs forward.",
        Environment("CheetahParams", None, 200),
    ),
    BuiltIn(
        "cheetah-crippled",
        "metarl.envs.locomotion:CheetahCrippledFamily",
        "A half-cheetah with one motor disabled runs forward.",
        Environment("CheetahCrippled", None, 200),
    ),
    BuiltIn(
        "ant-crippled",
        "metarl.envs.locomotion:AntCrippledFamily",
        "An ant with one leg disabled runs forward.",
        Environment("AntCrippled", None, 200),
    ),
    BuiltIn(
        "humanoid-dir",
        "metarl.envs.locomotion:HumanoidDirFamily",
        "A humanoid runs in a direction of the plane.",
        Environment("HumanoidDir", None, 200),
    ),
    BuiltIn(
        "metaworld-ml1",
        "metarl.envs.metaworld:ML1Family",
        "Meta-World: a robot arm does one thing, with different goals; needs the package metaworld.",
    ),
    BuiltIn(
        "metaworld-ml10",
        "metarl.envs.metaworld:ML10Family",
        "Meta-World: a robot arm does 10 things in training and 5 others in tests; needs the package metaworld.",
    ),
    BuiltIn(
        "metaworld-ml45",
        "metarl.envs.metaworld:ML45Family",
        "Meta-World: a robot arm does 45 things in training and 5 others in tests; needs the package metaworld.",
    ),
    BuiltIn("sinusoid", _SINUSOID, "Supervised: sinusoids of different amplitude and phase."),
    BuiltIn(
        "sinusoid-l2f",
        _SINUSOID,
        "Supervised: sinusoids of different amplitude, frequency and phase.",
        kwargs={"lowest_frequency": 0.8, "highest_frequency": 1.2},
    ),
    BuiltIn("regression-2", _REGRESSION, "Supervised: noisy sinusoids and lines.", kwargs={"kinds": 2}),
    BuiltIn("regression-3", _REGRESSION, "Supervised: noisy sinusoids, lines and quadratics.", kwargs={"kinds": 3}),
    BuiltIn("regression-5", _REGRESSION, "Supervised: noisy functions of five kinds.", kwargs={"kinds": 5}),
    BuiltIn(
        "few-shot",
        "metarl.envs.few_shot:FewShotFamily",
        "Supervised: few-shot classification of images, from any folder of class folders.",
    ),
)


def register_built_in() -> None:
    """Registers the families by name and their environments with Gymnasium, without importing their modules."""
    for row in BUILT_IN:
        registry.register_built_in(row.family, row.name, row.summary, row.kwargs)
        if row.environment is None:
            continue
        name, spec, steps = f"metarl/{row.environment.name}-v0", row.environment.spec, row.environment.max_episode_steps
        if spec is None:
            gym.register(
                name,
                entry_point="metarl.envs.mujoco_family:make_env",
                vector_entry_point="metarl.envs.mujoco_family:make_vector_env",
                max_episode_steps=steps,
                kwargs={"family": row.name},
            )
        else:
            vector = f"metarl.envs.vector:{row.environment.name}"
            gym.register(name, entry_point=spec, vector_entry_point=vector, max_episode_steps=steps)
