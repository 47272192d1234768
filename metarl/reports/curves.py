"""Figures of runs: return against gradient step, and against environment steps.

One line for each algorithm (or variant of one): its seeds thin, their mean bold, an interval from five seeds up. An
algorithm looks the same in every figure.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from metarl.common.errors import UserError
from metarl.common.statistics import MIN_SEEDS_FOR_INTERVAL, mean_and_interval, tasks_in_words
from metarl.config.algorithms import ALGORITHMS, run_title
from metarl.config.config import Config, idle_fields
from metarl.config.evaluation import Checkpoint, EvaluationConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Axis = Literal["gradient-step", "env-steps"]

SUFFIXES = (".png", ".svg", ".pdf")

# Okabe and Ito's colours without their yellow, and two more: told apart by colour-blind readers too. Markers tell the
# lines apart without any colour; they are more than the colours, so that pairs repeat late.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D3A9B", "#8C510A", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", "*")
GREY = "#6b6b6b"
# Variants of an algorithm differ in both at once; 4 and 3 make twelve pairs. A shade is the share of white, or of black
# if negative, that is mixed into the algorithm's colour.
_DASHES = ("-", "--", "-.", ":")
_SHADES = (0.0, -0.4, 0.35)
# Baselines and references, which are there to be compared with, stand back.
_REFERENCE_COLOUR = "#969696"
_REFERENCE_DASHES = ("--", "-.", (0, (8, 2)), ":")
_REFERENCE_MARKERS = ("x", "+", "1", "2")
# The evaluation's references, and the algorithms that give the same when they are run.
_REFERENCE_ALGORITHMS = {"random_initialisation": "random", "standstill": "standstill"}
# Lines stand a little beside one another, so that markers at nearly equal returns do not hide each other; all of them
# stay this close to their gradient step.
_DODGE = 0.05
_LARGEST_DODGE = 0.15
_MARKER_SPACING = 0.15  # share of the panel's diagonal, where there are too many points to mark each
_LABEL_WIDTH = 28  # characters
_CAPTION_WIDTH = 90
_LEGEND_LINE_INCHES = 0.15
_LEGEND_GAP_INCHES = 0.065
_CAPTION_INCHES = 0.5
_COMMIT = re.compile(r"([0-9a-f]{7,40})(-dirty)?")

# Configuration that says where and how a run was computed; runs that differ in nothing else are seeds of one line.
_BOOKKEEPING = frozenset(
    {
        "metarl",
        "chosen",
        "seed",
        "run_dir",
        "resume",
        "resumed_with",
        "device",
        "threads",
        "checkpoint_every",
        "validate_every",
        "validation_tasks",
        "keep_checkpoints",
        "profile",
    }
)


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        path: The folder.
        config: Content of ``config.json``.
        progress: Columns of ``progress.csv`` in order of iterations; empty cells are NaN, no file is no columns.
        checkpoint: The checkpoint whose evaluation is meant.
        evaluation: Content of the evaluation's file, or ``None`` if the checkpoint was not evaluated.
    """

    path: Path
    config: dict[str, Any]
    progress: dict[str, Floats]
    checkpoint: Checkpoint
    evaluation: dict[str, Any] | None


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone: one line of the figure.

    Attributes:
        label: Name of the line: the algorithm, and where it differs from the default or from most of its variants.
        runs: The runs in order of their seeds.
    """

    label: str
    runs: tuple[Run, ...]


def plot_runs(
    folders: Iterable[str | Path], output: str | Path, x: Axis = "gradient-step", checkpoint: Checkpoint = "last"
) -> Path:
    """Draws the figure of some runs into a file.

    Args:
        folders: Run folders; each family has panels of its own.
        output: The picture: PNG, SVG or PDF by its suffix. An existing picture is replaced.
        x: What the horizontal axis counts. Against env-steps, runs that were not trained are left out with a notice.
        checkpoint: The checkpoint whose evaluation is drawn against gradient steps.

    Returns:
        Path of the picture.

    Raises:
        UserError: If a folder is no run, holds nothing to draw, or the runs or the picture's name do not fit.
    """
    output = Path(output)
    if output.suffix.lower() not in SUFFIXES:
        raise UserError(f"cannot write '{output}': the picture's name must end in {', '.join(SUFFIXES)}.")
    runs = [read_run(folder, checkpoint) for folder in folders]
    if x == "gradient-step":
        figure = draw_gradient_steps(group_runs(runs))
    else:
        figure = draw_env_steps(group_runs(_with_progress(runs)))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=200)
    except OSError as error:
        raise UserError(f"cannot write '{output}': {error.strerror or error}.") from error
    return output


def read_run(folder: str | Path, checkpoint: Checkpoint = "last") -> Run:
    """Reads the configuration, the progress and the evaluation of a run.

    Args:
        folder: A run folder.
        checkpoint: The checkpoint whose evaluation is read.

    Returns:
        The run.

    Raises:
        UserError: If the folder is no run or one of its files cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"run folder '{folder}' does not exist.")
    config = _read_json(folder / "config.json")
    if config is None:
        raise UserError(f"'{folder}' is not a run folder: it has no config.json.")
    if not {"env", "algo", "seed"} <= config.keys():
        raise UserError(f"'{folder / 'config.json'}' is not a run's configuration: it needs env, algo and seed.")
    evaluation = _read_json(folder / EvaluationConfig(checkpoint=checkpoint).file_name)
    return Run(folder, config, _read_progress(folder / "progress.csv"), checkpoint, evaluation)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Puts runs together that differ in their seed alone.

    Args:
        runs: Runs of one family or of several.

    Returns:
        One group for each algorithm and variant, in the order in which they first appear, family by family.

    Raises:
        UserError: If there is no run, or a seed appears twice in a group.
    """
    if not runs:
        raise UserError("no run to plot: give at least one run folder.")
    families = dict.fromkeys(run.config["env"] for run in runs)
    return [group for family in families for group in _group([run for run in runs if run.config["env"] == family])]


def _group(runs: Sequence[Run]) -> list[Group]:
    """Groups of one family's runs."""
    groups: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in {run.path.resolve(): run for run in runs}.values():
        groups.setdefault(frozenset(_settings(run).items()), []).append(run)
    for group in groups.values():
        _check_seeds_differ(group)
    lines = [group[0] for group in groups.values()]
    return [Group(_label(group[0], lines), tuple(sorted(group, key=_seed))) for group in groups.values()]


