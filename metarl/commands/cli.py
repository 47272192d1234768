"""Shared by the commands: they report a user's mistake in one sentence."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any, TypeVar

import tyro

from metarl.common.errors import UserError
from metarl.common.files import NotWritten
from metarl.common.memory import lacks_memory
from metarl.common.output import close_standard_streams, open_standard_streams, say

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


class Unprintable(Exception):
    """Stdout cannot be written; the cause is the operating system's error."""


@contextmanager
def _printing() -> Iterator[None]:
    """Surrounds what prints on stdout, so that its errors are told from those of the user's environments."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        raise Unprintable from error


def show(text: str) -> None:
    """Prints a command's result."""
    with _printing():
        print(text)


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
        with redirect_stderr(printed), _printing():
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


def print_table(compute: Callable[[], Result], table: Callable[[Result], str]) -> Result:
    """Computes a result and prints its table, even if the result could not be written.

    Raises:
        NotWritten: After printing, if the result could not be written.
    """
    try:
        result = compute()
    except NotWritten as error:
        show(table(error.result))
        raise
    show(table(result))
    return result


def run_command(command: Callable[[], None]) -> int:
    """Runs a command's body.

    Args:
        command: The body.

    Returns:
        The exit code: 0; 1 if a result could not be written or printed; 2 after a user's mistake, printed as one
        sentence; 130 after Ctrl-C; 141 if the reader of stdout has stopped reading (``--help | head``).
    """
    open_standard_streams()
    try:
        command()
    except UserError as error:
        say(f"error: {error}")
        return 1 if isinstance(error, NotWritten) else 2
    except Unprintable as error:
        if isinstance(error.__cause__, BrokenPipeError):
            return 141
        say(f"error: cannot print the result: {error.__cause__}.")
        return 1
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        say(f"error: {_NO_MEMORY} ({' '.join(str(error).split())})")
        return 2
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        close_standard_streams()
    return 0
