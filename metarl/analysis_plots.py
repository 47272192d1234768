"""Figures of an analysis; each shows all tasks and says what it was measured on."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.errors import UserError
from metarl.measures import Floats
from metarl.plotting import COLOURS, GREY, MARKERS
from metarl.statistics import tasks_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Small multiples stay readable up to this many of a task's numbers.
_TASK_DIMENSIONS = 4
# Tasks stand beside one another, so that equal values do not hide each other; share of a column's width.
_SPREAD = 0.25
_COMPARISONS = {
    "between_tasks": "between tasks",
    "between_episodes": "between episodes of different tasks",
    "within_task": "between episodes of a task",
}


def draw(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draws the figures of an analysis.

    Args:
        result: What `metarl.analysis.analyze` returned, or wrote.
        folder: Where the pictures go.

    Returns:
        Paths of the pictures; what does not apply to the run's rule is not drawn.

    Raises:
        UserError: If they cannot be written.
    """
    figures = {
        "conflict": _draw_conflict,
        "attenuation": _draw_attenuation,
        "landscape": _draw_landscape,
        "representations": _draw_representations,
        "freezing": _draw_freezing,
        "embedding": _draw_embedding,
        "through_training": _draw_training,
    }
    paths = []
    for name, make in figures.items():
        if result[name]:
            paths.append(folder / f"{name}.png")
            figure = make(result)
            figure.supxlabel(_caption(result, name), fontsize=7.5, color=GREY, x=0.01, horizontalalignment="left")
            try:
                figure.savefig(paths[-1], dpi=150)
            except OSError as error:
                raise UserError(f"cannot write '{paths[-1]}': {error.strerror or error}.") from error
    return paths


def _draw_conflict(result: dict[str, Any]) -> Figure:
    figure, ((ax,),) = _new_figure(1, 1, 1.4 + 0.9 * len(result["tensors"]), 4.2)
    for index, (name, label) in enumerate(_COMPARISONS.items()):
        found = result["conflict"][name]
        style = COLOURS[index], MARKERS[index]
        _draw_tasks(ax, found, (index, len(_COMPARISONS)), style, f"{label} ({found['num_vectors']} gradients)")
    ax.plot([], [], ":", color=GREY, linewidth=1.2, label="were they unrelated")
    for level in sorted({result["conflict"][name]["unrelated"] for name in _COMPARISONS}):
        ax.axhline(level, linestyle=":", color=GREY, linewidth=1.2)
    _name_ticks(ax, result["tensors"])
    ax.set_ylabel("angle to the sum, radians")
    ax.set_ylim(0, 1.02 * math.pi)
    ax.set_title("degree of conflict of meta-gradients", loc="left")
    _add_legend(figure, ax)
    return figure


def _draw_attenuation(result: dict[str, Any]) -> Figure:
    found, tasks = result["attenuation"]["gamma"], _task_numbers(result["tasks"])
    gamma = _array(found["per_task"])
    # A tensor that is left alone has a gamma of exactly 1.
    shown = [i for i in range(len(result["tensors"])) if not (gamma[:, i] == 1).all()] or [0]
    rows, width, height = tasks.shape[1], 0.6 + 2.1 * len(shown), 0.8 + 1.7 * tasks.shape[1]
    # Axes of their own: means differ more than tasks do. The title says how much that is.
    figure, axes = _new_figure(rows, len(shown), width, height, sharey="col")
    for dimension, row in enumerate(axes):
        for ax, tensor in zip(row, shown, strict=True):
            ax.scatter(tasks[:, dimension], gamma[:, tensor], s=12, color=COLOURS[0], alpha=0.7, linewidths=0)
            ax.set_xlabel(_task_name(tasks, dimension))
            ax.ticklabel_format(axis="y", useOffset=False)
            ax.locator_params(nbins=4)
        row[0].set_ylabel("gamma")
    for ax, tensor in zip(axes[0], shown, strict=True):
        size = f"{found['mean'][tensor]:.3g}, spread {found['std'][tensor]:.2g}"
        ax.set_title(f"{result['tensors'][tensor]}\n{size}", loc="left", fontsize=9)
    return figure


def _draw_landscape(result: dict[str, Any]) -> Figure:
    found = result["landscape"]
    fractions = [0.0, *found["fractions"]]
    figure, ((loss, gradient, smoothness),) = _new_figure(1, 3, 10.0, 3.4)
    for ax, name in ((loss, "loss_change"), (gradient, "gradient_change")):
        values = np.insert(_array(found[name]["per_task"]), 0, 0, axis=1)
        ax.plot(fractions, values.T, color=COLOURS[0], linewidth=0.7, alpha=0.35)
        ax.plot(fractions, _means(values), color=COLOURS[0], linewidth=2)
        ax.axvline(1, linestyle=":", color=GREY, linewidth=1.2)
        ax.set_xlabel("multiples of the inner step")
    loss.set_title("change of inner loss", loc="left")
    gradient.set_title("l2 change of its gradient", loc="left")
    values = np.sort(_array(found["smoothness"]["per_task"]))
    values = values[np.isfinite(values)]
    smoothness.plot(values, (np.arange(len(values)) + 1) / max(1, len(values)), ".-", color=COLOURS[0], linewidth=1)
    if len(values) and values[0] > 0:
        smoothness.set_xscale("log")
    smoothness.set_ylim(0, 1.02)
    smoothness.set_xlabel("effective beta-smoothness")
    smoothness.set_ylabel("share of tasks at or below")
    smoothness.set_title("smoothness (less is smoother)", loc="left")
    return figure


