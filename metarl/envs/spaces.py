"""Gymnasium's spaces: which are supported for actions, observations and tasks, and what is done with their elements.

A space has one part, or is a ``Dict`` or ``Tuple`` of parts, also nested. A part is a ``Box``, ``Discrete``,
``MultiDiscrete`` or ``MultiBinary``, or a space of one's own whose elements are arrays of numbers.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.common.arrays import array_of_objects
from metarl.common.errors import UserError, shown
from metarl.envs.single import begin, take_step

Space = spaces.Space[Any]
Bounds = tuple[NDArray[Any], NDArray[Any]]

MOST_CHOICES = 2**16
"""Options of all choices of an action together, or of one choice that is observed; each is a number of a network."""
MOST_FINITE = 100
"""A family has finitely many tasks if its task space has no more elements than this."""
# A policy's actions have single precision, 24 bits; with a bit to spare, they reach every element of an integer box.
_MOST_INTEGERS = 2**23
_COMBINED = (spaces.Dict, spaces.Tuple)
_ONE_HOT = (spaces.Discrete, spaces.MultiDiscrete)


# What is supported


def check_actions(space: Space) -> None:
    """Checks an action space.

    Raises:
        UserError: If it is not a bounded one-dimensional ``Box``, ``Discrete``, ``MultiDiscrete`` or ``MultiBinary``,
            or if it has more choices than a policy can tell apart.
    """
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.shape[0] and space.is_bounded():
        if _is_whole(space) and (space.high.astype(float) - space.low).max() >= _MOST_INTEGERS:
            raise UserError(
                f"action space {space} has more integers than a policy can tell apart ({_MOST_INTEGERS}); use a Box of "
                "floats and round in the environment."
            )
        return
    if not (sizes := choices(space)):
        raise UserError(
            f"action space {space} is not supported: use a bounded one-dimensional Box, Discrete, MultiDiscrete or "
            "MultiBinary; gymnasium.wrappers.TransformAction(env, function, space) turns its actions into the "
            "environment's."
        )
    if sum(sizes) > MOST_CHOICES:
        raise UserError(
            f"action space {space} has {sum(sizes)} options, and the policy's network has an output for each, at most "
            f"{MOST_CHOICES}; use a Box and round in the environment."
        )


def choices(space: Space) -> list[int]:
    """Number of options of each choice in a ``Discrete``, ``MultiDiscrete`` or ``MultiBinary`` space; else empty."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return list(map(int, space.nvec.flat))
    return [2] * math.prod(space.shape) if isinstance(space, spaces.MultiBinary) else []


def check_parts(space: Space, what: str) -> None:
    """Checks that the elements of a space are arrays of numbers, or dictionaries and tuples of them.

    Args:
        space: The space.
        what: What its elements are, for the message: "the tasks of navigation".

    Raises:
        UserError: If they are not.
    """
    if not isinstance(space, spaces.Space):
        raise UserError(f"{what} must be a Gymnasium space, got {shown(space)}.")
    for part in _parts(space):
        if not _is_numeric(part):
            raise UserError(
                f"{what} are {space}, and {part} is not supported: use Box, Discrete, MultiDiscrete, MultiBinary, or a "
                "Dict or Tuple of them."
            )


def _is_numeric(part: Space) -> bool:
    return part.shape is not None and part.dtype is not None and part.dtype.kind in "biuf"


def _parts(space: Space) -> Iterator[Space]:
    children: list[Space] = []
    if isinstance(space, _COMBINED):
        children = [*space.values()] if isinstance(space, spaces.Dict) else [*space]
    if not children:
        yield space
    for part in children:
        yield from _parts(part)


# Flat


def zero_action(space: Space) -> NDArray[Any] | None:
    """The action that stands for doing nothing: zeros; None if the space is not a ``Box`` or does not hold them."""
    zeros = np.zeros(space.shape, space.dtype) if isinstance(space, spaces.Box) else None
    return zeros if zeros is not None and space.contains(zeros) else None


