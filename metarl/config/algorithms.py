"""The algorithms that ``--algo`` names: one row per algorithm, and above the rows their settings.

A new rule needs one file in metarl/agents and one row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from metarl.common.errors import UserError, nearest
from metarl.config.checked import Checked, Count, Natural, NotNegative, Positive, Range, Share, convert, hints
from metarl.config.optimisers import META_OPTIMISERS
from metarl.config.own import own_row, own_title


@dataclass(frozen=True)
class L2FConfig(Checked):
    """Learn-to-Forget: attenuation of the initialisation before the inner loop (Baik et al. 2020)."""

    prefix = "l2f."
    meaning = ("scope", "conditioning", "transform", "embedding", "normalise_embedding", "attenuate_log_std")

    scope: Literal["network", "layer", "filter", "parameter"] = "layer"
    """One gamma for the whole network, per weight or bias tensor, per unit's incoming weights, or per parameter."""
    conditioning: Literal["task", "constant"] = "task"
    """Gamma computed from the task's gradient, or a learned constant."""
    transform: Literal["sigmoid", "unconstrained", "affine"] = "sigmoid"
    """Gamma in (0, 1), any gamma, or any gamma plus an offset delta (gamma * theta + delta)."""
    attenuation_rollouts: Literal["reuse", "fresh"] = "reuse"
    """First inner step: reuse the unattenuated policy's rollouts, or collect additional fresh ones."""
    embedding: Literal["mean", "moments", "gru"] = "mean"
    """What the attenuator sees of a task: each layer's mean gradient (mean, as published); also the logarithm of each
    layer's root mean square gradient and the mean return (moments, always standardised); or, instead of gradients, a
    learned GRU's embedding of trajectories, as MuMoMAML's (gru)."""
    trajectories: Count = 1
    """Trajectories of each task that the GRU reads, out of those collected before attenuation."""
    embedding_gradient: Literal["stop", "through"] = "stop"
    """Treat the embedding as a constant of the meta-gradient (as the authors' code does), or differentiate through it
    (their algorithm 1, read literally)."""
    normalise_embedding: bool = False
    """Standardise the embedding by running statistics before the attenuator sees it; moments always are."""
    initial_gamma: Annotated[float, Range()] = 0.5
    """Initial attenuation factor, approximately; 0.5 is the published sigmoid(0)."""
    attenuate_log_std: bool = False
    """Attenuate the log standard deviation too, which pulls the standard deviation towards 1."""
    reuse_kl: NotNegative | None = None
    """Weight, in the meta-loss, of the KL divergence from the unattenuated policy to the attenuated one, which reuses
    its rollouts; by default 0.1 with TRPO, which alone has this term. With 0 the two may drift apart."""
    start_kl: NotNegative | None = None
    """Weight of the unattenuated policy's KL divergence in the trust region, beside the adapted policy's; by default
    that of l2f.reuse_kl, whose penalty TRPO's step would else overshoot."""

    @property
    def reuses(self) -> bool:
        """Whether the attenuated policy takes its first step with the unattenuated one's rollouts."""
        return self.conditioning == "task" and self.attenuation_rollouts == "reuse"

    def with_weights(self) -> L2FConfig:
        """The same settings; of the two weights, those that are not chosen get what TRPO has by default."""
        reuse_kl = REUSE_KL if self.reuse_kl is None else self.reuse_kl
        return replace(self, reuse_kl=reuse_kl, start_kl=reuse_kl if self.start_kl is None else self.start_kl)

    @property
    def normalised(self) -> bool:
        """Whether the embedding is standardised; moments always are, because their units differ."""
        return self.normalise_embedding or self.embedding == "moments"

    def check(self) -> None:
        if self.transform == "sigmoid" and not 0 < self.initial_gamma < 1:
            raise UserError(
                f"l2f.initial_gamma must lie between 0 and 1 with l2f.transform sigmoid, got {self.initial_gamma}."
            )
        if self.conditioning == "constant":
            self._check_constant()
        if self.reuse_kl and self.attenuation_rollouts == "fresh":
            raise UserError(
                "l2f.reuse_kl is the divergence on reused rollouts: it needs l2f.attenuation_rollouts reuse."
            )
        if self.embedding == "gru" and self.normalise_embedding:
            raise UserError("l2f.normalise_embedding is for gradients: a GRU's states lie between -1 and 1 already.")
        if self.embedding == "gru" and self.embedding_gradient == "through":
            raise UserError("l2f.embedding_gradient is for gradients: l2f.embedding gru depends on the GRU alone.")
        if self.embedding != "gru" and self.trajectories != 1:
            raise UserError("l2f.trajectories needs l2f.embedding gru: gradients use all rollouts.")

    def _check_constant(self) -> None:
        """Raises UserError if a choice would do nothing, because gamma is a constant."""
        for name in OF_THE_TASK:
            value = getattr(self, name)
            if value != getattr(L2FConfig, name):
                choice = f"{name} {value}" if isinstance(value, str) else name
                raise UserError(
                    f"l2f.{choice} would do nothing with l2f.conditioning constant: constants have no embedding, and "
                    "read no rollouts."
                )


