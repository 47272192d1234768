"""Vector entry points of the built-in environments, by name: ``metarl.envs.vector:CheetahDir``.

Gymnasium is given this text and not a function, because a spec that holds functions cannot be saved as JSON.
"""

from functools import partial
from typing import Any

from metarl.common.importing import import_named
from metarl.envs.built_in import BUILT_IN
from metarl.envs.native import make_vector_env


def __getattr__(name: str) -> Any:
    for row in BUILT_IN:
        if row.environment is not None and row.environment.name == name:
            return partial(make_vector_env, import_named(row.family, "vector environment"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
