"""Looks up task families by name, both built-in and a user's own, and finds the name of a family."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from metarl.common.errors import UserError, nearest
from metarl.common.importing import import_named, importable_name, refuse_root_link
from metarl.common.strict_json import one_line
from metarl.envs.family import Family, FamilySpec

Factory = Callable[..., Family]
FamilyLike = str | type[Family] | Family

_EXPECTED = "a subclass of metarl.TaskFamily or metarl.SupervisedFamily"


@dataclass(frozen=True)
class _Entry:
    factory: Factory | str
    summary: str | None
    kwargs: dict[str, Any]
    built_in: bool = False


_registered: dict[str, _Entry] = {}


def register(
    family: Factory | str, name: str | None = None, summary: str | None = None, *, replace: bool = False, **kwargs: Any
) -> None:
    """Registers a task family under a name.

    Args:
        family: A subclass of `TaskFamily` or `SupervisedFamily`, a function that makes a family, or
            "package.module:Class", which is imported at its first use.
        name: The name; by default the family's own.
        summary: Description in one sentence; by default the first line of the family's docstring.
        replace: Whether a family that has this name is replaced, as when a notebook's cell runs again.
        **kwargs: Arguments for ``family``, which those of `get_family` override.

    Raises:
        UserError: If the name is taken, without ``replace``, or is that of a built-in family.
    """
    if not callable(family) and not (isinstance(family, str) and ":" in family):
        raise UserError(f"register takes {_EXPECTED}, a function, or the text package.module:Class, got {family!r}.")
    if not isinstance(name, str | None):
        raise UserError(f"the name of a task family must be a text, got {name!r}.")
    if name is None:
        own = family.rpartition(":")[2] if isinstance(family, str) else getattr(family, "__name__", "")
        name = str(getattr(family, "name", own))
    taken = _registered.get(name)
    if taken is not None and (taken.built_in or not replace):
        choice = "" if taken.built_in else "replace it (replace=True), or "
        raise UserError(
            f"a task family named {name!r} is registered already; {choice}register yours under another name."
        )
    _registered[name] = _Entry(family, summary, kwargs)


def register_built_in(family: str, name: str, summary: str, kwargs: Mapping[str, Any]) -> None:
    """Registers a family of metarl's; arguments as for `register`. It cannot be replaced."""
    _registered[name] = _Entry(family, summary, dict(kwargs), built_in=True)


def unregister(name: str) -> None:
    """Forgets the family that `register` has put under a name.

    Raises:
        UserError: If there is none, or it is a built-in family.
    """
    entry = _registered.get(name) if isinstance(name, str) else None
    if entry is None or entry.built_in:
        own = [known for known, entry in _registered.items() if not entry.built_in]
        raise UserError(
            f"unregister takes the name of a family that you have registered ({', '.join(own) or 'none so far'}), got "
            f"{name!r}."
        )
    del _registered[name]


def is_registered(name: str) -> bool:
    """Whether a family is registered under this name, or made by what this text "package.module:Class" names."""
    if name in _registered:
        return True
    factories = [entry.factory for entry in _registered.values()]
    return any(name == (made if isinstance(made, str) else _spec(made)) for made in factories)


def family_names() -> list[str]:
    """Names of all registered families, in the order of registration."""
    return list(_registered)


def family_summaries() -> dict[str, str]:
    """One-sentence descriptions of all registered families by name, in the order of registration."""
    return {name: _summary(entry) for name, entry in _registered.items()}


def get_family(family: FamilyLike, /, **kwargs: Any) -> Family:
    """Makes a task family; its ``name`` and ``spec`` then record the name and the arguments.

    Args:
        family: A registered name, "package.module:Class", a class that can be imported, or a family made by this
            function, whose arguments apply unless ``kwargs`` overrides them.
        **kwargs: Arguments for the family's constructor.

    Raises:
        UserError: If there is no such family, or if it does not take these arguments.
    """
    name, own = family_spec(family)
    chosen = {**own, **kwargs}
    factory, registered = _factory(name)
    # Copied, because the next family must be made with the same, whatever this one does with its arguments.
    made = _make(name, factory, _copied({**registered, **chosen}))
    taken = {"name", "spec"} & vars(made).keys()
    if taken and not isinstance(made.spec, FamilySpec):  # Else the factory has called this function.
        raise UserError(
            f"the constructor of {name} sets self.{min(taken)}, which metarl sets to what the family was made by; give "
            "the attribute another name."
        )
    made.name, made.spec = name, FamilySpec(name, chosen)
    made.check_complete()
    return made