def draw_gradient_steps(groups: Sequence[Group]) -> Figure:
    """Draws return against gradient step: a panel for each family, or for each task where a family has only two.

    Args:
        groups: Lines of the figure; every run must have been evaluated.

    Returns:
        The figure.

    Raises:
        UserError: If a run was not evaluated, or runs of a line were evaluated for different numbers of steps.
    """
    families, styles = _by_family(groups), _styles(groups)
    tasks = [_two_tasks(_runs(family)) for family in families]
    figure, axes = _new_figure([len(of_family) for of_family in tasks])
    panels = [(family, task) for family, of_family in zip(families, tasks, strict=True) for task in of_family]
    for ax, (family, task) in zip(axes, panels, strict=True):
        runs, spacing = _runs(family), min(_DODGE, 2 * _LARGEST_DODGE / max(1, len(family) - 1))
        for index, group in enumerate(family):
            per_seed = _returns_per_seed(group, task)
            steps = np.arange(per_seed.shape[1]) + spacing * (index - (len(family) - 1) / 2)
            _draw_group(ax, steps, per_seed, {**styles[group.label], "label": group.label})
        _draw_references(ax, runs, averaged=task is not None)
        ax.set_xlabel("gradient steps on the task")
        ax.set_xticks(range(max(_evaluated(run, "returns").shape[1] for run in runs)))
        ax.set_title(runs[0].config["env"] + ("" if task is None else f", {_task_name(runs, task)}"), loc="left")
    runs = _runs(groups)
    _finish(figure, axes, groups, f"{_seeds_text(runs)} · {_tasks_text(families)} · {_provenance(runs)}")
    return figure


