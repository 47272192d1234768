"""Styles of axes and lines: grids, colours, markers, dashes. An algorithm looks the same in every figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from metarl.config.algorithms import ALGORITHMS, run_title
from metarl.reports.labels import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours without yellow, and more; colour-blind readers can distinguish the first ten. Markers
# distinguish the lines without colour. Every algorithm has a colour and a marker of its own.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D3A9B", "#8C510A", "#000000", "#8A8A00"),
    *("#B0003A", "#12A5A0", "#6BBF1A"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", "*", ">", "h", "d")
GREY = "#6b6b6b"
_GRID = "#e6e6e6"
# The variants of an algorithm change dash and shade together; 4 dashes and 3 shades give 12 pairs. A shade is the share
# of white, or of black if negative, that is mixed into the algorithm's colour.
_DASHES = ("-", "--", "-.", ":")
_SHADES = (0.0, -0.4, 0.35)
# Baselines and references are grey: they only serve comparison.
_REFERENCE_COLOUR = "#969696"
_REFERENCE_DASHES = ("--", "-.", (0, (8, 2)), ":")
_REFERENCE_MARKERS = ("x", "+", "1", "2")


def style_axes(ax: Axes, grid: Literal["x", "y"] | None = None, width: float = 0.8) -> None:
    """Takes away the frame above and to the right, and draws a pale grid behind everything else.

    Args:
        ax: The axes.
        grid: The axis whose ticks get grid lines; None for no grid.
        width: Width of the grid lines, in points.
    """
    ax.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        ax.grid(axis=grid, color=_GRID, linewidth=width)
        ax.set_axisbelow(True)


def add_caption(figure: Figure, text: str, size: float = 7.5) -> None:
    """Writes a caption below a figure, flush left in grey; its size in points."""
    figure.supxlabel(text, fontsize=size, color=GREY, x=0.01, horizontalalignment="left")


def styles_of(groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """The style of every label's line, as options of matplotlib's plot."""
    configs = {group.label: group.runs[0].config for group in groups}
    styles: dict[str, dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    # The line labelled with the algorithm's name alone comes first, so that it is variant 0.
    for label in sorted(configs, key=lambda label: label != run_title(configs[label])):
        title = run_title(configs[label])
        styles[label] = style_of(title, configs[label]["algo"], seen[title])
        seen[title] += 1
    return styles


def style_of(title: str, algo: str, variant: int = 0) -> dict[str, Any]:
    """The style of a line: the algorithm sets hue and first marker; variants differ in shade, dash and marker.

    Args:
        title: Title of the line, from `run_title`.
        algo: Name of its algorithm. L2F on top of an algorithm looks like a variant of it, with hollow markers.
        variant: Number of earlier lines with the same title.
    """
    by_title = {algorithm.title: algorithm for algorithm in ALGORITHMS.values()}
    algorithm = by_title.get(title, ALGORITHMS.get(algo))
    reference = algorithm is not None and algorithm.training != "meta"
    alike = [other for other in ALGORITHMS.values() if (other.training != "meta") == reference]
    place = alike.index(algorithm) if algorithm else len(alike)
    on_top = algorithm is not None and title == f"{algorithm.title} + L2F"
    variant += on_top
    colours, markers = ((_REFERENCE_COLOUR,), _REFERENCE_MARKERS) if reference else (COLOURS, MARKERS)
    colour = shaded(colours[place % len(colours)], _SHADES[variant % len(_SHADES)])
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


def shaded(colour: str, share: float) -> str:
    """A colour with a share of white, or of black if it is negative, mixed in."""
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = (part + abs(share) * ((share > 0) - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))
