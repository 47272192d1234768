"""Meta-reinforcement learning on Gymnasium and PyTorch: MAML, its relatives and Learn-to-Forget, with TRPO or ProMP.

Importing the package registers its environments with Gymnasium and is light: PyTorch is imported when first needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metarl.common import mkl
from metarl.common.errors import UserError
from metarl.config.algorithms import ALGORITHMS
from metarl.config.config import Config
from metarl.config.settings import L2FConfig, MAMLppConfig, MuMoMAMLConfig, ProMPConfig, TRPOConfig
from metarl.envs import TaskFamily, check_task_family, family_names, get_family, register, registration

if TYPE_CHECKING:
    from metarl.runs.agent import Agent
    from metarl.runs.training import Run

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

del mkl, registration  # Imported for what they do.


def train(config: Config) -> Run:
    """Meta-trains an agent, see `metarl.runs.training.train`."""
    from metarl.runs import training

    return training.train(config)


def load(run_dir: str | Path, checkpoint: str = "last") -> Agent:
    """Loads a trained agent, see `metarl.runs.agent.load`."""
    from metarl.runs import agent

    return agent.load(run_dir, checkpoint)
