"""Gymnasium's spaces as JSON values, so that a file can hold them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.common.errors import UserError
from metarl.envs.spaces import Space


def space_to_json(space: Space) -> dict[str, Any]:
    """A space as JSON values; `space_from_json` makes it again.

    Raises:
        UserError: If it is not a ``Box``, ``Discrete``, ``MultiDiscrete``, ``MultiBinary``, or a ``Dict`` or ``Tuple``
            of these.
    """
    kind, dtype = type(space).__name__, str(space.dtype)
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "parts": [[name, space_to_json(part)] for name, part in space.items()]}
    if isinstance(space, spaces.Tuple):
        return {"kind": "Tuple", "parts": [space_to_json(part) for part in space]}
    if isinstance(space, spaces.Box):
        low, high = _bounds_to_json(space.low), _bounds_to_json(space.high)
        return {"kind": "Box", "dtype": dtype, "shape": list(space.shape), "low": low, "high": high}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "dtype": dtype, "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "dtype": dtype, "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "n": np.asarray(space.n).tolist()}
    raise UserError(f"a file cannot hold the space {space} ({kind}); use Gymnasium's own spaces in the environment.")


def space_from_json(values: Mapping[str, Any]) -> Space:
    """The space that `space_to_json` describes.

    Raises:
        KeyError, TypeError, ValueError, AssertionError: If the values are not those of a space.
    """
    kind, dtype = values["kind"], values.get("dtype")
    if kind == "Dict":
        # From pairs: Gymnasium sorts the keys of a dictionary, and numbers follow the order of the space.
        return spaces.Dict([(name, space_from_json(part)) for name, part in values["parts"]])
    if kind == "Tuple":
        return spaces.Tuple([space_from_json(part) for part in values["parts"]])
    if kind == "Box":
        shape = tuple(values["shape"])
        low, high = (_bounds_from_json(values[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, np.dtype(dtype).type)
    if kind == "Discrete":
        return spaces.Discrete(values["n"], start=values["start"], dtype=np.dtype(dtype).type)
    if kind == "MultiDiscrete":
        nvec, start = np.array(values["nvec"]), np.array(values["start"])
        return spaces.MultiDiscrete(nvec, dtype=np.dtype(dtype).type, start=start)
    if kind == "MultiBinary":
        return spaces.MultiBinary(values["n"])
    raise ValueError(f"there is no space {kind!r}")


def _bounds_to_json(bounds: NDArray[Any]) -> Any:
    """One number if all are equal, else a list of all; infinity as a text, because JSON has none."""
    numbers = bounds.ravel().tolist()
    values = [str(number) if number in (float("inf"), -float("inf")) else number for number in numbers]
    return values[0] if values and values.count(values[0]) == len(values) else values


def _bounds_from_json(values: Any, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    listed = values if isinstance(values, list) else [values]
    numbers = np.array([float(value) if isinstance(value, str) else value for value in listed], dtype=dtype)
    return np.broadcast_to(numbers[0], shape).copy() if len(listed) == 1 else numbers.reshape(shape)
