"""Random streams."""

import numpy as np
import pytest

from metarl.common.streams import Purpose, stream


def numbers(seed=0, purpose=Purpose.TRAIN_ROLLOUTS, *key):
    return stream(seed, purpose, *key).random(8)


def test_same_seed_purpose_and_key_give_the_same_numbers():
    np.testing.assert_array_equal(numbers(3, Purpose.TEST_TASKS, 1, 2), numbers(3, Purpose.TEST_TASKS, 1, 2))


@pytest.mark.parametrize(
    "other",
    [
        (4, Purpose.TRAIN_ROLLOUTS, 1, 2),
        (3, Purpose.VALIDATION_ROLLOUTS, 1, 2),
        (3, Purpose.TRAIN_ROLLOUTS, 2, 1),
        (3, Purpose.TRAIN_ROLLOUTS, 1, 2, 0),
        (3, Purpose.TRAIN_ROLLOUTS, 1),
    ],
)
def test_another_seed_purpose_or_key_gives_other_numbers(other):
    assert not np.intersect1d(numbers(3, Purpose.TRAIN_ROLLOUTS, 1, 2), numbers(*other)).size


def test_every_purpose_has_numbers_of_its_own():
    drawn = np.concatenate([numbers(0, purpose) for purpose in Purpose])
    assert len(np.unique(drawn)) == len(drawn)
