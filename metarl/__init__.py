"""Meta-reinforcement learning on Gymnasium and PyTorch: MAML, its relatives and Learn-to-Forget, with TRPO or ProMP.

Importing the package registers its environments with Gymnasium and is light: PyTorch is imported when first needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metarl.agents import ALGORITHMS
from metarl.config import Config
from metarl.envs import TaskFamily, check_task_family, family_names, get_family, register, registration
from metarl.errors import UserError
from metarl.settings import L2FConfig, MAMLppConfig, MuMoMAMLConfig, ProMPConfig, TRPOConfig

if TYPE_CHECKING:
    from metarl.agent import Agent
    from metarl.training import Run

__version__ = "0.1.0"
__all__ = [
    "ALGORITHMS",
    "Config",
    "L2FConfig",
    "MAMLppConfig",
    "MuMoMAMLConfig",
    "ProMPConfig",
    "TRPOConfig",
    "TaskFamily",
    "UserError",
    "check_task_family",
    "family_names",
    "get_family",
    "load",
    "register",
    "train",
]

del registration  # Imported for what it does.


def train(config: Config) -> Run:
    """Meta-trains an agent, see `metarl.training.train`."""
    from metarl import training

    return training.train(config)


def load(run_dir: str | Path, checkpoint: str = "last") -> Agent:
    """Loads a trained agent, see `metarl.agent.load`."""
    from metarl import agent

    return agent.load(run_dir, checkpoint)
