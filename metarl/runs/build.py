"""The composition root: builds task family, policy and adaptation rule from a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.agents import build_rule
from metarl.common.errors import UserError
from metarl.config.algorithms import VariBADConfig, get_algorithm
from metarl.config.resolved import Settings
from metarl.envs import Family, SupervisedFamily, TaskFamily, get_family, require_environments
from metarl.envs.oracle import OracleFamily
from metarl.inner.rule import Adaptation, Stage, fewest_episodes, needs_every_episode
from metarl.policies.action_map import ActionMap
from metarl.policies.base import Policy
from metarl.policies.blueprint import Blueprint
from metarl.policies.distributions import Categorical, DifferentiableDistribution, SquaredError
from metarl.policies.module import ModulePolicy
from metarl.runs.room import require_room_for_network


def family_of(algo: str, env: str, **parameters: Any) -> Family:
    """The task family for an algorithm; its observations include the task if the algorithm sees the task.

    Args:
        algo: An algorithm, see `metarl.config.algorithms.get_algorithm`.
        env: A task family, as for `metarl.get_family`.
        **parameters: Parameters of the family.
    """
    family = get_family(env, **parameters)
    return OracleFamily(family) if get_algorithm(algo).sees_task and isinstance(family, TaskFamily) else family


def build(settings: Settings) -> tuple[Family, Adaptation]:
    """The task family and the adaptation rule of a run.

    Raises:
        UserError: If the family's spaces or the policy's body are not supported.
    """
    experiment = settings.experiment
    family = family_of(experiment.algo, experiment.env, **experiment.env_kwargs)
    policy = build_policy(family, settings)
    require_room_for_network(settings, policy)
    shown = isinstance(settings.own, VariBADConfig) and settings.own.decoder == "task"
    rule = build_rule(
        experiment.algo,
        policy,
        settings.inner,
        settings.own,
        settings.l2f,
        num_modes=family.num_modes,
        task_size=family.task_size if shown else 0,
        normalise_observations=settings.policy.normalise_observations,
        zero_outputs=_zero_outputs(family, settings) if settings.algorithm.knows_zero else None,
    )
    require_episodes(settings, rule.stages((1.0,) * settings.inner.num_inner_steps), "rollouts_per_task")
    return family, rule


def require_episodes(settings: Settings, stages: Sequence[Stage], name: str) -> None:
    """Raises UserError if steps of adaptation would read more episodes of each task than are collected.

    Args:
        settings: The run's settings.
        stages: The stages of the inner loop.
        name: Name of the setting that says how many episodes are collected.
    """
    algo = settings.algorithm_name
    if settings.examples is not None:  # Every stage sees the same support set.
        if (reads := max((stage.reads for stage in stages), default=1)) > 1:
            raise UserError(f"{algo} reads {reads} trajectories of each task, and supervised tasks have only one.")
        return
    fewest, collected = fewest_episodes(stages), settings.rollouts.rollouts_per_task
    if collected < fewest:
        raise UserError(
            f"{name} must be at least {fewest}, the trajectories of each task that {algo} reads at once, got "
            f"{collected}."
        )


def require_enough_to_train(settings: Settings, rule: Adaptation) -> None:
    """Raises UserError if what each iteration collects is too little for these settings to train with."""
    if settings.l2f is not None and settings.l2f.normalised and settings.meta.meta_batch_size == 1:
        raise UserError(
            "l2f.normalise_embedding and l2f.embedding moments divide by the standard deviation over the tasks of an "
            "iteration: meta_batch_size must be at least 2 with them, got 1."
        )
    stages = rule.stages((1.0,) * settings.inner.num_inner_steps)
    if settings.rollouts.on_bad_episode == "drop" and needs_every_episode(stages):
        raise UserError(
            f"on_bad_episode drop would leave {settings.algorithm_name} nothing to read: a stage of it collects one "
            "episode of each task; take stop, or let it read more trajectories."
        )


def blueprint(family: Family, settings: Settings) -> Blueprint:
    """What the policy for a family is made from."""
    algo = settings.experiment.algo if settings.algorithm.remembers else None
    return Blueprint(settings.policy, family.input_shape, algo, settings.own if algo else None)


def build_policy(family: Family, settings: Settings) -> Policy:
    """The policy for a family.

    Raises:
        UserError: If the family's spaces or the policy's body are not supported.
    """
    policy = blueprint(family, settings).make(*_inputs_and_distribution(family))
    if isinstance(policy, ModulePolicy) and settings.examples is None:
        policy.require_separate_rows()
    return policy


def _zero_outputs(family: Family, settings: Settings) -> NDArray[np.float64] | None:
    """The policy's outputs that stand for the zero action, [action]; None if the action space has no such action."""
    space = require_environments(family, settings.experiment.algo).action_space
    return ActionMap(space, settings.rollouts.action_scale).outputs_of_zero()


def _inputs_and_distribution(family: Family) -> tuple[int, DifferentiableDistribution]:
    """Numbers in an observation or input, and the distribution of actions or targets."""
    if isinstance(family, SupervisedFamily):
        kind = Categorical if family.classes else SquaredError
        return family.num_inputs, kind(family.num_outputs)
    in_environments = require_environments(family, "reinforcement learning")
    (size,) = in_environments.observation_space.shape
    return size, ActionMap(in_environments.action_space).distribution
