"""Settings that are handed over whole; field comments become the command line's help."""

from dataclasses import dataclass, field
from typing import Literal


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
    """Share of the query steps whose Fisher information enters a product (1: all, exact)."""
    hessian_fraction: float = 1.0
    """Share of the support steps whose inner-loss Hessian enters a Fisher-vector product (1: all, exact)."""


@dataclass(frozen=True)
class L2FConfig:
    """Learn-to-Forget: attenuation of the initialisation before the inner loop (Baik et al. 2020)."""

    attenuation_rollouts: Literal["reuse", "fresh"] = "reuse"
    """First inner step: reuse the unattenuated policy's rollouts (as published) or collect fresh, extra ones."""
    normalise_embedding: bool = False
    """Standardise each layer's mean gradient by running statistics before the attenuator sees it."""
    initial_gamma: float = 0.5
    """Attenuation factor that training starts near; 0.5 is the published sigmoid(0)."""
    attenuate_log_std: bool = False
    """Attenuate the log standard deviation too (which pulls the deviation towards 1)."""


@dataclass(frozen=True)
class InnerConfig:
    """The inner loop, shared by every adaptation rule."""

    lr: float = 0.1
    """Step size of an inner policy-gradient step."""
    loss: Literal["ratio", "score"] = "ratio"
    """Inner loss: likelihood ratio (LVC) or the plain score function."""
    l2f: L2FConfig = field(default_factory=L2FConfig)
    """Learn-to-Forget."""
