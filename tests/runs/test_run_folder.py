"""A run and its folder: who may train in it, what stops early, full disks and deleted folders."""

import json
import os
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from disks import Disk, during_training, full_disk
from fault_table import fault
from quick import quick
from tiny_runs import assert_same_run, everything_in, final_parameters, numbers, stored_progress, tiny

from metarl import Config, UserError
from metarl.common.files import NotWritten
from metarl.data import LearnerState
from metarl.outer.learners import MetaLearner
from metarl.runs import training
from metarl.runs.training import FinishedRun, Trainer, train
from metarl.store.folder import RunFolder
from metarl.store.lock import locked

# The lock of a process on another machine.
THEIRS = {"host": "elsewhere", "namespace": "", "process": 7, "started": "", "run": ""}


@pytest.fixture
def disk():
    disk = Disk()
    yield disk
    disk.free()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six iterations that nothing disturbed."""
    return train(tiny(tmp_path_factory.mktemp("runs") / "whole", iterations=6)).path


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A run of one iteration that nothing disturbed."""
    return train(tiny(tmp_path_factory.mktemp("runs") / "short", iterations=1)).path


@fault("Run folder", "two trainings in one folder", "the second is refused; the sentence names the first one's process")
def test_a_folder_has_one_training_at_a_time(tmp_path, monkeypatch, whole):
    config = tiny(tmp_path / "run", iterations=6)
    refused = []

    def start_others():
        for resume in (False, True, "auto"):
            other = tiny(tmp_path / "run", iterations=8, resume=resume)
            with pytest.raises(UserError) as error:
                train(other)
            refused.append(str(error.value))

    during_training(monkeypatch, {3: start_others})
    train(config)
    assert "run holds a run; continue it with resume" in refused[0]
    assert all(f"run is in use: process {os.getpid()} on" in error for error in refused[1:])
    assert_same_run(tmp_path / "run", whole)
    assert not RunFolder(tmp_path / "run").lock.exists()


@fault("Run folder", "`--resume` while the lock names another machine", "refused, unless `--take-over` is given")
def test_a_run_of_another_machine_is_taken_over_on_request_only(tmp_path, whole):
    train(tiny(tmp_path / "run", iterations=2))
    RunFolder(tmp_path / "run").lock.write_text(json.dumps(THEIRS))
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match=r"process 7 on elsewhere trains in it\. If it has ended.*take_over"):
        train(tiny(tmp_path / "run", iterations=6, resume=True))
    assert everything_in(tmp_path) == before
    train(tiny(tmp_path / "run", iterations=6, resume=True, take_over=True))
    assert_same_run(tmp_path / "run", whole)


def stopped_early(folder, run, files):
    """Makes a folder what ``run`` would have left if it had been killed before its first checkpoint."""
    (folder / "checkpoints").mkdir(parents=True)
    for name in files:
        (folder / name).write_bytes(RunFolder(run).config.read_bytes() if name == "config.json" else b"half")


@fault(
    "Run folder",
    "killed before `config.json` or before the first checkpoint",
    "the same command begins again, with or without `--resume`",
)
@pytest.mark.parametrize("resume", quick([False, True, "auto"], "auto"))
@pytest.mark.parametrize(
    "files",
    [
        (),
        ("lock",),
        ("lock", "config.json.1-2.writing"),
        ("config.json",),
        ("lock", "config.json", "checkpoints/last.safetensors.1-2.writing"),
    ],
    ids=lambda files: "+".join(files) or "nothing",
)
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path, short, files, resume):
    stopped_early(tmp_path / "run", short, files)
    train(tiny(tmp_path / "run", iterations=1, resume=resume))
    assert_same_run(tmp_path / "run", short)
    names = {path.name for path in (tmp_path / "run").rglob("*")}
    assert not [name for name in names if name.endswith(".writing") or name == "lock"]


@pytest.mark.parametrize("exists", [False, True], ids=["missing", "empty"])
def test_one_configuration_starts_a_run_and_goes_on_with_it(tmp_path, whole, exists):
    if exists:
        (tmp_path / "run").mkdir()
    for iterations in (2, 4, 6):
        train(tiny(tmp_path / "run", iterations=iterations, resume="auto"))
    assert_same_run(tmp_path / "run", whole)


def test_a_folder_that_is_missing_may_be_a_typing_error(tmp_path):
    with pytest.raises(UserError, match="rum does not exist"):
        train(tiny(tmp_path / "rum", resume=True))
    assert everything_in(tmp_path) == {}


def test_of_threads_that_start_one_run_one_trains_and_the_others_are_refused_or_go_on(tmp_path, monkeypatch):
    together, outcomes = threading.Barrier(3, timeout=60), []

    def locked_together(*arguments):
        together.wait()  # Each has seen that the folder is missing.
        return locked(*arguments)

    def start():
        try:
            outcomes.append(train(tiny(tmp_path / "run", iterations=6, resume="auto")))
        except UserError as error:
            outcomes.append(str(error))

    monkeypatch.setattr(training, "locked", locked_together)
    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(isinstance(outcome, FinishedRun) for outcome in outcomes)
    assert all(isinstance(outcome, FinishedRun) or "run is in use" in outcome for outcome in outcomes)
    # Not the bits of a run alone: threads of one process share PyTorch's number of threads.
    assert [row["iteration"] for row in numbers(tmp_path / "run")] == [str(number) for number in range(1, 7)]
    assert stored_progress(tmp_path / "run").iteration == 6


