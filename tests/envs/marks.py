"""Which tests need a newer library than the oldest that is supported."""

import pytest

from metarl.envs.mujoco_core import batch_module

WITHOUT_MUJOCO = ("navigation", "bandit", "tabular")
needs_mujoco_batch = pytest.mark.skipif(batch_module() is None, reason="needs mujoco.batch, new in MuJoCo 3.17")


def native_batches(names):
    """Names of environments to test native batches of; those that MuJoCo simulates need its batch."""
    return [
        name if name.lower().startswith(WITHOUT_MUJOCO) else pytest.param(name, marks=needs_mujoco_batch)
        for name in names
    ]
