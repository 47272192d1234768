"""Where the tests of the environments run."""

import sys
from pathlib import Path

import pytest

# A test of the registry names a family in this folder, another one the example
sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture(autouse=True)
def _logs_elsewhere(tmp_path, monkeypatch):
    """MuJoCo writes its warnings to MUJOCO_LOG.TXT in the working directory."""
    monkeypatch.chdir(tmp_path)
