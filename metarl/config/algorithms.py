"""What ``--algo`` names: one row for each algorithm, and above the rows the settings of those that have some.

A new rule is one file in metarl/agents and one row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from metarl.common.errors import UserError, nearest
from metarl.config.checked import Checked, hints
from metarl.config.own import own_row, own_title


@dataclass(frozen=True)
class L2FConfig(Checked):
    """Learn-to-Forget: attenuation of the initialisation before the inner loop (Baik et al. 2020)."""

    prefix = "l2f."

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

    def check(self) -> None:
        if self.transform == "sigmoid":
            self.require("initial_gamma", lambda value: 0 < value < 1, "lie between 0 and 1")
        if self.conditioning == "constant" and self.normalise_embedding:
            raise UserError("l2f.normalise_embedding is for an attenuator that sees the task; constants see nothing.")


@dataclass(frozen=True)
class ANILConfig(Checked):
    """ANIL (Raghu et al. 2020)."""

    adapted_layers: tuple[str, ...] = ()
    """anil: tensors that the inner loop adapts, such as weight3 bias3 log_std; by default the last layer and the
    log-std."""


@dataclass(frozen=True)
class MAMLppConfig(Checked):
    """MAML++ (Antoniou et al. 2019)."""

    prefix = "mamlpp."

    multi_step_iterations: int = 30
    """Meta-iterations during which the policies after every inner step, of several (NUM_INNER_STEPS), enter the
    meta-objective, with query rollouts of their own and a weight that falls linearly from the last step's to 0."""
    first_order_iterations: int = 30
    """Meta-iterations before second derivatives are used."""

    def check(self) -> None:
        self.at_least(0, "multi_step_iterations first_order_iterations")


@dataclass(frozen=True)
class MuMoMAMLConfig(Checked):
    """Multimodal MAML (Vuorio et al. 2019)."""

    prefix = "mumomaml."

    modulation: Literal["film", "sigmoid", "softmax"] = "film"
    """What the embedding does to the hidden units: scale and shift, gate each, or attend over a layer's."""
    embedding_size: int = 8
    """Size of the trajectory's embedding and of the modulation network's hidden layer."""

    def check(self) -> None:
        self.at_least(1, "embedding_size")


@dataclass(frozen=True)
class ContextConfig(Checked):
    """Context vector (Finn et al. 2017, appendix C.2)."""

    context_size: int = 10
    """context: length of the context vector."""

    def check(self) -> None:
        self.at_least(1, "context_size")


@dataclass(frozen=True)
class Algorithm:
    """What ``--algo`` names.

    Attributes:
        title: What plots and tables call it.
        summary: What it is, in a sentence.
        rule: Where the adaptation rule is, as package.module:name; called with (policy, inner settings) and, if the
            algorithm has settings of its own, those.
        settings: Class of its own settings, if it has any.
        option: The configuration's field that holds them; None if their fields are the configuration's own.
        attenuated: Whether Learn-to-Forget belongs to it.
        training: How its meta-parameters are found: the meta-step, Stable-Baselines3's PPO on all tasks at once, or not
            at all.
        sees_task: Whether the policy observes its task.
        knows_modes: Whether the rule is told each task's mode; it is then called with the number of modes, too.
    """

    title: str
    summary: str
    rule: str
    settings: type[Checked] | None = None
    option: str | None = "rule"
    attenuated: bool = False
    training: Literal["meta", "ppo", "none"] = "meta"
    sees_task: bool = False
    knows_modes: bool = False


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
        "MAML whose hidden units are modulated by what one trajectory shows of the task (Vuorio et al. 2019).",
        "metarl.agents.mumomaml:MuMoMAML",
        settings=MuMoMAMLConfig,
        option="mumomaml",
    ),
    "multi-maml": Algorithm(
        "Multi-MAML",
        "One MAML for each mode of the tasks, told the mode: MuMoMAML's upper bound (Vuorio et al. 2019).",
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
    "random": Algorithm(
        "random initialisation",
        "Baseline: gradient steps from no training.",
        "metarl.agents.maml:MAML",
        training="none",
    ),
    "pretrain": Algorithm(
        "pretrained (PPO)",
        "Baseline: gradient steps from one policy that PPO trained on all tasks (Finn et al. 2017, section 5.3).",
        "metarl.agents.maml:MAML",
        training="ppo",
    ),
    "oracle": Algorithm(
        "oracle (PPO)",
        "Reference: a policy that PPO trained, that observes its task and does not adapt (Finn et al. 2017).",
        "metarl.agents.anil:frozen",
        training="ppo",
        sees_task=True,
    ),
    "standstill": Algorithm(
        "standing still", "Reference: the zero action.", "metarl.agents.standstill:Standstill", training="none"
    ),
}


def get_algorithm(name: str) -> Algorithm:
    """The algorithm called ``name``, or a rule of one's own as package.module:Rule.

    A rule of one's own is a subclass of `metarl.inner.rule.Adaptation`; ``Settings`` in it is the class of its own
    settings, if it has any.

    Raises:
        UserError: If there is none; names the nearest ones.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if ":" in name:
        summary, rule, settings = own_row(name, "algo")
        return Algorithm(own_title(name), summary, rule, settings=settings if hints(settings) else None)
    raise UserError(
        f"unknown algorithm {name!r}.{nearest(name, ALGORITHMS)} There are: {', '.join(sorted(ALGORITHMS))}; a rule of "
        "your own is given as package.module:Rule."
    )


def run_title(config: Mapping[str, Any]) -> str:
    """What plots and tables call a run: its algorithm, and L2F if that is on top of it.

    Args:
        config: The run's settings, as in its config.json.
    """
    name, attenuated = config["algo"], bool(config.get("attenuate"))
    algorithm = ALGORITHMS.get(name)
    if algorithm is None:
        return own_title(str(name)) + (" + L2F" if attenuated else "")
    if attenuated and not algorithm.attenuated:
        own = [other.title for other in ALGORITHMS.values() if other.attenuated and other.rule == algorithm.rule]
        return own[0] if own else f"{algorithm.title} + L2F"
    return algorithm.title