def _draw_representations(result: dict[str, Any]) -> Figure:
    names, tensors = result["representations"]["names"], result["tensors"]
    width = 3.6 + 1.0 * len(names) + 0.8 * len(tensors)
    figure, ((similarity, movement),) = _new_figure(1, 2, width, 3.8, width_ratios=(len(names), len(tensors)))
    parts = {"start": "whole inner loop", "gradient_steps": "gradient steps alone"}
    shown = [part for part in parts if part in result["movement"]]
    for index, part in enumerate(shown):
        suffix, colour = f", {parts[part]}" if len(shown) > 1 else "", COLOURS[index]
        for offset, (kind, marker) in enumerate((("cka", "o"), ("cca", "s"))):
            place, found = (2 * index + offset, 2 * len(shown)), result["representations"][part][kind]
            _draw_tasks(similarity, found, place, (colour, marker), f"{kind.upper()}{suffix}")
        _draw_tasks(
            movement, result["movement"][part]["distance"], (index, len(shown)), (colour, "D"), f"distance{suffix}"
        )
    _name_ticks(similarity, names)
    similarity.set_title("similarity before and after", loc="left")
    _name_ticks(movement, tensors)
    movement.set_title("Euclidean distance moved", loc="left")
    movement.set_ylim(bottom=0)
    _add_legend(figure, similarity, movement)
    return figure


def _draw_freezing(result: dict[str, Any]) -> Figure:
    found = result["freezing"]
    figure, ((ax,),) = _new_figure(1, 1, 4.6, 3.6)
    values = _array(found["returns"]["per_task"])
    ax.plot(found["frozen_layers"], values.T, color=COLOURS[0], linewidth=0.7, alpha=0.35)
    ax.plot(found["frozen_layers"], _means(values), "o-", color=COLOURS[0], linewidth=2)
    last = len(found["frozen_layers"]) - 1
    names = ["none", *(f"first {k}" if k > 1 else "first" for k in range(1, last)), "all"]
    ax.set_xticks(found["frozen_layers"], names)
    ax.set_xlabel("layers frozen in the inner loop")
    ax.set_ylabel("return after the inner loop")
    ax.set_title("freezing at test time", loc="left")
    return figure


def _draw_embedding(result: dict[str, Any]) -> Figure:
    found = result["embedding"]
    kinds = [kind for kind in ("modulation", "attenuation") if kind in found]
    tasks, modes = _task_numbers(found["tasks"]), np.array(found["modes"])
    by_mode = found["num_modes"] > 1
    columns = 1 if by_mode else tasks.shape[1]
    figure, rows = _new_figure(len(kinds), columns, 4.6 * columns, 3.7 * len(kinds))
    for row, kind in zip(rows, kinds, strict=True):
        points = _array(found[kind]["coordinates"])
        for dimension, ax in enumerate(row):
            if by_mode:
                _scatter_modes(ax, points, modes)
            else:
                values = ax.scatter(
                    points[:, 0], points[:, 1], c=tasks[:, dimension], s=14, cmap="viridis", linewidths=0
                )
                figure.colorbar(values, ax=ax, label=_task_name(tasks, dimension))
            _name_components(ax, found["projection"], found[kind]["variance_shares"])
            ax.set_title(f"{len(points)} tasks as the {kind} sees them", loc="left", fontsize=10)
    if by_mode:
        _add_legend(figure, rows[0][0])
    return figure


