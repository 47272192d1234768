"""Figures of an analysis; every figure shows all tasks and names its data in the caption."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from metarl.common.arrays import Floats, rows_of_numbers
from metarl.common.files import keeping, replacing
from metarl.config.algorithms import run_title
from metarl.reports.measures import Difference, Summary
from metarl.reports.results import (
    Analysis,
    Angles,
    AtCheckpoint,
    Attenuation,
    Conflict,
    Embedding,
    Freezing,
    GammaSweep,
    Landscape,
    Memory,
    Movement,
    Projected,
    Representations,
)
from metarl.reports.styles import COLOURS, GREY, MARKERS, add_caption, style_axes
from metarl.reports.wording import number_text, read_by, software_text, tasks_in_words

# Largest number of a task's components that get panels of their own; more would be unreadable.
_TASK_DIMENSIONS = 4
# Tasks are spread to both sides by up to this share of a column, so that equal values do not hide each other.
_SPREAD = 0.25
# Least range of an axis for gammas or angles.
_LEAST_RANGE = 0.1
# Least range of the second principal component's axis, relative to the first's.
_LEAST_ASPECT = 0.05
# Most episodes of a trial that get panels of their own.
_EPISODES = 4
_COLOURS_OF_NUMBERS = "viridis"
_CHARACTERS_PER_INCH = 16
_THIN: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.35}
_DOTS = "Dots: tasks; hollow markers: their mean."
_BARS = "Bars: 95 % interval over tasks."
_GAMMA, _SMOOTHNESS = "gamma", "smoothness (less is smoother)"
_COMPARISONS = {
    "between_tasks": "between tasks",
    "between_episodes": "between episodes of different tasks",
    "within_task": "between episodes of a task",
}


def draw(result: Analysis, folder: Path) -> list[Path]:
    """Draws the figures of an analysis.

    Args:
        result: The result of `metarl.reports.analysis.analyze`.
        folder: Folder of the pictures; it must exist.

    Returns:
        Paths of the pictures; figures that do not apply to the run's rule are left out.

    Raises:
        NotWritten: If a picture cannot be written.
    """
    paths = []
    for name, make in _figures(result).items():
        path = folder / f"{name}.png"
        figure, reading = make()
        width = int(_CHARACTERS_PER_INCH * figure.get_figwidth())
        caption = "\n".join(textwrap.fill(line, width) for line in (reading, *_origin(result, name)))
        add_caption(figure, caption)
        with keeping(result, path), replacing(path) as file:
            figure.savefig(file, dpi=150, format="png")
        paths.append(path)
    return paths


def _figures(result: Analysis) -> dict[str, Callable[[], tuple[Figure, str]]]:
    """The figures that apply, by name: functions that return a figure and a sentence on how to read it."""
    figures: dict[str, Callable[[], tuple[Figure, str]]] = {}
    if result.conflict is not None:
        figures["conflict"] = partial(_draw_conflict, result.conflict, result.tensors)
    if result.attenuation is not None:
        figures["attenuation"] = partial(_draw_attenuation, result.attenuation, result.tensors, result.tasks)
    if result.landscape is not None:
        figures["landscape"] = partial(_draw_landscape, result.landscape)
    if result.representations is not None and result.movement is not None:
        representations = None if "similarity" in result.left_out else result.representations
        figures["representations"] = partial(_draw_representations, representations, result.movement, result.tensors)
    if result.freezing is not None:
        figures["freezing"] = partial(_draw_freezing, result.freezing, result.measure)
    if result.gamma_sweep is not None:
        figures["gamma_sweep"] = partial(_draw_gamma_sweep, result.gamma_sweep, result.measure)
    if result.embedding is not None:
        figures["embedding"] = partial(_draw_embedding, result.embedding)
    if result.memory is not None:
        figures["memory"] = partial(_draw_memory, result.memory)
        figures["memory_r2"] = partial(_draw_memory_r2, result.memory)
    if result.through_training is not None:
        figures["through_training"] = partial(_draw_training, result.through_training, result.tensors)
    return figures


def _draw_conflict(conflict: Conflict, tensors: Sequence[str]) -> tuple[Figure, str]:
    compared = {label: getattr(conflict, name) for name, label in _COMPARISONS.items()}
    per_task = np.concatenate([angles.per_task for angles in compared.values()])
    shown = [i for i in range(len(tensors)) if np.isfinite(per_task[:, i]).any()]
    width = max(7.6, 1.4 + 0.9 * len(shown))
    figure, ((ax,), (lower,)) = _new_figure(2, 1, width, 6.6, height_ratios=(2, 1), sharex=True)
    for index, (label, angles) in enumerate(compared.items()):
        style = COLOURS[index], MARKERS[index]
        label = f"{label} ({angles.num_vectors} gradients)"
        _draw_tasks(ax, angles.per_task[:, shown], (index, len(compared)), style, label)
    _draw_unrelated(ax, list(compared.values()))
    _draw_differences(lower, conflict.excess, shown)
    lower.set_ylabel("excess, radians")
    lower.set_title("excess: between episodes of different tasks minus of a task", loc="left")
    _name_ticks(lower, [tensors[i] for i in shown])
    ax.set_ylabel("angle to the sum, radians")
    ax.set_ylim(0, 1.02 * math.pi)
    ax.set_title("degree of conflict of meta-gradients", loc="left")
    _add_legend(figure, *ax.get_legend_handles_labels())
    missing = [name for i, name in enumerate(tensors) if i not in shown]
    reading = _DOTS + ("" if conflict.excess.interval is None else f" {_BARS}")
    return figure, reading + (f" Without a gradient: {', '.join(missing)}." if missing else "")


def _draw_attenuation(attenuation: Attenuation, tensors: Sequence[str], tasks: NDArray[Any]) -> tuple[Figure, str]:
    numbers, names, selection = _task_numbers(tasks)
    gamma = attenuation.gamma.per_task
    kept = [i for i in range(len(tensors)) if (gamma[:, i] == 1).all()]
    shown = [i for i in range(len(tensors)) if i not in kept] or kept
    # One vertical range for all panels, so that equal heights mean equal changes of gamma.
    figure, axes = _new_figure(
        len(names), len(shown), max(6.4, 0.9 + 1.8 * len(shown)), 1.2 + 1.8 * len(names), sharey=True
    )
    for dimension, row in enumerate(axes):
        for ax, tensor in zip(row, shown, strict=True):
            ax.scatter(numbers[:, dimension], gamma[:, tensor], s=12, color=COLOURS[0], alpha=0.7, linewidths=0)
            ax.set_xlabel(names[dimension])
            ax.locator_params(axis="x", nbins=3)
            ax.tick_params(axis="x", labelsize=8)
        row[0].set_ylabel("gamma")
    _share_range(axes[0], _LEAST_RANGE)
    for ax, tensor in zip(axes[0], shown, strict=True):
        size = f"{attenuation.gamma.mean[tensor]:.4f} \N{PLUS-MINUS SIGN} {attenuation.gamma.std[tensor]:.2g}"
        ax.set_title(f"{tensors[tensor]}\n{size}", loc="left", fontsize=9)
    reading = "Dots: tasks. Above: mean \N{PLUS-MINUS SIGN} standard deviation over tasks."
    if len(shown) < len(tensors):
        reading += f" Not attenuated, gamma is 1: {', '.join(tensors[i] for i in kept)}."
    return figure, reading + selection


def _draw_landscape(landscape: Landscape) -> tuple[Figure, str]:
    fractions = [0.0, *landscape.fractions]
    figure, ((loss, gradient, smoothness),) = _new_figure(1, 3, 10.4, 3.6)
    for ax, change in ((loss, landscape.loss_change), (gradient, landscape.gradient_change)):
        ax.plot(fractions, np.insert(change.per_task, 0, 0, axis=1).T, color=COLOURS[0], **_THIN)
        ax.plot(fractions, np.insert(change.median, 0, 0), color=COLOURS[0], linewidth=2)
        ax.axvline(1, linestyle=":", color=GREY, linewidth=1.2)
        ax.set_xlabel("multiples of the inner step")
    loss.set_title("inner loss", loc="left")
    loss.set_ylabel("change since the step's start")
    gradient.set_title("gradient of the inner loss", loc="left")
    gradient.set_ylabel("l2 distance from the start's")
    _draw_shares(smoothness, landscape.smoothness.per_task)
    smoothness.set_xlabel("effective beta-smoothness")
    smoothness.set_ylabel("share of tasks at or below")
    smoothness.set_title("smoothness (less is smoother)", loc="left")
    return figure, "Thin: tasks; bold: their median; dotted: the step that the inner loop takes."


def _draw_representations(
    representations: Representations | None, movement: Movement, tensors: Sequence[str]
) -> tuple[Figure, str]:
    names = representations.names if representations else ()
    widths = [len(part) for part in (names, tensors) if part]
    width = 3.6 + 1.0 * len(names) + 0.8 * len(tensors)
    figure, ((*similarities, distances),) = _new_figure(1, len(widths), width, 4.0, width_ratios=widths)
    parts = {"start": "whole inner loop", "gradient_steps": "gradient steps alone"}
    shown = [part for part in parts if getattr(movement, part) is not None]
    measures = {"cka": "o", "cca": "s"}
    # Marker shapes apply to the left panel, colours to both.
    keys: dict[str, Artist] = {}
    for ax in similarities:
        for index, part in enumerate(shown):
            for offset, (kind, marker) in enumerate(measures.items()):
                values = getattr(getattr(representations, part), kind).per_task
                _draw_tasks(ax, values, (2 * index + offset, 2 * len(shown)), (COLOURS[index], marker))
        _name_ticks(ax, names)
        ax.set_title("similarity before and after", loc="left")
        ax.set_ylabel("similarity, 1 for the same")
        ax.ticklabel_format(axis="y", useOffset=False)
        for kind, marker in measures.items():
            keys[kind.upper()] = Line2D([], [], linestyle="", marker=marker, **_hollow(GREY))
    for index, part in enumerate(shown):
        values = getattr(movement, part).distance.per_task
        _draw_tasks(distances, values, (index, len(shown)), (COLOURS[index], "D"))
    _name_ticks(distances, tensors)
    distances.set_title("movement", loc="left")
    distances.set_ylabel("Euclidean distance")
    distances.set_ylim(bottom=0)
    if len(shown) > 1:
        keys |= {parts[part]: Patch(color=COLOURS[index]) for index, part in enumerate(shown)}
    _add_legend(figure, list(keys.values()), list(keys), columns=4)
    return figure, _DOTS


def _draw_freezing(freezing: Freezing, measure: str) -> tuple[Figure, str]:
    figure, ((ax,),) = _new_figure(1, 1, 4.8, 3.8)
    ax.plot(freezing.frozen_layers, freezing.returns.per_task.T, color=COLOURS[0], **_THIN)
    ax.plot(freezing.frozen_layers, freezing.returns.mean, "o-", color=COLOURS[0], linewidth=2)
    ax.set_xticks(freezing.frozen_layers, freezing.names)
    ax.set_xlabel("layers frozen in the inner loop")
    ax.set_ylabel(f"{measure} after the inner loop")
    ax.set_title("freezing at test time", loc="left")
    return figure, "Thin: tasks; bold: their mean."


def _draw_gamma_sweep(sweep: GammaSweep, measure: str) -> tuple[Figure, str]:
    figure, ((ax, gains),) = _new_figure(1, 2, 9.6, 4.0)
    for index, (part, line) in enumerate(zip(sweep.parts, np.asarray(sweep.returns.mean), strict=True)):
        label = f"{part}: {' '.join(sweep.tensors[index])}" if part != "network" else part
        ax.plot(sweep.gammas, line, label=label, **_style(index))
    ax.axvline(1, linestyle=":", color=GREY, linewidth=1.2)
    ax.set_xlabel("gamma, the same for every task")
    ax.set_ylabel(f"{measure} after the inner loop")
    ax.set_title("start attenuated by hand", loc="left")
    _draw_differences(gains, sweep.gain, range(len(sweep.parts)))
    _name_ticks(gains, sweep.parts)
    gains.set_ylabel(f"{'reduction of' if measure == 'error' else 'gain in'} {measure} over gamma 1")
    gains.set_title("each task's own best gamma", loc="left")
    _add_legend(figure, *ax.get_legend_handles_labels())
    reading = (
        f"Left: means over tasks. Right: each task's best gamma, chosen on one half of the "
        f"{read_by(measure)} and scored on the "
    )
    reading += f"other. {_DOTS}" + ("" if sweep.gain.interval is None else f" {_BARS}")
    if sweep.gap is not None:
        shares = zip(sweep.parts, sweep.gap.share, strict=True)
        reading += " Share of the gap from standing still to the oracle: "
        reading += ", ".join(f"{part} {share:.1%}" for part, share in shares) + "."
    return figure, reading


def _draw_embedding(embedding: Embedding) -> tuple[Figure, str]:
    seen, by_mode = embedding.seen, embedding.num_modes > 1
    tasks, names, selection = _task_numbers(embedding.tasks)
    columns = 1 if by_mode else len(names)
    figure, rows = _new_figure(len(seen), columns, max(5.4, 3.9 * columns), 0.9 + 3.4 * len(seen))
    for row, (kind, projected) in zip(rows, seen.items(), strict=True):
        points = projected.coordinates
        for dimension, ax in enumerate(row):
            if by_mode:
                _scatter_modes(ax, points, embedding.modes)
            else:
                values = ax.scatter(
                    points[:, 0], points[:, 1], c=tasks[:, dimension], s=14, cmap=_COLOURS_OF_NUMBERS, linewidths=0
                )
                figure.colorbar(values, ax=ax, ticks=MaxNLocator(5))
                r2 = _r2_text(projected.r2[names[dimension]])
                ax.set_title(f"coloured by {names[dimension]}{r2}", loc="left", fontsize=9)
            ax.locator_params(nbins=4)
        if projected.variance_shares is not None:
            _share_range(row, _LEAST_ASPECT * float(np.ptp(points[:, 0])))
        _name_components(row, kind, embedding.projection, projected.variance_shares)
    figure.suptitle(f"tasks as seen by {' and '.join(seen)}", x=0.01, horizontalalignment="left")
    if by_mode:
        # At the right, because the title is above.
        figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    return figure, "Dots: tasks." + ("" if by_mode else selection) + _r2_in_words(seen, names)


def _r2_in_words(seen: Mapping[str, Projected], numbers: Sequence[str]) -> str:
    """What the features predict of the task: its numbers, its direction (mean over components) and its length."""
    sentences = []
    for kind, projected in seen.items():
        values = _shown_r2(projected.r2, numbers)
        words = ", ".join(f"{name} {number_text(value, 2)}" for name, value in values.items() if math.isfinite(value))
        sentences.append(f" R\N{SUPERSCRIPT TWO} of the task from {kind}, leave-one-out: {words or 'undefined'}.")
    return "".join(sentences)


def _shown_r2(r2: Mapping[str, Any], numbers: Sequence[str]) -> dict[str, Any]:
    """What is shown of `metarl.reports.measures.task_r2`, numbers or arrays of them by name.

    These are the R2 of the task's ``numbers`` and, if there are several, of its direction (mean over components) and of
    its length.
    """
    values = {name: r2[name] for name in numbers}
    if "length" in r2:
        of_direction = [value for name, value in r2.items() if name.startswith("direction")]
        # The R2 of a component that is the same in every task is no number.
        defined = np.isfinite(of_direction)
        total = np.where(defined, of_direction, 0.0).sum(axis=0)
        mean = np.where(defined.any(axis=0), total / np.maximum(defined.sum(axis=0), 1), np.nan)
        values |= {"direction": mean if mean.ndim else float(mean), "length": r2["length"]}
    return values


def _r2_text(r2: float) -> str:
    """An R2 as the end of a title, if it is defined."""
    return f", R\N{SUPERSCRIPT TWO} {number_text(r2, 2)}" if math.isfinite(r2) else ""


def _draw_memory(memory: Memory) -> tuple[Figure, str]:
    """A row for each number of the task, or one for its mode; a column for each episode's end, and one for paths."""
    by_mode, num_episodes = memory.num_modes > 1, memory.lengths.shape[1]
    numbers, names, selection = _task_numbers(memory.tasks)
    shown = np.unique(np.linspace(0, num_episodes - 1, _EPISODES).round().astype(int))
    if by_mode:
        numbers, names, selection = np.asarray(memory.modes)[:, None], ["mode"], ""
    width, height = 1.4 + 2.9 * (len(shown) + 1), 1.1 + 2.8 * len(names)
    figure, rows = _new_figure(len(names), len(shown) + 1, width, height, sharex=True, sharey=True)
    for name, values, row in zip(names, numbers.T, rows, strict=True):
        colours = _colours_of(values, by_mode)
        for ax, episode in zip(row, shown, strict=False):
            points = memory.coordinates[:, episode]
            if by_mode:
                _scatter_modes(ax, points, memory.modes)
            else:
                ax.scatter(points[:, 0], points[:, 1], c=colours, s=14, linewidths=0)
            r2 = "" if by_mode else _r2_text(memory.r2[name][episode, -1])
            ax.set_title(f"end of episode {episode + 1}{r2}", loc="left", fontsize=9)
        for path, colour in zip(memory.paths, colours, strict=False):
            x, y = path.reshape(-1, 2).T
            row[-1].plot(x, y, color=colour, linewidth=0.6, alpha=0.7)
            row[-1].plot(x[-1], y[-1], "o", color=colour, markersize=4)
        row[-1].set_title(f"along the trial, {len(memory.paths)} tasks", loc="left", fontsize=9)
        if not by_mode:
            scale = ScalarMappable(Normalize(values.min(), values.max()), _COLOURS_OF_NUMBERS)
            figure.colorbar(scale, ax=row, ticks=MaxNLocator(5))
    for name, row in zip(names, rows, strict=True):
        _name_components(row, f"coloured by {name}", "pca", memory.variance_shares)
    for ax in (ax for row in rows[:-1] for ax in row):
        ax.set_xlabel("")
    figure.suptitle("tasks as the memory holds them", x=0.01, horizontalalignment="left")
    if by_mode:
        figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    reading = "Dots: state of the memory in each task, on the same two principal axes everywhere. Lines: its way there."
    return figure, reading + selection


