"""The composition root: builds task family, policy and adaptation rule from a configuration."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from metarl.agents import build_rule
from metarl.common.errors import UserError
from metarl.common.memory import require_memory
from metarl.config.algorithms import PEARLConfig, VariBADConfig, get_algorithm
from metarl.config.optimisers import SACConfig
from metarl.config.resolved import Settings
from metarl.envs import Family, SupervisedFamily, TaskFamily, get_family, require_environments
from metarl.envs.oracle import OracleFamily
from metarl.envs.spaces import zero_action
from metarl.inner.rule import Adaptation, fewest_episodes
from metarl.policies.action_map import ActionMap
from metarl.policies.base import Policy
from metarl.policies.blueprint import Blueprint
from metarl.policies.distributions import Categorical, DifferentiableDistribution, SquaredError
from metarl.policies.memory import MemoryPolicy
from metarl.policies.recurrent import RecurrentPolicy


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
    tasks = max(settings.meta.meta_batch_size, settings.run.validation_tasks if settings.run.validate_every else 0)
    data = "shots or queries" if settings.examples else "rollouts_per_task or horizon"
    require_room(settings, policy, tasks, "meta_batch_size or validation_tasks", data)
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
    require_episodes(settings, rule, settings.inner.num_inner_steps, "rollouts_per_task")
    if isinstance(settings.own, VariBADConfig):
        _require_room_for_belief(settings, settings.own, rule)
    if isinstance(settings.own, PEARLConfig) and isinstance(settings.optimiser, SACConfig):
        _require_room_for_replay(settings, settings.own, settings.optimiser, rule)
    return family, rule


def _require_room_for_belief(settings: Settings, options: VariBADConfig, rule: Adaptation) -> None:
    """Raises UserError if what the belief is trained with cannot fit into this machine's memory."""
    steps = (settings.inner.num_inner_steps + 1) * settings.rollouts.horizon
    decoded = options.prefixes * (1 if rule.sees_tasks else options.decoded_steps)
    width = max(options.latent_size, *options.decoder_sizes)
    require_memory("the decoders", rule.num_meta, "varibad.latent_size or varibad.decoder_sizes")
    numbers = options.buffer * steps * (rule.policy.observation_size + 2)
    require_memory("the trials of the buffer", numbers, "varibad.buffer, num_inner_steps or horizon")
    numbers = options.batch * decoded * width
    require_memory("what the decoders see", numbers, "varibad.batch, varibad.prefixes or varibad.decoded_steps")


def _require_room_for_replay(settings: Settings, own: PEARLConfig, options: SACConfig, rule: Adaptation) -> None:
    """Raises UserError if what soft actor-critic learns from cannot fit into this machine's memory."""
    steps = (settings.inner.num_inner_steps + 1) * settings.rollouts.horizon
    width = max(rule.policy.observation_size, own.latent_size, *settings.policy.hidden_sizes)
    numbers = options.buffer * steps * (rule.policy.observation_size + 2)
    require_memory("the trials of the buffer", numbers, "sac.buffer, num_inner_steps or horizon")
    rows = options.trials * (options.transitions + own.context)
    require_memory("what the critics see", rows * width, "sac.trials, sac.transitions or pearl.context")


def require_room(settings: Settings, policy: Policy, tasks: int, lower_tasks: str, lower_data: str) -> None:
    """Raises UserError if the policies or the data of some tasks cannot fit into this machine's memory.

    Args:
        settings: The run's settings.
        policy: The policy.
        tasks: Number of tasks side by side.
        lower_tasks: The settings that make the tasks fewer.
        lower_data: The settings that make the data of a task fewer.
    """
    rollouts, examples = settings.rollouts, settings.examples
    rows = examples.shots + examples.queries if examples else rollouts.rollouts_per_task * rollouts.horizon
    numbers_in_row = policy.observation_size + 1
    if isinstance(policy, MemoryPolicy):  # All episodes of a trial.
        assert settings.own is not None
        size = settings.own.prefix + ("units" if isinstance(policy, RecurrentPolicy) else "latent_size")
        require_memory("the weights of the network", policy.weights.size, f"{size} or hidden_sizes")
        rows *= settings.inner.num_inner_steps + 1
        lower_data = f"num_inner_steps, horizon or {size}"
    if isinstance(policy, RecurrentPolicy):  # Training goes back through its states.
        numbers_in_row += policy.options.units
    require_memory(f"the policies of {tasks} tasks", tasks * policy.layout.size, f"hidden_sizes, {lower_tasks}")
    require_memory(f"the data of {tasks} tasks", tasks * rows * numbers_in_row, f"{lower_tasks}, {lower_data}")


def require_episodes(settings: Settings, rule: Adaptation, num_steps: int, name: str) -> None:
    """Raises UserError if steps of adaptation would read more episodes of each task than are collected.

    Args:
        settings: The run's settings.
        rule: The adaptation rule.
        num_steps: Number of steps.
        name: Name of the setting that says how many episodes are collected.
    """
    stages, algo = rule.stages((1.0,) * num_steps), settings.algorithm_name
    if settings.examples is not None:  # Every stage sees the same support set.
        if (reads := max((stage.reads for stage in stages), default=1)) > 1:
            raise UserError(f"{algo} reads {reads} trajectories of each task, and supervised tasks have only one.")
        return
    fewest, collected = fewest_episodes(stages), settings.rollouts.rollouts_per_task
    if collected < fewest:
        raise UserError(
            f"{name} must be at least {fewest}, the trajectories of each task that {algo} reads before its first step, "
            f"got {collected}."
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
    return blueprint(family, settings).make(*_inputs_and_distribution(family))


def _zero_outputs(family: Family, settings: Settings) -> NDArray[np.float64] | None:
    """The policy's outputs that stand for the zero action, [action]; None if the action space has no such action."""
    space, scale = require_environments(family, settings.experiment.algo).action_space, settings.rollouts.action_scale
    if not isinstance(space, Box) or zero_action(space) is None:
        return None
    # As in ActionMap, action = centre + scale * half-width * output, and integer k is the interval from k to k + 1.
    width = float(space.dtype.kind in "biu")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64) + width
    centre, half_width = 0.5 * low + 0.5 * high, scale * (0.5 * high - 0.5 * low)
    return np.divide(0.5 * width - centre, half_width, out=np.zeros_like(centre), where=half_width > 0)


def _inputs_and_distribution(family: Family) -> tuple[int, DifferentiableDistribution]:
    """Numbers in an observation or input, and the distribution of actions or targets."""
    if isinstance(family, SupervisedFamily):
        kind = Categorical if family.classes else SquaredError
        return family.num_inputs, kind(family.num_outputs)
    in_environments = require_environments(family, "reinforcement learning")
    (size,) = in_environments.observation_space.shape
    return size, ActionMap(in_environments.action_space).distribution
