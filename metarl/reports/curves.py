"""Figures of runs: return against gradient step, against the data of adaptation, and against environment steps.

One line for each algorithm or variant: seeds thin, their mean bold, an interval if there are at least five seeds. An
algorithm looks the same in every figure.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from metarl.common.arrays import Floats
from metarl.common.errors import UserError
from metarl.common.output import say
from metarl.common.statistics import MIN_SEEDS_FOR_INTERVAL, mean_and_interval
from metarl.common.words import counted, plural
from metarl.config.algorithms import ALGORITHMS
from metarl.config.checked import convert
from metarl.config.measuring import Checkpoint
from metarl.config.trust import Trust
from metarl.reports.files import PICTURES, checked_file, save_picture
from metarl.reports.functions import draw_functions
from metarl.reports.labels import (
    Group,
    by_evaluated_family,
    by_family,
    evaluated_on,
    group_runs,
    require_same_step_sizes,
    runs_of,
)
from metarl.reports.limits import LEAVES, ends_shown, limit_curves
from metarl.reports.styles import GREY, MARKERS, add_caption, shaded, style_axes, style_of, styles_of
from metarl.reports.wording import (
    MEASURES,
    amounts_text,
    count_text,
    engineering,
    provenance_text,
    rows_of_tasks,
    seeds_text,
    steps_text,
    task_name,
    tasks_text,
    training_text,
)
from metarl.runs.trained_agent import load_with_iteration
from metarl.store.runs import StoredRun, read_run, run_folders

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Axis = Literal[
    "gradient-step", "adaptation-episodes", "adaptation-steps", "env-steps", "cpu-seconds", "iteration", "input"
]

# References of an evaluation, and the algorithms whose runs give the same returns.
_REFERENCE_ALGORITHMS = {"random_initialisation": "random", "standstill": "standstill"}
# Lines are shifted a little sideways, so that markers at nearly equal returns do not hide each other; no shift
# exceeds _LARGEST_DODGE.
_DODGE = 0.05
_LARGEST_DODGE = 0.15
_MARKER_SPACING = 0.15  # share of the panel's diagonal, for lines with too many points to mark them all
_LABEL_WIDTH = 28  # characters
_CAPTION_WIDTH = 90
# A figure with a panel for each line is as wide as two columns of print, where its letters have at least 6 points.
_APART_WIDTH = 7.0  # inches
_APART_LABEL_WIDTH = 24
_APART_CAPTION_WIDTH = 125
_PANELS_IN_A_ROW = 4
_PALE = "#d4d4d4"
_MOST_MARKED = 12  # Points of a line; of more, only some have a marker.
_MOST_DIFFERENT = 0.1  # of the range that the axis shows, between the references of runs that share one
_LEGEND_LINE_INCHES = 0.15
_LEGEND_GAP_INCHES = 0.065
_CAPTION_INCHES = 0.5
_COLUMNS = {"before": "pre_adaptation_{}", "after": "post_adaptation_{}"}
_UNITS: dict[str, Literal["episodes", "steps"]] = {"adaptation-episodes": "episodes", "adaptation-steps": "steps"}
# Share of white in the lines of a sweep, from the fewest episodes per step to the most.
_PALEST, _DARKEST = 0.55, -0.25
# Up to this ratio of its ends, a logarithmic axis has the ticks 1, 2, 5, 10; beyond, 1, 10, 100.
_WIDEST_WITH_FIVES = 300
_AXES = {
    "env-steps": ("env_steps", "environment steps of meta-training"),
    "cpu-seconds": ("cpu_seconds", "CPU-seconds of meta-training"),
    "iteration": ("iteration", "meta-iterations"),
}


def plot_runs(
    runs: str | Path | Iterable[str | Path],
    output: str | Path,
    x: Axis = "gradient-step",
    checkpoint: Checkpoint = "last",
    trust: Trust = False,
    y: str | None = None,
    apart: bool = False,
) -> Path:
    """Draws the figure of some runs into a file.

    Runs that differ only in their seed share a line. Its label is the algorithm and the settings that differ both from
    the algorithm's default and from most lines.

    Args:
        runs: Folders of one or several runs; every family has panels of its own.
        output: The picture: PNG, SVG or PDF by its suffix. An existing picture is replaced.
        x: The horizontal axis: ``gradient-step``, steps of adaptation to held-out tasks; ``adaptation-episodes`` or
            ``adaptation-steps``, the episodes or environment steps of a task that adaptation had read, logarithmic, on
            which agents are comparable whatever their steps read, with a line for each evaluation of
            `metarl.sweep_rollouts`; ``env-steps``, ``cpu-seconds`` or ``iteration`` of meta-training, which leave out
            runs that were not trained and say so; or ``input``, for one supervised run: the functions that it fits to
            held-out tasks.
        checkpoint: The checkpoint whose evaluations are drawn: ``last`` or ``best``.
        trust: Whether code from outside metarl that a run names may be imported, as for `metarl.load`. Only ``input``
            needs it; elsewhere labels then leave out what a family of your own has as its default.
        y: What is drawn: a metric of the family, such as "success"; None for what it is measured by, the return.
        apart: A panel for each line, in which the others are pale; for many lines.

    Returns:
        Path of the picture.

    Raises:
        UserError: If a folder is no run or holds nothing to draw, if the runs do not fit together, or if the picture's
            suffix is not supported, or if it cannot be written, which is tried first.
    """
    x, checkpoint = convert("x", x, Axis), convert("checkpoint", checkpoint, Checkpoint)
    picture = checked_file(output, "picture", PICTURES)
    y, apart = convert("y", y, str | None), convert("apart", apart, bool)
    if apart and (x == "input" or x in _UNITS):
        raise UserError(f"apart (--apart) is for gradient steps and for training, not for x={x!r}; leave it out.")
    folders = run_folders(runs)
    if x == "input":
        if len(folders) != 1:
            raise UserError(f"x='input' (--x) draws the functions of one run, got {len(folders)}.")
        if y is not None:
            raise UserError("y (--y) names a metric, and x='input' (--x) draws functions; leave y out.")
        figure = draw_functions(*load_with_iteration(folders[0], checkpoint, trust), checkpoint)
    else:
        stored = [read_run(folder, checkpoint, trust) for folder in folders]
        if apart:
            figure = draw_apart(group_runs(stored if x == "gradient-step" else _with_progress(stored, x)), x, y)
        elif x == "gradient-step":
            figure = draw_gradient_steps(group_runs(stored), y)
        elif x in _UNITS:
            figure = draw_adaptation(group_runs(stored), x, y)
        else:
            figure = draw_training(group_runs(_with_progress(stored, x)), x, y)
    save_picture(figure, picture)
    return picture


def draw_gradient_steps(groups: Sequence[Group], y: str | None = None) -> Figure:
    """Draws return against gradient step: a panel for each family, or for each task of a family with two tasks.

    Args:
        groups: Lines of the figure; every run must have been evaluated.
        y: A metric to draw in place of the return, without references.

    Returns:
        The figure.

    Raises:
        UserError: If a run was not evaluated, or if runs of a line were evaluated for different numbers of steps.
    """
    families, styles = by_evaluated_family(groups), styles_of(groups)
    tasks = [_two_tasks(runs_of(family)) for family in families]
    figure, axes = _new_figure([len(of_family) for of_family in tasks])
    panels = [(family, task) for family, of_family in zip(families, tasks, strict=True) for task in of_family]
    for ax, (family, task) in zip(axes, panels, strict=True):
        runs, spacing = runs_of(family), min(_DODGE, 2 * _LARGEST_DODGE / max(1, len(family) - 1))
        for index, group in enumerate(family):
            per_seed = _returns_per_seed(group, task, y)
            steps = np.arange(per_seed.shape[1]) + spacing * (index - (len(family) - 1) / 2)
            _draw_group(ax, steps, per_seed, {**styles[group.label], "label": group.label})
        if y is None:
            _draw_references(ax, family, _REFERENCE_ALGORITHMS, averaged=task is not None)
        ax.set_xlabel(steps_text(runs))
        every = range(max(run.evaluated().returns.shape[1] for run in runs))
        ax.set_xticks(every[:: -(-len(every) // _MOST_MARKED)])
        ax.set_title(evaluated_on(runs[0]) + ("" if task is None else f", {task_name(runs, task)}"), loc="left")
    runs = runs_of(groups)
    caption = f"{seeds_text(runs)} · {tasks_text(families)} · {provenance_text(runs)}"
    _finish(figure, axes, [family for family, _ in panels], y, caption)
    return figure


def draw_adaptation(groups: Sequence[Group], x: str, y: str | None = None) -> Figure:
    """Draws return against what adaptation had read of the task: panels as in `draw_gradient_steps`.

    Runs that were swept (`metarl.sweep_rollouts`) have a line for each number of episodes per step, the paler the
    fewer, without single seeds. In a figure with a sweep, every marker says how many episodes the line's steps read.
    The axis is logarithmic from the smallest amount on; 0 is one tick to its left.

    Args:
        groups: Lines of the figure; every run must have been evaluated.
        x: ``adaptation-episodes`` or ``adaptation-steps``.
        y: As for `draw_gradient_steps`.

    Returns:
        The figure.

    Raises:
        UserError: If a run was not evaluated, by an older version, or otherwise than the other seeds of its line.
    """
    unit, styles = _UNITS[x], styles_of(groups)
    swept = {group.label for group in groups if any(run.sweep for run in group.runs)}
    lines = [line for group in groups for line in _by_rollouts(group)]
    sizes = sorted({_episodes_a_step(line) for line in lines} - {0}) if swept else []
    families = by_evaluated_family(lines)
    tasks = [_two_tasks(runs_of(family)) for family in families]
    figure, axes = _new_figure([len(of_family) for of_family in tasks])
    panels = [(family, task) for family, of_family in zip(families, tasks, strict=True) for task in of_family]
    for group in groups:  # For the legend.
        marker = {"marker": ""} if sizes and _episodes_a_step(group) else {}
        axes[0].plot([], [], **{**styles[group.label], **marker, "label": group.label})
    for ax, (family, task) in zip(axes, panels, strict=True):
        runs, drawn = runs_of(family), list[Floats]()
        for line in family:
            per_seed, style = _returns_per_seed(line, task, y), styles[line.label]
            drawn.append(np.mean([run.adaptation_data(unit) for run in line.runs], axis=0))
            if (size := _episodes_a_step(line)) in sizes:
                style = _style_of_size(style, sizes, size, shade=line.label in swept)
            _draw_group(ax, drawn[-1], per_seed, style, with_seeds=line.label not in swept)
        if y is None:
            _draw_references(ax, family, ["standstill"], averaged=task is not None)
        _scale_logarithmically(ax, np.concatenate(drawn))
        ax.set_xlabel(amounts_text(runs, unit))
        ax.set_title(evaluated_on(runs[0]) + ("" if task is None else f", {task_name(runs, task)}"), loc="left")
    for size in sizes:
        style = _style_of_size({**styles[groups[0].label], "color": GREY}, sizes, size, shade=True)
        axes[-1].plot([], [], **{**style, "linestyle": "", "label": f"{counted(size, 'episode')} a step"})
    runs = runs_of(lines)
    caption = f"{seeds_text(runs)} · {tasks_text(families)} · {provenance_text(runs)}"
    _finish(figure, axes, [family for family, _ in panels], y, caption)
    return figure


def draw_training(groups: Sequence[Group], x: str, y: str | None = None) -> Figure:
    """Draws training before and after adaptation against environment steps, CPU-seconds or iterations, unsmoothed.

    Every family has two panels, or one if there is nothing between the two, as in trials of a single episode. Of
    supervised families, the validation is drawn.

    Seeds are averaged iteration by iteration, where all of them have a number. Runs whose training does not adapt
    (`training_adapts`) appear only in the panel "before".

    Args:
        groups: Lines of the figure; every run must have a ``progress.csv``.
        x: ``env-steps``, ``cpu-seconds`` or ``iteration``.
        y: A metric to draw in place of the return.

    Returns:
        The figure.

    Raises:
        UserError: If a run has no progress to show.
    """
    families, styles = by_family(groups), styles_of(groups)
    whens = [
        ("before", "after") if any(training_adapts(run, y) for run in runs_of(family)) else ("before",)
        for family in families
    ]
    figure, axes = _new_figure([len(of_family) for of_family in whens])
    panels = [(family, when) for family, of_family in zip(families, whens, strict=True) for when in of_family]
    for ax, (family, when) in zip(axes, panels, strict=True):
        for index, group in enumerate(family):
            runs = [run for run in group.runs if when == "before" or training_adapts(run, y)]
            if not runs:
                continue
            # Markers start at different places, so that those of close lines do not cover each other.
            places = (_MARKER_SPACING * index / len(family), _MARKER_SPACING)
            line = _trained(runs, when, x, y)
            style = {**styles[group.label], "linewidth": 1.2, "label": group.label, **_marked(len(line[0]), places)}
            _draw_group(ax, *line, style, with_gaps=True)
        text = training_text(runs_of(family), when, alone=(family, "after") not in panels)
        ax.set_title(f"{family[0].env}, {text}", loc="left")
        ax.set_xlabel(_AXES[x][1])
        ax.locator_params(axis="x", nbins=6, integer=x == "iteration", min_n_ticks=1)
        ax.xaxis.set_major_formatter(lambda value, _: engineering(value))
    runs = runs_of(groups)
    kinds = dict.fromkeys("validation" if _column(run, "before", y).startswith("valid") else "training" for run in runs)
    caption = f"{seeds_text(runs)} · {' and '.join(kinds)} tasks · {provenance_text(runs)}"
    _finish(figure, axes, [family for family, _ in panels], y, caption)
    return figure


def draw_apart(groups: Sequence[Group], x: str, y: str | None = None) -> Figure:
    """Draws each line in a panel of its own, in colour, on top of the others, which are pale.

    A row of panels has one family. Of training, the returns after adaptation are drawn; of a line whose training does
    not adapt, those before it, which its title says.

    Args:
        groups: Lines of the figure.
        x: ``gradient-step``, ``env-steps``, ``cpu-seconds`` or ``iteration``.
        y: A metric to draw in place of the return.

    Returns:
        The figure.

    Raises:
        UserError: As for `draw_gradient_steps` and `draw_training`.
    """
    from matplotlib.figure import Figure

    of_training = x != "gradient-step"
    families = by_family(groups) if of_training else by_evaluated_family(groups)
    styles, runs = styles_of(groups), runs_of(groups)
    adapting = any(training_adapts(run, y) for run in runs)
    rows = [
        family[first : first + _PANELS_IN_A_ROW]
        for family in families
        for first in range(0, len(family), _PANELS_IN_A_ROW)
    ]
    figure = Figure(figsize=(_APART_WIDTH, 1.35 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), _PANELS_IN_A_ROW, squeeze=False)
    left = False
    for family in families:
        lines = [_line(group, x, y) for group in family]
        of_family = [panels for row, panels in zip(rows, axes, strict=True) if row[0] in family]
        shown, rest = np.split(np.concatenate(of_family), [len(family)])
        for ax in rest:
            ax.set_visible(False)
        for ax, group, line in zip(shown, family, lines, strict=True):
            if ax is not shown[0]:
                ax.sharex(shown[0])
                ax.sharey(shown[0])
            for places, per_seed in lines:
                _draw_mean(ax, places, per_seed, {"color": _PALE, "linewidth": 0.8}, with_gaps=of_training)
            style = {**styles[group.label], "linewidth": 1.2, "markersize": 3, **_marked(len(line[0]), 0.25)}
            _draw_group(ax, *line, style, with_gaps=of_training)
            title = textwrap.fill(group.label, _APART_LABEL_WIDTH)
            if of_training and adapting and not _group_adapts(group, y):
                title += f"\n({training_text(group.runs, 'before', alone=True)})"
            ax.set_title(title, fontsize=7, loc="left")
            ax.tick_params(labelsize=6.5)
            style_axes(ax)
            if of_training:
                ax.locator_params(axis="x", nbins=4, integer=x == "iteration", min_n_ticks=1)
                ax.xaxis.set_major_formatter(lambda value, _: engineering(value))
        name = y or family[0].runs[0].measure
        for panels in of_family:
            env = family[0].env if of_training else textwrap.fill(evaluated_on(family[0].runs[0]), _APART_LABEL_WIDTH)
            panels[0].set_ylabel(f"{env}\n{MEASURES.get(name, f'{name} of an episode')}", fontsize=6.5)
        left |= limit_curves(list(shown), name)
    if of_training:
        when = training_text(runs, "after" if adapting else "before", alone=not adapting)
        against = f"{_AXES[x][1]}, {when}"
    else:
        against = steps_text(runs)
    words = [
        f"against {against}",
        "each panel: one line in colour, its seeds thin, and the means of the others in grey",
    ]
    words += [LEAVES] * left + [seeds_text(runs)]
    words += [] if of_training else [tasks_text(families)]
    words += [provenance_text(runs)]
    text = textwrap.fill(" · ".join(words), _APART_CAPTION_WIDTH)
    add_caption(figure, text, 6)
    return figure


def _marked(points: int, places: Any) -> dict[str, Any]:
    """Options of a line whose markers would lie on one another: only those at some ``places``."""
    return {"markevery": places} if points > _MOST_MARKED else {}


def _line(group: Group, x: str, y: str | None) -> tuple[Floats, Floats]:
    """Horizontal positions [point] and values [seed, point] of a line."""
    if x == "gradient-step":
        per_seed = _returns_per_seed(group, None, y)
        return np.arange(per_seed.shape[1], dtype=np.float64), per_seed
    return _trained(group.runs, "after" if _group_adapts(group, y) else "before", x, y)


def _trained(runs: Sequence[StoredRun], when: str, x: str, y: str | None) -> tuple[Floats, Floats]:
    """Horizontal positions [row] and values [seed, row] of training, without rows that measured nothing.

    What one seed has not measured is NaN.
    """
    columns = {_column(run, when, y) for run in runs}
    # Only some of the seeds may have validated.
    column = columns.pop() if len(columns) == 1 else _COLUMNS[when].format(y or runs[0].measure)
    per_seed = _column_per_seed(runs, column, x)
    places = np.ma.masked_invalid(_column_per_seed(runs, _AXES[x][0], x)).mean(axis=0).filled(np.nan)
    measured = np.isfinite(per_seed).any(axis=0) & np.isfinite(places)
    if not measured.any():
        raise UserError(f"the progress.csv of {_paths(runs)} holds no number of '{column}': nothing to draw.")
    return places[measured], per_seed[:, measured]


def _group_adapts(group: Group, y: str | None) -> bool:
    return all(training_adapts(run, y) for run in group.runs)


def training_adapts(run: StoredRun, y: str | None = None) -> bool:
    """Whether training measured something after adaptation that it had not measured before it.

    Args:
        run: The run.
        y: A metric; None for what the family is measured by.
    """
    before, after = (run.progress.get(_column(run, when, y), np.array([])) for when in ("before", "after"))
    return len(after) > 0 and not np.array_equal(before, after, equal_nan=True)


def _column(run: StoredRun, when: str, y: str | None) -> str:
    """The column of progress.csv that holds the measure, or the metric ``y``, ``before`` or ``after`` adaptation.

    Supervised runs log few iterations, of few tasks: their validation says more.
    """
    column = _COLUMNS[when].format(y or run.measure)
    validation = f"validation_{column}"
    measured = bool(np.isfinite(run.progress.get(validation, np.array([]))).any())
    return validation if run.measure != "return" and measured else column


def _fit(axes: Sequence[Axes], families: Sequence[Sequence[Group]], y: str | None) -> bool:
    """Names and limits the vertical axes: those of a family's panels are one. Returns whether a line leaves its axis.

    The first axis has a name, and those of families that are measured by something else.
    """
    measured, left = None, False
    for family in {id(family): family for family in families}.values():
        panels = [ax for ax, other in zip(axes, families, strict=True) if other is family]
        name = y or family[0].runs[0].measure
        left |= limit_curves(panels, name)
        if name != measured:
            measured = name
            panels[0].set_ylabel(MEASURES.get(name, f"{name} of an episode"))
    return left


def _with_progress(runs: Sequence[StoredRun], x: str) -> list[StoredRun]:
    """The runs that can be drawn against ``x``; says which are left out."""
    untrained = [run for run in runs if not run.progress]
    # Older versions did not measure CPU-seconds, and supervised runs have no environment steps.
    column = _AXES[x][0]
    without = [run for run in runs if run.progress and not len(run.progress.get(column, ()))]
    shown = [run for run in runs if run not in untrained and run not in without]
    if not shown and without:
        raise UserError(
            f"no run holds '{column}' in its progress.csv, so there is nothing to draw against {x}: "
            f"{_paths(without)}; draw against iteration."
        )
    if not shown and untrained:
        raise UserError(
            f"no training to draw against {x}: no progress.csv with rows is in {_paths(untrained)}; give runs that "
            "were trained, or draw against gradient-step."
        )
    if untrained:
        say(f"left out, because without rows of a progress.csv there is no training to draw: {_paths(untrained)}")
    if without:
        say(
            f"left out, because their progress.csv holds no '{column}' ({x} were not measured): {_paths(without)}; "
            "x='iteration' (--x) draws all runs"
        )
    return shown


def _paths(runs: Sequence[StoredRun]) -> str:
    return ", ".join(f"'{run.name}'" for run in runs)


# Numbers of a line


def _by_rollouts(group: Group) -> list[Group]:
    """A line for each number of episodes per step, in ascending order."""
    lines: dict[tuple[int, int], list[StoredRun]] = {}
    for run in group.runs:
        for evaluation in run.evaluations():
            size = (evaluation.shots or 0, evaluation.rollouts)
            lines.setdefault(size, []).append(replace(run, evaluation=evaluation, sweep=()))
    if any(len(runs) != len(group.runs) for runs in lines.values()):
        supervised = group.runs[0].measure != "return"
        raise UserError(
            f"seeds of {group.label} were evaluated with different numbers of "
            f"{'examples' if supervised else 'episodes'}: evaluate them again with the same "
            + ("shots (--shots) and queries (--queries)." if supervised else "rollouts (--rollouts, --rollouts-sweep).")
        )
    return [Group(group.label, tuple(lines[size])) for size in sorted(lines)]


def _episodes_a_step(line: Group) -> int:
    """Episodes that the last step of adaptation read; 0 if it read none that no earlier one had."""
    run = line.runs[0]
    evaluation = run.evaluations()[0]
    if evaluation.shots is not None or len(evaluation.mean) == 1:
        return 0
    episodes = replace(run, evaluation=evaluation).adaptation_data("episodes")
    return round(episodes[-1] - episodes[-2])


def _returns_per_seed(group: Group, task: Floats | None, y: str | None) -> Floats:
    rows = []
    for run in group.runs:
        shown = slice(None) if task is None else np.all(rows_of_tasks(run) == task, axis=1)
        rows.append(run.per_task(y)[shown].mean(axis=0))
    lengths = {len(row) - 1 for row in rows}
    if len(lengths) > 1:
        raise UserError(
            f"seeds of {group.label} were evaluated for {' and '.join(map(str, sorted(lengths)))} "
            f"{group.runs[0].evaluated().step_name}s: "
            "evaluate them again with the same gradient_steps (--gradient-steps)."
        )
    require_same_step_sizes(group.label, group.runs, max(lengths))
    return np.array(rows)


def _column_per_seed(runs: Sequence[StoredRun], name: str, x: str) -> Floats:
    for run in runs:
        if not len(run.progress.get(name, ())):
            raise UserError(f"the progress.csv of '{run.name}' holds no '{name}': nothing to draw against {x}.")
    iterations = reduce(np.union1d, [run.progress["iteration"] for run in runs])
    values = np.full((len(runs), len(iterations)), np.nan)
    for row, run in zip(values, runs, strict=True):
        row[np.searchsorted(iterations, run.progress["iteration"])] = run.progress[name]
    return values


# Drawing


def _style_of_size(style: dict[str, Any], sizes: Sequence[int], size: int, *, shade: bool) -> dict[str, Any]:
    """The style of an algorithm's line whose steps read ``size`` episodes, one of ``sizes``; shaded if it was swept."""
    place = sizes.index(size)
    share = _PALEST + (_DARKEST - _PALEST) * place / max(1, len(sizes) - 1)
    colour = shaded(style["color"], share) if shade else style["color"]
    edge = {"markerfacecolor": colour, "markeredgecolor": "white", "markeredgewidth": 0.5}
    return {**style, "color": colour, "marker": MARKERS[place % len(MARKERS)], **edge}


