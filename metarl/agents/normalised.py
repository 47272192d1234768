"""Another rule, whose policies see observations that are normalised by running statistics."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from metarl.data import Rollouts
from metarl.inner.loop import InnerLoop
from metarl.inner.rule import Adaptation, WrappedAdaptation, before_others
from metarl.policies.normaliser import Normaliser, RunningStatistics


class NormalisedObservations(WrappedAdaptation):
    """Another rule, whose policies see (observation - mean) / standard deviation.

    The statistics are of all observations of training so far. They are fixed during an iteration and updated after its
    meta-step, so that acting, adaptation and meta-step see the same numbers.

    Meta-parameters are the rule's, then the number of observations, their mean and their variance.

    Args:
        rule: The rule.
    """

    def __init__(self, rule: Adaptation) -> None:
        self._running = RunningStatistics(rule.policy.observation_size)
        super().__init__(rule, rule.num_meta + self._running.size)

    def initial(self, generator: np.random.Generator) -> Tensor:
        return torch.cat([self._rule.initial(generator), self._running.initial()])

    def normaliser(self, meta: Tensor) -> Normaliser:
        """The normalisation of this iteration."""
        return self._running.normaliser(meta[self._rule.num_meta :])

    def with_statistics(self, meta: Tensor, other: Tensor) -> Tensor:
        """Meta-parameters with the statistics of other ones, perhaps of another rule with the same observations."""
        return torch.cat([self._of_rule(meta), other[-self._running.size :].to(meta)])

    def observe(self, loop: InnerLoop) -> Tensor:
        """Features of the rule, then number, mean and variance of each task's raw observations."""
        normaliser = self.normaliser(loop.meta)
        fresh = [s.data for stage, s in zip(loop.stages, loop.supports, strict=True) if stage.rollouts != 0]
        batches = [data for data in (*fresh, *loop.queries) if isinstance(data, Rollouts)]
        observations = torch.cat([batch.observations.flatten(1, 2) for batch in batches], dim=1).double()
        seen = self._running.of(observations, torch.cat([batch.mask.flatten(1) for batch in batches], dim=1))
        count, mean, variance = seen.tensor_split([1, 1 + len(normaliser.mean)], dim=1)
        raw = torch.cat([count, mean * normaliser.std + normaliser.mean, variance * normaliser.std**2], dim=1)
        inner = super().observe(loop)
        return torch.cat([inner, raw.to(inner)], dim=1)

    @property
    def observed(self) -> Mapping[str, slice]:
        """Columns of the rule, before the statistics."""
        return before_others(super().observed, self._running.size)

    def attenuation(self, meta: Tensor, observed: Tensor) -> Tensor | None:
        return super().attenuation(meta, self._split(observed)[0])

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        return super().describe(meta, self._split(observed)[0])

    def after_meta_step(self, meta: Tensor, observed: Tensor) -> Tensor:
        """Adds the latest observations to the statistics."""
        inner, latest = self._split(observed)
        of_rule = self._rule.after_meta_step(self._of_rule(meta), inner)
        return torch.cat([of_rule, self._running.pooled(meta[self._rule.num_meta :], latest)])

    def _split(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        return observed[:, : -self._running.size], observed[:, -self._running.size :]
