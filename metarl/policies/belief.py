"""Policies that act on a belief about their task."""

from __future__ import annotations

from torch import Tensor

from metarl.config.algorithms import VariBADConfig
from metarl.config.settings import PolicySettings
from metarl.policies.distributions import DifferentiableDistribution
from metarl.policies.memory import Network
from metarl.policies.perceptron import Perceptron
from metarl.policies.recurrent import RecurrentPolicy


class BeliefPolicy(RecurrentPolicy):
    """A linear layer maps the recurrent layer's state to a normal distribution of a latent variable: the task.

    Policy and critic see the distribution's mean and log-variance in place of the state. No gradient flows through
    them, so reinforcement learning does not change the belief.

    Args:
        observation_size: Length of an observation.
        distribution: The action distribution.
        options: The recurrent layer and the latent variable.
        network: The layers between belief and outputs, and between belief and value, and the exploration.

    Source: Zintgraf et al. 2020, section 3.
    """

    options: VariBADConfig

    def __init__(
        self,
        observation_size: int,
        distribution: DifferentiableDistribution,
        options: VariBADConfig,
        network: PolicySettings,
    ) -> None:
        self._belief = Perceptron("belief", [options.units, 2 * options.latent_size], network.activation)
        super().__init__(observation_size, distribution, options, network, self._belief)

    def belief(self, network: Network, states: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent variable, [..., latent] each, at states [..., unit]."""
        mean, log_variance = self._beliefs(network, states).chunk(2, dim=-1)
        return mean, log_variance

    def summary(self, network: Network, states: Tensor) -> Tensor:
        return self._beliefs(network, states).detach()

    def _beliefs(self, network: Network, states: Tensor) -> Tensor:
        return self._belief(network[self._num_recurrent : self._num_memory], states)
