"""Meta-reinforcement learning on Gymnasium and PyTorch: MAML, its relatives, Learn-to-Forget, and agents with memory.

Importing the package registers its environments with Gymnasium and is light: PyTorch is imported when first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metarl._version import __version__
from metarl.common import mkl
from metarl.common.errors import Fault, UserError
from metarl.common.files import NotWritten
from metarl.common.importing import import_named
from metarl.config.algorithms import (
    ALGORITHMS,
    BaselineConfig,
    CAVIAConfig,
    L2FConfig,
    MAMLppConfig,
    MuMoMAMLConfig,
    PEARLConfig,
    RL2Config,
    VariBADConfig,
)
from metarl.config.checked import Checked as RuleSettings
from metarl.config.checked import Range
from metarl.config.config import Config
from metarl.config.measuring import AnalysisConfig, EvaluationConfig, RecordingConfig
from metarl.config.optimisers import META_OPTIMISERS, AdamConfig, PPOConfig, ProMPConfig, SACConfig, TRPOConfig
from metarl.config.presets import PRESETS, preset
from metarl.envs import (
    BrokenEpisode,
    EpisodeBatch,
    SupervisedFamily,
    TaskFamily,
    check_task_family,
    family_names,
    family_spec,
    family_summaries,
    get_family,
    register,
    unregister,
)
from metarl.store.reference import reference_names

if TYPE_CHECKING:
    from metarl.agents.checks import check_rule
    from metarl.data import LearnerState
    from metarl.envs.mujoco_family import MujocoFamily, MujocoState, MujocoStep
    from metarl.inner.rule import Adaptation, Stage, StageKind, WrappedAdaptation
    from metarl.inner.support import Support
    from metarl.outer.objective import MetaObjective
    from metarl.outer.optimiser import StepReport
    from metarl.reports.analysis import analyze
    from metarl.reports.comparison import compare
    from metarl.reports.curves import plot_runs as plot
    from metarl.reports.recording import record
    from metarl.reports.report import report
    from metarl.runs.adapted import AdaptedMemory, AdaptedPolicy, load_policy
    from metarl.runs.protocol import evaluate, sweep_rollouts
    from metarl.runs.trained_agent import Agent, FittedFunction, load
    from metarl.runs.training import FinishedRun, train
    from metarl.store.evaluations import Evaluation

__all__ = [
    "ALGORITHMS",
    "META_OPTIMISERS",
    "PRESETS",
    "AdamConfig",
    "Adaptation",
    "AdaptedMemory",
    "AdaptedPolicy",
    "Agent",
    "AnalysisConfig",
    "BaselineConfig",
    "BrokenEpisode",
    "CAVIAConfig",
    "Config",
    "EpisodeBatch",
    "Evaluation",
    "EvaluationConfig",
    "Fault",
    "FinishedRun",
    "FittedFunction",
    "L2FConfig",
    "LearnerState",
    "MAMLppConfig",
    "MetaObjective",
    "MuMoMAMLConfig",
    "MujocoFamily",
    "MujocoState",
    "MujocoStep",
    "NotWritten",
    "PEARLConfig",
    "PPOConfig",
    "ProMPConfig",
    "RL2Config",
    "Range",
    "RecordingConfig",
    "RuleSettings",
    "SACConfig",
    "Stage",
    "StageKind",
    "StepReport",
    "SupervisedFamily",
    "Support",
    "TRPOConfig",
    "TaskFamily",
    "UserError",
    "VariBADConfig",
    "WrappedAdaptation",
    "__version__",
    "analyze",
    "check_rule",
    "check_task_family",
    "compare",
    "evaluate",
    "family_names",
    "family_spec",
    "family_summaries",
    "get_family",
    "load",
    "load_policy",
    "plot",
    "preset",
    "record",
    "reference_names",
    "register",
    "report",
    "sweep_rollouts",
    "train",
    "unregister",
]

del mkl  # Imported for what it does.

# Imported when first asked for, because they need PyTorch or MuJoCo.
_HEAVY = {
    "Adaptation": "metarl.inner.rule:Adaptation",
    "AdaptedMemory": "metarl.runs.adapted:AdaptedMemory",
    "AdaptedPolicy": "metarl.runs.adapted:AdaptedPolicy",
    "Agent": "metarl.runs.trained_agent:Agent",
    "Evaluation": "metarl.store.evaluations:Evaluation",
    "FinishedRun": "metarl.runs.training:FinishedRun",
    "FittedFunction": "metarl.runs.trained_agent:FittedFunction",
    "LearnerState": "metarl.data:LearnerState",
    "MetaObjective": "metarl.outer.objective:MetaObjective",
    "MujocoFamily": "metarl.envs.mujoco_family:MujocoFamily",
    "MujocoState": "metarl.envs.mujoco_family:MujocoState",
    "MujocoStep": "metarl.envs.mujoco_family:MujocoStep",
    "Stage": "metarl.inner.rule:Stage",
    "StageKind": "metarl.inner.rule:StageKind",
    "StepReport": "metarl.outer.optimiser:StepReport",
    "Support": "metarl.inner.support:Support",
    "WrappedAdaptation": "metarl.inner.rule:WrappedAdaptation",
    "analyze": "metarl.reports.analysis:analyze",
    "check_rule": "metarl.agents.checks:check_rule",
    "compare": "metarl.reports.comparison:compare",
    "evaluate": "metarl.runs.protocol:evaluate",
    "load": "metarl.runs.trained_agent:load",
    "load_policy": "metarl.runs.adapted:load_policy",
    "plot": "metarl.reports.curves:plot_runs",
    "record": "metarl.reports.recording:record",
    "report": "metarl.reports.report:report",
    "sweep_rollouts": "metarl.runs.protocol:sweep_rollouts",
    "train": "metarl.runs.training:train",
}


def __getattr__(name: str) -> Any:
    if name not in _HEAVY:
        raise AttributeError(f"module 'metarl' has no attribute {name!r}")
    return import_named(_HEAVY[name], name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HEAVY})
