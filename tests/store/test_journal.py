"""A file that grows: nothing is lost by a full disk or a deleted file, and no half line stays."""

import os

import pytest
from disks import full_disk

from metarl.store.journal import Journal


def test_what_cannot_be_written_waits(tmp_path):
    path = tmp_path / "folder" / "file"
    journal = Journal(path, b"first\n")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        journal.flush()
    assert not path.exists()
    journal.flush()
    journal.add(b"second\n")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        journal.flush()
    assert path.read_text() == "first\n"
    journal.add(b"third\n")
    journal.flush()
    assert path.read_text() == "first\nsecond\nthird\n"
    journal.close()


def test_half_a_line_is_taken_back(tmp_path, monkeypatch):
    class Interrupted:
        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, content):
            self._file.write(content[:3])
            raise KeyboardInterrupt

    path = tmp_path / "file"
    journal = Journal(path, b"first\n")
    journal.flush()
    whole, journal._file = journal._file, Interrupted(journal._file)
    journal.add(b"second\n")
    with pytest.raises(KeyboardInterrupt):
        journal.flush()
    assert path.read_text() == "first\n"
    journal._file = whole
    journal.flush()
    assert path.read_text() == "first\nsecond\n"
    journal.close()


def test_a_deleted_file_comes_back_as_a_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("older")
    journal = Journal(path, b"first\n", tmp_path / "kept")
    journal.flush()
    journal.add(b"second\n")
    journal.flush()
    path.unlink()
    journal.add(b"third\n")
    journal.flush(to_disk=True)
    assert path.read_text() == "first\nsecond\nthird\n"
    assert (tmp_path / "kept").read_text() == "older"
    assert sorted(os.listdir(tmp_path)) == ["file", "kept"]
    journal.close()
