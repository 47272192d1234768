"""Runs that are killed outright, at any moment, go on bit for bit."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from fault_table import fault
from tiny_runs import ROOT, arguments, assert_same_run, stored_progress

import metarl

WHERE = "Run folder"
ITERATIONS = 40
LEARNERS = [
    {"algo": "maml"},
    {"algo": "l2f", "l2f.normalise_embedding": True, "l2f.attenuation_rollouts": "fresh"},
    {"algo": "mamlpp", "num_inner_steps": 2},
    {"algo": "rl2", "rollouts_per_task": 1, "env": "machines:CountdownFamily", "rl2.units": 8},
    {"algo": "anil", "meta_optimiser": "promp"},
    {"algo": "mumomaml", "normalise_observations": True},
    {"algo": "pretrain", "baseline.trainer": "ppo"},
    {"env": "sinusoid", "algo": "maml"},
]
# The child dies within an iteration (12.3: after the 12th checkpoint, by 0.3 of the mean time of an iteration), or at
# the n-th call after its first checkpoint that touches checkpoints.
CHILD = """
import os, signal, sys, threading, time

how, number, *options = sys.argv[1:]
number, calls = float(number), 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def count():
    global calls
    calls += 1
    if calls == number:
        die()

def hook(event, arguments):
    if event in ("open", "os.rename", "os.link", "os.remove") and "checkpoints" in str(arguments):
        count()

def counted_sync(descriptor, sync=os.fsync):
    count()
    sync(descriptor)

def begin():
    global begun
    begun = time.monotonic()
    if how == "call":
        sys.addaudithook(hook)
        os.fsync = counted_sync

from metarl.commands.train import main
from metarl.store import writer

def saved(config, which, state, save=writer.save_checkpoint):
    save(config, which, state)
    if state.iteration == 0:
        begin()
    elif (how, which, state.iteration) == ("iteration", "last", int(number)):
        threading.Timer(number % 1 * (time.monotonic() - begun) / state.iteration, die).start()

writer.save_checkpoint = saved
sys.exit(main(options))
"""


def settings_of(learner, iterations=ITERATIONS):
    """Settings of a run for the command line, by name."""
    sizes = {"meta_batch_size": 2, "hidden_sizes": (8,), "iterations": iterations, "checkpoint_every": 1}
    episodes = {} if learner.get("env") == "sinusoid" else {"rollouts_per_task": 2, "horizon": 8}
    return {**sizes, **episodes, "validate_every": 5, "validation_tasks": 2, "threads": 1, **learner}


def options_of(learner, run_dir):
    flags = {name: value for name, value in settings_of(learner).items() if value is not True}
    on = [f"--{name.replace('_', '-')}" for name, value in settings_of(learner).items() if value is True]
    return [*arguments(flags), *on, "--run-dir", str(run_dir)]


def killed(learner, run_dir, how, number):
    """Starts a run that kills itself; returns whether it got so far."""
    command = [sys.executable, "-c", CHILD, how, str(number), *options_of(learner, run_dir)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode in (-signal.SIGKILL, 0), done.stderr
    return done.returncode != 0


def config_of(learner, run_dir, **settings):
    nested = {}
    for name, value in settings_of(learner).items():
        owner, _, own = name.rpartition(".")
        if owner:
            nested.setdefault(owner, {})[own] = value
        else:
            nested[name] = value
    return metarl.Config(run_dir=run_dir, **nested, **settings)


def assert_goes_on_from_anywhere(seed, learner, run_dir, whole):
    """Kills a run at a random moment of a random iteration but the last ones, and continues it."""
    assert killed(learner, run_dir, "iteration", np.random.default_rng(seed).uniform(1, ITERATIONS - 5))
    assert 0 < stored_progress(run_dir).iteration < ITERATIONS
    assert_goes_on(learner, run_dir, whole)


def assert_goes_on(learner, run_dir, whole):
    metarl.train(config_of(learner, run_dir, resume=True))
    assert_same_run(run_dir, whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the undisturbed run of a learner, by its place in `LEARNERS`."""
    runs = {}

    def run(index):
        if index not in runs:
            runs[index] = tmp_path_factory.mktemp("whole") / "run"
            metarl.train(config_of(LEARNERS[index], runs[index]))
        return runs[index]

    return run


@fault(
    WHERE,
    "SIGKILL at a random moment of an iteration",
    "`--resume` goes on; the run is bit for bit the undisturbed one",
)
def test_a_run_that_is_killed_at_a_random_moment_goes_on(whole, tmp_path):
    assert_goes_on_from_anywhere(0, LEARNERS[0], tmp_path / "run", whole(0))


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(50))
def test_runs_of_every_learner_that_are_killed_at_random_moments_go_on(kill, whole, tmp_path):
    index = kill % len(LEARNERS)
    assert_goes_on_from_anywhere(kill, LEARNERS[index], tmp_path / "run", whole(index))


def assert_survives(call, whole, tmp_path):
    assert killed(LEARNERS[0], tmp_path / "run", "call", call)
    assert_goes_on(LEARNERS[0], tmp_path / "run", whole(0))


@pytest.mark.slow
@fault(WHERE, "SIGKILL between two system calls of a checkpoint", "the same: the checkpoint before it is whole")
@pytest.mark.parametrize("call", [2, 8])
def test_a_run_that_is_killed_while_it_writes_a_checkpoint_goes_on(call, whole, tmp_path):
    assert_survives(call, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("call", range(1, 25))
def test_a_run_that_is_killed_at_any_call_of_two_checkpoints_goes_on(call, whole, tmp_path):
    assert_survives(call, whole, tmp_path)
