"""Analyses a trained agent: ``python -m metarl.analyze runs/RUN``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from metarl.commands.cli import OwnCodeAndFamily, parse, print_table, run_command, show, trusted
from metarl.common.errors import UserError
from metarl.config.measuring import AnalysisConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""

    def command() -> None:
        run, config, own = parse(_options, prog="python -m metarl.analyze", args=arguments)
        # After parsing, so that --help answers at once.
        from metarl.reports.analysis import ANALYSIS_FILE, analyze
        from metarl.reports.analysis_figures import draw
        from metarl.reports.tables import analysis_table

        here, trust = Path.cwd(), trusted(own, [run])  # An environment may change the working directory.
        result = print_table(lambda: analyze(run, config, trust), analysis_table)
        folder = result.settings.output
        assert folder is not None  # `analyze` says where it wrote.
        figures = draw(result, here / folder)
        show(f"in {folder}: {', '.join([ANALYSIS_FILE, *(path.name for path in figures)])}")

    return run_command(command)


def _options(
    run: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="(required)")
    ],
    config: Annotated[AnalysisConfig, tyro.conf.OmitArgPrefixes] = AnalysisConfig(),  # noqa: B008
    own: Annotated[OwnCodeAndFamily, tyro.conf.OmitArgPrefixes] = OwnCodeAndFamily(),  # noqa: B008
) -> tuple[Path, AnalysisConfig, OwnCodeAndFamily]:
    """Shows what a trained agent learned; writes analysis.json and figures into the run's folder or --output.

    It measures the degree of conflict between the tasks' meta-gradients in each layer, attenuation, smoothness of the
    inner loop, similarity of representations before and after it, returns with frozen layers, embeddings of tasks and,
    if asked for, returns with the initialisation attenuated by hand. Of an agent with memory it shows the states of the
    memory, and how well the task can be read from them after each step.

    Args:
        run: The run's folder, or reference:NAME, whose analysis goes into runs/reference/NAME.
        config: Settings of the analysis.
        own: Code from outside metarl that the run names, as package.module:name; imported only if you name it here.
    """
    if len(run) != 1:
        raise UserError(f"analyze looks at one run at a time, got {len(run)} run folders: give one.")
    return run[0], config, own
