"""Elements of Gymnasium's spaces: flat, from JSON, counted; and which spaces are refused."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation, TransformAction, TransformObservation

from metarl.common.errors import UserError
from metarl.common.strict_json import plain
from metarl.envs.spaces import (
    MOST_CHOICES,
    all_elements,
    check_actions,
    check_parts,
    choices,
    copied,
    element,
    flat_observation_space,
    flat_space,
    flatten,
    in_order_of,
    in_words,
    is_countable,
    num_elements,
    stacked,
)

WHOLE = {
    "discrete": (spaces.Discrete(3, start=-1), 3),
    "choices": (spaces.MultiDiscrete([[2, 3], [1, 2]], start=[[0, 5], [1, -2]]), 12),
    "switches": (spaces.MultiBinary((2, 3)), 64),
    "integers": (spaces.Box(np.array([-1, 3]), np.array([1, 4]), dtype=np.int8), 6),
    "one integer": (spaces.Box(0, 4, (), np.uint8), 5),
    "truths": (spaces.Box(0, 1, (2,), np.bool_), 4),
    "dict": (spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple([spaces.MultiBinary(2)])}), 8),
    "tuple": (spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 2, (1,), np.int64)]), 6),
}
REAL = {
    "box": spaces.Box(-1, 1, (2, 2), np.float32),
    "mixed": spaces.Dict(
        {"kind": spaces.Discrete(2), "where": spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2)])}
    ),
}
ALL = {**{name: space for name, (space, _) in WHOLE.items()}, **REAL}
every_space = pytest.mark.parametrize("space", ALL.values(), ids=ALL)


@every_space
def test_flat_elements_are_gymnasiums_and_lie_in_the_flat_space(space):
    flat = flat_space(space, "they")
    space.seed(0)
    for _ in range(5):
        drawn = space.sample()
        numbers = flatten(space, drawn, "it")
        np.testing.assert_array_equal(numbers, spaces.flatten(space, drawn))
        assert numbers.dtype == np.float64
        assert numbers in flat


def test_parts_are_put_in_the_order_of_another_space():
    one, two = spaces.Box(0, 1, (1,)), spaces.Box(0, 9, (2,))
    model = spaces.Dict([("b", spaces.Tuple([spaces.Dict([("y", one), ("x", two)])])), ("a", one)])
    other = spaces.Dict([("a", two), ("b", spaces.Tuple([spaces.Dict([("x", one), ("y", two)])]))])
    ordered = in_order_of(model, other)
    assert ordered == other
    assert list(ordered) == ["b", "a"]
    assert list(ordered["b"][0]) == ["y", "x"]
    for different in (spaces.Dict([("c", one), ("a", one)]), one):
        assert in_order_of(model, different) is different


def test_a_flat_box_of_floats_stays_as_it_is():
    flat = spaces.Box(-1, 1, (3,), np.float32)
    assert flat_space(flat, "they") is flat
    assert flat_space(spaces.Box(0, 254, (3,), np.uint8), "they") == spaces.Box(0, 254, (3,), np.float64)
    assert flat_space(spaces.Box(0, 255, (3,), np.uint8), "they") == spaces.Box(0, 1, (3,), np.float64)


@pytest.mark.parametrize("nest", [lambda space: space, lambda space: spaces.Dict({"camera": spaces.Tuple([space])})])
def test_images_are_scaled_to_the_unit_interval(nest):
    image = spaces.Box(0, 255, (2, 2), np.uint8)
    pixels = np.array([[0, 51], [102, 255]], np.uint8)
    value = pixels if nest(image) is image else {"camera": (pixels,)}
    np.testing.assert_array_equal(flatten(nest(image), value, "it"), np.array([0, 0.2, 0.4, 1]))
    assert flat_space(nest(image), "they") == spaces.Box(0, 1, (4,), np.float64)
    half = spaces.Box(0, 127, (2, 2), np.uint8)
    np.testing.assert_array_equal(flatten(half, pixels, "it"), pixels.ravel())


class Simplex(spaces.Space):
    """A space of one's own, whose elements are arrays of numbers."""

    def __init__(self):
        super().__init__((3,), np.float64)


def test_a_space_of_ones_own_is_an_unbounded_array():
    np.testing.assert_array_equal(flatten(Simplex(), [0.5, 0.25, 0.25], "it"), [0.5, 0.25, 0.25])
    assert flat_space(Simplex(), "they") == spaces.Box(-np.inf, np.inf, (3,), np.float64)
    assert not is_countable(Simplex())


@pytest.mark.parametrize(
    "part",
    [
        spaces.Text(3),
        spaces.Graph(spaces.Discrete(2), None),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)]),
        spaces.Dict({}),
        spaces.Space((2,), np.complex128),
    ],
    ids=lambda space: type(space).__name__,
)
@pytest.mark.parametrize("nest", [lambda space: space, lambda space: spaces.Tuple([spaces.Discrete(2), space])])
def test_other_spaces_are_refused_by_name(part, nest):
    for check in (check_parts, flat_space):
        with pytest.raises(UserError) as error:
            check(nest(part), "the tasks of it")
        want = f"the tasks of it are {nest(part)}, and {part} is not supported: use Box, Discrete, MultiDiscrete, "
        assert str(error.value).startswith(want)


class Talks(gymnasium.Env):
    """An environment that observes a number and a text, and acts by a table of numbers."""

    observation_space = spaces.Dict({"number": spaces.Box(-1, 1, (1,)), "text": spaces.Text(5)})
    action_space = spaces.Box(-1, 1, (2, 3))


