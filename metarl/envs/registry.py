"""The door to all task families, built-in and a user's own."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metarl.common.errors import UserError, nearest
from metarl.envs.family import TaskFamily

Factory = Callable[..., TaskFamily]


@dataclass(frozen=True)
class _Entry:
    factory: Factory | str
    kwargs: dict[str, Any]


_registered: dict[str, _Entry] = {}


def register(family: Factory | str, name: str | None = None, **kwargs: Any) -> None:
    """Registers a task family under a name.

    Args:
        family: A subclass of `TaskFamily`, a function that makes one, or "package.module:Class", which is imported
            when it is asked for.
        name: The name; by default the family's own.
        **kwargs: Arguments for ``family``, which those of `get_family` override.

    Raises:
        UserError: If the name is taken.
    """
    if name is None:
        own = family.rpartition(":")[2] if isinstance(family, str) else getattr(family, "__name__", "")
        name = str(getattr(family, "name", own))
    if name in _registered:
        raise UserError(f"a task family named {name!r} is registered already; register yours under another name")
    _registered[name] = _Entry(family, kwargs)


def family_names() -> list[str]:
    """Names of all registered families, in the order of registration."""
    return list(_registered)


def get_family(spec: str, **kwargs: Any) -> TaskFamily:
    """Makes a task family, whose ``name`` is then ``spec``.

    Args:
        spec: A registered name, or "package.module:Class".
        **kwargs: Arguments for the family's constructor.

    Raises:
        UserError: If there is no such family, or if it does not take these arguments.
    """
    if spec in _registered:
        entry = _registered[spec]
        factory = _import_factory(entry.factory) if isinstance(entry.factory, str) else entry.factory
        return _make(spec, factory, {**entry.kwargs, **kwargs})
    if ":" in spec:
        return _make(spec, _import_factory(spec), kwargs)
    _refuse_root_link(spec)
    raise UserError(
        f"there is no task family named {spec!r}.{nearest(spec, _registered)} Registered are "
        f"{', '.join(_registered)}; a family of your own is given as package.module:Class"
    )


def family_spec(family: Any) -> tuple[str, dict[str, Any]]:
    return family, {}


def _make(spec: str, factory: Factory, kwargs: dict[str, Any]) -> TaskFamily:
    try:
        inspect.signature(factory).bind(**kwargs)
    except TypeError as error:
        accepted = ", ".join(inspect.signature(factory).parameters) or "none"
        raise UserError(f"{spec} cannot be made with these arguments: {error}; it accepts: {accepted}") from None
    try:
        family = factory(**kwargs)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{spec} cannot be made with these arguments: {type(error).__name__}: {error}") from error
    if not isinstance(family, TaskFamily):
        raise UserError(f"{spec} makes a {type(family).__name__}, and a subclass of metarl.TaskFamily is expected")
    family.name = spec
    return family


def _import_factory(spec: str) -> Factory:
    """Imports "package.module:Class"; raises UserError if it is not there."""
    _refuse_root_link(spec)
    module_name, _, attribute = spec.partition(":")
    module = _import_module(module_name)
    if not hasattr(module, attribute):
        raise UserError(f"module {module_name!r} has no {attribute!r}.{nearest(attribute, vars(module))}")
    factory: Factory = getattr(module, attribute)
    if isinstance(factory, type) and not issubclass(factory, TaskFamily):
        raise UserError(f"{spec} is not a task family; it must be a subclass of metarl.TaskFamily")
    if not callable(factory):
        raise UserError(f"{spec} is a {type(factory).__name__}, and a subclass of metarl.TaskFamily is expected")
    return factory


def _import_module(name: str) -> Any:
    # An installed command does not look into the working directory by itself; python -m does
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}.")
        if missing or name == "":
            raise UserError(
                f"there is no module {name!r}; run from the folder that holds it, or install its package"
            ) from None
        raise UserError(f"importing {name!r} failed with {type(error).__name__}: {error}") from error


def _refuse_root_link(spec: str) -> None:
    # A checkout has a link called envs at its root; importing through it would load every module twice
    if spec.partition(":")[0].split(".")[0] == "envs":
        raise UserError(f"{spec!r} is not importable by that name; write metarl.{spec}")
