"""The meta-objective: surrogate, KL divergence and their derivatives through the inner loop.

At the old meta-parameters the KL divergence's gradient with respect to the adapted policies' outputs is zero, so its
Hessian is exactly J^T F J, with J the Jacobian of the adaptation and F the Fisher information of the adapted policy:
second derivatives only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from metarl.adaptation import Adaptation, Stage, fold
from metarl.lazy import lazy
from metarl.losses import OutputDerivatives, inner_loss
from metarl.parallel import Workers
from metarl.policies import Linearised
from metarl.types import CurvatureRows, Rollouts


class MetaObjective:
    """TRPO's view of one meta-iteration's rollouts.

    Every quantity is a mean over tasks of means over steps. Tasks are independent: on a CPU each is computed on a
    worker's thread, in the core's cache, and partial results are added in the order of tasks.

    Args:
        rule: The adaptation rule.
        stages: The inner loop that was run.
        supports: The rollouts of each stage.
        query: Rollouts of the adapted policies.
        meta: The meta-parameters that all of them came from, [meta parameter].
        workers: Threads.
        hessian_fraction: Fraction of each task's support rows whose Hessian enters Fisher-vector products; those of
            largest advantage, see `metarl.types.Samples.largest_advantages`.
        fisher_rows: Rows of each task's query whose Fisher information enters the products, [row]; all if None.
    """

    def __init__(
        self,
        rule: Adaptation,
        stages: Sequence[Stage],
        supports: Sequence[Rollouts],
        query: Rollouts,
        meta: Tensor,
        workers: Workers,
        hessian_fraction: float = 1.0,
        fisher_rows: Tensor | None = None,
    ) -> None:
        self._workers, self._num_tasks = workers, query.num_tasks
        size = 1 if meta.device.type == "cpu" else query.num_tasks
        self._chunks = [
            _Chunk(
                rule,
                stages,
                [support.tasks(i, i + size) for support in supports],
                query.tasks(i, i + size),
                meta,
                hessian_fraction,
                fisher_rows,
            )
            for i in range(0, query.num_tasks, size)
        ]

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """Surrogate loss and its gradient by the meta-parameters, [meta parameter]; uses every step."""
        losses, gradients = zip(*self._workers.map(_Chunk.loss_and_gradient, self._chunks), strict=True)
        return float(self._mean(losses)), self._mean(gradients)

    def fisher_product(self, direction: Tensor) -> Tensor:
        """J^T F J times ``direction`` [meta parameter]."""
        return self._mean(self._workers.map(lambda chunk: chunk.fisher_product(direction), self._chunks))

    def evaluate(self, meta: Tensor) -> tuple[float, float]:
        """(surrogate loss, mean KL divergence of the adapted policies) at other meta-parameters; uses every step."""
        values = self._mean(self._workers.map(lambda chunk: chunk.evaluate(meta), self._chunks))
        loss, kl = values.tolist()
        return loss, kl

    def _mean(self, parts: Sequence[Tensor]) -> Tensor:
        total = torch.zeros_like(parts[0])
        for part in parts:
            total += part
        return total / self._num_tasks


class _Chunk:
    """The meta-objective's part that comes from some of the tasks, summed over them."""

    def __init__(
        self,
        rule: Adaptation,
        stages: Sequence[Stage],
        supports: Sequence[Rollouts],
        query: Rollouts,
        meta: Tensor,
        hessian_fraction: float,
        fisher_rows: Tensor | None,
    ) -> None:
        self._rows = CurvatureRows()
        self._supports = [replace(support, curvature_rows=self._rows) for support in supports]
        self._rule, self._stages, self._query, self._meta = rule, stages, query, meta
        self._policy, self._hessian_fraction, self._fisher_rows = rule.policy, hessian_fraction, fisher_rows

    def loss_and_gradient(self) -> tuple[Tensor, Tensor]:
        """Sums over tasks of the surrogate loss, float64 scalar, and of its gradient, [meta parameter]."""
        self._rows.fraction = 1.0
        query = self._query.samples
        at = self._linearised if self._fisher_rows is None else self._policy.linearise(self._adapted.parameters, query)
        self._old = at.outputs, at.extra
        derivatives = OutputDerivatives(self._policy.distribution, at.outputs, at.extra, query, "ratio")
        pulled_back = at.pullback(derivatives.gradient, derivatives.extra_gradient)
        return self._surrogate(*self._old), self._adapted.transposed(pulled_back)

    def fisher_product(self, direction: Tensor) -> Tensor:
        self._rows.fraction = self._hessian_fraction
        return self._adapted.transposed(self._linearised.fisher_product(self._adapted.forward(direction)))

    @lazy
    def _adapted(self) -> _Jacobian:
        return _Jacobian(self._rule, self._stages, self._supports, self._query.num_tasks, self._meta)

    @lazy
    def _linearised(self) -> Linearised:
        """Of the adapted policies, over the rows whose Fisher information enters the products."""
        rows, query = self._fisher_rows, self._query.samples
        return self._policy.linearise(self._adapted.parameters, query if rows is None else query.subset(rows))

    @torch.no_grad()
    def evaluate(self, meta: Tensor) -> Tensor:
        """Sums over tasks of (surrogate loss, KL divergence), [2], float64."""
        new = self._outputs(meta)
        kl = self._policy.distribution.kl(*self._old, *new)
        return torch.stack([self._surrogate(*new), (self._query.samples.weights * kl).double().sum()])

    @lazy
    def _old(self) -> tuple[Tensor, Tensor]:
        return self._outputs(self._meta)

    def _outputs(self, meta: Tensor) -> tuple[Tensor, Tensor]:
        """The adapted policies' distributions in the query: outputs [task, row, output] and extra [task, extra]."""
        adapted = fold(self._rule, meta, self._stages, self._supports, self._query.num_tasks)
        return self._policy.outputs(adapted, self._query.samples.observations), self._policy.extra(adapted)

    def _surrogate(self, outputs: Tensor, extra: Tensor) -> Tensor:
        losses = inner_loss(self._policy.distribution, outputs, extra, self._query.samples, "ratio")
        return losses.double().sum()


class _Jacobian:
    """Jacobian products through the inner loop; its graph is built once.

    ``q = J^T u`` is linear in u, so its derivative by u along v is J v: no forward-mode differentiation is needed.
    """

    @torch.enable_grad()
    def __init__(
        self, rule: Adaptation, stages: Sequence[Stage], supports: Sequence[Rollouts], num_tasks: int, meta: Tensor
    ) -> None:
        self._meta = meta.detach().clone().requires_grad_()
        self._adapted = fold(rule, self._meta, stages, supports, num_tasks)
        self.parameters = self._adapted.detach()
        self._probed: tuple[Tensor, Tensor] | None = None

    def transposed(self, direction: Tensor) -> Tensor:
        """J^T times ``direction`` [task, parameter], summed over tasks: [meta parameter]."""
        if self._probed is None:
            return self._probe(direction)[1].detach()
        return torch.autograd.grad(self._adapted, self._meta, direction, retain_graph=True)[0]

    def forward(self, direction: Tensor) -> Tensor:
        """J times ``direction`` [meta parameter]: [task, parameter]."""
        probe, transposed = self._probed or self._probe(torch.zeros_like(self._adapted))
        return torch.autograd.grad(transposed, probe, direction, retain_graph=True)[0]

    @torch.enable_grad()
    def _probe(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps u and J^T u for later; at any u, so the first product with J^T costs nothing extra."""
        probe = direction.detach().requires_grad_()
        self._probed = probe, torch.autograd.grad(self._adapted, self._meta, probe, create_graph=True)[0]
        return self._probed
