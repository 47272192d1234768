"""Processes that share the tasks of a run, by torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist

from metarl.common.errors import Abandoned

Value = TypeVar("Value")


class Group:
    """The processes that share the tasks of a run. A process that is alone is a group, too.

    Values go through the processes' memory, so tensors should be on the CPU.

    Args:
        alone: Whether this process works by itself, also beside others of a run.

    Attributes:
        rank: The number of this process; the first, 0, alone writes.
        size: Number of processes.
        on_machine: Number of them on this machine.
    """

    def __init__(self, alone: bool = False) -> None:
        joined = not alone and dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
        self.on_machine = int(os.environ.get("LOCAL_WORLD_SIZE", self.size)) if joined else 1

    def share(self, count: int) -> slice:
        """This process's part of ``count`` things in order; the parts are as equal as can be."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather(self, value: Value) -> list[Value]:
        """Every process's value, in the order of their numbers.

        Raises:
            Abandoned: If another process has ended.
        """
        if self.size == 1:
            return [value]
        values: list[Value] = [value] * self.size
        with _together():
            dist.all_gather_object(values, value)
        return values

    def first(self, value: Value) -> Value:
        """The first process's value.

        Raises:
            Abandoned: If another process has ended.
        """
        if self.size == 1:
            return value
        values = [value]
        with _together():
            dist.broadcast_object_list(values, 0)
        return values[0]


@contextmanager
def _together() -> Iterator[None]:
    """Says what a broken connection to another process means."""
    try:
        yield
    except RuntimeError as error:
        raise Abandoned("another process that shares the tasks has ended; its own message says why.") from error
