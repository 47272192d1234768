"""Processes that share the tasks: the same numbers as one, whole checkpoints however they end, and clear refusals."""

import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from quick import quick
from tiny_runs import ROOT, arguments, assert_same_run, final_parameters, numbers, tiny

import metarl
from metarl import Config, EvaluationConfig, UserError
from metarl.common.group import Group
from metarl.envs.navigation import NavigationFamily
from metarl.inner.loop import Measured
from metarl.inner.runner import check_dropped
from metarl.runs.training import Trainer, train
from metarl.store.checkpoints import load_checkpoint
from metarl.store.config_file import load_config
from metarl.store.writer import SilentWriter

RUN = {"iterations": 2, "meta_batch_size": 5, "horizon": 15, "rollouts_per_task": 4, "hidden_sizes": (8,), "threads": 1}
COMMAND = [sys.executable, "-m", "metarl.train"]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "metarl.train",
]
# Agents with memory; all of them take one episode at a time.
MEMORY = {
    "rl2": {"algo": "rl2", "rollouts_per_task": 1, "rl2": {"units": 8}},
    "varibad": {"algo": "varibad", "rollouts_per_task": 1, "varibad": {"units": 8, "batch": 4, "decoder": "task"}},
    "pearl": {"algo": "pearl", "rollouts_per_task": 1, "sac": {"updates": 3, "trials": 4, "transitions": 8}},
}


@contextmanager
def started(run_dir, processes, **settings):
    """A training with several processes, in the background; it is ended with the test."""
    options = {**RUN, "algo": "maml", **settings, "processes": processes, "run_dir": str(run_dir)}
    options = [*arguments(options), "--validate-every", "1"]
    with subprocess.Popen(
        [*COMMAND, *options], env=_environment(), stderr=subprocess.PIPE, text=True, cwd=run_dir.parent
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.mark.parametrize(
    "settings",
    [
        {"algo": "maml"},
        pytest.param(
            {"algo": "l2f", "l2f": {"attenuation_rollouts": "fresh", "normalise_embedding": True}},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"algo": "maml", "meta_optimiser": "promp", "normalise_observations": True}, marks=pytest.mark.slow
        ),
        # The last bits of an agent with memory need four tasks in each process.
        *(
            pytest.param({**settings, "meta_batch_size": 9, "validation_tasks": 8}, marks=pytest.mark.slow)
            for settings in MEMORY.values()
        ),
    ],
    ids=["maml", "l2f", "promp", *MEMORY],
)
def test_several_processes_give_the_numbers_of_one(tmp_path, settings):
    for processes in (1, 2):
        train(tiny(tmp_path / str(processes), **{**RUN, "validate_every": 1, **settings, "processes": processes}))
    assert_same_run(tmp_path / "1", tmp_path / "2")


@pytest.mark.slow
def test_the_first_process_alone_trains_by_ppo_which_is_said(tmp_path, capfd):
    ppo = {"algo": "oracle", "baseline": {"trainer": "ppo"}, "validate_every": 1}
    for processes in (1, 2):
        capfd.readouterr()
        run = train(tiny(tmp_path / str(processes), **{**RUN, **ppo, "processes": processes}))
    assert_same_run(tmp_path / "1", tmp_path / "2")
    assert len(run.progress["iteration"]) == 2
    told = capfd.readouterr().err
    assert told.count("Stable-Baselines3's ppo trains in the first of 2 processes alone") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"env": "cheetah-dir", "horizon": 5}, {**MEMORY["rl2"], "meta_batch_size": 17, "validation_tasks": 16}],
    ids=["maml", "rl2"],
)
def test_four_processes_whose_shares_differ_give_the_numbers_of_one(tmp_path, settings):
    for processes in (1, 4):
        train(tiny(tmp_path / str(processes), **{**RUN, **settings, "processes": processes}))
    assert_same_run(tmp_path / "1", tmp_path / "4")


