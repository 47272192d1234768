"""VariBAD: an agent that acts on a belief about its task (Zintgraf et al. 2020; Humplik et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from metarl.inner.memory import ActorCriticOutputs, RecurrentRule
from metarl.policies.belief import BeliefPolicy
from metarl.policies.distributions import normal_kl
from metarl.policies.layout import Layout
from metarl.policies.memory import Trials
from metarl.policies.perceptron import Perceptron


@dataclass(frozen=True)
class Draws:
    """Which parts of some trials the evidence lower bound is estimated from.

    Attributes:
        prefixes: Steps at which the belief is taken, integers, [trial, prefix].
        noise: Standard normal, gives samples of the latent variable, [trial, prefix, latent].
        steps: Steps that are decoded, integers, [trial, decoded step].
    """

    prefixes: Tensor
    noise: Tensor
    steps: Tensor


class VariBAD(RecurrentRule):
    """The memory holds a belief about the task, from which a decoder reconstructs what the trial tells of the task.

    Encoder and decoder learn by the evidence lower bound, policy and critic by reinforcement learning, to act on the
    belief. With the decoder of tasks, the belief is trained to know the task itself: the auxiliary loss of Humplik et
    al. 2019.

    Meta-parameters are the policy's weights, the decoders', and the statistics of the rewards.

    Args:
        policy: The policy.
        task_size: Length of a task, if the task is decoded.

    Source: Zintgraf et al. 2020, section 3.
    """

    policy: BeliefPolicy

    def __init__(self, policy: BeliefPolicy, task_size: int) -> None:
        self.options = options = policy.options
        observation, action = policy.observation_size, policy.distribution.num_outputs
        inputs = {"reward": 2 * observation + action, "state": observation + action, "task": 0}
        outputs = {"reward": 1, "state": observation, "task": task_size}
        self._decoders = {
            name: Perceptron(name, [options.latent_size + inputs[name], *options.decoder_sizes, outputs[name]], "relu")
            for name in options.decoder.split("-and-")
        }
        self._layout = Layout([shape for decoder in self._decoders.values() for shape in decoder.shapes])
        super().__init__(policy, policy.weights.size + self._layout.size)
        self.sees_tasks = "task" in self._decoders

    def initial_weights(self, generator: np.random.Generator) -> Tensor:
        parts = [part for decoder in self._decoders.values() for part in decoder.initial(generator)]
        decoders = torch.from_numpy(np.concatenate([part.ravel() for part in parts]).astype(np.float32))
        return torch.cat([super().initial_weights(generator), decoders])

    @torch.no_grad()
    def with_states(self, meta: Tensor, trials: Trials) -> Trials:
        return replace(trials, states=self.states(meta, trials))

    def forward(self, meta: Tensor, trials: Trials) -> ActorCriticOutputs:
        states = self.with_states(meta, trials).states if trials.states is None else trials.states
        assert states is not None
        return self.heads(meta, states, trials)

    def draws(self, generator: np.random.Generator, trials: Trials) -> Draws:
        """Draws prefixes and steps evenly among those that took place, and noise."""
        options, num_trials, lengths = self.options, len(trials.mask), trials.mask.double().sum(1, keepdim=True)

        def positions(count: int) -> Tensor:
            # In float64: a float32 rounds numbers below 1 up to 1, which is behind the last step.
            return (torch.from_numpy(generator.random((num_trials, count))).to(lengths) * lengths).long()

        prefixes = positions(options.prefixes)
        noise = torch.from_numpy(generator.standard_normal((num_trials, options.prefixes, options.latent_size)))
        return Draws(prefixes, noise.to(trials.rewards), positions(options.decoded_steps))

    def bound(self, meta: Tensor, trials: Trials, tasks: Tensor | None, draws: Draws) -> tuple[Tensor, Tensor]:
        """Minus the evidence lower bound at the prefixes, with the parts of it.

        After t steps, with the belief q_t over the latent variable m, it is

            1/2 E_{m ~ q_t} mean_s |y_s - decoder(m, x_s)|^2  +  KL_WEIGHT * KL(q_t || q_{t-1}),

        where q_{-1} is standard normal, and s runs through all steps of the trial, those before and those after t; the
        mean over s is estimated from the decoded steps. Per step, y is the reward, x observation, action and next
        observation. A decoder of states adds such a term in which y is the next observation, with the mean of its
        squares, and x observation and action. A decoder of tasks has y = task, once.

        With a sum over s this would be the bound of decoders with a standard deviation of 1: here, a KL_WEIGHT of 1 /
        length of the trial.

        Args:
            meta: Meta-parameters, [meta parameter]; the result is differentiable with respect to them.
            trials: The trials.
            tasks: Standardised, [trial, number]; needed if the task is decoded.
            draws: What the estimate is of.

        Returns:
            The mean over prefixes, [trial]; and [trial, 2]: mean squared error of a decoded number, and the divergence
            summed over the trial, in nats.

        Source: Zintgraf et al. 2020, equations 4 to 8.
        """
        latents, divergence = self._beliefs(meta, trials, draws)
        squares = self._squares(meta, trials, tasks, draws.steps, latents)
        errors = torch.stack([square.flatten(1).mean(1) for square in squares])
        report = torch.stack([errors.mean(0), divergence * trials.mask.sum(1)], dim=1)
        return errors.sum(0) / 2 + self.options.kl_weight * divergence, report.detach()

    def _beliefs(self, meta: Tensor, trials: Trials, draws: Draws) -> tuple[Tensor, Tensor]:
        """Samples of the latent variable [trial, prefix, latent], and the mean divergence at the prefixes [trial]."""
        mean, log_variance = self.policy.belief(self.network(meta), self.states(meta, trials))
        before = (torch.cat([torch.zeros_like(part[:, :1]), part[:, :-1]], dim=1) for part in (mean, log_variance))
        divergence = normal_kl(mean, log_variance, *before).gather(1, draws.prefixes)
        mean, log_variance = _at(draws.prefixes, mean), _at(draws.prefixes, log_variance)
        return mean + draws.noise * (log_variance / 2).exp(), divergence.mean(1)

    def _squares(
        self, meta: Tensor, trials: Trials, tasks: Tensor | None, steps: Tensor, latents: Tensor
    ) -> list[Tensor]:
        """Squared errors of each decoder, [trial, prefix, step, number]; of tasks, [trial, prefix, number]."""
        tensors = iter(self._layout.views(meta[self.policy.weights.size : self._num_weights]))
        squares = []
        for name, decoder in self._decoders.items():
            own = [next(tensors) for _ in decoder.shapes]
            if name == "task":
                assert tasks is not None
                squares.append((decoder(own, latents) - tasks[:, None]) ** 2)
                continue
            inputs, targets = self._decoded(name, meta, trials)
            inputs, targets = _at(steps, inputs)[:, None], _at(steps, targets)[:, None]
            pairs = latents.shape[1], steps.shape[1]
            seen = [latents[:, :, None].expand(-1, *pairs, -1), inputs.expand(-1, *pairs, -1)]
            squares.append((decoder(own, torch.cat(seen, dim=3)) - targets) ** 2)
        return squares

    def _decoded(self, name: str, meta: Tensor, trials: Trials) -> tuple[Tensor, Tensor]:
        """What a decoder sees beside the latent variable, and what it should say, [trial, step, number]."""
        assert trials.next_observations is not None
        actions = self.policy.distribution.features(trials.actions).to(trials.rewards)
        known = torch.cat([trials.observations, actions], dim=2)
        if name == "state":
            return known, trials.next_observations
        return torch.cat([known, trials.next_observations], dim=2), self.rewards(meta)(trials.rewards[..., None])


def _at(steps: Tensor, values: Tensor) -> Tensor:
    """The values [trial, step, entry] at some steps [trial, ...]."""
    return values.gather(1, steps[..., None].expand(-1, -1, values.shape[2]))
