"""Figures of a comparison: paired differences, and each task before and after adaptation.

They are as wide as one column of print or two, so that their letters are legible there.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarl.common.arrays import Floats
from metarl.common.statistics import made_worse
from metarl.common.words import counted, plural
from metarl.reports.limits import ARROWS, FAR, LEAVES, MARK, WORSE, show_between, worst_shown
from metarl.reports.styles import COLOURS, GREY, add_caption, style_axes

if TYPE_CHECKING:
    from metarl.reports.comparison import Comparison, Line, Pair

_WIDTH = 3.5  # inches
_WIDTH_OF_TWO = 7.0
_COLUMNS_OF_TWO = 4
_MOST_TICKS = 6  # of steps, in a panel
_LETTERS: Any = {"font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "xtick.labelsize": 6.5, "ytick.labelsize": 7}
_LINE = 0.11  # inches, of such letters
_CHARACTERS_PER_INCH = 16
_COLUMNS = 3  # of scatters
_LABEL_WIDTH = 26  # characters
_TITLE_WIDTH = 18
_CAPTION_WIDTH = 78
_BETTER, _WORSE = COLOURS[0], COLOURS[1]  # Blue and vermilion, which all readers can tell apart.


def draw_comparison(comparison: Comparison) -> Figure:
    """Draws a comparison, at its step.

    Above, a row for each line: its difference from the reference. A dot is a seed, the diamond their mean, the bar the
    95 % t interval from five seeds on. Below, a panel for each line whose policy adapts: a dot is a task of a seed,
    before (horizontal) and after adaptation (vertical), in another colour where adaptation has made it worse.

    Args:
        comparison: The comparison.

    Returns:
        The figure.
    """
    from matplotlib import rc_context

    adapting = [line for line in comparison.lines if line.made_worse is not None and comparison.step > 0]
    rows, titles = -(-len(adapting) // _COLUMNS), [_wrapped(line.label, _TITLE_WIDTH) for line in adapting]
    labels = [_wrapped(pair.label, _LABEL_WIDTH) for pair in comparison.pairs]
    heights = [
        0.7 + len(labels) * (0.1 + _LINE * _most_lines(labels)) if labels else 0.01,
        0.35 + rows * (0.95 + _LINE * _most_lines(titles)),
    ]
    words, left = [], False
    with rc_context(_LETTERS):
        figure = Figure(figsize=(_WIDTH, sum(heights) + 0.3), layout="constrained")
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
        if comparison.pairs:
            left = _draw_differences(above.subplots(), labels, comparison)
            better = "right is better" if comparison.sign > 0 else "left is better"
            bar = ", the bar the 95 % t interval" if any(pair.interval is not None for pair in comparison.pairs) else ""
            words.append(f"above: a dot is a seed, the diamond their mean{bar}")
            text = f"{comparison.measure} after {_steps(comparison)}, less {comparison.reference}'s"
            above.supxlabel(f"{_wrapped(text, _CHARACTERS_PER_INCH * _WIDTH)}\n({better})", fontsize=7)
        if adapting:
            axes = below.subplots(rows, _COLUMNS, squeeze=False, sharex=True, sharey=True).ravel()
            left |= _draw_tasks(axes.tolist(), adapting, titles, comparison)
            words.append("below: a dot is a task of a seed, orange where adaptation makes it worse")
            below.supxlabel(f"{comparison.measure} of a task before adaptation", fontsize=7)
            below.supylabel(f"after {_steps(comparison)}", fontsize=7)
        parts = {"above": _seeds(comparison.pairs), "below": _seeds(adapting)}
        drawn = {where: seeds for where, seeds in parts.items() if seeds}
        if len(set(drawn.values())) > 1:
            text = ", ".join(f"{where} {seeds}" for where, seeds in drawn.items())
        else:
            text = next(iter(drawn.values()), _seeds(comparison.lines))
        caption = " \N{MIDDLE DOT} ".join([*words, *[LEAVES] * left, _caption(comparison, text)])
        add_caption(figure, _wrapped(caption, _CAPTION_WIDTH), 5.5)
    return figure


def draw_differences(comparison: Comparison) -> Figure:
    """Draws each line's difference from the reference after 1, 2, ... steps, in a panel of its own.

    A dot is a seed, the diamond their mean, the bar the 95 % t interval from five seeds on. Every panel has a scale of
    its own, since differences of useful algorithms are small beside those of baselines.

    Args:
        comparison: A comparison of at least two lines.

    Returns:
        The figure, as wide as two columns of print, or as one for up to two lines.
    """
    from matplotlib import rc_context

    pairs = comparison.pairs
    width, columns = (_WIDTH, 2) if len(pairs) <= 2 else (_WIDTH_OF_TWO, _COLUMNS_OF_TWO)
    rows = -(-len(pairs) // columns)
    with rc_context(_LETTERS):
        height = 1.25 * rows + 0.7
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in axes[len(pairs) :]:
            ax.set_visible(False)
        left = [_draw_steps(ax, pair, comparison) for ax, pair in zip(axes, pairs, strict=False)]
        better = "above 0 is better" if comparison.sign > 0 else "below 0 is better"
        text = _wrapped(f"{comparison.measure}, less {comparison.reference}'s", _CHARACTERS_PER_INCH * height * 0.8)
        figure.supylabel(f"{text}\n({better})", fontsize=7)
        words = [f"against {plural(comparison.step_name)}", "dot: a seed, diamond: their mean"]
        words += ["bar: 95 % t interval over seeds"] * any(pair.interval is not None for pair in pairs)
        words += ["each panel has its own scale"] + [LEAVES] * any(left) + [_caption(comparison, _seeds(pairs))]
        caption = _wrapped(" · ".join(words), _CAPTION_WIDTH * width / _WIDTH * 5.5 / 6)
        add_caption(figure, caption, 6)
    return figure


def _draw_steps(ax: Axes, pair: Pair, comparison: Comparison) -> bool:
    """Draws a line's differences after each step; returns whether one of them leaves the axis."""
    less_is_better, steps = comparison.sign < 0, range(_first(comparison), len(pair.mean))
    for step in steps:
        mean = float(pair.mean[step])
        colour = _BETTER if (mean < 0) == less_is_better else _WORSE
        if pair.interval is not None:
            ax.errorbar(step, mean, yerr=float(pair.interval[step]), color=colour, linewidth=1.2, capsize=2)
        ax.plot([step] * len(pair.seeds), pair.per_seed[:, step], "o", color=colour, markersize=2.6, alpha=0.5, mew=0)
        ax.plot(step, mean, "D", color=colour, markersize=3.5, markeredgecolor="white", markeredgewidth=0.4)
    ax.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.set_title(_wrapped(pair.label, _TITLE_WIDTH), loc="left")
    ax.set_xticks(steps if len(steps) <= _MOST_TICKS else steps[::2])
    ax.set_xlim(steps[0] - 0.4, steps[-1] + 0.4)
    ax.locator_params(axis="y", nbins=4)
    style_axes(ax, grid="y", width=0.6)
    return _limit(ax, "y", [(step, _reached(pair, step, comparison)) for step in steps], comparison)


