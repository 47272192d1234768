"""Writes a report on runs: ``python -m metarl.report RUN [RUN ...] --output report.html``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metarl.commands.cli import OwnCodeAndFamily, Runs, parse, run_command, show, trusted
from metarl.config.measuring import Checkpoint


@dataclass(frozen=True)
class ReportOptions:
    """Writes one HTML file on one or more runs: figures, tables, settings, recordings, and how to make it again."""

    runs: Runs
    """Run folders. Runs that differ only in their seed are shown together; those of one family, side by side."""
    output: Path = Path("report.html")
    """The file; it needs no other file and no network."""
    checkpoint: Checkpoint = "last"
    """Which evaluation to show: that of the last checkpoint, or of the best one (evaluate --checkpoint best)."""
    own: Annotated[OwnCodeAndFamily, tyro.conf.OmitArgPrefixes] = OwnCodeAndFamily()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""

    def command() -> None:
        options = parse(ReportOptions, prog="python -m metarl.report", args=arguments)
        # After parsing, so that --help answers at once.
        from metarl.reports.report import report

        show(str(report(options.runs, options.output, options.checkpoint, trusted(options.own, options.runs))))

    return run_command(command)
