"""Numbers of things in words."""


def counted(number: int, noun: str) -> str:
    """A number of things, such as "1 step" or "2 steps"."""
    return f"{number} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a noun, or of several, such as "gradient steps or episodes"."""
    return " or ".join(f"{one}s" for one in noun.split(" or "))


def dropped_text(number: int) -> str:
    """How many episodes were left out, such as "1 episode was dropped"."""
    return f"{counted(number, 'episode')} {'was' if number == 1 else 'were'} dropped"
