"""Small runs that the tests of training, evaluation and the commands share."""

import csv
from pathlib import Path

import numpy as np

from metarl import Config
from metarl.config.algorithms import get_algorithm
from metarl.store.checkpoints import load_checkpoint
from metarl.store.config_file import load_config

ROOT = Path(__file__).resolve().parent.parent

TINY = {
    "meta_batch_size": 4,
    "rollouts_per_task": 4,
    "horizon": 20,
    "hidden_sizes": (16,),
    "validate_every": 2,
    "validation_tasks": 3,
    # Two threads that take turns with so little work are slower than one.
    "threads": 1,
}


def tiny(run_dir, **settings):
    """A configuration that trains an iteration in a fraction of a second."""
    algo = settings.get("algo", "maml")
    one = {"rollouts_per_task": 1} if isinstance(algo, str) and get_algorithm(algo).remembers else {}
    size = {name: value for name, value in TINY.items() if name != "hidden_sizes" or "policy_body" not in settings}
    return Config(**{"algo": algo, "iterations": 2, "run_dir": Path(run_dir), **size, **one, **settings})


def arguments(settings):
    """The command line's form of settings."""
    options = []
    for name, value in settings.items():
        values = value if isinstance(value, tuple) else (value,)
        options += [f"--{name.replace('_', '-')}", *map(str, values)]
    return options


def numbers(run_dir):
    """The rows of a run's progress.csv, all but what a clock measured."""
    with (Path(run_dir) / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def final_parameters(run_dir, which="last"):
    """The meta-parameters of a run's checkpoint, [meta parameter]."""
    return load_checkpoint(load_config(Path(run_dir)), which).learner.meta.numpy()


def stored_progress(run_dir, which="last"):
    """Where a run's checkpoint says that it stood."""
    return load_checkpoint(load_config(Path(run_dir)), which)


def assert_same_run(first, second):
    """The same numbers in every iteration and the same meta-parameters, bit for bit."""
    assert numbers(first) == numbers(second)
    np.testing.assert_array_equal(final_parameters(first), final_parameters(second))


def everything_in(folder):
    """Content of each file below a folder, by name."""
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
