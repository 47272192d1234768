"""Meta-SGD (Li et al. 2017)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metarl.config.settings import InnerSettings
from metarl.inner.rule import Adaptation, Stage
from metarl.inner.support import Support
from metarl.policies.base import DifferentiablePolicy


class MetaSGD(Adaptation):
    """MAML with a learned step size alpha for each parameter: theta'_i = theta - alpha * grad L_i(theta).

    Meta-parameters are (theta, alpha); alpha starts at the inner step size and may become negative. With alpha fixed
    at its initial value, this is MAML.

    Args:
        policy: The policy to adapt.
        inner: The inner loop's settings.

    Source: Li et al. 2017, equation 5.
    """

    policy: DifferentiablePolicy

    def __init__(self, policy: DifferentiablePolicy, inner: InnerSettings) -> None:
        super().__init__(policy, 2 * policy.layout.size)
        self._inner = inner

    def initial(self, generator: np.random.Generator) -> Tensor:
        theta = self.policy.initial(generator)
        return torch.cat([theta, torch.full_like(theta, self._inner.inner_lr)])

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        return [self._step(scale) for scale in step_scales]

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        """Mean step size of each tensor."""
        step_sizes = self.policy.layout.views(meta[None, self.policy.layout.size :])
        return {
            f"step_size/{name}": float(values.mean())
            for name, values in zip(self.policy.layout.names, step_sizes, strict=True)
        }

    def _step(self, scale: float) -> Stage:
        def update(meta: Tensor, parameters: Tensor, support: Support) -> Tensor:
            step_sizes = scale * meta[self.policy.layout.size :]
            return parameters - step_sizes * support.gradient(parameters)

        return Stage(update)
