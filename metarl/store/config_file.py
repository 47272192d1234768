"""A run's config.json: the settings in force, the user's choices, and the provenance."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl.common.errors import UserError
from metarl.common.strict_json import write_json
from metarl.config.algorithms import get_algorithm, stored_trainer
from metarl.config.checked import Checked
from metarl.config.config import Config
from metarl.store.folder import RunFolder

# Keys of the file that are not settings.
_ABOUT_THE_RUN = ("metarl", "resumed_with")
# The settings that define the problem; without them, nothing can be resolved.
_PROBLEM = ("env", "algo", "attenuate", "env_kwargs", "seed")


def save_config(config: Config, provenance: Mapping[str, Any]) -> None:
    """Writes config.json into the run's folder, with the provenance of the start and of each resume.

    Raises:
        UserError: If the folder cannot be written.
    """
    folder = RunFolder(config.folder)
    content: dict[str, Any] = {**config.to_dict(), "chosen": _as_json(config.chosen), "metarl": provenance}
    if folder.config.is_file():
        before = json.loads(folder.config.read_text())
        content |= {"metarl": before["metarl"], "resumed_with": [*before.get("resumed_with", []), provenance]}
    try:
        write_json(folder.config, content, indent=2)
    except OSError as error:
        raise UserError(
            f"cannot write into {folder.path}: {error.strerror or error}; choose another run_dir (--run-dir)."
        ) from error


def load_config(run_dir: Path) -> Config:
    """Reads a run's configuration. Its folder is set to ``run_dir``, even if the run was moved there.

    Raises:
        UserError: If ``run_dir`` is not the folder of a run.
    """
    path = RunFolder(run_dir).config
    if not path.is_file():
        what = "is not the folder of a run: it holds no config.json" if run_dir.exists() else "does not exist"
        raise UserError(f"{run_dir} {what}; give the folder that `python -m metarl.train` wrote.")
    return dataclasses.replace(read_config(path), run_dir=run_dir)


def read_config(path: Path) -> Config:
    """Reads a stored config.json.

    The configuration resolves to the stored settings. A stored value that differs from today's default counts as
    chosen, in addition to the stored choices.

    Raises:
        UserError: If the file is missing, damaged or not a configuration.
    """
    try:
        values = json.loads(path.read_text())
        stored = {name: value for name, value in values.items() if name not in (*_ABOUT_THE_RUN, "chosen")}
        if "algo" in stored and get_algorithm(stored["algo"]).training == "baseline":
            stored["baseline"] = stored.get("baseline") or {"trainer": stored_trainer(stored)}
        if stored.get("l2f"):
            # Before this was a choice, the meta-gradient went through the embedding.
            before = "through" if stored["l2f"].get("conditioning") == "task" else "stop"
            stored["l2f"] = {"embedding_gradient": before, **stored["l2f"]}
        chosen = values.get("chosen", {name: stored[name] for name in _PROBLEM if name in stored})
        return _resolving_to(stored, Config.from_dict(chosen))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error


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
