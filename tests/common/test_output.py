"""What is said is no reason to stop: closed and full outputs."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
from tiny_runs import ROOT

from metarl.common.output import Unbreakable, progress_bar, say, say_above_bars

PROGRAM = """
import os, sys
from metarl.common.output import close_standard_streams, open_standard_streams, say, say_on_stdout
open_standard_streams()
with open(sys.argv[1], "w") as file:
    assert file.fileno() > 2
    say("words")
    say_on_stdout("words")
    print("result", file=file)
close_standard_streams()
"""


@pytest.mark.parametrize("outputs", [">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full", ">/dev/null 2>&-"])
def test_a_process_goes_on_without_its_outputs_and_prints_into_no_file(tmp_path, outputs):
    command = f'exec "{sys.executable}" -c "$0" "{tmp_path}/file" {outputs}'
    assert subprocess.run(["bash", "-c", command, PROGRAM], cwd=ROOT, check=False).returncode == 0
    assert (tmp_path / "file").read_text() == "result\n"


def test_words_are_dropped_where_there_is_no_stderr_or_a_closed_one(monkeypatch, tmp_path):
    with (tmp_path / "log").open("w") as closed:
        pass
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        say("words")
        assert Unbreakable().write("words") == 5
        assert sum(progress_bar(range(3))) == 3


def test_a_bar_in_a_log_file_is_whole_lines_and_in_a_notebook_a_live_one(monkeypatch, tmp_path):
    with (tmp_path / "log").open("w+") as log:
        monkeypatch.setattr(sys, "stderr", log)
        monkeypatch.setattr(sys, "__stderr__", log)
        bar = progress_bar(total=1000, bar_format="{n}/{total}")
        for index in range(1000):
            bar.update()
            if index == 500:
                say_above_bars("words")
        bar.refresh()  # As on an iteration that ends 30 seconds after the latest line.
        bar.close()
        log.seek(0)
        assert log.read() == "0/1000\nwords\n501/1000\n1000/1000\n"
        log.seek(0)
        log.truncate()
        assert sum(progress_bar(range(3), leave=False)) == 3
        log.seek(0)
        assert log.read() == ""  # It was done within 30 seconds.
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress_bar(total=1, bar_format="{n}/{total}").close()
    assert sys.stderr.getvalue().startswith("\r0/1")


@pytest.mark.parametrize(("size", "live"), [((24, 80), True), ((0, 0), False)])
def test_a_terminal_without_a_size_gets_lines(monkeypatch, size, live):
    """As containers and `ssh -tt` have it."""
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with os.fdopen(writing, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "__stderr__", terminal)
        progress_bar(total=7, bar_format="{n}/{total}").close()
        terminal.flush()
        shown = os.read(reading, 1000).decode()
    os.close(reading)
    assert "0/7" in shown
    assert shown.startswith("\r") == live
