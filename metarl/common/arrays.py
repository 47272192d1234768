"""Array aliases shared by environments and rollouts, and arrays of tasks.

Any float precision is allowed: the caller owns the buffers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
Floats = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.integer]


def array_of_objects(values: Sequence[Any]) -> NDArray[Any]:
    """An array that holds the values themselves, [value], even if they are lists."""
    objects = np.empty(len(values), object)
    for index, value in enumerate(values):
        objects[index] = value
    return objects


def rows_of_numbers(tasks: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
    """The numbers of each task in their order, [task, number]; tasks may be dictionaries and lists of arrays."""
    return np.array([list(_numbers(task)) for task in tasks], np.float64)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(part)
    else:
        yield from np.ravel(value).tolist()