def _scale_logarithmically(ax: Axes, amounts: Floats) -> None:
    """Scales the horizontal axis logarithmically, from 0 over the smallest amount on."""
    positive = amounts[amounts > 0]
    first, last = (positive.min(), positive.max()) if len(positive) else (1.0, 1.0)
    decades = 10.0 ** np.arange(np.floor(np.log10(first)), np.ceil(np.log10(last)) + 1)
    factors = [1, 2, 5] if last / first <= _WIDEST_WITH_FIVES else [1]
    ticks = np.outer(decades, factors).ravel()
    ax.set_xscale("symlog", linthresh=first, linscale=0.4)
    ax.set_xlim(-0.25 * first, 1.2 * last)
    ax.set_xticks([0.0, *ticks[(ticks >= first) & (ticks <= last)]])
    ax.xaxis.set_major_formatter(lambda value, _: engineering(value))
    ax.minorticks_off()


def _new_figure(panels: Sequence[int]) -> tuple[Figure, list[Axes]]:
    """A figure with ``panels`` panels per family, side by side; panels of a family share their vertical axis."""
    from matplotlib.figure import Figure

    # No pyplot: drawing must not touch a notebook's or a window's state.
    figure = Figure(figsize=(2.4 + 4.2 * sum(panels), 4.0), layout="constrained")
    axes = figure.subplots(1, sum(panels), squeeze=False)[0]
    firsts = np.repeat(np.cumsum([0, *panels[:-1]]), panels)
    for ax, first in zip(axes, axes[firsts], strict=True):
        if ax is not first:
            ax.sharey(first)
            ax.tick_params(labelleft=False)
        style_axes(ax, grid="y")
    return figure, list(axes)


