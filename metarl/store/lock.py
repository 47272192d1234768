"""Who trains in a run's folder: one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from metarl.common.errors import Fault, UserError
from metarl.common.files import is_at
from metarl.common.output import say
from metarl.store.folder import RunFolder


@dataclass(frozen=True)
class Owner:
    """A process that trains in a folder.

    Attributes:
        host: Name of its machine.
        namespace: The machine's or container's numbering of processes, "" where the system does not say.
        process: Its number.
        started: When it started, which tells it from a later process with the same number; "" where the system does not
            say.
        run: Tells the runs of one process apart.
    """

    host: str
    namespace: str
    process: int
    started: str
    run: str

    def is_near(self, other: Owner) -> bool:
        """Whether the processes see each other."""
        return (self.host, self.namespace) == (other.host, other.namespace)

    def was_before(self, other: Owner) -> bool:
        """Whether this process belongs to another start of the system than ``other``, or to another system."""
        starts = [owner.started.partition(" ")[0] for owner in (self, other)]
        return all(starts) and starts[0] != starts[1]

    def has_ended(self) -> bool:
        """Whether this process, near to us, has ended. One that is stopped for a while has not."""
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # It is another user's.
        return _start(self.process) not in (self.started, "")


def _myself() -> Owner:
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return Owner(socket.gethostname(), namespace, os.getpid(), _start(os.getpid()), uuid.uuid4().hex)


def _start(process: int) -> str:
    """Start of a process: which start of the system, and ticks since then; "" if the system does not say."""
    try:
        # The second field is the program's name in brackets, which may hold anything.
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, ValueError):
        return ""
    return "ended" if state in "ZX" else f"{boot} {fields[18]}"


class Lock:
    """The right to write into a run's folder.

    The lock is a file that names its owner. Reading, judging and writing it is one step, in which no other process can
    take part. The lock of a process that has ended is void; whether one on another machine has cannot be known.

    Args:
        folder: The run's folder; it need not exist yet.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._me = _myself()
        self._held = False

    def hold(self, take_over: bool = False) -> None:
        """Takes the lock; if this object has it, makes sure that this is still so. A deleted folder is made again.

        Args:
            take_over: Whether to take it from a process on another machine.

        Raises:
            UserError: If another process trains in the folder, or may do so.
            Fault: If another process did so since this object took the lock.
            OSError: If the lock cannot be written.
        """
        self._folder.path.mkdir(parents=True, exist_ok=True)
        with _opened(self._folder.lock) as file:
            owner = _read(file)
            if owner == self._me:
                return
            void = owner is None
            try:
                self._judge(owner, take_over)
                void = True
                file.truncate(0)
                json.dump(asdict(self._me), file)
                file.flush()
            except BaseException:
                if void:  # Leave no file that names nobody.
                    self._folder.lock.unlink(missing_ok=True)
                raise
            self._held = True

    def release(self) -> None:
        """Gives the lock back, if this object has it."""
        with suppress(OSError):  # The folder was deleted, or can no longer be written.
            if self._folder.lock.is_file():
                with _opened(self._folder.lock) as file:
                    if _read(file) == self._me:
                        self._folder.lock.unlink()

    def _judge(self, owner: Owner | None, take_over: bool) -> None:
        if self._held and (owner is not None or self._folder.config.is_file()):
            raise Fault(
                f"{self._folder.path} has been taken over by another process meanwhile; this run can write no more."
            )
        if owner is None:
            return
        what = f"{self._folder.path} is in use: process {owner.process} on {owner.host} trains in it"
        if not owner.is_near(self._me):
            if not take_over:
                raise UserError(f"{what}. If it has ended, take the folder over with take_over (--take-over).")
        elif not owner.has_ended():
            raise UserError(f"{what}. Wait for it or stop it, or choose another run_dir (--run-dir).")
        if owner.was_before(self._me):
            say(
                f"{self._folder.path} was in use by process {owner.process} on {owner.host} before the system was "
                "started again; it is taken over. If that is another machine of the same name, stop one of the two."
            )


@contextmanager
def locked(folder: RunFolder, take_over: bool) -> Iterator[Lock]:
    """Holds a folder's lock.

    Raises:
        UserError: If another process trains in the folder, or the folder cannot be written.
    """
    lock = Lock(folder)
    try:
        try:
            lock.hold(take_over)
            folder.tidy()
        except OSError as error:
            raise folder.refusal(error) from error
        yield lock
    finally:
        lock.release()


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Opens the lock's file for one process at a time."""
    while True:
        with path.open("a+", encoding="utf-8") as file:
            with suppress(OSError):  # Some network file systems cannot do this.
                fcntl.flock(file, fcntl.LOCK_EX)
            if is_at(file.fileno(), path):  # Its last owner may have removed it meanwhile.
                yield file
                return


def _read(file: TextIO) -> Owner | None:
    """The owner that the file names; None if it is new, or nothing that a run has written."""
    file.seek(0)
    try:
        owner = Owner(**json.load(file))
        return owner if 0 < owner.process < 2**31 else None
    except (ValueError, TypeError):
        return None
