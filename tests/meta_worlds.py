"""A stand-in for the package metaworld."""

import sys
from contextlib import contextmanager
from functools import cache

from tiny_runs import ROOT

from metarl.envs import metaworld

_CACHED = ("_classes", "_benchmark")


@contextmanager
def stand_in():
    """The stand-in is imported in place of metaworld, whether that is installed or not."""
    installed = _taken_from_modules()
    made = {name: getattr(metaworld, name) for name in _CACHED}
    for name, function in made.items():
        setattr(metaworld, name, cache(function.__wrapped__))
    sys.path.insert(0, str(ROOT / "tests/stand_ins"))
    try:
        yield
    finally:
        sys.path.remove(str(ROOT / "tests/stand_ins"))
        _taken_from_modules()
        sys.modules.update(installed)
        vars(metaworld).update(made)


def _taken_from_modules():
    names = [name for name in sys.modules if name.partition(".")[0] == "metaworld"]
    return {name: sys.modules.pop(name) for name in names}
