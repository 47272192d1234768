"""Several seeds side by side."""

import io
import signal
import subprocess
import sys

import pytest
from tiny_runs import TINY, arguments, assert_same_run, numbers, tiny

from metarl import UserError
from metarl.commands import seeds
from metarl.commands.seeds import split_seeds
from metarl.commands.train import main
from metarl.config.settings import RunSettings
from metarl.runs.training import train


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--env navigation", ([], "--env navigation")),
        ("--seeds 0-2 --env navigation", ([0, 1, 2], "--env navigation")),
        ("--algo maml --seeds 0 2 5-6", ([0, 2, 5, 6], "--algo maml")),
        ("--seeds=7", ([7], "")),
    ],
)
def test_seeds_are_numbers_and_ranges(line, expected):
    found, others = split_seeds(line.split())
    assert (found, " ".join(others)) == expected


IN_RANGE = "must be whole numbers from 0 to 999999999"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--seeds", "must be 1 to 1000 seeds, such as 0-4 or 0 2 5, got ''"),
        ("--seeds 9-7", "9-7 ends before it begins; write 7-9"),
        ("--seeds 0-2 9-7", "9-7 ends before it begins; write 7-9"),
        ("--seeds a", f"{IN_RANGE}, such as 0-4 or 0 2 5, got 'a'"),
        ("--seeds 20240101123", f"{IN_RANGE}, .* got '20240101123'"),
        ("--seeds -1", f"{IN_RANGE}, .* got '-1'"),
        ("--seeds 0-999999999", "must be 1 to 1000 seeds, .* got '0-999999999'"),
        ("--seeds 1 0-2", "must differ, and names 1 more than once"),
        ("--seeds 1 --seed 2", "both say which seeds to train"),
    ],
)
def test_impossible_seeds_are_refused(line, message):
    with pytest.raises(UserError, match=f"--seeds.* {message}"):
        split_seeds(line.split())


def test_what_is_left_out_of_a_preset_is_said_once(monkeypatch, capsys):
    started = []
    monkeypatch.setattr(seeds._Processes, "start", lambda _, seed, words: started.append(seed))
    monkeypatch.setattr(seeds, "available_cores", lambda: 2)
    monkeypatch.setattr(seeds._Processes, "ended", lambda processes: iter([]))
    assert main(["--seeds", "0-1", "--preset", "maml-navigation", "--algo", "random"]) == 0
    assert started == [0, 1]
    assert capsys.readouterr().err == "without effect here, and so not taken over: trpo, iterations\n"


def test_seeds_train_side_by_side_and_one_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(seeds, "available_cores", lambda: 1)
    (tmp_path / "run-seed0").mkdir()
    (tmp_path / "run-seed0" / "mine").touch()
    line = ["--seeds", "0-1", "--run-dir", "run", "--algo", "maml", "--iterations", "1", *arguments(TINY)]
    assert main(line) == 1
    printed, shown = capsys.readouterr()
    assert printed.splitlines() == [
        "seed 0 started",
        "seed 0: error: run-seed0 exists and is not an empty folder; choose another run_dir (--run-dir).",
        "seed 1 started",
        "seed 1: done; next: python -m metarl.evaluate run-seed1",
        "1 of 2 seeds are done: 1",
    ]
    assert shown == "error: these seeds have failed: 0 (exit code 2).\n"
    train(tiny("alone", seed=1, iterations=1))
    assert numbers("run-seed1") == numbers("alone")


@pytest.mark.slow
def test_the_same_command_with_resume_goes_on_with_each_seed_that_has_begun_and_starts_the_others(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    train(tiny("run-seed0", seed=0, iterations=1))
    line = ["--seeds", "0-1", "--run-dir", "run", "--algo", "maml", "--iterations", "2", *arguments(TINY), "--resume"]
    assert main(line) == 0, capsys.readouterr().err
    for seed in (0, 1):
        train(tiny(f"alone{seed}", seed=seed))
        assert_same_run(f"run-seed{seed}", f"alone{seed}")


@pytest.mark.parametrize(
    ("settings", "at_once"), [({"threads": 1}, 16), ({"threads": 4}, 4), ({"threads": 0}, 1), ({"processes": 32}, 1)]
)
def test_as_many_seeds_as_fill_the_cores_train_at_once(settings, at_once, monkeypatch):
    monkeypatch.setattr(seeds, "available_cores", lambda: 16)
    assert seeds._at_once([RunSettings(**{"threads": 1, **settings}), RunSettings(threads=1)]) == at_once


@pytest.mark.parametrize("option", ["--threads", "--run-dir"])
def test_an_option_without_its_value_is_told(option, capsys):
    assert main(["--seeds", "0-1", option]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: argument {option}")
    assert told.endswith(": expected one argument.\n")


def test_a_mistake_is_told_before_anything_starts(capsys):
    assert main(["--seeds", "0-4", "--algo", "mamle"]) == 2
    printed, shown = capsys.readouterr()
    assert printed == ""
    assert "Did you mean 'maml'" in shown


TRACEBACK = "Traceback (most recent call last):\n  File\nValueError: boom\nIt happened here."


@pytest.mark.parametrize(
    ("printed", "failed", "told"),
    [
        ("begins\n1/2 it\rdone; next\n", False, "done; next"),
        (f"begins\n{TRACEBACK}\n", True, TRACEBACK),
        ("begins\nerror: no such family.\n", True, "error: no such family."),
        ("", True, "printed nothing"),
        ("killed\n", True, "killed"),
    ],
)
def test_of_a_seed_that_failed_the_whole_error_is_shown(printed, failed, told):
    assert seeds._told(io.BytesIO(printed.encode()), failed) == told


def test_torchrun_does_not_start_seeds(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["--seeds", "0-1", "--algo", "maml"]) == 2
    assert "leave torchrun out, or give one --seed" in capsys.readouterr().err


# As a shell starts the background jobs of a script, and so their children.
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); signal.pause()"


def test_seeds_that_ignore_ctrl_c_end_with_their_command():
    processes = seeds._Processes()
    with processes:
        process = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
        process.stdout.readline()  # It ignores them from here on.
        processes.running[0] = process, process.stdout
    assert process.returncode == -signal.SIGTERM