def draw_env_steps(groups: Sequence[Group]) -> Figure:
    """Draws training returns before and after adaptation against environment steps, unsmoothed; two panels a family.

    Seeds are averaged iteration by iteration, up to the last iteration that all of them have.

    Args:
        groups: Lines of the figure; every run must have a ``progress.csv``.

    Returns:
        The figure.

    Raises:
        UserError: If a run has no progress to show.
    """
    families, styles = _by_family(groups), _styles(groups)
    figure, axes = _new_figure([2] * len(families))
    for ax, (family, when) in zip(axes, itertools.product(families, ("before", "after")), strict=True):
        for index, group in enumerate(family):
            per_seed = _column_per_seed(group, f"{'pre' if when == 'before' else 'post'}_adaptation_return")
            env_steps = _column_per_seed(group, "env_steps").mean(axis=0)
            measured = np.isfinite(per_seed).all(axis=0) & np.isfinite(env_steps)
            # Begun at different places, so that the markers of lines that lie close do not cover each other.
            places = (_MARKER_SPACING * index / len(family), _MARKER_SPACING)
            style = {**styles[group.label], "linewidth": 1.2, "markevery": places, "label": group.label}
            _draw_group(ax, env_steps[measured], per_seed[:, measured], style)
        ax.set_title(f"{_family(family[0])}, {when} adaptation", loc="left")
        ax.set_xlabel("environment steps of meta-training")
        ax.locator_params(axis="x", nbins=6)
        ax.xaxis.set_major_formatter(lambda value, _: _engineering(value))
    runs = _runs(groups)
    _finish(figure, axes, groups, f"{_seeds_text(runs)} · training tasks · {_provenance(runs)}")
    return figure


# Reading


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}': {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"cannot read '{path}': expected a JSON object, got {type(content).__name__}.")
    return content


def _read_progress(path: Path) -> dict[str, Floats]:
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names = list(rows[0]) if rows else []
        return {name: np.array([_number(row[name]) for row in rows]) for name in names}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}': {error}.") from error


def _with_progress(runs: Sequence[Run]) -> list[Run]:
    untrained = ", ".join(f"'{run.path}'" for run in runs if not run.progress)
    shown = [run for run in runs if run.progress]
    if untrained and not shown:
        raise UserError(
            f"no training to draw against env-steps: there is no progress.csv in {untrained}; give runs that were "
            "trained, or draw against gradient-step."
        )
    if untrained:
        print(f"left out, because without a progress.csv there is no training to draw: {untrained}", file=sys.stderr)
    return shown


def _number(cell: str | None) -> float:
    try:
        return float(cell) if cell else float("nan")
    except ValueError:  # a column of words, such as the line search's outcome
        return float("nan")


