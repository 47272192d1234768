"""Groups runs into the lines of a figure, and labels the lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from metarl.common.errors import UserError
from metarl.config.algorithms import ALGORITHMS, run_title
from metarl.config.config import Config, every_setting
from metarl.config.optimisers import META_OPTIMISERS
from metarl.config.resolved import idle_fields
from metarl.config.trust import require_trust
from metarl.store.runs import StoredRun

BOOKKEEPING = frozenset(
    {
        "metarl",
        "chosen",
        "seed",
        "run_dir",
        "resume",
        "take_over",
        "on_bad_episode",
        "step_timeout",
        "resumed_with",
        "device",
        "threads",
        "processes",
        "envs_per_process",
        "checkpoint_every",
        "validate_every",
        "validation_tasks",
        "best_by",
        "keep_checkpoints",
        "profile",
    }
)
"""Settings that only say where and how a run was computed; runs that differ in nothing else belong to one line."""


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed: one line of the figure.

    Attributes:
        label: Name of the line: the algorithm, and the settings that differ from the default and from most variants.
        runs: The runs in order of their seeds.
    """

    label: str
    runs: tuple[StoredRun, ...]

    @property
    def env(self) -> str:
        """The task family of the runs."""
        return self.runs[0].env


def group_runs(runs: Sequence[StoredRun]) -> list[Group]:
    """Groups runs that differ only in their seed.

    Args:
        runs: Runs of one or several families.

    Returns:
        One group for each algorithm and variant, family by family, in order of first appearance.

    Raises:
        UserError: If there is no run, or a seed appears twice in a group.
    """
    if not runs:
        raise UserError("there is no run: give at least one run folder.")
    families = dict.fromkeys(run.env for run in runs)
    return [group for family in families for group in _group([run for run in runs if run.env == family])]


def by_family(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups of each family."""
    families = dict.fromkeys(group.env for group in groups)
    return [[group for group in groups if group.env == family] for family in families]


def runs_of(groups: Sequence[Group]) -> list[StoredRun]:
    """The runs of some groups."""
    return [run for group in groups for run in group.runs]


def differences(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Settings in which lines differ, as text, by name, with a value for each line; empty where one does not use it."""
    settings = [_settings(group.runs[0]) for group in groups]
    names = sorted(set().union(*settings))
    values = {name: [of_line.get(name, "") for of_line in settings] for name in names}
    return {name: of_lines for name, of_lines in values.items() if len(set(of_lines)) > 1}


def _group(runs: Sequence[StoredRun]) -> list[Group]:
    """Groups of one family's runs."""
    groups: dict[frozenset[tuple[str, str]], list[StoredRun]] = {}
    for run in {run.path.resolve(): run for run in runs}.values():
        groups.setdefault(frozenset(_settings(run).items()), []).append(run)
    for group in groups.values():
        _check_seeds_differ(group)
    lines = [group[0] for group in groups.values()]
    return [Group(_label(group[0], lines), tuple(sorted(group, key=lambda run: run.seed))) for group in groups.values()]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _settings(run: StoredRun) -> dict[str, str]:
    """The settings that identify a run's line, as text; null and empty settings count as not set."""
    # The title stands for these: L2F is MAML with attenuation, and a baseline's title names its trainer.
    left_out = {*BOOKKEEPING, *_idle(run.config), "attenuate", "baseline"}
    if run.config["algo"] in ALGORITHMS:  # Two classes may have the same name.
        left_out.add("algo")
    used = {name: value for name, value in run.config.items() if name not in left_out}
    if start := used.get("init_from"):  # Each seed may start from its own.
        used["init_from"] = re.sub(r"-seed\d+$", "", str(start))
    texts = {name: _value_text(value) for name, value in _flat(used).items()}
    return {"algorithm": run_title(run.config), **{name: text for name, text in texts.items() if text}}


def _idle(config: dict[str, Any]) -> list[str]:
    """Names of settings that the algorithm does not use; runs of older versions store them too."""
    built_in = config["algo"] in ALGORITHMS and (config.get("meta_optimiser") or "trpo") in META_OPTIMISERS
    return idle_fields(config) if built_in else []


def _check_seeds_differ(group: Sequence[StoredRun]) -> None:
    by_seed: dict[int, StoredRun] = {}
    for run in group:
        other = by_seed.setdefault(run.seed, run)
        if other is not run:
            raise UserError(
                f"'{other.path}' and '{run.path}' have the same settings and the same seed: give one of them."
            )


def _label(run: StoredRun, lines: Sequence[StoredRun]) -> str:
    """The algorithm, and the settings that differ both from the default and from most lines of this algorithm.

    Args:
        run: A run of the line.
        lines: One run of each line.
    """
    title, own = run_title(run.config), _settings(run)
    mates = [(_settings(line), _idle(line.config)) for line in lines if run_title(line.config) == title]
    defaults = _defaults(run) if len(mates) > 1 else {}
    details = []
    # Parts' settings last, whatever their order in the file: "meta optimiser promp, promp lr 0.01".
    for name, text in sorted(own.items(), key=lambda setting: "." in setting[0].removeprefix("env_kwargs.")):
        values = [settings.get(name, "") for settings, idle in mates if name.partition(".")[0] not in idle]
        if len(set(values)) > 1 and text != _usual(values, defaults.get(name, "")):
            words = name.removeprefix("env_kwargs.").replace(".", " ").replace("_", " ")
            details.append(f"{words} {text}")
    return f"{title} ({', '.join(details)})" if details else title


def _usual(values: Sequence[str], default: str) -> str | None:
    """The value that a label may omit: unset, else the default, else the majority's."""
    for value in ("", default):
        if value in values:
            return value
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _defaults(run: StoredRun) -> dict[str, str]:
    """The defaults of the run's family and algorithm, as text; empty if one of them is not available or trusted."""
    try:
        require_trust(run.config, run.trust)
        default = Config(env=run.env, algo=run.config["algo"], attenuate=bool(run.config.get("attenuate")))
    except UserError:  # A family from elsewhere, or an algorithm of another version.
        return {}
    # Include parts that the default does not use, such as the meta-optimiser that the run chose.
    parts = {option: asdict(part) for part, option in every_setting(default).values() if option is not None}
    return {name: _value_text(value) for name, value in _flat({**default.to_dict(), **parts}).items()}


def _value_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ("x" if all(isinstance(part, int) for part in value) else " ").join(map(str, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)
