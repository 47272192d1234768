"""The meta-optimisers that ``--meta-optimiser`` names: one row each, with their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from metarl.common.errors import UserError, nearest
from metarl.config.checked import Checked, Count, Fraction, Natural, NotNegative, Positive, Range
from metarl.config.own import own_row, own_title


@dataclass(frozen=True)
class TRPOConfig(Checked):
    """Trust-region meta-optimiser (Schulman et al. 2015)."""

    prefix = "trpo."

    max_kl: Positive = 0.01
    """Trust region: largest mean KL divergence of the adapted policies, nats per step."""
    cg_iterations: Count = 10
    """Conjugate-gradient iterations."""
    cg_damping: NotNegative = 1e-5
    """Number added to the diagonal of the Fisher matrix."""
    backtrack_ratio: Annotated[float, Range(above=0, below=1)] = 0.8
    """Factor on the step length from one line-search trial to the next."""
    max_backtracks: Count = 15
    """Line-search trials before the step is rejected."""
    fisher_fraction: Fraction = 1.0
    """Fraction of the query steps, chosen at random, for products with the Fisher matrix (1: all, exact)."""
    hessian_fraction: Fraction = 1.0
    """Fraction of the support steps, those of largest |advantage|, for the inner loss's Hessian (1: all, exact)."""


@dataclass(frozen=True)
class ProMPConfig(Checked):
    """Proximal meta-policy search (Rothfuss et al. 2019): clipped surrogate, Adam, several epochs."""

    prefix = "promp."

    lr: Positive = 1e-3
    """Adam's step size."""
    epochs: Count = 5
    """Gradient steps on the same rollouts."""
    clip: Positive = 0.3
    """Likelihood ratios of the adapted policies are clipped to 1 +- this."""
    kl_penalty: NotNegative = 5e-4
    """Weight of the mean KL divergence of the policies that collected the support rollouts."""


@dataclass(frozen=True)
class AdamConfig(Checked):
    """Adam on the meta-gradient (Kingma & Ba 2015)."""

    prefix = "adam."

    lr: Positive = 1e-3
    """Adam's step size."""
    max_gradient_norm: Positive | None = 100.0
    """Longest meta-gradient; a longer one is scaled down to it. One gradient a million times longer than usual would
    leave Adam's steps tiny for about ten thousand iterations. None for no limit."""


@dataclass(frozen=True)
class PPOConfig(Checked):
    """Proximal policy optimisation over whole trials, for agents with memory (Schulman et al. 2017)."""

    prefix = "ppo."

    lr: Positive = 1.5e-3
    """Adam's step size."""
    epochs: Count = 4
    """Passes over the same trials."""
    minibatches: Count = 4
    """Parts of the tasks, at most as many as there are tasks; each takes one step of Adam in a pass."""
    clip: Positive = 0.2
    """Likelihood ratios are clipped to 1 +- this."""
    max_kl: Positive = 0.03
    """Mean KL divergence from the policy that collected the trials, in nats per step, at which the passes end."""
    value_weight: NotNegative = 0.5
    """Weight of the critic's squared error, in units of the standard deviation of its targets."""
    entropy_weight: NotNegative = 0.0
    """Weight of the policy's entropy, in nats per step."""
    max_gradient_norm: Positive = 1.0
    """Longer gradients are shortened to this norm."""
    anneal_updates: Natural = 0
    """Steps of Adam over which its step size falls linearly to 0; 0 for a constant step size."""


@dataclass(frozen=True)
class SACConfig(Checked):
    """Soft actor-critic from a buffer of trials, for PEARL (Haarnoja et al. 2018)."""

    prefix = "sac."

    lr: Positive = 1e-3
    """Adam's step size."""
    updates: Count = 700
    """Steps of Adam in a meta-iteration, except in the first, which only fills the buffer."""
    trials: Count = 8
    """Trials in such a step, drawn from the buffer."""
    transitions: Count = 32
    """Transitions of each of these trials."""
    polyak: Fraction = 0.01
    """Share of the way to the critics that the target critics go in each step."""
    buffer: Count = 400
    """Latest trials, from which those of a step are drawn. Every checkpoint holds them."""


@dataclass(frozen=True)
class MetaOptimiser:
    """A meta-optimiser that ``--meta-optimiser`` names.

    Attributes:
        title: Its name in tables.
        summary: Its description, in one sentence.
        optimiser: Its class, as package.module:name; a `metarl.outer.optimiser.Optimiser`, constructed with its
            settings.
        settings: Class of its settings.
        option: The configuration's field that holds them.
        step_size: The setting that makes its steps smaller; None if it is not known.
        algorithms: The agents with memory that it is for; empty if it is for the others. If not, its class takes the
            rollout settings too.
        unused: Fields of the configuration that it does not use, of those that every run has.
    """

    title: str
    summary: str
    optimiser: str
    settings: type[Checked]
    option: str = "optimiser"
    step_size: str | None = None
    algorithms: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


META_OPTIMISERS: dict[str, MetaOptimiser] = {
    "trpo": MetaOptimiser(
        "TRPO",
        "Natural gradient step inside a trust region, with a line search (Schulman et al. 2015).",
        "metarl.outer.trpo:TRPO",
        settings=TRPOConfig,
        option="trpo",
        step_size="trpo.max_kl",
    ),
    "promp": MetaOptimiser(
        "ProMP",
        "Clipped surrogate with Adam, several epochs (Rothfuss et al. 2019).",
        "metarl.outer.promp:ProMP",
        settings=ProMPConfig,
        option="promp",
        step_size="promp.lr",
    ),
    "adam": MetaOptimiser(
        "Adam",
        "One step of Adam on the meta-gradient, for supervised families (Finn et al. 2017, algorithm 2).",
        "metarl.outer.adam:Adam",
        settings=AdamConfig,
        option="adam",
        step_size="adam.lr",
    ),
    "ppo": MetaOptimiser(
        "PPO",
        "Clipped surrogate over whole trials, with a critic, for agents with memory (Schulman et al. 2017).",
        "metarl.outer.ppo:PPO",
        settings=PPOConfig,
        option="ppo",
        step_size="ppo.lr",
        algorithms=("rl2", "varibad"),
    ),
    "sac": MetaOptimiser(
        "SAC",
        "Soft actor-critic from a buffer of trials, for PEARL (Haarnoja et al. 2018).",
        "metarl.outer.sac:SAC",
        settings=SACConfig,
        option="sac",
        step_size="sac.lr",
        algorithms=("pearl",),
        unused=("gae_lambda",),
    ),
}


def get_meta_optimiser(name: str) -> MetaOptimiser:
    """Returns the meta-optimiser called ``name``, or a user's own given as package.module:Optimiser.

    A user's meta-optimiser is a `metarl.outer.optimiser.Optimiser`; its attribute ``Settings`` is the class of its own
    settings, if it has any.

    Raises:
        UserError: If there is no such meta-optimiser; the message suggests the nearest names.
    """
    if name in META_OPTIMISERS:
        return META_OPTIMISERS[name]
    if ":" in name:
        return MetaOptimiser(own_title(name), *own_row(name, "meta_optimiser"))
    raise UserError(
        f"meta_optimiser must be one of {', '.join(META_OPTIMISERS)}, or package.module:Optimiser for your own; got "
        f"{name!r}.{nearest(name, META_OPTIMISERS)}"
    )
