"""Films how an agent adapts to a task: ``python -m metarl.record runs/RUN``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from metarl.commands.cli import OwnCodeAndFamily, parse, run_command, show, trusted
from metarl.config.measuring import RecordingConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""

    def command() -> None:
        run, config, own = parse(_options, prog="python -m metarl.record", args=arguments)
        # After parsing, so that --help answers at once.
        from metarl.reports.recording import record

        show("\n".join(map(str, record(run, config, trusted(own, [run])))))

    return run_command(command)


def _options(
    run: Annotated[Path, tyro.conf.Positional],
    config: Annotated[RecordingConfig, tyro.conf.OmitArgPrefixes] = RecordingConfig(),  # noqa: B008
    own: Annotated[OwnCodeAndFamily, tyro.conf.OmitArgPrefixes] = OwnCodeAndFamily(),  # noqa: B008
) -> tuple[Path, RecordingConfig, OwnCodeAndFamily]:
    """Films an agent in one held-out task, before adaptation and after each step, or each episode, side by side.

    It writes a GIF, an MP4 if imageio-ffmpeg is installed, and for navigation a figure of trajectories to several
    goals. Actions are chosen as in an evaluation: sampled, but for PEARL's.

    Args:
        run: The run's folder, or reference:NAME, whose files go into runs/reference/NAME/recording.
        config: Settings of the recording.
        own: Code from outside metarl that the run names, as package.module:name; imported only if you name it here.
    """
    return run, config, own
