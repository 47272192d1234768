"""Settings by consumer, to which a configuration resolves; all of them are plain values.

Field comments become the command line's help. Defaults are the general ones, which the task family and the user may
override.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from metarl.common.errors import UserError
from metarl.config.checked import BoolOrAuto, Checked, Count, Natural, NotNegative, Positive, Range, Seed, Share

Threads = Annotated[int, Range(0, 1024)]
Steps = Annotated[int, Range(0, 10_000)]
# A standard deviation whose square is still a number of single precision.
Deviation = Annotated[float, Range(1e-12, 10**12)]


@dataclass(frozen=True)
class Experiment(Checked):
    """Task family and algorithm."""

    meaning = ("algo", "attenuate")

    env: str = "navigation"
    """Task family: a registered name, or package.module:Family for your own."""
    algo: str = "maml"
    """Algorithm: a name that --list shows, or package.module:Rule for your own."""
    attenuate: bool = False
    """Add Learn-to-Forget on top of the chosen algorithm (l2f is maml with it)."""
    env_kwargs: dict[str, bool | int | float | str | None] = field(default_factory=dict)
    """Parameters of the task family, as NAME VALUE pairs (frame_skip 1)."""


EXECUTION = (
    "run_dir",
    "resume",
    "take_over",
    "checkpoint_every",
    "keep_checkpoints",
    "device",
    "threads",
    "processes",
    "envs_per_process",
    "profile",
    "on_bad_episode",
    "step_timeout",
)
"""Settings of how a run is executed: they may change when it is resumed, and runs that differ in them are one line."""


@dataclass(frozen=True)
class RunSettings(Checked):
    """Folder, length and execution of a run."""

    run_dir: Path | None = None
    """Folder for everything the run writes; by default runs/ENV-ALGO-seedSEED."""
    resume: BoolOrAuto = False
    """Continue the run in RUN_DIR from its last checkpoint; with auto, start it if RUN_DIR is missing or empty."""
    init_from: Path | None = None
    """Start from the meta-parameters of another run's last checkpoint: of the same algorithm and network, on any family
    of the same sizes. Only the meta-parameters are copied, and the unit of a critic's values."""
    take_over: bool = False
    """Continue although RUN_DIR is in use by a process on another machine: only if that process has ended."""
    seed: Seed = 0
    """Seed of all random numbers."""
    iterations: Natural = 100
    """Total meta-iterations, including those before a resume; 0 for random and standstill."""
    log_every: Count = 1
    """Meta-iterations between rows of progress.csv."""
    validate_every: Natural = 10
    """Meta-iterations between evaluations on validation tasks; 0 for none."""
    validation_tasks: Count = 20
    """Validation tasks; a family with finitely many tasks repeats each equally often, and uses all of them."""
    best_by: str | None = None
    """The validation's number that chooses the best checkpoint: a metric of the family, such as success; by default the
    return after adaptation (of supervised families, the error or accuracy)."""
    checkpoint_every: Count = 10
    """Meta-iterations between checkpoints."""
    keep_checkpoints: bool = False
    """Keep every checkpoint, as checkpoints/iterationN, to analyse the course of training."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device for adaptation and meta-step; auto takes a GPU if there is one, but with several processes the CPU."""
    threads: Threads = 0
    """Threads for rollouts and meta-step; 0 for one per core. The results do not depend on it."""
    processes: Count = 1
    """Processes on this machine that share the tasks of each iteration (torchrun gives more machines). The results do
    not depend on it."""
    envs_per_process: Natural = 0
    """Most training environments that a process keeps at once, and as many again for validation; tasks take turns.
    0: all. A stage that collects another number of episodes has its own beside them. The results do not depend on
    it."""
    profile: bool = False
    """Measure where the time goes: print a table of the phases at the end, and write the trace of one iteration into
    RUN_DIR (for Perfetto or TensorBoard)."""

    def check(self) -> None:
        if self.profile and self.iterations < 1:
            raise UserError(f"iterations must be at least 1 with profile, to measure one, got {self.iterations}.")


