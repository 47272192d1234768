"""What the commands share: a mistake of the user is answered in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable

from metarl.errors import UserError


def run_command(command: Callable[[], None]) -> int:
    """Runs a command's body.

    Args:
        command: What to do.

    Returns:
        The exit code: 0; 2 after a mistake of the user, printed as one sentence; 130 after Ctrl-C.
    """
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
