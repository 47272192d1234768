"""Seeds the global random generators, for code of others that draws from them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# All threads of a process share the global generators, so only one at a time may use them.
_lock = threading.RLock()


@contextmanager
def globally_seeded(torch_seed: int, numpy_seed: int) -> Iterator[None]:
    """Seeds the global generators of PyTorch (on the CPU) and NumPy, and restores them afterwards.

    Other threads wait at this function until this one has left the ``with`` block.
    """
    with _lock, torch.random.fork_rng(devices=[]):
        before = np.random.get_state()  # noqa: NPY002
        torch.default_generator.manual_seed(torch_seed)
        np.random.seed(numpy_seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002
