"""As much of Meta-World as metarl/envs/metaworld.py uses: a point in place of the arm, and two environments of it."""

import pickle

import numpy as np

from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ML10_V3
from metaworld.types import Task


class _Benchmark:
    """50 goals for each environment."""

    def __init__(self, train, test, train_seed, test_seed):
        self.train_tasks, self.test_tasks = _tasks(train, train_seed), _tasks(test, test_seed)


class ML1(_Benchmark):
    def __init__(self, env_name, seed):
        super().__init__([env_name], [env_name], seed, seed + 1)


class ML10(_Benchmark):
    def __init__(self, seed):
        super().__init__(ML10_V3["train"], ML10_V3["test"], seed, seed)


def _tasks(names, seed):
    rng, tasks = np.random.default_rng(seed), []
    for name in names:
        kind = ALL_V3_ENVIRONMENTS[name]
        for _ in range(50):
            vector = rng.uniform(kind._random_reset_space.low, kind._random_reset_space.high)
            data = {"env_cls": kind, "rand_vec": vector, "partially_observable": True}
            tasks.append(Task(env_name=name, data=pickle.dumps(data)))
    return tasks
