"""PEARL: an agent that acts on samples from the posterior of its task (Rakelly et al. 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.inner.memory import MemoryRule
from metarl.policies.distributions import normal_kl
from metarl.policies.layout import Layout
from metarl.policies.memory import Network
from metarl.policies.perceptron import Perceptron
from metarl.policies.posterior import PosteriorPolicy, posterior


@dataclass(frozen=True)
class Transitions:
    """Steps of several trials, in any order.

    Attributes:
        observations: [trial, row, observation].
        actions: [trial, row, action].
        rewards: As received, [trial, row].
        next_observations: Observations after the steps, [trial, row, observation].
        terminated: 1 where the environment ended in a terminal state, [trial, row].
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminated: Tensor


@dataclass(frozen=True)
class Noise:
    """Standard normal numbers for one estimate of the losses.

    Attributes:
        latents: [trial, latent].
        actions: For the actions that the policy would take now, [trial, row, action].
        next_actions: For those that it would take next, [trial, row, action].
    """

    latents: Tensor
    actions: Tensor
    next_actions: Tensor


class PEARL(MemoryRule):
    """The memory holds the posterior of a latent variable; policy and two critics learn off policy to act on it.

    Meta-parameters are the policy's weights, the critics', the logarithm of the temperature, and the statistics of the
    rewards.

    Args:
        policy: The policy.

    Attributes:
        critics: Where the critics' weights are among the meta-parameters.

    Source: Rakelly et al. 2019.
    """

    policy: PosteriorPolicy

    def __init__(self, policy: PosteriorPolicy) -> None:
        self.options, settings = policy.options, policy.settings
        self._num_actions = policy.distribution.num_outputs // 2
        inputs = policy.observation_size + self._num_actions + self.options.latent_size
        sizes = [inputs, *settings.hidden_sizes, 1]
        self._critics = [Perceptron(f"critic{number}", sizes, settings.activation) for number in (1, 2)]
        self._layout = Layout([shape for critic in self._critics for shape in critic.shapes])
        start = policy.weights.size
        self.critics = slice(start, start + self._layout.size)
        super().__init__(policy, self.critics.stop + 1)

    def initial_weights(self, generator: np.random.Generator) -> Tensor:
        parts = [part.ravel() for critic in self._critics for part in critic.initial(generator)]
        temperature = [math.log(self.options.initial_temperature)]
        fresh = torch.from_numpy(np.concatenate([*parts, temperature]).astype(np.float32))
        return torch.cat([super().initial_weights(generator), fresh])

    def noise(self, like: Transitions, generator: torch.Generator) -> Noise:
        """Fresh noise for the losses on some transitions."""

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(like.rewards)

        trials, rows = like.rewards.shape
        actions = trials, rows, self._num_actions
        return Noise(drawn(trials, self.options.latent_size), drawn(*actions), drawn(*actions))

    def loss(
        self,
        meta: Tensor,
        targets: Tensor,
        discount: float,
        context: Transitions,
        weight: Tensor,
        batch: Transitions,
        noise: Noise,
    ) -> tuple[Tensor, Tensor]:
        """The sum of all losses of soft actor-critic, each of which moves its own part of the meta-parameters.

        With z from the posterior after ``context``, temperature t, critics Q1 and Q2, rewards r in the rule's units
        (`rewards`), and a' and a'' from the policy at the observations o and, afterwards, o':

            critics and encoder  1/2 sum_i mean (Q_i(o, a, z) - y)^2  +  KL_WEIGHT * KL(q(z) || N(0, 1)),
                                 y = r + discount * (1 - terminated) * (min_i target_i(o', a'', z) - t log pi(a''))
            policy               mean (t log pi(a') - min_i Q_i(o, a', z))
            temperature          - log t * mean (log pi(a') + target entropy)

        The target entropy is minus the number of actions. z is a constant to the policy, and to y.

        Args:
            meta: Meta-parameters, [meta parameter]; the result is differentiable with respect to them.
            targets: The weights of the target critics, [weight].
            discount: Discount of one step.
            context: Transitions that the posterior is inferred from.
            weight: What each of them counts, see `posterior`.
            batch: Other transitions of the same trials.
            noise: Gives samples.

        Returns:
            The loss; and the critics' loss, the divergence in nats, the policy's entropy in nats, and the temperature,
            [4].

        Source: Rakelly et al. 2019, algorithm 1; Haarnoja et al. 2018, sections 4 to 6.
        """
        policy, network, rewards = self.policy, self.network(meta), self.rewards(meta)
        mean, variance = self.posterior(meta, context, weight)
        divergence = normal_kl(mean, variance.log(), torch.zeros_like(mean), torch.zeros_like(mean)).mean()
        latents = (mean + noise.latents * variance.sqrt())[:, None].expand(-1, batch.rewards.shape[1], -1)
        known, critics = latents.detach(), self._layout.views(meta[None, self.critics])
        log_temperature = meta[self.critics.stop]
        temperature = log_temperature.detach().exp()
        with torch.no_grad():
            outputs = policy.outputs(network, known, batch.next_observations)
            actions, log_probs = policy.distribution.sample_with_log_prob(outputs, noise.next_actions)
            ahead = self.values(self._layout.views(targets[None]), known, batch.next_observations, actions).amin(0)
            soft = (1 - batch.terminated) * (ahead - temperature * log_probs)
            wanted = batch.rewards / rewards.std + discount * soft
        error = (self.values(critics, latents, batch.observations, batch.actions) - wanted) ** 2
        of_critics = error.mean((1, 2)).sum() / 2
        outputs = policy.outputs(network, known, batch.observations)
        actions, log_probs = policy.distribution.sample_with_log_prob(outputs, noise.actions)
        fixed = [tensor.detach() for tensor in critics]
        of_policy = (temperature * log_probs - self.values(fixed, known, batch.observations, actions).amin(0)).mean()
        entropy = -log_probs.detach().mean()
        of_temperature = log_temperature * (entropy + self._num_actions)
        loss = of_critics + self.options.kl_weight * divergence + of_policy + of_temperature
        return loss, torch.stack([of_critics, divergence, entropy, temperature]).detach()

    def posterior(self, meta: Tensor, context: Transitions, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the latent variable after some transitions, [trial, latent] each.

        Args:
            meta: Meta-parameters, [meta parameter].
            context: The transitions.
            weight: What each counts, [trial, 1]: 1/2 if each was drawn twice; 0 gives the prior.
        """
        observed = context.observations, context.actions, context.rewards
        factors = self.policy.factors(self.network(meta), self.rewards(meta), *observed)
        return posterior(*(weight * factor.sum(1) for factor in factors))

    def values(self, critics: Network, latents: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """What both critics say, [2, ...], of latent variables, observations and actions, [..., number] each.

        Args:
            critics: Their tensors, [1, ...] each.
            latents: The latent variables.
            observations: The observations.
            actions: The actions.
        """
        seen, tensors = torch.cat([observations, actions, latents], dim=-1), iter(critics)
        return torch.stack(
            [critic([next(tensors)[0] for _ in critic.shapes], seen)[..., 0] for critic in self._critics]
        )
