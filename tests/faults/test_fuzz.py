"""A run's files with damages at random: refused by name, or read as they were."""

import json
import shutil

import numpy as np
import pytest
from fault_table import fault
from tiny_runs import tiny

import metarl
from metarl.common.errors import UserError
from metarl.config.measuring import EvaluationConfig
from metarl.store.runs import read_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with an evaluation, with one checkpoint alone."""
    path = metarl.train(tiny(tmp_path_factory.mktemp("runs") / "run", algo="l2f", iterations=3)).path
    metarl.evaluate(path, EvaluationConfig(tasks=3, rollouts=2, gradient_steps=1))
    (path / "checkpoints" / "previous.safetensors").unlink()
    return path


def damaged(content, generator):
    """The bytes of a file with a few damages: flipped bits, other bytes, a piece left out, doubled or cut off."""
    values = bytearray(content)
    for _ in range(generator.integers(1, 4)):
        place = int(generator.integers(len(values))) if values else 0
        kind, length = generator.integers(5), int(generator.integers(1, 40))
        if kind == 0 and values:
            values[place] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            values[place : place + length] = generator.bytes(length)
        elif kind == 2:
            del values[place : place + length]
        elif kind == 3:
            values[place:place] = values[place : place + length]
        else:
            del values[place:]
    return bytes(values)


def read_all(folder):
    """What the readers make of a folder: meta-parameters, and the evaluation's returns."""
    meta = metarl.load(folder).meta.numpy()
    stored = read_run(folder)
    return meta, stored.evaluated().returns, stored.config


def assert_harmless(run, folder, name, seed):
    """Damages a file of a copy of the run: reading refuses it, or gives what it gave before."""
    if not folder.exists():
        shutil.copytree(run, folder)
    content = (run / name).read_bytes()
    changed = damaged(content, np.random.default_rng(seed))
    (folder / name).write_bytes(changed)
    try:
        meta, returns, config = read_all(folder)
    except UserError:
        pass
    else:
        if name.endswith("safetensors"):
            np.testing.assert_array_equal(meta, read_all(run)[0])
        else:
            json.loads(changed)  # It is JSON: another text, but no broken one.
            assert np.isfinite(returns).all()
            assert config["algo"]
    finally:
        (folder / name).write_bytes(content)


FILES = ["checkpoints/last.safetensors", "config.json", "evaluation.json"]


@fault(
    "Run folder",
    "a checkpoint damaged at random",
    "refused by name; no damaged number is used",
)
@fault(
    "Run folder",
    "`config.json` or `evaluation.json` damaged at random",
    "refused in a sentence unless it is still a file that a run could have written",
)
@pytest.mark.parametrize("name", FILES)
def test_damages_are_refused_or_harmless(run, tmp_path, name):
    for seed in range(60):
        assert_harmless(run, tmp_path / "run", name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
@pytest.mark.parametrize("name", FILES)
def test_many_damages_are_refused_or_harmless(run, tmp_path, name, part):
    for seed in range(1000 * (part + 1), 1000 * (part + 1) + 500):
        assert_harmless(run, tmp_path / "run", name, seed)
