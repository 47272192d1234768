"""Which tests need a newer library than the oldest that is supported."""

import pytest

from metarl.envs.mujoco_core import batch_module

needs_mujoco_batch = pytest.mark.skipif(batch_module() is None, reason="needs mujoco.batch, new in MuJoCo 3.17")


def native_batches(names):
    """Names of environments to test native batches of; all but navigation's need MuJoCo's."""
    return [
        name if name.lower().startswith("navigation") else pytest.param(name, marks=needs_mujoco_batch)
        for name in names
    ]
