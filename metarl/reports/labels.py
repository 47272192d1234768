"""Groups runs into the lines of a figure, and labels the lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from metarl.common.errors import UserError
from metarl.common.output import say
from metarl.config.algorithms import ALGORITHMS, run_title
from metarl.config.config import Config, every_setting
from metarl.config.optimisers import META_OPTIMISERS
from metarl.config.resolved import idle_fields
from metarl.config.settings import EXECUTION
from metarl.config.trust import require_trust
from metarl.store.config_file import stored_config, with_former_behaviour
from metarl.store.runs import StoredRun

BOOKKEEPING = frozenset(
    {*EXECUTION, "metarl", "chosen", "seed", "resumed_with", "validate_every", "validation_tasks", "best_by"}
)
"""Settings that only say where and how a run was computed; runs that differ in nothing else belong to one line."""


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed: one line of the figure.

    Attributes:
        label: Name of the line: the algorithm, and the settings that differ from its default and from most lines.
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

    A setting that is newer than a run counts as what the version before did. Says if seeds of a line were evaluated
    after different numbers of iterations.

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
    groups = [group for family in families for group in _group([run for run in runs if run.env == family])]
    for group in groups:
        _warn_of_shorter_seeds(group)
    return groups


def by_family(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups of each family of training."""
    families = dict.fromkeys(group.env for group in groups)
    return [[group for group in groups if group.env == family] for family in families]


def by_evaluated_family(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups of each family that they were evaluated on, see `evaluated_on`."""
    names = [evaluated_on(group.runs[0]) for group in groups]
    return [[group for group, own in zip(groups, names, strict=True) if own == name] for name in dict.fromkeys(names)]


def evaluated_on(run: StoredRun) -> str:
    """The family of a run's evaluation, such as "navigation", or "navigation-b (trained on navigation)".

    Raises:
        UserError: If the run was not evaluated.
    """
    env = run.evaluated().env
    return env if env == run.env else f"{env} (trained on {run.env})"


def runs_of(groups: Sequence[Group]) -> list[StoredRun]:
    """The runs of some groups."""
    return [run for group in groups for run in group.runs]


def require_same_step_sizes(label: str, runs: Sequence[StoredRun], steps: int) -> None:
    """Refuses to average seeds that were evaluated with different step sizes.

    Args:
        label: The line.
        runs: Its seeds.
        steps: Steps of adaptation that are shown.

    Raises:
        UserError: If seeds were.
    """
    scales = {run.evaluated().step_scales[:steps] for run in runs}
    if len(scales) > 1:
        words = " and ".join(sorted(" ".join(f"{scale:g}" for scale in of_one) for of_one in scales))
        raise UserError(
            f"seeds of {label} were evaluated with different step_scales, {words}: evaluate them again with the same "
            "step_scales (--step-scales)."
        )


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
    lines = [_Line(group[0], _settings(group[0])) for group in groups.values()]
    return [
        Group(_label(line, lines), tuple(sorted(group, key=lambda run: run.seed)))
        for line, group in zip(lines, groups.values(), strict=True)
    ]


def _warn_of_shorter_seeds(group: Group) -> None:
    """Says if the seeds of a line were evaluated after different numbers of iterations, the last of each."""
    reached: dict[int, list[int]] = {}
    for run in group.runs:
        evaluation = run.evaluation
        if evaluation is not None and evaluation.checkpoint == "last" and evaluation.iteration is not None:
            reached.setdefault(evaluation.iteration, []).append(run.seed)
    if len(reached) > 1:
        iterations = ", ".join(f"seed {seed} after {count}" for count, seeds in reached.items() for seed in seeds)
        say(f"seeds of {group.label} were trained for different numbers of iterations: {iterations}.")


class _Line(NamedTuple):
    """A run of a line, and the settings that identify the line."""

    run: StoredRun
    settings: dict[str, str]

    @property
    def title(self) -> str:
        return run_title(self.run.config)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif name == "adapted_layers" and not value:  # The algorithm's own.
            flat[name] = None
        else:  # Of a component that is in use, None is a choice.
            flat[prefix + name] = "none" if prefix and value is None else value
    return flat


def _settings(run: StoredRun) -> dict[str, str]:
    """The settings that identify a run's line, as text; null settings count as not set."""
    # The title stands for these: L2F is MAML with attenuation, and a baseline's title names its trainer.
    left_out = {*BOOKKEEPING, *_idle(run.config), "attenuate", "baseline"}
    if run.config["algo"] in ALGORITHMS:  # Two classes may have the same name.
        left_out.add("algo")
    used = {name: value for name, value in _in_force(run).items() if name not in left_out}
    if start := used.get("init_from"):  # Each seed may start from its own.
        used["init_from"] = re.sub(r"-seed\d+$", "", str(start))
    texts = {name: _value_text(value) for name, value in _flat(used).items()}
    return {"algorithm": run_title(run.config), **{name: text for name, text in texts.items() if text}}


def _in_force(run: StoredRun) -> dict[str, Any]:
    """All settings of a run; only the stored ones if some of its code is not available or not trusted."""
    try:
        return stored_config(run.config, run.trust).to_dict()
    except UserError:
        return with_former_behaviour(run.config)


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
                f"'{other.name}' and '{run.name}' have the same settings and the same seed: give one of them."
            )


def _label(line: _Line, lines: Sequence[_Line]) -> str:
    """The algorithm, and the settings that differ both from its default and from most lines.

    Args:
        line: The line.
        lines: All lines of the figure. Where the default is not known, those of other algorithms do not count, since
            they have other defaults.
    """
    defaults = _defaults(line.run) if len(lines) > 1 else {}
    others = [(other, _idle(other.run.config)) for other in lines if defaults or other.title == line.title]
    details = []
    # Parts' settings last, whatever their order in the file: "meta optimiser promp, promp lr 0.01".
    for name, text in sorted(line.settings.items(), key=lambda setting: "." in setting[0].removeprefix("env_kwargs.")):
        if name == "algorithm":
            continue
        # The class of a rule of one's own tells it from another one of the same name.
        of_name = name == "algo"
        default = "" if of_name else defaults.get(name, "")
        rivals = [pair for pair in others if pair[0].title == line.title] if of_name else others
        values = [other.settings.get(name, "") for other, idle in rivals if name.partition(".")[0] not in idle]
        # A line without a setting that has a default does not use it.
        values = [value for value in values if value or not default]
        if len(set(values)) > 1 and text != _usual(values, default):
            words = name.removeprefix("env_kwargs.").replace(".", " ").replace("_", " ")
            details.append(f"{words} {text}")
    return f"{line.title} ({', '.join(details)})" if details else line.title


def _usual(values: Sequence[str], default: str) -> str | None:
    """The value that a label may omit: the default (unset where there is none), else the majority's."""
    if default in values:
        return default
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
        if not value:
            return "none"
        return ("x" if all(isinstance(part, int) for part in value) else " ").join(map(str, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)
