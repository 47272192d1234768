"""Attributes that are computed on first access."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class lazy(Generic[Value]):  # noqa: N801 (a decorator, like property)
    """Turns a method into an attribute that is computed once per object.

    This is `functools.cached_property` without its lock. In Python 3.11 all objects of a class share that lock, so
    worker threads would compute one after the other. Without the lock, threads may share an object only after the
    attribute has been computed.

    Args:
        compute: The method.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Value:
        # From now on the instance's own entry hides this descriptor, which has no __set__.
        value = instance.__dict__[self._name] = self._compute(instance)
        return value
