"""Compares algorithms by the evaluations of their runs: ``python -m metarl.compare RUN [RUN ...]``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metarl.commands.cli import OwnCodeAndFamily, Runs, parse, run_command, show, trusted
from metarl.config.measuring import Checkpoint


@dataclass(frozen=True)
class CompareOptions:
    """Compares algorithms on held-out tasks: differences paired by seed and task, with intervals over seeds.

    Intervals and p-values appear from five seeds on. The primary comparison, each line against the reference after
    --step steps, has its p-values adjusted for their number by Holm's method; nothing else is adjusted.
    """

    runs: Runs
    """Folders of evaluated runs on one family. Runs that differ only in their seed form a line."""
    output: Path | None = None
    """Also draws the differences, and every task before and after adaptation; the suffix chooses PNG, SVG or PDF."""
    reference: Path | None = None
    """A folder among the runs, whose line the others are compared with; by default MAML's, or else the first run's."""
    step: int = 1
    """Steps of adaptation after which the primary comparison is made, and which the picture shows."""
    checkpoint: Checkpoint = "last"
    """Which evaluation to compare: that of the last checkpoint, or of the best one (evaluate --checkpoint best)."""
    own: Annotated[OwnCodeAndFamily, tyro.conf.OmitArgPrefixes] = OwnCodeAndFamily()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""

    def command() -> None:
        options = parse(CompareOptions, prog="python -m metarl.compare", args=arguments)
        # After parsing, so that --help answers at once.
        from metarl.reports.comparison import compare
        from metarl.reports.tables import comparison_table

        trust = trusted(options.own, options.runs)
        comparison = compare(options.runs, options.output, options.reference, options.step, options.checkpoint, trust)
        show(comparison_table(comparison))
        if options.output is not None:
            show(f"\nthe figure is {options.output}")

    return run_command(command)
