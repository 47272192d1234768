"""Adaptation rules, one file per rule: they map meta-parameters and a task's rollouts to policy parameters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metarl.agents.l2f import L2F
from metarl.agents.normalised import NormalisedObservations
from metarl.common.errors import UserError
from metarl.common.importing import import_named
from metarl.config.algorithms import L2FConfig, get_algorithm
from metarl.config.checked import Checked
from metarl.config.settings import InnerSettings
from metarl.inner.rule import Adaptation
from metarl.policies.base import Policy


def build_rule(
    name: str,
    policy: Policy,
    inner: InnerSettings,
    own: Checked | None = None,
    l2f: L2FConfig | None = None,
    num_modes: int = 1,
    task_size: int = 0,
    normalise_observations: bool = False,
    zero_outputs: NDArray[np.float64] | None = None,
) -> Adaptation:
    """Builds the adaptation rule called ``name``.

    Args:
        name: An algorithm, see `get_algorithm`.
        policy: The policy to adapt.
        inner: The inner loop's settings.
        own: Settings of the algorithm itself; by default its defaults.
        l2f: Learn-to-Forget's settings. If given, L2F wraps the rule; an attenuated algorithm has them by default.
        num_modes: Modes of the task distribution.
        task_size: Length of a task (`metarl.envs.Family.flat_tasks`), if training is shown the tasks.
        normalise_observations: Whether the policies see observations normalised by running statistics.
        zero_outputs: The policy's outputs that stand for the zero action, [action]; None if there is no such action.

    Raises:
        UserError: If there is no such algorithm, or if it does not accept this policy or these settings.
    """
    algorithm = get_algorithm(name)
    arguments: list[object] = []
    if not algorithm.remembers:
        arguments = [inner, *([own or algorithm.settings()] if algorithm.settings else [])]
    if algorithm.learns_tasks:
        arguments.append(task_size)
    if algorithm.knows_modes:
        arguments.append(num_modes)
    if algorithm.knows_zero:
        arguments.append(zero_outputs)
    kind = import_named(algorithm.rule, "algo")
    try:
        rule: Adaptation = kind(policy, *arguments)
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise  # From inside the rule, whose traceback says more.
        takes = "policy, inner settings" + (", own settings" if algorithm.settings else "")
        raise UserError(f"{name} cannot be made from ({takes}): {error}.") from error
    if algorithm.attenuated or l2f:
        rule = L2F(rule, l2f or L2FConfig())
    return NormalisedObservations(rule) if normalise_observations else rule
