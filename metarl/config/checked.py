"""Checks the values of settings: converts them to the setting's type, or refuses them in one sentence."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from metarl.common.errors import UserError, nearest, shown


@dataclass(frozen=True)
class Range:
    """The range of a number, beside its type: ``Annotated[float, Range(above=0)]``. NaN is outside every range.

    Attributes:
        least: Smallest value.
        most: Largest value. By default, numbers of this size still fit into what computes with them.
        above: If given, the value must be greater.
        below: If given, the value must be less.
    """

    least: float = -(10**12)
    most: float = 10**12
    above: float | None = None
    below: float | None = None

    def wanted(self, value: float) -> str | None:
        """What a value outside the range must be instead, such as "at least 0"; None for a value in the range."""
        if self.above is not None and not value > self.above:
            return f"greater than {self.above}"
        if self.below is not None and not value < self.below:
            return f"less than {self.below}"
        if not value >= self.least:
            return f"at least {self.least}"
        return None if value <= self.most else f"at most {self.most}"


Part = TypeVar("Part")

Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Fraction = Annotated[float, Range(above=0, most=1)]
"""A share that is not 0."""
BoolOrAuto = bool | Literal["auto"]


@dataclass(frozen=True)
class Checked:
    """Base of settings, which are frozen dataclasses: converts their values and refuses impossible ones.

    The range of a number stands beside its type, see `Range`.

    Attributes:
        prefix: Prefix of the names in messages if the settings are part of others, such as ``trpo.``.
        meaning: Names of the fields on which the meaning of meta-parameters depends. A run starts from those of another
            one (``init_from``) only if these are the same.
    """

    prefix: ClassVar[str] = ""
    meaning: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name, kind in hints(type(self)).items():
            object.__setattr__(self, name, convert(self.prefix + name, getattr(self, name), kind))
        self.check()

    def check(self) -> None:
        """Raises UserError if a combination of values is impossible."""


_type_hints: Callable[[Any], dict[str, Any]] = cache(lambda settings: get_type_hints(settings, include_extras=True))


def hints(settings: Any) -> dict[str, Any]:
    """The type of each field of a dataclass, with its range, by name."""
    kinds = _type_hints(settings)
    return {part.name: kinds[part.name] for part in dataclasses.fields(settings)}


def convert(name: str, value: Any, kind: Any) -> Any:
    """Converts a value to the type of a setting.

    Scalars of NumPy and PyTorch become Python's; where ``kind`` asks for it, lists become tuples, texts become paths,
    and dictionaries become settings. If ``kind`` also allows a mapping, a dictionary stays one: it chooses only some
    of the settings.

    Args:
        name: The setting's name, for the message.
        value: The value.
        kind: The setting's type, as in a field's annotation.

    Raises:
        UserError: If the value cannot be converted.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _in_range(name, convert(name, value, arguments[0]), arguments[1:])
    if origin in (Union, UnionType) and kind not in _SCALARS:
        return _convert_to_one_of(name, value, arguments)
    value = _plain_scalar(value)
    if origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
        raise UserError(f"{name} must be one of {', '.join(arguments)}; got {shown(value)}.{nearest(value, arguments)}")
    if origin is tuple:
        return _convert_to_tuple(name, value, arguments[0])
    if origin in (dict, Mapping):
        return _convert_to_mapping(name, value)
    if dataclasses.is_dataclass(kind):
        settings: Any = kind
        return value if isinstance(value, settings) else settings(**convert_some(name, value, settings))
    if kind in _SCALARS:
        wanted, take = _SCALARS[kind]
        taken = take(value)
        if taken is not None:
            return taken
        raise UserError(f"{name} must be {wanted}, got {shown(value)}.")
    return value


def _in_range(name: str, value: Any, about: tuple[Any, ...]) -> Any:
    """Returns the value; raises UserError if it is outside a `Range` among what its annotation holds."""
    for part in about:
        wanted = part.wanted(value) if isinstance(part, Range) else None
        if wanted is not None:
            raise UserError(f"{name} must be {wanted}, got {value}.")
    return value


def expect(name: str, value: Any, kind: type[Part]) -> Part:
    """Returns the value; raises UserError unless it is an object of this class."""
    if isinstance(value, kind):
        return value
    where = kind.__module__.partition(".")[0]
    raise UserError(f"{name} must be a {where}.{kind.__name__}, got {shown(value)}.")


def convert_some(name: str, values: Any, kind: Any) -> dict[str, Any]:
    """Converts values for some of the fields of the dataclass ``kind``.

    Raises:
        UserError: If ``values`` is not a mapping, or names an unknown field.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{name} must be {kind.__name__} or a dictionary of its settings, got {shown(values)}.")
    kinds = hints(kind)
    for key in values:
        if key not in kinds:
            raise UserError(f"{name} has no setting {key!r}.{nearest(key, kinds)} It has: {', '.join(kinds)}.")
    return {key: convert(f"{name}.{key}", value, kinds[key]) for key, value in values.items()}


def _convert_to_one_of(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    """Converts to the first of these types that is not None; a mapping for a settings class stays partial."""
    if value is None and NoneType in kinds:
        return None
    kind = next(kind for kind in kinds if kind is not NoneType)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return convert_some(name, value, kind)
    return convert(name, value, kind)


def _convert_to_tuple(name: str, value: Any, kind: Any) -> tuple[Any, ...]:
    if isinstance(value, str) or not hasattr(value, "__iter__") or isinstance(value, Mapping):
        raise UserError(f"{name} must be a list or tuple, got {shown(value)}.")
    return tuple(convert(f"{name}[{index}]", part, kind) for index, part in enumerate(value))


def _convert_to_mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or any(_text(key) is None for key in value):
        raise UserError(f"{name} must be a dictionary with names as its keys, got {shown(value)}.")
    return {key: _as_json(f"{name}[{key!r}]", part) for key, part in value.items()}


def _as_json(name: str, value: Any) -> Any:
    value = _plain_scalar(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_as_json(name, part) for part in value]
    if isinstance(value, Mapping):
        return _convert_to_mapping(name, value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value}.")
    if value is None or isinstance(value, bool | int | float) or _text(value) is not None:
        return value
    raise UserError(f"{name} must be a number, a text, or a list or dictionary of them, got {shown(value)}.")


def _plain_scalar(value: Any) -> Any:
    """Converts a scalar of NumPy or PyTorch to Python's."""
    is_scalar = isinstance(value, np.generic) or getattr(value, "ndim", None) == 0
    return value.item() if is_scalar else value


def _bool_or_auto(value: Any) -> bool | str | None:
    return value if isinstance(value, bool) or (isinstance(value, str) and value == "auto") else None


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str | None:
    """The value if it is a text that files of UTF-8 can hold."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes


def _path(value: Any) -> Path | None:
    if not isinstance(value, str | os.PathLike):
        return None
    name = _text(os.fsdecode(value))
    if name is None:
        return None
    encoded = name.encode()
    long = len(encoded) > _LONGEST_PATH or max(map(len, encoded.split(b"/"))) > _LONGEST_NAME
    return None if long or b"\0" in encoded else Path(name)


_SCALARS: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    bool: ("True or False", lambda value: value if isinstance(value, bool) else None),
    BoolOrAuto: ("True, False or 'auto'", _bool_or_auto),
    int: ("a whole number", _whole),
    float: ("a finite number", _number),
    str: ("a text", _text),
    Path: (f"a path (in UTF-8; names of at most {_LONGEST_NAME} bytes, together at most {_LONGEST_PATH})", _path),
}
