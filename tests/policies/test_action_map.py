"""From policy outputs to action spaces."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.common.errors import UserError
from metarl.policies.action_map import ActionMap
from metarl.policies.distributions import Categorical, Categoricals, Gaussian

ASYMMETRIC = spaces.Box(np.array([-1.0, 2.0]), np.array([3.0, 2.5]), dtype=np.float64)


def test_unit_actions_reach_the_bounds_and_others_are_clipped():
    actions = np.array([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [9.0, -9.0]])
    expected = [[-1.0, 2.0], [1.0, 2.25], [3.0, 2.5], [2.0, 2.375], [3.0, 2.0]]
    np.testing.assert_allclose(ActionMap(ASYMMETRIC)(actions), expected, rtol=1e-15)


def test_scale_shrinks_what_the_unit_reaches_and_not_the_bounds():
    half = ActionMap(ASYMMETRIC, scale=0.5)
    np.testing.assert_allclose(half(np.array([[1.0, -1.0], [-1.0, 1.0]])), [[2.0, 2.125], [0.0, 2.375]], rtol=1e-15)
    np.testing.assert_allclose(half(np.array([[4.0, -4.0]])), [[3.0, 2.0]], rtol=1e-15)


def test_action_map_leaves_its_input_alone_and_has_elements_of_the_space():
    space = spaces.Box(-0.1, 0.1, (2,), np.float32)
    actions = np.array([[5.0, -0.5]], np.float32)
    mapped = ActionMap(space)(actions)
    np.testing.assert_array_equal(actions, np.array([[5.0, -0.5]], np.float32))
    assert space.contains(mapped[0])
    np.testing.assert_allclose(mapped, [[0.1, -0.05]], rtol=1e-6)


def test_discrete_choices_begin_at_the_spaces_start():
    space = spaces.Discrete(3, start=5)
    np.testing.assert_array_equal(ActionMap(space)(np.array([0, 2, 1])), [5, 7, 6])


INTEGERS = [
    spaces.Box(0, 5, (1,), np.int32),
    spaces.Box(0, 255, (1,), np.uint8),
    spaces.Box(-128, 127, (1,), np.int8),
    spaces.Box(2**62, 2**62 + 6, (1,), np.int64),
    spaces.Box(2**64 - 4, 2**64 - 1, (1,), np.uint64),
    spaces.Box(0, 1, (1,), np.bool_),
    spaces.Box(3, 3, (1,), np.int64),
]


@pytest.mark.parametrize("space", INTEGERS, ids=str)
def test_integers_share_the_units_equally_and_no_other_is_reached(space):
    low, high = int(space.low[0]), int(space.high[0])
    count = high - low + 1
    # The middles of equal parts of [-1, 1], and actions beyond.
    middles = ((2 * np.arange(count) + 1) / count - 1).astype(np.float32)
    mapped = ActionMap(space)(np.concatenate([[-1e30, -5, -1], middles, [1, 5, 1e30]]).astype(np.float32)[:, None])
    assert all(action in space for action in mapped)
    assert mapped.dtype == space.dtype
    assert [int(action) for action in mapped[:, 0]] == [low] * 3 + list(range(low, high + 1)) + [high] * 3


def test_the_largest_number_of_integers_is_reached_in_single_precision():
    last = 2**23 - 1
    some = np.concatenate([np.random.default_rng(0).integers(0, last, 1000), [0, 1, last - 1, last]])
    middles = ((2 * some + 1) / (last + 1) - 1).astype(np.float32)
    np.testing.assert_array_equal(ActionMap(spaces.Box(0, last, (1,), np.int64))(middles[:, None])[:, 0], some)


def test_scale_shrinks_what_the_unit_reaches_of_integers():
    half = ActionMap(spaces.Box(0, 7, (1,), np.int64), scale=0.5)
    assert half(np.array([[-2.0], [-0.99], [0.0], [0.99], [2.0]]))[:, 0].tolist() == [0, 2, 4, 5, 7]


def test_integers_with_bounds_of_their_own_are_mapped_each():
    space = spaces.Box(np.array([0, -2]), np.array([1, 2]), dtype=np.int64)
    assert ActionMap(space)(np.array([[-0.5, 0.9], [0.5, -0.9]])).tolist() == [[0, 2], [1, -2]]


@pytest.mark.parametrize("bounds", [(0, 2**23), (-(2**31), 2**31 - 1), (0, 2**63 - 1)])
def test_more_integers_than_a_policy_can_tell_apart_are_refused(bounds):
    with pytest.raises(
        UserError, match=r"has more integers than a policy can tell apart \(8388608\); use a Box of floats"
    ):
        ActionMap(spaces.Box(*bounds, (1,), np.int64))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds_whose_difference_overflows_are_reached(dtype):
    largest = np.finfo(dtype).max
    actions = np.array([[-1.0], [-0.5], [0.0], [1.0], [9.0]], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = ActionMap(spaces.Box(-largest, largest, (1,), dtype))(actions)
    np.testing.assert_array_equal(mapped[:, 0], [-largest, -largest / 2, 0, largest, largest])
    with pytest.raises(UserError, match=r"half the width of Box.* times 2 is not finite; lower action_scale"):
        ActionMap(spaces.Box(-largest, largest, (1,), dtype), scale=2)


def test_several_choices_have_the_spaces_start_shape_and_type():
    space = spaces.MultiDiscrete([[2, 3], [4, 5]], np.int32, start=[[10, 20], [30, 40]])
    mapped = ActionMap(space)(np.array([[0, 1, 2, 3], [1, 2, 3, 4]]))
    assert mapped.tolist() == [[[10, 21], [32, 43]], [[11, 22], [33, 44]]]
    assert all(action in space for action in mapped)


def test_switches_have_the_spaces_shape_and_type():
    space = spaces.MultiBinary((2, 2))
    mapped = ActionMap(space)(np.array([[0, 1, 1, 0]]))
    assert mapped.tolist() == [[[0, 1], [1, 0]]]
    assert mapped[0] in space


def test_a_single_action_is_mapped_like_a_batch():
    for space, action in ((spaces.Discrete(3, start=5), 2), (spaces.MultiBinary(3), [1, 0, 1]), (INTEGERS[0], [0.5])):
        one = ActionMap(space)(np.asarray(action))
        np.testing.assert_array_equal(one, ActionMap(space)(np.asarray([action]))[0])
        assert one in space


def test_choices_too_many_for_a_network_are_refused():
    with pytest.raises(UserError, match=r"has 65538 options, and the policy's network has an output for each, at most"):
        ActionMap(spaces.MultiDiscrete([2, 2**16]))


def test_space_decides_the_distribution():
    box, discrete = ActionMap(ASYMMETRIC).distribution, ActionMap(spaces.Discrete(4)).distribution
    several, switches = (
        ActionMap(space).distribution for space in (spaces.MultiDiscrete([[2, 3]]), spaces.MultiBinary(3))
    )
    assert isinstance(several, Categoricals)
    assert isinstance(switches, Categoricals)
    assert (several.sizes, switches.sizes) == ([2, 3], [2, 2, 2])
    assert isinstance(box, Gaussian)
    assert box.num_outputs == 2
    assert isinstance(discrete, Categorical)
    assert discrete.num_outputs == 4


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Box(-1, 1, (0,)),
        spaces.Box(-1, 1, (2, 2)),
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(0, np.inf, (2,)),
        spaces.Dict({"a": spaces.Discrete(2)}),
    ],
)
def test_other_action_spaces_are_refused_by_name(space: gymnasium.Space):
    with pytest.raises(UserError) as error:
        ActionMap(space)
    words = "is not supported: use a bounded one-dimensional Box, Discrete, MultiDiscrete or MultiBinary; "
    assert str(error.value).startswith(f"action space {space} {words}gymnasium.wrappers.TransformAction(env, ")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.float32([-1, 0]), np.float32([1, 5])),
        spaces.Box(-3, 4, (2,), np.int64),
        spaces.Box(0, 8_000_000, (2,), np.int64),  # More than a float32 tells apart, times the half-width.
        spaces.Discrete(5, start=2),
        spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[0, 1], [-1, 0]]),
        spaces.MultiBinary(4),
    ],
    ids=str,
)
def test_pytorchs_operations_give_the_same_actions(space: gymnasium.Space):
    action_map = ActionMap(space, 0.7)
    outputs = 3 * torch.from_numpy(np.random.default_rng(0).normal(size=(1, 50, action_map.distribution.num_outputs)))
    actions = action_map.distribution.mode(outputs.float())
    expected, traced = action_map(actions.numpy()), action_map.traced(actions).numpy()
    assert (traced.dtype, traced.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(traced, expected, rtol=0 if np.issubdtype(space.dtype, np.integer) else 1e-6)
    assert len(np.unique(traced)) > 1


@pytest.mark.parametrize(
    "space", [spaces.Box(-0.1, 0.1, (2,), dtype) for dtype in (np.float16, np.float32, np.float64)]
)
def test_pytorchs_operations_stay_within_bounds_that_single_precision_does_not_hold(space: gymnasium.Space):
    action_map, actions = ActionMap(space), np.array([[9.0, -9.0], [1.0, 0.3]], np.float32)
    traced = action_map.traced(torch.from_numpy(actions)).numpy()
    np.testing.assert_array_equal(traced, action_map(actions))
    assert all(space.contains(action) for action in traced)
