"""What the commands share: a mistake of the user is answered in one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

from metarl.common.errors import UserError

Result = TypeVar("Result")


def parse(make: Callable[..., Result], **options: Any) -> Result:
    """`tyro.cli`, but what our own checks refuse is raised as it is instead of drawn in tyro's box.

    Args:
        make: What to call with the parsed arguments.
        options: Options of `tyro.cli`.

    Raises:
        UserError: If ``make`` refuses the arguments.
        SystemExit: After printing help, or what could not be parsed (code 2).
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(make, **options)
    except SystemExit as end:
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
        command: What to do.

    Returns:
        The exit code: 0; 2 after a mistake of the user, printed as one sentence; 130 after Ctrl-C; 141 if nobody reads
        on (``--help | head``).
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
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
