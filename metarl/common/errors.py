"""Mistakes of the user, told in one sentence."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user asked for cannot be done; commands print the message and exit with code 2."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Suffix for an error message that names the closest candidates, or nothing if none is close.

    Args:
        name: What the user wrote.
        candidates: What would have been understood.

    Returns:
        A sentence such as ``" Did you mean 'navigation'?"``, with a leading space, or an empty string.
    """
    close = difflib.get_close_matches(name, list(candidates), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
