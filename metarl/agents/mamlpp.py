"""MAML++ (Antoniou et al. 2019)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from metarl.config.algorithms import MAMLppConfig
from metarl.config.settings import InnerSettings
from metarl.inner.rule import Adaptation, Stage, StageKind
from metarl.inner.support import Support
from metarl.policies.base import DifferentiablePolicy


class MAMLpp(Adaptation):
    """MAML with learned step sizes for each layer and inner step, a multi-step loss and derivative-order annealing.

    Meta-parameters are (theta, alpha [step, tensor]); a weight and its bias are two tensors. Alpha starts at the inner
    step size. Steps beyond the trained number reuse the step sizes of the last trained step.

    Multi-step loss: the policies after all K inner steps enter the meta-objective. They start with equal weights 1 / K.
    During the first E meta-iterations (``multi_step_iterations``) the weights of all but the last fall linearly, by
    1 / (K E) each time, but not below ``early_weight_floor`` / K. From meta-iteration E on the last policy counts
    alone: the authors' code, too, drops the early losses there, floor or not. The floor therefore acts only from
    meta-iteration E (1 - floor) on: with 0.03, in the last 3 % of the annealing, and never if E is 33 or less. Every
    early policy needs query rollouts of its own, which cost environment steps.

    Derivative-order annealing: the first meta-iterations treat inner gradients as constants.

    With alpha fixed at its initial value, and without both kinds of early iterations, this is MAML.

    Args:
        policy: The policy to adapt.
        inner: The inner loop's settings.
        options: Settings of MAML++.

    Source: Antoniou et al. 2019, section 4; the floor is the authors' code's alone. Batch normalisation and cosine
    annealing do not apply here.
    """

    policy: DifferentiablePolicy

    def __init__(self, policy: DifferentiablePolicy, inner: InnerSettings, options: MAMLppConfig) -> None:
        self._shape = inner.num_inner_steps, len(policy.layout.names)
        super().__init__(policy, policy.layout.size + self._shape[0] * self._shape[1])
        self._inner, self._options, self._index = inner, options, policy.layout.tensor_index()

    def initial(self, generator: np.random.Generator) -> Tensor:
        step_sizes = torch.full((self._shape[0] * self._shape[1],), self._inner.inner_lr)
        return torch.cat([self.policy.initial(generator), step_sizes])

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        if not self._shape[0]:
            # Trained without an inner loop: there are no step sizes to reuse.
            return [Stage(lambda meta, parameters, support: parameters, kind=StageKind.STEP) for _ in step_scales]
        first_order = iteration is not None and iteration < self._options.first_order_iterations
        steps = [self._step(min(k, self._shape[0] - 1), scale, first_order) for k, scale in enumerate(step_scales)]
        weight = self._early_weight(len(steps), iteration)
        return [*(replace(step, query_weight=weight) for step in steps[:-1]), *steps[-1:]]

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        """All learned step sizes."""
        names = [f"step_size_{k + 1}/{name}" for k in range(self._shape[0]) for name in self.policy.layout.names]
        return dict(zip(names, meta[self.policy.layout.size :].tolist(), strict=True))

    def _early_weight(self, num_steps: int, iteration: int | None) -> float:
        """Weight in the meta-objective of every policy before the last."""
        annealed = self._options.multi_step_iterations
        if iteration is None or iteration >= annealed:
            return 0.0
        return max(1 - iteration / annealed, self._options.early_weight_floor) / num_steps

    def _step(self, number: int, scale: float, first_order: bool) -> Stage:
        def update(meta: Tensor, parameters: Tensor, support: Support) -> Tensor:
            alpha = meta[self.policy.layout.size :].view(self._shape)[number]
            step_sizes = scale * alpha[self._index.to(meta.device)]
            gradient = support.gradient(parameters)
            return parameters - step_sizes * (gradient.detach() if first_order else gradient)

        return Stage(update)
