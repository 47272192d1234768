"""Things named by text: "package.module:name"."""

import importlib
from typing import Any


def load(spec: str) -> Any:
    """What "package.module:name" names, imported."""
    module, name = spec.split(":")
    return getattr(importlib.import_module(module), name)