def _limit(
    ax: Axes, name: Literal["x", "y"], differences: Sequence[tuple[int, Floats]], comparison: Comparison
) -> bool:
    """Keeps differences that have diverged from stretching an axis, and marks them; returns whether there are any.

    Args:
        ax: The panel.
        name: The axis of the differences.
        differences: Places on the other axis, and the differences there, from `_reached`.
        comparison: The comparison; where its lines begin, and the best that one reaches, say what is usual.
    """
    if comparison.measure not in WORSE:
        return False
    values = np.concatenate([of_place for _, of_place in differences])
    means = np.array([line.mean for line in comparison.lines])
    best = comparison.sign * np.nanmax(comparison.sign * means, initial=-np.inf)
    usual = [abs(best), abs(np.nanmedian(means[:, 0]))]
    far = FAR * max([value for value in usual if np.isfinite(value)], default=0.0)
    shown = values[abs(values) <= far]
    if len(shown) == len(values):
        return False
    ends = show_between(ax, name, min([0.0, *shown]), max([0.0, *shown]))
    for place, of_place in differences:
        for side, end in zip((-1, 1), ends, strict=True):
            if (side * of_place > far).any():
                at = (place, end) if name == "y" else (end, place)
                colour = _WORSE if side == WORSE[comparison.measure] else _BETTER
                ax.plot(*at, marker=ARROWS[name][side], color=colour, **MARK)
    return True


def _reached(pair: Pair, step: int, comparison: Comparison) -> Floats:
    """The differences of a step, [seed]; infinite where there is none, since the line or the reference has diverged."""
    (line,) = (line for line in comparison.lines if line.label == pair.label)
    kept = [line.seeds.index(seed) for seed in pair.seeds]
    diverged = np.isnan(line.returns[kept, :, step]).any(axis=1)
    differences = pair.per_seed[:, step]
    return np.where(np.isnan(differences), comparison.sign * np.where(diverged, -np.inf, np.inf), differences)


