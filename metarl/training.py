"""Meta-training: rollouts, adaptation, rollouts, one TRPO meta-step; again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from metarl.adaptation import Adapted
from metarl.agent import Agent, build
from metarl.checkpoints import Progress, load_checkpoint, save_checkpoint
from metarl.config import CONFIG_FILE, Config, load_config, save_config
from metarl.device import resolve_device
from metarl.errors import UserError
from metarl.meta_step import MetaObjective
from metarl.parallel import Workers, available_cores
from metarl.profiling import Profile, timed
from metarl.progress import ProgressLog, read_progress
from metarl.provenance import provenance
from metarl.runner import Runner, Timing
from metarl.settings import TRPOConfig
from metarl.streams import Purpose, stream
from metarl.trpo import StepReport, trpo_step

# Everything but the length of a run and how it is executed must be as it was when a run is resumed.
_CHANGEABLE = ("run_dir", "resume", "iterations", "checkpoint_every", "device", "threads", "profile")


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        path: Its folder.
        agent: The agent at the end.
        progress: The numbers of each iteration, as in progress.csv.
    """

    path: Path
    agent: Agent
    progress: list[dict[str, str]]


def train(config: Config) -> Run:
    """Meta-trains an agent; writes configuration, progress and checkpoints into the run's folder.

    Ctrl-C and SIGTERM save a checkpoint first; ``Config(resume=True)`` continues from it. The iterations of a resumed
    run are, bit for bit, those of an uninterrupted one.

    Args:
        config: The settings.

    Raises:
        UserError: If the folder holds a run already (without ``resume``) or another run (with it), or if something
            that the configuration asks for is not there. Nothing is overwritten.
    """
    device = resolve_device(config.device)
    if config.resume:
        _check_same_run(config)
    else:
        _check_free(config.folder)
    with _sigterm_raises(), Trainer(config, device) as trainer:
        if config.resume:
            meta, progress = load_checkpoint(config, "last")
            meta = Agent(config, meta).meta
            if progress.iteration >= config.iterations:
                print(f"{config.folder} has done its {progress.iteration} iterations; raise --iterations for more")
                return Run(config.folder, Agent(config, meta), read_progress(config.folder))
        else:
            meta, progress = trainer.initial(), Progress()
        save_config(config, provenance(device))
        if not config.resume:
            save_checkpoint(config, "last", meta, progress)  # From now on, whatever happens, the run can be resumed.
        with ProgressLog(config.folder, progress.iteration, config.iterations) as log:
            meta = trainer.train(meta, progress, log)
    return Run(config.folder, Agent(config, meta), read_progress(config.folder))


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if (folder / CONFIG_FILE).is_file():
            raise UserError(
                f"{folder} holds a run; continue it with --resume, or choose another folder with --run-dir."
            )
        raise UserError(f"{folder} exists and is not an empty folder; choose another folder with --run-dir.")


def _check_same_run(config: Config) -> None:
    before, now = (c.to_dict() for c in (load_config(config.folder), config))
    changed = [name for name in now if name not in _CHANGEABLE and now[name] != before[name]]
    if changed:
        name = changed[0]
        raise UserError(
            f"{config.folder} was run with {name}={before[name]!r}, not {now[name]!r}; resume it with its own settings."
        )