_SHORTEST_TIMEOUT = 0.1


@dataclass(frozen=True)
class RolloutSettings(Checked):
    """Episodes and advantages."""

    meaning = ("action_scale",)

    rollouts_per_task: Count = 20
    """Episodes collected with each task's policy, before and after adaptation; 1 for an agent with memory."""
    horizon: Count = 200
    """Maximum length of an episode, in environment steps."""
    action_scale: Positive = 1.0
    """A policy output of 1 means this many half-widths of the action space; actions are clipped to its bounds."""
    discount: Share = 0.99
    """Discount of one step."""
    gae_lambda: Share = 1.0
    """Generalised advantage estimation: 1 for returns minus baseline, 0 for one-step differences."""
    on_bad_episode: Literal["stop", "drop"] = "stop"
    """If an environment returns a number that is not finite: stop the run, or leave the episode out; more than a tenth
    of an iteration's episodes stop it."""
    step_timeout: NotNegative = 0.0
    """Seconds, at least 0.1, after which an environment that has not returned from a step or reset ends the run; 0 for
    never."""

    def check(self) -> None:
        if 0 < self.step_timeout < _SHORTEST_TIMEOUT:
            raise UserError(
                f"step_timeout must be 0, for never, or at least {_SHORTEST_TIMEOUT} seconds, got {self.step_timeout}."
            )


@dataclass(frozen=True)
class ExampleSettings(Checked):
    """Examples of supervised tasks."""

    shots: Count = 5
    """Examples of each task that the inner loop adapts to; in few-shot classification, of each class."""
    queries: Count = 10
    """Further examples of each task that the meta-objective measures; in few-shot classification, of each class."""


@dataclass(frozen=True)
class PolicySettings(Checked):
    """The policy's network and its exploration."""

    meaning = ("hidden_sizes", "activation", "policy_body", "normalise_observations")

    hidden_sizes: tuple[Count, ...] = (100, 100)
    """Width of each hidden layer of the policy; of an agent with memory, of those after its recurrent layer."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation of the hidden layers."""
    output_gain: NotNegative = 1.0
    """Factor on the last layer's initial weights."""
    initial_std: Deviation = 1.0
    """Initial standard deviation of exploration, in units of the action space's half-width times ACTION_SCALE."""
    min_std: Deviation = 1e-6
    """Floor of the standard deviation."""
    normalise_observations: bool = False
    """Shift and scale observations by their running mean and standard deviation over training."""
    policy_body: str | None = None
    """A torch.nn.Module as the policy's network: package.module:function, called with (inputs, outputs),
    and with the shape of an observation if it has a parameter "shape"."""

    def check(self) -> None:
        if self.initial_std < self.min_std:
            raise UserError(
                f"initial_std must be at least min_std, {self.min_std:g}, got {self.initial_std:g}: below its floor "
                "the standard deviation has no gradient, and would stay there."
            )


@dataclass(frozen=True)
class InnerSettings(Checked):
    """The inner loop, for every adaptation rule."""

    num_inner_steps: Steps = 1
    """Policy-gradient steps of the inner loop. Of an agent with memory, episodes of a trial before its last one."""
    inner_lr: Positive = 0.1
    """Step size of the inner loop. Learned step sizes start from it."""
    inner_loss: Literal["ratio", "score", "dice"] = "ratio"
    """Inner loss: likelihood ratio (LVC), the plain score function, or DiCE."""


@dataclass(frozen=True)
class MetaSettings(Checked):
    """The meta-iteration."""

    meta_batch_size: Count = 40
    """Tasks in a meta-iteration."""
    meta_optimiser: str = "trpo"
    """Meta-optimiser: trust region (trpo), clipped surrogate with Adam (promp); adam for supervised families; of
    agents with memory ppo, and sac for pearl; or package.module:Optimiser for your own."""
