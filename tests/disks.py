"""Faults of disks and outputs, for the tests of what writes."""

import resource
from contextlib import contextmanager

from metarl.outer.learners import MetaLearner


class Disk:
    """A disk that is full between `fill` and `free`: no file of this process can be written."""

    def __init__(self):
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, self._before[1]))

    def free(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


@contextmanager
def full_disk():
    disk = Disk()
    disk.fill()
    try:
        yield
    finally:
        disk.free()


def during_training(monkeypatch, events):
    """Calls ``events[k]`` when k iterations are done."""
    iteration = MetaLearner.iteration

    def eventful(self, state, index, describe=True):
        events.get(index, lambda: None)()
        return iteration(self, state, index, describe)

    monkeypatch.setattr(MetaLearner, "iteration", eventful)
