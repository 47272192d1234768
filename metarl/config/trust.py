"""A run's files are data: code from outside metarl that they name is imported on the caller's word only."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping
from typing import Any

from metarl.common.errors import UserError, shown
from metarl.common.importing import was_imported
from metarl.config.algorithms import ALGORITHMS
from metarl.config.checked import convert
from metarl.config.optimisers import META_OPTIMISERS
from metarl.envs.registry import is_registered

Trust = bool | Collection[str]
"""The caller's word: True for all that a run names, or the names "package.module:name" that the run may name."""

_BODIES = ("metarl.policies.convolution:conv4", "metarl.policies.convolution:conv4_pool")

# The settings that may name code; whether a name is metarl's or registered.
_KNOWN: dict[str, Callable[[str], bool]] = {
    "env": is_registered,
    "algo": ALGORITHMS.__contains__,
    "meta_optimiser": META_OPTIMISERS.__contains__,
    "policy_body": _BODIES.__contains__,
}


def code_in(values: Mapping[str, Any]) -> dict[str, str]:
    """The settings that name code from outside metarl as ``package.module:name``, and these names.

    Args:
        values: Settings by name; others may be missing.
    """
    named = {setting: values.get(setting) for setting in _KNOWN}
    return {
        setting: name
        for setting, name in named.items()
        if isinstance(name, str) and ":" in name and not _KNOWN[setting](name)
    }


def trust_options(values: Mapping[str, Any]) -> list[str]:
    """The options of a command line that are the word for the code from outside metarl in the settings ``values``."""
    return [f"--trust {shlex.quote(name)}" for name in dict.fromkeys(code_in(values).values())]


def untrusted(values: Mapping[str, Any], trust: Trust) -> dict[str, str]:
    """The settings that name code from outside metarl without the caller's word, and these names.

    Code that the caller has imported by name in this process, or registered, needs no further word.

    Args:
        values: The settings, as in a file.
        trust: The caller's word.
    """
    if trust is True:
        return {}
    vouched = names_in(trust)
    return {
        setting: name
        for setting, name in code_in(values).items()
        if name not in vouched and not was_imported(name, setting)
    }


def require_trust(values: Mapping[str, Any], trust: Trust) -> None:
    """Raises UserError if the settings of a run name code that is `untrusted`."""
    if foreign := untrusted(values, trust):
        named = " and ".join(f"{setting} {shown(name)}" for setting, name in foreign.items())
        raise UserError(
            f"the run names code from outside metarl, {named}, and loading the run would execute it; if you trust it, "
            f"add {' '.join(trust_options(foreign))} (in Python trust=True)."
        )


def names_in(trust: Trust) -> tuple[str, ...]:
    """The names that the caller's word holds, of which there may be a single one; none if it is True or False."""
    if isinstance(trust, bool):
        return ()
    return convert("trust", (trust,) if isinstance(trust, str) else trust, tuple[str, ...])
