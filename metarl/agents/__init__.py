"""Adaptation rules: how a policy's parameters follow from meta-parameters and a task's rollouts; one file each."""

from __future__ import annotations

from metarl.common.importing import load
from metarl.config.algorithms import get_algorithm
from metarl.config.settings import InnerConfig
from metarl.inner.rule import Adaptation
from metarl.policies.base import DifferentiablePolicy


def build_rule(name: str, policy: DifferentiablePolicy, inner: InnerConfig) -> Adaptation:
    """The adaptation rule called ``name``.

    Args:
        name: An entry of `ALGORITHMS`.
        policy: The policy to adapt.
        inner: The inner loop's settings.

    Raises:
        UserError: If there is no such algorithm, or it cannot be built with this policy or these settings.
    """
    algorithm = get_algorithm(name)
    rule: Adaptation = load(algorithm.rule)(policy, inner)
    if algorithm.attenuated or inner.attenuate:
        rule = load("metarl.agents.l2f:L2F")(rule, inner)
    return rule
