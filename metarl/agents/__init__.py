"""Adaptation rules: how a policy's parameters follow from meta-parameters and a task's rollouts.

Each rule is a small file; the table below is the only place that knows them all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from metarl.errors import UserError, nearest
from metarl.settings import InnerConfig

if TYPE_CHECKING:
    from metarl.adaptation import Adaptation
    from metarl.policies import Policy

ALGORITHMS: dict[str, str] = {
    "maml": "metarl.agents.maml:maml",
    "fomaml": "metarl.agents.maml:fomaml",
    "l2f": "metarl.agents.l2f:L2F",
}
"""Name of each algorithm and where its factory is: called with (policy, inner), returns the rule."""


def check_algorithm(name: str) -> None:
    """Raises UserError, naming the nearest algorithms, if there is none called ``name``."""
    if name not in ALGORITHMS:
        raise UserError(
            f"unknown algorithm {name!r}.{nearest(name, ALGORITHMS)} There are: {', '.join(sorted(ALGORITHMS))}."
        )


def build_rule(name: str, policy: Policy, inner: InnerConfig) -> Adaptation:
    """The adaptation rule called ``name``.

    Args:
        name: An entry of `ALGORITHMS`.
        policy: The policy to adapt.
        inner: The inner loop's settings.

    Raises:
        UserError: If there is no such algorithm.
    """
    check_algorithm(name)
    module, factory = ALGORITHMS[name].split(":")
    rule: Adaptation = getattr(importlib.import_module(module), factory)(policy, inner)
    return rule