def _colours_of(values: NDArray[Any], by_mode: bool) -> list[Any]:
    """A colour for each task by its mode, or by a number of it."""
    if by_mode:
        return [COLOURS[index % len(COLOURS)] for index in np.unique(values, return_inverse=True)[1]]
    return list(colormaps[_COLOURS_OF_NUMBERS](Normalize(values.min(), values.max())(values)))


def _draw_memory_r2(memory: Memory) -> tuple[Figure, str]:
    _, names, selection = _task_numbers(memory.tasks)
    num_episodes, length = next(iter(memory.r2.values())).shape
    figure, ((ax,),) = _new_figure(1, 1, 7.2, 4.0)
    steps = 1 + np.arange(num_episodes * length)
    for index, (name, values) in enumerate(_shown_r2(memory.r2, names).items()):
        ax.plot(steps, values.ravel(), label=name, **{**_style(index), "marker": ""})
    for episode in range(1, num_episodes):
        ax.axvline(episode * length + 0.5, linestyle=":", color=GREY, linewidth=1.2)
    ax.set_xlabel("steps in the task")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel("R², leave-one-out")
    ax.set_ylim(top=1.02)
    ax.set_title("the task, read from the memory", loc="left")
    _add_legend(figure, *ax.get_legend_handles_labels(), columns=4)
    reading = f"Ridge regression of the task from the state of each step, over {len(memory.tasks)} tasks."
    reading += " Dotted: the next episode begins." if num_episodes > 1 else ""
    if (memory.lengths < length).any():
        reading += " An episode that has ended keeps its last state."
    return figure, reading + selection


