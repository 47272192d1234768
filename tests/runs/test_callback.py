"""A callback sees every logged iteration and may stop the run; the examples of callbacks."""

import importlib.util
import os
import signal
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_runs import ROOT, TINY, assert_same_run, final_parameters, numbers, stored_progress, tiny

import metarl
from examples.cartpole_family import CartPoleFamily
from metarl import UserError
from metarl.commands.analyze import main as analyze_main
from metarl.runs.training import train
from metarl.store.checkpoints import load_checkpoint


def test_a_callback_sees_every_logged_row_and_the_agent(tmp_path):
    seen = []

    def note(iteration, row, agent):
        # The row has been written.
        assert numbers(tmp_path)[-1]["post_adaptation_return"] == str(row["post_adaptation_return"])
        seen.append((iteration, row["iteration"], agent.meta.numpy().copy()))

    train(tiny(tmp_path, iterations=5, log_every=2, validate_every=0, checkpoint_every=1, keep_checkpoints=True), note)
    assert [(iteration, logged) for iteration, logged, _ in seen] == [(2, 2), (4, 4), (5, 5)]
    for iteration, _, meta in seen:
        np.testing.assert_array_equal(meta, final_parameters(tmp_path, f"iteration{iteration}"))


@pytest.mark.parametrize("yes", [True, np.True_])
def test_a_callback_that_returns_true_stops_the_run_with_its_checkpoint(tmp_path, yes):
    run = train(tiny(tmp_path / "parts", iterations=5), lambda iteration, row, agent: iteration == 3 and yes)
    assert run.progress["iteration"].tolist() == [1, 2, 3]
    assert stored_progress(tmp_path / "parts").iteration == 3
    np.testing.assert_array_equal(run.agent.meta.numpy(), final_parameters(tmp_path / "parts"))
    train(tiny(tmp_path / "parts", iterations=5, resume=True))
    train(tiny(tmp_path / "whole", iterations=5))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_what_a_callback_raises_ends_the_run_with_its_checkpoint(tmp_path):
    def fail(iteration, row, agent):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tiny(tmp_path, iterations=5), fail)
    assert stored_progress(tmp_path).iteration == 1


class Pruned(Exception):
    """What a callback of one's own raises."""


def prune(iteration, row, agent):
    raise Pruned(iteration)


def leave(iteration, row, agent):
    sys.exit(0)


@pytest.mark.slow
@pytest.mark.parametrize(("callback", "raised", "argument"), [(prune, Pruned, 1), (leave, SystemExit, 0)])
def test_what_a_callback_raises_comes_out_of_several_processes(tmp_path, callback, raised, argument):
    config = tiny(tmp_path, iterations=3, processes=2, checkpoint_every=1)
    with pytest.raises(raised) as error:
        train(config, callback)
    assert error.value.args == (argument,)
    assert load_checkpoint(config, "last").iteration == 1


def test_a_callback_that_changes_its_agent_does_not_change_the_run(tmp_path):
    train(tiny(tmp_path / "changed"), lambda iteration, row, agent: agent.meta.add_(1.0) is None)
    train(tiny(tmp_path / "alone"))
    assert_same_run(tmp_path / "changed", tmp_path / "alone")


def test_a_run_whose_progress_cannot_be_read_is_not_lost(tmp_path, capsys):
    def spoil(iteration, row, agent):
        if iteration == 1:
            (tmp_path / "progress.csv").unlink()
            (tmp_path / "progress.csv").mkdir()

    with pytest.raises(metarl.NotWritten) as error:
        train(tiny(tmp_path, validate_every=0), spoil)
    assert len(error.value.result.agent.meta)
    assert "cannot read the progress of" in capsys.readouterr().err


def test_an_answer_that_is_neither_yes_nor_no_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"callback must return True, to stop the run, or False or None, got 0\.5\."):
        train(tiny(tmp_path), lambda iteration, row, agent: 0.5)


class Second:
    """Stops after the second iteration; only the first process may ask it."""

    def __init__(self, path):
        self.path = path

    def __call__(self, iteration, row, agent):
        with self.path.open("a") as file:
            file.write(f"{iteration} {row['iteration']}\n")
        return iteration == 2


@pytest.mark.slow
def test_a_callback_stops_all_processes(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    config = tiny(tmp_path / "run", iterations=4, processes=2)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    run = train(config, Second(tmp_path / "calls"))
    assert not list((tmp_path / "temporary").iterdir())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert (tmp_path / "calls").read_text() == "1 1\n2 2\n"
    assert run.progress["iteration"].tolist() == [1, 2]
    assert load_checkpoint(config, "last").iteration == 2


def test_a_callback_that_cannot_be_sent_to_processes_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"callback cannot be sent to other processes .*; take a function or an object"):
        train(tiny(tmp_path, processes=2), lambda iteration, row, agent: None)


# The examples


@pytest.fixture
def examples(monkeypatch, tmp_path):
    """Examples can be imported, and what they need; a stand-in takes the place of a package that is missing."""
    missing = [name for name in ("optuna", "wandb") if importlib.util.find_spec(name) is None]
    if missing:
        monkeypatch.syspath_prepend(ROOT / "tests/stand_ins")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    yield set(missing)
    for name in missing:
        sys.modules.pop(name, None)


def test_early_stopping_waits_for_an_improvement(examples):
    from examples.early_stopping import EarlyStopping

    def stops(values, **settings):
        stop, column = EarlyStopping(patience=2, **settings), "validation_post_adaptation_return"
        return [stop(index, {column: value}, None) for index, value in enumerate(values)]

    assert stops([1.0, 3.0, "", 2.0, 4.0, 4.0, "", 3.0]) == [False] * 7 + [True]
    assert stops([3.0, 2.0, 1.0, 1.5, 1.0], sign=-1) == [False, False, False, False, True]


