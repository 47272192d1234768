"""Figures of runs: return against gradient step, and against environment steps.

One line for each algorithm (or variant of one): its seeds thin, their mean bold, an interval from five seeds up.
"""

from __future__ import annotations

import csv
import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from metarl.agents import ALGORITHMS
from metarl.errors import UserError
from metarl.settings import Checkpoint, EvaluationConfig
from metarl.statistics import MIN_SEEDS_FOR_INTERVAL, mean_and_interval, tasks_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Axis = Literal["gradient-step", "env-steps"]

SUFFIXES = (".png", ".svg", ".pdf")

# Okabe and Ito's colours, told apart by colour-blind readers too; markers tell the lines apart without any colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6b6b6b"
# Lines stand a little to the right of one another, so that markers at nearly equal returns do not hide each other.
_DODGE = 0.05
_LABEL_WIDTH = 28  # characters
_CAPTION_WIDTH = 90
_LEGEND_LINE_INCHES = 0.185
_COMMIT = re.compile(r"([0-9a-f]{7,40})(-dirty)?")

# Configuration that says where and how a run was computed; runs that differ in nothing else are seeds of one line.
_BOOKKEEPING = frozenset(
    {
        "metarl",
        "seed",
        "run_dir",
        "resume",
        "device",
        "threads",
        "checkpoint_every",
        "validate_every",
        "validation_tasks",
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
        label: Name of the line: the algorithm, and what sets it apart from its other variants.
        runs: The runs in order of their seeds.
    """

    label: str
    runs: tuple[Run, ...]


def plot_runs(
    folders: Iterable[str | Path], output: str | Path, x: Axis = "gradient-step", checkpoint: Checkpoint = "last"
) -> Path:
    """Draws the figure of some runs into a file.

    Args:
        folders: Run folders, all of the same family.
        output: The picture: PNG, SVG or PDF by its suffix. An existing picture is replaced.
        x: What the horizontal axis counts.
        checkpoint: The checkpoint whose evaluation is drawn against gradient steps.

    Returns:
        Path of the picture.

    Raises:
        UserError: If a folder is no run, holds nothing to draw, or the runs or the picture's name do not fit.
    """
    output = Path(output)
    if output.suffix.lower() not in SUFFIXES:
        raise UserError(f"cannot write '{output}': the picture's name must end in {', '.join(SUFFIXES)}.")
    groups = group_runs([read_run(folder, checkpoint) for folder in folders])
    figure = draw_gradient_steps(groups) if x == "gradient-step" else draw_env_steps(groups)
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
        runs: Runs of one family.

    Returns:
        One group for each algorithm and variant, in the order in which they first appear.

    Raises:
        UserError: If there is no run, families differ, or a seed appears twice in a group.
    """
    if not runs:
        raise UserError("no run to plot: give at least one run folder.")
    families = sorted({run.config["env"] for run in runs})
    if len(families) > 1:
        raise UserError(f"runs of different families cannot share a figure: {', '.join(families)}.")
    groups: dict[str, list[Run]] = {}
    for run in {run.path.resolve(): run for run in runs}.values():
        groups.setdefault(json.dumps(_settings(run), sort_keys=True), []).append(run)
    for group in groups.values():
        _check_seeds_differ(group)
    return [Group(_label(group[0], runs), tuple(sorted(group, key=_seed))) for group in groups.values()]


def draw_gradient_steps(groups: Sequence[Group]) -> Figure:
    """Draws return against gradient step: one panel, or one for each task where a family has only two.

    Args:
        groups: Lines of the figure; every run must have been evaluated.

    Returns:
        The figure.

    Raises:
        UserError: If a run was not evaluated, or runs of a line were evaluated for different numbers of steps.
    """
    runs = [run for group in groups for run in group.runs]
    tasks = np.unique(np.concatenate([_evaluated(run, "tasks") for run in runs]), axis=0)
    panels = list(tasks) if len(tasks) == 2 else [None]
    figure, axes = _new_figure(len(panels))
    for panel, (ax, task) in enumerate(zip(axes, panels, strict=True)):
        for index, group in enumerate(groups):
            _draw_group(ax, index, group, _returns_per_seed(group, task), labelled=panel == 0)
        _draw_references(ax, runs, labelled=panel == 0, averaged=task is not None)
        ax.set_xlabel("gradient steps on the task")
        ax.set_xticks(range(max(_evaluated(run, "returns").shape[1] for run in runs)))
        ax.set_title(runs[0].config["env"] + ("" if task is None else f", {_task_name(runs, task)}"), loc="left")
    axes[0].set_ylabel("return of an episode")
    _finish(figure, axes[0], f"{_seeds_text(runs)} · {_tasks_text(runs)} · {_provenance(runs)}")
    return figure


def draw_env_steps(groups: Sequence[Group]) -> Figure:
    """Draws training returns after (solid) and before (dashed) adaptation against environment steps, unsmoothed.

    Seeds are averaged iteration by iteration, up to the last iteration that all of them have.

    Args:
        groups: Lines of the figure; every run must have a ``progress.csv``.

    Returns:
        The figure.

    Raises:
        UserError: If a run has no progress to show.
    """
    figure, (ax,) = _new_figure(1)
    for index, group in enumerate(groups):
        env_steps = _column_per_seed(group, "env_steps").mean(axis=0)
        _draw_curve(ax, index, group, "post_adaptation_return", env_steps, "-")
        _draw_curve(ax, index, group, "pre_adaptation_return", env_steps, "--")
    ax.plot([], [], "-", color=GREY, label="after adaptation")
    ax.plot([], [], "--", color=GREY, label="before adaptation")
    runs = [run for group in groups for run in group.runs]
    ax.set_title(runs[0].config["env"], loc="left")
    ax.set_xlabel("environment steps of meta-training")
    ax.set_ylabel("return of an episode")
    ax.xaxis.set_major_formatter(lambda value, _: _engineering(value))
    _finish(figure, ax, f"{_seeds_text(runs)} · training tasks · {_provenance(runs)}")
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


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _settings(run: Run) -> dict[str, Any]:
    return _flat({name: value for name, value in run.config.items() if name not in _BOOKKEEPING})


def _check_seeds_differ(group: Sequence[Run]) -> None:
    by_seed: dict[int, Run] = {}
    for run in group:
        other = by_seed.setdefault(_seed(run), run)
        if other is not run:
            raise UserError(
                f"'{other.path}' and '{run.path}' have the same settings and the same seed: give one of them."
            )


def _label(run: Run, runs: Sequence[Run]) -> str:
    algo = run.config["algo"]
    name = ALGORITHMS[algo].title if algo in ALGORITHMS else algo
    own = _settings(run)
    rivals = [_settings(other) for other in runs if other.config["algo"] == algo]
    differing = [key for key in own if any(rival.get(key) != own[key] for rival in rivals)]
    details = [f"{key.rpartition('.')[2].replace('_', ' ')} {_value_text(own[key])}" for key in differing]
    return f"{name} ({', '.join(details)})" if details else name


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


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


def _new_figure(panels: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    # No pyplot: drawing must not touch a notebook's or a window's state.
    figure = Figure(figsize=(2.4 + 4.2 * panels, 4.0), layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, list(axes)


def _draw_group(ax: Axes, index: int, group: Group, per_seed: Floats, *, labelled: bool) -> None:
    steps = np.arange(per_seed.shape[1]) + _DODGE * index
    colour = COLOURS[index % len(COLOURS)]
    if len(per_seed) > 1:
        ax.plot(steps, per_seed.T, color=colour, linewidth=0.8, alpha=0.5)
    _draw_interval(ax, steps, per_seed, colour)
    marker = MARKERS[index % len(MARKERS)]
    label = _legend_label(group) if labelled else None
    ax.plot(steps, per_seed.mean(axis=0), color=colour, linewidth=1.8, marker=marker, markersize=5, label=label)


def _draw_curve(ax: Axes, index: int, group: Group, column: str, env_steps: NDArray[Any], style: str) -> None:
    per_seed = _column_per_seed(group, column)
    colour = COLOURS[index % len(COLOURS)]
    measured = np.isfinite(per_seed).all(axis=0) & np.isfinite(env_steps)
    shown = per_seed[:, measured]
    if len(group.runs) > 1:
        ax.plot(env_steps[measured], shown.T, style, color=colour, linewidth=0.6, alpha=0.3)
    _draw_interval(ax, env_steps[measured], shown, colour)
    label = _legend_label(group) if style == "-" else None
    ax.plot(env_steps[measured], shown.mean(axis=0), style, color=colour, linewidth=1.4, label=label)


def _draw_interval(ax: Axes, x: NDArray[Any], per_seed: Floats, colour: str) -> None:
    if len(per_seed) < MIN_SEEDS_FOR_INTERVAL:
        return
    estimate = mean_and_interval(per_seed)
    ax.fill_between(x, estimate.low, estimate.high, color=colour, alpha=0.18, linewidth=0)  # type: ignore[arg-type]


def _draw_references(ax: Axes, runs: Sequence[Run], *, labelled: bool, averaged: bool) -> None:
    suffix = "\n(mean of both tasks)" if averaged else ""
    references = [(run.evaluation or {}).get("references") or {} for run in runs]
    standstill = [found["standstill"] for found in references if found.get("standstill") is not None]
    random = [found["random_initialisation"] for found in references if found.get("random_initialisation")]
    if random:
        common = min(map(len, random))
        mean = np.mean([row[:common] for row in random], axis=0)
        label = f"random initialisation{suffix}" if labelled else None
        ax.plot(range(common), mean, "--", color=GREY, linewidth=1.2, label=label)
    if standstill:
        label = f"standing still{suffix}" if labelled else None
        ax.axhline(float(np.mean(standstill)), linestyle=":", color=GREY, linewidth=1.4, label=label)


def _finish(figure: Figure, first: Axes, caption: str) -> None:
    handles, labels = first.get_legend_handles_labels()
    # As tall as the legend needs, so that none of many lines goes unnamed.
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(max(figure.get_figheight(), _LEGEND_LINE_INCHES * lines))
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    caption = textwrap.fill(caption, _CAPTION_WIDTH)
    figure.supxlabel(caption, fontsize=7.5, color=GREY, x=0.01, horizontalalignment="left")


# Words


def _legend_label(group: Group) -> str:
    count = len(group.runs)
    interval = "95 % interval" if count >= MIN_SEEDS_FOR_INTERVAL else "no interval"
    return textwrap.fill(group.label, _LABEL_WIDTH) + f"\n{count} seed{'s' if count > 1 else ''}, {interval}"


def _task_name(runs: Sequence[Run], task: Floats) -> str:
    """What the runs' evaluations call a task; its numbers where they have no name for it."""
    for run in runs:
        where = np.flatnonzero((_evaluated(run, "tasks") == task).all(axis=1))
        names = (run.evaluation or {}).get("task_names")
        if names and len(where):
            return str(names[where[0]])
    return "task " + ", ".join(f"{value:+g}".replace("-", "\N{MINUS SIGN}") for value in task)


def _tasks_text(runs: Sequence[Run]) -> str:
    lists = [_evaluated(run, "tasks") for run in runs]
    same = len({str(sorted(tasks.tolist())) for tasks in lists}) == 1
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