def test_the_named_wrappers_make_observations_fit():
    env = Talks()
    with pytest.raises(UserError, match=r"gymnasium\.wrappers\.FilterObservation\(env, \['number'\]\) leaves out"):
        flat_observation_space(env.observation_space, "they")
    assert flat_observation_space(FilterObservation(env, ["number"]).observation_space, "they").shape == (1,)
    for space in (spaces.Text(5), spaces.Dict({"text": spaces.Text(5)})):
        with pytest.raises(UserError, match=r"gymnasium\.wrappers\.TransformObservation\(env, function, space\)"):
            flat_observation_space(space, "they")
    transformed = TransformObservation(env, lambda observation: observation["number"], spaces.Box(-1, 1, (1,)))
    assert flat_observation_space(transformed.observation_space, "they").shape == (1,)


def test_the_named_wrapper_makes_actions_fit():
    env = Talks()
    with pytest.raises(UserError, match=r"gymnasium\.wrappers\.TransformAction\(env, function, space\)"):
        check_actions(env.action_space)
    check_actions(TransformAction(env, lambda action: action.reshape(2, 3), spaces.Box(-1, 1, (6,))).action_space)


def test_choices_too_many_to_be_one_hot_are_refused():
    large = spaces.Discrete(MOST_CHOICES + 1)
    with pytest.raises(UserError, match=r"they have a number for each option of Discrete\(65537\), at most 65536"):
        flat_space(large, "they")
    assert flat_space(spaces.Discrete(MOST_CHOICES), "they").shape == (MOST_CHOICES,)


WRONG = [
    ("box", [[1, 2]], r"it must have shape \(2, 2\), got \(1, 2\)"),
    ("box", [[1], [2, 3]], r"it must be numbers of shape \(2, 2\), got \[\[1\], \[2, 3\]\]"),
    ("box", None, r"it must be numbers of shape \(2, 2\), got None"),
    ("box", [["a", "b"], ["c", "d"]], r"it must be numbers of shape \(2, 2\)"),
    ("mixed", {"kind": 0}, r"it must be a dictionary with the keys 'kind', 'where', got the keys 'kind'"),
    ("mixed", [0, 1], r"it must be a dictionary with the keys 'kind', 'where', got \[0, 1\]"),
    ("mixed", {"kind": 0, "where": ([0, 1],)}, r"it\['where'\] must be a tuple of 2 parts, got \(\[0, 1\],\)"),
    ("mixed", {"kind": 0, "where": 3}, r"it\['where'\] must be a tuple of 2 parts, got 3"),
    ("mixed", {"kind": 0, "where": ([0, 1], [1])}, r"it\['where'\]\[1\] must have shape \(2,\), got \(1,\)"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
@pytest.mark.parametrize("use", [flatten, element])
def test_values_of_another_form_are_told_with_their_place(use, name, value, message):
    with pytest.raises(UserError, match=message):
        use(ALL[name], value, "it")


@pytest.mark.parametrize("value", [-2, 2, 0.5, np.nan])
def test_a_choice_that_does_not_exist_is_told(value):
    with pytest.raises(UserError, match=r"it must be an element of Discrete\(3, start=-1\), got"):
        flatten(ALL["discrete"], value, "it")


@pytest.mark.parametrize(("name", "value"), [("discrete", 0.5), ("integers", [0, np.inf]), ("integers", [0, 1e300])])
def test_numbers_that_are_not_whole_are_no_elements(name, value):
    with pytest.raises(UserError, match="it must hold whole numbers of type int"):
        element(ALL[name], value, "it")


@every_space
def test_an_element_is_restored_from_json(space):
    space.seed(0)
    drawn = space.sample()
    restored = element(space, json.loads(json.dumps(plain(drawn))), "it")
    assert restored in space
    assert plain(restored) == plain(drawn)
    assert type(copied(restored)) is type(restored) or np.ndim(restored) == 0


@pytest.mark.parametrize(("space", "count"), WHOLE.values(), ids=WHOLE)
def test_all_elements_of_a_small_space_are_listed_once(space, count):
    elements = all_elements(space)
    assert (len(elements), num_elements(space)) == (count, count)
    assert all(element(space, one, "it") in space for one in elements)
    assert len({json.dumps(plain(one)) for one in elements}) == count
    assert elements.dtype == (object if isinstance(space, spaces.Dict | spaces.Tuple) else space.dtype)


@pytest.mark.parametrize(
    ("space", "count", "countable"),
    [
        (spaces.MultiBinary(7), 128, True),
        (spaces.Box(-(2**62), 2**62, (2,), np.int64), (2**63 + 1) ** 2, True),
        (spaces.Tuple([spaces.Discrete(11), spaces.MultiDiscrete([10])]), 110, True),
        (spaces.Box(0, np.inf, (1,), np.int64), np.inf, True),
        (REAL["box"], np.inf, False),
        (REAL["mixed"], np.inf, False),
    ],
)
def test_large_spaces_are_counted_but_not_listed(space, count, countable):
    assert (num_elements(space), is_countable(space), all_elements(space)) == (count, countable, None)


def test_choices_are_counted():
    assert [choices(space) for space in ALL.values()][:4] == [[3], [2, 3, 1, 2], [2] * 6, []]


def test_tuples_of_equal_shape_are_not_mixed_up():
    pairs = stacked([(np.int64(0), np.int64(1)), (np.int64(2), np.int64(3))])
    assert pairs.shape == (2,)
    assert pairs[1] == (2, 3)


def test_elements_are_described_in_words():
    value = {"where": (np.array([0.25, -1.0]), np.int64(3)), "kind": 2}
    assert in_words(value) == "where ([ 0.25 -1.  ], 3), kind 2"


def test_what_is_no_space_is_told():
    with pytest.raises(UserError, match=r"the tasks of mine must be a Gymnasium space, got \[1, 2\]\."):
        check_parts([1, 2], "the tasks of mine")