REUSE_KL = 0.1
"""``l2f.reuse_kl`` if TRPO's meta-step reuses rollouts, and nothing else was chosen; docs/l2f.md has the evidence."""

OF_THE_TASK = (
    "embedding",
    "normalise_embedding",
    "embedding_gradient",
    "attenuation_rollouts",
    "start_kl",
    "reuse_kl",
)
"""Settings of Learn-to-Forget that do nothing if gamma is a constant."""


@dataclass(frozen=True)
class ANILConfig(Checked):
    """ANIL (Raghu et al. 2020)."""

    adapted_layers: tuple[str, ...] = ()
    """anil: tensors that the inner loop adapts, such as weight3 bias3 log_std; the last layer and the log-std
    if none is named."""


@dataclass(frozen=True)
class MAMLppConfig(Checked):
    """MAML++ (Antoniou et al. 2019)."""

    prefix = "mamlpp."

    multi_step_iterations: Natural = 30
    """Meta-iterations with the multi-step loss, in which the policy after every inner step counts, with query rollouts
    of its own (NUM_INNER_STEPS 2 or more). All steps start with equal weights; those of the early steps then fall
    linearly, and afterwards the last step counts alone."""
    first_order_iterations: Natural = 30
    """Meta-iterations before second derivatives are used."""
    early_weight_floor: Share = 0.03
    """Least weight of an early step while the multi-step loss lasts, as a share of its first weight; 0.03 acts only
    with more than 33 MULTI_STEP_ITERATIONS."""


@dataclass(frozen=True)
class MuMoMAMLConfig(Checked):
    """Multimodal MAML (Vuorio et al. 2019)."""

    prefix = "mumomaml."
    meaning = ("modulation", "embedding_size")

    modulation: Literal["film", "sigmoid", "softmax"] = "film"
    """Effect of the embedding on hidden units: scale and shift (film), gate each unit (sigmoid), or attend over the
    units of a layer (softmax)."""
    embedding_size: Count = 8
    """Size of the task's embedding, and of the hidden layer of each modulation network."""
    trajectories: Count = 1
    """Trajectories of each task that the embedding is computed from, collected with the unadapted policy."""


@dataclass(frozen=True)
class ContextConfig(Checked):
    """Context vector (Finn et al. 2017, appendix C.2)."""

    meaning = ("context_size",)

    context_size: Count = 10
    """context: length of the context vector."""


@dataclass(frozen=True)
class CAVIAConfig(Checked):
    """CAVIA (Zintgraf et al. 2019); defaults of the released code for 2D navigation."""

    prefix = "cavia."
    meaning = ("context_size",)

    context_size: Count = 5
    """Length of the context vector."""
    step_size: Positive = 1.0
    """Step size of the context vector, instead of INNER_LR, which then only serves the evaluation's reference."""


@dataclass(frozen=True)
class MemoryConfig(Checked):
    """The recurrent layer of an agent with memory."""

    meaning: ClassVar[tuple[str, ...]] = ("cell", "units")

    cell: Literal["gru", "lstm"] = "gru"
    """Kind of the recurrent layer."""
    units: Count = 64
    """Units of the recurrent layer."""


@dataclass(frozen=True)
class RL2Config(MemoryConfig):
    """RL^2 (Duan et al. 2016)."""

    prefix = "rl2."


