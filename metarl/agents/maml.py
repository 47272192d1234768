"""MAML and first-order MAML (Finn et al. 2017)."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from metarl.adaptation import Adaptation, GradientStep, Stage
from metarl.policies import Policy
from metarl.settings import InnerConfig


class MAML(Adaptation):
    """Meta-parameters are the policy's initial parameters; every task takes policy-gradient steps from them.

    Args:
        step: The policy-gradient step.

    Source: Finn et al. 2017, algorithm 3.
    """

    def __init__(self, step: GradientStep) -> None:
        super().__init__(step.policy)
        self._step = step

    def initial(self, generator: np.random.Generator) -> Tensor:
        return self.policy.initial(generator)

    def start(self, meta: Tensor, num_tasks: int) -> Tensor:
        return meta.expand(num_tasks, -1)

    def stages(self, step_scales: Sequence[float]) -> list[Stage]:
        return [self._step.stage(scale) for scale in step_scales]


def maml(policy: Policy, inner: InnerConfig) -> MAML:
    """MAML with exact second-order meta-gradients."""
    return MAML(GradientStep(policy, inner.lr, inner.loss))


def fomaml(policy: Policy, inner: InnerConfig) -> MAML:
    """First-order MAML: inner gradients are constants in the meta-gradient (Finn et al. 2017, section 5.2)."""
    return MAML(GradientStep(policy, inner.lr, inner.loss, first_order=True))
