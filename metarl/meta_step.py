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
from metarl.types import Rollouts


class MetaObjective:
    """TRPO's view of one meta-iteration's rollouts.

    Every quantity is a mean over tasks of means over steps. Tasks are independent: on a CPU each is computed on a
    worker's thread, in the core's cache, and partial results are added in the order of tasks.

    Args:
        rule: The adaptation rule.
        stages: The inner loop that was run.
        supports: The rollouts of each stage.
        query: Rollouts of the adapted policies.
        adapted: The adapted policies, [task, parameter].
        meta: The meta-parameters that all of them came from, [meta parameter].
        workers: Threads.
        support_rows: Rows of each task's support that Fisher-vector products use, [row]; all if None.
        query_rows: Rows of each task's query that Fisher-vector products use, [row]; all if None.
    """

    def __init__(
        self,
        rule: Adaptation,
        stages: Sequence[Stage],
        supports: Sequence[Rollouts],
        query: Rollouts,
        adapted: Tensor,
        meta: Tensor,
        workers: Workers,
        support_rows: Tensor | None = None,
        query_rows: Tensor | None = None,
    ) -> None:
        self._workers, self._num_tasks = workers, query.num_tasks
        size = 1 if meta.device.type == "cpu" else query.num_tasks
        self._chunks = [
            _Chunk(
                rule,
                stages,
                [support.tasks(i, i + size) for support in supports],
                query.tasks(i, i + size),
                adapted[i : i + size],
                meta,
                support_rows,
                query_rows,
            )
            for i in range(0, query.num_tasks, size)
        ]

    def gradient(self) -> Tensor:
        """Gradient of the surrogate loss by the meta-parameters, [meta parameter]; uses every step."""
        return self._mean(self._workers.map(_Chunk.gradient, self._chunks))

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
        adapted: Tensor,
        meta: Tensor,
        support_rows: Tensor | None,
        query_rows: Tensor | None,
    ) -> None:
        self._rule, self._stages, self._supports, self._query = rule, stages, supports, query
        self._policy, self._old_parameters = rule.policy, adapted
        self._meta, self._support_rows, self._query_rows = meta, support_rows, query_rows

    def gradient(self) -> Tensor:
        exact = self._support_rows is None and self._query_rows is None
        adapted, linearised = self._curvature if exact else self._linearise(None, None)
        surrogate = OutputDerivatives(
            self._policy.distribution, linearised.outputs, linearised.extra, self._query.samples, "ratio"
        )
        return adapted.transposed(linearised.pullback(surrogate.gradient, surrogate.extra_gradient))

    def fisher_product(self, direction: Tensor) -> Tensor:
        adapted, linearised = self._curvature
        return adapted.transposed(linearised.fisher_product(adapted.forward(direction)))

    @lazy
    def _curvature(self) -> tuple[_Jacobian, Linearised]:
        return self._linearise(self._support_rows, self._query_rows)

    def _linearise(self, support_rows: Tensor | None, query_rows: Tensor | None) -> tuple[_Jacobian, Linearised]:
        supports = [replace(support, curvature_rows=support_rows) for support in self._supports]
        query = replace(self._query, curvature_rows=query_rows)
        adapted = _Jacobian(self._rule, self._stages, supports, query.num_tasks, self._meta)
        return adapted, self._policy.linearise(adapted.parameters, query.curvature_samples)

    @torch.no_grad()
    def evaluate(self, meta: Tensor) -> Tensor:
        """Sums over tasks of (surrogate loss, KL divergence), [2], float64."""
        samples = self._query.samples
        old_outputs, old_extra = self._old
        outputs, extra = self._outputs(fold(self._rule, meta, self._stages, self._supports, self._query.num_tasks))
        loss = inner_loss(self._policy.distribution, outputs, extra, samples, "ratio")
        kl = self._policy.distribution.kl(old_outputs, old_extra, outputs, extra)
        return torch.stack([loss.double().sum(), (samples.weights * kl).double().sum()])

    @lazy
    def _old(self) -> tuple[Tensor, Tensor]:
        return self._outputs(self._old_parameters)

    def _outputs(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return self._policy.outputs(parameters, self._query.samples.observations), self._policy.extra(parameters)


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
        self._probe = torch.zeros_like(self._adapted, requires_grad=True)

    def transposed(self, direction: Tensor) -> Tensor:
        """J^T times ``direction`` [task, parameter], summed over tasks: [meta parameter]."""
        return torch.autograd.grad(self._adapted, self._meta, direction, retain_graph=True)[0]

    def forward(self, direction: Tensor) -> Tensor:
        """J times ``direction`` [meta parameter]: [task, parameter]."""
        return torch.autograd.grad(self._transposed_probe, self._probe, direction, retain_graph=True)[0]

    @lazy
    def _transposed_probe(self) -> Tensor:
        with torch.enable_grad():
            return torch.autograd.grad(self._adapted, self._meta, self._probe, create_graph=True)[0]
