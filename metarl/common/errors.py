"""Errors caused by the user, with messages of one sentence."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The user asked for something impossible. Commands print the message and exit with code 2."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Returns a suffix for an error message that suggests the closest candidates.

    Args:
        name: The name that the user wrote.
        candidates: The valid names.

    Returns:
        A sentence such as ``" Did you mean 'navigation'?"``, with a leading space; empty if no candidate is close.
    """
    close = difflib.get_close_matches(name, list(candidates), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
