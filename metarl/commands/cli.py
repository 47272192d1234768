"""Shared by the commands: they report a user's mistake in one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import tyro

from metarl.common.errors import UserError
from metarl.common.memory import lacks_memory

Result = TypeVar("Result")

_NO_MEMORY = (
    "there is not enough memory: lower the number of tasks (meta_batch_size, tasks), of their rollouts or examples "
    "(rollouts_per_task, rollouts, horizon, shots, queries), or hidden_sizes"
)


@dataclass(frozen=True)
class OwnCode:
    """Code from outside metarl that the run names, each as package.module:name. It is imported if you name it here."""

    algo: str | None = None
    """The run's algorithm."""
    meta_optimiser: str | None = None
    """The run's meta-optimiser."""
    policy_body: str | None = None
    """The run's policy body."""


@dataclass(frozen=True)
class OwnCodeAndFamily(OwnCode):
    """Code from outside metarl that the run names, each as package.module:name. It is imported if you name it here."""

    env: str | None = None
    """The run's task family."""


def parse(make: Callable[..., Result], **options: Any) -> Result:
    """Calls `tyro.cli`, but raises a UserError of our own checks unchanged instead of printing it in tyro's box.

    Args:
        make: Called with the parsed arguments.
        options: Options of `tyro.cli`.

    Raises:
        UserError: If ``make`` refuses the arguments.
        SystemExit: After printing help, or after printing that arguments cannot be parsed (code 2).
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            # Comments are no help texts: not to look for them saves reading the sources again.
            return tyro.cli(make, config=(tyro.conf.HelptextFromCommentsOff,), **options)
    except SystemExit as end:
        # tyro turned our error into an exit: find it again among the exceptions that led to the exit.
        cause: BaseException | None = end
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        sys.stderr.write(printed.getvalue())
        raise


def run_command(command: Callable[[], None]) -> int:
    """Runs a command's body.

    Args:
        command: The body.

    Returns:
        The exit code: 0; 2 after a user's mistake, printed as one sentence; 130 after Ctrl-C; 141 if the reader of
        stdout has stopped reading (``--help | head``).
    """
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The interpreter flushes stdout again at exit; point it at /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        print(f"error: {_NO_MEMORY} ({' '.join(str(error).split())})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