@dataclass(frozen=True)
class VariBADConfig(MemoryConfig):
    """VariBAD (Zintgraf et al. 2020)."""

    prefix = "varibad."
    meaning = (*MemoryConfig.meaning, "latent_size", "decoder", "decoder_sizes")

    latent_size: Count = 5
    """Numbers in the latent variable that stands for the task."""
    decoder: Literal["reward", "reward-and-state", "task"] = "reward"
    """What is decoded from the latent variable: rewards, rewards and next observations, or the task itself, which
    training then must know (Humplik et al. 2019)."""
    decoder_sizes: tuple[Count, ...] = (64, 32)
    """Width of each hidden layer of a decoder."""
    kl_weight: NotNegative = 0.1
    """Weight of the KL divergence of a belief from the one before it, in nats, beside half the mean squared error of
    what is decoded."""
    lr: Positive = 5e-3
    """Step size of the Adam that trains encoder and decoder."""
    updates: Count = 10
    """Steps of this Adam in a meta-iteration."""
    max_gradient_norm: Positive = 1.0
    """Longer gradients of the bound are shortened to this norm."""
    batch: Count = 20
    """Trials in such a step."""
    buffer: Count = 240
    """Latest trials, from which they are drawn. Every checkpoint holds them."""
    prefixes: Count = 25
    """Steps of a trial, at random, at which its belief is decoded."""
    decoded_steps: Count = 25
    """Steps of a trial, at random, whose reward is decoded from each of these beliefs."""

    def check(self) -> None:
        if self.buffer < self.batch:
            raise UserError(
                f"varibad.buffer must be at least varibad.batch, {self.batch}, which is drawn from it; got "
                f"{self.buffer}."
            )
        if self.decoder == "task" and self.decoded_steps != VariBADConfig.decoded_steps:
            raise UserError("varibad.decoded_steps is for rewards: varibad.decoder task decodes no steps.")


@dataclass(frozen=True)
class PEARLConfig(Checked):
    """PEARL (Rakelly et al. 2019)."""

    prefix = "pearl."
    meaning = ("latent_size",)

    latent_size: Count = 5
    """Numbers in the latent variable that stands for the task."""
    kl_weight: NotNegative = 0.01
    """Weight of the KL divergence of a posterior from the prior, in nats, beside half the critics' squared errors, in
    units of the reward's variance."""
    context: Count = 64
    """Transitions of a trial's first episodes, at random, from which its posterior is inferred in an update."""
    initial_temperature: Positive = 0.1
    """First weight of the policy's entropy, in standard deviations of the reward per nat; it is learned."""


@dataclass(frozen=True)
class BaselineConfig(Checked):
    """Training of the baselines pretrain and oracle."""

    prefix = "baseline."

    trainer: Literal["trpo", "ppo"] = "trpo"
    """Our TRPO on all tasks at once, which is the meta-step without inner steps (trpo; supervised families take their
    own meta-optimiser); or Stable-Baselines3's PPO (ppo), with its defaults, such as a GAE_LAMBDA of 0.95."""


@dataclass(frozen=True)
class Algorithm:
    """An algorithm that ``--algo`` names.

    Attributes:
        title: Its name in plots and tables.
        summary: Its description, in one sentence.
        rule: Its adaptation rule, as package.module:name. The rule is called with (policy, inner settings), followed by
            the algorithm's own settings if it has any.
        settings: Class of its own settings, if it has any.
        option: The configuration's field that holds them; None if their fields are fields of the configuration.
        attenuated: Whether Learn-to-Forget is part of it.
        training: How its meta-parameters are trained: by the meta-step, on all tasks at once without inner steps (see
            `BaselineConfig`), or not at all.
        adapts: Whether its steps change the policy.
        sees_task: Whether the policy observes its task.
        learns_tasks: Whether its training may be shown the tasks; the rule is then also called with the length of a
            task, or 0 if they are not shown.
        knows_modes: Whether the rule receives each task's mode; it is then also called with the number of modes.
        knows_zero: Whether the rule stands for the zero action; it is then also called with the policy's outputs that
            give it, or None if the action space has none.
        policy: Class of its policy, as package.module:name, if it adapts a memory instead of taking gradient steps. It
            is called with (observation size, action distribution, own settings, settings of the network), and the rule
            with the policy alone.
        step_size: The setting that makes its gradient steps smaller; None if it takes none.
        family_defaults: The attribute of a family that holds its defaults for this algorithm; None if there is none.
        defaults: Training defaults that differ from the general ones, by the names of the configuration's fields.
    """

    title: str
    summary: str
    rule: str
    settings: type[Checked] | None = None
    option: str | None = "rule"
    attenuated: bool = False
    training: Literal["meta", "baseline", "none"] = "meta"
    adapts: bool = True
    sees_task: bool = False
    learns_tasks: bool = False
    knows_modes: bool = False
    knows_zero: bool = False
    policy: str | None = None
    step_size: str | None = "inner_lr"
    family_defaults: Literal["defaults", "memory_defaults"] | None = "defaults"
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def remembers(self) -> bool:
        """Whether it adapts a memory."""
        return self.policy is not None


