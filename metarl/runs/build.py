"""The composition root: builds task family, policy and adaptation rule from a configuration."""

from __future__ import annotations

from typing import Any

from metarl.agents import build_rule
from metarl.common.importing import import_named
from metarl.config.algorithms import get_algorithm
from metarl.config.resolved import Settings
from metarl.config.settings import PolicySettings
from metarl.envs import Family, SupervisedFamily, TaskFamily, get_family, require_environments
from metarl.envs.oracle import OracleFamily
from metarl.inner.rule import Adaptation
from metarl.policies.action_map import ActionMap
from metarl.policies.base import DifferentiablePolicy
from metarl.policies.distributions import Categorical, Distribution, SquaredError
from metarl.policies.mlp import MLPPolicy
from metarl.policies.module import ModulePolicy


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
    policy = build_policy(family, settings.policy)
    rule = build_rule(experiment.algo, policy, settings.inner, settings.own, settings.l2f, family.num_modes)
    return family, rule


def build_policy(family: Family, settings: PolicySettings) -> DifferentiablePolicy:
    """The policy for a family.

    Raises:
        UserError: If the family's spaces or the policy's body are not supported.
    """
    size, distribution = _inputs_and_distribution(family)
    initial_std, min_std = settings.initial_std, settings.min_std
    if settings.policy_body is None:
        sizes, activation, gain = settings.hidden_sizes, settings.activation, settings.output_gain
        return MLPPolicy(size, distribution, sizes, activation, initial_std, min_std, gain)
    make_body = import_named(settings.policy_body, "policy_body")
    return ModulePolicy(size, distribution, make_body, initial_std, min_std)


def _inputs_and_distribution(family: Family) -> tuple[int, Distribution]:
    """Numbers in an observation or input, and the distribution of actions or targets."""
    if isinstance(family, SupervisedFamily):
        kind = Categorical if family.classes else SquaredError
        return family.num_inputs, kind(family.num_outputs)
    in_environments = require_environments(family, "reinforcement learning")
    (size,) = in_environments.observation_space.shape
    return size, ActionMap(in_environments.action_space).distribution
