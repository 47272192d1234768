"""Task families and their environments, built on NumPy, Gymnasium and MuJoCo. Import registers the built-in ones."""

from metarl.envs.built_in import register_built_in
from metarl.envs.checks import check_task_family
from metarl.envs.family import Family, FamilySpec, TaskFamily, require_environments
from metarl.envs.interface import BrokenEpisode, Buffers, EpisodeBatch
from metarl.envs.oracle import OracleFamily
from metarl.envs.registry import (
    FamilyLike,
    family_names,
    family_spec,
    family_summaries,
    get_family,
    register,
    unregister,
)
from metarl.envs.supervised import SupervisedFamily

register_built_in()

__all__ = [
    "BrokenEpisode",
    "Buffers",
    "EpisodeBatch",
    "Family",
    "FamilyLike",
    "FamilySpec",
    "OracleFamily",
    "SupervisedFamily",
    "TaskFamily",
    "check_task_family",
    "family_names",
    "family_spec",
    "family_summaries",
    "get_family",
    "register",
    "require_environments",
    "unregister",
]
