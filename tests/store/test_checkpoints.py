"""Checkpoints: a learner's state by name, and what this version makes of metarl 0.1's."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_runs import everything_in, numbers, tiny

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
        meta, metadata = file.get_tensor("meta"), file.metadata()
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
    assert read_progress(tmp_path / "old")[0]["outcome"].startswith("accepted")
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
    save_file(tensors, path, {**metadata, "format": form, "progress": json.dumps({})})
    with pytest.raises(UserError, match=message):
        load_checkpoint(config, "last")