def flat_space(space: Space, what: str) -> spaces.Box:
    """The space of the flat elements of a space, see `flatten`; a flat ``Box`` of floats stays as it is.

    Args:
        space: The space.
        what: What its elements are, for the message: "the observations of navigation".

    Raises:
        UserError: If the space is not supported.
    """
    check_parts(space, what)
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f":
        return space
    for part in _parts(space):
        if max(choices(part), default=0) > MOST_CHOICES:
            raise UserError(f"{what} have a number for each option of {part}, at most {MOST_CHOICES}; use a Box.")
    low, high = (np.concatenate(bounds) for bounds in zip(*map(_flat_bounds, _parts(space)), strict=True))
    return spaces.Box(low, high, dtype=np.float64)


def flat_observation_space(space: Space, what: str) -> spaces.Box:
    """`flat_space` for observations.

    Raises:
        UserError: If the space is not supported; the message names Gymnasium's wrapper that helps.
    """
    try:
        return flat_space(space, what)
    except UserError as error:
        supported = []
        if isinstance(space, spaces.Dict):
            supported = [name for name, part in space.items() if all(map(_is_numeric, _parts(part)))]
        wrapper = "TransformObservation(env, function, space) makes others of them."
        if supported and not all(map(_is_numeric, _parts(space))):
            wrapper = f"FilterObservation(env, {supported}) leaves out the rest."
        raise UserError(f"{error} In make_env, gymnasium.wrappers.{wrapper}") from error


def _flat_bounds(space: Space) -> Bounds:
    """Bounds of the numbers that one part is flattened to, [number]."""
    if isinstance(space, spaces.Box) and not _is_image(space):
        return space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    size = sum(choices(space)) if isinstance(space, _ONE_HOT) else math.prod(space.shape or ())
    low, high = (0.0, 1.0) if choices(space) or _is_image(space) else (-np.inf, np.inf)
    return np.full(size, low), np.full(size, high)


def _is_image(space: Space) -> bool:
    """Whether a space holds bytes that use their whole range, such as the colours of pixels."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and bool((space.low == 0).all() and (space.high == 255).all())
    )


def in_order_of(model: Space, space: Space) -> Space:
    """``space`` with the parts of each ``Dict`` in the order of ``model``, where that has the same parts.

    For Gymnasium two such spaces are equal, but their elements are flattened in different orders.
    """
    if isinstance(model, spaces.Dict) and isinstance(space, spaces.Dict) and model.keys() == space.keys():
        return spaces.Dict([(name, in_order_of(part, space[name])) for name, part in model.items()])
    if isinstance(model, spaces.Tuple) and isinstance(space, spaces.Tuple) and len(model) == len(space):
        return spaces.Tuple([in_order_of(*parts) for parts in zip(model, space, strict=True)])
    return space


def same_form(one: Space, other: Space) -> bool:
    """Whether two spaces have the same parts, and `flatten` makes the same of them but for their order."""
    return bool(_form(one) == _form(other))


def _form(space: Space) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _form(part) for name, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return [_form(part) for part in space]
    return space.shape, choices(space), isinstance(space, _ONE_HOT), _is_image(space)


def flatten(space: Space, value: Any, what: str) -> NDArray[np.float64]:
    """An element of a space as numbers.

    ``Discrete`` and ``MultiDiscrete`` become one-hot. Bytes between 0 and 255, such as images, are scaled to [0, 1].
    The parts of ``Dict`` and ``Tuple`` follow each other in the order of the space.

    Args:
        space: The space, as `flat_space` accepts it.
        value: The element. An array may lie outside the bounds of its ``Box``.
        what: What it is, for the message: "an observation of navigation".

    Returns:
        [number].

    Raises:
        UserError: If ``value`` does not have the form of the space's elements.
    """
    if isinstance(space, _COMBINED):
        return np.concatenate([flatten(*child) for child in _children(space, value, what)])
    numbers = _numbers(space, value, what).ravel()
    if isinstance(space, _ONE_HOT):
        return _one_hot(space, numbers, what)
    return numbers / 255.0 if _is_image(space) else numbers.astype(np.float64)


def _one_hot(space: Space, numbers: NDArray[Any], what: str) -> NDArray[np.float64]:
    low, high = (bound.ravel() for bound in _whole_bounds(space))
    if ((numbers < low) | (numbers > high) | (numbers % 1 != 0)).any():
        raise UserError(f"{what} must be an element of {space}, got {numbers.tolist()}.")
    sizes = high - low + 1
    hot = np.zeros(sizes.sum())
    hot[(np.cumsum(sizes) - sizes + numbers - low).astype(int)] = 1
    return hot


def _children(space: Space, value: Any, what: str) -> list[tuple[Space, Any, str]]:
    """The parts of a space, the part of ``value`` that belongs to each, and what it is."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or value.keys() != space.keys():
            names = ", ".join(map(repr, space))
            got = f"the keys {', '.join(map(repr, value))}" if isinstance(value, Mapping) else repr(value)
            raise UserError(f"{what} must be a dictionary with the keys {names}, got {got}.")
        return [(part, value[name], f"{what}[{name!r}]") for name, part in space.items()]
    assert isinstance(space, spaces.Tuple)
    if not isinstance(value, Sequence | np.ndarray) or len(value) != len(space):
        raise UserError(f"{what} must be a tuple of {len(space)} parts, got {value!r}.")
    return [(part, value[place], f"{what}[{place}]") for place, part in enumerate(space)]


