"""What an iteration of training does: rollouts, adaptation, rollouts and a meta-step."""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.common.parallel import Workers
from metarl.common.profiling import timed
from metarl.common.streams import Purpose, stream
from metarl.config.config import Settings
from metarl.config.optimisers import ProMPConfig, TRPOConfig
from metarl.envs import TaskFamily
from metarl.inner.loop import Adapted, observe
from metarl.inner.rule import Adaptation
from metarl.inner.runner import Runner, Timing
from metarl.outer.objective import MetaObjective
from metarl.outer.promp import promp_step
from metarl.outer.trpo import StepReport, trpo_step
from metarl.store.progress import Row


class Learner(Protocol):
    """Moves meta-parameters [meta parameter], iteration by iteration.

    An iteration is a function of its arguments alone, so that a run can be continued from a checkpoint.
    """

    def initial(self) -> tuple[Tensor, Tensor]:
        """Fresh meta-parameters, and what the optimiser remembers before the first iteration (one axis)."""

    def iteration(self, meta: Tensor, optimiser: Tensor, index: int) -> tuple[Tensor, Tensor, Row]:
        """One iteration.

        Args:
            meta: Meta-parameters, [meta parameter].
            optimiser: What the optimiser remembers.
            index: Iterations done before.

        Returns:
            The new meta-parameters, what the optimiser remembers now, and the iteration's numbers.
        """

    def close(self) -> None:
        """Closes the environments."""


class MetaLearner:
    """Meta-training: each iteration takes one meta-step on fresh tasks.

    Args:
        settings: The run's settings.
        family: The task family.
        rule: The adaptation rule.
        workers: Threads.
        device: Where adaptation and meta-step compute.
    """

    def __init__(
        self, settings: Settings, family: TaskFamily, rule: Adaptation, workers: Workers, device: torch.device
    ) -> None:
        self._settings, self._family, self._rule = settings, family, rule
        self._workers, self._device = workers, device
        size = settings.meta.meta_batch_size
        self._runner = Runner(family, rule, size, settings.rollouts, workers, device)
        self._meta_step = {"trpo": self._trpo, "promp": self._promp}[settings.meta.meta_optimiser]

    def close(self) -> None:
        self._runner.close()

    def initial(self) -> tuple[Tensor, Tensor]:
        return self._rule.initial(stream(self._settings.run.seed, Purpose.INITIALISATION)), torch.empty(0)

    def iteration(self, meta: Tensor, optimiser: Tensor, index: int) -> tuple[Tensor, Tensor, Row]:
        with timed("inner loops"):
            adapted, timing = self.inner_loops(meta, index)
        begin = time.perf_counter()
        with timed("meta-step"):
            new_meta, optimiser, report = self._meta_step(meta, optimiser, adapted, index)
            described: dict[str, float] = {}
            if adapted.loop.supports:  # There is an inner loop.
                observed = observe(adapted.loop, self._workers)
                described = self._rule.describe(meta, observed)
                new_meta = self._rule.after_meta_step(new_meta, observed)
        return new_meta, optimiser, _row(adapted, report, timing, time.perf_counter() - begin, described)

    def inner_loops(self, meta: Tensor, index: int) -> tuple[Adapted, Timing]:
        """Rollouts and adaptation of iteration ``index``, at any meta-parameters [meta parameter]."""
        settings, seed = self._settings, self._settings.run.seed
        generator = stream(seed, Purpose.TRAIN_TASKS, index)
        tasks = self._family.sample_tasks(settings.meta.meta_batch_size, generator, "train")
        stages = self._rule.stages((1.0,) * settings.inner.num_inner_steps, index)
        return self._runner.run(meta, tasks, stages, seed, Purpose.TRAIN_ROLLOUTS, index)

    def objective(self, adapted: Adapted, index: int, trpo: TRPOConfig) -> MetaObjective:
        """What the meta-step of iteration ``index`` minimises, from its inner loops; curvature as ``trpo`` says."""
        num_rows = adapted.loop.queries[-1].samples.num_rows
        fisher_rows = self._fisher_rows(trpo.fisher_fraction, num_rows, index)
        return MetaObjective(adapted.loop, self._workers, trpo.hessian_fraction, fisher_rows)

    def _trpo(self, meta: Tensor, optimiser: Tensor, adapted: Adapted, index: int) -> tuple[Tensor, Tensor, StepReport]:
        trpo = self._settings.optimiser
        assert isinstance(trpo, TRPOConfig)
        new_meta, report = trpo_step(meta, self.objective(adapted, index, trpo), trpo)
        return new_meta, optimiser, report

    def _promp(
        self, meta: Tensor, optimiser: Tensor, adapted: Adapted, index: int
    ) -> tuple[Tensor, Tensor, StepReport]:
        promp = self._settings.optimiser
        assert isinstance(promp, ProMPConfig)
        return promp_step(meta, optimiser, MetaObjective(adapted.loop, self._workers), promp)

    def _fisher_rows(self, fraction: float, num_rows: int, index: int) -> Tensor | None:
        if fraction == 1:
            return None
        generator = stream(self._settings.run.seed, Purpose.CURVATURE_ROWS, index)
        chosen = generator.choice(num_rows, max(1, round(fraction * num_rows)), replace=False)
        return torch.from_numpy(np.sort(chosen)).to(self._device)


def _row(
    adapted: Adapted,
    report: StepReport,
    timing: Timing,
    meta_step_seconds: float,
    described: dict[str, float],
) -> Row:
    returns = adapted.returns
    sizes, modulated = adapted.effective_sample_size, adapted.modulated_returns
    return {
        "env_steps": adapted.env_steps,
        "pre_adaptation_return": float(returns[:, 0].mean()),
        **({} if modulated is None else {"modulated_return": float(modulated.mean())}),
        "post_adaptation_return": float(returns[:, -1].mean()),
        "post_adaptation_return_std": float(returns[:, -1].std(correction=0)),
        "line_search": report.outcome,
        "line_search_trials": report.trials,
        "surrogate_gain": report.surrogate_gain,
        "kl": report.kl,
        "meta_gradient_norm": report.gradient_norm,
        "effective_sample_size": float(torch.stack(sizes).mean()) if sizes else 1.0,
        **described,
        "seconds_rollout": round(timing.rollout, 4),
        "seconds_adaptation": round(timing.adaptation, 4),
        "seconds_meta_step": round(meta_step_seconds, 4),
    }