@pytest.mark.slow
@pytest.mark.parametrize("algo", MEMORY)
def test_after_an_update_two_or_three_tasks_in_a_process_differ_in_last_bits_alone(tmp_path, algo):
    iterations = 2 if algo == "pearl" else 1  # PEARL's first iteration makes no update.
    for processes in (1, 2):
        train(
            tiny(tmp_path / str(processes), **{**RUN, **MEMORY[algo], "iterations": iterations, "processes": processes})
        )
    one, two = (final_parameters(tmp_path / name) for name in ("1", "2"))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    train(tiny(tmp_path / "whole", **{**RUN, "iterations": 3}))
    train(tiny(tmp_path / "parts", **{**RUN, "iterations": 1, "processes": 2}))
    train(tiny(tmp_path / "parts", **{**RUN, "iterations": 3, "processes": 3, "resume": True}))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_one_command_of_torchruns_starts_a_run_and_goes_on_with_it(tmp_path):
    train(tiny(tmp_path / "one", **RUN))
    options = {**RUN, "algo": "maml", "run_dir": str(tmp_path / "two"), "validate_every": 2, "validation_tasks": 3}
    for iterations in (1, 2):
        line = arguments({**options, "resume": "auto", "iterations": iterations})
        subprocess.run([*TORCHRUN, *line], check=True, env=_environment(), cwd=tmp_path)
    assert len(numbers(tmp_path / "two")) == 2
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_torchrun_is_refused_what_processes_cannot_share(tmp_path):
    line = [*TORCHRUN, "--env", "sinusoid", "--algo", "maml", "--run-dir", "run"]
    ended = subprocess.run(line, check=False, capture_output=True, text=True, env=_environment(), cwd=tmp_path)
    assert ended.returncode == 1
    assert "error: processes must be 1 with supervised tasks, got 2: there are no episodes to share." in ended.stderr
    assert not (tmp_path / "run").exists()


def _environment():
    """Of the processes, which import the package and the families of these tests."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests:{ROOT}/tests/runs"}


class Faulty(NavigationFamily):
    """Navigation that fails in the tasks of the last process, in the second iteration."""

    def make_episodes(self, num_envs, horizon):
        episodes = super().make_episodes(num_envs, horizon)
        reset, calls = episodes.reset, []

        def failing(*arguments, **options):
            calls.append(1)
            if os.environ.get("RANK") == "1" and len(calls) > 2:
                raise ArithmeticError("the wheels came off")
            reset(*arguments, **options)

        episodes.reset = failing
        return episodes


@pytest.mark.slow
def test_a_process_that_raises_ends_all_with_its_traceback_and_a_whole_checkpoint(tmp_path):
    with started(tmp_path / "run", 2, env="test_processes:Faulty", iterations=3) as process:
        _, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "ArithmeticError: the wheels came off" in told
    assert "process 1: Traceback" in told
    assert "error: process 1 of 2 has failed; the others have ended, too." in told
    config = load_config(tmp_path / "run", trust=True)
    assert load_checkpoint(config, "last").iteration == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_stopped_run_is_saved_and_goes_on(tmp_path, number):
    with started(tmp_path / "run", 2, iterations=500) as process:
        _until(lambda: _rows(tmp_path / "run") > 2, process)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert "to continue: python -m metarl.train" in told
    done = load_checkpoint(load_config(tmp_path / "run"), "last").iteration
    assert 2 <= done <= _rows(tmp_path / "run") <= done + 1  # The signal may have come between row and checkpoint.


@pytest.mark.slow
def test_a_killed_process_ends_all_with_a_whole_checkpoint(tmp_path):
    with started(tmp_path / "run", 2, iterations=500) as process:
        _until(lambda: _rows(tmp_path / "run") > 1, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        works = [pid for pid in children if b"multiprocessing.spawn" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(works) == 2
        os.kill(int(works[1]), signal.SIGKILL)  # They are listed in the order in which they were started.
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: process 1 of 2 was killed by SIGKILL; the others have ended, too." in told
    done = load_checkpoint(load_config(tmp_path / "run"), "last").iteration
    assert 1 <= done <= _rows(tmp_path / "run") <= done + 1


def _rows(run_dir):
    path = run_dir / "progress.csv"
    return max(0, path.read_text().count("\n") - 1) if path.exists() else 0


def _until(condition, process):
    """Waits for a file of the run to say so; the run's end ends the waiting too."""
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


class WithGPU(NavigationFamily):
    """Navigation, in whose processes PyTorch says that there is a GPU."""

    def __init__(self):
        super().__init__()
        if "RANK" in os.environ:
            torch.cuda.is_available = lambda: True


@pytest.mark.slow
def test_processes_take_the_cpu_where_there_is_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    train(tiny(tmp_path / "one", **{**RUN, "device": "cpu"}))
    train(tiny(tmp_path / "two", **{**RUN, "env": WithGPU, "processes": 2}))
    np.testing.assert_array_equal(final_parameters(tmp_path / "one"), final_parameters(tmp_path / "two"))


NOT_SHARED = pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"processes": 6}, "processes must be at most meta_batch_size, 5, because they share it, got 6"),
        ({"processes": 2, "device": "cuda"}, "processes share tasks on CPUs only"),
        ({"processes": 2, "env": "sinusoid"}, "processes must be 1 with supervised tasks, got 2"),
    ],
)


@NOT_SHARED
def test_what_processes_cannot_share_is_refused(settings, told):
    with pytest.raises(UserError, match=told):
        Config(**{"algo": "maml", "meta_batch_size": 5, **settings})


