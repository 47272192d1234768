"""Standing still: the zero action for every task."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metarl.common.errors import UserError
from metarl.config.settings import InnerSettings
from metarl.inner.rule import Adaptation, Stage, StageKind
from metarl.policies.base import DifferentiablePolicy
from metarl.policies.distributions import Gaussian
from metarl.policies.mlp import MLPPolicy

# A log-std far below any floor of the standard deviation.
_NO_EXPLORATION = -100.0


class Standstill(Adaptation):
    """A policy that outputs 0 in its own units, with the least noise that its floor allows; it never adapts.

    In the environment's units, 0 is the centre of the action space, which usually means doing nothing.

    Args:
        policy: The policy.
        inner: Not used: there is no inner loop.

    Raises:
        UserError: If actions are discrete, or if the policy is not a multilayer perceptron, whose output is 0 if all
            its parameters are 0.
    """

    def __init__(self, policy: DifferentiablePolicy, inner: InnerSettings) -> None:
        if not isinstance(policy.distribution, Gaussian):
            raise UserError("standstill needs continuous actions; among discrete ones none stands for doing nothing.")
        if not isinstance(policy, MLPPolicy):
            raise UserError("standstill needs the built-in network: leave out policy_body.")
        super().__init__(policy, policy.layout.size)

    @property
    def adapted(self) -> Sequence[str]:
        return []

    def initial(self, generator: np.random.Generator) -> Tensor:
        meta = torch.zeros(self.num_meta)
        meta[-self.policy.distribution.num_extra :] = _NO_EXPLORATION
        return meta

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        return [Stage(lambda meta, parameters, support: parameters, kind=StageKind.STEP) for _ in step_scales]
