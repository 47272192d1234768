"""Where the time goes: the table of the phases and the trace that --profile writes, and that results do not change."""

import gzip
import json
import re
import threading

import pytest
import torch
from disks import Disk, during_training
from quick import quick
from tiny_runs import assert_same_run, everything_in, tiny
from torch._C._profiler import _ExperimentalConfig

from metarl import Config, UserError
from metarl.commands.train import parse_config
from metarl.common import profiling
from metarl.common.parallel import Workers
from metarl.common.profiling import PhaseRow, Profile, timed
from metarl.envs.navigation import NavigationFamily
from metarl.outer.learners import MetaLearner
from metarl.runs.training import train

CPU = torch.device("cpu")
TRACES_WORKERS = "profile_all_threads" in (_ExperimentalConfig.__init__.__doc__ or "")


@pytest.fixture
def clock(monkeypatch):
    """A clock for each thread that only the test moves, ``clock.now`` in seconds."""

    class Clock(threading.local):
        now = 0.0

    clock = Clock()
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: clock.now)
    return clock


@pytest.fixture
def two_shards(monkeypatch):
    monkeypatch.setattr(NavigationFamily, "min_envs_per_shard", 1)
    return {"threads": 2}


def read_trace(run_dir, number):
    """(thread, name) of everything that happened in a trace."""
    with gzip.open(run_dir / f"iteration{number}.pt.trace.json.gz") as file:
        return {(event["tid"], event["name"]) for event in json.load(file)["traceEvents"] if event["ph"] == "X"}


