"""Training runs: iterations of a learner, with validation, progress and checkpoints."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from metarl.common.cores import num_launched
from metarl.common.device import resolve_device
from metarl.common.errors import Diverged, Fault, UserError, blaming, shown
from metarl.common.files import NotWritten, reason
from metarl.common.group import Group
from metarl.common.importing import import_named
from metarl.common.output import say, say_on_stdout
from metarl.common.parallel import Workers
from metarl.common.profiling import Profile, timed
from metarl.common.signals import signals_wait, sigterm_raises
from metarl.common.streams import Purpose, stream
from metarl.common.words import dropped_text
from metarl.config.checked import expect
from metarl.config.config import Config, check_processes
from metarl.config.resolved import difference
from metarl.config.settings import EXECUTION
from metarl.config.trust import code_in
from metarl.data import LearnerState, Row
from metarl.envs.family import TaskFamily
from metarl.envs.single import require_whole_episodes
from metarl.envs.spaces import check_parts
from metarl.envs.supervised import SupervisedFamily
from metarl.inner.loop import Measured
from metarl.inner.runner import Runner, check_dropped, make_runner
from metarl.inner.supervised import SupervisedRunner
from metarl.outer.learners import Learner, MetaLearner, OfFirstProcess, before_and_after
from metarl.runs.advice import Advice, against_large_steps, not_accepted
from metarl.runs.build import build, require_enough_to_train
from metarl.runs.processes import joined, launch
from metarl.runs.room import require_room_to_train
from metarl.runs.trained_agent import Agent, require_same_data
from metarl.runs.warm_start import learner_from
from metarl.store.checkpoints import RunState, load_checkpoint
from metarl.store.config_file import load_config
from metarl.store.folder import RunFolder
from metarl.store.lock import locked
from metarl.store.progress import Progress, read_progress
from metarl.store.provenance import provenance
from metarl.store.writer import RunWriter, SilentWriter, Writer


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished training run.

    Attributes:
        path: Folder of the run.
        agent: The agent after the last iteration.
        progress: The columns of progress.csv by name, [row]: numbers, NaN where a cell is empty, or texts. Without rows
            there are none. A dictionary, so that ``pandas.DataFrame(run.progress)`` is a table.
        dropped_episodes: Episodes left out because they were bad, in training and validation.
    """

    path: Path
    agent: Agent
    progress: Progress
    dropped_episodes: int = 0

    def __repr__(self) -> str:
        number = len(self.progress.get("iteration", ()))
        return f"FinishedRun({str(self.path)!r}, {self.agent!r}, {number} rows of progress)"

    def remarks(self) -> list[str]:
        """What to know of the run beside its returns, by its progress: parts of sentences.

        How many meta-steps left the meta-parameters as they were, and what to try if that is more than a fifth; how
        many episodes were dropped.
        """
        outcomes = self.progress.get("outcome", np.array([], dtype=np.str_)).tolist()
        remarks = []
        if found := not_accepted(outcomes):
            advice = f": try {found.remedy(self.agent.settings)}" if found.are_many else ""
            steps = f"{found.count} of {found.total} meta-steps in progress.csv"
            remarks.append(f"{steps} were not accepted ({found.kinds}){advice}")
        if self.dropped_episodes:
            remarks.append(dropped_text(self.dropped_episodes))
        return remarks


Callback = Callable[[int, Row, Agent], bool | None]
"""Called with the number of iterations done, their last row of progress.csv and the agent; True stops the run."""


def train(config: Config, callback: Callback | None = None) -> FinishedRun:
    """Meta-trains an agent; writes configuration, progress and checkpoints into the run's folder.

    Ctrl-C and SIGTERM save a checkpoint first; ``Config(resume=True)`` continues from it, and ``Config(resume="auto")``
    also starts a run whose folder is missing. On a CPU, the iterations of a resumed run are, bit for bit, those of an
    uninterrupted one.

    Args:
        config: The settings.
        callback: Called after each logged iteration, when its row and checkpoints are written, with the number of
            iterations done, the row and the agent. If it returns True, the run is finished early, with its checkpoint;
            ``Config(resume=True)`` would continue it. What it raises ends the run likewise. Its time does not count.
            Of several processes, the first one calls it; ``Config(processes=N)`` sends it there, by pickle.

    Raises:
        UserError: If the folder already holds a run (without ``resume``) or holds another run (with ``resume``), or if
            something that the configuration names does not exist. Nothing is overwritten. Also if another process
            trains in the folder, or the folder cannot be written at the start; or if PyTorch's launcher has started
            several processes that cannot share the tasks.
        Fault: If something went wrong in an iteration; the folder holds what was done before.
        NotWritten: If the folder could not be written at the end; its ``result`` is the finished run.
    """
    settings = expect("config", config, Config).resolve()
    if not (callback is None or callable(callback)):
        raise UserError(f"callback must be a function of (iteration, row, agent), got {shown(callback)}.")
    number = num_launched() or settings.run.processes
    check_processes(settings, number)
    _begins_anew(config)  # Before anything is built, or any process started.
    if number > 1 and not num_launched():
        with sigterm_raises():
            launch(train, config, callback)
        return _finished(config, load_checkpoint(config, "last"))
    device = resolve_device(settings.run.device) if number == 1 else torch.device("cpu")
    with sigterm_raises(), joined() as group, Trainer(config, device, group, callback) as trainer:
        return _first(config, trainer, group) if group.rank == 0 else _other(config, trainer, group)


