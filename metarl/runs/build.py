"""The composition root: from a configuration to its task family, policy and adaptation rule."""

from __future__ import annotations

import importlib
from typing import Any

from metarl.config.algorithms import get_algorithm
from metarl.agents import build_rule
from metarl.common.errors import UserError
from metarl.config.config import Config
from metarl.config.settings import InnerConfig
from metarl.envs import TaskFamily, get_family
from metarl.envs.oracle import OracleFamily
from metarl.inner.rule import Adaptation
from metarl.policies.action_map import ActionMap
from metarl.policies.base import DifferentiablePolicy
from metarl.policies.mlp import MLPPolicy
from metarl.policies.module import ModulePolicy


def family_of(algo: str, env: str, **parameters: Any) -> TaskFamily:
    """A task family as an algorithm meets it: with the task in its observations if the algorithm sees its task.

    Args:
        algo: An entry of `metarl.agents.ALGORITHMS`.
        env: As for `metarl.get_family`.
        **parameters: The family's.
    """
    family = get_family(env, **parameters)
    return OracleFamily(family) if get_algorithm(algo).sees_task else family


def build(config: Config) -> tuple[TaskFamily, Adaptation]:
    """The task family and the adaptation rule of a configuration.

    Raises:
        UserError: If the family's spaces or the policy's body are not supported.
    """
    family = family_of(config.algo, config.env, **config.env_kwargs)
    distribution = ActionMap(family.action_space).distribution
    (size,) = family.observation_space.shape
    policy: DifferentiablePolicy
    if config.policy_body is None:
        policy = MLPPolicy(
            size,
            distribution,
            config.hidden_sizes,
            config.activation,
            config.initial_std,
            config.min_std,
            config.output_gain,
        )
    else:
        make_body = _import_body(config.policy_body)
        policy = ModulePolicy(size, distribution, make_body, config.initial_std, config.min_std)
    return family, build_rule(config.algo, policy, inner_config(config, family))


def inner_config(config: Config, family: TaskFamily) -> InnerConfig:
    """What an adaptation rule wants to know of a configuration and its task family."""
    return InnerConfig(
        lr=config.inner_lr,
        loss=config.inner_loss,
        num_steps=config.num_inner_steps,
        num_modes=family.num_modes,
        attenuate=config.attenuate,
        l2f=config.l2f,
        adapted_layers=config.adapted_layers,
        mamlpp=config.mamlpp,
        mumomaml=config.mumomaml,
        context_size=config.context_size,
    )


def _import_body(spec: str) -> Any:
    module, _, name = spec.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"policy_body {spec!r} cannot be imported ({error}); write package.module:function.") from error