def _numbers(space: Space, value: Any, what: str) -> NDArray[Any]:
    """``value`` as an array of numbers of the space's shape."""
    try:
        numbers = np.asarray(value)
    except ValueError:  # Lists of different lengths.
        numbers = np.asarray(None)
    if numbers.dtype.kind not in "biuf":
        raise UserError(f"{what} must be numbers of shape {space.shape}, got {shown(value)}.")
    if numbers.shape != space.shape:
        raise UserError(f"{what} must have shape {space.shape}, got {numbers.shape}.")
    return numbers


def observed(space: Space, observation: Any, method: str) -> NDArray[Any]:
    """An observation of a flat ``Box`` as an array.

    Args:
        space: The box.
        observation: The observation; it may lie outside the bounds.
        method: What returned it, for the message: "step".

    Raises:
        UserError: If it is not numbers of the box's shape.
    """
    if isinstance(observation, np.ndarray) and observation.shape == space.shape and observation.dtype.kind in "biuf":
        return observation
    return _numbers(space, observation, f"the observation that {method} returned")


class FlatObservation(gym.Wrapper[NDArray[np.float64], Any, Any, Any]):
    """Flattens the observations of an environment, see `flatten`.

    Args:
        env: The environment.
        name: The family's name, for messages.
        space: Its observations, with the parts in the order that they are flattened in.

    Raises:
        UserError: If the observations are not supported; later, if one does not have the form of the space.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str, space: Space) -> None:
        super().__init__(env)
        self._what, self._space = f"an observation of {name}", space
        self.observation_space: Space = flat_observation_space(space, f"the observations of {name}")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Resets the environment; the observation is [number]."""
        observation, info = begin(self.env, seed, options)
        return flatten(self._space, observation, self._what), dict(info)

    def step(self, action: Any) -> tuple[NDArray[np.float64], Any, bool, bool, dict[str, Any]]:
        """Takes one step; the observation is [number]."""
        observation, reward, terminated, truncated, info = take_step(self.env, action)
        flat = flatten(self._space, observation, self._what)
        return flat, reward, terminated, truncated, dict(info)


# Elements


def sampled(space: Space) -> Any:
    """An element drawn by the space's own generator, also of a ``Box`` whose width exceeds double precision."""
    if not (isinstance(space, spaces.Box) and space.dtype.kind == "f" and space.is_bounded()):
        return space.sample()
    low, high = space.low.astype(float), space.high.astype(float)
    if (high / 2 - low / 2 < np.finfo(float).max / 2).all():
        return space.sample()
    share = space.np_random.uniform(size=space.shape)
    return ((1 - share) * low + share * high).astype(space.dtype)