def read_table(printed):
    """The printed table's title and rows: path of names, seconds, share in percent, calls."""
    title, _, *lines = printed.splitlines()
    rows, path = [], []
    for line in lines:
        if line.startswith("threads work side by side"):
            return title, rows
        indent, name, seconds, share, calls = re.fullmatch(
            r"( *)(\S.*?) +(\d+\.\d{3}) +(\d+\.\d)%( +[\d.]+)?", line
        ).groups()
        path = [*path[: len(indent) // 2], name]
        rows.append((tuple(path), float(seconds), float(share), float(calls) if calls else None))
    raise AssertionError(f"no table in {printed!r}")


def test_parts_add_up_and_threads_count_with_their_mean(tmp_path, clock):
    profile = Profile(tmp_path, CPU)

    def work(seconds):
        with timed("work"):
            clock.now += seconds

    with Workers(2) as workers:
        for number in (3, 4):
            with profile.iteration(number, first=1, last=4):
                with timed("together"):
                    workers.map(work, [1, 3])
                    clock.now += 3
                with timed("alone"):
                    clock.now += number
                clock.now += 0.5
    assert profile.rows() == [
        PhaseRow(0, "iteration", 7, 1),
        PhaseRow(1, "together", 3, 1),
        PhaseRow(2, "work", 2, 2),
        PhaseRow(2, "other", 1, None),
        PhaseRow(1, "alone", 3.5, 1),
        PhaseRow(1, "other", 0.5, None),
    ]
    title, rows = read_table(str(profile))
    assert title == "where the time goes: iterations 3 to 4, mean per iteration"
    assert rows[2] == (("iteration", "together", "work"), 2, 28.6, 2)


def test_what_breaks_off_in_the_middle_does_not_count(tmp_path, clock):
    profile = Profile(tmp_path, CPU)
    with profile.iteration(3, 1, 9):
        clock.now += 1

    def interrupted():
        with profile.iteration(4, 1, 9), timed("part"):
            clock.now += 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert profile.rows() == [PhaseRow(0, "iteration", 1, 1)]


def test_on_a_gpu_a_phase_lasts_until_the_gpu_has_done_its_work(tmp_path, clock, monkeypatch):
    def synchronize(device):
        clock.now += 1

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    profile = Profile(tmp_path, torch.device("cuda"))
    with profile.iteration(3, 1, 3), timed("part"):
        pass
    assert profile.rows()[1] == PhaseRow(1, "part", 1, 1)


def test_nothing_is_measured_without_a_profile(tmp_path):
    assert timed("one") is timed("another")
    profile = Profile(tmp_path, CPU)
    with profile.iteration(1, first=1, last=3):
        assert timed("one") is timed("another")
    with profile.iteration(3, first=1, last=3):
        assert timed("one") is not timed("another")


@pytest.mark.parametrize("algo", quick(["maml", "l2f"], "l2f"))
def test_a_profiled_run_is_the_same_bit_for_bit_and_tells_its_phases(tmp_path, capsys, two_shards, algo):
    train(tiny(tmp_path / "plain", algo=algo, iterations=4, **two_shards))
    assert capsys.readouterr().out == ""
    train(tiny(tmp_path / "profiled", algo=algo, iterations=4, checkpoint_every=2, **two_shards, profile=True))
    assert_same_run(tmp_path / "plain", tmp_path / "profiled")

    title, rows = read_table(capsys.readouterr().out)
    assert title == "where the time goes: iterations 3 to 4, mean per iteration"
    calls = {path[1:]: number for path, _, _, number in rows}
    assert calls[("inner loops", "rollouts")] == 4  # two shards, before and after adaptation
    assert calls[("inner loops", "rollouts", "simulation")] == calls[("inner loops", "rollouts", "policy")] > 40
    assert calls[("inner loops", "rollouts", "advantages")] == 4
    assert calls[("inner loops", "adaptation")] == (4 if algo == "l2f" else 2)
    assert calls[("meta-step", "surrogate gradient")] == 1
    assert calls[("meta-step", "Fisher-vector product")] == 10
    assert calls[("meta-step", "line-search trial")] >= 1
    assert calls[("validation",)] == 0.5
    assert calls[("checkpoint",)] >= 0.5
    assert calls[("logging",)] == 1


def test_printed_parts_add_up_to_the_whole(tmp_path, capsys, two_shards):
    train(tiny(tmp_path, iterations=3, **two_shards, profile=True))
    _, rows = read_table(capsys.readouterr().out)
    for path, seconds, share, _ in rows:
        parts = [row for row in rows if row[0][:-1] == path]
        if parts:
            assert sum(row[1] for row in parts) == pytest.approx(seconds, abs=0.0005 * (len(parts) + 1))
            assert sum(row[2] for row in parts) == pytest.approx(share, abs=0.05 * (len(parts) + 1))
            assert parts[-1][0][-1] == "other"


def test_the_trace_shows_the_phases_of_every_thread_by_name(tmp_path, capsys, two_shards):
    train(tiny(tmp_path, iterations=1, validate_every=1, **two_shards, profile=True))
    trace, printed = read_trace(tmp_path, 1), capsys.readouterr().out
    (main,) = (thread for thread, name in trace if name == "iteration")
    of_main = {name for thread, name in trace if thread == main}
    of_workers = {name for thread, name in trace if thread != main}
    assert {"inner loops", "meta-step", "Fisher-vector product", "line-search trial", "logging"} <= of_main
    assert {"simulation", "policy"}.isdisjoint(of_main)
    if TRACES_WORKERS:
        assert {"inner loops", "rollouts", "simulation", "policy", "advantages", "adaptation"} <= of_workers
        assert {"Fisher-vector product", "validation", "aten::baddbmm"} <= of_workers
    else:
        assert "cannot trace worker threads; newer versions can" in printed
    assert f"trace of iteration 1: {tmp_path / 'iteration1.pt.trace.json.gz'} (open it in" in printed
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"checkpoints", "tensorboard"}


@pytest.mark.parametrize(
    ("done", "iterations", "traced", "measured"),
    [
        pytest.param(0, 1, 1, "iteration 1", marks=pytest.mark.slow),
        pytest.param(0, 2, 2, "iteration 2", marks=pytest.mark.slow),
        (0, 3, 2, "iteration 3"),
        pytest.param(2, 3, 3, "iteration 3", marks=pytest.mark.slow),
    ],
)
def test_warm_up_and_tracing_are_kept_out_of_the_table_where_iterations_suffice(
    tmp_path, capsys, done, iterations, traced, measured
):
    if done:
        train(tiny(tmp_path, iterations=done))
    train(tiny(tmp_path, iterations=iterations, profile=True, resume=bool(done)))
    assert [path.name for path in tmp_path.glob("*.gz")] == [f"iteration{traced}.pt.trace.json.gz"]
    assert read_table(capsys.readouterr().out)[0] == f"where the time goes: {measured}"


def test_resuming_profiles_only_if_asked_again(tmp_path):
    train(tiny(tmp_path, iterations=1, profile=True))
    line = ["--run-dir", str(tmp_path), "--resume"]
    assert not parse_config(line).profile
    assert parse_config([*line, "--profile"]).profile


def test_a_run_that_breaks_off_while_it_is_traced_can_be_resumed_and_profiled(tmp_path, capsys, monkeypatch):
    iteration = MetaLearner.iteration

    def breaks(self, state, index, describe):
        result = iteration(self, state, index)
        if index == 1:
            raise RuntimeError("broken on purpose")
        return result

    monkeypatch.setattr(MetaLearner, "iteration", breaks)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        train(tiny(tmp_path / "broken", iterations=3, profile=True))
    assert capsys.readouterr().out == ""
    assert not list((tmp_path / "broken").glob("*.gz"))
    monkeypatch.undo()
    train(tiny(tmp_path / "broken", iterations=3, profile=True, resume=True))
    assert "meta-step" in {name for _, name in read_trace(tmp_path / "broken", 3)}
    train(tiny(tmp_path / "whole", iterations=3))
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_trace_that_cannot_be_written_does_not_end_the_run(tmp_path, capsys, monkeypatch):
    disk = Disk()
    during_training(monkeypatch, {1: disk.fill, 2: disk.free})
    try:
        train(tiny(tmp_path / "run", iterations=3, profile=True))
    finally:
        disk.free()
    assert "the trace of iteration 2 could not be written: " in capsys.readouterr().out
    train(tiny(tmp_path / "plain", iterations=3))
    assert_same_run(tmp_path / "run", tmp_path / "plain")


def test_impossible_profiles_are_refused_and_write_nothing(tmp_path):
    with pytest.raises(UserError, match="iterations must be at least 1 with profile, to measure one, got 0"):
        Config(profile=True, iterations=0)
    with torch.profiler.profile(), pytest.raises(UserError, match="a PyTorch profiler is running"):
        train(tiny(tmp_path / "run", profile=True))
    assert everything_in(tmp_path) == {}