def _draw_training(course: Sequence[AtCheckpoint], tensors: Sequence[str]) -> tuple[Figure, str]:
    iterations = [point.iteration for point in course]
    drawn = _courses(course)
    columns = math.ceil(len(drawn) / 2)
    figure, rows = _new_figure(2, columns, 1.0 + 3.4 * columns, 6.4)
    axes = dict(zip(drawn, (ax for row in rows for ax in row), strict=False))
    for ax in (ax for row in rows for ax in row if ax not in axes.values()):
        ax.remove()
    for title, ax in axes.items():
        ax.set_title(title, loc="left", fontsize=9)
        ax.set_xlabel("meta-iterations")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if title == _SMOOTHNESS:
            _draw_smoothness(ax, iterations, drawn[title])
            continue
        means = np.array([summary.mean for summary in drawn[title]])
        ax.set_ylabel("gamma" if title == _GAMMA else "angle, radians")
        for index, (tensor, line) in enumerate(zip(tensors, means.T, strict=True)):
            ax.plot(iterations, line, label=tensor, **_style(index))
    angles = {name: axes[title] for name, label in _COMPARISONS.items() if (title := _conflict_title(label)) in axes}
    for name, ax in angles.items():
        _draw_unrelated(ax, [getattr(course[0].conflict, name)])
    _share_range(list(angles.values()), _LEAST_RANGE)
    if _GAMMA in axes:
        _share_range([axes[_GAMMA]], _LEAST_RANGE)
    _add_legend(figure, *rows[0][0].get_legend_handles_labels(), columns=4)
    return figure, "Lines: means over tasks; of the smoothness the median, with all tasks' range as the band."


