"""Names of the built-in environments among Gymnasium's ids: metarl/NAME-v0."""

IDS = [
    "Navigation",
    "Bandit",
    "TabularMDP",
    "CheetahDir",
    "CheetahVel",
    "AntDir",
    "AntVel",
    "AntGoal",
    "WalkerParams",
    "HopperParams",
    "CheetahParams",
    "CheetahCrippled",
    "AntCrippled",
    "HumanoidDir",
]
