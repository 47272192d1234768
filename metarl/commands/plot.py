"""Draws learning and adaptation curves: ``python -m metarl.plot RUN [RUN ...] --output curve.png``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metarl.commands.cli import parse, run_command
from metarl.config.evaluation import Checkpoint


@dataclass(frozen=True)
class PlotOptions:
    """Draws the curves of one or more runs: a line for each algorithm, seeds thin, their mean bold."""

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")
    ]
    """Run folders; runs that differ in their seed alone share a line. It is named after the algorithm and the settings
    in which it is neither at its default nor like most lines of this algorithm. Each task family has a panel."""
    output: Path
    """The picture; PNG, SVG or PDF by its suffix."""
    x: Literal["gradient-step", "env-steps"] = "gradient-step"
    """Horizontal axis: gradient steps of adaptation to held-out tasks, or environment steps of meta-training, which
    leaves out runs that were not trained."""
    checkpoint: Checkpoint = "last"
    """Which evaluation to draw: of the last checkpoint, or of the best one (evaluate --checkpoint best)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""

    def command() -> None:
        options = parse(PlotOptions, prog="python -m metarl.plot", args=arguments)
        # After parsing, so that --help answers at once.
        from metarl.reports.curves import plot_runs

        print(plot_runs(options.runs, options.output, options.x, options.checkpoint))

    return run_command(command)