def _draw_group(
    ax: Axes,
    x: NDArray[Any],
    per_seed: Floats,
    style: dict[str, Any],
    *,
    with_gaps: bool = False,
    with_seeds: bool = True,
) -> None:
    """Draws seeds thin, their mean bold, and the interval.

    Args:
        ax: The axes.
        x: Horizontal positions, [point].
        per_seed: Returns, [seed, point].
        style: Options of matplotlib's plot for the mean.
        with_gaps: Whether what is no number was not measured; else it has diverged.
        with_seeds: Whether to draw the seeds.
    """
    if with_seeds and len(per_seed) > 1:
        of_seed = {name: style[name] for name in ("color", "linestyle")}
        for values in per_seed:
            _draw_mean(ax, x, values[None], {**of_seed, "linewidth": 0.6, "alpha": 0.4}, with_gaps=with_gaps)
    _draw_interval(ax, x, per_seed, style["color"])
    _draw_mean(ax, x, per_seed, style, with_gaps=with_gaps)


def _draw_mean(ax: Axes, x: NDArray[Any], per_seed: Floats, style: dict[str, Any], *, with_gaps: bool) -> None:
    """Draws the mean over seeds; arguments as for `_draw_group`."""
    shown = np.isfinite(per_seed).all(axis=0) if with_gaps else np.ones(len(x), bool)
    ax.plot(x[shown], per_seed[:, shown].mean(axis=0), **style)


