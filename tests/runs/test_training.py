"""Training: resuming, sharding, learning, and what it accepts and refuses."""

import errno
import itertools
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from quick import quick
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import ROOT, assert_same_run, everything_in, final_parameters, numbers, stored_progress, tiny

from metarl import Config, EvaluationConfig, L2FConfig, UserError
from metarl.commands.train import parse_config
from metarl.common.device import resolve_device
from metarl.common.errors import Terminated
from metarl.envs.cheetah import CheetahDirFamily
from metarl.envs.navigation import NavigationFamily
from metarl.inner import runner
from metarl.outer.learners import MetaLearner
from metarl.runs.protocol import evaluate
from metarl.runs.training import train
from metarl.store.folder import RunFolder
from metarl.store.runs import read_run
from metarl.store.writer import RunWriter

FRESH_L2F = {
    "algo": "l2f",
    "l2f": L2FConfig(attenuation_rollouts="fresh", normalise_embedding=True),
    "num_inner_steps": 2,
}


def tensorboard_steps(run_dir, name):
    events = EventAccumulator(str(run_dir / "tensorboard"), {"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


@pytest.mark.parametrize(
    "settings", [{}, FRESH_L2F, {"env": "cheetah-dir", "horizon": 5}], ids=["maml", "l2f", "cheetah"]
)
def test_resumed_run_is_bit_for_bit_an_uninterrupted_one(tmp_path, settings):
    train(tiny(tmp_path / "whole", iterations=4, **settings))
    train(tiny(tmp_path / "parts", iterations=1, **settings))
    train(tiny(tmp_path / "parts", iterations=4, **settings, resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    np.testing.assert_array_equal(*(final_parameters(tmp_path / name, "best") for name in ("whole", "parts")))


def test_rows_after_the_last_checkpoint_are_written_again_without_gap_or_duplicate(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(tiny(whole, iterations=5))
    train(tiny(killed, iterations=2))
    shutil.copytree(killed / "checkpoints", tmp_path / "at-2")
    train(tiny(killed, iterations=4, resume=True))
    # As a process leaves it that is killed outright in its fifth iteration, checkpointing every second one.
    shutil.rmtree(killed / "checkpoints")
    shutil.copytree(tmp_path / "at-2", killed / "checkpoints")
    train(tiny(killed, iterations=5, resume=True))
    assert [row["iteration"] for row in numbers(killed)] == ["1", "2", "3", "4", "5"]
    assert_same_run(whole, killed)
    for name in ("post_adaptation_return", "kl"):
        steps = tensorboard_steps(killed, name)
        assert [step for step, _ in steps] == [1, 2, 3, 4, 5]
        assert steps == tensorboard_steps(whole, name)
        np.testing.assert_allclose([value for _, value in steps], [float(row[name]) for row in numbers(killed)], 1e-6)


def test_resuming_a_finished_run_changes_no_number(tmp_path):
    train(tiny(tmp_path / "run"))
    before = numbers(tmp_path / "run"), final_parameters(tmp_path / "run")
    train(tiny(tmp_path / "run", resume=True))
    assert numbers(tmp_path / "run") == before[0]
    np.testing.assert_array_equal(final_parameters(tmp_path / "run"), before[1])


@pytest.mark.parametrize("settings", [{"algo": "maml"}, {"algo": "l2f"}, FRESH_L2F], ids=["maml", "l2f", "l2f-fresh"])
@pytest.mark.parametrize("env", quick(["navigation", "cheetah-dir"], "navigation"))
def test_results_are_the_same_for_any_number_of_shards(tmp_path, monkeypatch, env, settings):
    for family in (NavigationFamily, CheetahDirFamily):
        monkeypatch.setattr(family, "min_envs_per_shard", 1)
    shards = []

    class RecordedSampler(runner.Sampler):
        def __init__(self, episodes, action_map, num_tasks, *rest):
            shards.append(num_tasks)
            super().__init__(episodes, action_map, num_tasks, *rest)

    monkeypatch.setattr(runner, "Sampler", RecordedSampler)
    horizon = 20 if env == "navigation" else 5
    for threads in (1, 2, 3):
        shards.clear()
        train(tiny(tmp_path / str(threads), env=env, horizon=horizon, threads=threads, **settings))
        assert shards[:threads] == {1: [4], 2: [2, 2], 3: [1, 1, 2]}[threads]
    assert_same_run(tmp_path / "1", tmp_path / "2")
    assert_same_run(tmp_path / "1", tmp_path / "3")


def test_seeds_differ_and_global_generators_do_not_matter(tmp_path):
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    train(tiny(tmp_path / "a", seed=5))
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    train(tiny(tmp_path / "b", seed=5))
    train(tiny(tmp_path / "c", seed=6))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert numbers(tmp_path / "a") != numbers(tmp_path / "c")


def test_discrete_actions_train_and_evaluate(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    config = tiny(tmp_path, env="examples.cartpole_family:CartPoleFamily", algo="l2f", horizon=30)
    returns = train(config).progress["post_adaptation_return"]
    assert len(returns) == 2
    # A reward of 1 for each step: the returns of the 16 episodes before and after adaptation are all of the steps.
    progress = read_run(tmp_path).progress
    both = progress["pre_adaptation_return"] + progress["post_adaptation_return"]
    np.testing.assert_allclose(16 * both, np.diff([0, *progress["env_steps"]]), rtol=1e-6)
    result = evaluate(tmp_path, EvaluationConfig(tasks=2, rollouts=2, gradient_steps=1))
    assert np.shape(result.returns) == (2, 2)
    assert result.references.standstill is None


BODY = """
from torch import nn

def body(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, outputs))

def recurrent(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 8), nn.LSTM(8, outputs))
"""


@pytest.fixture
def bodies(tmp_path, monkeypatch):
    """A user's module with policy bodies."""
    (tmp_path / "my_bodies.py").write_text(BODY)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("algo", ["maml", "l2f"])
def test_a_module_as_policy_body_trains(tmp_path, bodies, algo):
    torch.manual_seed(1)
    train(tiny(tmp_path / "a", algo=algo, iterations=1, validate_every=0, policy_body="my_bodies:body"))
    torch.manual_seed(2)
    train(tiny(tmp_path / "b", algo=algo, iterations=1, validate_every=0, policy_body="my_bodies:body"))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert numbers(tmp_path / "a")[0]["outcome"].startswith("accepted")


def test_unsuitable_policy_bodies_are_refused_by_name(tmp_path, bodies):
    with pytest.raises(UserError, match="LSTM"):
        train(tiny(tmp_path / "run", policy_body="my_bodies:recurrent"))
    with pytest.raises(UserError, match=r"module 'my_bodies' has no 'bod'\..* Did you mean 'body'"):
        train(tiny(tmp_path / "run", policy_body="my_bodies:bod"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("algo", ["maml", "rl2"])
def test_without_inner_steps_nothing_is_adapted(tmp_path, algo):
    progress = train(tiny(tmp_path, algo=algo, iterations=1, validate_every=0, num_inner_steps=0)).progress
    assert progress["pre_adaptation_return"] == progress["post_adaptation_return"]


def test_whatever_ends_a_run_the_iterations_done_are_kept(tmp_path, monkeypatch):
    iteration = MetaLearner.iteration

    def breaks(self, state, index, describe):
        if index == 3:
            raise RuntimeError("broken on purpose")
        return iteration(self, state, index, describe)

    monkeypatch.setattr(MetaLearner, "iteration", breaks)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        train(tiny(tmp_path / "broken", iterations=5))
    monkeypatch.undo()
    assert stored_progress(tmp_path / "broken").iteration == 3
    train(tiny(tmp_path / "broken", iterations=5, resume=True))
    train(tiny(tmp_path / "whole", iterations=5))
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_best_checkpoint_is_the_one_of_the_best_validation_return(tmp_path):
    train(tiny(tmp_path, iterations=5, validate_every=1))
    returns = [float(row["validation_post_adaptation_return"]) for row in numbers(tmp_path)]
    progress = stored_progress(tmp_path, "best")
    assert progress.best_return == max(returns)
    assert progress.iteration == 1 + int(np.argmax(returns))


@pytest.mark.parametrize(("costs", "sign"), [(("distance",), -1), ((), 1)])
def test_a_metric_may_choose_the_best_checkpoint(tmp_path, monkeypatch, costs, sign):
    """The two choices differ, so one of them at least is not the return's."""
    monkeypatch.setattr(NavigationFamily, "costs", costs)
    train(tiny(tmp_path, iterations=5, validate_every=1, best_by="distance"))
    distances = np.array([float(row["validation_post_adaptation_distance"]) for row in numbers(tmp_path)])
    progress, best = stored_progress(tmp_path, "best"), np.argmax(sign * distances)
    assert np.ptp(distances) > 0
    assert (progress.best_return, progress.iteration) == (sign * distances[best], 1 + best)


@pytest.mark.parametrize(
    ("settings", "measured"),
    [({"best_by": "succes"}, "return, success, distance; .* Did you mean 'success'"), ({"env": "bandit"}, "return; ")],
)
def test_what_is_not_measured_cannot_choose_the_best_checkpoint(tmp_path, settings, measured):
    with pytest.raises(UserError, match=f"best_by must be one of what is measured on .*, {measured}"):
        tiny(tmp_path, **{"best_by": "distance", **settings})


def test_without_validation_nothing_chooses_the_best_checkpoint(tmp_path):
    with pytest.raises(UserError, match="best_by would do nothing: it is for runs with validation"):
        tiny(tmp_path, best_by="distance", validate_every=0)


def test_a_familys_own_choice_does_not_stand_in_the_way_of_a_run_without_validation(monkeypatch):
    monkeypatch.setattr(NavigationFamily, "defaults", {"best_by": "distance"})
    assert Config(algo="maml").to_dict()["best_by"] == "distance"
    config = Config(algo="maml", validate_every=0)
    assert config.to_dict()["best_by"] is None
    assert Config.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_a_run_without_metrics_goes_on_with_them(tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(NavigationFamily, "metrics", {})
        before.setattr(NavigationFamily, "costs", ())
        train(tiny(tmp_path, iterations=2))
    train(tiny(tmp_path, iterations=3, resume=True))
    assert [bool(row["post_adaptation_success"]) for row in numbers(tmp_path)] == [False, False, True]
    assert [step for step, _ in tensorboard_steps(tmp_path, "post_adaptation_success")] == [3]


def test_every_checkpoint_is_kept_on_request(tmp_path):
    train(tiny(tmp_path / "run", iterations=5, checkpoint_every=2, keep_checkpoints=True))
    kept = {path.stem for path in RunFolder(tmp_path / "run").checkpoint("last").parent.iterdir()}
    assert kept == {"last", "previous", "best", "iteration0", "iteration2", "iteration4"}
    train(tiny(tmp_path / "two", iterations=2))
    np.testing.assert_array_equal(final_parameters(tmp_path / "run", "iteration2"), final_parameters(tmp_path / "two"))


def test_without_validation_there_is_no_best_checkpoint_and_no_column(tmp_path):
    train(tiny(tmp_path, validate_every=0))
    assert not RunFolder(tmp_path).checkpoint("best").exists()
    assert not [name for name in numbers(tmp_path)[0] if name.startswith("validation")]


def test_validation_repeats_the_tasks_of_a_finite_family_and_counts_its_steps_apart(tmp_path):
    settings = {"env": "cheetah-dir", "horizon": 5, "validation_tasks": 6}
    train(tiny(tmp_path / "run", iterations=2, **settings))
    train(tiny(tmp_path / "run", iterations=5, resume=True, **settings))
    train(tiny(tmp_path / "without", iterations=5, **{**settings, "validate_every": 0}))
    # 6 adaptations to the two directions, 4 episodes of 5 steps before and after each.
    each = 6 * 4 * 5 * 2
    progress, without = read_run(tmp_path / "run").progress, read_run(tmp_path / "without").progress
    assert progress["validation_env_steps"].tolist() == [0, each, each, 2 * each, 2 * each]
    assert stored_progress(tmp_path / "run").validation_env_steps == 2 * each
    for name in ("env_steps", "post_adaptation_return"):
        np.testing.assert_array_equal(progress[name], without[name])


def test_validation_has_every_task_of_a_finite_family_at_least_once(tmp_path):
    train(tiny(tmp_path, env="cheetah-dir", horizon=5, validation_tasks=1))
    assert stored_progress(tmp_path).validation_env_steps == 2 * 4 * 5 * 2


def test_cpu_time_is_summed_over_iterations_and_resumptions(tmp_path, monkeypatch):
    clock = itertools.count()  # Read before and after each iteration.
    monkeypatch.setattr("metarl.runs.training.time.process_time", lambda: 1.5 * next(clock))
    train(tiny(tmp_path, iterations=2))
    train(tiny(tmp_path, iterations=4, resume=True))
    assert read_run(tmp_path).progress["cpu_seconds"].tolist() == [1.5, 3.0, 4.5, 6.0]
    assert stored_progress(tmp_path).cpu_seconds == 6.0


def test_environment_steps_are_counted_with_adaptation(tmp_path):
    # Cheetahs never end early: meta batch x rollouts x horizon, before and after the step.
    settings = {"env": "cheetah-dir", "horizon": 5, "validate_every": 0, "algo": "l2f"}
    train(tiny(tmp_path / "reuse", **settings))
    train(tiny(tmp_path / "fresh", **settings, l2f=L2FConfig(attenuation_rollouts="fresh")))
    assert [int(row["env_steps"]) for row in numbers(tmp_path / "reuse")] == [160, 320]
    assert [int(row["env_steps"]) for row in numbers(tmp_path / "fresh")] == [240, 480]


def test_l2f_logs_each_layers_gamma_and_the_effective_sample_size(tmp_path):
    train(tiny(tmp_path, algo="l2f"))
    last = numbers(tmp_path)[-1]
    gammas = {name: float(value) for name, value in last.items() if name.startswith("gamma_mean/")}
    assert {name.removeprefix("gamma_mean/") for name in gammas} == {
        name.removeprefix("gamma_spread/") for name in last if name.startswith("gamma_spread/")
    }
    assert gammas["gamma_mean/log_std"] == 1  # not attenuated by default
    assert all(0 < gamma < 1 for name, gamma in gammas.items() if name != "gamma_mean/log_std")
    assert 0 < float(last["effective_sample_size"]) < 1


def test_training_works_outside_the_main_thread(tmp_path):
    thread = threading.Thread(target=train, args=(tiny(tmp_path / "thread", iterations=1),))
    thread.start()
    thread.join()
    train(tiny(tmp_path / "main", iterations=1))
    assert_same_run(tmp_path / "thread", tmp_path / "main")


@pytest.mark.parametrize(("number", "end"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_while_the_last_checkpoint_is_written_comes_after_it(tmp_path, monkeypatch, number, end):
    finish = RunWriter.finish

    def interrupted(self, state):
        signal.raise_signal(number)
        finish(self, state)

    monkeypatch.setattr(RunWriter, "finish", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # A job in the background ignores it.
    try:
        with pytest.raises(end):
            train(tiny(tmp_path, iterations=1))
    finally:
        signal.signal(signal.SIGINT, before)
    assert stored_progress(tmp_path).iteration == 1


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    train(tiny(run))
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match=r"run holds a run; continue it with resume \(--resume\), or choose another"):
        train(tiny(run))
    with pytest.raises(UserError, match=r"other exists and is not an empty folder"):
        train(tiny(other))
    with pytest.raises(UserError, match=r"other is not the folder of a run: it holds no config.json"):
        train(tiny(other, resume=True))
    with pytest.raises(UserError, match=r"was run with seed 0, not 1; resume it with its own settings"):
        train(tiny(run, seed=1, resume=True))
    with pytest.raises(UserError, match=r"was run with hidden_sizes .*resume it with its own settings"):
        train(tiny(run, hidden_sizes=(8,), resume=True))
    with pytest.raises(
        UserError, match=r"run was run with trpo\.max_kl 0\.01, not 0\.02; resume it with its own settin"
    ):
        train(tiny(run, trpo={"max_kl": 0.02}, resume=True))
    assert everything_in(tmp_path) == before


def test_resuming_from_a_damaged_checkpoint_is_refused_and_overwrites_nothing(tmp_path):
    train(tiny(tmp_path))
    path = RunFolder(tmp_path).checkpoint("last")
    path.write_bytes(path.read_bytes()[:100])
    RunFolder(tmp_path).checkpoint("previous").unlink()
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match="is damaged and cannot be read"):
        train(tiny(tmp_path, iterations=3, resume=True))
    assert everything_in(tmp_path) == before


def test_a_folder_that_may_not_be_entered_is_told(tmp_path, monkeypatch):
    def forbidden(path, *arguments, **options):
        if Path(path).is_relative_to(tmp_path / "locked"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, *arguments, **options)

    stat = os.stat
    monkeypatch.setattr(os, "stat", forbidden)
    run = tmp_path / "locked" / "run"
    for act in (
        lambda: train(tiny(run)),
        lambda: train(tiny(run, resume="auto")),
        lambda: parse_config(["--run-dir", str(run), "--resume"]),
        lambda: evaluate(run),
        lambda: read_run(run),
    ):
        with pytest.raises(UserError, match=r"cannot look into .*run: Permission denied"):
            act()


def test_cuda_is_refused_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="PyTorch finds no CUDA GPU; take device cpu or auto"):
        train(tiny(tmp_path / "run", device="cuda"))
    assert not (tmp_path / "run").exists()
    assert resolve_device("auto") == torch.device("cpu")


def test_an_empty_folder_may_be_given(tmp_path):
    (tmp_path / "run").mkdir()
    run = train(tiny(tmp_path / "run", iterations=0))
    assert run.path == Path(tmp_path / "run")
    assert run.progress == {}
    size = run.agent.meta.numel()
    assert repr(run).endswith(f"run', <agent maml on navigation, {size} meta-parameters>, 0 rows of progress)")
    assert stored_progress(run.path).iteration == 0
