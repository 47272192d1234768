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

from metarl.reports.episodes import Episode
from metarl.reports.styles import GREY

_PANELS_IN_ROW = 4
_INCHES = 2.6
_GOAL = "#D55E00"
# Shades of blue from the first step to the last, all darker than the grey of the episode before adaptation.
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
    columns = min(len(goals), _PANELS_IN_ROW)
    rows = math.ceil(len(goals) / columns)
    figure = Figure(figsize=(columns * _INCHES, rows * _INCHES + 0.8), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
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
    labels = [*(episode.title for episode in goals[0]), "start", "goal"]
    figure.legend([*signs, start, goal], labels, loc="outside lower center", ncols=columns + 2, frameon=False)
    figure.suptitle(title)
    return figure
