"""Files are either as before or complete, and what cannot be written is known at once."""

import os
import stat
from contextlib import suppress

import pytest
from disks import full_disk

from metarl.common.files import replacing, unwritable


def test_a_file_is_replaced_as_a_whole_with_the_users_permissions(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    before = os.umask(0o002)
    try:
        with replacing(path) as file:
            file.write(b"new")
            assert path.read_text() == "old"
    finally:
        os.umask(before)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o664
    assert os.listdir(tmp_path) == ["file"]


def test_nothing_changes_if_the_write_fails_or_is_interrupted(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with full_disk(), pytest.raises(OSError, match="File too large"), replacing(path, tmp_path / "kept") as file:
        file.write(b"new")
    with suppress(KeyboardInterrupt), replacing(path, tmp_path / "kept") as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("links", [True, False])
def test_the_old_file_is_kept_under_another_name(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for content in (b"1", b"2", b"3"):
        with replacing(tmp_path / "file", tmp_path / "kept") as file:
            file.write(content)
    assert [(tmp_path / name).read_bytes() for name in ("file", "kept")] == [b"3", b"2"]


def test_the_content_is_on_the_disk_before_its_name_and_the_name_at_once_after(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, f=function: (calls.append(n), f(*a))[1])
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert calls == ["fsync", "replace", "fsync"]


def test_whether_a_file_can_be_written_is_tried_without_a_trace(tmp_path):
    assert unwritable(tmp_path / "file") is None
    assert unwritable(tmp_path / "new" / "folder" / "file") is None
    assert unwritable(tmp_path) == "it is a folder"
    assert unwritable(tmp_path / ("x" * 300)) == "File name too long"
    with full_disk():
        assert unwritable(tmp_path / "file") == "File too large"
    (tmp_path / "blocks").write_text("")
    assert unwritable(tmp_path / "blocks" / "file") == "Not a directory"
    assert os.listdir(tmp_path) == ["blocks"]
