"""Adaptation rules: how a policy's parameters follow from meta-parameters and a task's rollouts; one file each."""

from __future__ import annotations

from metarl.agents.l2f import L2F
from metarl.common.importing import import_named
from metarl.config.algorithms import L2FConfig, get_algorithm
from metarl.config.checked import Checked
from metarl.config.settings import InnerSettings
from metarl.inner.rule import Adaptation
from metarl.policies.base import DifferentiablePolicy


def build_rule(
    name: str,
    policy: DifferentiablePolicy,
    inner: InnerSettings,
    own: Checked | None = None,
    l2f: L2FConfig | None = None,
    num_modes: int = 1,
) -> Adaptation:
    """The adaptation rule called ``name``.

    Args:
        name: An algorithm, see `get_algorithm`.
        policy: The policy to adapt.
        inner: The inner loop's settings.
        own: The algorithm's own settings; by default the general ones.
        l2f: Learn-to-Forget's settings, if it is on top of the rule or belongs to it.
        num_modes: Modes of the task distribution.

    Raises:
        UserError: If there is no such algorithm, or it cannot be built with this policy or these settings.
    """
    algorithm = get_algorithm(name)
    told: list[object] = [own or algorithm.settings()] if algorithm.settings else []
    if algorithm.knows_modes:
        told.append(num_modes)
    rule: Adaptation = import_named(algorithm.rule, "algo")(policy, inner, *told)
    return L2F(rule, l2f or L2FConfig()) if algorithm.attenuated or l2f else rule