def _draw_smoothness(ax: Axes, iterations: Sequence[int], course: Sequence[Summary]) -> None:
    low, middle, high = (np.array([getattr(summary, name) for summary in course]) for name in ("min", "median", "max"))
    ax.fill_between(iterations, low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
    ax.plot(iterations, middle, "o-", color=COLOURS[0], linewidth=1.6, markersize=4)
    ax.set_ylabel("effective beta-smoothness")


def _courses(course: Sequence[AtCheckpoint]) -> dict[str, list[Summary]]:
    """Panels of the course of training, by title; only quantities that are defined at every checkpoint."""
    conflict, attenuation, landscape = (
        [getattr(point, part) for point in course] for part in ("conflict", "attenuation", "landscape")
    )
    panels: dict[str, list[Summary]] = {}
    if all(conflict):
        panels |= {
            _conflict_title(label): [getattr(at, name) for at in conflict] for name, label in _COMPARISONS.items()
        }
    if all(attenuation):
        panels[_GAMMA] = [at.gamma for at in attenuation]
    if all(landscape):
        panels[_SMOOTHNESS] = [at.smoothness for at in landscape]
    return panels


def _conflict_title(comparison: str) -> str:
    return f"conflict {comparison}"


# Parts of figures


def _new_figure(
    rows: int, columns: int, width: float, height: float, **options: Any
) -> tuple[Figure, list[list[Axes]]]:
    # No pyplot: drawing must not touch a notebook's or a window's state.
    figure = Figure(figsize=(width, height), layout="constrained")
    width_ratios = options.pop("width_ratios", None)
    axes = figure.subplots(rows, columns, squeeze=False, width_ratios=width_ratios, **options)
    for ax in axes.flat:
        style_axes(ax, grid="y")
    return figure, [list(row) for row in axes]


def _draw_tasks(ax: Axes, values: Floats, place: tuple[int, int], style: tuple[str, str], label: str = "") -> None:
    """Draws the values of tasks [task, column] as dots, and their mean as a hollow marker that hides no dot.

    Args:
        ax: The axes.
        values: Values; NaN if not defined.
        place: (index, count): index of this series among the series that stand side by side in a column.
        style: Colour and marker.
        label: Name in the legend.
    """
    (index, count), (colour, marker) = place, style
    centre = np.arange(values.shape[1]) + (index - (count - 1) / 2) * 0.8 / count
    spread = np.linspace(-_SPREAD, _SPREAD, len(values))[:, None] / count
    ax.plot((centre + spread).ravel(), values.ravel(), ".", color=colour, markersize=3.5, alpha=0.45)
    ax.plot(centre, _means(values), marker, label=label or None, **_hollow(colour))


def _draw_differences(ax: Axes, difference: Difference, columns: Sequence[int]) -> None:
    """Draws some columns of differences: tasks as dots, their mean with its interval, and a line at 0."""
    chosen = list(columns)
    ax.axhline(0, color=GREY, linewidth=1.2)
    _draw_tasks(ax, difference.per_task[:, chosen], (0, 1), (COLOURS[0], "o"))
    if difference.interval is not None:
        ax.errorbar(
            range(len(chosen)),
            difference.mean[chosen],
            difference.interval[chosen],
            fmt="none",
            color="black",
            capsize=3,
        )


def _hollow(colour: str) -> dict[str, Any]:
    return {"color": colour, "markersize": 8, "markerfacecolor": "none", "markeredgewidth": 1.6}


def _draw_unrelated(ax: Axes, comparisons: Sequence[Angles]) -> None:
    """Draws the angle of unrelated gradients: one line if all comparisons have the same number of gradients."""
    levels = {angles.unrelated: angles.num_vectors for angles in comparisons}
    for (level, count), line in zip(levels.items(), (":", "-."), strict=False):
        label = "expected if unrelated" + (f" ({count} gradients)" if len(levels) > 1 else "")
        ax.axhline(level, linestyle=line, color=GREY, linewidth=1.2, label=label)


def _draw_shares(ax: Axes, values: Floats) -> None:
    """Draws the share of tasks at or below a value, among the finite values."""
    values = values[np.isfinite(values)]
    if not len(values):
        return
    ax.ecdf(values, color=COLOURS[0], linewidth=1.6)
    ax.set_ylim(0, 1.02)
    # A logarithmic axis over less than a decade would have hardly any ticks.
    if 0 < 10 * values.min() < values.max():
        ax.set_xscale("log")
        ax.text(1, 0.02, "logarithmic", transform=ax.transAxes, ha="right", fontsize=8, color=GREY)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter("{x:g}")


def _share_range(axes: Sequence[Axes], least: float) -> None:
    """Gives panels one vertical range of at least ``least``, so that rounding does not look like structure."""
    if not axes:
        return
    limits = [ax.get_ylim() for ax in axes]
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    missing = max(0.0, least - (high - low)) / 2
    for ax in axes:
        ax.set_ylim(low - missing, high + missing)


def _scatter_modes(ax: Axes, points: Floats, modes: Any) -> None:
    for index, mode in enumerate(np.unique(modes)):
        chosen = points[modes == mode]
        marker, colour = MARKERS[index % len(MARKERS)], COLOURS[index % len(COLOURS)]
        ax.scatter(
            chosen[:, 0], chosen[:, 1], s=16, color=colour, marker=marker, alpha=0.7, linewidths=0, label=f"mode {mode}"
        )


def _name_components(row: Sequence[Axes], kind: str, projection: str, shares: Floats | None) -> None:
    names = [f"{projection} {number}" for number in (1, 2)]
    if shares is not None:
        names = [f"component {k} ({share:.0%} of variance)" for k, share in enumerate(shares, start=1)]
    for ax in row:
        ax.set_xlabel(names[0])
    row[0].set_ylabel(f"{kind}\n{names[1]}")


def _name_ticks(ax: Axes, names: Sequence[str]) -> None:
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")


def _add_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int = 2) -> None:
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)


