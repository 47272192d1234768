"""Multi-MAML: a MAML for each mode of the task distribution (Vuorio et al. 2019)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metarl.agents.maml import MAML
from metarl.common.errors import UserError
from metarl.config.settings import InnerSettings
from metarl.inner.rule import Adaptation, Stage
from metarl.policies.base import DifferentiablePolicy


class MultiMAML(Adaptation):
    """One MAML per mode, with the true mode of every task as input: the reference for methods that must infer it.

    Meta-parameters are one initial policy per mode, in order of the modes. With one mode this would be MAML.

    Args:
        policy: The policy to adapt.
        inner: The inner loop's settings.
        num_modes: Modes of the task distribution.

    Raises:
        UserError: If the task distribution has one mode, or if a task's mode is unknown.

    Source: Vuorio et al. 2019, section 5.1.
    """

    def __init__(self, policy: DifferentiablePolicy, inner: InnerSettings, num_modes: int) -> None:
        if num_modes < 2:
            raise UserError(
                "multi-maml needs a task family with several modes, such as navigation-bimodal; this one has one mode. "
                "Use maml for it."
            )
        super().__init__(policy, num_modes * policy.layout.size)
        self._maml, self._num_modes = MAML(policy, inner), num_modes

    def initial(self, generator: np.random.Generator) -> Tensor:
        return torch.cat([self._maml.initial(generator) for _ in range(self._num_modes)])

    def initialisation(self, modes: Tensor) -> Tensor:
        if bool(((modes < 0) | (modes >= self._num_modes)).any()):
            raise UserError(
                f"multi-maml must be told each task's mode, 0 to {self._num_modes - 1}: by the task family, or as in "
                "adapt(env, mode=0)."
            )
        return torch.arange(self.num_meta).view(self._num_modes, -1)[modes]

    def start(self, meta: Tensor, modes: Tensor) -> Tensor:
        return meta[self.initialisation(modes).to(meta.device)]

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        return self._maml.stages(step_scales)
