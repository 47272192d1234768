"""Checks of a family's parameters; the values come from a command line, where users can write anything.

A check takes a parameter's name and value and returns the value as the environment wants it, or raises UserError.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any

from metarl.common.errors import UserError, shown

Check = Callable[[str, Any], Any]

_SMALLEST = math.ulp(0.0)  # The smallest positive float.


def number(name: str, value: Any) -> float:
    """The value as a float; raises UserError unless it is a finite number."""
    return _number(name, value, "a finite number", -math.inf)


def positive(name: str, value: Any) -> float:
    """The value as a float; raises UserError unless it is a finite number greater than 0."""
    return _number(name, value, "a positive number", _SMALLEST)


def not_negative(name: str, value: Any) -> float:
    """The value as a float; raises UserError unless it is a finite number, 0 or greater."""
    return _number(name, value, "a number, 0 or greater", 0.0)


def positive_whole(name: str, value: Any) -> int:
    """The value as an int, 50.0 as 50; raises UserError unless it is a whole number, 1 or greater."""
    return _whole(name, value, "a positive whole number", 1)


def between(least: float, most: float) -> Check:
    """Makes a check that accepts numbers from ``least`` to ``most``, as floats."""
    return lambda name, value: _number(name, value, f"a number from {least:g} to {most:g}", least, most)


def whole_between(least: int, most: int) -> Check:
    """Makes a check that accepts whole numbers from ``least`` to ``most``, as ints."""
    return lambda name, value: _whole(name, value, f"a whole number from {least} to {most}", least, most)


def flag(name: str, value: Any) -> bool:
    """The value as a bool; raises UserError unless it is True, False, 1 or 0 (texts such as "False" would be true)."""
    if isinstance(value, str) or value not in (0, 1):
        raise _refused(name, value, "True or False (1 or 0)")
    return bool(value)


def one_of(*choices: str) -> Check:
    """Makes a check that accepts only these choices."""

    def check(name: str, value: Any) -> str:
        if value not in choices:
            raise _refused(name, value, " or ".join(map(repr, choices)))
        return str(value)

    return check


def optional(check: Check) -> Check:
    """Makes a check that accepts None too."""
    return lambda name, value: None if value is None else check(name, value)


def interval(lowest: float, highest: float) -> tuple[float, float]:
    """Both bounds; raises UserError unless ``highest`` is greater than ``lowest``."""
    if lowest >= highest:
        raise UserError(f"highest must be greater than lowest, got lowest={lowest} and highest={highest}.")
    return lowest, highest


def _number(name: str, value: Any, wanted: str, least: float, most: float = math.inf) -> float:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and least <= number <= most):
        raise _refused(name, value, wanted)
    return number


def _whole(name: str, value: Any, wanted: str, least: float, most: float = math.inf) -> int:
    checked = _number(name, value, wanted, least, most)
    if not checked.is_integer():
        raise _refused(name, value, wanted)
    return int(checked)


def _refused(name: str, value: Any, wanted: str) -> UserError:
    return UserError(f"{name} must be {wanted}, got {shown(value)}.")
