"""Errors caused by the user, with messages of one sentence, and errors of the user's code."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn


class UserError(ValueError):
    """The user asked for something impossible. Commands print the message and exit with code 2."""


class Fault(UserError):
    """Something went wrong at work, in an environment, with numbers or on a disk. Commands exit with code 1."""


class Abandoned(Fault):
    """Another process that shares the tasks has ended."""


class Diverged(Fault):
    """A policy acts with numbers that are not finite, because steps to its parameters were too large."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: its parameters diverged; take smaller steps, or look for huge rewards.")


_LONGEST_SHOWN = 80  # characters


def shown(value: object) -> str:
    """Returns a value as it appears in a message: on one line, and not longer than 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


class Terminated(SystemExit):
    """SIGTERM has come."""


def nearest(name: object, candidates: Iterable[str]) -> str:
    """Returns a suffix for an error message that suggests the closest candidates.

    Args:
        name: What the user wrote, usually a text.
        candidates: The valid names.

    Returns:
        A sentence such as ``" Did you mean 'navigation'?"``, with a leading space; empty if no candidate is close.
    """
    wanted, names = str(name), list(candidates)
    # What begins so comes first: users shorten names.
    begun = [candidate for candidate in names if len(wanted) > 2 and candidate.startswith(wanted)]
    close = list(dict.fromkeys([*begun, *difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)]))[:3]
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


@contextmanager
def blaming(where: Callable[[], str]) -> Iterator[None]:
    """Says where an exception of somebody else's code happened, see `blame`."""
    try:
        yield
    except BaseException as error:
        blame(error, where)


def blame(error: BaseException, where: Callable[[], str]) -> NoReturn:
    """Raises an exception of somebody else's code again, with its place.

    A UserError becomes a `Fault` with the place in its sentence. Other exceptions keep their traceback and get a note.
    What would pass for an end of our own, `SystemExit` or a broken pipe, becomes a RuntimeError. Ctrl-C, SIGTERM and
    the end of another process stay as they are.

    Args:
        error: The exception.
        where: Returns the place, such as "in step of ...".
    """
    if isinstance(error, UserError) and not isinstance(error, Abandoned):
        raise Fault(f"{error} It happened {where()}.") from error
    if isinstance(error, SystemExit | BrokenPipeError) and not isinstance(error, Terminated):
        raise RuntimeError(f"{error!r} was raised {where()}") from error
    if isinstance(error, Exception) and not isinstance(error, Abandoned):
        error.add_note(f"It happened {where()}.")
    raise error
