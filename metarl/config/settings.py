"""Settings that are handed over whole; field comments become the command line's help."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from metarl.common.errors import UserError

Checkpoint = Literal["last", "best"]


@dataclass(frozen=True)
class TRPOConfig:
    """Trust-region meta-optimiser (Schulman et al. 2015)."""

    max_kl: float = 0.01
    """Trust region: largest mean KL divergence of the adapted policies, nats per step."""
    cg_iterations: int = 10
    """Conjugate-gradient iterations."""
    cg_damping: float = 1e-5
    """Added to the Fisher matrix's diagonal."""
    backtrack_ratio: float = 0.8
    """Step length factor from one line-search trial to the next."""
    max_backtracks: int = 15
    """Line-search trials before the step is rejected."""
    fisher_fraction: float = 1.0
    """Fraction of the query steps, at random, whose Fisher information enters a product (1: all, exact)."""
    hessian_fraction: float = 1.0
    """Fraction of the support steps, those of largest |advantage|, whose inner-loss Hessian does (1: all, exact)."""


@dataclass(frozen=True)
class ProMPConfig:
    """Proximal meta-policy search (Rothfuss et al. 2019): clipped surrogate, Adam, several epochs."""

    lr: float = 1e-3
    """Adam's step size."""
    epochs: int = 5
    """Gradient steps on the same rollouts."""
    clip: float = 0.3
    """Likelihood ratios of the adapted policies are clipped to 1 +- this."""
    kl_penalty: float = 5e-4
    """Weight of the mean KL divergence of the policies that collected the support rollouts."""


@dataclass(frozen=True)
class L2FConfig:
    """Learn-to-Forget: attenuation of the initialisation before the inner loop (Baik et al. 2020)."""

    scope: Literal["network", "layer", "filter", "parameter"] = "layer"
    """What shares one gamma: the network, a weight or bias tensor, a unit's incoming weights, or nothing."""
    conditioning: Literal["task", "constant"] = "task"
    """Gamma from the task's gradient, or a learned constant."""
    transform: Literal["sigmoid", "unconstrained", "affine"] = "sigmoid"
    """Gamma in (0, 1), any gamma, or any gamma and an offset delta (gamma * theta + delta)."""
    attenuation_rollouts: Literal["reuse", "fresh"] = "reuse"
    """First inner step: reuse the unattenuated policy's rollouts (as published) or collect fresh, extra ones."""
    normalise_embedding: bool = False
    """Standardise each layer's mean gradient by running statistics before the attenuator sees it."""
    initial_gamma: float = 0.5
    """Attenuation factor that training starts near; 0.5 is the published sigmoid(0)."""
    attenuate_log_std: bool = False
    """Attenuate the log standard deviation too (which pulls the deviation towards 1)."""


@dataclass(frozen=True)
class MAMLppConfig:
    """MAML++ (Antoniou et al. 2019)."""

    multi_step_iterations: int = 30
    """Meta-iterations during which the policies after every inner step, of several (NUM_INNER_STEPS), enter the
    meta-objective, with query rollouts of their own and a weight that falls linearly from the last step's to 0."""
    first_order_iterations: int = 30
    """Meta-iterations before second derivatives are used."""


@dataclass(frozen=True)
class MuMoMAMLConfig:
    """Multimodal MAML (Vuorio et al. 2019)."""

    modulation: Literal["film", "sigmoid", "softmax"] = "film"
    """What the embedding does to the hidden units: scale and shift, gate each, or attend over a layer's."""
    embedding_size: int = 8
    """Size of the trajectory's embedding and of the modulation network's hidden layer."""


@dataclass(frozen=True)
class InnerConfig:
    """The inner loop and what each adaptation rule wants to know of it."""

    lr: float = 0.1
    """Step size of an inner policy-gradient step, or what a learned one starts from."""
    loss: Literal["ratio", "score", "dice"] = "ratio"
    """Inner loss: likelihood ratio (LVC), the plain score function, or DiCE."""
    num_steps: int = 1
    """Gradient steps in training."""
    num_modes: int = 1
    """Modes of the task distribution."""
    attenuate: bool = False
    """Learn-to-Forget on top of the rule."""
    l2f: L2FConfig = field(default_factory=L2FConfig)
    """Learn-to-Forget."""
    adapted_layers: tuple[str, ...] = ()
    """ANIL: tensors that the inner loop adapts; the last layer and the log-std if empty."""
    mamlpp: MAMLppConfig = field(default_factory=MAMLppConfig)
    """MAML++."""
    mumomaml: MuMoMAMLConfig = field(default_factory=MuMoMAMLConfig)
    """MuMoMAML."""
    context_size: int = 10
    """Length of the context vector."""


@dataclass(frozen=True)
class EvaluationConfig:
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

    def __post_init__(self) -> None:
        for name, least in (("tasks", 1), ("rollouts", 1), ("gradient_steps", 0), ("seed", 0), ("threads", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}.")

    @property
    def file_name(self) -> str:
        """Name of the evaluation's file in the run folder; another family's or checkpoint's has a name of its own."""
        parts = ["evaluation"]
        if self.checkpoint != "last":
            parts.append(self.checkpoint)
        if self.env is not None:
            parts.append(self.env.replace(":", "."))
        if self.adapted_layers:
            parts += ["adapting", *self.adapted_layers]
        return "-".join(parts) + ".json"


@dataclass(frozen=True)
class AnalysisConfig:
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

    def __post_init__(self) -> None:
        # A degree of conflict needs two gradients.
        for name, least in (("tasks", 2), ("rollouts", 2), ("seed", 0), ("embedding_tasks", 2), ("threads", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}.")

    def folder(self, run: Path) -> Path:
        """Where the analysis of the run in folder ``run`` goes."""
        return self.output or run / "analysis"
