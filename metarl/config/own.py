"""A user's own rules and meta-optimisers, named as package.module:Class."""

from __future__ import annotations

import dataclasses
import inspect

from metarl.common.errors import UserError
from metarl.common.importing import import_named
from metarl.config.checked import Checked


def own_title(spec: str) -> str:
    """Name in plots and tables: the name of the class."""
    return spec.rpartition(":")[2]


def own_row(spec: str, what: str) -> tuple[str, str, type[Checked]]:
    """Returns the row of a user's class: the first line of its docstring, ``spec``, and its ``Settings``.

    Args:
        spec: The text that names the class, package.module:Class.
        what: Name of the setting that has this value, for messages.

    Raises:
        UserError: If the import fails, the object cannot be called, or ``Settings`` has a wrong type.
    """
    kind = import_named(spec, what)
    if not callable(kind):
        raise UserError(f"{what} {spec} is a {type(kind).__name__}, and a class is expected.")
    settings = getattr(kind, "Settings", Checked)
    if not (isinstance(settings, type) and issubclass(settings, Checked)):
        raise UserError(
            f"{spec}.Settings must be a frozen dataclass derived from metarl.RuleSettings, got {settings!r}."
        )
    without = [
        part.name
        for part in dataclasses.fields(settings)
        if part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING
    ]
    if without:
        raise UserError(f"{spec}.Settings needs a default for {', '.join(without)}.")
    return (inspect.getdoc(kind) or "").partition("\n")[0], spec, settings
