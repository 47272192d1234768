"""A run's config.json: the settings in force, the user's choices, and the provenance."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl.common.errors import UserError
from metarl.common.strict_json import read_json, write_json
from metarl.config.algorithms import OF_THE_TASK, BaselineConfig, get_algorithm, stored_trainer
from metarl.config.checked import Checked, Seed, convert
from metarl.config.config import Config
from metarl.config.resolved import BUILT_IN_NETWORK, idle_fields
from metarl.config.trust import Trust, require_trust
from metarl.store.folder import RunFolder

# Keys of the file that are not settings.
_ABOUT_THE_RUN = ("metarl", "resumed_with")
# The settings that define the problem; without them, nothing can be resolved.
_PROBLEM = ("env", "algo", "attenuate", "env_kwargs", "seed")
# What is read without being resolved, with its type.
_KINDS: dict[str, Any] = {
    "env": str,
    "algo": str,
    "seed": Seed,
    "attenuate": bool | None,
    "env_kwargs": Mapping[str, Any],
    "meta_optimiser": str | None,
    "policy_body": str | None,
    "l2f": Mapping[str, Any] | None,
    "baseline": BaselineConfig | None,
    "chosen": Mapping[str, Any],
    "metarl": Mapping[str, Any],
    "resumed_with": tuple[Mapping[str, Any], ...],
}


def save_config(config: Config, provenance: Mapping[str, Any]) -> None:
    """Writes config.json into the run's folder, with the provenance of the start and of each resume.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder = RunFolder(config.folder)
    content: dict[str, Any] = {**config.to_dict(), "chosen": _as_json(config.chosen), "metarl": provenance}
    if folder.config.is_file():
        before = read_values(folder.config)
        content |= {
            "metarl": before.get("metarl", {}),
            "resumed_with": [*before.get("resumed_with", ()), provenance],
        }
    write_json(folder.config, content, indent=2)


def load_config(run_dir: Path, trust: Trust = False) -> Config:
    """Reads a run's configuration. Its folder is set to ``run_dir``, even if the run was moved there.

    Args:
        run_dir: The run's folder.
        trust: As for `read_config`.

    Raises:
        UserError: If ``run_dir`` is not the folder of a run, or see `read_config`.
    """
    folder = RunFolder(run_dir)
    if not folder.holds_run():
        what = "is not the folder of a run: it holds no config.json" if os.path.exists(run_dir) else "does not exist"
        raise UserError(f"{run_dir} {what}; give the folder that `python -m metarl.train` wrote.")
    # To take over is a word for one start only.
    return dataclasses.replace(read_config(folder.config, trust), run_dir=run_dir, take_over=False)