@NOT_SHARED
def test_what_processes_cannot_share_is_refused_in_each_that_torchrun_starts(tmp_path, monkeypatch, settings, told):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("WORLD_SIZE", str(settings["processes"]))
    config = Config(**{"algo": "maml", "meta_batch_size": 5, "run_dir": tmp_path / "run", **settings, "processes": 1})
    with pytest.raises(UserError, match=told):
        train(config)
    assert not (tmp_path / "run").exists()


def test_there_is_at_least_one_process():
    with pytest.raises(UserError, match="processes must be at least 1, got 0"):
        Config(processes=0)


@pytest.mark.parametrize(("parts", "too_many"), [([2, 0], False), ([2, 1], False), ([2, 2], True), ([4, 0], True)])
def test_dropped_episodes_are_counted_over_all_processes(parts, too_many):
    returns = torch.zeros(1, 1)
    of_each = [Measured(returns, None, dropped=["an episode"] * dropped, num_episodes=16) for dropped in parts]
    with pytest.raises(UserError, match="4 of 32 episodes had to be dropped") if too_many else nullcontext():
        check_dropped(Measured.joined(of_each))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        # With this seed two of 32 episodes of an iteration are bad, and both belong to one process.
        {"env_kwargs": {"fault": "nan observation", "chance": 0.15}, "iterations": 6, "seed": 2},
        # One process has no task to validate.
        {"env": "navigation", "validate_every": 1, "validation_tasks": 1},
    ],
    ids=["one process", "validation"],
)
def test_processes_that_drop_episodes_give_the_numbers_of_one(tmp_path, settings):
    dropping = {
        **RUN,
        "env": "faulty:FaultyFamily",
        "validate_every": 0,
        "meta_batch_size": 4,
        "on_bad_episode": "drop",
    }
    for processes in (1, 2):
        train(tiny(tmp_path / str(processes), **{**dropping, **settings, "processes": processes}))
    assert_same_run(tmp_path / "1", tmp_path / "2")
    assert {int(row["dropped_episodes"]) for row in numbers(tmp_path / "1")} == {2 if "seed" in settings else 0}


@pytest.mark.parametrize("envs", quick([4, 9, 12], 9))
@pytest.mark.parametrize("algo", quick(["maml", "mumomaml"], "mumomaml"))
def test_tasks_that_take_turns_give_the_same_numbers(tmp_path, monkeypatch, envs, algo):
    made = []
    make_episodes = NavigationFamily.make_episodes

    def counted(self, num_envs, horizon):
        made.append(num_envs)
        return make_episodes(self, num_envs, horizon)

    settings = {**RUN, "algo": algo, "validate_every": 0}
    train(tiny(tmp_path / "all", **settings))
    monkeypatch.setattr(NavigationFamily, "make_episodes", counted)
    train(tiny(tmp_path / "turns", **{**settings, "envs_per_process": envs}))
    assert_same_run(tmp_path / "all", tmp_path / "turns")
    # All exist at once; the stage of MuMoMAML that collects one episode has its own, of one or two tasks.
    assert sum(size for size in made if size >= RUN["rollouts_per_task"]) <= envs


@pytest.mark.slow
def test_a_run_whose_tasks_took_turns_is_evaluated_with_what_one_task_needs_at_least(tmp_path, monkeypatch):
    made = []
    make_episodes = NavigationFamily.make_episodes

    def counted(self, num_envs, horizon):
        made.append(num_envs)
        return make_episodes(self, num_envs, horizon)

    config = EvaluationConfig(tasks=7, rollouts=6, gradient_steps=1)
    run = train(tiny(tmp_path / "turns", **{**RUN, "envs_per_process": 4})).path
    expected = metarl.evaluate(train(tiny(tmp_path / "all", **RUN)).path, config)
    monkeypatch.setattr(NavigationFamily, "make_episodes", counted)
    result = metarl.evaluate(run, config)
    assert max(made) == 6
    np.testing.assert_array_equal(result.returns, expected.returns)
    assert result.references.standstill == expected.references.standstill
    metarl.sweep_rollouts(run, [2, 5], config)
    metarl.analyze(run, metarl.AnalysisConfig(tasks=3, rollouts=5, embedding_tasks=3))


class Twice(Group):
    """A group in which another process has used as much CPU time as this one."""

    def gather(self, value):
        return [value, value] if isinstance(value, float) else super().gather(value)


def test_the_cpu_time_of_all_processes_is_counted(tmp_path, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(time, "process_time", lambda: float(next(ticks)))
    with Trainer(tiny(tmp_path, validate_every=0), torch.device("cpu"), Twice()) as trainer:
        state = trainer.train(trainer.initial(), SilentWriter())
    assert state.cpu_seconds == 2 * state.iteration


def test_a_task_needs_its_environments_at_once(tmp_path):
    with pytest.raises(UserError, match="envs_per_process must be at least 4, the environments of one task"):
        train(tiny(tmp_path, **{**RUN, "envs_per_process": 3}))
