"""Registers the environments with Gymnasium, on import."""

import gymnasium as gym

for _id, _module, _class, _vector, _steps in (
    ("Navigation", "navigation", "NavigationEnv", "navigation_vector", 100),
    ("Bandit", "bandit", "BanditEnv", "bandit_vector", 10),
    ("TabularMDP", "tabular", "TabularMDPEnv", "tabular_vector", 10),
    ("CheetahDir", "cheetah", "CheetahDirEnv", "cheetah_dir_vector", 200),
    ("CheetahVel", "cheetah", "CheetahVelEnv", "cheetah_vel_vector", 200),
    ("AntDir", "ant", "AntDirEnv", "ant_dir_vector", 200),
    ("AntVel", "ant", "AntVelEnv", "ant_vel_vector", 200),
    ("AntGoal", "ant", "AntGoalEnv", "ant_goal_vector", 200),
):
    gym.register(
        f"metarl/{_id}-v0",
        entry_point=f"metarl.envs.{_module}:{_class}",
        vector_entry_point=f"metarl.envs.{_module}:{_vector}",
        max_episode_steps=_steps,
    )