def _first(comparison: Comparison) -> int:
    """The first step whose differences matter: before adaptation, only agents that do not adapt are to be compared."""
    return min(1, len(comparison.lines[0].mean) - 1)


def _steps(comparison: Comparison) -> str:
    return counted(comparison.step, comparison.step_name)


def _seeds(rows: Sequence[Line | Pair]) -> str:
    """The numbers of seeds of what is drawn; empty if nothing is."""
    counts = sorted({len(row.seeds) for row in rows})
    return f"{' or '.join(map(str, counts))} seed{'' if counts == [1] else 's'}" if counts else ""


def _caption(comparison: Comparison, seeds: str) -> str:
    return f"{comparison.env} · {comparison.tasks} · {seeds} · {comparison.checkpoint} checkpoint"


def _draw_differences(ax: Axes, labels: Sequence[str], comparison: Comparison) -> bool:
    """Draws a row for each line; returns whether a difference leaves the axis."""
    pairs, step = comparison.pairs, comparison.step
    for row, pair in enumerate(pairs):
        _draw_pair(ax, row, pair, step, less_is_better=comparison.sign < 0)
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(pairs)), labels)
    ax.set_ylim(len(pairs) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0, pad=7)  # Room for an arrow at the edge.
    ax.locator_params(axis="x", nbins=5)
    style_axes(ax, grid="x", width=0.6)
    ax.spines["left"].set_visible(False)
    return _limit(ax, "x", [(row, _reached(pair, step, comparison)) for row, pair in enumerate(pairs)], comparison)


def _draw_pair(ax: Axes, row: int, pair: Pair, step: int, *, less_is_better: bool) -> None:
    mean = float(pair.mean[step])
    colour = _BETTER if (mean < 0) == less_is_better else _WORSE
    if pair.interval is not None:
        ax.errorbar(mean, row, xerr=float(pair.interval[step]), color=colour, linewidth=1.4, capsize=2.5)
    ax.plot(pair.per_seed[:, step], [row] * len(pair.seeds), "o", color=colour, markersize=2.6, alpha=0.5, mew=0)
    ax.plot(mean, row, "D", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.5)


def _draw_tasks(axes: Sequence[Axes], lines: Sequence[Line], titles: Sequence[str], comparison: Comparison) -> bool:
    """Draws a panel for each line; returns whether a task has diverged, which is marked at the edge."""
    step, sign = comparison.step, comparison.sign
    drawn = [line.returns[:, :, [0, step]].reshape(-1, 2) for line in lines]
    every = np.concatenate(drawn)
    before = sign * np.nanmin(sign * every[:, 0])  # The worst one.
    best = sign * np.nanmax(sign * every)
    worst = worst_shown(every, before, abs(before - best), -sign)
    if worst is None:
        worst = sign * np.nanmin(sign * every)
    left, arrow = False, ARROWS["y"][-sign]
    for ax, line, title, values in zip(axes, lines, titles, drawn, strict=False):
        worse = made_worse(sign * values)[:, 1]
        # At the edge, also what is no number.
        before, after = sign * np.fmax(sign * values, sign * worst).T
        far = ~(sign * values >= sign * worst).all(axis=1)
        left |= bool(far.any())
        ax.plot([worst, best], [worst, best], color=GREY, linewidth=0.8, zorder=0)
        for shown, colour in ((~worse, _BETTER), (worse, _WORSE)):
            of_tasks: dict[str, Any] = {"linestyle": "", "color": colour, "alpha": 0.6, "mew": 0}
            ax.plot(before[shown & ~far], after[shown & ~far], marker="o", markersize=2.2, **of_tasks)
            if (shown & far).any():
                ax.plot(before[shown & far], after[shown & far], marker=arrow, markersize=5, clip_on=False, **of_tasks)
        assert line.made_worse is not None
        ax.set_title(f"{title}\n{line.made_worse[step]:.0%} worse", fontsize=6.5, loc="left")
        style_axes(ax)
        ax.locator_params(nbins=3)
    for ax in axes[len(lines) :]:
        ax.remove()
    return left


def _wrapped(text: str, width: float) -> str:
    """The text in lines of at most ``width`` characters, rounded."""
    return textwrap.fill(text, round(width))


def _most_lines(texts: Sequence[str]) -> int:
    return max((text.count("\n") + 1 for text in texts), default=0)
