"""Task families and their environments, on NumPy, Gymnasium and MuJoCo."""

from metarl.envs.checks import check_task_family
from metarl.envs.family import TaskFamily
from metarl.envs.interface import EpisodeBatch
from metarl.envs.oracle import OracleFamily
from metarl.envs.registry import family_names, family_spec, get_family, register

register("metarl.envs.navigation:NavigationFamily", "navigation")
register("metarl.envs.navigation:NavigationFamily", "navigation-b", start_bound=0.5)
register("metarl.envs.navigation:NavigationFamily", "navigation-c", goal_bound=2.0)
register("metarl.envs.navigation:NavigationFamily", "navigation-d", goal_bound=2.0, start_bound=2.0)
register("metarl.envs.navigation:NavigationFamily", "navigation-bimodal", goal_mode=0.5, end_norm="euclidean")
register("metarl.envs.bandit:BanditFamily", "bandit")
register("metarl.envs.tabular:TabularMDPFamily", "tabular-mdp")
register("metarl.envs.cheetah:CheetahDirFamily", "cheetah-dir")
register("metarl.envs.cheetah:CheetahVelFamily", "cheetah-vel")
register("metarl.envs.cheetah:RllabCheetahDirFamily", "cheetah-dir-rllab")
register("metarl.envs.cheetah:RllabCheetahVelFamily", "cheetah-vel-rllab")
register("metarl.envs.ant:AntDirFamily", "ant-dir")
register("metarl.envs.ant:AntVelFamily", "ant-vel")
register("metarl.envs.ant:AntGoalFamily", "ant-goal")

__all__ = [
    "EpisodeBatch",
    "OracleFamily",
    "TaskFamily",
    "check_task_family",
    "family_names",
    "family_spec",
    "get_family",
    "register",
]
