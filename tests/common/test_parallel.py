"""Threads: as many as there are cores to use, one of PyTorch's in each, and the same numbers on any number of cores."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from quick import quick
from tiny_runs import ROOT, TINY, arguments, assert_same_run

from metarl.common.cores import available_cores
from metarl.common.parallel import Workers

PINNED = """
import os, sys
os.sched_setaffinity(0, set(map(int, sys.argv[1].split(","))))
from metarl.common.cores import available_cores
from metarl.commands.train import main
assert available_cores() == len(sys.argv[1].split(","))
sys.exit(main(sys.argv[2:]))
"""
needs_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or available_cores() < 2, reason="needs two cores and a say in which"
)


@needs_two_cores
@pytest.mark.parametrize("env", quick(["navigation", "cheetah-dir"], "navigation"))
def test_run_on_one_core_equals_one_on_two_bit_for_bit(env, tmp_path):
    cores = sorted(os.sched_getaffinity(0))[:2]
    for name, some in (("one", cores[:1]), ("two", cores)):
        options = arguments({"env": env, "algo": "l2f", "iterations": 2, "run_dir": tmp_path / name, **TINY})
        command = [sys.executable, "-c", PINNED, ",".join(map(str, some)), *options]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("num_threads", [1, 2, 64])
def test_torch_computes_on_one_thread_in_each_worker_and_as_before_afterwards(num_threads):
    before = torch.get_num_threads()
    met = threading.Barrier(num_threads)

    def torch_threads(_):
        met.wait(timeout=60)  # All of them are at work at the same time.
        return torch.get_num_threads()

    with Workers(num_threads) as workers:
        assert workers.map(torch_threads, range(num_threads)) == [1] * num_threads
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_no_thread_is_at_work_any_more_after_ctrl_c():
    begun, ended, both = [], [], threading.Barrier(2)

    def work(item):
        begun.append(item)
        both.wait(timeout=60)
        assert workers.stopping.wait(timeout=60)
        ended.append(item)

    def interrupt():
        if len(begun) == 2:
            raise KeyboardInterrupt

    with Workers(2) as workers:
        with pytest.raises(KeyboardInterrupt):
            workers.map(work, range(3), watch=interrupt)
        assert sorted(ended) == sorted(begun) == [0, 1]
        assert not workers.abandoned


def test_a_thread_that_does_not_stop_is_abandoned(monkeypatch):
    monkeypatch.setattr("metarl.common.parallel.SECONDS_TO_STOP", 0.01)
    begun, released = threading.Event(), threading.Event()

    def hang(_):
        begun.set()
        released.wait()

    def give_up():
        if begun.is_set():
            raise KeyboardInterrupt

    with Workers(1) as workers, pytest.raises(KeyboardInterrupt):
        workers.map(hang, [None], give_up, 0.001)
    assert workers.abandoned
    released.set()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_thread_is_at_work_any_more_when_an_error_is_raised(error):
    at_work, begun = set(), threading.Event()

    def work(index):
        if index == 0:
            assert begun.wait(timeout=60)
            raise error
        at_work.add(index)
        begun.set()
        assert workers.stopping.wait(timeout=60)  # A pool that does not stop fails instead of hanging.
        at_work.discard(index)

    with Workers(2) as workers:
        with pytest.raises(error):
            workers.map(work, range(10))
        assert begun.is_set()
        assert at_work == set()
        after = workers.map(lambda index: (index, workers.stopping.is_set()), range(3))
        assert after == [(0, False), (1, False), (2, False)]
