"""Families around environments of other packages, in examples/; each runs where its package is installed."""

import importlib

import mujoco
import pytest
from tiny_runs import tiny

import metarl

FAMILIES = {
    "minigrid": "examples.minigrid_family:HiddenGoalFamily",
    "highway_env": "examples.highway_family:HighwayFamily",
    "gymnasium_robotics": "examples.maze_family:MazeFamily",
    "shimmy": "examples.dm_control_family:SwingUpFamily",
}


@pytest.mark.parametrize("package", FAMILIES)
def test_a_family_around_somebody_elses_environment_trains(package, tmp_path):
    if package == "shimmy" and int(mujoco.__version__.split(".")[0]) >= 4:
        pytest.skip("dm_control needs MuJoCo 3")
    pytest.importorskip(package)
    module, name = FAMILIES[package].split(":")
    metarl.check_task_family(getattr(importlib.import_module(module), name)())
    few = {"meta_batch_size": 2, "rollouts_per_task": 2, "horizon": 5, "validate_every": 0}
    run = metarl.train(tiny(tmp_path / "run", env=FAMILIES[package], iterations=2, **few))
    assert len(run.progress["iteration"]) == 2
