"""The configuration of a run: one dataclass, which is also the command line; field comments are its help."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from metarl.common.errors import UserError, nearest
from metarl.common.strict_json import write_json
from metarl.config.algorithms import OWN_SETTINGS, get_algorithm, idle_settings
from metarl.config.settings import L2FConfig, MAMLppConfig, MuMoMAMLConfig, ProMPConfig, TRPOConfig
from metarl.envs import get_family

CONFIG_FILE = "config.json"

# What differs from a field's general default below, for the families that the papers report on; a longer name that
# starts with one of these (navigation-b, cheetah-dir-rllab) shares its entry unless it has its own.
# A tenth of the steps suffices for the Fisher matrix (Schulman et al. 2015, section 6), and half of them for the inner
# loss's Hessian if they are those of largest advantage (docs/performance.md). Gradients and the line search always use
# every step.
_SAMPLED: dict[str, Any] = {"trpo": TRPOConfig(fisher_fraction=0.1, hessian_fraction=0.5)}
# Found here, not in a paper (README, Results). Half-cheetahs need a policy that starts near zero action: a ReLU network
# with Glorot's initialisation saturates the torques, and the likelihood ratios of L2F's reused rollouts with it. At
# Gymnasium's 20 control steps a second, the original discount of 0.99 looks five times as far ahead in seconds, and
# nothing was learned with it; 0.95 looks one second ahead, as 0.99 does in the original timing.
_CHEETAH: dict[str, Any] = {**_SAMPLED, "activation": "tanh", "output_gain": 0.1}
_GYM_CHEETAH: dict[str, Any] = {**_CHEETAH, "discount": 0.95, "action_scale": 0.2}
# With that noise, an attenuation that starts at 0.5, as published, leaves the reused rollouts an effective sample size
# of 13 % after 29 iterations, and L2F stays behind.
_RLLAB_CHEETAH: dict[str, Any] = {**_CHEETAH, "initial_std": 0.5, "l2f": L2FConfig(initial_gamma=0.95)}
_FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    "navigation": {**_SAMPLED, "meta_batch_size": 20},
    "cheetah-dir": _GYM_CHEETAH,
    "cheetah-dir-rllab": _RLLAB_CHEETAH,
    "cheetah-vel": _GYM_CHEETAH,
    "cheetah-vel-rllab": _RLLAB_CHEETAH,
    "ant": _SAMPLED,
    "ant-dir": {**_SAMPLED, "rollouts_per_task": 40},
}


def _chosen(general: Any = None) -> Any:
    """A field whose default depends on the task family or, failing that, is ``general``."""
    return field(default=None, metadata={"general": general})


@dataclass(frozen=True)
class Config:
    """Settings of a training run. Defaults are the original paper's, or what is known to work for the chosen family.

    Raises:
        UserError: At once, if a setting is impossible.
    """

    env: str = "navigation"
    """Task family: a registered name, or package.module:Family for your own."""
    algo: str = "l2f"
    """Algorithm: maml, fomaml, l2f, anil, meta-sgd, mamlpp, mumomaml, multi-maml or context; as baseline random,
    pretrain, oracle or standstill."""
    attenuate: bool = False
    """Learn-to-Forget on top of the chosen algorithm (l2f is maml with it, always)."""
    env_kwargs: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Parameters of the task family, as NAME VALUE pairs (frame_skip 1)."""
    run_dir: Path | None = None
    """Folder for everything the run writes; by default runs/ENV-ALGO-seedSEED."""
    resume: bool = False
    """Continue the run in RUN_DIR from its last checkpoint."""
    seed: int = 0
    """Seed of everything random."""
    iterations: int = _chosen(100)
    """Meta-iterations to have done at the end; none for random and standstill."""

    meta_batch_size: int = _chosen(40)
    """Tasks in a meta-iteration."""
    rollouts_per_task: int = _chosen(20)
    """Episodes collected with each task's policy, before and after adaptation."""
    horizon: int = _chosen()
    """Longest episode, environment steps."""
    num_inner_steps: int = _chosen(1)
    """Policy-gradient steps of the inner loop."""
    inner_lr: float = _chosen(0.1)
    """Step size of the inner loop."""
    inner_loss: Literal["ratio", "score", "dice"] = _chosen("ratio")
    """Inner loss: likelihood ratio (LVC), the plain score function, or DiCE."""

    hidden_sizes: tuple[int, ...] = _chosen((100, 100))
    """Width of each hidden layer of the policy."""
    activation: Literal["relu", "tanh"] = _chosen("relu")
    """Activation of the hidden layers."""
    output_gain: float = _chosen(1.0)
    """Factor on the last layer's initial weights."""
    initial_std: float = _chosen(1.0)
    """Exploration to start from: standard deviation in units of the action space's half-width times ACTION_SCALE."""
    min_std: float = _chosen(1e-6)
    """Floor of the standard deviation."""
    action_scale: float = _chosen(1.0)
    """Half-widths of the action space that a policy output of 1 stands for (clipped to its bounds)."""
    policy_body: str | None = None
    """A torch.nn.Module as the policy's network: package.module:function, called with (inputs, outputs)."""

    discount: float = _chosen(0.99)
    """Discount of one step."""
    gae_lambda: float = _chosen(1.0)
    """Generalised advantage estimation: 1 for returns minus baseline, 0 for one-step differences."""
    meta_optimiser: Literal["trpo", "promp"] = _chosen("trpo")
    """Meta-optimiser: trust region (TRPO), or clipped surrogate with Adam (ProMP)."""
    trpo: TRPOConfig = _chosen(TRPOConfig())
    """Trust-region meta-optimiser."""
    promp: ProMPConfig = _chosen(ProMPConfig())
    """Proximal meta-optimiser."""
    l2f: L2FConfig = _chosen(L2FConfig())
    """Learn-to-Forget."""
    adapted_layers: tuple[str, ...] = _chosen(())
    """anil: tensors that the inner loop adapts, such as weight3 bias3 log_std; by default the last layer and the
    log-std."""
    mamlpp: MAMLppConfig = _chosen(MAMLppConfig())
    """MAML++."""
    mumomaml: MuMoMAMLConfig = _chosen(MuMoMAMLConfig())
    """MuMoMAML."""
    context_size: int = _chosen(10)
    """context: length of the context vector."""

    validate_every: int = _chosen(10)
    """Meta-iterations between evaluations on validation tasks; 0 for none."""
    validation_tasks: int = _chosen(20)
    """Validation tasks (all tasks of a family that has finitely many)."""
    checkpoint_every: int = _chosen(10)
    """Meta-iterations between checkpoints."""
    keep_checkpoints: bool = False
    """Keep every one of them, as checkpoints/iterationN, to analyse how training went."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where adaptation and meta-step compute; auto takes a GPU if there is one."""
    threads: int = 0
    """Threads for rollouts and meta-step; 0 for one on each core. The results do not depend on it."""
    profile: bool = False
    """Tell where the time goes: print a table of the phases at the end, write the trace of one iteration into RUN_DIR
    (for Perfetto or TensorBoard)."""

    def __post_init__(self) -> None:
        algorithm = get_algorithm(self.algo)
        family = get_family(self.env, **self.env_kwargs)
        chosen = {"horizon": family.horizon, **_family_defaults(self.env)}
        if algorithm.training == "none":
            chosen["iterations"] = 0
        defaults = {
            setting.name: chosen.get(setting.name, setting.metadata["general"])
            for setting in dataclasses.fields(self)
            if "general" in setting.metadata
        }
        for name, default in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        self._check()
        self._check_algorithm(defaults)

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return self.run_dir or Path("runs") / f"{self.env.replace(':', '.')}-{self.algorithm_name}-seed{self.seed}"

    @property
    def algorithm_name(self) -> str:
        """The algorithm, with L2F if that is on top of it."""
        on_top = self.attenuate and not get_algorithm(self.algo).attenuated
        return f"{self.algo}-attenuated" if on_top else self.algo

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them; null for those that do nothing with the chosen algorithm."""
        in_force = {"run_dir": str(self.folder), "attenuate": self.attenuate or get_algorithm(self.algo).attenuated}
        return {**dataclasses.asdict(self), **dict.fromkeys(idle_settings(vars(self))), **in_force}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """The configuration that `to_dict` was called on.

        Raises:
            UserError: If a setting is unknown or impossible.
        """
        names = {setting.name for setting in dataclasses.fields(Config)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise UserError(f"unknown setting {unknown[0]!r} in the configuration.{nearest(unknown[0], names)}")
        converted = dict(values)
        if get_algorithm(values.get("algo", Config.algo)).attenuated:
            converted["attenuate"] = False  # Of what is in force, the part that was a choice.
        for name, convert in _FROM_JSON.items():
            if converted.get(name) is not None:
                converted[name] = convert(converted[name])
        return Config(**converted)

    def _check(self) -> None:
        for part in (self, self.trpo, self.promp, self.l2f, self.mumomaml):
            _check_choices(part)
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value < least:
                raise UserError(f"{name} must be at least {least}, got {value}.")
        for name in ("inner_lr", "initial_std", "min_std", "action_scale"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} must be a positive number, got {getattr(self, name)}.")
        for name in ("discount", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie between 0 and 1, got {getattr(self, name)}.")
        if self.profile and self.iterations == 0:
            raise UserError("profile needs an iteration to measure; iterations must be at least 1 with it, got 0.")
        if any(size < 1 for size in self.hidden_sizes):
            raise UserError(f"hidden_sizes must be positive, got {self.hidden_sizes}.")
        if self.l2f.transform == "sigmoid" and not 0 < self.l2f.initial_gamma < 1:
            raise UserError(f"l2f.initial_gamma must lie between 0 and 1, got {self.l2f.initial_gamma}.")
        if self.l2f.conditioning == "constant" and self.l2f.normalise_embedding:
            raise UserError("l2f.normalise_embedding is for an attenuator that sees the task; constants see nothing.")
        if self.mumomaml.embedding_size < 1:
            raise UserError(f"mumomaml.embedding_size must be at least 1, got {self.mumomaml.embedding_size}.")
        if min(self.mamlpp.multi_step_iterations, self.mamlpp.first_order_iterations) < 0:
            raise UserError("mamlpp.multi_step_iterations and mamlpp.first_order_iterations must not be negative.")
        if not (self.promp.lr > 0 and self.promp.epochs >= 1 and self.promp.clip > 0 and self.promp.kl_penalty >= 0):
            raise UserError(
                "promp.lr and promp.clip must be positive, promp.epochs at least 1 and promp.kl_penalty not negative."
            )
        if self.trpo.max_kl <= 0 or self.trpo.cg_damping < 0:
            raise UserError("trpo.max_kl must be positive and trpo.cg_damping must not be negative.")
        if not (0 < self.trpo.backtrack_ratio < 1 and self.trpo.max_backtracks >= 1 and self.trpo.cg_iterations >= 1):
            raise UserError(
                "trpo.backtrack_ratio must lie between 0 and 1, trpo.max_backtracks and trpo.cg_iterations must be at "
                "least 1."
            )
        if not (0 < self.trpo.fisher_fraction <= 1 and 0 < self.trpo.hessian_fraction <= 1):
            raise UserError("trpo.fisher_fraction and trpo.hessian_fraction must lie in (0, 1].")

    def _check_algorithm(self, defaults: dict[str, Any]) -> None:
        """Refuses what the chosen algorithm cannot do, and settings that would do nothing."""
        algorithm = get_algorithm(self.algo)
        if algorithm.training == "none" and self.iterations:
            raise UserError(
                f"{self.algo} is not trained: iterations must be 0 with it, got {self.iterations}; leave it out."
            )
        if algorithm.training != "meta" and self.attenuate:
            raise UserError(f"attenuate needs a meta-trained algorithm, and {self.algo} is a baseline without one.")
        reused = self.l2f.conditioning == "task" and self.l2f.attenuation_rollouts == "reuse"
        if (self.attenuate or algorithm.attenuated) and reused and self.inner_loss == "score":
            raise UserError(
                "the score loss is wrong for the unattenuated policy's rollouts, which L2F reuses; take inner_loss "
                "ratio or l2f.attenuation_rollouts fresh."
            )
        for name in idle_settings(vars(self)):
            if getattr(self, name) != defaults[name]:
                raise UserError(f"{name} would do nothing: it is for {OWN_SETTINGS[name]}.")


_AT_LEAST = {
    "seed": 0,
    "iterations": 0,
    "meta_batch_size": 1,
    "rollouts_per_task": 1,
    "horizon": 1,
    "num_inner_steps": 0,
    "validate_every": 0,
    "validation_tasks": 1,
    "checkpoint_every": 1,
    "context_size": 1,
    "threads": 0,
}
_FROM_JSON: dict[str, Any] = {
    "run_dir": Path,
    "hidden_sizes": tuple,
    "adapted_layers": tuple,
    "trpo": lambda values: TRPOConfig(**values),
    "promp": lambda values: ProMPConfig(**values),
    "l2f": lambda values: L2FConfig(**values),
    "mamlpp": lambda values: MAMLppConfig(**values),
    "mumomaml": lambda values: MuMoMAMLConfig(**values),
}


def _check_choices(settings: Any) -> None:
    """Refuses what is none of a setting's choices; types alone do not, in a program."""
    for name, kind in get_type_hints(type(settings)).items():
        if get_origin(kind) is Literal and getattr(settings, name) not in get_args(kind):
            value, choices = getattr(settings, name), ", ".join(get_args(kind))
            raise UserError(f"{name} must be one of {choices}; got {value!r}.{nearest(str(value), get_args(kind))}")