def _style(index: int) -> dict[str, Any]:
    # The numbers of colours and markers differ, so that pairs repeat late.
    line = ("-", "--")[index // len(COLOURS) % 2]
    return {
        "color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "linestyle": line,
        "linewidth": 1.4, "markersize": 4,
    }  # fmt: skip


def _means(values: Floats) -> Floats:
    """Mean over tasks of the defined values; NaN if there are none."""
    return np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)


def _task_numbers(tasks: NDArray[Any]) -> tuple[Floats, list[str], str]:
    """The first few components of the tasks that vary, or the first component if none varies.

    Returns:
        The components, [task, component]; their names; if more components vary, a sentence that says so, else "".
    """
    numbers = rows_of_numbers(tasks)
    varying = np.flatnonzero(np.ptp(numbers, axis=0) > 0)
    chosen = varying[:_TASK_DIMENSIONS] if len(varying) else np.array([0])
    names = ["task" if numbers.shape[1] == 1 else f"task[{index}]" for index in chosen]
    left = f" The first {len(chosen)} of the {len(varying)} numbers of a task that vary."
    return numbers[:, chosen], names, left if len(varying) > len(chosen) else ""


def _origin(result: Analysis, figure: str) -> tuple[str, str]:
    """Two lines: the analysed run; the tasks, episodes and version of the analysis."""
    run, tasks, rollouts = result.config, result.tasks, result.settings.rollouts
    if figure == "embedding" and result.embedding is not None:
        tasks, rollouts = result.embedding.tasks, result.embedding.rollouts
    if figure.startswith("memory") and result.memory is not None:
        tasks, rollouts = result.memory.tasks, result.memory.lengths.shape[1]
    which = "" if figure == "through_training" else f", iteration {result.iteration} ({result.checkpoint})"
    return (
        f"{run_title(run)} on {run['env']}, seed {run['seed']}{which}",
        f"{tasks_in_words(tasks, result.finite)}, {read_by(result.measure)} of each: {rollouts} \N{MIDDLE DOT} "
        f"{software_text([{'metarl': result.metarl}])}",
    )
