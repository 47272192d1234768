"""A run's folder has one owner, whatever became of those before."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
from disks import full_disk
from fault_table import fault

from metarl import UserError
from metarl.store.folder import RunFolder
from metarl.store.lock import Lock, locked

# Takes the lock and says so, or says why not; keeps it until stdin is closed.
HOLD = """
import sys
from pathlib import Path
from metarl.store.folder import RunFolder
from metarl.store.lock import Lock
try:
    Lock(RunFolder(Path(sys.argv[1]))).hold()
    print("held", flush=True)
except ValueError as error:
    print(error, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    """Starts processes that take the lock of one folder, all at the same time."""
    running = []

    def start(number=1):
        command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
        new = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)
        ]
        running.extend(new)
        return new, [process.stdout.readline().strip() for process in new]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def named(path, **changes):
    """Changes what a lock says."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@fault("Run folder", "several trainings that start at the same moment", "one gets the folder, the others are refused")
def test_one_of_several_that_start_at_once_gets_the_folder(start, tmp_path):
    _, answers = start(4)
    assert answers.count("held") == 1
    refused = [answer for answer in answers if answer != "held"]
    expected = rf"{tmp_path}/run is in use: process \d+ on {socket.gethostname()} trains in it. Wait for it or stop it,"
    assert all(re.match(expected, answer) for answer in refused)


@fault("Run folder", "a lock whose process is paused; or dead", "it is kept; taken over")
def test_a_lock_is_kept_while_its_process_is_paused_and_void_once_it_is_dead(start, tmp_path):
    (process,), _ = start()
    process.send_signal(signal.SIGSTOP)
    lock = Lock(RunFolder(tmp_path / "run"))
    with pytest.raises(UserError, match=f"process {process.pid} on"):
        lock.hold()
    with pytest.raises(UserError, match=f"process {process.pid} on"):
        lock.hold(take_over=True)  # That is for other machines.
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # A zombie: it has ended, its number is still taken.
    lock.hold()
    lock.release()
    assert not RunFolder(tmp_path / "run").lock.exists()


def test_another_process_with_the_same_number_does_not_keep_a_lock(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    Lock(folder).hold()
    boot = json.loads(folder.lock.read_text())["started"].split()[0]
    named(folder.lock, started=f"{boot} 12")
    Lock(folder).hold()
    assert capsys.readouterr().err == ""


@fault(
    "Run folder",
    "a lock from before the system was started again, or from another machine of the same name",
    "it is taken over, which is said",
)
def test_a_lock_of_another_boot_is_taken_over_aloud(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    Lock(folder).hold()
    named(folder.lock, started="another-boot 12", process=7)
    Lock(folder).hold()
    said = (
        f"{tmp_path} was in use by process 7 on {socket.gethostname()} before the system was started again; it is taken"
    )
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("content", [None, "", "a dead process's"])
def test_a_lock_that_cannot_be_written_leaves_no_file(tmp_path, content):
    folder = RunFolder(tmp_path)
    if content:
        Lock(folder).hold()
        named(folder.lock, started="another-boot 12")
    elif content is not None:
        folder.lock.write_text(content)
    with full_disk(), pytest.raises(UserError, match="cannot write into"), locked(folder, False):
        pass
    assert not folder.lock.exists()


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}])
def test_a_lock_of_another_machine_is_taken_over_on_request_only(tmp_path, changes):
    folder = RunFolder(tmp_path)
    Lock(folder).hold()
    named(folder.lock, **changes)
    with pytest.raises(UserError, match=r"If it has ended, take the folder over with take_over \(--take-over\)\."):
        Lock(folder).hold()
    first, second = Lock(folder), Lock(folder)
    first.hold(take_over=True)
    with pytest.raises(UserError, match="is in use"):
        second.hold(take_over=True)


def test_two_runs_of_one_process_are_told_apart(tmp_path):
    with locked(RunFolder(tmp_path), False) as lock:
        lock.hold()
        with pytest.raises(UserError, match=f"process {os.getpid()}"), locked(RunFolder(tmp_path), False):
            pass
        assert RunFolder(tmp_path).lock.exists()  # The second has not released what it did not have.
    assert not RunFolder(tmp_path).lock.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}', '"x"', "\0" * 100])
def test_a_lock_that_no_run_has_written_is_nobodys(tmp_path, content):
    RunFolder(tmp_path).lock.write_text(content)
    Lock(RunFolder(tmp_path)).hold()


def test_many_threads_that_take_and_release_are_never_two_at_once(tmp_path):
    inside, most, entered = [], [], []

    def enter():
        for _ in range(20):
            try:
                with locked(RunFolder(tmp_path), False):
                    inside.append(1)
                    RunFolder(tmp_path).lock.read_text()  # Lets another thread in, if the lock does.
                    most.append(len(inside))
                    inside.pop()
                    entered.append(1)
            except UserError:
                pass

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert entered
    assert os.listdir(tmp_path) == []


def test_what_an_earlier_process_left_unfinished_is_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    names = ("config.json.1-2.writing", "progress.csv.1-2.writing", "checkpoints/last.safetensors.1-2.writing")
    others = ("evaluation.json.1-2.writing", "progress.csv", "thesis.txt")
    for name in (*names, *others):
        (tmp_path / name).write_text("")
    with locked(RunFolder(tmp_path), False):
        pass
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == set(others)


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write into .*: Not a directory; choose another"):
        locked(RunFolder(tmp_path / "file" / "run"), False).__enter__()
