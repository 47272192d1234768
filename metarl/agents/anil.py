"""ANIL, almost no inner loop, and the adaptation of any other part of a policy (Raghu et al. 2020)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from metarl.agents.maml import MAML
from metarl.common.errors import UserError, nearest
from metarl.config.settings import InnerConfig
from metarl.data import Rollouts
from metarl.inner.loop import InnerLoop
from metarl.inner.rule import Adaptation, Stage
from metarl.policies.base import Policy


class PartialAdaptation(Adaptation):
    """Another rule whose gradient steps leave all but some of the policy's tensors where they are.

    With every tensor this is the rule itself; with none, the inner loop does nothing. The built-in network does not
    compute what only the other tensors' gradients need. The rule has to take its gradients with
    `metarl.inner.gradients.policy_gradient`.

    Args:
        rule: The rule.
        layers: Names of the tensors that gradient steps change, from the policy's ``layout.names``.

    Raises:
        UserError: If the policy has no tensor of that name.

    Source: Raghu et al. 2020, sections 3.2.1 (freezing at test time) and 4 (ANIL).
    """

    def __init__(self, rule: Adaptation, layers: Sequence[str]) -> None:
        super().__init__(rule.policy, rule.num_meta)
        layout = rule.policy.layout
        for name in layers:
            if name not in layout.names:
                raise UserError(
                    f"the policy has no tensor {name!r}.{nearest(name, layout.names)} There are: "
                    f"{', '.join(layout.names)}."
                )
        self._rule, self._layers, self.step_name = rule, layers, rule.step_name

    @property
    def adapted(self) -> Sequence[str]:
        return [name for name in self._rule.adapted if name in self._layers]

    def initial(self, generator: np.random.Generator) -> Tensor:
        return self._rule.initial(generator)

    def initialisation(self, modes: Tensor) -> Tensor:
        return self._rule.initialisation(modes)

    def start(self, meta: Tensor, modes: Tensor) -> Tensor:
        return self._rule.start(meta, modes)

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        return [self._restricted(stage) for stage in self._rule.stages(step_scales, iteration)]

    def observe(self, loop: InnerLoop) -> Tensor:
        return self._rule.observe(loop)

    @property
    def observed(self) -> Mapping[str, slice]:
        return self._rule.observed

    def attenuation(self, meta: Tensor, observed: Tensor) -> Tensor | None:
        return self._rule.attenuation(meta, observed)

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        return self._rule.describe(meta, observed)

    def after_meta_step(self, meta: Tensor, observed: Tensor) -> Tensor:
        return self._rule.after_meta_step(meta, observed)

    def _restricted(self, stage: Stage) -> Stage:
        if not stage.gradient_step:
            return stage

        def update(meta: Tensor, parameters: Tensor, support: Rollouts) -> Tensor:
            return stage.update(meta, parameters, support.adapting(self._layers))

        return replace(stage, update=update)


def frozen(policy: Policy, inner: InnerConfig) -> PartialAdaptation:
    """A policy that never adapts: gradient steps change none of its tensors."""
    return PartialAdaptation(MAML(policy, inner), ())


def anil(policy: Policy, inner: InnerConfig) -> PartialAdaptation:
    """MAML whose inner loop adapts ``inner.adapted_layers``, by default the last layer and the log-std."""
    return PartialAdaptation(MAML(policy, inner), inner.adapted_layers or policy.head)