def _family_defaults(env: str) -> dict[str, Any]:
    matching = [name for name in _FAMILY_DEFAULTS if env == name or env.startswith(f"{name}-")]
    return _FAMILY_DEFAULTS[max(matching, key=len)] if matching else {}


def save_config(config: Config, provenance: dict[str, Any]) -> None:
    """Writes the final configuration into the run folder, with what it was started and, later, resumed with."""
    path = config.folder / CONFIG_FILE
    content = {**config.to_dict(), "metarl": provenance}
    if path.is_file():
        before = json.loads(path.read_text())
        content |= {"metarl": before["metarl"], "resumed_with": [*before.get("resumed_with", []), provenance]}
    try:
        write_json(path, content, indent=2)
    except OSError as error:
        raise UserError(f"cannot write into {config.folder}: {error.strerror or error}; choose --run-dir.") from error


def load_config(run_dir: Path) -> Config:
    """Reads a run's configuration; its folder is ``run_dir``, wherever it was when the run was made.

    Raises:
        UserError: If ``run_dir`` is not the folder of a run.
    """
    path = run_dir / CONFIG_FILE
    if not path.is_file():
        what = "is not the folder of a run: it holds no config.json" if run_dir.exists() else "does not exist"
        raise UserError(f"{run_dir} {what}; give the folder that `python -m metarl.train` wrote.")
    try:
        values = json.loads(path.read_text())
        for provenance in ("metarl", "resumed_with"):
            values.pop(provenance, None)
        return Config.from_dict({**values, "run_dir": run_dir})
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error