def element(space: Space, value: Any, what: str) -> Any:
    """The element of a space that a value stands for, such as one read from JSON; it may lie outside the bounds.

    Args:
        space: A space, as `check_parts` accepts it.
        value: Numbers, lists of them, or dictionaries and sequences of those.
        what: What it is, for the message: "task 3".

    Returns:
        Arrays of the space's dtypes; dictionaries and tuples of them for ``Dict`` and ``Tuple``.

    Raises:
        UserError: If the value does not have the form of the space's elements.
    """
    if isinstance(space, _COMBINED):
        made = [element(*child) for child in _children(space, value, what)]
        return dict(zip(space, made, strict=True)) if isinstance(space, spaces.Dict) else tuple(made)
    numbers = _numbers(space, value, what)
    with np.errstate(invalid="ignore", over="ignore"):
        converted = numbers.astype(space.dtype)
    if converted.dtype.kind in "biu" and (converted != numbers).any():
        raise UserError(f"{what} must hold whole numbers of type {space.dtype}, got {value!r}.")
    return converted if isinstance(space, spaces.Box) else converted[()]


def stacked(elements: Sequence[Any]) -> NDArray[Any]:
    """Elements of one space as an array: [element, *shape], or [element] of objects for ``Dict`` and ``Tuple``."""
    return array_of_objects(elements) if isinstance(elements[0], Mapping | tuple) else np.stack(elements)


def copied(value: Any) -> Any:
    """A copy of an element; numbers and lists become arrays."""
    if isinstance(value, Mapping):
        return {name: copied(part) for name, part in value.items()}
    return tuple(map(copied, value)) if isinstance(value, tuple) else np.array(value)


def in_words(value: Any) -> str:
    """An element in a few words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {in_words(part)}" for name, part in value.items())
    if isinstance(value, tuple):
        return f"({', '.join(map(in_words, value))})"
    return np.array2string(np.asarray(value), precision=3)


# Counting


def all_elements(space: Space) -> NDArray[Any] | None:
    """All elements of a space with at most `MOST_FINITE`, [element, ...] as by `stacked`; None if it has more."""
    return stacked(list(_elements(space))) if num_elements(space) <= MOST_FINITE else None


def num_elements(space: Space) -> float:
    """Number of elements of a space; infinity if they are not whole numbers between bounds."""
    boxes = (part for part in _parts(space) if isinstance(part, spaces.Box))
    if not is_countable(space) or not all(box.is_bounded() for box in boxes):
        return math.inf
    bounds = (pair for part in _parts(space) for pair in zip(*(b.flat for b in _whole_bounds(part)), strict=True))
    return math.prod(int(high) - int(low) + 1 for low, high in bounds)


def is_countable(space: Space) -> bool:
    """Whether a space consists of whole numbers only, so that two draws may be equal."""
    return all(map(_is_whole, _parts(space)))


def _is_whole(space: Space) -> bool:
    """Whether one part consists of whole numbers."""
    return bool(choices(space)) or (isinstance(space, spaces.Box) and space.dtype.kind in "biu")


def _whole_bounds(space: Space) -> Bounds:
    """Lowest and highest value of each number in a part that consists of whole numbers, [*shape]."""
    if isinstance(space, spaces.Box):
        return space.low, space.high
    start = np.asarray(getattr(space, "start", np.zeros(space.shape or (), int)))
    return start, start + np.reshape(choices(space), start.shape) - 1


def _elements(space: Space) -> Iterator[Any]:
    if isinstance(space, spaces.Dict):
        return (dict(zip(space, values, strict=True)) for values in itertools.product(*map(_elements, space.values())))
    if isinstance(space, spaces.Tuple):
        return itertools.product(*map(_elements, space))
    low, high = _whole_bounds(space)
    ranges = [range(first, last + 1) for first, last in zip(low.ravel().tolist(), high.ravel().tolist(), strict=True)]
    arrays = (np.array(values).reshape(low.shape) for values in itertools.product(*ranges))
    return (element(space, array, "an element") for array in arrays)