class Trainer:
    """Holds what iterations share: workers, environments, rule.

    Args:
        config: The settings.
        device: Where adaptation and meta-step compute.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        self._config, self._device = config, device
        self._family, self._rule = build(config)
        self._stop = threading.Event()
        self._workers = Workers(config.threads or available_cores())
        finite = self._family.finite_tasks
        self._num_validation_tasks = config.validation_tasks if finite is None else len(finite)
        self._runner = self._make_runner(config.meta_batch_size)
        self._validator: Runner | None = None
        if config.validate_every:
            self._validator = self._make_runner(self._num_validation_tasks)
        self._profile = Profile(config.folder, device) if config.profile else None

    def __enter__(self) -> Trainer:
        self._workers.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._workers.__exit__(None, None, None)
        self._runner.close()
        if self._validator:
            self._validator.close()
        if self._profile:
            self._profile.close()

    def initial(self) -> Tensor:
        """Fresh meta-parameters, [meta parameter]."""
        return self._rule.initial(stream(self._config.seed, Purpose.INITIALISATION))

    def train(self, meta: Tensor, progress: Progress, log: ProgressLog) -> Tensor:
        """Runs the iterations that are left; returns the meta-parameters at the end."""
        config, meta = self._config, meta.to(self._device)
        state, first = (meta, progress), progress.iteration + 1
        try:
            while progress.iteration < config.iterations:
                with self._profiled(progress.iteration + 1, first):
                    state = meta, progress = self._advance(meta, progress, log)
                    if progress.iteration % config.checkpoint_every == 0:
                        with timed("checkpoint"):
                            save_checkpoint(config, "last", meta, progress)
        finally:
            # Whatever ends the loop, Ctrl-C and errors too, the iterations done are kept.
            save_checkpoint(config, "last", *state)
        return meta

    def _profiled(self, number: int, first: int) -> AbstractContextManager[None]:
        return self._profile.iteration(number, first, self._config.iterations) if self._profile else nullcontext()

    def _advance(self, meta: Tensor, progress: Progress, log: ProgressLog) -> tuple[Tensor, Progress]:
        """One iteration with validation and logging; returns what has become of the meta-parameters and progress."""
        config, begin = self._config, time.perf_counter()
        new_meta, row = self.iteration(meta, progress.iteration)
        iteration_seconds = time.perf_counter() - begin
        done = progress.iteration + 1
        if self._validator and done % config.validate_every == 0:
            with timed("validation"):
                row |= self._validate(self._validator, new_meta)
        elif self._validator:
            row |= dict.fromkeys(_VALIDATION_COLUMNS, "")
        seconds, steps = time.perf_counter() - begin, int(row.pop("env_steps"))
        totals = Progress(done, progress.env_steps + steps, progress.seconds + seconds, progress.best_return)
        with timed("logging"):
            log.write(
                {
                    "iteration": done,
                    "env_steps": totals.env_steps,
                    "seconds": round(totals.seconds, 3),
                    "steps_per_second": round(steps / iteration_seconds, 1),
                    **row,
                }
            )
        validation = row.get("validation_post_adaptation_return", "")
        if isinstance(validation, float) and validation > progress.best_return:
            totals = replace(totals, best_return=validation)
            with timed("checkpoint"):
                save_checkpoint(config, "best", new_meta, totals)
        return new_meta, totals

    def iteration(self, meta: Tensor, index: int) -> tuple[Tensor, dict[str, float | int | str]]:
        """One meta-iteration.

        Args:
            meta: Meta-parameters, [meta parameter].
            index: Meta-iterations done before.

        Returns:
            The new meta-parameters and the iteration's numbers.
        """
        with timed("inner loops"):
            adapted, timing = self.inner_loops(meta, index)
        begin = time.perf_counter()
        with timed("meta-step"):
            observed = self._observe(meta, adapted)
            trpo = self._config.trpo
            new_meta, report = trpo_step(meta, self.objective(meta, adapted, index, trpo), trpo)
            described = self._rule.describe(meta, observed)
            new_meta = self._rule.after_meta_step(new_meta, observed)
        return new_meta, _row(adapted, report, timing, time.perf_counter() - begin, described)

    def inner_loops(self, meta: Tensor, index: int) -> tuple[Adapted, Timing]:
        """Rollouts and adaptation of iteration ``index``, at any meta-parameters [meta parameter]."""
        config = self._config
        generator = stream(config.seed, Purpose.TRAIN_TASKS, index)
        tasks = self._family.sample_tasks(config.meta_batch_size, generator, "train")
        scales = (1.0,) * config.num_inner_steps
        return self._runner.run(meta, tasks, scales, config.seed, Purpose.TRAIN_ROLLOUTS, index)

    def objective(self, meta: Tensor, adapted: Adapted, index: int, trpo: TRPOConfig) -> MetaObjective:
        """What the meta-step of iteration ``index`` minimises, from its inner loops; curvature as ``trpo`` says."""
        return MetaObjective(
            self._rule,
            self._rule.stages((1.0,) * self._config.num_inner_steps),
            adapted.supports,
            adapted.query,
            meta,
            self._workers,
            trpo.hessian_fraction,
            self._fisher_rows(trpo.fisher_fraction, adapted.query.samples.num_rows, index),
        )

    def _fisher_rows(self, fraction: float, num_rows: int, index: int) -> Tensor | None:
        if fraction == 1:
            return None
        generator = stream(self._config.seed, Purpose.CURVATURE_ROWS, index)
        chosen = generator.choice(num_rows, max(1, round(fraction * num_rows)), replace=False)
        return torch.from_numpy(np.sort(chosen)).to(self._device)

    @torch.no_grad()
    def _observe(self, meta: Tensor, adapted: Adapted) -> Tensor:
        def one(task: int) -> Tensor:
            return self._rule.observe(meta, [support.tasks(task, task + 1) for support in adapted.supports])

        return torch.cat(self._workers.map(one, range(adapted.query.num_tasks)))

    def _validate(self, validator: Runner, meta: Tensor) -> dict[str, float | int | str]:
        """Returns on the validation tasks, the same ones and the same random streams every time."""
        config = self._config
        tasks = self._family.sample_tasks(
            self._num_validation_tasks, stream(config.seed, Purpose.VALIDATION_TASKS), "validation"
        )
        scales = (1.0,) * config.num_inner_steps
        adapted, _ = validator.run(meta, tasks, scales, config.seed, Purpose.VALIDATION_ROLLOUTS, 0)
        returns = adapted.returns.mean(0).tolist()
        return dict(zip(_VALIDATION_COLUMNS, (returns[0], returns[-1]), strict=True))

    def _make_runner(self, num_tasks: int) -> Runner:
        return Runner(
            self._config,
            self._family,
            self._rule,
            num_tasks,
            self._config.rollouts_per_task,
            self._workers,
            self._device,
            self._stop.is_set,
        )


_VALIDATION_COLUMNS = ("validation_pre_adaptation_return", "validation_post_adaptation_return")


def _row(
    adapted: Adapted,
    report: StepReport,
    timing: Timing,
    meta_step_seconds: float,
    described: dict[str, float],
) -> dict[str, float | int | str]:
    returns = adapted.returns
    sizes = adapted.effective_sample_size
    return {
        "env_steps": adapted.env_steps,
        "pre_adaptation_return": float(returns[:, 0].mean()),
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


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Turns SIGTERM into SystemExit(143) in the main thread, so that it unwinds like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    before: Callable[[int, FrameType | None], object] | int | None = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
