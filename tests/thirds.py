"""A small family of classification tasks."""

import numpy as np
from gymnasium import spaces

from metarl import SupervisedFamily


class Thirds(SupervisedFamily):
    """Classes: the third of the interval that an input lies in, moved by the task."""

    num_inputs, num_outputs, classes = 1, 3, True
    task_space = spaces.Box(0.0, 1.0, ())
    highest = 2

    def draw(self, task, n, rng):
        x = rng.uniform(0, 1, (n, 1))
        return x, np.minimum(self.highest, (3 * ((x[:, 0] + task) % 1)).astype(int))
