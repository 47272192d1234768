"""Errors caused by the user, with messages of one sentence."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The user asked for something impossible. Commands print the message and exit with code 2."""


_LONGEST_SHOWN = 80  # characters


def shown(value: object) -> str:
    """Returns a value as it appears in a message: on one line, and not longer than 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


def nearest(name: object, candidates: Iterable[str]) -> str:
    """Returns a suffix for an error message that suggests the closest candidates.

    Args:
        name: What the user wrote, usually a text.
        candidates: The valid names.

    Returns:
        A sentence such as ``" Did you mean 'navigation'?"``, with a leading space; empty if no candidate is close.
    """
    close = difflib.get_close_matches(str(name), list(candidates), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
