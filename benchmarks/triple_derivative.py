"""The meta-objective by plain automatic differentiation, as public implementations compute it.

Tests compare the package's derivatives with this reference, and benchmarks compare its speed. The inner gradient is a
derivative of the inner loss, so the Hessian of the KL divergence contains third derivatives of that loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metarl.common.lazy import lazy
from metarl.data import Samples
from metarl.inner.loop import InnerLoop
from metarl.inner.support import PolicyGradientSupport, Support
from metarl.policies.distributions import Distribution
from metarl.policies.losses import inner_loss
from metarl.policies.mlp import MLPPolicy


class PlainMLPPolicy(MLPPolicy):
    """The same network, written with PyTorch's own functions."""

    def outputs(self, parameters: Tensor, observations: Tensor) -> Tensor:
        values, layers = observations, self._weights(parameters)
        for index, (weight, bias) in enumerate(layers):
            values = torch.baddbmm(bias[:, None], values, weight.mT)
            if index < len(layers) - 1:
                values = values.tanh() if self._activation.has_curvature else values.relu()
        return values


class TripleDerivative:
    """The quantities of `metarl.outer.objective.MetaObjective`, as a `metarl.outer.trpo.Objective`.

    Keeps graphs between products.

    Args:
        loop: The inner loop that was run.
        tasks_at_once: Tasks per batch; 1 loops over the tasks, as public implementations do.
    """

    def __init__(self, loop: InnerLoop, tasks_at_once: int) -> None:
        self._num_tasks, size = loop.num_tasks, tasks_at_once
        self._parts = [_Part(loop.tasks(i, i + size)) for i in range(0, loop.num_tasks, size)]

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """Surrogate loss and its gradient, [meta parameter]."""
        loss = sum(part.loss.item() for part in self._parts)
        return loss / self._num_tasks, sum(part.gradient() for part in self._parts) / self._num_tasks

    def fisher_product(self, direction: Tensor) -> Tensor:
        """Hessian of the mean KL divergence times ``direction`` [meta parameter]."""
        return sum(part.hessian_product(direction) for part in self._parts) / self._num_tasks

    def evaluate(self, meta: Tensor) -> tuple[float, float]:
        """(surrogate loss, mean KL divergence) at other meta-parameters."""
        values = [part.loss_and_kl(meta) for part in self._parts]
        loss, kl = (sum(float(value[i]) for value in values) / self._num_tasks for i in range(2))
        return loss, kl


class _Part:
    """The objective summed over some of the tasks."""

    def __init__(self, loop: InnerLoop) -> None:
        self._loop = replace(loop, supports=[PlainSupport.like(support) for support in loop.supports])
        # Stages whose policies count beside the queried ones.
        self._starts = [i for i, stage in enumerate(loop.stages) if stage.kl_weight]
        starts = [loop.supports[i].samples for i in self._starts]
        self._data = [*(query.samples for query in loop.queries), *starts]
        self._weights = [*loop.query_weights, *(loop.stages[i].kl_weight for i in self._starts)]
        self._meta = loop.meta.detach().clone().requires_grad_()
        self._now, self._penalty = self._at(self._meta)
        self._old = [tuple(value.detach() for value in values) for values in self._now]

    @lazy
    def loss(self) -> Tensor:
        return self._loss(self._now) + self._penalty

    def gradient(self) -> Tensor:
        return torch.autograd.grad(self.loss, self._meta, retain_graph=True)[0]

    def hessian_product(self, direction: Tensor) -> Tensor:
        return torch.autograd.grad(self._kl_gradient, self._meta, direction, retain_graph=True)[0]

    def loss_and_kl(self, meta: Tensor) -> tuple[Tensor, Tensor]:
        outputs, penalty = self._at(meta)
        new = [tuple(value.detach() for value in values) for values in outputs]
        return self._loss(new) + penalty, self._kl(new)

    @lazy
    def _kl_gradient(self) -> Tensor:
        return torch.autograd.grad(self._kl(self._now), self._meta, create_graph=True)[0]

    def _at(self, meta: Tensor) -> tuple[list[tuple[Tensor, ...]], Tensor]:
        """Distributions of the policies that count, and the sum over tasks of the penalties of stages, a scalar."""
        loop, policies, penalty = self._loop, self._loop.replay(meta), meta.new_zeros(())
        for before, after, stage, support in zip(policies, policies[1:], loop.stages, loop.supports, strict=False):
            if stage.kl_penalty:
                samples = support.samples
                pair = (*self._outputs(before, samples), *self._outputs(after, samples))
                penalty = penalty + stage.kl_penalty * (samples.weights * self._distribution.kl(*pair)).sum()
        counted = [*loop.queried(policies), *(policies[i] for i in self._starts)]
        pairs = zip(counted, self._data, strict=True)
        return [self._outputs(parameters, samples) for parameters, samples in pairs], penalty

    def _outputs(self, parameters: Tensor, samples: Samples) -> tuple[Tensor, ...]:
        policy = self._loop.rule.policy
        return policy.outputs(parameters, samples.observations), policy.extra(parameters)

    def _loss(self, distributions: list[tuple[Tensor, ...]]) -> Tensor:
        queried = distributions[: len(self._loop.queries)]
        return self._total(queried, lambda at, query: inner_loss(self._distribution, *at, query, "ratio"))

    def _kl(self, distributions: list[tuple[Tensor, ...]]) -> Tensor:
        pairs = list(zip(self._old, distributions, strict=True))
        return self._total(pairs, lambda pair, samples: samples.weights * self._distribution.kl(*pair[0], *pair[1]))

    def _total(self, values: list[Any], term: Callable[[Any, Samples], Tensor]) -> Tensor:
        weighted = zip(values, self._data, self._weights, strict=False)
        return torch.stack([weight * term(value, samples).sum() for value, samples, weight in weighted]).sum()

    @property
    def _distribution(self) -> Distribution:
        return self._loop.rule.policy.distribution


class PlainSupport(PolicyGradientSupport):
    """Policy gradients by reverse-mode differentiation; they can be differentiated any number of times."""

    @staticmethod
    def like(support: PolicyGradientSupport) -> PlainSupport:
        """A plain support with the same data and loss."""
        return PlainSupport(support.policy, support.rollouts, support.loss, support.adapted)

    @torch.enable_grad()
    def gradient(self, parameters: Tensor) -> Tensor:
        policy, samples, differentiable = self.policy, self.samples, parameters.requires_grad
        leaf = parameters if differentiable else parameters.detach().requires_grad_()
        outputs = policy.outputs(leaf, samples.observations)
        total = inner_loss(policy.distribution, outputs, policy.extra(leaf), samples, self.loss).sum()
        gradient = torch.autograd.grad(total, leaf, create_graph=differentiable)[0]
        parts = zip(policy.layout.names, policy.layout.views(gradient), strict=True)
        kept = [part if self.adapted is None or name in self.adapted else 0 * part for name, part in parts]
        return torch.cat([part.flatten(1) for part in kept], dim=1)

    def projected_gradient(self, parameters: Tensor, directions: Tensor) -> Tensor:
        return Support.projected_gradient(self, parameters, directions)