_MEMORY_DEFAULTS: Mapping[str, Any] = {
    "meta_optimiser": "ppo",
    "meta_batch_size": 60,
    "rollouts_per_task": 1,
    "num_inner_steps": 2,
    "hidden_sizes": (),
    "activation": "tanh",
    "output_gain": 0.1,
    "normalise_observations": True,
    "discount": 0.95,
    "gae_lambda": 0.9,
}


ALGORITHMS: dict[str, Algorithm] = {
    "maml": Algorithm(
        "MAML",
        "Policy-gradient steps from a meta-learned initialisation, differentiated through (Finn et al. 2017).",
        "metarl.agents.maml:MAML",
    ),
    "fomaml": Algorithm(
        "first-order MAML",
        "MAML whose inner gradients are constants in the meta-gradient (Finn et al. 2017).",
        "metarl.agents.maml:fomaml",
    ),
    "l2f": Algorithm(
        "L2F",
        "Learn-to-Forget: MAML from an initialisation that is attenuated for each task (Baik et al. 2020).",
        "metarl.agents.maml:MAML",
        attenuated=True,
    ),
    "anil": Algorithm(
        "ANIL",
        "MAML that adapts the last layer alone, or any other set of tensors (Raghu et al. 2020).",
        "metarl.agents.anil:anil",
        settings=ANILConfig,
        option=None,
    ),
    "meta-sgd": Algorithm(
        "Meta-SGD",
        "MAML with a learned step size for each parameter (Li et al. 2017).",
        "metarl.agents.meta_sgd:MetaSGD",
    ),
    "mamlpp": Algorithm(
        "MAML++",
        "MAML with learned step sizes, a multi-step loss and derivative-order annealing (Antoniou et al. 2019).",
        "metarl.agents.mamlpp:MAMLpp",
        settings=MAMLppConfig,
        option="mamlpp",
    ),
    "mumomaml": Algorithm(
        "MuMoMAML",
        "MAML whose hidden units are modulated by an embedding of trajectories (Vuorio et al. 2019).",
        "metarl.agents.mumomaml:MuMoMAML",
        settings=MuMoMAMLConfig,
        option="mumomaml",
    ),
    "multi-maml": Algorithm(
        "Multi-MAML",
        "One MAML for each mode of the tasks, with the mode given: an upper bound for MAML (Vuorio et al. 2019).",
        "metarl.agents.multi_maml:MultiMAML",
        knows_modes=True,
    ),
    "context": Algorithm(
        "context vector",
        "Gradient steps on a context vector beside the observation alone (Finn et al. 2017, appendix C.2).",
        "metarl.agents.context:ContextAdaptation",
        settings=ContextConfig,
        option=None,
    ),
    "cavia": Algorithm(
        "CAVIA",
        "Gradient steps on a context vector that starts at zero for each task (Zintgraf et al. 2019).",
        "metarl.agents.context:cavia",
        settings=CAVIAConfig,
        option="cavia",
        step_size="cavia.step_size",
    ),
    "rl2": Algorithm(
        "RL^2",
        "A recurrent network that learns each task in its memory, from one episode to the next (Duan et al. 2016).",
        "metarl.agents.rl2:RL2",
        settings=RL2Config,
        option="rl2",
        policy="metarl.policies.recurrent:RecurrentPolicy",
        step_size=None,
        family_defaults="memory_defaults",
        defaults=_MEMORY_DEFAULTS,
    ),
    "varibad": Algorithm(
        "VariBAD",
        "A recurrent network learns to infer its task; the policy acts on the belief (Zintgraf et al. 2020).",
        "metarl.agents.varibad:VariBAD",
        settings=VariBADConfig,
        option="varibad",
        learns_tasks=True,
        policy="metarl.policies.belief:BeliefPolicy",
        step_size=None,
        family_defaults="memory_defaults",
        defaults={
            **_MEMORY_DEFAULTS,
            "meta_batch_size": 40,
            "hidden_sizes": (64, 64),
            "ppo": {"lr": 1e-3, "minibatches": 8},
        },
    ),
    "pearl": Algorithm(
        "PEARL",
        "Acts on samples from its task's posterior, a product of a factor per transition (Rakelly et al. 2019).",
        "metarl.agents.pearl:PEARL",
        settings=PEARLConfig,
        option="pearl",
        policy="metarl.policies.posterior:PosteriorPolicy",
        step_size=None,
        family_defaults=None,
        defaults={
            "meta_optimiser": "sac",
            "iterations": 80,
            "meta_batch_size": 10,
            "rollouts_per_task": 1,
            "num_inner_steps": 2,
            "hidden_sizes": (128, 128),
            "normalise_observations": True,
        },
    ),
    "random": Algorithm(
        "random initialisation",
        "Baseline: gradient steps from a random initialisation, without training.",
        "metarl.agents.maml:MAML",
        training="none",
    ),
    "pretrain": Algorithm(
        "pretrained",
        "Baseline: gradient steps from one policy that was trained on all tasks (Finn et al. 2017, section 5.3).",
        "metarl.agents.maml:MAML",
        training="baseline",
    ),
    "oracle": Algorithm(
        "oracle",
        "Reference: a policy trained on all tasks that observes its task and does not adapt (Finn et al. 2017).",
        "metarl.agents.anil:frozen",
        training="baseline",
        adapts=False,
        step_size=None,
        sees_task=True,
    ),
    "standstill": Algorithm(
        "standing still",
        "Reference: the zero action.",
        "metarl.agents.standstill:Standstill",
        training="none",
        adapts=False,
        step_size=None,
        knows_zero=True,
    ),
}