def _first(config: Config, trainer: Trainer, group: Group) -> FinishedRun:
    """Trains as the first process, which owns the run's folder."""
    settings, device = config.resolve(), trainer.device
    folder = RunFolder(settings.folder)
    trainer.check_directory()
    with locked(folder, settings.run.take_over) as lock:
        new = _begins_anew(config)  # Again, because another process may have had the folder meanwhile.
        if not new:
            require_same_data(config, trainer.family)
        state = trainer.initial() if new else load_checkpoint(config, "last", to_resume=True)
        Agent(config, state.learner.meta)  # Refuses a checkpoint that does not fit.
        group.first(state)
        if not new and state.iteration >= settings.run.iterations:
            more = "; raise iterations (--iterations) for more" if state.iteration else ""
            say_on_stdout(f"{folder.path} has done its {state.iteration} iterations{more}")
            return _finished(config, state)
        data = {"data": trainer.family.data} if trainer.family.data else {}
        with RunWriter(config, {**provenance(device), **data}, lock, state) as writer:
            writer.begin(new)
            state = trainer.train(state, writer)
    run = _finished(config, state)
    if lost := writer.unsaved():
        raise NotWritten(lost, run)
    return run


def _other(config: Config, trainer: Trainer, group: Group) -> FinishedRun:
    """Trains as another process, which writes nothing and has no progress of its own."""
    state = trainer.train(group.first(RunState(trainer.learner.initial())), SilentWriter())
    path = RunFolder(config.folder).path
    return FinishedRun(path, Agent(config, state.learner.meta), Progress(), state.dropped_episodes)


def _finished(config: Config, state: RunState) -> FinishedRun:
    path, progress = RunFolder(config.folder).path, Progress()
    try:
        progress = read_progress(path)
    except OSError as error:
        say(f"cannot read the progress of {path}: {reason(error)}; the run is whole, without it")
    return FinishedRun(path, Agent(config, state.learner.meta), progress, state.dropped_episodes)


def _begins_anew(config: Config) -> bool:
    """Whether the run begins in its folder; else it goes on there. Raises UserError if it may do neither."""
    folder, resume = RunFolder(config.folder), config.resolve().run.resume
    new = folder.begins(resume)
    if not (new or resume):
        raise folder.taken()
    if folder.holds_run() or not new:
        _check_same_run(config)
    return new


def _check_same_run(config: Config) -> None:
    now = config.to_dict()
    before = load_config(config.folder, trust=code_in(now).values()).to_dict()
    if changed := difference(before, now, (name for name in now if name not in (*EXECUTION, "iterations"))):
        raise UserError(f"{config.folder} was run with {changed}; resume it with its own settings.")


