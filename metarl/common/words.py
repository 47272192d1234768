"""Numbers of things, and lists of them, in words."""

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """A number of things, such as "1 step" or "2 steps"."""
    return f"{number} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a noun, or of several, such as "gradient steps or episodes"."""
    return " or ".join(f"{one}s" for one in noun.split(" or "))


def alternatives(parts: Sequence[str]) -> str:
    """Several parts of which one is enough, such as "a smaller lr, more tasks, or smaller rewards"."""
    return ", or ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def dropped_text(number: int) -> str:
    """How many episodes were left out, such as "1 episode was dropped"."""
    return f"{counted(number, 'episode')} {'was' if number == 1 else 'were'} dropped"
