"""Checkpoints: a learner's state by name, and what this version makes of metarl 0.1's."""

import json
import os
import random

import pytest
import torch
from disks import full_disk
from fault_table import fault
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_runs import assert_same_run, everything_in, numbers, tiny

import metarl
from metarl.common.errors import UserError
from metarl.config.optimisers import ProMPConfig
from metarl.data import LearnerState
from metarl.runs.training import train
from metarl.store.checkpoints import RunState, load_checkpoint, save_checkpoint
from metarl.store.folder import RunFolder
from metarl.store.progress import read_progress

PROMP = {"meta_optimiser": "promp", "promp": ProMPConfig(lr=0.01)}


def written_by_metarl_0_1(folder, memory):
    """Makes a run's last checkpoint and progress what metarl 0.1 would have written, its memory being ``memory``."""
    path = RunFolder(folder).checkpoint("last")
    with safe_open(path, "pt") as file:
        meta, metadata = file.get_tensor("meta").clone(), file.metadata()  # It may lie in the file, which is replaced.
    del metadata["sha256"]
    save_file({"meta": meta, "optimiser": memory}, path, {**metadata, "format": "metarl-2"})
    progress = RunFolder(folder).progress
    progress.write_text(progress.read_text().replace(",outcome,", ",line_search,"))
    return meta


def test_state_is_stored_by_name_and_comes_back_as_it_was(tmp_path):
    config = tiny(tmp_path)
    state = LearnerState(torch.arange(3.0), {"step": torch.tensor(2.0), "exp_avg": torch.ones(3, 2)})
    save_checkpoint(config, "last", RunState(state, iteration=4, env_steps=5))
    assert set(load_file(RunFolder(tmp_path).checkpoint("last"))) == {"meta", "memory.step", "memory.exp_avg"}
    run = load_checkpoint(config, "last")
    loaded = run.learner
    assert torch.equal(loaded.meta, state.meta)
    assert loaded.memory.keys() == state.memory.keys()
    assert all(torch.equal(value, state.memory[name]) for name, value in loaded.memory.items())
    assert run == RunState(loaded, iteration=4, env_steps=5)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, set()),
        (PROMP, {"memory.step", "memory.exp_avg", "memory.exp_avg_sq"}),
        (
            {"algo": "pretrain", "baseline": {"trainer": "ppo"}},
            {"memory.policy.log_std", "memory.policy.value_net.weight", "memory.adam.0.exp_avg"},
        ),
    ],
    ids=["trpo", "promp", "ppo"],
)
def test_a_run_stores_what_its_learner_remembers(tmp_path, settings, names):
    train(tiny(tmp_path, iterations=1, **settings))
    stored = set(load_file(RunFolder(tmp_path).checkpoint("last"))) - {"meta"}
    assert stored >= names
    assert bool(stored) == bool(names)


@pytest.mark.parametrize("memory", [torch.empty(0), torch.arange(7, dtype=torch.uint8)])
def test_a_run_of_metarl_0_1_can_be_evaluated(tmp_path, memory):
    train(tiny(tmp_path, iterations=1))
    meta = written_by_metarl_0_1(tmp_path, memory)
    before = everything_in(tmp_path)
    assert torch.equal(metarl.load(tmp_path).meta, meta)
    assert everything_in(tmp_path) == before


def test_a_run_of_metarl_0_1_that_remembers_nothing_goes_on(tmp_path):
    train(tiny(tmp_path / "whole", iterations=3))
    train(tiny(tmp_path / "old", iterations=2))
    written_by_metarl_0_1(tmp_path / "old", torch.empty(0))
    assert read_progress(tmp_path / "old")["outcome"][0].startswith("accepted")
    train(tiny(tmp_path / "old", iterations=3, resume=True))
    assert numbers(tmp_path / "old") == numbers(tmp_path / "whole")
    with safe_open(RunFolder(tmp_path / "old").checkpoint("last"), "pt") as file:
        assert file.metadata()["format"] == "metarl-3"


def test_a_run_of_metarl_0_1_that_remembers_something_is_not_resumed(tmp_path):
    train(tiny(tmp_path, iterations=1, **PROMP))
    written_by_metarl_0_1(tmp_path, torch.arange(7.0))
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match=r"was written by metarl 0\.1, which can resume it; this version can only eval"):
        train(tiny(tmp_path, iterations=2, resume=True, **PROMP))
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize(
    ("tensors", "form", "message"),
    [
        ({"meta": torch.ones(2), "optimiser": torch.ones(1)}, "metarl-3", "is not a metarl checkpoint"),
        ({"meta": torch.ones(2), "memory.step": torch.ones(1)}, "metarl-2", "is not a metarl checkpoint"),
        ({"memory.step": torch.ones(2)}, "metarl-3", "is not a metarl checkpoint"),
        ({"meta": torch.ones(2)}, "metarl-4", "was written by another version of metarl"),
    ],
)
def test_tensors_that_no_format_has_are_refused(tmp_path, tensors, form, message):
    config = tiny(tmp_path)
    save_checkpoint(config, "last", RunState(LearnerState(torch.ones(2), {})))
    path = RunFolder(tmp_path).checkpoint("last")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    del metadata["sha256"]
    save_file(tensors, path, {**metadata, "format": form, "progress": json.dumps({})})
    with pytest.raises(UserError, match=message):
        load_checkpoint(config, "last")


