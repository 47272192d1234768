"""Files that are either as before or complete, whatever happens while they are written."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from metarl.common.errors import Fault
from metarl.common.output import say

WRITING = ".writing"
"""Suffix of a file that is not complete yet; one that stays behind is of no use."""


class NotWritten(Fault):
    """The work was done, but its result could not be written.

    Attributes:
        result: The result.
    """

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


@contextmanager
def keeping(result: Any, path: Path, advice: str = "") -> Iterator[None]:
    """Raises NotWritten, with the result, in place of the OSError of a block that writes a file.

    Args:
        result: What would be lost.
        path: The file.
        advice: What to do, as the end of a sentence.
    """
    try:
        yield
    except OSError as error:
        raise NotWritten(f"cannot write '{path}': {reason(error)}{advice}.", result) from error


@contextmanager
def replacing(path: Path, old_as: Path | None = None) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of ``path`` at the end of the ``with`` block, once it is safe on the disk.

    Whatever happens before, a lost power supply included, ``path`` stays as it was. Permissions are those of any new
    file of this user (umask).

    Args:
        path: The file, which need not exist.
        old_as: Where the old file is kept.

    Raises:
        OSError: If the file cannot be written.
    """
    # Named after the thread, so that nobody else writes into it.
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{WRITING}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if old_as and path.is_file():
            _keep_as(path, old_as)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder safe from a lost power supply."""
    with suppress(OSError):  # Some file systems cannot; the file itself is safe.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _keep_as(path: Path, other: Path) -> None:
    """Keeps a file under another name too, so that there is no moment without ``path``."""
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:  # A file system without hard links.
        shutil.copyfile(path, other)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one with this path: it may have been deleted or replaced."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def warn_if_unwritable(path: Path) -> None:
    """Says at once, before a long computation, if its result cannot be written."""
    if why := unwritable(path):
        say(f"cannot write {path}: {why}; the result will not be saved.")


def unwritable(path: Path) -> str | None:
    """Tries whether a file can be written, and leaves nothing behind.

    Args:
        path: The file; neither it nor its folder need exist.

    Returns:
        The reason if it cannot be written, else None.
    """
    try:
        if path.is_dir():
            return "it is a folder"
        _try_in(next(parent for parent in path.absolute().parents if parent.exists()))
    except OSError as error:
        return reason(error)
    return None


def _try_in(folder: Path) -> None:
    # Some content, because an empty file fits on a full disk.
    with tempfile.NamedTemporaryFile(dir=folder, suffix=WRITING) as file:
        file.write(b"\0" * 4096)
        file.flush()
        os.fsync(file.fileno())


def reason(error: OSError) -> str:
    """The operating system's words for an error."""
    return error.strerror or str(error)