def get_algorithm(name: str) -> Algorithm:
    """Returns the algorithm called ``name``, or a user's own rule given as package.module:Rule.

    A user's rule is a subclass of `metarl.inner.rule.Adaptation`; its attribute ``Settings`` is the class of its own
    settings, if it has any.

    Raises:
        UserError: If there is no such algorithm; the message suggests the nearest names.
    """
    name = convert("algo", name, str)
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if ":" in name:
        summary, rule, settings = own_row(name, "algo")
        return Algorithm(own_title(name), summary, rule, settings=settings if hints(settings) else None)
    if name in META_OPTIMISERS:
        fitting = META_OPTIMISERS[name].algorithms
        choose = (
            f"algo {' or '.join(fitting)}, which it trains" if fitting else f"an algorithm, and meta_optimiser {name}"
        )
        raise UserError(f"{name} is a meta-optimiser: choose {choose}.")
    raise UserError(
        f"unknown algorithm {name!r}.{nearest(name, ALGORITHMS)} There are: {', '.join(sorted(ALGORITHMS))}; a rule of "
        "your own is given as package.module:Rule."
    )


def stored_trainer(config: Mapping[str, Any]) -> str:
    """The trainer of a baseline's run; without such a setting it is PPO, which was the only one in metarl 0.1.

    Args:
        config: The run's settings, as in its config.json.
    """
    return str((config.get("baseline") or {"trainer": "ppo"})["trainer"])


def _trainer_title(config: Mapping[str, Any]) -> str:
    if stored_trainer(config) == "ppo":
        return "PPO"
    optimiser = str(config.get("meta_optimiser") or "trpo")
    return META_OPTIMISERS[optimiser].title if optimiser in META_OPTIMISERS else own_title(optimiser)


def run_title(config: Mapping[str, Any]) -> str:
    """Name of a run in plots and tables: its algorithm, a baseline's trainer, plus L2F if it is added on top.

    Args:
        config: The run's settings, as in its config.json.
    """
    name, attenuated = config["algo"], bool(config.get("attenuate"))
    algorithm = ALGORITHMS.get(name)
    if algorithm is None:
        return own_title(str(name)) + (" + L2F" if attenuated else "")
    if attenuated and not algorithm.attenuated:
        # MAML with L2F on top is the algorithm l2f, which has a title of its own.
        titles = [other.title for other in ALGORITHMS.values() if other.attenuated and other.rule == algorithm.rule]
        return titles[0] if titles else f"{algorithm.title} + L2F"
    return f"{algorithm.title} ({_trainer_title(config)})" if algorithm.training == "baseline" else algorithm.title