def read_values(path: Path) -> dict[str, Any]:
    """Reads the content of a stored config.json without resolving it; imports nothing that it names.

    Raises:
        UserError: If the file is missing or damaged.
    """
    values = read_json(path)
    try:
        check_values(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return values


def check_values(values: Mapping[str, Any]) -> None:
    """Raises UserError if one of the settings that are read without being resolved has another type."""
    for name in _KINDS.keys() & values.keys():
        convert(name, values[name], _KINDS[name])


def read_config(path: Path, trust: Trust = False) -> Config:
    """Reads a stored config.json.

    The configuration resolves to the stored settings. A stored value that differs from today's default counts as
    chosen, in addition to the stored choices.

    Args:
        path: The file.
        trust: Whether code from outside metarl that the file names may be imported: True, or the names that may.

    Raises:
        UserError: If the file is missing, damaged or not a configuration, or names code that the caller does not trust.
    """
    values = read_values(path)
    try:
        return stored_config(values, trust)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def stored_config(values: Mapping[str, Any], trust: Trust = False) -> Config:
    """Returns the configuration of a run, as `read_config` does, from the content of its config.json.

    Raises:
        UserError: If ``values`` is not a configuration, or names code that the caller does not trust.
    """
    stored = {name: value for name, value in values.items() if name not in (*_ABOUT_THE_RUN, "chosen")}
    for settings in (values, values.get("chosen", {})):
        require_trust(settings, trust)
    if "algo" in stored and get_algorithm(stored["algo"]).training == "baseline":
        stored["baseline"] = stored.get("baseline") or {"trainer": stored_trainer(stored)}
    if "algo" in stored:  # Older versions also stored settings that do nothing with it.
        stored |= dict.fromkeys(stored.keys() & set(idle_fields(stored)))
    chosen = values.get("chosen", {name: stored[name] for name in _PROBLEM if name in stored})
    chosen, stored = _with_effect(chosen, stored), _with_effect(stored, stored)
    return _resolving_to(with_former_behaviour(stored), Config.from_dict(chosen))


def _with_effect(settings: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out ``settings`` that older versions accepted beside the stored ones with which they do nothing."""
    kept = dict(settings)
    if stored.get("validate_every") == 0:
        kept.pop("best_by", None)
    # PPO has other environments, and a supervised family none.
    if (stored.get("baseline") or {}).get("trainer") == "ppo" or stored.get("shots") is not None:
        kept.pop("envs_per_process", None)
    if stored.get("policy_body"):
        kept = {name: value for name, value in kept.items() if name not in BUILT_IN_NETWORK}
    l2f = kept.get("l2f")
    if isinstance(l2f, Mapping):
        kept["l2f"] = _acting(l2f, stored)
    return kept


def _acting(l2f: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of L2F, of a run with the stored settings, without those that do nothing."""
    if l2f.get("conditioning") == "constant":
        return {name: value for name, value in l2f.items() if name not in OF_THE_TASK}
    weights = () if _reuses_in_trpo(stored) else ("reuse_kl", "start_kl")
    return {name: value for name, value in l2f.items() if name not in weights or value}


def _reuses_in_trpo(stored: Mapping[str, Any]) -> bool:
    """Whether TRPO's meta-step reuses the rollouts that L2F attenuates by; older versions did not store the choice."""
    l2f = {"conditioning": "task", "attenuation_rollouts": "reuse", **(stored.get("l2f") or {})}
    choices = (l2f["conditioning"], l2f["attenuation_rollouts"], stored.get("meta_optimiser", "trpo"))
    return choices == ("task", "reuse", "trpo")


def with_former_behaviour(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to stored settings what metarl did before the setting existed, where today's default does something else."""
    former = dict(stored)
    if isinstance(l2f := stored.get("l2f"), Mapping):
        # The meta-gradient went through the embedding.
        before = "stop" if l2f.get("conditioning") == "constant" else "through"
        # The unattenuated policy was free to drift, in itself and from the attenuated one.
        free = {"reuse_kl": 0.0, "start_kl": 0.0} if _reuses_in_trpo(stored) else {}
        former["l2f"] = {"embedding_gradient": before, **free, **l2f}
    if isinstance(adam := stored.get("adam"), Mapping):
        # The meta-gradient had no limit.
        former["adam"] = {"max_gradient_norm": None, **adam}
    return former


def _resolving_to(stored: Mapping[str, Any], config: Config) -> Config:
    """Adds to ``config`` the choices that make it resolve to the stored values."""
    Config.from_dict(stored)  # Refuses unknown and impossible settings.
    now = _as_json(config.to_dict())
    missing: dict[str, Any] = {}
    for name, value in stored.items():
        if value is None or value == now[name] or name in ("attenuate", "run_dir"):
            continue
        if isinstance(value, dict) and isinstance(now[name], dict) and name != "env_kwargs":
            # Choose only the parts of the component that differ.
            choice = getattr(config, name)
            chosen = dataclasses.asdict(choice) if isinstance(choice, Checked) else dict(choice or {})
            value = {**chosen, **{part: kept for part, kept in value.items() if kept != now[name].get(part)}}
        missing[name] = value
    return dataclasses.replace(config, **missing)


def _as_json(values: Mapping[str, Any]) -> Any:
    """Returns the values after a round trip through JSON."""
    plain = {name: dataclasses.asdict(value) if isinstance(value, Checked) else value for name, value in values.items()}
    return json.loads(json.dumps(plain, default=str))
