"""A supervised family of your own: lines through the origin.

python -m metarl.train --env examples.line_family:LineFamily --algo maml --iterations 2000
"""

from gymnasium import spaces

import metarl


class LineFamily(metarl.SupervisedFamily):
    """Lines y = slope * x."""

    num_inputs = 1
    task_space = spaces.Box(-2.0, 2.0, ())

    def draw(self, task, n, rng):
        x = rng.uniform(-1, 1, (n, 1))
        return x, task * x

    def function(self, task, x):
        return task * x

    def describe_task(self, task):
        return f"slope {task:.2f}"