def family_spec(family: FamilyLike) -> FamilySpec:
    """Returns the arguments with which `get_family` makes a family, so that another process can make it again.

    Args:
        family: A name, which is returned unchanged; a registered or importable class; or a family made by
            `get_family`.

    Returns:
        A registered name or "package.module:Class", and the arguments. Those with which a user has registered the name
        are among them: a run that has stored them is not changed by a later registration. (Those that JSON cannot
        hold are not: they apply when the family is made.)

    Raises:
        UserError: If the family cannot be named, or was changed after it was made.
    """
    if isinstance(family, str):
        entry = _registered.get(family)
        return FamilySpec(family, {} if entry is None or entry.built_in else _storable(entry.kwargs))
    if isinstance(family, type) and issubclass(family, Family):
        return FamilySpec(_name_of(family), {})
    if not isinstance(family, Family):
        raise UserError(f"give a task family as a name, a subclass of metarl.TaskFamily or a family, got {family!r}.")
    if family.spec is None:
        raise UserError(
            f"this {type(family).__name__} was not made by get_family, so nothing says how to make it again; give its "
            "class and, as env_kwargs, its arguments, or register a function that makes it."
        )
    name, kwargs = family.spec
    made_again = get_family(name, **kwargs)
    for attribute, value in vars(family).items():
        if attribute in vars(made_again):
            if attribute.startswith("_"):  # Perhaps a store of what has been computed.
                continue
            changed = _in_text(value) != _in_text(vars(made_again)[attribute])
        else:
            of_class = inspect.getattr_static(type(family), attribute, None)
            changed = of_class is not None and not isinstance(of_class, cached_property)
        if changed:
            raise UserError(
                f"{attribute} of this {name} was changed after it was made, and a family that is made again would not "
                "have it; set it in a subclass, or choose it where there is a setting for it."
            )
    return FamilySpec(name, dict(kwargs))


def _in_text(value: Any) -> str | None:
    """A value as a line of JSON; None if JSON cannot hold it."""
    try:
        return one_line(value)
    except (TypeError, ValueError):
        return None


def _storable(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that JSON can hold."""
    return {name: value for name, value in kwargs.items() if _in_text(value) is not None}


def _copied(value: Any) -> Any:
    """A copy of dictionaries, lists and arrays, and of those in them; anything else is the same object."""
    if type(value) is dict:
        return {name: _copied(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return value.copy() if isinstance(value, np.ndarray) else value


def _name_of(family: type[Family]) -> str:
    """The name under which the class is registered without arguments, else "package.module:Class"."""
    spec = _spec(family)
    for name, entry in _registered.items():
        if (entry.factory is family or entry.factory == spec) and not entry.kwargs:
            return name
    return importable_name(family)


def _spec(factory: Factory) -> str:
    return f"{getattr(factory, '__module__', '')}:{getattr(factory, '__qualname__', '')}"


def _summary(entry: _Entry) -> str:
    if entry.summary is not None:
        return entry.summary
    try:
        factory = _import_factory(entry.factory) if isinstance(entry.factory, str) else entry.factory
    except UserError as error:
        return str(error)
    return (factory.__doc__ or "").strip().partition("\n")[0]


def _factory(name: str) -> tuple[Factory, dict[str, Any]]:
    """Returns the class or function that makes the family of this name, and the arguments registered with it."""
    if name in _registered:
        entry = _registered[name]
        return _import_factory(entry.factory) if isinstance(entry.factory, str) else entry.factory, entry.kwargs
    if ":" in name:
        return _import_factory(name), {}
    refuse_root_link(name)
    raise UserError(
        f"there is no task family named {name!r}.{nearest(name, _registered)} Registered are "
        f"{', '.join(_registered)}; a family of your own is given as package.module:Class."
    )


def _make(name: str, factory: Factory, kwargs: dict[str, Any]) -> Family:
    try:
        inspect.signature(factory).bind(**kwargs)
    except TypeError as error:
        accepted = ", ".join(inspect.signature(factory).parameters) or "none"
        raise UserError(f"{name} cannot be made with these arguments: {error}; it accepts: {accepted}.") from None
    try:
        family = factory(**kwargs)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} cannot be made with these arguments: {type(error).__name__}: {error}.") from error
    if not isinstance(family, Family):
        raise UserError(f"{name} makes a {type(family).__name__}, and {_EXPECTED} is expected.")
    return family


def _import_factory(spec: str) -> Factory:
    """Imports "package.module:Class"; raises UserError if it does not exist or cannot make a family."""
    factory: Factory = import_named(spec, "env")
    if isinstance(factory, type) and not issubclass(factory, Family):
        raise UserError(f"{spec} is not a task family; it must be {_EXPECTED}.")
    if not callable(factory):
        raise UserError(f"{spec} is a {type(factory).__name__}, and {_EXPECTED} is expected.")
    return factory
