"""Standing still: the zero action for every task."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
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
    """A policy whose action is 0 in the environment's units, with the least noise that its floor allows.

    It never adapts.

    Args:
        policy: The policy.
        inner: Not used: there is no inner loop.
        zero_outputs: The policy's outputs that stand for the zero action, [action]; None if there is no such action.

    Raises:
        UserError: If there is no zero action, or if the policy is not a multilayer perceptron, whose outputs are its
            last biases if all its weights are 0.
    """

    def __init__(
        self, policy: DifferentiablePolicy, inner: InnerSettings, zero_outputs: NDArray[np.float64] | None
    ) -> None:
        if not isinstance(policy.distribution, Gaussian):
            raise UserError("standstill needs continuous actions; among discrete ones none stands for doing nothing.")
        if not isinstance(policy, MLPPolicy):
            raise UserError("standstill needs the built-in network: leave out policy_body.")
        if zero_outputs is None:
            raise UserError("standstill is the zero action, and the action space of this task family does not hold it.")
        super().__init__(policy, policy.layout.size)
        self._zero_outputs = torch.from_numpy(zero_outputs)

    @property
    def adapted(self) -> Sequence[str]:
        return []

    def initial(self, generator: np.random.Generator) -> Tensor:
        meta = torch.zeros(self.num_meta)
        *_, last_bias, log_std = self.policy.layout.views(meta)
        last_bias[:], log_std[:] = self._zero_outputs, _NO_EXPLORATION
        return meta

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        return [Stage(lambda meta, parameters, support: parameters, kind=StageKind.STEP) for _ in step_scales]