def saved(folder, which="last", iteration=4, size=50):
    """A checkpoint's path, after saving it."""
    state = RunState(LearnerState(torch.arange(float(size)), {"step": torch.tensor(2.0)}), iteration)
    save_checkpoint(tiny(folder), which, state)
    return RunFolder(folder).checkpoint(which)


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@fault("Run folder", "a flipped bit in a checkpoint", "the checkpoint is refused by name")
def test_every_flipped_bit_is_noticed_and_the_file_named(tmp_path):
    path, config = saved(tmp_path), tiny(tmp_path)
    whole = path.read_bytes()
    bits = random.Random(0).sample(range(8 * len(whole)), 300)
    for bit in [*range(0, 64), *bits, 8 * len(whole) - 1]:
        flip(path, bit)
        with pytest.raises(UserError, match=r"last\.safetensors is damaged"):
            load_checkpoint(config, "last")
        path.write_bytes(whole)
    assert load_checkpoint(config, "last").iteration == 4


def test_a_checkpoint_of_before_checksums_loads(tmp_path):
    path = saved(tmp_path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    del metadata["sha256"]
    save_file(load_file(path), path, metadata)
    assert load_checkpoint(tiny(tmp_path), "last", to_resume=True).iteration == 4


@pytest.mark.parametrize(
    "progress",
    [
        {"iteration": "3"},
        {"iteration": -1},
        {"iteration": 3, "seconds": float("nan")},
        {"iteration": 3, "cpu_seconds": -1.0},
        {"iteration": 3, "best_return": None},
        {"iteration": 3, "x": 1},
        [],
        {},
    ],
)
def test_an_impossible_progress_is_refused(tmp_path, progress):
    path = saved(tmp_path)
    with safe_open(path, "pt") as file:
        metadata = {**file.metadata(), "progress": json.dumps(progress)}
    del metadata["sha256"]
    save_file(load_file(path), path, metadata)
    with pytest.raises(UserError, match="is damaged: it does not say where the run stood"):
        load_checkpoint(tiny(tmp_path), "last")


@pytest.mark.parametrize("links", [True, False])
def test_the_checkpoint_before_the_last_is_kept(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for iteration in (1, 2, 3):
        saved(tmp_path, iteration=iteration)
    config = tiny(tmp_path)
    assert [load_checkpoint(config, which).iteration for which in ("last", "previous")] == [3, 2]
    saved(tmp_path, "best", 9)
    assert load_checkpoint(config, "previous").iteration == 2


def test_a_damaged_last_checkpoint_is_named_and_the_previous_one_used(tmp_path, capsys):
    for iteration in (1, 2):
        path = saved(tmp_path, iteration=iteration)
    flip(path, 8 * path.stat().st_size - 100)
    before = everything_in(tmp_path)
    assert load_checkpoint(tiny(tmp_path), "last").iteration == 1
    said = capsys.readouterr().err
    assert f"{path} is damaged: its content does not match its checksum" in said
    assert said.endswith("Took the previous one, after iteration 1.\n")
    assert everything_in(tmp_path) == before  # Only the process that resumes the run changes its folder.
    flip(RunFolder(tmp_path).checkpoint("previous"), 8 * path.stat().st_size - 100)
    with pytest.raises(
        UserError, match=r"last\.safetensors is damaged.*So is the one before: .*previous\.safetensors is"
    ):
        load_checkpoint(tiny(tmp_path), "last")


@fault(
    "Run folder",
    "`--resume` with a damaged last checkpoint",
    "goes on from the previous one and says so; bit for bit the undisturbed run",
)
def test_a_resumed_run_goes_on_from_the_previous_checkpoint_and_keeps_the_damaged_one(tmp_path, capsys):
    train(tiny(tmp_path / "whole", iterations=4))
    train(tiny(tmp_path / "run", iterations=3, checkpoint_every=2))
    path = RunFolder(tmp_path / "run").checkpoint("last")
    flip(path, 8 * path.stat().st_size - 100)
    damaged = path.read_bytes()
    train(tiny(tmp_path / "run", iterations=4, resume=True))
    assert "Took the previous one, after iteration 2." in capsys.readouterr().err
    assert path.with_name("last.safetensors.damaged").read_bytes() == damaged
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    # The damaged one did not take the place of the previous one.
    assert load_checkpoint(tiny(tmp_path / "run"), "previous").iteration == 2


def test_a_write_that_fails_leaves_both_checkpoints_as_they_were(tmp_path):
    for iteration in (1, 2):
        saved(tmp_path, iteration=iteration)
    before = everything_in(tmp_path)
    with full_disk(), pytest.raises(OSError, match="File too large"):
        saved(tmp_path, iteration=3)
    assert everything_in(tmp_path) == before


def test_files_have_the_permissions_that_the_user_chose(tmp_path):
    before = os.umask(0o027)
    try:
        train(tiny(tmp_path / "run", iterations=1))
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"config.json", "progress.csv", "last.safetensors"}
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o640"}
