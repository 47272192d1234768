"""Settings of evaluation, analysis and recording of a trained run; field comments become the command line's help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from metarl.common.errors import UserError
from metarl.config.checked import Checked, Count, Positive, Range, Seed
from metarl.config.settings import Steps, Threads

Checkpoint = Literal["last", "best"]
# How many tasks an evaluation draws by default.
HELD_OUT_TASKS = 40
# A degree of conflict needs two gradients.
_AtLeastTwo = Annotated[int, Range(2)]


@dataclass(frozen=True)
class EvaluationConfig(Checked):
    """Settings of an evaluation."""

    tasks: Count = HELD_OUT_TASKS
    """Held-out tasks, drawn with SEED; a family with finitely many tasks repeats each equally often."""
    task_file: Path | None = None
    """JSON file with tasks to use instead, {"tasks": [[0.1, 0.2], ...]}, so that several runs share them; the
    evaluation.json of another run works too."""
    env: str | None = None
    """Another task family with the same observations and actions, such as navigation-b for a run on navigation; writes
    evaluation-ENV.json. Naming the run's own family allows its code to be imported."""
    rollouts: Count | None = None
    """Episodes of each task at each gradient step, by default 20; of an agent with memory, trials of each task.
    mumomaml reads the task from, and measures the return before adaptation on, as many as its own setting says."""
    shots: Count | None = None
    """Supervised families: examples of each task to adapt to; by default as in training."""
    queries: Count | None = None
    """Supervised families: further examples of each task, on which the error or accuracy is measured; by default 100,
    and in few-shot classification as in training."""
    gradient_steps: Steps = 4
    """Gradient steps; as many as in training use the training step size, later ones half of it; in supervised families
    all use the training step size. Of an agent with memory, episodes that it remembers before the last one is
    measured."""
    step_scales: tuple[Positive, ...] = ()
    """Factors on the training step size of the first, second, ... gradient step instead, such as 1 0.5 0.25; the last
    one holds for all later steps. Writes evaluation-scales-FACTORS.json."""
    seed: Seed = 10_000
    """Seed of tasks and episodes, separate from every training seed."""
    adapted_layers: tuple[str, ...] = ()
    """Adapt only these tensors of the policy, such as weight3 bias3 log_std, and freeze the others; all if empty.
    Writes evaluation-adapting-NAMES.json."""
    checkpoint: Checkpoint = "last"
    """Which checkpoint: the last, or the best on the validation tasks, which writes evaluation-best.json."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device for adaptation."""
    threads: Threads = 0
    """Threads; 0 for one per core. The results do not depend on it."""

    @property
    def episodes(self) -> int:
        """``rollouts``, or its default."""
        return 20 if self.rollouts is None else self.rollouts


@dataclass(frozen=True)
class AnalysisConfig(Checked):
    """Settings of an analysis."""

    tasks: _AtLeastTwo = 20
    """Held-out tasks, drawn with SEED as in evaluation; a family with finitely many tasks repeats them."""
    rollouts: _AtLeastTwo = 20
    """Episodes of each task before and after adaptation; of an agent with memory, trials of each task; in supervised
    families, query examples of each task."""
    seed: Seed = 10_000
    """Seed of tasks and episodes."""
    checkpoint: Checkpoint = "last"
    """Which checkpoint: the last, or the best on the validation tasks. The checkpoints that the run kept during
    training are analysed too, to show its course."""
    embedding_tasks: _AtLeastTwo = 200
    """Number of tasks whose embeddings, or states of the memory, are shown."""
    projection: Literal["pca", "tsne"] = "pca"
    """Projection of embeddings to two dimensions: principal components, or t-SNE (needs scikit-learn). States of a
    memory are shown by principal components."""
    gamma_sweep: bool = False
    """Attenuate the initialisation by hand, each layer and the whole network by factors from 0 to 1.2, before the inner
    loop: what attenuation could gain without training. Takes the environment steps of about 65 inner loops."""
    oracle_return: Annotated[float, Range()] | None = None
    """Return of an oracle on the same family; the gain of the best gammas is then also reported as a share of the gap
    from standing still to it."""
    output: Path | None = None
    """Folder for analysis.json and the figures; by default RUN/analysis, of the best checkpoint RUN/analysis-best."""
    threads: Threads = 0
    """Threads; 0 for one per core."""

    def check(self) -> None:
        if self.oracle_return is not None and not self.gamma_sweep:
            raise UserError("oracle_return is used by gamma_sweep alone; choose gamma_sweep too, or leave it out.")


@dataclass(frozen=True)
class RecordingConfig(Checked):
    """Settings of a recording."""

    task: Annotated[int, Range(0, HELD_OUT_TASKS - 1)] = 0
    """Which of the held-out tasks that an evaluation with this SEED draws by default, counted from 0."""
    steps: Steps | None = None
    """Gradient steps, by default 3; of an agent with memory, episodes after the first, by default as in training."""
    goals: Annotated[int, Range(1, 12)] = 4
    """Navigation: number of goals in the figure of trajectories, those of TASK and the tasks that follow it."""
    seed: Seed = 10_000
    """Seed of tasks and episodes."""
    checkpoint: Checkpoint = "last"
    """Which checkpoint: the last, or the best on the validation tasks."""
    output: Path | None = None
    """Folder for the files; by default RUN/recording."""
