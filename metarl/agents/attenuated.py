"""A rule that starts from an initialisation attenuated by hand (Baik et al. 2020, section 3.4)."""

from collections.abc import Collection

import torch
from torch import Tensor

from metarl.inner.rule import Adaptation, WrappedAdaptation


class Attenuated(WrappedAdaptation):
    """Another rule, started from gamma * theta in some of the policy's tensors, with the same gamma for every task.

    With gamma = 1, or with no tensors, this is the rule itself.

    Args:
        rule: The rule that starts from the attenuated initialisation.
        tensors: Names of the tensors to attenuate, from the policy's ``layout.names``.
        gamma: The factor.

    Source: Baik et al. 2020, equation 3 with a fixed gamma, figure 3b.
    """

    def __init__(self, rule: Adaptation, tensors: Collection[str], gamma: float) -> None:
        super().__init__(rule)
        self._factors = torch.where(rule.policy.layout.members(tensors), gamma, 1.0)

    def start(self, meta: Tensor, modes: Tensor) -> Tensor:
        """Task parameters before adaptation, attenuated."""
        parameters = self._rule.start(meta, modes)
        size = self.policy.layout.size
        attenuated = self._factors.to(parameters) * parameters[:, :size]
        return torch.cat([attenuated, parameters[:, size:]], dim=1)
