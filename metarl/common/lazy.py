"""Attributes that are computed when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class lazy(Generic[Value]):  # noqa: N801 (a decorator, like property)
    """A method as an attribute that is computed once for each object.

    `functools.cached_property` without its lock, which in Python 3.11 all objects of a class share: worker threads
    would compute one after the other. An object must not be shared by threads before the attribute is there.

    Args:
        compute: The method.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Value:
        value = instance.__dict__[self._name] = self._compute(instance)
        return value