def test_a_run_without_checkpoint_that_has_done_something_is_not_begun_again(tmp_path):
    train(tiny(tmp_path))
    shutil.rmtree(tmp_path / "checkpoints")
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match="has no checkpoint 'last'"):
        train(tiny(tmp_path, resume=True, iterations=4))
    with pytest.raises(UserError, match="holds a run"):
        train(tiny(tmp_path))
    assert everything_in(tmp_path) == before


def test_settings_of_another_program_are_not_overwritten(tmp_path):
    RunFolder(tmp_path).config.write_text('{"theirs": 1}')
    with pytest.raises(UserError, match="theirs"):
        train(tiny(tmp_path))
    assert everything_in(tmp_path) == {Path("config.json"): b'{"theirs": 1}'}


@fault(
    "Run folder",
    "a disk that is full for a while",
    "training goes on, says so, and writes all of it at a later checkpoint",
)
@pytest.mark.parametrize("checkpoint_every", [1, 2, 10])
def test_a_disk_that_is_full_for_a_while_costs_nothing(tmp_path, monkeypatch, capsys, disk, whole, checkpoint_every):
    during_training(monkeypatch, {2: disk.fill, 5: disk.free})
    train(tiny(tmp_path / "run", iterations=6, checkpoint_every=checkpoint_every))
    said = re.findall(rf"{tmp_path}/run([: ].*)$", capsys.readouterr().err, re.MULTILINE)
    assert said == [
        ": File too large; training goes on, and it is tried again at the next checkpoint.",
        " can be written again; nothing is missing in it.",
    ]
    assert_same_run(tmp_path / "run", whole)
    assert final_parameters(tmp_path / "run", "best").tolist() == final_parameters(whole, "best").tolist()


@fault(
    "Run folder",
    "a disk that is full to the end",
    "exit code 1; the sentence says from which iteration on nothing is saved",
)
def test_a_disk_that_is_full_at_the_end_is_an_error_that_holds_the_run(tmp_path, monkeypatch, disk, whole):
    during_training(monkeypatch, {3: disk.fill})
    with pytest.raises(
        NotWritten, match=r"cannot write into .*run: File too large; what was done after iteration 2 is"
    ) as error:
        train(tiny(tmp_path / "run", iterations=6, checkpoint_every=2))
    disk.free()
    assert isinstance(error.value.result, FinishedRun)
    assert error.value.result.agent.meta.tolist() == final_parameters(whole).tolist()
    assert stored_progress(tmp_path / "run").iteration == 2
    monkeypatch.undo()
    train(tiny(tmp_path / "run", iterations=6, resume=True))
    assert_same_run(tmp_path / "run", whole)


def test_an_error_in_training_is_not_hidden_by_a_full_disk(tmp_path, monkeypatch, capsys, disk):
    def end():
        disk.fill()
        raise KeyError("broken on purpose")

    during_training(monkeypatch, {3: end})
    with pytest.raises(KeyError, match="broken on purpose"):
        train(tiny(tmp_path / "run", iterations=6))
    assert "run: File too large; what was done after iteration 0 is not saved.\n" in capsys.readouterr().err


@fault("Run folder", "a disk that is full at the start", "refused")
def test_a_full_disk_at_the_start_is_refused_at_once(tmp_path):
    with full_disk(), pytest.raises(UserError, match=r"cannot write into .*: File too large; choose another run_dir"):
        train(tiny(tmp_path / "run", iterations=2))
    train(tiny(tmp_path / "run", iterations=2))


@fault("Run folder", "a folder deleted while training", "training goes on, says so, and writes the folder anew")
@pytest.mark.parametrize("index", [2, 5])
def test_a_deleted_folder_comes_back_as_a_whole(tmp_path, monkeypatch, capsys, whole, index):
    during_training(monkeypatch, {index: lambda: shutil.rmtree(tmp_path / "run")})
    train(tiny(tmp_path / "run", iterations=6, checkpoint_every=4))
    assert capsys.readouterr().err.count("run was deleted during the run; it is written anew.\n") == 1
    assert_same_run(tmp_path / "run", whole)
    assert final_parameters(tmp_path / "run", "best").tolist() == final_parameters(whole, "best").tolist()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in whole.iterdir()}
    assert json.loads(RunFolder(tmp_path / "run").config.read_text())["metarl"]["version"]


