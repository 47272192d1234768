"""Limits of axes that a diverging line does not stretch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from metarl.common.arrays import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORSE = {"return": -1, "error": 1, "accuracy": -1}
"""The direction in which a measure diverges, by its name: without a bound, or to no number; others do not."""

FAR = 10.0
"""A value has diverged if it is this many times the usual range worse than the worst start."""

_MARGIN = 0.05  # share of the axis beyond the last value
ARROWS = {"y": {1: r"$\uparrow$", -1: r"$\downarrow$"}, "x": {1: r"$\rightarrow$", -1: r"$\leftarrow$"}}
"""Markers at the edge of an axis by its name: towards larger values, and towards smaller ones."""

MARK: Any = {"linestyle": "", "markersize": 8, "markeredgewidth": 0.5, "clip_on": False, "zorder": 5}
"""The style of these markers."""

LEAVES = "arrow at the edge: the line leaves the axis"
"""What a caption says where `limit_curves` has marked a line."""


def worst_shown(values: Floats, start: float, scale: float, worse: int) -> float | None:
    """The worst value that an axis should show; None if it should show all.

    Args:
        values: What is drawn, of any shape; NaN is ignored.
        start: A value that is always shown.
        scale: The usual range of values.
        worse: 1 if larger values are worse, else -1.
    """
    finite = worse * values[np.isfinite(values)]
    shown = finite[finite <= worse * start + FAR * scale]
    return None if len(shown) == len(finite) else worse * float(max([worse * start, *shown]))


def ends_shown(axes: Sequence[Axes], measure: str) -> tuple[float, float] | None:
    """The best and the worst value of the panels' lines without those that have diverged; None without any number.

    Args:
        axes: Panels with all of their lines.
        measure: What they show, one of `WORSE`.
    """
    lines = [np.asarray(line.get_ydata(), dtype=np.float64) for ax in axes for line in ax.lines]
    curves = [curve[np.isfinite(curve)] for curve in lines if np.isfinite(curve).any()]
    if not curves:
        return None
    worse, values = WORSE[measure], np.concatenate(curves)
    start = worse * max(worse * curve[0] for curve in curves)
    best = worse * min(worse * values)
    worst = worst_shown(values, start, max(abs(start - best), float(np.median(np.abs(values)))), worse)
    return best, worse * max(worse * values) if worst is None else worst


def limit_curves(axes: Sequence[Axes], measure: str) -> bool:
    """Fits the vertical axis of panels that share it: logarithmic for errors, and without values that have diverged.

    An arrow at the edge marks where a line first leaves the axis, or has no number any more.

    Args:
        axes: Panels with all of their lines.
        measure: What they show.

    Returns:
        Whether a line leaves the axis.
    """
    ends = ends_shown(axes, measure) if measure in WORSE else None
    if ends is None:
        return False
    worse, (best, worst) = WORSE[measure], ends
    lines = [np.asarray(line.get_ydata(), dtype=np.float64) for ax in axes for line in ax.lines]
    if measure == "error" and any((line > 0).any() for line in lines):
        _scale_logarithmically(axes)
    if not any(((worse * line > worse * worst) | _is_lost(line)).any() for line in lines):
        return False
    for ax in axes:
        edge = show_between(ax, "y", min(best, worst), max(best, worst))[worse > 0]
        for line in list(ax.lines):
            x, y = (np.asarray(data, dtype=np.float64) for data in line.get_data())
            if (beyond := np.flatnonzero((worse * y > worse * worst) | _is_lost(y))).size:
                ax.plot(x[beyond[0]], edge, marker=ARROWS["y"][worse], color=line.get_color(), **MARK)
    return True


def _is_lost(curve: Floats) -> NDArray[np.bool_]:
    """Where a curve has become NaN after it was a number, and stays so: it has diverged."""
    finite = np.flatnonzero(np.isfinite(curve))
    return np.arange(len(curve)) > (finite[-1] if len(finite) else len(curve))


def show_between(ax: Axes, name: Literal["x", "y"], low: float, high: float) -> tuple[float, float]:
    """Limits an axis to the values from ``low`` to ``high``, and a margin; returns its ends."""
    transform = getattr(ax, f"{name}axis").get_transform()
    ends = transform.transform(np.array([low, high]))
    margin = _MARGIN * (ends[1] - ends[0] or abs(ends[0]) or 1.0)
    first, last = transform.inverted().transform(ends + np.array([-margin, margin])).tolist()
    ax.set(**{f"{name}lim": (first, last)})
    return first, last


def _scale_logarithmically(axes: Sequence[Axes]) -> None:
    from matplotlib.ticker import LogLocator

    for ax in axes:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
