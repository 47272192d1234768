"""Evaluates a run on held-out tasks: ``python -m metarl.evaluate runs/RUN``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metarl.commands.cli import OwnCode, parse, print_table, run_command, show, trusted
from metarl.config.measuring import EvaluationConfig


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluates a trained agent on held-out tasks and writes evaluation.json into its run folder.

    A family with finitely many tasks has none to hold out: it is evaluated on all of them.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder, or reference:NAME for an agent that comes with the package, whose evaluation.json goes into
    runs/reference/NAME."""
    rollouts_sweep: tuple[int, ...] | None = None
    """Evaluates with each of these numbers of episodes in place of ROLLOUTS, such as 1 2 5 10 20 40, on the same tasks;
    writes evaluation-sweep.json."""
    list: bool = False
    """List the agents that come with the package, and exit."""
    config: Annotated[EvaluationConfig, tyro.conf.OmitArgPrefixes] = EvaluationConfig()
    """Settings of the evaluation."""
    own: Annotated[OwnCode, tyro.conf.OmitArgPrefixes] = OwnCode()
    """Code from outside metarl that the run names, as package.module:name; imported only if you name it here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def command() -> None:
        if "--list" in arguments:
            from metarl.reports.tables import reference_table

            show(reference_table())
            return
        options = parse(EvaluateOptions, prog="python -m metarl.evaluate", args=arguments)
        # After parsing, so that --help answers at once.
        from metarl.reports.tables import evaluation_table, sweep_table
        from metarl.runs.protocol import evaluate, sweep_rollouts

        run, config, trust = options.run, options.config, trusted(options.own, [options.run])
        if (sizes := options.rollouts_sweep) is not None:
            print_table(lambda: sweep_rollouts(run, sizes, config, trust), sweep_table)
        else:
            print_table(lambda: evaluate(run, config, trust), evaluation_table)

    return run_command(command)
