"""ANIL (almost no inner loop), and the adaptation of any other part of a policy (Raghu et al. 2020)."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from metarl.agents.maml import MAML
from metarl.common.errors import UserError, nearest
from metarl.config.algorithms import ANILConfig
from metarl.config.settings import InnerSettings
from metarl.inner.rule import Adaptation, Stage, StageKind, WrappedAdaptation
from metarl.inner.support import Support
from metarl.policies.base import DifferentiablePolicy


class PartialAdaptation(WrappedAdaptation):
    """Restricts the gradient steps of another rule to some of the policy's tensors.

    With every tensor this is the rule itself; with none, gradient steps change nothing.

    Args:
        rule: The rule.
        layers: Names of the tensors that gradient steps change, from the policy's ``layout.names``.

    Raises:
        UserError: If the policy has no tensor of that name.

    Source: Raghu et al. 2020, sections 3.2.1 (freezing at test time) and 4 (ANIL).
    """

    def __init__(self, rule: Adaptation, layers: Sequence[str]) -> None:
        super().__init__(rule)
        layout = rule.policy.layout
        for name in layers:
            if name not in layout.names:
                raise UserError(
                    f"the policy has no tensor {name!r}.{nearest(name, layout.names)} There are: "
                    f"{', '.join(layout.names)}."
                )
        self._layers = layers

    @property
    def adapted(self) -> Sequence[str]:
        return [name for name in self._rule.adapted if name in self._layers]

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        return [self._restricted(stage) for stage in self._rule.stages(step_scales, iteration)]

    def _restricted(self, stage: Stage) -> Stage:
        if stage.kind is not StageKind.GRADIENT_STEP:
            return stage

        def update(meta: Tensor, parameters: Tensor, support: Support) -> Tensor:
            return stage.update(meta, parameters, support.restricted(self._layers))

        return replace(stage, update=update)


def frozen(policy: DifferentiablePolicy, inner: InnerSettings) -> PartialAdaptation:
    """A policy that never adapts: gradient steps change none of its tensors."""
    return PartialAdaptation(MAML(policy, inner), ())


def anil(policy: DifferentiablePolicy, inner: InnerSettings, options: ANILConfig) -> PartialAdaptation:
    """MAML whose inner loop adapts ``options.adapted_layers``, by default the last layer and the log-std."""
    return PartialAdaptation(MAML(policy, inner), options.adapted_layers or policy.head)
