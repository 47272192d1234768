"""Random streams: every draw depends on (seed, purpose, iteration, phase, task, rollout) and on nothing else."""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """Purpose of a stream; streams of different purposes are independent."""

    INITIALISATION = 0
    TRAIN_TASKS = 1
    TRAIN_ROLLOUTS = 2
    META_STEP = 3
    VALIDATION_TASKS = 4
    VALIDATION_ROLLOUTS = 5
    TEST_TASKS = 6
    TEST_ROLLOUTS = 7
    DEPLOYMENT = 8


def stream(seed: int, purpose: Purpose, *key: int) -> np.random.Generator:
    """Returns the generator that belongs to (seed, purpose, key).

    The rollouts of a task take consecutive segments of equal length from the task's stream. The numbers of each
    (task, rollout) therefore do not depend on the number of shards.

    Args:
        seed: The run's seed.
        purpose: Purpose of the numbers.
        key: Non-negative integers, such as (iteration, phase, task).
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose, *key))))
