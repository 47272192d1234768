"""The meta-objective: surrogate, KL divergence and their derivatives through the inner loop.

By the chain rule, the Hessian of the KL divergence by the meta-parameters is J^T F J plus the divergence's gradient by
the adapted policy times the second derivative of the adaptation. J is the Jacobian of the adaptation, F the Fisher
information of the adapted policy. At the old meta-parameters that gradient is zero, so the Hessian is exactly J^T F J:
second derivatives of the inner loss suffice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from metarl.common.lazy import lazy
from metarl.common.parallel import Workers
from metarl.data import Samples
from metarl.inner.differentiable import GraphJacobian
from metarl.inner.loop import InnerLoop, added, over_pieces
from metarl.policies.base import Linearised, require_derivatives
from metarl.policies.losses import OutputDerivatives, inner_loss


class MetaObjective:
    """The meta-objective of one meta-iteration, differentiated through its inner loop.

    Every quantity is a mean over tasks of means over steps, summed with weights over the queried policies. The KL
    divergence also counts the policies before stages with a `metarl.inner.rule.Stage.kl_weight`, and the surrogate loss
    holds the penalties of stages with a `metarl.inner.rule.Stage.kl_penalty`. Tasks are independent: on a CPU, a
    worker's thread computes one task at a time, whose data fit the core's cache. Partial results are added in the order
    of the tasks, so that the sum does not depend on the threads.

    Args:
        loop: The inner loop that was run.
        workers: Threads.
        hessian_fraction: Fraction of each task's support rows whose Hessian enters Fisher-vector products: the rows of
            largest advantage, see `metarl.data.Samples.largest_advantages`.
        fisher_rows: Rows of each task whose Fisher information enters the products, as far as they exist, [row], on
            the CPU; None for all.
    """

    def __init__(
        self, loop: InnerLoop, workers: Workers, hessian_fraction: float = 1.0, fisher_rows: Tensor | None = None
    ) -> None:
        self._workers, self._num_tasks = workers, sum(workers.group.gather(loop.num_tasks))
        loop = loop.with_curvature(hessian_fraction)
        self._chunks = [_Chunk(piece, fisher_rows) for piece in loop.pieces()]

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """Surrogate loss and its gradient by the meta-parameters, [meta parameter]; uses all steps."""
        losses, gradients = zip(*over_pieces(self._workers, _Chunk.loss_and_gradient, self._chunks), strict=True)
        return float(self._mean(losses)), self._mean(gradients)

    def fisher_product(self, direction: Tensor) -> Tensor:
        """J^T F J times ``direction`` [meta parameter]."""
        return self._mean(over_pieces(self._workers, lambda chunk: chunk.fisher_product(direction), self._chunks))

    def evaluate(self, meta: Tensor) -> tuple[float, float]:
        """(surrogate loss, mean KL divergence of the adapted policies) at other meta-parameters; uses all steps."""
        values = self._mean(over_pieces(self._workers, lambda chunk: chunk.evaluate(meta), self._chunks))
        loss, kl = values.tolist()
        return loss, kl

    def proximal(self, meta: Tensor, clip: float, kl_penalty: float) -> tuple[float, Tensor]:
        """ProMP's loss and its gradient at any meta-parameters, [meta parameter]; uses all steps.

        The loss is the clipped surrogate of the adapted policies plus a penalty. The penalty is the mean KL divergence
        of the policies that collect support rollouts, from the meta-parameters of the collection to ``meta``.

        Args:
            meta: Meta-parameters, [meta parameter].
            clip: Likelihood ratios are clipped to 1 +- ``clip``.
            kl_penalty: Weight of the penalty.

        Source: Rothfuss et al. 2019, equations 14 to 16.
        """
        parts = over_pieces(self._workers, lambda chunk: chunk.proximal(meta, clip, kl_penalty), self._chunks)
        losses, gradients = zip(*parts, strict=True)
        return float(self._mean(losses)), self._mean(gradients)

    def _mean(self, parts: Sequence[Tensor]) -> Tensor:
        return added(parts) / self._num_tasks


class _Chunk:
    """The meta-objective summed over some of the tasks."""

    def __init__(self, loop: InnerLoop, fisher_rows: Tensor | None) -> None:
        self._loop, self._policy, self._weights = loop, require_derivatives(loop.rule.policy), loop.query_weights
        self._queries, self._loss = [query.samples for query in loop.queries], loop.queries[-1].loss
        # Policies that count beside the queried ones: place in the replay, stage of the rows, weight of the divergence.
        others: list[tuple[int, int, float]] = []
        # Weights of the penalties, by the place among the counted policies of that before the stage; the next is after.
        self._penalties: dict[int, float] = {}
        for i, stage in enumerate(loop.stages):
            if stage.kl_penalty:
                self._penalties[len(self._queries) + len(others)] = stage.kl_penalty
                others += [(i, i, stage.kl_weight), (i + 1, i, 0.0)]
            elif stage.kl_weight:
                others.append((i, i, stage.kl_weight))
        self._others = [place for place, _, _ in others]
        self._data = [*self._queries, *(loop.supports[i].samples for _, i, _ in others)]
        self._kl_weights = [*self._weights, *(weight for _, _, weight in others)]
        self._fisher_rows = fisher_rows

    def loss_and_gradient(self) -> tuple[Tensor, Tensor]:
        """Sums over tasks of the surrogate loss, float64 scalar, and of its gradient, [meta parameter]."""
        # The gradient uses all rows. If the Fisher information uses only some, this needs a linearisation of its own.
        points = self._linearised
        if self._fisher_rows is not None:
            points = self._linearise(self._data)
        self._old = [(at.outputs, at.extra) for at in points]
        pulled_back = torch.zeros_like(self._adaptation.outputs)
        for i, (query, weight) in enumerate(zip(self._queries, self._weights, strict=True)):
            at = points[i]
            derivatives = OutputDerivatives(self._policy.distribution, at.outputs, at.extra, query, self._loss)
            pulled_back[i] = weight * at.pullback(derivatives.gradient, derivatives.extra_gradient)
        for i, (before, after) in self._penalty_gradients():
            pulled_back[i] += points[i].pullback(*before)
            pulled_back[i + 1] += points[i + 1].pullback(*after)
        return self._surrogate(self._old), self._adaptation.gradient(pulled_back)

    def fisher_product(self, direction: Tensor) -> Tensor:
        # (J^T F J) direction, from right to left: forward through the adaptation, times F, and back.
        along = zip(self._linearised, self._adaptation.pushforward(direction), self._kl_weights, strict=True)
        products = [weight * at.fisher_product(d) if weight else torch.zeros_like(d) for at, d, weight in along]
        return self._adaptation.pullback(torch.stack(products))

    @lazy
    @torch.enable_grad()
    def _adaptation(self) -> GraphJacobian:
        """The Jacobian by the meta-parameters of the policies that count, [policy, task, parameter]."""
        meta, policies = self._loop.trace()
        return GraphJacobian(meta, self._counted(policies))

    def _counted(self, policies: Sequence[Tensor]) -> Tensor:
        """Of the replayed policies those that count, the queried ones first, [policy, task, parameter]."""
        queried = self._loop.queried(policies)
        return torch.cat([queried, torch.stack([policies[i] for i in self._others])]) if self._others else queried

    @lazy
    def _linearised(self) -> list[Linearised]:
        """The policies that count, linearised on the rows that enter the products."""
        rows = self._fisher_rows
        return self._linearise(self._data if rows is None else [data.subset(rows) for data in self._data])

    def _linearise(self, data: Sequence[Samples]) -> list[Linearised]:
        return [self._policy.linearise(p, rows) for p, rows in zip(self._adaptation.outputs, data, strict=True)]

    @torch.no_grad()
    def evaluate(self, meta: Tensor) -> Tensor:
        """Sums over tasks of (surrogate loss, KL divergence), [2], float64."""
        new = self._outputs(meta)
        kl = torch.zeros((), dtype=torch.float64, device=meta.device)
        for old, now, rows, weight in zip(self._old, new, self._data, self._kl_weights, strict=True):
            if weight:
                kl += weight * (rows.weights * self._policy.distribution.kl(*old, *now)).double().sum()
        return torch.stack([self._surrogate(new), kl])

    def proximal(self, meta: Tensor, clip: float, kl_penalty: float) -> tuple[Tensor, Tensor]:
        distribution, loop = self._policy.distribution, self._loop
        with torch.enable_grad():
            meta = meta.detach().clone().requires_grad_()
            policies = loop.replay(meta)
            queried = loop.queried(policies).unbind()

        def surrogate(query: Samples, weight: float, outputs: Tensor, extra: Tensor) -> Tensor:
            ratio = torch.exp(distribution.log_prob(outputs, extra, query.actions) - query.log_probs)
            gain = torch.minimum(ratio * query.advantages, ratio.clamp(1 - clip, 1 + clip) * query.advantages)
            return -weight * (query.weights * gain).sum()

        def penalty(support: Samples, old: tuple[Tensor, Tensor], outputs: Tensor, extra: Tensor) -> Tensor:
            kl = distribution.kl(*old, outputs, extra)
            return kl_penalty / len(self._collected) * (support.weights * kl).sum()

        terms: list[tuple[Tensor, Samples, Callable[[Tensor, Tensor], Tensor]]] = []
        for policy, query, weight in zip(queried, self._queries, self._weights, strict=True):
            terms.append((policy, query, partial(surrogate, query, weight)))
        for index, (support, old) in self._collected.items():
            terms.append((policies[index], support, partial(penalty, support, old)))
        # The chain rule in two parts: from every loss to its policies, then through the adaptation to ``meta``.
        losses, cotangents = zip(*(self._pulled_back(*term) for term in terms), strict=True)
        primal = [policy for policy, _, _ in terms]
        return torch.stack(losses).sum(), torch.autograd.grad(primal, meta, cotangents)[0]

    def _pulled_back(
        self, policies: Tensor, samples: Samples, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """A loss of the policies' outputs and extra parameters, and its gradient by the policies' parameters."""
        at = self._policy.linearise(policies.detach(), samples)
        with torch.enable_grad():
            inputs = at.outputs.detach().requires_grad_(), at.extra.detach().requires_grad_()
            value = loss(*inputs)
        gradient = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
        return value.detach().double(), at.pullback(*gradient)

    @lazy
    @torch.no_grad()
    def _collected(self) -> dict[int, tuple[Samples, tuple[Tensor, Tensor]]]:
        """Per stage with fresh rollouts: these, and the distributions of the policies that collected them."""
        loop, policies, collected = self._loop, self._loop.replay(self._loop.meta), {}
        for index, (stage, support) in enumerate(zip(loop.stages, loop.supports, strict=True)):
            if stage.rollouts != 0:
                collected[index] = support.samples, self._distributions(policies[index], support.samples)
        return collected

    @lazy
    def _old(self) -> list[tuple[Tensor, Tensor]]:
        return self._outputs(self._loop.meta)

    def _outputs(self, meta: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Distributions of the policies that count, (outputs [task, row, output], extra)."""
        policies = self._counted(self._loop.replay(meta))
        return [self._distributions(policy, rows) for policy, rows in zip(policies, self._data, strict=True)]

    def _distributions(self, policies: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
        return self._policy.outputs(policies, samples.observations), self._policy.extra(policies)

    def _surrogate(self, distributions: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The surrogate loss; the queried policies come first in ``distributions``."""
        total = torch.zeros((), dtype=torch.float64, device=self._loop.meta.device)
        for at, query, weight in zip(distributions, self._queries, self._weights, strict=False):
            total += weight * inner_loss(self._policy.distribution, *at, query, self._loss).double().sum()
        for i in self._penalties:
            total += self._penalty(i, *distributions[i], *distributions[i + 1]).double()
        return total

    def _penalty(self, place: int, *distributions: Tensor) -> Tensor:
        """The penalty on the divergence from the policies at this place to the next, summed over tasks, a scalar."""
        kl = self._policy.distribution.kl(*distributions)
        return self._penalties[place] * (self._data[place].weights * kl).sum()

    def _penalty_gradients(self) -> Iterator[tuple[int, tuple[Sequence[Tensor], Sequence[Tensor]]]]:
        """Places of the penalties, with the gradients by the outputs and the extra of the policies before and after."""
        for i in self._penalties:
            with torch.enable_grad():
                inputs = [part.detach().requires_grad_() for part in (*self._old[i], *self._old[i + 1])]
                value = self._penalty(i, *inputs)
            gradients = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
            yield i, (gradients[:2], gradients[2:])
