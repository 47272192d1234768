"""What a policy is made from: enough to make it again without the run that trained it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metarl.common.importing import import_named
from metarl.config.algorithms import ALGORITHMS, get_algorithm
from metarl.config.checked import Checked
from metarl.config.settings import PolicySettings
from metarl.policies.base import Policy
from metarl.policies.distributions import DifferentiableDistribution
from metarl.policies.mlp import MLPPolicy
from metarl.policies.module import ModulePolicy


@dataclass(frozen=True)
class Blueprint:
    """What a policy is made from, beside its spaces.

    Attributes:
        network: The network and its exploration.
        input_shape: Shape of an observation or input before it is flattened.
        algo: The algorithm, if it has a policy of its own: that of an agent with memory.
        options: The settings of that algorithm.
    """

    network: PolicySettings
    input_shape: tuple[int, ...]
    algo: str | None = None
    options: Checked | None = None

    def make(self, observation_size: int, distribution: DifferentiableDistribution) -> Policy:
        """The policy.

        Args:
            observation_size: Numbers in an observation or input.
            distribution: Distribution of the actions or targets.

        Raises:
            UserError: If the policy's body is not supported.
        """
        network = self.network
        if self.algo is not None:
            kind = import_named(str(get_algorithm(self.algo).policy), "policy")
            policy: Policy = kind(observation_size, distribution, self.options, network)
            return policy
        if network.policy_body is not None:
            make_body = import_named(network.policy_body, "policy_body")
            stds = network.initial_std, network.min_std
            return ModulePolicy(observation_size, distribution, make_body, *stds, self.input_shape)
        return MLPPolicy(
            observation_size,
            distribution,
            network.hidden_sizes,
            network.activation,
            network.initial_std,
            network.min_std,
            network.output_gain,
        )

    def to_json(self) -> dict[str, Any]:
        """The blueprint as JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Blueprint:
        """The blueprint that `to_json` describes.

        Raises:
            UserError: If a setting is impossible.
            KeyError, TypeError, ValueError: If the values are not those of a blueprint.
        """
        algo, options = values["algo"], None
        if algo is not None:
            # A file's word: a name of other code must not be imported.
            algorithm = ALGORITHMS.get(algo)
            if algorithm is None or algorithm.settings is None or not algorithm.remembers:
                raise ValueError(f"{algo} is no algorithm with a memory")
            options = algorithm.settings(**values["options"])
        shape = tuple(int(size) for size in values["input_shape"])
        return Blueprint(PolicySettings(**values["network"]), shape, algo, options)
