"""Whether what a run holds fits into this machine's memory; told before anything is allocated."""

from __future__ import annotations

from metarl.common.memory import require_memory
from metarl.config.algorithms import PEARLConfig, VariBADConfig
from metarl.config.optimisers import SACConfig
from metarl.config.resolved import Settings
from metarl.inner.rule import Adaptation
from metarl.policies.base import Policy
from metarl.policies.memory import MemoryPolicy
from metarl.policies.recurrent import RecurrentPolicy


def require_room_for_network(settings: Settings, policy: Policy) -> None:
    """Raises UserError if the policy's network cannot fit into this machine's memory."""
    if isinstance(policy, MemoryPolicy):
        size = f"{_of_memory(settings, policy)} or hidden_sizes"
        require_memory("the weights of the network", policy.weights.size, size)
    require_memory("the weights of the network", policy.layout.size, "hidden_sizes")


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
        rows *= settings.inner.num_inner_steps + 1
        lower_data = f"num_inner_steps, horizon or {_of_memory(settings, policy)}"
    if isinstance(policy, RecurrentPolicy):  # Training goes back through its states.
        numbers_in_row += policy.options.units
    require_memory(f"the policies of {tasks} tasks", tasks * policy.layout.size, f"hidden_sizes, {lower_tasks}")
    require_memory(f"the data of {tasks} tasks", tasks * rows * numbers_in_row, f"{lower_tasks}, {lower_data}")


def require_room_to_train(settings: Settings, rule: Adaptation) -> None:
    """Raises UserError if what the algorithm learns from cannot fit into this machine's memory."""
    run = settings.run
    tasks = max(settings.meta.meta_batch_size, run.validation_tasks if run.validate_every else 0)
    data = "shots or queries" if settings.examples else "rollouts_per_task or horizon"
    require_room(settings, rule.policy, tasks, "meta_batch_size or validation_tasks", data)
    if isinstance(settings.own, VariBADConfig):
        _for_belief(settings, settings.own, rule)
    if isinstance(settings.own, PEARLConfig) and isinstance(settings.optimiser, SACConfig):
        _for_replay(settings, settings.own, settings.optimiser, rule)


def _of_memory(settings: Settings, policy: MemoryPolicy) -> str:
    """The setting that says how large the memory is."""
    assert settings.own is not None
    return settings.own.prefix + ("units" if isinstance(policy, RecurrentPolicy) else "latent_size")


def _for_belief(settings: Settings, options: VariBADConfig, rule: Adaptation) -> None:
    """Raises UserError if what the belief is trained with cannot fit into this machine's memory."""
    steps = (settings.inner.num_inner_steps + 1) * settings.rollouts.horizon
    decoded = options.prefixes * (1 if rule.sees_tasks else options.decoded_steps)
    width = max((options.latent_size, *options.decoder_sizes))
    require_memory("the decoders", rule.num_meta, "varibad.latent_size or varibad.decoder_sizes")
    numbers = options.buffer * steps * (rule.policy.observation_size + 2)
    require_memory("the trials of the buffer", numbers, "varibad.buffer, num_inner_steps or horizon")
    numbers = options.batch * decoded * width
    require_memory("what the decoders see", numbers, "varibad.batch, varibad.prefixes or varibad.decoded_steps")


def _for_replay(settings: Settings, own: PEARLConfig, options: SACConfig, rule: Adaptation) -> None:
    """Raises UserError if what soft actor-critic learns from cannot fit into this machine's memory."""
    steps = (settings.inner.num_inner_steps + 1) * settings.rollouts.horizon
    width = max(rule.policy.observation_size, own.latent_size, *settings.policy.hidden_sizes)
    numbers = options.buffer * steps * (rule.policy.observation_size + 2)
    require_memory("the trials of the buffer", numbers, "sac.buffer, num_inner_steps or horizon")
    rows = options.trials * (options.transitions + own.context)
    require_memory("what the critics see", rows * width, "sac.trials, sac.transitions or pearl.context")
