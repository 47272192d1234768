"""Meta-trains an agent: ``python -m metarl.train --env cheetah-dir --algo l2f``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from metarl.commands.cli import parse, run_command
from metarl.config.config import Config, load_config

if TYPE_CHECKING:
    from metarl.runs.training import Run


def parse_config(arguments: Sequence[str]) -> Config:
    """Settings from the command line, over the defaults for the chosen family or the settings of the run to resume.

    Args:
        arguments: What follows the command's name.

    Raises:
        UserError: If a setting is impossible.
        SystemExit: After printing help, or what could not be parsed (code 2).
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--env", default="navigation")
    first.add_argument("--algo", default="l2f")
    first.add_argument("--attenuate", action="store_true")
    first.add_argument("--seed", type=int, default=0)
    first.add_argument("--run-dir", type=Path)
    first.add_argument("--resume", action="store_true")
    # Written wrongly, they are left for the full parser to complain about.
    first.exit_on_error = False
    try:
        choice, _ = first.parse_known_args(arguments)
    except argparse.ArgumentError:
        choice = first.parse_args([])
    defaults = Config(**{name: getattr(choice, name) for name in ("env", "algo", "attenuate", "seed", "run_dir")})
    if choice.resume:
        defaults = replace(load_config(defaults.folder), profile=False)
    return parse(
        Config,
        prog="python -m metarl.train",
        description="Meta-trains an agent. Defaults are those of the chosen --env; of a run with --resume.",
        args=list(arguments),
        default=defaults,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def command() -> None:
        config = parse_config(arguments)
        from metarl.runs.training import train  # After parsing, so that --help answers at once.

        try:
            train(config)
        except (KeyboardInterrupt, SystemExit):
            print(f"\nstopped; to continue: python -m metarl.train --run-dir {config.folder} --resume", file=sys.stderr)
            raise
        print(f"done; next: python -m metarl.evaluate {config.folder}")

    return run_command(command)


class _CallableModule(ModuleType):
    """Importing this module hides the function `metarl.train` behind it, so it answers to the same call."""

    def __call__(self, config: Config) -> Run:
        from metarl.runs import training

        return training.train(config)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    sys.exit(main())
