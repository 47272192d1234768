"""Draws learning and adaptation curves: ``python -m metarl.plot RUN [RUN ...] --output curve.png``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metarl.commands.cli import OwnCodeAndFamily, Runs, parse, run_command, show, trusted
from metarl.config.measuring import Checkpoint


@dataclass(frozen=True)
class PlotOptions:
    """Draws the curves of one or more runs: one bold line per algorithm for the mean, thin lines for the seeds."""

    runs: Runs
    """Run folders. Runs that differ only in their seed share a line. The line is named after its algorithm and the
    settings that differ both from its default and from most lines. Each task family has a panel."""
    output: Path
    """The picture file; its suffix chooses PNG, SVG or PDF."""
    x: Literal[
        "gradient-step", "adaptation-episodes", "adaptation-steps", "env-steps", "cpu-seconds", "iteration", "input"
    ] = "gradient-step"
    """Horizontal axis: gradient steps of adaptation to held-out tasks, or episodes of an agent with memory; episodes or
    environment steps of the task that adaptation had read (logarithmic; evaluate --rollouts-sweep adds lines);
    environment steps, CPU-seconds or iterations of meta-training (without runs that were not trained); or the input of
    the functions that one supervised run fits."""
    y: str | None = None
    """What to draw: a metric of the family, such as success, in place of the return (error, accuracy)."""
    checkpoint: Checkpoint = "last"
    """Which evaluation to draw: that of the last checkpoint, or of the best one (evaluate --checkpoint best)."""
    apart: bool = False
    """Give each line a panel of its own, in which the others are pale: for many lines."""
    own: Annotated[OwnCodeAndFamily, tyro.conf.OmitArgPrefixes] = OwnCodeAndFamily()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""

    def command() -> None:
        options = parse(PlotOptions, prog="python -m metarl.plot", args=arguments)
        # After parsing, so that --help answers at once.
        from metarl.reports.curves import plot_runs

        trust = trusted(options.own, options.runs)
        picture = plot_runs(
            options.runs, options.output, options.x, options.checkpoint, trust, options.y, options.apart
        )
        show(str(picture))

    return run_command(command)