def _draw_interval(ax: Axes, x: NDArray[Any], per_seed: Floats, colour: str) -> None:
    if len(per_seed) < MIN_SEEDS_FOR_INTERVAL:
        return
    estimate = mean_and_interval(per_seed)
    ax.fill_between(x, estimate.low, estimate.high, color=colour, alpha=0.18, linewidth=0)  # type: ignore[arg-type]


def _draw_references(ax: Axes, lines: Sequence[Group], names: Iterable[str], *, averaged: bool) -> None:
    """Draws references of the lines' evaluations, mean over seeds, except those that are themselves among the lines.

    What depends on the step has a line for each kind of step, since those are of different networks. Where the
    references of lines differ by more than a tenth of the range that the axis shows, none is drawn, and the legend says
    so: a mean over lines would be the reference of none.
    """
    best, worst = ends_shown([ax], lines[0].runs[0].measure) or (0.0, 0.0)
    allowed = _MOST_DIFFERENT * abs(best - worst)
    for name in names:
        algo = _REFERENCE_ALGORITHMS[name]
        if any(run.config["algo"] == algo for run in runs_of(lines)):
            continue
        kinds: dict[str, list[Floats]] = {}
        for line in lines:
            measured = [getattr(run.evaluated().references, name) for run in line.runs]
            of_seeds = [np.atleast_1d(values) for values in measured if values is not None]
            if of_seeds:
                kind = line.runs[0].evaluated().step_name if len(of_seeds[0]) > 1 else ""
                kinds.setdefault(kind, []).append(np.mean(of_seeds, axis=0))
        title = ALGORITHMS[algo].title
        for variant, (kind, rows) in enumerate(kinds.items()):
            common = min(map(len, rows))
            of_lines = np.array([row[:common] for row in rows])
            mean = of_lines.mean(axis=0)
            differ = bool((np.ptp(of_lines, axis=0) > allowed).any())
            notes = [plural(kind)] * (len(kinds) > 1) + ["mean of both tasks"] * averaged
            notes += ["not the same for all lines,\nso not drawn"] * differ
            label = title + (f"\n({', '.join(notes)})" if notes else "")
            style = style_of(title, algo, variant) | {"marker": "", "label": label}
            if differ:
                ax.plot([], [], **style)
            elif common == 1:  # No steps: the same return everywhere.
                ax.axhline(float(mean[0]), **style)
            else:
                ax.plot(range(common), mean, **style)


