"""Adaptation of a context vector alone (Finn et al. 2017, appendix C.2), and CAVIA (Zintgraf et al. 2019)."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from metarl.common.errors import UserError
from metarl.config.algorithms import CAVIAConfig, ContextConfig
from metarl.config.settings import InnerSettings
from metarl.inner.rule import Adaptation, Stage
from metarl.inner.support import Support
from metarl.policies.base import DifferentiablePolicy
from metarl.policies.mlp import MLPPolicy


class ContextAdaptation(Adaptation):
    """A vector z is appended to every observation, and the inner loop adapts z alone.

    The first layer computes W x + C z + b, so z only shifts its bias. A gradient step z' = z - lr * C^T dL/db is
    therefore the step b' = b - lr * C C^T dL/db on the bias of a network without z. So z is not stored: its initial
    value is part of b. Meta-parameters are (theta, C [first hidden layer, context]).

    If C C^T is the identity, this is MAML that adapts the first bias alone.

    Args:
        policy: The policy to adapt.
        inner: The inner loop's settings.
        options: Settings of the context vector.

    Raises:
        UserError: If the policy is not a multilayer perceptron.

    Source: Finn et al. 2017, appendix C.2 (after Rei 2015).
    """

    policy: DifferentiablePolicy

    def __init__(self, policy: DifferentiablePolicy, inner: InnerSettings, options: ContextConfig) -> None:
        if not isinstance(policy, MLPPolicy):
            raise UserError("a context vector needs the built-in network, and no policy_body.")
        self._width = policy.layout.shapes[0][0]
        super().__init__(policy, policy.layout.size + self._width * options.context_size)
        self._inner, self._size = inner, options.context_size
        start = policy.layout.sizes[0]
        self._bias = slice(start, start + self._width)

    @property
    def adapted(self) -> Sequence[str]:
        return ["bias1"]

    def initial(self, generator: np.random.Generator) -> Tensor:
        size = self._size
        # Glorot's limit of a first layer that reads observation and context together.
        limit = math.sqrt(6 / (self.policy.observation_size + size + self._width))
        weights = generator.uniform(-limit, limit, self._width * size).astype(np.float32)
        return torch.cat([self.policy.initial(generator), torch.from_numpy(weights)])

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        return [self._step(scale * self._inner.inner_lr) for scale in step_scales]

    def _step(self, step_size: float) -> Stage:
        def update(meta: Tensor, parameters: Tensor, support: Support) -> Tensor:
            weights = meta[self.policy.layout.size :].view(self._width, -1)
            gradient = support.gradient(parameters)[:, self._bias]
            step = step_size * (gradient @ weights) @ weights.T
            rest = parameters.shape[1] - self._bias.stop
            return parameters - torch.nn.functional.pad(step, (self._bias.start, rest))

        return Stage(update)


def cavia(policy: DifferentiablePolicy, inner: InnerSettings, options: CAVIAConfig) -> ContextAdaptation:
    """CAVIA: a context vector z that starts at zero for each task; gradient steps adapt it alone.

    It is `ContextAdaptation` with settings of its own: the step size of z, which is in other units than a step of the
    weights, and the length of z. That rule's z starts at a learned z_0 instead of zero. This changes nothing, however
    many steps there are. With z_k after k steps and b_k = b + C z_k, the network is that without z and with the bias
    b_k, and dL/dz = C^T dL/db, so

        b_0 = b + C z_0,    b_{k+1} = b + C (z_k - lr * C^T dL/db) = b_k - lr * C C^T dL/db    at the bias b_k.

    Here z_0 is zero and b_0 = b. A learned z_0 only shifts b_0, which b, itself learned, does as well. The gradients
    that a meta-optimiser sees would differ (those of C and z_0 are not separate from b's), the policies it can reach
    would not. `ContextAdaptation` stores no z_0 either, so both rules are one function of the meta-parameters.

    Args:
        policy: The policy to adapt.
        inner: The inner loop's settings, but for the step size.
        options: Settings of CAVIA.

    Raises:
        UserError: If the policy is not a multilayer perceptron.

    Source: Zintgraf et al. 2019, section 3.
    """
    return ContextAdaptation(policy, replace(inner, inner_lr=options.step_size), ContextConfig(options.context_size))