def test_early_stopping_ends_a_run(examples, tmp_path):
    from examples.early_stopping import EarlyStopping

    stop = EarlyStopping("distance", patience=1, sign=1)  # Distances shrink: the wrong sign stops soon.
    run = metarl.train(tiny(tmp_path / "run", iterations=12, validate_every=1), stop)
    distances = run.progress["validation_post_adaptation_distance"]
    ends = next(number for number, value in enumerate(distances) if number and value <= max(distances[:number]))
    assert len(distances) == ends + 1 < 12


def test_numbers_go_to_weights_and_biases(examples):
    from examples.wandb_logging import WandbLogger

    logged = []
    run = SimpleNamespace(log=lambda numbers, step: logged.append((step, numbers)))
    train(tiny("run"), WandbLogger(run))
    assert [step for step, _ in logged] == [1, 2]
    for row, (_, sent) in zip(numbers("run"), logged, strict=True):
        assert sent["post_adaptation_return"] == float(row["post_adaptation_return"])
        assert "outcome" not in sent  # A word.
        assert ("validation_post_adaptation_return" in sent) == bool(row["validation_post_adaptation_return"])


@pytest.mark.slow
def test_the_example_of_weights_and_biases_runs(examples):
    from examples.wandb_logging import main

    main(iterations=1)
    if "wandb" in examples:
        (run,) = sys.modules["wandb"].runs
        assert (run.options["project"], run.options["config"]["algo"], run.finished) == ("metarl", "maml", True)
        assert [step for step, _ in run.logged] == [1]


SHORT = {**TINY, "iterations": 3, "validate_every": 1}


class Trial:
    """An Optuna trial that is pruned at its second report."""

    number = 7

    def __init__(self):
        self.reports = []

    def suggest_float(self, name, low, high, log=False):
        return (low + high) / 2

    def report(self, value, step):
        self.reports.append((step, value))

    def should_prune(self):
        return len(self.reports) == 2


def test_optuna_prunes_a_run(examples, tmp_path):
    from examples.optuna_pruning import objective, require_optuna

    trial = Trial()
    with pytest.raises(require_optuna().TrialPruned):
        objective(trial, tmp_path, **SHORT)
    rows = numbers(tmp_path / "trial7")
    assert trial.reports == [(int(row["iteration"]), float(row["validation_post_adaptation_return"])) for row in rows]
    assert len(rows) == 2


@pytest.mark.slow
def test_a_sweep_shares_a_study_among_processes(examples, tmp_path):
    from examples.sweep import main

    study = main(tmp_path, processes=2, trials=3, **SHORT)
    assert sorted(trial.number for trial in study.trials) == [0, 1, 2]
    assert {path.name for path in tmp_path.glob("trial*")} == {"trial0", "trial1", "trial2"}
    assert np.isfinite(study.best_value)
    if "optuna" in examples:
        assert sorted(trial.number for trial in study.trials if trial.value is None) == [1, 2]


def test_without_optuna_an_example_says_what_to_install(examples, monkeypatch):
    from examples.optuna_pruning import require_optuna

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match="this example needs Optuna: pip install optuna"):
        require_optuna()


@pytest.mark.parametrize("absolute", [False, True])
def test_a_callback_that_changes_the_working_directory_splits_no_run(tmp_path, monkeypatch, absolute):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    config = tiny(tmp_path / "run" if absolute else "run", validate_every=0, checkpoint_every=1)

    def leave(iteration, row, agent):
        os.chdir(tmp_path / "elsewhere")

    if absolute:
        train(config, leave)
    else:
        with pytest.raises(UserError, match=r"has changed the working directory from .* to .*elsewhere, and the run's"):
            train(config, leave)
        assert os.getcwd() == str(tmp_path)
    assert not any((tmp_path / "elsewhere").iterdir())
    assert stored_progress(tmp_path / "run").iteration == (2 if absolute else 1)


class Leaving(CartPoleFamily):
    """A family whose environments change the working directory."""

    def make_env(self, render_mode=None):
        os.chdir(os.environ.get("METARL_TEST_ELSEWHERE", "."))
        return super().make_env(render_mode)


def test_an_environment_that_changes_the_working_directory_is_told_before_anything_is_written(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("METARL_TEST_ELSEWHERE", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"give run_dir \(--run-dir\) as an absolute path"):
        train(tiny("run", env=Leaving, horizon=5))
    assert not (tmp_path / "run" / "config.json").exists()
    assert not any((tmp_path / "elsewhere").iterdir())


def test_an_environment_that_changes_the_working_directory_takes_no_result_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(tiny("run", env=Leaving, horizon=40, keep_checkpoints=True, checkpoint_every=1))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tasks.json").write_text('{"tasks": [0.5, 1.0]}')
    monkeypatch.setenv("METARL_TEST_ELSEWHERE", str(tmp_path / "elsewhere"))
    few = metarl.EvaluationConfig(task_file="tasks.json", rollouts=2, gradient_steps=1)
    assert metarl.evaluate("run", few, trust=True).tasks.tolist() == [0.5, 1.0]
    os.chdir(tmp_path)
    options = ["--tasks", "2", "--rollouts", "2", "--embedding-tasks", "2", "--threads", "1"]
    own = f"{Leaving.__module__}:{Leaving.__name__}"
    assert analyze_main(["run", *options, "--trust", own]) == 0
    assert (tmp_path / "run/evaluation.json").is_file()
    written = {path.name for path in (tmp_path / "run/analysis").iterdir()}
    assert {"analysis.json", "conflict.png", "through_training.png"} <= written
    assert not any((tmp_path / "elsewhere").iterdir())
