"""MAML and first-order MAML (Finn et al. 2017)."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from metarl.config.settings import InnerSettings
from metarl.inner.rule import Adaptation, Stage
from metarl.inner.support import Support
from metarl.policies.base import DifferentiablePolicy


class MAML(Adaptation):
    """Meta-parameters are the initial policy; every task takes policy-gradient steps from it.

    Args:
        policy: The policy to adapt.
        inner: The inner loop's settings.
        first_order: Treat inner gradients as constants in the meta-gradient.

    Source: Finn et al. 2017, algorithm 3.
    """

    policy: DifferentiablePolicy

    def __init__(self, policy: DifferentiablePolicy, inner: InnerSettings, first_order: bool = False) -> None:
        super().__init__(policy, policy.layout.size)
        self._inner, self._first_order, self.exact = inner, first_order, not first_order

    def initial(self, generator: np.random.Generator) -> Tensor:
        return self.policy.initial(generator)

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        return [self._step(scale * self._inner.inner_lr) for scale in step_scales]

    def _step(self, step_size: float) -> Stage:
        def update(meta: Tensor, parameters: Tensor, support: Support) -> Tensor:
            gradient = support.gradient(parameters)
            return parameters - step_size * (gradient.detach() if self._first_order else gradient)

        return Stage(update)


def fomaml(policy: DifferentiablePolicy, inner: InnerSettings) -> MAML:
    """First-order MAML: inner gradients are constants in the meta-gradient (Finn et al. 2017, section 5.2)."""
    return MAML(policy, inner, first_order=True)
