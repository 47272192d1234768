"""What to measure of a trained run; field comments become the command line's help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metarl.config.checked import Checked

Checkpoint = Literal["last", "best"]


@dataclass(frozen=True)
class EvaluationConfig(Checked):
    """What to evaluate a run on."""

    tasks: int = 40
    """Held-out tasks, drawn with SEED; a family with finitely many repeats each of them equally often."""
    task_file: Path | None = None
    """JSON file with tasks to take instead, {"tasks": [[0.1, 0.2], ...]}, so that several runs share them; the
    evaluation.json of another run is one."""
    env: str | None = None
    """Another task family with the same observations and actions, such as navigation-b for a run on navigation; its
    evaluation goes to evaluation-ENV.json."""
    rollouts: int = 20
    """Episodes of each task at each gradient step; mumomaml reads, and is measured before adaptation on, one."""
    gradient_steps: int = 4
    """Gradient steps; the first has the training step size, later ones half of it."""
    seed: int = 10_000
    """Seed of tasks and episodes, apart from every training seed."""
    adapted_layers: tuple[str, ...] = ()
    """Let gradient steps change these tensors of the policy alone (weight3 bias3 log_std), freezing the others; all if
    empty. Its evaluation goes to evaluation-adapting-NAMES.json."""
    checkpoint: Checkpoint = "last"
    """Which checkpoint: the last, or the best on the validation tasks; the best one's evaluation goes to
    evaluation-best.json."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where adaptation computes."""
    threads: int = 0
    """Threads; 0 for one on each core. The results do not depend on it."""

    def check(self) -> None:
        self.at_least(1, "tasks rollouts")
        self.at_least(0, "gradient_steps seed threads")


@dataclass(frozen=True)
class AnalysisConfig(Checked):
    """What to analyse a run on."""

    tasks: int = 20
    """Held-out tasks, drawn with SEED as in evaluation; a family with finitely many repeats them."""
    rollouts: int = 20
    """Episodes of each task before and after adaptation."""
    seed: int = 10_000
    """Seed of tasks and episodes."""
    checkpoint: Checkpoint = "last"
    """Which checkpoint: the last, or the best on the validation tasks. Those that the run kept along the way are
    analysed besides, to show the course of training."""
    embedding_tasks: int = 200
    """Tasks whose embeddings are shown."""
    projection: Literal["pca", "tsne"] = "pca"
    """How embeddings are brought to two dimensions: principal components, or t-SNE (needs scikit-learn)."""
    output: Path | None = None
    """Folder for analysis.json and the figures; by default RUN/analysis."""
    threads: int = 0
    """Threads; 0 for one on each core."""

    def check(self) -> None:
        self.at_least(2, "tasks rollouts embedding_tasks")  # A degree of conflict needs two gradients.
        self.at_least(0, "seed threads")

    def folder(self, run: Path) -> Path:
        """Where the analysis of the run in folder ``run`` goes."""
        return self.output or run / "analysis"
