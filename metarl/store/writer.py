"""Writes a run's folder while the run lasts. A folder that cannot be written does not stop the training."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from metarl.common.errors import UserError
from metarl.common.files import reason
from metarl.common.output import say, say_above_bars
from metarl.config.config import Config
from metarl.config.trust import trust_options
from metarl.data import Row
from metarl.store.checkpoints import RunState, save_checkpoint
from metarl.store.config_file import save_config
from metarl.store.folder import RunFolder
from metarl.store.lock import Lock
from metarl.store.progress import ProgressLog


class Writer(Protocol):
    """Where training puts rows and checkpoints."""

    def row(self, row: Row | None) -> None:
        """Writes the numbers of an iteration, or counts it if there are none."""

    def say(self, text: str) -> None:
        """Tells the user something beside the numbers."""

    def best(self, state: RunState) -> None:
        """Writes the best checkpoint so far."""

    def checkpoint(self, state: RunState) -> None:
        """Writes a checkpoint."""

    def finish(self, state: RunState) -> None:
        """Writes the last checkpoint of the run."""


class SilentWriter:
    """The writer of processes other than the first, which does nothing."""

    def row(self, row: Row | None) -> None: ...

    def say(self, text: str) -> None: ...

    def best(self, state: RunState) -> None: ...

    def checkpoint(self, state: RunState) -> None: ...

    def finish(self, state: RunState) -> None: ...


class RunWriter:
    """Writes rows and checkpoints. What cannot be written waits, and is tried again at the next checkpoint.

    A run that is stopped, by a fault or a signal, is told on stderr how it goes on, or what is lost.

    Args:
        config: The run's configuration.
        provenance: Software and hardware, for config.json.
        lock: The right to write into the run's folder.
        state: Where the run stands.
    """

    def __init__(self, config: Config, provenance: Mapping[str, Any], lock: Lock, state: RunState) -> None:
        self._config, self._provenance, self._lock = config, provenance, lock
        self._folder, self._run = RunFolder(config.folder), config.resolve().run
        self._log = ProgressLog(config.folder, state.iteration, self._run.iterations, self._run.log_every)
        self._newest = {"last": state}
        self._waiting: dict[str, RunState] = {}
        self._saved = state.iteration
        self._begun = False
        self._failure: str | None = None

    def begin(self, new: bool) -> None:
        """Writes config.json and, for a new run, the first checkpoint: from then on it can be resumed.

        Raises:
            UserError: If the folder cannot be written.
        """
        try:
            save_config(self._config, self._provenance)
            if new:
                self._add_checkpoint(self._newest["last"])
                self._save()
        except OSError as error:
            raise self._folder.refusal(error) from error
        self._begun = True

    def row(self, row: Row | None) -> None:
        """Writes the numbers of an iteration, or counts it if there are none."""
        if row is None:
            self._log.skip()
            return
        self._log.write(row)
        if self._failure is None:
            self._attempt(self._flush)

    def say(self, text: str) -> None:
        """Prints a line above the live line."""
        say_above_bars(text)

    def best(self, state: RunState) -> None:
        """Writes the best checkpoint so far."""
        self._add("best", state)
        if self._failure is None:
            self._attempt(self._save)

    def checkpoint(self, state: RunState) -> None:
        """Writes a checkpoint; with ``keep_checkpoints`` also one that later ones do not replace."""
        self._add_checkpoint(state)
        self._attempt(self._save)

    def finish(self, state: RunState) -> None:
        """Writes the last checkpoint of the run, unless it has been written."""
        if state.iteration != self._newest["last"].iteration:
            self._add("last", state)
        self._attempt(self._save, goes_on=False)

    def unsaved(self) -> str | None:
        """What is lost because the folder could not be written, as a sentence; None if nothing is."""
        if self._failure is None:
            return None
        return f"{self._failure}; what was done after iteration {self._saved} is not saved."

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._log.__exit__()
        if kind and self._begun:
            say(self.unsaved() or self._how_to_continue())

    def _how_to_continue(self) -> str:
        path = self._folder.path
        own = trust_options(self._config.to_dict())
        command = " ".join([f"python -m metarl.train --run-dir {shlex.quote(str(path))} --resume", *own])
        return f"stopped; {path} holds the run up to iteration {self._saved}; to continue: {command}"

    def _add_checkpoint(self, state: RunState) -> None:
        self._add("last", state)
        if self._run.keep_checkpoints:
            self._waiting[f"iteration{state.iteration}"] = state

    def _add(self, which: str, state: RunState) -> None:
        self._newest[which] = self._waiting[which] = state

    def _flush(self, to_disk: bool = False) -> None:
        self._lock.hold()
        if not self._folder.config.is_file():
            say_above_bars(f"{self._folder.path} was deleted during the run; it is written anew.")
            save_config(self._config, self._provenance)
            self._waiting |= self._newest
        self._log.flush(to_disk)

    def _save(self) -> None:
        self._flush(to_disk=True)  # First, so that no checkpoint outlives the rows before it.
        for which in list(self._waiting):
            save_checkpoint(self._config, which, self._waiting[which])
            del self._waiting[which]
        self._saved = self._newest["last"].iteration

    def _attempt(self, write: Callable[[], None], goes_on: bool = True) -> None:
        before, self._failure = self._failure, None
        try:
            write()
        except OSError as error:
            self._failure = f"cannot write into {self._folder.path}: {reason(error)}"
        except UserError as error:  # The folder is another process's.
            self._failure = str(error).rstrip(".")
            raise
        if goes_on and self._failure and self._failure != before:
            say_above_bars(f"{self._failure}; training goes on, and it is tried again at the next checkpoint.")
        if before and not self._failure:
            say_above_bars(f"{self._folder.path} can be written again; nothing is missing in it.")
