"""A file that grows while a run lasts."""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path

from metarl.common.files import is_at, replacing


class Journal:
    """Appends to a file. What cannot be written waits, and is written together with what follows.

    Args:
        path: The file. The first `flush` replaces it and makes its folder.
        content: What the new file begins with.
        old_as: Where the old file is kept, if it is to be.
    """

    def __init__(self, path: Path, content: bytes, old_as: Path | None = None) -> None:
        self._path, self._old_as = path, old_as
        self._waiting = content
        self._file: FileIO | None = None

    def add(self, content: bytes) -> None:
        """Appends ``content`` at the next `flush`."""
        self._waiting += content

    def flush(self, to_disk: bool = False) -> None:
        """Writes what waits.

        Args:
            to_disk: Whether to wait until the disk has it, so that it outlives a lost power supply.

        Raises:
            OSError: If it cannot be written; it goes on waiting, and the file is as before.
        """
        if self._file and not is_at(self._file.fileno(), self._path):
            self._take_back(self._file)
        if self._file:
            self._append(self._file)
        else:
            self._path.parent.mkdir(exist_ok=True)
            with replacing(self._path, self._old_as) as file:
                file.write(self._waiting)
            self._file = FileIO(self._path, "a+")
            self._waiting = b""
        if to_disk:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; what waits is dropped."""
        if self._file:
            self._file.close()

    def _take_back(self, file: FileIO) -> None:
        """Takes the content out of a file that was deleted or replaced; it lives as long as it is open."""
        file.seek(0)
        self._waiting = file.readall() + self._waiting
        self._file, self._old_as = None, None
        file.close()

    def _append(self, file: FileIO) -> None:
        before = os.fstat(file.fileno()).st_size
        try:
            rest = memoryview(self._waiting)
            while rest:
                rest = rest[file.write(rest) :]
            self._waiting = b""
        except BaseException:  # Ctrl-C, too, must leave no half a row.
            file.truncate(before)
            raise
