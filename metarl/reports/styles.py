"""How lines look: colours, markers, dashes. An algorithm looks the same in every figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from metarl.config.algorithms import ALGORITHMS, run_title
from metarl.reports.labels import Group

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


def styles_of(groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """How the lines of each label are drawn, as options of matplotlib's plot."""
    configs = {group.label: group.runs[0].config for group in groups}
    styles: dict[str, dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    # The line that bears the algorithm's bare name is no variant of it.
    for label in sorted(configs, key=lambda label: label != run_title(configs[label])):
        title = run_title(configs[label])
        styles[label] = style_of(title, configs[label]["algo"], seen[title])
        seen[title] += 1
    return styles


def style_of(title: str, algo: str, variant: int = 0) -> dict[str, Any]:
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
