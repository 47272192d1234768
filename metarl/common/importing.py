"""Imports objects named by text such as "package.module:name"."""

from __future__ import annotations

import importlib
import os
import sys
from functools import reduce
from typing import Any

from metarl.common.errors import UserError, nearest

# Links at the root of a checkout; imports through them would load every module twice.
_ROOT_LINKS = ("envs", "agents")
# What `import_named` has imported, with the name of the setting that it was for.
_imported: set[tuple[str, str]] = set()


def import_named(spec: str, what: str) -> Any:
    """Imports the object that "package.module:name" names.

    Args:
        spec: The text.
        what: Name of the setting that has this value, for the message.

    Raises:
        UserError: If the text has another form, if the module or the name does not exist, or if the import fails.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise UserError(f"{what} must have the form package.module:name, got {spec!r}.")
    refuse_root_link(spec)
    # `python -m` puts the working directory on sys.path; an installed command does not.
    if module_name.partition(".")[0] != "metarl" and not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # A missing part of the path itself, not an import that fails inside the module.
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(
                f"there is no module {module_name!r}; run from the folder that holds it, or install its package."
            ) from None
        raise UserError(f"importing {module_name!r} failed with {type(error).__name__}: {error}.") from error
    try:
        found = reduce(getattr, attribute.split("."), module)
    except AttributeError:
        raise UserError(f"module {module_name!r} has no {attribute!r}.{nearest(attribute, vars(module))}") from None
    _imported.add((spec, what))
    return found


def was_imported(spec: str, what: str) -> bool:
    """Whether this process has imported ``spec`` before as the setting ``what``; then its code has run already."""
    return (spec, what) in _imported


def refuse_root_link(spec: str) -> None:
    """Raises UserError if a text names something through a link at a checkout's root."""
    if spec.partition(":")[0].split(".")[0] in _ROOT_LINKS:
        raise UserError(f"{spec!r} is not importable by that name; write metarl.{spec}.")


def importable_name(kind: type) -> str:
    """Returns the text "package.module:Class" that names a class.

    Raises:
        UserError: If the class cannot be imported by that text.
    """
    spec = f"{kind.__module__}:{kind.__qualname__}"
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        place = "a function" if "<locals>" in kind.__qualname__ else "the program that is running"
        raise UserError(
            f"the class {kind.__qualname__} is defined in {place} and cannot be imported again; save it at the top "
            "level of a module."
        )
    if import_named(spec, kind.__qualname__) is not kind:
        raise UserError(f"importing {spec} gives another object than this class; give the class that is imported.")
    return spec
