"""Rules and meta-optimisers of one's own, named as package.module:Class."""

from __future__ import annotations

import inspect

from metarl.common.errors import UserError
from metarl.common.importing import import_named
from metarl.config.checked import Checked


def own_title(spec: str) -> str:
    """What plots and tables call it: the class's name."""
    return spec.rpartition(":")[2]


def own_row(spec: str, what: str) -> tuple[str, str, type[Checked]]:
    """What a catalogue's row says of it: the first line of its docstring, ``spec``, and its ``Settings``.

    Args:
        spec: The text that names it, package.module:Class.
        what: The setting that it is the value of, for messages.

    Raises:
        UserError: If it cannot be imported, or is nothing that could be made.
    """
    kind = import_named(spec, what)
    if not callable(kind):
        raise UserError(f"{what} {spec} is a {type(kind).__name__}, and a class is expected.")
    settings = getattr(kind, "Settings", Checked)
    if not (isinstance(settings, type) and issubclass(settings, Checked)):
        raise UserError(
            f"{spec}.Settings must be a frozen dataclass derived from metarl.RuleSettings, got {settings!r}."
        )
    return (inspect.getdoc(kind) or "").partition("\n")[0], spec, settings