def _draw_training(result: dict[str, Any]) -> Figure:
    course = result["through_training"]
    iterations = [each["iteration"] for each in course]
    panels = {f"conflict {label}": _course(course, "conflict", name, "mean") for name, label in _COMPARISONS.items()}
    panels["mean gamma"] = _course(course, "attenuation", "gamma", "mean")
    panels["effective beta-smoothness"] = _course(course, "landscape", "smoothness")
    drawn = {title: values for title, values in panels.items() if values}
    figure, (axes,) = _new_figure(1, len(drawn), 1.6 + 3.4 * len(drawn), 3.4)
    for ax, (title, values) in zip(axes, drawn.items(), strict=True):
        if title == "effective beta-smoothness":
            low, mean, high = (_array([each[key] for each in values]) for key in ("min", "mean", "max"))
            ax.fill_between(iterations, low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
            ax.plot(iterations, mean, "o-", color=COLOURS[0], linewidth=1.6, markersize=4)
        else:
            for index, (tensor, line) in enumerate(zip(result["tensors"], _array(values).T, strict=True)):
                ax.plot(iterations, line, label=tensor, **_style(index))
        ax.set_title(title, loc="left", fontsize=9)
        ax.set_xlabel("meta-iterations")
    _add_legend(figure, axes[0], columns=len(result["tensors"]))
    return figure


def _course(course: Sequence[dict[str, Any]], *path: str) -> list[Any] | None:
    """What lies at a path of each checkpoint's analysis; None where it does not apply."""
    if not all(each[path[0]] for each in course):
        return None
    return [functools.reduce(lambda part, key: part[key], path, each) for each in course]


# Parts of figures


def _new_figure(
    rows: int, columns: int, width: float, height: float, **options: Any
) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure

    # No pyplot: drawing must not touch a notebook's or a window's state.
    figure = Figure(figsize=(width, height), layout="constrained")
    width_ratios = options.pop("width_ratios", None)
    axes = figure.subplots(rows, columns, squeeze=False, width_ratios=width_ratios, **options)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, [list(row) for row in axes]


def _draw_tasks(ax: Axes, found: dict[str, Any], place: tuple[int, int], style: tuple[str, str], label: str) -> None:
    """Each task's values [task, column] as dots, their mean as a marker.

    Args:
        ax: Where.
        found: ``per_task``, see `metarl.measures.over_tasks`.
        place: (index, count): which of how many that stand beside one another.
        style: Colour and marker.
        label: Name in the legend.
    """
    values, (index, count), (colour, marker) = _array(found["per_task"]), place, style
    centre = np.arange(values.shape[1]) + (index - (count - 1) / 2) * 0.8 / count
    spread = np.linspace(-_SPREAD, _SPREAD, len(values))[:, None] / count
    ax.plot((centre + spread).ravel(), values.ravel(), ".", color=colour, markersize=3, alpha=0.4)
    ax.plot(centre, _means(values), marker, color=colour, markersize=6, markeredgecolor="white", label=label)


def _scatter_modes(ax: Axes, points: Floats, modes: Any) -> None:
    for index, mode in enumerate(np.unique(modes)):
        chosen = points[modes == mode]
        marker, colour = MARKERS[index % len(MARKERS)], COLOURS[index % len(COLOURS)]
        ax.scatter(
            chosen[:, 0], chosen[:, 1], s=16, color=colour, marker=marker, alpha=0.7, linewidths=0, label=f"mode {mode}"
        )


def _name_components(ax: Axes, projection: str, shares: Sequence[float] | None) -> None:
    names = [f"{projection} {number}" for number in (1, 2)]
    if shares:
        names = [f"component {k} ({share:.0%} of variance)" for k, share in enumerate(shares, start=1)]
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])


def _name_ticks(ax: Axes, names: Sequence[str]) -> None:
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")


def _add_legend(figure: Figure, *axes: Axes, columns: int = 2) -> None:
    named = [pair for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    handles, labels = zip(*named, strict=True)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)


def _style(index: int) -> dict[str, Any]:
    # Colours and markers differ in number, so that their pairs repeat late.
    line = ("-", "--")[index // len(COLOURS) % 2]
    return {
        "color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "linestyle": line,
        "linewidth": 1.4, "markersize": 4,
    }  # fmt: skip


def _array(values: Any) -> Floats:
    """Nested lists with None for what is not defined."""
    return np.array(values, dtype=np.float64)


def _means(values: Floats) -> Floats:
    """Over tasks, of what is defined; NaN where nothing is."""
    return np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)


def _task_numbers(tasks: Sequence[Any]) -> Floats:
    """[task, number]; the first few of those that vary, or the first if none does."""
    numbers = _array(tasks).reshape(len(tasks), -1)
    varying = np.flatnonzero(np.ptp(numbers, axis=0) > 0)[:_TASK_DIMENSIONS]
    return numbers[:, varying if len(varying) else [0]]


def _task_name(tasks: Floats, dimension: int) -> str:
    return "task" if tasks.shape[1] == 1 else f"task[{dimension}]"


def _caption(result: dict[str, Any], figure: str) -> str:
    run, origin = result["config"], result["metarl"]
    measured = result["embedding"] if figure == "embedding" else result
    rollouts = measured.get("rollouts") or result["analysis"]["rollouts"]
    which = "" if figure == "through_training" else f", iteration {result['iteration']} ({result['checkpoint']})"
    return (
        f"{run['algo']}{' attenuated' if run['attenuate'] else ''} on {run['env']}, seed {run['seed']}{which}\n"
        f"{tasks_in_words(measured['tasks'], result['finite'])}, episodes of each: {rollouts} · "
        f"metarl {origin['version']}, commit {origin['commit']}"
    )
