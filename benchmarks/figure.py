"""Draws the figure of docs/performance.md from the stored speed results: ``python -m benchmarks.figure``."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.__main__ import SPEED
from benchmarks.measure import Cell
from benchmarks.rollouts import ENVIRONMENT, OURS, PHYSICS
from metarl.reports.styles import COLOURS, add_caption, style_axes
from metarl.reports.wording import engineering

Row = dict[str, Cell]

# Other software is grey, limits are pale.
_OURS, _OTHERS, _LIMIT = COLOURS[0], "#8c8c8c", "#cfcfcf"
_LIMITS = (PHYSICS, ENVIRONMENT, "arithmetic bound")
_COLUMNS = 2
_CAPTION_WIDTH = 150
_ROOM_FOR_FIGURES = 1.15  # width of the axis, as a multiple of the longest bar

TITLES = {"navigation": "2D navigation", "cheetah-dir": "Half-cheetah", "ant-dir": "Ant"}


@dataclass(frozen=True)
class Panel:
    """Bars on one scale.

    Attributes:
        title: Title of the comparison.
        unit: Quantity and unit of the lengths.
        bars: Length of each bar by its label, from top to bottom.
    """

    title: str
    unit: str
    bars: dict[str, float]


@dataclass(frozen=True)
class Options:
    """Draws the stored measurements of speed."""

    results: Annotated[Path, tyro.conf.Positional] = SPEED
    """Folder of the JSON files."""
    output: Path | None = None
    """The picture; by default speed.png in that folder."""


def main() -> int:
    """Runs the command; returns its exit code."""
    options = tyro.cli(Options, prog="python -m benchmarks.figure")
    stored = {part: _read(options.results / f"{part}.json") for part in ("rollouts", "meta-step")}
    if stored["rollouts"] is None:
        print(f"error: {options.results} holds no rollouts.json; run: python -m benchmarks rollouts", file=sys.stderr)
        return 2
    panels = rollout_panels(_rows(stored["rollouts"], "Rollouts"))
    if stored["meta-step"] is not None:
        steps = _rows(stored["meta-step"], "Whole meta-step")
        panels += meta_step_panels(row for row in steps if str(row["size"]).startswith("cheetah-dir"))
    output = options.output or options.results / "speed.png"
    draw(panels, _caption(content["made_with"] for content in stored.values() if content)).savefig(output, dpi=150)
    print(output)
    return 0


def rollout_panels(rows: Iterable[Row]) -> list[Panel]:
    """Steps per second by subject, one panel per environment that was measured beside others."""
    panels = []
    for env, of_env in groupby(rows, lambda row: row["environment"]):
        if env not in TITLES:
            continue
        bars = {f"{row['subject']}{_remark(row)}": float(row["steps/s"]) for row in of_env}  # type: ignore[arg-type]
        panels.append(Panel(f"{TITLES.get(str(env), env)}: rollouts", "environment steps a second", bars))
    return panels


def meta_step_panels(rows: Iterable[Row]) -> list[Panel]:
    """Seconds by subject, one panel per size and algorithm."""
    panels = []
    for (size, algo), of_size in groupby(rows, lambda row: (str(row["size"]), str(row["algorithm"]))):
        env = size.split(",")[0]
        in_order = sorted(of_size, key=lambda row: float(row["seconds"]))  # type: ignore[arg-type]
        bars = {str(row["subject"]): float(row["seconds"]) for row in in_order}  # type: ignore[arg-type]
        panels.append(Panel(f"{TITLES.get(env, env)}: meta-step, {algo.upper()}", "seconds (shorter is better)", bars))
    return panels


def draw(panels: list[Panel], caption: str) -> Figure:
    """Draws the figure; panels run from left to right, then from top to bottom."""
    lines = -(-len(panels) // _COLUMNS)
    # No pyplot: drawing must not touch a notebook's or a window's state.
    figure = Figure(figsize=(5.2 * _COLUMNS, 2.7 * lines + 0.3), layout="constrained")
    axes = list(figure.subplots(lines, _COLUMNS, squeeze=False).flat)
    for ax, panel in zip(axes, panels, strict=False):
        _draw_panel(ax, panel)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    text = textwrap.fill(caption, _CAPTION_WIDTH)
    add_caption(figure, text)
    return figure


def _draw_panel(ax: Axes, panel: Panel) -> None:
    labels, values = list(panel.bars), list(panel.bars.values())
    bars = ax.barh(labels, values, color=[_colour(label) for label in labels], height=0.7)
    ax.bar_label(bars, [engineering(value) for value in values], padding=3, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(0, max(values) * _ROOM_FOR_FIGURES)
    ax.locator_params(axis="x", nbins=5)
    ax.xaxis.set_major_formatter(lambda value, _: engineering(value))
    ax.set_title(panel.title, fontsize=10, loc="left")
    ax.set_xlabel(panel.unit, fontsize=8)
    ax.tick_params(labelsize=8)
    ax.tick_params(axis="y", length=0)
    style_axes(ax, grid="x")


def _colour(label: str) -> str:
    if label.startswith(OURS):
        return _OURS
    return _LIMIT if label.startswith(_LIMITS) else _OTHERS


def _remark(row: Row) -> str:
    if row["subject"] in _LIMITS:
        return ", same actions"
    return "" if row["policy"] == "yes" else " (no policy)"


def _caption(made_with: Iterable[dict[str, str]]) -> str:
    facts = list(made_with)
    commits = ", ".join(dict.fromkeys(fact["commit"] for fact in facts))
    packages = ", ".join(f"{name} {facts[0][name]}" for name in ("torch", "mujoco", "gymnasium"))
    return f"{facts[0]['hardware']}; {packages}; commit {commits}; python -m benchmarks"


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _rows(content: dict[str, Any], title: str) -> list[Row]:
    return next(table["rows"] for table in content["tables"] if table["title"] == title)


if __name__ == "__main__":
    sys.exit(main())
