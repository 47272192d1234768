"""From policy outputs to action spaces."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from metarl.common.errors import UserError
from metarl.policies.action_map import ActionMap
from metarl.policies.distributions import Categorical, Gaussian

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


def test_space_decides_the_distribution():
    box, discrete = ActionMap(ASYMMETRIC).distribution, ActionMap(spaces.Discrete(4)).distribution
    assert isinstance(box, Gaussian)
    assert box.num_outputs == 2
    assert isinstance(discrete, Categorical)
    assert discrete.num_outputs == 4


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(2),
        spaces.Box(-1, 1, (2, 2)),
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(0, np.inf, (2,)),
        spaces.Dict({"a": spaces.Discrete(2)}),
    ],
)
def test_other_action_spaces_are_refused_by_name(space: gymnasium.Space):
    with pytest.raises(UserError) as error:
        ActionMap(space)
    want = f"action space {space} is not supported: use a bounded one-dimensional Box or Discrete."
    assert str(error.value) == want
