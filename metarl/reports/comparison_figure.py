"""The figure of a comparison: paired differences, and each task before and after adaptation.

It is as wide as a column of print, so that its letters are legible there.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarl.reports.styles import COLOURS, GREY

if TYPE_CHECKING:
    from metarl.reports.comparison import Comparison, Line, Pair

_WIDTH = 3.5  # inches
_LETTERS: Any = {"font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "xtick.labelsize": 6.5, "ytick.labelsize": 7}
_COLUMNS = 3  # of scatters
_LABEL_WIDTH = 26  # characters
_TITLE_WIDTH = 20
_CAPTION_WIDTH = 78
_BETTER, _WORSE = COLOURS[0], COLOURS[1]  # Blue and vermilion, which all readers can tell apart.


def draw_comparison(comparison: Comparison) -> Figure:
    """Draws a comparison, at its step.

    Above, a row for each line: its difference from the reference. A dot is a seed, the diamond their mean, the bar the
    95 % t interval from five seeds on. Below, a panel for each line whose policy adapts: a dot is a task, mean over
    seeds, before (horizontal) and after adaptation (vertical); below the diagonal, adaptation has made it worse.

    Args:
        comparison: The comparison.

    Returns:
        The figure.
    """
    from matplotlib import rc_context

    adapting = [line for line in comparison.lines if line.made_worse is not None and comparison.step > 0]
    rows = -(-len(adapting) // _COLUMNS)
    heights = [0.5 + 0.2 * len(comparison.pairs), 0.35 + 1.15 * rows]
    with rc_context(_LETTERS):
        figure = Figure(figsize=(_WIDTH, sum(heights) + 0.3), layout="constrained")
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
        if comparison.pairs:
            _draw_differences(above.subplots(), comparison)
        if adapting:
            axes = below.subplots(rows, _COLUMNS, squeeze=False, sharex=True, sharey=True).ravel()
            _draw_tasks(axes.tolist(), adapting, comparison)
            below.supxlabel(f"{comparison.measure} of a task before adaptation", fontsize=7)
            below.supylabel(f"after {_steps(comparison)}", fontsize=7)
        caption = textwrap.fill(_caption(comparison), _CAPTION_WIDTH)
        figure.supxlabel(caption, fontsize=5.5, color=GREY, x=0.01, horizontalalignment="left")
    return figure


def _steps(comparison: Comparison) -> str:
    return f"{comparison.step} {comparison.step_name}{'' if comparison.step == 1 else 's'}"


def _caption(comparison: Comparison) -> str:
    counts = sorted({len(line.seeds) for line in comparison.lines})
    seeds = f"{' or '.join(map(str, counts))} seed{'' if counts == [1] else 's'}"
    return f"{comparison.env} · {comparison.tasks} · {seeds} · {comparison.checkpoint} checkpoint"


def _draw_differences(ax: Axes, comparison: Comparison) -> None:
    pairs = comparison.pairs
    for row, pair in enumerate(pairs):
        _draw_pair(ax, row, pair, comparison.step, less_is_better=comparison.measure == "error")
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(pairs)), [textwrap.shorten(pair.label, _LABEL_WIDTH, placeholder="…") for pair in pairs])
    ax.set_ylim(len(pairs) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
    better = "left is better" if comparison.measure == "error" else "right is better"
    ax.set_xlabel(f"{comparison.measure} after {_steps(comparison)}, less {comparison.reference}'s ({better})")


def _draw_pair(ax: Axes, row: int, pair: Pair, step: int, *, less_is_better: bool) -> None:
    mean = float(pair.mean[step])
    colour = _BETTER if (mean < 0) == less_is_better else _WORSE
    if pair.interval is not None:
        ax.errorbar(mean, row, xerr=float(pair.interval[step]), color=colour, linewidth=1.4, capsize=2.5)
    ax.plot(pair.per_seed[:, step], [row] * len(pair.seeds), "o", color=colour, markersize=2.6, alpha=0.5, mew=0)
    ax.plot(mean, row, "D", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.5)


def _draw_tasks(axes: Sequence[Axes], lines: Sequence[Line], comparison: Comparison) -> None:
    step, sign = comparison.step, -1 if comparison.measure == "error" else 1
    by_task = [line.returns.mean(axis=0)[:, [0, step]] for line in lines]
    ends = np.array([np.min(by_task), np.max(by_task)])
    for ax, line, values in zip(axes, lines, by_task, strict=False):
        before, after = values.T
        worse = sign * after < sign * before
        ax.plot(ends, ends, color=GREY, linewidth=0.8, zorder=0)
        for shown, colour in ((~worse, _BETTER), (worse, _WORSE)):
            ax.plot(before[shown], after[shown], "o", color=colour, markersize=2.2, alpha=0.6, mew=0)
        assert line.made_worse is not None
        share = f"{line.made_worse[step]:.0%} of tasks worse"
        ax.set_title(f"{textwrap.fill(line.label, _TITLE_WIDTH)}\n{share}", fontsize=6.5, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        ax.locator_params(nbins=3)
    for ax in axes[len(lines) :]:
        ax.remove()
