"""Policies that act on a sample from the posterior of their task, which the transitions so far make sharper."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from metarl.common.errors import UserError
from metarl.config.algorithms import PEARLConfig
from metarl.config.settings import PolicySettings
from metarl.policies.distributions import LARGEST_LOG_STD, Distribution, Gaussian, SquashedGaussian
from metarl.policies.memory import MemoryPolicy, Network, Trials
from metarl.policies.normaliser import Normaliser
from metarl.policies.perceptron import Perceptron

# Least variance of a factor, as in the released code.
_LEAST_VARIANCE = 1e-7


class PosteriorPolicy(MemoryPolicy):
    """The posterior of a latent variable z, which stands for the task, is a product of normal distributions.

    One factor is the prior, N(0, 1). An encoder makes the others, one of each transition c = (observation, action,
    normalised reward):

        q(z | c_1 ... c_n) ~ N(z; 0, 1) product_k N(z; mean(c_k), diag variance(c_k)).

    Their order does not matter, so the memory holds sums alone: of the precisions 1 / variance(c_k), and of the means
    times them. It also holds z, which is drawn from the posterior when an episode begins, and the latest observation.
    The policy is a perceptron that sees the observation and z.

    Args:
        observation_size: Length of an observation.
        distribution: The action distribution of the action space; the policy's own is a `SquashedGaussian`.
        options: The latent variable.
        settings: The layers of encoder and policy, and the exploration.

    Attributes:
        options: As given.
        settings: As given.

    Raises:
        UserError: If actions are choices.

    Source: Rakelly et al. 2019, section 4.1; the released code leaves the prior out of the product.
    """

    distribution: SquashedGaussian
    acts_by_mode = True  # Samples of z explore.

    def __init__(
        self, observation_size: int, distribution: Distribution, options: PEARLConfig, settings: PolicySettings
    ) -> None:
        if not isinstance(distribution, Gaussian):
            raise UserError("pearl needs actions that are numbers, and here they are choices; take rl2 or varibad.")
        if math.log(settings.initial_std) >= LARGEST_LOG_STD:
            raise UserError(
                f"initial_std must be less than {math.exp(LARGEST_LOG_STD):.2f} with pearl, got "
                f"{settings.initial_std:g}: at this limit of the standard deviation it has no gradient."
            )
        actions, latent = distribution.num_outputs, options.latent_size
        hidden, activation = settings.hidden_sizes, settings.activation
        inputs = observation_size + actions + 1
        self._encoder = Perceptron("encoder", [inputs, *hidden, 2 * latent], activation)
        sizes = [observation_size + latent, *hidden, 2 * actions]
        self._policy = Perceptron("policy", sizes, activation, settings.output_gain)
        memory = [(name, (latent,)) for name in ("precision", "weighted_mean", "latent")]
        super().__init__(
            observation_size,
            SquashedGaussian(actions, math.log(settings.min_std)),
            [*memory, ("observation", (observation_size,))],
            [*self._encoder.shapes, *self._policy.shapes],
        )
        self.options, self.settings, self.num_draws = options, settings, latent

    def initial(self, generator: np.random.Generator) -> Tensor:
        """Fresh weights, float32 [weight]: Glorot-uniform, with the initial standard deviation as a bias."""
        parts = [*self._encoder.initial(generator), *self._policy.initial(generator)]
        parts[-1][len(parts[-1]) // 2 :] = math.log(self.settings.initial_std)
        return torch.from_numpy(np.concatenate([part.ravel() for part in parts]).astype(np.float32))

    def started(self, memory: Tensor, draws: Tensor) -> Tensor:
        """Draws z from the posterior, for one episode."""
        precision, weighted, _, observation = self._split(memory)
        mean, variance = posterior(precision, weighted)
        return torch.cat([precision, weighted, mean + draws * variance.sqrt(), observation], dim=1)

    def act(self, network: Network, memory: Tensor, observations: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        *known, latent, _ = self._split(memory)
        return self.outputs(network, latent, observations), torch.cat([*known, latent, observations], dim=1)

    def received(
        self, network: Network, rewards: Normaliser, memory: Tensor, actions: Tensor, received: Tensor
    ) -> Tensor:
        *known, latent, observation = self._split(memory)
        factors = self.factors(network, rewards, observation, actions, received)
        sums = (total + factor for total, factor in zip(known, factors, strict=True))
        return torch.cat([*sums, latent, observation], dim=1)

    def read(self, network: Network, rewards: Normaliser, memory: Tensor, trials: Trials) -> Tensor:
        *known, latent, _ = self._split(memory)
        factors = self.factors(network, rewards, trials.observations, trials.actions, trials.rewards)
        sums = (total + (factor * trials.mask[..., None]).sum(1) for total, factor in zip(known, factors, strict=True))
        last = trials.mask.sum(1).long() - 1
        observation = trials.observations[torch.arange(len(last), device=last.device), last]
        return torch.cat([*sums, latent, observation], dim=1)

    def states(self, network: Network, rewards: Normaliser, memory: Tensor, trials: Trials) -> Tensor:
        """The posterior's mean, see `MemoryPolicy.states`; that of a step has read its action and reward, too."""
        precision, weighted, *_ = self._split(memory)
        precisions, means = self.factors(network, rewards, trials.observations, trials.actions, trials.rewards)
        return posterior(precision[:, None] + precisions.cumsum(1), weighted[:, None] + means.cumsum(1))[0]

    def outputs(self, network: Network, latents: Tensor, observations: Tensor) -> Tensor:
        """The outputs, [..., output], at latent variables [..., latent] and observations [..., observation]."""
        return self._policy(network[len(self._encoder.shapes) :], torch.cat([observations, latents], dim=-1))

    def factors(
        self, network: Network, rewards: Normaliser, observations: Tensor, actions: Tensor, received: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Precision, and mean times precision, of the factor of each transition, [..., latent] each.

        Args:
            network: The network.
            rewards: Normalises the rewards.
            observations: [..., observation].
            actions: [..., action].
            received: Rewards, [...].
        """
        transitions = torch.cat([observations, actions, rewards(received[..., None])], dim=-1)
        mean, spread = self._encoder(network[: len(self._encoder.shapes)], transitions).chunk(2, dim=-1)
        precision = 1 / softplus(spread).clamp(min=_LEAST_VARIANCE)
        return precision, mean * precision

    def _split(self, memory: Tensor) -> tuple[Tensor, ...]:
        """Sum of the precisions, sum of the means times them, z, and observation, [row, ...] each."""
        return memory.split(self.layout.sizes, dim=1)


def posterior(precision: Tensor, weighted_mean: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of N(0, 1) times normal distributions.

    Args:
        precision: Sum of their precisions, [..., entry].
        weighted_mean: Sum of their means times their precisions, [..., entry].
    """
    variance = 1 / (1 + precision)
    return weighted_mean * variance, variance
