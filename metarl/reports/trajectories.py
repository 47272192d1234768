"""The figure of trajectories in the plane: a panel for each goal, a line for each episode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from metarl.reports.episodes import PANELS_IN_ROW, Episode
from metarl.reports.styles import GREY

_INCHES, _INCHES_OF_LINE, _INCHES_OF_TITLE = 2.6, 0.25, 0.4
_GOAL = "#D55E00"
# The episode before adaptation is grey; the others are blue, the darker the later.
_LIGHTEST, _DARKEST = 0.45, 1.0


def draw_trajectories(title: str, tasks: Sequence[Any], goals: Sequence[Sequence[Episode]]) -> Figure:
    """Draws where a point went before adaptation and after each step.

    Args:
        title: The figure's title.
        tasks: Tasks of navigation; the first two numbers of each are the goal.
        goals: The episodes in each task, whose observations begin with the position.

    Returns:
        The figure; save it with ``savefig``.
    """
    columns = min(len(goals), PANELS_IN_ROW)
    rows = math.ceil(len(goals) / columns)
    labels = [*(episode.title for episode in goals[0]), "start", "goal"]
    height = rows * _INCHES + math.ceil(len(labels) / columns) * _INCHES_OF_LINE + _INCHES_OF_TITLE
    figure = Figure(figsize=(columns * _INCHES, height), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    blues = colormaps["Blues"](np.linspace(_LIGHTEST, _DARKEST, max(len(goals[0]) - 1, 1)))
    colours = [GREY, *map(to_hex, blues)][: len(goals[0])]
    points = [np.asarray(task)[None, :2] for task in tasks]
    points += [episode.observations[:, :2] for episodes in goals for episode in episodes]
    extent = 1.1 * float(np.abs(np.concatenate(points)).max())
    for panel, task, episodes in zip(panels, tasks, goals, strict=False):
        for episode, colour in zip(episodes, colours, strict=True):
            panel.plot(*episode.observations[:, :2].T, color=colour, linewidth=1.4)
        panel.plot(*episodes[0].observations[0, :2], "o", color="black", markerfacecolor="white", markersize=6)
        panel.plot(*np.asarray(task)[:2], "*", color=_GOAL, markeredgecolor="white", markersize=13)
        panel.set(aspect="equal", xlim=(-extent, extent), ylim=(-extent, extent))
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.yaxis.set_major_locator(MaxNLocator(4))
        panel.grid(color="0.9", linewidth=0.6)
        panel.set_title("returns " + ", ".join(f"{episode.rewards.sum():.1f}" for episode in episodes), fontsize=9)
    for panel in panels[len(goals) :]:
        panel.remove()
    signs = [Line2D([], [], color=colour, linewidth=2) for colour in colours]
    start = Line2D([], [], linestyle="", marker="o", color="black", markerfacecolor="white")
    goal = Line2D([], [], linestyle="", marker="*", color=_GOAL, markersize=11)
    figure.legend([*signs, start, goal], labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(title)
    return figure