def _finish(
    figure: Figure, axes: Sequence[Axes], families: Sequence[Sequence[Group]], y: str | None, caption: str
) -> None:
    """Fits the axes, and adds legend and caption.

    Args:
        figure: The figure.
        axes: Its panels with all of their lines.
        families: The lines of each panel, the same list for all panels of a family.
        y: A metric that is drawn in place of the return.
        caption: The caption.
    """
    if _fit(axes, families, y):
        caption = f"{LEAVES} · {caption}"
    groups = list({id(group): group for family in families for group in family}.values())
    drawn = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    counts = {group.label: count_text([g for g in groups if g.label == group.label]) for group in groups}
    title = next(iter(counts.values())) if len(set(counts.values())) == 1 else None
    handles, labels = list(drawn.values()), []
    for label in drawn:
        count = "" if title or label not in counts else f"\n{counts[label]}"
        labels.append((textwrap.fill(label, _LABEL_WIDTH) if label in counts else label) + count)
    # Make the figure as tall as the legend, so that every line is named.
    lines = sum(label.count("\n") + 1 for label in [title or "", *labels])
    needed = _LEGEND_LINE_INCHES * lines + _LEGEND_GAP_INCHES * (len(labels) + 1) + _CAPTION_INCHES
    figure.set_figheight(max(figure.get_figheight(), needed))
    options: dict[str, Any] = {"loc": "outside right upper", "frameon": False, "fontsize": 9, "handlelength": 3.2}
    figure.legend(handles, labels, title=title, title_fontsize=9, alignment="left", **options)
    caption = textwrap.fill(caption, _CAPTION_WIDTH)
    add_caption(figure, caption)


def _two_tasks(runs: Sequence[StoredRun]) -> list[Floats | None]:
    """The two tasks of a family with exactly two tasks, else [None]."""
    rows = [rows_of_tasks(run) for run in runs]
    if not all(run.evaluated().finite for run in runs) or len({of_run.shape[1] for of_run in rows}) > 1:
        return [None]
    tasks = np.unique(np.concatenate(rows), axis=0)
    return list(tasks) if len(tasks) == 2 else [None]