class Trainer:
    """Runs the iterations of a learner, with validation, progress and checkpoints.

    Args:
        config: The settings.
        device: Device of adaptation and meta-step.
        group: The processes that share the tasks; by default this one is alone.
        callback: As of `train`.

    Attributes:
        family: The task family.
        learner: Runs one iteration.
        device: As given.
    """

    def __init__(
        self, config: Config, device: torch.device, group: Group | None = None, callback: Callback | None = None
    ) -> None:
        group, self._callback = group or Group(), callback
        self._directory = os.getcwd()  # Before anything is built, which may change it.
        self._config, self._settings, self.device, self._group = config, config.resolve(), device, group
        self.family, self._rule = build(self._settings)
        require_enough_to_train(self._settings, self._rule)
        require_room_to_train(self._settings, self._rule)
        # Here, so that a wrong task space is told before anything is written.
        check_parts(self.family.task_space, f"the tasks of {self.family.name}")
        if isinstance(self.family, SupervisedFamily) and (examples := self._settings.examples):
            self.family.require_examples(examples.shots + examples.queries)
        run = self._settings.run
        self._workers = Workers(run.threads, group)
        self._advice = Advice(self._settings)
        self.learner = self._make_learner()
        # The tasks of a finite family repeat: to adapt to each once would let chance choose the best checkpoint.
        finite = self.family.finite_tasks
        self._num_validation_tasks = max(run.validation_tasks, 0 if finite is None else len(finite))
        self._validator: Runner | SupervisedRunner | None = None
        own = group.share(self._num_validation_tasks)
        if run.validate_every and own.stop > own.start:
            size = self._num_validation_tasks
            self._validator = make_runner(self.family, self._rule, size, self._settings, self._workers, device)
        self._measured = (self.family.measure, *self.family.metrics)
        self._best_by = run.best_by or self.family.measure
        profiles = run.profile and group.rank == 0
        self._profile = Profile(RunFolder(self._settings.folder).trace, device) if profiles else None

    def __enter__(self) -> Trainer:
        self._workers.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._workers.__exit__(None, None, None)
        self.learner.close()
        if self._validator:
            self._validator.close()
        if self._profile:
            self._profile.close()

    def check_directory(self) -> None:
        """Raises UserError, after going back, if the working directory is another one and the run's folder is in it."""
        now = os.getcwd()
        if now != self._directory and not self._settings.folder.is_absolute():
            os.chdir(self._directory)
            raise UserError(
                f"an environment or a callback has changed the working directory from {self._directory} to {now}, and "
                f"the run's folder {self._settings.folder} is relative to it; give run_dir (--run-dir) as an absolute "
                "path, or change the directory back."
            )

    def initial(self) -> RunState:
        """The state of a new run.

        Raises:
            UserError: If it should start from a run that does not fit, or if environments end episodes too early.
        """
        if isinstance(self.family, TaskFamily):
            require_whole_episodes(self.family, self._settings.rollouts.horizon)
        learner, source = self.learner.initial(), self._settings.run.init_from
        if source is not None:
            theirs = learner_from(source, self._config, len(learner.meta))
            learner = LearnerState(theirs.meta, {**learner.memory, **theirs.memory})
        return RunState(learner)

    def train(self, state: RunState, writer: Writer) -> RunState:
        """Runs the remaining iterations, unless the callback stops them; returns the run's state at the end."""
        run, first = self._settings.run, state.iteration + 1
        state = replace(state, learner=replace(state.learner, meta=state.learner.meta.to(self.device)))
        try:
            while state.iteration < run.iterations:
                number = state.iteration + 1
                with self._profiled(number, first):
                    state, row = self._advance(state, writer)
                    if number % run.checkpoint_every == 0:
                        with timed("checkpoint"):
                            writer.checkpoint(state)
                # All processes stop together.
                if row is not None and self._group.first(self._stops(state, row)):
                    break
        finally:
            # Keep the finished iterations however the loop ends, also by Ctrl-C or an error.
            with signals_wait():
                writer.finish(state)
        return state

    def _stops(self, state: RunState, row: Row) -> bool:
        """Calls the callback, in the first process; returns whether it stops the run."""
        if self._callback is None or self._group.rank != 0:
            return False
        answer = self._callback(state.iteration, row, Agent(self._config, state.learner.meta.clone()))
        self.check_directory()
        if not (answer is None or isinstance(answer, bool | np.bool_)):
            raise UserError(f"callback must return True, to stop the run, or False or None, got {shown(answer)}.")
        return bool(answer)

    def _profiled(self, number: int, first: int) -> AbstractContextManager[None]:
        return self._profile.iteration(number, first, self._settings.run.iterations) if self._profile else nullcontext()

    def _advance(self, state: RunState, writer: Writer) -> tuple[RunState, Row | None]:
        """One iteration with validation and logging; returns the run's state after it, and its row if it is logged."""
        validate_every, begin, cpu_begin = self._settings.run.validate_every, time.perf_counter(), time.process_time()
        done, run = state.iteration + 1, self._settings.run
        validates = validate_every > 0 and done % validate_every == 0
        logs = done % run.log_every == 0 or validates or done == run.iterations
        with blaming(lambda: f"in iteration {done}"), self._advising():
            learner, numbers = self.learner.iteration(state.learner, state.iteration, describe=logs)
        self.check_directory()
        row, validation_steps = dict(numbers), 0
        self._check_finite(learner, done)
        iteration_seconds = time.perf_counter() - begin
        if validates:
            with (
                timed("validation"),
                blaming(lambda: f"in the validation after iteration {done}"),
                self._advising(True),
            ):
                validated, validation_steps, dropped = self._validate(learner.meta)
            row |= validated
            if "dropped_episodes" in row:
                row["dropped_episodes"] = int(row["dropped_episodes"]) + dropped
        elif validate_every:
            nothing = dict.fromkeys(self._measured, torch.full((1, 1), math.nan))
            row |= dict.fromkeys(_validation_columns(nothing), "")
        steps = int(row.pop("env_steps", 0))
        cpu_seconds = sum(self._group.gather(time.process_time() - cpu_begin))
        new = replace(
            state,
            learner=learner,
            iteration=done,
            env_steps=state.env_steps + steps,
            validation_env_steps=state.validation_env_steps + validation_steps,
            seconds=state.seconds + time.perf_counter() - begin,
            cpu_seconds=state.cpu_seconds + cpu_seconds,
            dropped_episodes=state.dropped_episodes + int(row.get("dropped_episodes", 0)),
        )
        validation = row.get(f"validation_post_adaptation_{self._best_by}", "")
        in_environments = {"env_steps": new.env_steps} if steps else {}
        if steps and validate_every:
            in_environments["validation_env_steps"] = new.validation_env_steps
        speed = {"steps_per_second": round(steps / iteration_seconds, 1)} if steps else {}
        with timed("logging"):
            times = {"seconds": round(new.seconds, 3), "cpu_seconds": round(new.cpu_seconds, 3)}
            full = {"iteration": done, **in_environments, **times, **speed, **row} if logs else None
            writer.row(full)
            for remark in (*self._workers.findings, *self._advice.after(row)):
                writer.say(remark)
            self._workers.findings.clear()
        sign = self.family.sign_of(self._best_by)
        if isinstance(validation, float) and state.best_return < sign * validation < math.inf:
            new = replace(new, best_return=sign * validation)
            with timed("checkpoint"):
                writer.best(new)
        return new, full

    def _check_finite(self, learner: LearnerState, iteration: int) -> None:
        """Raises Fault unless the learner's numbers are finite."""
        tensors = (learner.meta, *learner.memory.values())
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            raise Fault(
                f"iteration {iteration} gave meta-parameters that are not finite numbers; the run stops with the "
                f"checkpoint after iteration {iteration - 1}. Train again with {against_large_steps(self._settings)}."
            )

    @contextmanager
    def _advising(self, validating: bool = False) -> Iterator[None]:
        """Names the settings behind steps that were too large."""
        try:
            yield
        except Diverged as error:
            raise Fault(f"{error} Try {against_large_steps(self._settings, validating)}.") from error

    def _validate(self, meta: torch.Tensor) -> tuple[dict[str, float | int | str], int, int]:
        """Columns of the validation, environment steps, dropped episodes; tasks and streams are the same every time."""
        seed = self._settings.run.seed
        tasks = self.family.sample_tasks(
            self._num_validation_tasks, stream(seed, Purpose.VALIDATION_TASKS), "validation"
        )
        stages = self._rule.stages((1.0,) * self._settings.inner.num_inner_steps)
        own = list[Measured]()
        if self._validator:  # Where there are fewer tasks than processes, some have none.
            adapted, _ = self._validator.run(meta, tasks, stages, seed, Purpose.VALIDATION_ROLLOUTS, 0)
            own = [adapted.on_cpu()]
        measured = Measured.joined([part for parts in self._group.gather(own) for part in parts])
        check_dropped(measured)
        columns = _validation_columns({self.family.measure: measured.returns, **measured.metrics})
        return columns, measured.env_steps, len(measured.dropped)

    def _make_learner(self) -> Learner:
        baseline = self._settings.baseline
        if baseline and baseline.trainer == "ppo":
            # Imported by name and only here: importing Stable-Baselines3 takes a second.
            make_learner = import_named("metarl.sb3.ppo:PPOLearner", "learner")
            if self._group.size > 1 and self._group.rank == 0:
                say(
                    f"Stable-Baselines3's ppo trains in the first of {self._group.size} processes alone; "
                    "baseline.trainer trpo shares the work."
                )
            return OfFirstProcess(make_learner(self._settings, self.family, self._rule.policy), self._group)
        return MetaLearner(self._settings, self.family, self._rule, self._workers, self.device)


def _validation_columns(measured: Mapping[str, torch.Tensor]) -> dict[str, float | int | str]:
    return {f"validation_{name}": value for name, value in before_and_after(measured).items()}
