"""Random streams: every draw is a function of (seed, purpose, iteration, phase, task, rollout), of nothing else."""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for; streams of different purposes never meet."""

    INITIALISATION = 0
    TRAIN_TASKS = 1
    TRAIN_ROLLOUTS = 2
    CURVATURE_ROWS = 3
    VALIDATION_TASKS = 4
    VALIDATION_ROLLOUTS = 5
    TEST_TASKS = 6
    TEST_ROLLOUTS = 7
    DEPLOYMENT = 8


def stream(seed: int, purpose: Purpose, *key: int) -> np.random.Generator:
    """A generator of its own for each (seed, purpose, key).

    A task's rollouts take consecutive, equally long segments of the task's stream, so that each (task, rollout) has
    its own numbers whatever the number of shards.

    Args:
        seed: The run's seed.
        purpose: What the numbers are for.
        key: Non-negative integers, such as (iteration, phase, task).
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose, *key))))