def _evaluated(run: Run, key: str) -> Floats:
    command = f"python -m metarl.evaluate {run.path}" + (" --checkpoint best" if run.checkpoint == "best" else "")
    if run.evaluation is None:
        what = "the best checkpoint of " if run.checkpoint == "best" else ""
        raise UserError(f"{what}run '{run.path}' was not evaluated yet: run `{command}` first.")
    try:
        values = np.array(run.evaluation[key], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        path = run.path / EvaluationConfig(checkpoint=run.checkpoint).file_name
        raise UserError(f"'{path}' holds no table '{key}': run `{command}` again.") from error
    return values.reshape(len(values), -1)


# Grouping


def _seed(run: Run) -> int:
    return int(run.config["seed"])


def _family(group: Group) -> str:
    return str(group.runs[0].config["env"])


def _by_family(groups: Sequence[Group]) -> list[list[Group]]:
    families = dict.fromkeys(map(_family, groups))
    return [[group for group in groups if _family(group) == family] for family in families]


def _runs(groups: Sequence[Group]) -> list[Run]:
    return [run for group in groups for run in group.runs]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _settings(run: Run) -> dict[str, str]:
    """What makes a run's line, as text; settings that are null or empty are not set."""
    # The title stands for both of these: L2F is MAML attenuated.
    left_out = {*_BOOKKEEPING, *_idle(run.config), "algo", "attenuate"}
    used = {name: value for name, value in run.config.items() if name not in left_out}
    texts = {name: _value_text(value) for name, value in _flat(used).items()}
    return {"algorithm": run_title(run.config), **{name: text for name, text in texts.items() if text}}


def _idle(config: dict[str, Any]) -> list[str]:
    """Settings of other algorithms, which runs of older versions hold too."""
    return idle_fields(config) if config["algo"] in ALGORITHMS else []


def _check_seeds_differ(group: Sequence[Run]) -> None:
    by_seed: dict[int, Run] = {}
    for run in group:
        other = by_seed.setdefault(_seed(run), run)
        if other is not run:
            raise UserError(
                f"'{other.path}' and '{run.path}' have the same settings and the same seed: give one of them."
            )


def _label(run: Run, lines: Sequence[Run]) -> str:
    """The algorithm, and its settings that are neither the default nor those of most lines of this algorithm.

    Args:
        run: A run of the line.
        lines: One run of each line.
    """
    title, own = run_title(run.config), _settings(run)
    mates = [(_settings(line), _idle(line.config)) for line in lines if run_title(line.config) == title]
    defaults = _defaults(run) if len(mates) > 1 else {}
    details = []
    for name, text in own.items():
        values = [settings.get(name, "") for settings, idle in mates if name.partition(".")[0] not in idle]
        if len(set(values)) > 1 and text != _usual(values, defaults.get(name, "")):
            words = name.removeprefix("env_kwargs.").replace(".", " ").replace("_", " ")
            details.append(f"{words} {text}")
    return f"{title} ({', '.join(details)})" if details else title


def _usual(values: Sequence[str], default: str) -> str | None:
    """What goes without saying: not set, or else the default, or else what most lines have."""
    for value in ("", default):
        if value in values:
            return value
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _defaults(run: Run) -> dict[str, str]:
    config = run.config
    try:
        default = Config(env=config["env"], algo=config["algo"], attenuate=bool(config.get("attenuate"))).to_dict()
    except UserError:  # a family that is not at hand, or an algorithm of another version
        return {}
    return {name: _value_text(value) for name, value in _flat(default).items()}


def _value_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ("x" if all(isinstance(part, int) for part in value) else " ").join(map(str, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)


# Numbers of a line


def _returns_per_seed(group: Group, task: Floats | None) -> Floats:
    rows = []
    for run in group.runs:
        returns = _evaluated(run, "returns")
        shown = slice(None) if task is None else np.all(_evaluated(run, "tasks") == task, axis=1)
        rows.append(returns[shown].mean(axis=0))
    lengths = {len(row) - 1 for row in rows}
    if len(lengths) > 1:
        raise UserError(
            f"seeds of {group.label} were evaluated for {' and '.join(map(str, sorted(lengths)))} gradient steps: "
            "evaluate them again with the same --gradient-steps."
        )
    return np.array(rows)


def _column_per_seed(group: Group, name: str) -> Floats:
    for run in group.runs:
        if not len(run.progress.get(name, ())):
            raise UserError(f"'{run.path / 'progress.csv'}' holds no '{name}': nothing to draw against env-steps.")
    length = min(len(run.progress[name]) for run in group.runs)
    return np.array([run.progress[name][:length] for run in group.runs], dtype=np.float64)


# Drawing


def _new_figure(panels: Sequence[int]) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels for each family, side by side; those of a family share their vertical axis."""
    from matplotlib.figure import Figure

    # No pyplot: drawing must not touch a notebook's or a window's state.
    figure = Figure(figsize=(2.4 + 4.2 * sum(panels), 4.0), layout="constrained")
    axes = figure.subplots(1, sum(panels), squeeze=False)[0]
    firsts = np.repeat(np.cumsum([0, *panels[:-1]]), panels)
    for ax, first in zip(axes, axes[firsts], strict=True):
        if ax is not first:
            ax.sharey(first)
            ax.tick_params(labelleft=False)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, list(axes)


def _styles(groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """How the lines of each label are drawn, as options of matplotlib's plot."""
    configs = {group.label: group.runs[0].config for group in groups}
    styles: dict[str, dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    # The line that bears the algorithm's bare name is no variant of it.
    for label in sorted(configs, key=lambda label: label != run_title(configs[label])):
        title = run_title(configs[label])
        styles[label] = _style(title, configs[label]["algo"], seen[title])
        seen[title] += 1
    return styles


def _style(title: str, algo: str, variant: int = 0) -> dict[str, Any]:
    """How a line is drawn: hue and first marker are the algorithm's; variants differ in shade, dash and marker.

    Args:
        title: What `run_title` calls the line.
        algo: Name of its algorithm; L2F on top of one looks like a variant of it with hollow markers.
        variant: Number of lines before it that have this title.
    """
    by_title = {algorithm.title: algorithm for algorithm in ALGORITHMS.values()}
    algorithm = by_title.get(title, ALGORITHMS.get(algo))
    reference = algorithm is not None and algorithm.training != "meta"
    alike = [other for other in ALGORITHMS.values() if (other.training != "meta") == reference]
    place = alike.index(algorithm) if algorithm else len(alike)
    on_top = algorithm is not None and title != algorithm.title
    variant += on_top
    colours, markers = ((_REFERENCE_COLOUR,), _REFERENCE_MARKERS) if reference else (COLOURS, MARKERS)
    colour = _shaded(colours[place % len(colours)], _SHADES[variant % len(_SHADES)])
    return {
        "color": colour,
        "linestyle": _REFERENCE_DASHES[place % len(_REFERENCE_DASHES)]
        if reference
        else _DASHES[variant % len(_DASHES)],
        "linewidth": 1.2 if reference else 1.6,
        "marker": markers[(place + variant) % len(markers)],
        "markersize": 6,
        "markerfacecolor": "white" if on_top else colour,
        "markeredgecolor": colour if on_top or reference else "white",
        "markeredgewidth": 1.1 if on_top or reference else 0.5,
    }


def _shaded(colour: str, share: float) -> str:
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = (part + abs(share) * ((share > 0) - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))


def _draw_group(ax: Axes, x: NDArray[Any], per_seed: Floats, style: dict[str, Any]) -> None:
    """Draws seeds thin, their mean bold, and the interval.

    Args:
        ax: Where.
        x: Horizontal places, [point].
        per_seed: Returns, [seed, point].
        style: Options of matplotlib's plot for the mean.
    """
    if len(per_seed) > 1:
        ax.plot(x, per_seed.T, color=style["color"], linestyle=style["linestyle"], linewidth=0.6, alpha=0.4)
    _draw_interval(ax, x, per_seed, style["color"])
    ax.plot(x, per_seed.mean(axis=0), **style)


def _draw_interval(ax: Axes, x: NDArray[Any], per_seed: Floats, colour: str) -> None:
    if len(per_seed) < MIN_SEEDS_FOR_INTERVAL:
        return
    estimate = mean_and_interval(per_seed)
    ax.fill_between(x, estimate.low, estimate.high, color=colour, alpha=0.18, linewidth=0)  # type: ignore[arg-type]


def _draw_references(ax: Axes, runs: Sequence[Run], *, averaged: bool) -> None:
    """Draws the references of the runs' evaluations, but for those that are among the runs."""
    for name, algo in _REFERENCE_ALGORITHMS.items():
        found = [((run.evaluation or {}).get("references") or {}).get(name) for run in runs]
        rows = [np.atleast_1d(values) for values in found if values is not None]
        if not rows or any(run.config["algo"] == algo for run in runs):
            continue
        common = min(map(len, rows))
        mean = np.mean([row[:common] for row in rows], axis=0)
        title = ALGORITHMS[algo].title
        style = _style(title, algo) | {"marker": "", "label": title + ("\n(mean of both tasks)" if averaged else "")}
        if common == 1:  # no steps: the same return everywhere
            ax.axhline(float(mean[0]), **style)
        else:
            ax.plot(range(common), mean, **style)


def _finish(figure: Figure, axes: Sequence[Axes], groups: Sequence[Group], caption: str) -> None:
    axes[0].set_ylabel("return of an episode")
    drawn = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    counts = {group.label: _count_text([g for g in groups if g.label == group.label]) for group in groups}
    title = next(iter(counts.values())) if len(set(counts.values())) == 1 else None
    handles, labels = list(drawn.values()), []
    for label in drawn:
        count = "" if title or label not in counts else f"\n{counts[label]}"
        labels.append((textwrap.fill(label, _LABEL_WIDTH) if label in counts else label) + count)
    # As tall as the legend needs, so that none of many lines goes unnamed.
    lines = sum(label.count("\n") + 1 for label in [title or "", *labels])
    needed = _LEGEND_LINE_INCHES * lines + _LEGEND_GAP_INCHES * (len(labels) + 1) + _CAPTION_INCHES
    figure.set_figheight(max(figure.get_figheight(), needed))
    options: dict[str, Any] = {"loc": "outside right upper", "frameon": False, "fontsize": 9, "handlelength": 3.2}
    figure.legend(handles, labels, title=title, title_fontsize=9, alignment="left", **options)
    caption = textwrap.fill(caption, _CAPTION_WIDTH)
    figure.supxlabel(caption, fontsize=7.5, color=GREY, x=0.01, horizontalalignment="left")


# Words


def _count_text(groups: Sequence[Group]) -> str:
    """How many seeds the lines of one label have, each in another family's panel."""
    counts = sorted({len(group.runs) for group in groups})
    interval = "95 % interval" if counts[0] >= MIN_SEEDS_FOR_INTERVAL else "no interval"
    return f"{' or '.join(map(str, counts))} seed{'s' if counts[-1] > 1 else ''}, {interval}"


def _two_tasks(runs: Sequence[Run]) -> list[Floats | None]:
    """Each of the two tasks of a family that has no more, else [None]."""
    tasks = np.unique(np.concatenate([_evaluated(run, "tasks") for run in runs]), axis=0)
    return list(tasks) if len(tasks) == 2 else [None]


def _task_name(runs: Sequence[Run], task: Floats) -> str:
    """What the runs' evaluations call a task; its numbers where they have no name for it."""
    for run in runs:
        where = np.flatnonzero((_evaluated(run, "tasks") == task).all(axis=1))
        names = (run.evaluation or {}).get("task_names")
        if names and len(where):
            return str(names[where[0]])
    return "task " + ", ".join(f"{value:+g}".replace("-", "\N{MINUS SIGN}") for value in task)


def _tasks_text(families: Sequence[Sequence[Group]]) -> str:
    runs = [run for family in families for run in _runs(family)]
    lists = [_evaluated(run, "tasks") for run in runs]
    different = {(run.config["env"], str(sorted(tasks.tolist()))) for run, tasks in zip(runs, lists, strict=True)}
    same = len(different) == len(families)
    finite = [bool((run.evaluation or {}).get("finite")) for run in runs]
    words = dict.fromkeys(map(tasks_in_words, lists, finite))
    checkpoints = sorted({str((run.evaluation or {}).get("checkpoint", "last")) for run in runs})
    return f"{' and '.join(words)}{'' if same else ', not the same for all runs'} · {'/'.join(checkpoints)} checkpoint"


def _seeds_text(runs: Sequence[Run]) -> str:
    seeds = {_seed(run) for run in runs}
    return f"seed {_span(seeds)}" if len(seeds) == 1 else f"seeds {_span(seeds)}"


def _span(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    if low == high:
        return str(low)
    return f"{low}-{high}" if len(numbers) == high - low + 1 else ", ".join(map(str, sorted(numbers)))


def _provenance(runs: Sequence[Run]) -> str:
    totals = [np.nanmax(run.progress["env_steps"]) for run in runs if len(run.progress.get("env_steps", ()))]
    words = []
    if totals:
        low, high = _engineering(min(totals)), _engineering(max(totals))
        words.append(f"{low if low == high else f'{low} to {high}'} environment steps a run")
    origins = [run.config.get("metarl") or {} for run in runs]
    found = [_COMMIT.fullmatch(str(origin.get("commit"))) for origin in origins]
    commits = sorted({match[1][:9] + (match[2] or "") for match in found if match})
    versions = sorted({str(origin["version"]) for origin in origins if origin.get("version")})
    words.append(" ".join(["metarl", *versions]) + (f", commit {', '.join(commits)}" if commits else ""))
    return " · ".join(words)


def _engineering(value: float) -> str:
    """Short number for an axis or a caption, such as 32 M."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"
