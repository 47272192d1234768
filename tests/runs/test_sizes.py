"""Sizes that cannot be allocated are refused in a sentence that names the setting to lower."""

import dataclasses
import errno
import os

import gymnasium
import numpy as np
import pytest
from fault_table import fault
from tiny_runs import tiny

import metarl
from metarl import AnalysisConfig, Config, EvaluationConfig, UserError
from metarl.commands.cli import run_command
from metarl.common import memory
from metarl.runs.build import build
from metarl.runs.room import require_room_to_train
from metarl.runs.training import train

HUGE = 10**11


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tiny(tmp_path_factory.mktemp("runs") / "run", iterations=0)).path


@fault(
    "Settings and Python",
    "sizes that cannot fit into memory",
    "refused before anything is begun; the sentence names the setting to lower",
)
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (
            {"horizon": HUGE},
            r"the data of 20 tasks take at least .* GB of memory, .* lower .*horizon",
        ),
        ({"rollouts_per_task": HUGE}, "lower meta_batch_size or validation_tasks, rollouts_per_task or horizon"),
        ({"meta_batch_size": HUGE}, "lower hidden_sizes, meta_batch_size or validation_tasks"),
        ({"validation_tasks": HUGE}, "lower hidden_sizes, meta_batch_size or validation_tasks"),
        ({"hidden_sizes": (10**7, 10**7)}, "the weights of the network take .* lower hidden_sizes"),
        ({"algo": "rl2", "horizon": 10**7, "num_inner_steps": 9_999}, "lower .*num_inner_steps, horizon or rl2.units"),
        ({"algo": "rl2", "rl2": {"units": 10**6}}, "the weights of the network take .* lower rl2.units or hidden"),
        ({"algo": "varibad", "varibad": {"units": 10**6}}, "lower varibad.units or hidden_sizes"),
        (
            {"algo": "pearl", "horizon": 10**7, "num_inner_steps": 9_999},
            "num_inner_steps, horizon or pearl.latent_size",
        ),
        (
            {"algo": "varibad", "varibad": {"decoder_sizes": (10**6, 10**6)}},
            "lower varibad.latent_size or varibad.deco",
        ),
        ({"algo": "varibad", "varibad": {"buffer": HUGE}}, "lower varibad.buffer, num_inner_steps or horizon"),
        ({"algo": "varibad", "varibad": {"prefixes": HUGE}}, "lower varibad.batch, varibad.prefixes or varibad.deco"),
        (
            {"algo": "pearl", "pearl": {"latent_size": HUGE}},
            "the weights .* lower pearl.latent_size or hidden_sizes",
        ),
        ({"algo": "pearl", "sac": {"buffer": HUGE}}, "lower sac.buffer, num_inner_steps or horizon"),
        ({"algo": "pearl", "sac": {"transitions": HUGE}}, "lower sac.trials, sac.transitions or pearl.context"),
        ({"env": "sinusoid", "algo": "maml", "queries": 10 * HUGE}, "shots or queries"),
    ],
)
def test_a_training_that_cannot_fit_is_refused_before_it_begins(tmp_path, settings, named):
    with pytest.raises(UserError, match=named):
        train(Config(run_dir=tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()


def test_what_is_measured_once_is_no_matter_of_validation():
    settings = Config(validation_tasks=HUGE, validate_every=0).resolve()
    require_room_to_train(settings, build(settings)[1])


def test_an_agent_is_loaded_where_its_training_would_not_fit(run, monkeypatch):
    monkeypatch.setattr("metarl.common.memory._memory", lambda: 2_000)
    agent = metarl.load(run)
    with pytest.raises(UserError, match=r"the data of .* tasks take at least"):
        require_room_to_train(agent.settings, agent.rule)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda run: metarl.evaluate(run, EvaluationConfig(tasks=HUGE)), "lower tasks or gradient_steps"),
        (lambda run: metarl.evaluate(run, EvaluationConfig(tasks=2, rollouts=HUGE)), "lower tasks, rollouts, shots or"),
        (lambda run: metarl.analyze(run, AnalysisConfig(tasks=2, rollouts=HUGE)), "lower tasks, rollouts"),
        (lambda run: adapt(run, horizon=HUGE), "lower num_rollouts or horizon"),
    ],
)
def test_an_evaluation_that_cannot_fit_is_refused_before_it_begins(run, call, named):
    with pytest.raises(UserError, match=named):
        call(run)


def adapt(run, **settings):
    env = gymnasium.make("metarl/Navigation-v0")
    env.reset(seed=0)
    return metarl.load(run).adapt(env, **settings)


def allocate_numpy():
    np.empty(2**55)


def allocate_torch():
    import torch

    torch.empty(2**60)


@fault("Settings and Python", "memory that is used up", "the command ends with a sentence that names what to lower")
@pytest.mark.parametrize("allocate", [allocate_numpy, allocate_torch])
def test_a_command_without_memory_ends_with_a_sentence(allocate, capsys):
    assert run_command(allocate) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: there is not enough memory: lower the number of tasks (meta_batch_size, tasks)")
    assert shown.count("\n") == 1


def test_another_error_of_a_command_keeps_its_traceback():
    def fail():
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        run_command(fail)


def test_a_path_that_is_too_long_names_its_setting(tmp_path):
    for config in (lambda: Config(run_dir=tmp_path / ("x" * 256)), lambda: AnalysisConfig(output="x" * 5000)):
        with pytest.raises(UserError, match=r"(run_dir|output) must be a path \(in UTF-8; names of at most 255 bytes"):
            config()
    kept = Config(run_dir=tmp_path / ("x" * 255))
    assert dataclasses.replace(kept, seed=1).folder == kept.folder
    with pytest.raises(OSError) as error:
        os.mkdir(tmp_path / ("x" * 256))
    assert error.value.errno == errno.ENAMETOOLONG


def test_all_trials_of_an_agent_with_memory_count(tmp_path, monkeypatch):
    run = train(tiny(tmp_path, algo="rl2", iterations=0)).path
    monkeypatch.setattr("metarl.common.memory._memory", lambda: 40_000_000)
    metarl.evaluate(run, EvaluationConfig(tasks=2, rollouts=2, gradient_steps=1))
    with pytest.raises(UserError, match="lower hidden_sizes, tasks or rollouts"):
        metarl.evaluate(run, EvaluationConfig(tasks=2, rollouts=100_000, gradient_steps=1))


@pytest.mark.parametrize(("content", "expected"), [("1000", 1000), ("max", None), (None, None)])
def test_a_containers_limit_counts(tmp_path, monkeypatch, content, expected):
    if content is not None:
        (tmp_path / "memory.max").write_text(f"{content}\n")
    monkeypatch.setattr(memory, "_LIMIT", tmp_path / "missing")
    whole = memory._memory()
    monkeypatch.setattr(memory, "_LIMIT", tmp_path / "memory.max")
    assert memory._memory() == (whole if expected is None else expected)
    assert whole > 10**8
