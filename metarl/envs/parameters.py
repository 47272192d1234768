"""What a family's parameters may be, told by name; they arrive from a command line, where anything can be written."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

from metarl.common.errors import UserError

_SMALLEST = math.ulp(0.0)  # positive float


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
    wanted = "a positive whole number"
    checked = _number(name, value, wanted, 1.0)
    if not checked.is_integer():
        raise _refused(name, value, wanted)
    return int(checked)


def flag(name: str, value: Any) -> bool:
    """The value as a bool; raises UserError unless it is True, False, 1 or 0 (texts such as "False" would be true)."""
    if isinstance(value, str) or value not in (0, 1):
        raise _refused(name, value, "True or False (1 or 0)")
    return bool(value)


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """The value; raises UserError unless it is one of the choices."""
    if value not in choices:
        raise _refused(name, value, " or ".join(map(repr, choices)))
    return str(value)


def interval(lowest: Any, highest: Any) -> tuple[float, float]:
    """Both bounds as floats; raises UserError unless they are finite numbers, ``highest`` the greater one."""
    low, high = number("lowest", lowest), number("highest", highest)
    if low >= high:
        raise UserError(f"highest must be greater than lowest, got lowest={low} and highest={high}")
    return low, high


def _number(name: str, value: Any, wanted: str, least: float) -> float:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value >= least):
        raise _refused(name, value, wanted)
    return float(value)


def _refused(name: str, value: Any, wanted: str) -> UserError:
    return UserError(f"{name} must be {wanted}, got {value!r}")
