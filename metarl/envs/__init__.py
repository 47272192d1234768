"""Task families and their environments, built on NumPy, Gymnasium and MuJoCo. Import registers the built-in ones."""

from metarl.envs.built_in import register_built_in
from metarl.envs.checks import check_task_family
from metarl.envs.family import FamilySpec, TaskFamily
from metarl.envs.interface import Buffers, EpisodeBatch
from metarl.envs.oracle import OracleFamily
from metarl.envs.registry import FamilyLike, family_names, family_spec, family_summaries, get_family, register

register_built_in()

__all__ = [
    "Buffers",
    "EpisodeBatch",
    "FamilyLike",
    "FamilySpec",
    "OracleFamily",
    "TaskFamily",
    "check_task_family",
    "family_names",
    "family_spec",
    "family_summaries",
    "get_family",
    "register",
]