def test_a_folder_that_was_deleted_and_given_to_another_run_is_left_to_it(tmp_path, monkeypatch, whole):
    path = tmp_path / "run"

    def replace():
        shutil.rmtree(path)
        shutil.copytree(whole, path)
        RunFolder(path).lock.write_text(json.dumps(THEIRS))

    during_training(monkeypatch, {2: replace})
    with pytest.raises(UserError, match="run has been taken over by another process meanwhile"):
        train(tiny(path, iterations=4, seed=1))
    RunFolder(path).lock.unlink()
    assert everything_in(path) == everything_in(whole)


@fault(
    "Run folder",
    "a folder taken over by another process while training",
    "the run ends and writes nothing more into it, also after the other one has ended",
)
def test_a_folder_that_another_process_took_over_is_left_to_it(tmp_path, monkeypatch, capsys):
    path = tmp_path / "run"

    def take_over():
        RunFolder(path).lock.write_text(json.dumps(THEIRS))

    during_training(monkeypatch, {2: take_over})
    with pytest.raises(UserError, match="run has been taken over by another process meanwhile; this run can write no"):
        train(tiny(path, iterations=4, checkpoint_every=1))
    assert stored_progress(path).iteration == 2
    assert json.loads(RunFolder(path).lock.read_text()) == THEIRS
    assert "what was done after iteration 2 is not saved" in capsys.readouterr().err


def test_a_folder_that_another_process_had_for_a_while_is_left_to_it(tmp_path, monkeypatch, whole):
    path = tmp_path / "run"

    def come_and_go():
        shutil.rmtree(path)
        shutil.copytree(whole, path)

    during_training(monkeypatch, {2: come_and_go})
    with pytest.raises(UserError, match="run has been taken over by another process meanwhile"):
        train(tiny(path, iterations=4, seed=1, checkpoint_every=1))
    assert everything_in(path) == everything_in(whole)


def test_progress_that_was_replaced_by_another_file_is_written_whole(tmp_path, monkeypatch, whole):
    path = tmp_path / "run"

    def save_in_an_editor():
        copy = path / "progress.csv.new"
        shutil.copy(path / "progress.csv", copy)
        os.replace(copy, path / "progress.csv")

    during_training(monkeypatch, {3: save_in_an_editor})
    train(tiny(path, iterations=6))
    assert_same_run(path, whole)


@fault("Run folder", "a validation return that is not finite", "never becomes `best`")
@pytest.mark.parametrize("value", quick([float("nan"), float("inf"), -float("inf")], float("inf")))
def test_a_validation_return_that_is_not_finite_is_never_the_best(tmp_path, monkeypatch, value):
    validate = Trainer._validate

    def broken(self, *arguments):
        row, *counts = validate(self, *arguments)
        calls.append(1)
        return row if len(calls) == 2 else dict.fromkeys(row, value), *counts

    calls = []
    monkeypatch.setattr(Trainer, "_validate", broken)
    train(tiny(tmp_path, iterations=6))
    assert stored_progress(tmp_path, "best").iteration == 4
    assert float(numbers(tmp_path)[3]["validation_post_adaptation_return"]) == stored_progress(tmp_path).best_return


@fault("Run folder", "meta-parameters that are not finite", "the run stops with the checkpoint before")
def test_parameters_that_are_not_finite_are_not_saved_and_end_the_run(tmp_path, monkeypatch):
    iteration = MetaLearner.iteration

    def explodes(self, state, index, describe=True):
        state, row = iteration(self, state, index, describe)
        return (LearnerState(state.meta * torch.inf, state.memory) if index == 2 else state), row

    monkeypatch.setattr(MetaLearner, "iteration", explodes)
    with pytest.raises(
        UserError, match=r"iteration 3 gave meta-parameters that are not finite numbers; .* iteration 2"
    ):
        train(tiny(tmp_path, iterations=6))
    assert stored_progress(tmp_path).iteration == 2
    assert len(numbers(tmp_path)) == 2


def test_a_finished_run_counts_the_meta_steps_that_were_not_accepted():
    def words(**counts):
        outcomes = [name.replace("_", " ") for name, count in counts.items() for _ in range(count)]
        agent = SimpleNamespace(settings=Config(algo="maml", meta_optimiser="promp").resolve())
        return FinishedRun(Path("run"), agent, {"outcome": np.array(outcomes)}).remarks()

    assert words() == words(updated=3) == []
    assert words(accepted=8, rejected=2) == ["2 of 10 meta-steps in progress.csv were not accepted (2 rejected)"]
    (more,) = words(accepted=7, rejected=1, zero_gradient=2)
    assert words(**{"non-finite": 1}) == [
        "1 of 1 meta-steps in progress.csv were not accepted (1 non-finite): try a smaller promp.lr or inner_lr, "
        "normalise_observations, or smaller rewards"
    ]
    counted = "3 of 10 meta-steps in progress.csv were not accepted (2 zero gradient, 1 rejected): try fewer "
    assert more.startswith(counted)


def test_a_finished_run_counts_the_episodes_that_were_dropped():
    assert FinishedRun(Path("run"), None, {}, 3).remarks() == ["3 episodes were dropped"]
    assert FinishedRun(Path("run"), None, {}, 1).remarks() == ["1 episode was dropped"]
