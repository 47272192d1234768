"""The figure of trajectories in the plane: a panel for each goal, a line for each episode."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from metarl.reports.episodes import PANELS_IN_ROW, Episode
from metarl.reports.styles import GREY, add_caption
from metarl.reports.wording import number_text

_WIDTH, _HEIGHT = 2.6, 2.9  # inches of a panel, without the returns above it
_LEGEND_LINE, _TITLE_LINE, _CAPTION_LINE = 0.25, 0.16, 0.14  # inches
_CHARACTERS_OF_TITLE = 32
_CHARACTERS_PER_INCH = 16  # of the caption
_GOAL = "#D55E00"
# The episode before adaptation is grey; the others are blue, the darker the later.
_LIGHTEST, _DARKEST = 0.45, 1.0


def draw_trajectories(origin: str, tasks: Sequence[Any], goals: Sequence[Sequence[Episode]]) -> Figure:
    """Draws where a point went before adaptation and after each step.

    Args:
        origin: Which agent and which tasks, for the caption.
        tasks: Tasks of navigation; the first two numbers of each are the goal.
        goals: The episodes in each task, whose observations begin with the position.

    Returns:
        The figure; save it with ``savefig``.
    """
    columns = min(len(goals), PANELS_IN_ROW)
    rows = math.ceil(len(goals) / columns)
    labels = [*(episode.title for episode in goals[0]), "start", "goal"]
    titles = [
        "returns " + ", ".join(number_text(episode.rewards.sum(), 1) for episode in episodes) for episodes in goals
    ]
    titles = [textwrap.fill(title, _CHARACTERS_OF_TITLE) for title in titles]
    caption = f"{origin} \N{MIDDLE DOT} returns above a panel in the order of the legend"
    caption = textwrap.fill(caption, round(columns * _WIDTH * _CHARACTERS_PER_INCH))
    height = rows * (_HEIGHT + _TITLE_LINE * max(title.count("\n") + 1 for title in titles))
    height += math.ceil(len(labels) / columns) * _LEGEND_LINE + (caption.count("\n") + 1) * _CAPTION_LINE
    figure = Figure(figsize=(columns * _WIDTH, height), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = grid.ravel()
    blues = colormaps["Blues"](np.linspace(_LIGHTEST, _DARKEST, max(len(goals[0]) - 1, 1)))
    colours = [GREY, *map(to_hex, blues)][: len(goals[0])]
    points = [np.asarray(task)[None, :2] for task in tasks]
    points += [episode.observations[:, :2] for episodes in goals for episode in episodes]
    extent = 1.1 * float(np.abs(np.concatenate(points)).max())
    for panel, task, episodes, title in zip(panels, tasks, goals, titles, strict=False):
        for episode, colour in zip(episodes, colours, strict=True):
            panel.plot(*episode.observations[:, :2].T, color=colour, linewidth=1.4)
        panel.plot(*episodes[0].observations[0, :2], "o", color="black", markerfacecolor="white", markersize=6)
        panel.plot(*np.asarray(task)[:2], "*", color=_GOAL, markeredgecolor="white", markersize=13)
        panel.set(aspect="equal", xlim=(-extent, extent), ylim=(-extent, extent))
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.yaxis.set_major_locator(MaxNLocator(4))
        panel.grid(color="0.9", linewidth=0.6)
        panel.set_title(title, fontsize=8)
        panel.set_xlabel("x")
    for panel in grid[:, 0]:
        panel.set_ylabel("y")
    for panel in panels[len(goals) :]:
        panel.remove()
    signs = [Line2D([], [], color=colour, linewidth=2) for colour in colours]
    start = Line2D([], [], linestyle="", marker="o", color="black", markerfacecolor="white")
    goal = Line2D([], [], linestyle="", marker="*", color=_GOAL, markersize=11)
    figure.legend([*signs, start, goal], labels, loc="outside upper center", ncols=columns, frameon=False)
    add_caption(figure, caption)
    return figure
