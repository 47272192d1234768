"""Iterations of training: rollouts, adaptation, rollouts and a meta-step."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from metarl.common.errors import UserError
from metarl.common.group import Group
from metarl.common.importing import import_named
from metarl.common.parallel import Workers
from metarl.common.profiling import timed
from metarl.common.streams import Purpose, stream
from metarl.config.optimisers import get_meta_optimiser
from metarl.config.resolved import Settings
from metarl.data import LearnerState, Row
from metarl.envs import Family
from metarl.inner.loop import Adapted, Measured, Timing, observe
from metarl.inner.rule import Adaptation, numbers_of, report_of, updated_meta
from metarl.inner.runner import check_dropped, make_runner
from metarl.outer.optimiser import Optimiser, StepReport

# Columns of progress.csv that are not from one iteration's learner.
_OF_THE_RUN = (
    "iteration",
    "env_steps",
    "validation_env_steps",
    "dropped_episodes",
    "seconds",
    "cpu_seconds",
    "steps_per_second",
)


class Learner(Protocol):
    """Updates meta-parameters [meta parameter], one iteration at a time.

    An iteration depends on its arguments alone, so that a run can continue from a checkpoint.
    """

    def initial(self) -> LearnerState:
        """The state before the first iteration."""

    def iteration(self, state: LearnerState, index: int, describe: bool = True) -> tuple[LearnerState, Row]:
        """One iteration.

        Args:
            state: The state after the previous iteration.
            index: Number of iterations done.
            describe: Whether the numbers are logged; if not, those that cost extra time may be missing.

        Returns:
            The new state, and the numbers to log.
        """

    def close(self) -> None:
        """Closes the environments."""


class OfFirstProcess:
    """A learner whose iterations the first process runs alone; the others wait, and take over its results.

    Args:
        learner: The learner; every process has one, because each closes its own environments.
        group: The processes.
    """

    def __init__(self, learner: Learner, group: Group) -> None:
        self._learner, self._group = learner, group
        self.initial, self.close = learner.initial, learner.close

    def iteration(self, state: LearnerState, index: int, describe: bool = True) -> tuple[LearnerState, Row]:
        waiting: tuple[LearnerState, Row] = state, {}
        return self._group.first(waiting if self._group.rank else self._learner.iteration(state, index, describe))


def before_and_after(measured: Mapping[str, Tensor]) -> dict[str, float]:
    """Columns of progress.csv for what was measured after 0, 1, ... steps, [task, step] by name: means over tasks."""
    ends = {"pre": 0, "post": -1}
    return {
        f"{when}_adaptation_{name}": float(values[:, step].mean())
        for name, values in measured.items()
        for when, step in ends.items()
    }


class MetaLearner:
    """Meta-training: each iteration takes one meta-step on fresh tasks.

    A baseline is trained in the same way without inner steps: by policy gradients on all tasks at once.

    Args:
        settings: The run's settings.
        family: The task family.
        rule: The adaptation rule.
        workers: Threads.
        device: Device of adaptation and meta-step.
    """

    def __init__(
        self, settings: Settings, family: Family, rule: Adaptation, workers: Workers, device: torch.device
    ) -> None:
        self._settings, self._family, self._rule = settings, family, rule
        self._workers, self._device = workers, device
        self._runner = make_runner(family, rule, settings.meta.meta_batch_size, settings, workers, device)
        row = get_meta_optimiser(settings.meta.meta_optimiser)
        rollouts = [settings.rollouts] if row.algorithms else []
        self._optimiser: Optimiser = import_named(row.optimiser, "meta_optimiser")(settings.optimiser, *rollouts)

    def close(self) -> None:
        self._runner.close()

    def initial(self) -> LearnerState:
        rule, generator = self._rule, stream(self._settings.run.seed, Purpose.INITIALISATION)
        meta = rule.initial(generator)
        if meta.shape != (rule.num_meta,):
            shape = tuple(meta.shape)
            raise UserError(f"the rule's initial must return num_meta = {rule.num_meta} numbers, got shape {shape}.")
        return LearnerState(meta, {})

    def iteration(self, state: LearnerState, index: int, describe: bool = True) -> tuple[LearnerState, Row]:
        with timed("inner loops"):
            adapted, timing = self.inner_loops(state.meta, index)
        group, begin = self._workers.group, time.perf_counter()
        parts, timings = zip(*group.gather((adapted.on_cpu(), timing)), strict=True)
        measured = Measured.joined(parts)
        check_dropped(measured)
        with timed("meta-step"):
            generator = stream(self._settings.run.seed, Purpose.META_STEP, index)
            new, report = self._optimiser.step(state, adapted.loop, self._workers, generator)
            observed = observe(adapted.loop, self._workers)
            described = report_of(self._rule, state.meta, observed) if describe else {}
            new = replace(new, meta=updated_meta(self._rule, new.meta, observed))
            # Processors of different types differ in the last bits.
            new = group.first(new)
        row = self._row(measured, timings, report, time.perf_counter() - begin, described)
        if self._settings.baseline:
            # Training does not adapt, so there is nothing after adaptation.
            row = {name: value for name, value in row.items() if not name.startswith("post_adaptation")}
        return new, row

    def inner_loops(self, meta: Tensor, index: int) -> tuple[Adapted, Timing]:
        """Runs rollouts and adaptation of iteration ``index`` at any meta-parameters [meta parameter].

        The result is of this process's tasks.
        """
        settings, seed = self._settings, self._settings.run.seed
        generator = stream(seed, Purpose.TRAIN_TASKS, index)
        tasks = self._family.sample_tasks(settings.meta.meta_batch_size, generator, "train")
        stages = self._rule.stages((1.0,) * settings.trained_steps, index)
        return self._runner.run(meta, tasks, stages, seed, Purpose.TRAIN_ROLLOUTS, index)

    def _row(
        self,
        measured: Measured,
        timings: Sequence[Timing],
        report: StepReport,
        meta_step_seconds: float,
        described: Mapping[str, float],
    ) -> Row:
        measure, returns, modulated = self._family.measure, measured.returns, measured.modulated_returns
        sizes, in_environments = measured.effective_sample_size, measure == "return"
        drops = in_environments and self._settings.rollouts.on_bad_episode == "drop"
        measurements: dict[str, float | int | str] = {
            **({"env_steps": measured.env_steps} if in_environments else {}),
            **({"dropped_episodes": len(measured.dropped)} if drops else {}),
            f"pre_adaptation_{measure}": float(returns[:, 0].mean()),
            **({} if modulated is None else {f"modulated_{measure}": float(modulated.mean())}),
            f"post_adaptation_{measure}": float(returns[:, -1].mean()),
            f"post_adaptation_{measure}_std": float(returns[:, -1].std(correction=0)),
            **before_and_after(measured.metrics),
            "outcome": report.outcome,
        }
        size = {"effective_sample_size": float(torch.stack(sizes).mean()) if sizes else 1.0} if in_environments else {}
        seconds = {
            "seconds_rollout": round(sum(timing.rollout for timing in timings) / len(timings), 4),
            "seconds_adaptation": round(sum(timing.adaptation for timing in timings) / len(timings), 4),
            "seconds_meta_step": round(meta_step_seconds, 4),
        }
        names = {*_OF_THE_RUN, *measurements, *size, *seconds}
        reported = numbers_of(report.numbers, "the meta-optimiser's report must hold numbers")
        for whose, numbers in (("the meta-optimiser's report", reported), ("the rule's `describe`", described)):
            if taken := sorted(name for name in numbers if name in names or name.startswith("validation_")):
                raise UserError(f"{whose} has names that the run itself writes: {', '.join(taken)}; rename them.")
            names.update(numbers)
        return {**measurements, **reported, **size, **described, **seconds}
