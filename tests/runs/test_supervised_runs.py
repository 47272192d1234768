"""Supervised runs from training to figures."""

import json
import re

import gymnasium
import numpy as np
import pytest
from tiny_runs import assert_same_run, final_parameters, numbers, stored_progress

from metarl import AnalysisConfig, Config, EvaluationConfig, UserError, analyze, evaluate, load, plot, train
from metarl.reports.functions import draw_functions
from metarl.reports.tables import evaluation_table
from metarl.runs.trained_agent import load_with_iteration

SMALL = {"hidden_sizes": (8,), "log_every": 5, "validate_every": 10, "validation_tasks": 4}
THIRDS = "thirds:Thirds"


def small(folder, **settings):
    return Config(**{"env": "sinusoid", "algo": "maml", "iterations": 20, "run_dir": folder, **SMALL, **settings})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supervised")
    train(small(folder, algo="l2f", iterations=300, validate_every=100, log_every=100, inner_lr=0.02))
    return folder


def test_training_lowers_the_error_and_adaptation_lowers_it_further(run):
    rows = numbers(run)
    first, last = (float(rows[i]["validation_post_adaptation_error"]) for i in (0, -1))
    assert last < first
    assert last < float(rows[-1]["validation_pre_adaptation_error"])
    assert [int(row["iteration"]) for row in rows] == [100, 200, 300]
    assert "env_steps" not in rows[0]
    assert "steps_per_second" not in rows[0]
    assert {"gamma_mean/weight1", "modulated_error", "meta_loss"} <= set(rows[0])
    # The attenuated algorithms report what they adapt from, too.
    assert float(rows[-1]["meta_loss"]) == pytest.approx(float(rows[-1]["post_adaptation_error"]), rel=1e-5)


@pytest.mark.parametrize("algo", ["maml", "mamlpp", "l2f", "mumomaml"])
def test_resumed_run_is_bit_for_bit_an_uninterrupted_one(algo, tmp_path):
    train(small(tmp_path / "whole", algo=algo))
    train(small(tmp_path / "parts", algo=algo, iterations=7))
    train(small(tmp_path / "parts", algo=algo, resume=True))
    whole = {row["iteration"]: row for row in numbers(tmp_path / "whole")}
    parts = [row for row in numbers(tmp_path / "parts") if row["iteration"] != "7"]  # The end of its first part.
    assert [whole[row["iteration"]] for row in parts] == parts
    np.testing.assert_array_equal(final_parameters(tmp_path / "whole"), final_parameters(tmp_path / "parts"))


def test_results_do_not_depend_on_the_threads(tmp_path):
    for threads in (1, 2):
        train(small(tmp_path / str(threads), threads=threads))
    assert_same_run(tmp_path / "1", tmp_path / "2")


def test_best_checkpoint_has_the_lowest_error(tmp_path):
    train(small(tmp_path, validate_every=1, log_every=1))
    errors = [float(row["validation_post_adaptation_error"]) for row in numbers(tmp_path)]
    best = stored_progress(tmp_path, "best")
    assert best.iteration == 1 + int(np.argmin(errors))
    assert best.best_return == -min(errors)


def test_evaluation_measures_the_error_with_any_number_of_shots(run):
    result = evaluate(run, EvaluationConfig(tasks=50, gradient_steps=3, shots=20, queries=30))
    assert (result.measure, result.shots, result.rollouts) == ("error", 20, 30)
    assert result.step_scales == (1.0, 1.0, 1.0)
    assert result.returns.shape == (50, 4)
    assert result.mean[3] < result.mean[0]
    assert result.references.standstill is None
    assert (result.share_made_worse[1] < 0.5).all()
    assert result.adaptation_episodes.tolist() == [0, 20, 20, 20]
    assert result.adaptation_steps is None
    table = evaluation_table(result)
    assert "examples" in table.splitlines()[1]
    assert "20 shots, measured on 30 examples" in table
    assert "steps     error" in table


def test_a_number_of_episodes_to_measure_is_refused_for_examples(run):
    with pytest.raises(UserError, match="rollouts would do nothing: sinusoid is a supervised family; choose shots and"):
        evaluate(run, EvaluationConfig(tasks=2, rollouts=500))


def test_classification_is_measured_by_accuracy_with_an_interval(tmp_path):
    train(small(tmp_path, env=THIRDS, shots=10, iterations=400, inner_lr=0.5, hidden_sizes=(16,), adam={"lr": 0.01}))
    result = evaluate(tmp_path, EvaluationConfig(tasks=60, gradient_steps=2))
    assert result.measure == "accuracy"
    assert ((result.returns >= 0) & (result.returns <= 1)).all()
    assert result.mean[2] > 0.45  # Chance is a third.
    assert result.interval[2] < 0.1


def test_agent_fits_a_users_examples(run):
    agent, x = load(run), np.linspace(-4, 4, 10)[:, None]
    y = 2 * np.sin(x + 1)
    before, after = (np.mean((agent.fit(x, y, steps).predict(x) - y) ** 2) for steps in (0, 5))
    assert after < before
    with pytest.raises(UserError, match=r"inputs must have shape \(examples, 1\), got \(10, 2\)"):
        agent.fit(np.hstack([x, x]), y)


def test_the_figure_of_functions_names_its_axes_and_its_agent(run):
    figure = draw_functions(*load_with_iteration(run, "last", False), "last")
    assert [ax.get_xlabel() for ax in figure.axes] == [""] * 3 + ["input"] * 3
    assert [ax.get_ylabel() for ax in figure.axes] == ["output", "", ""] * 2
    config = json.loads((run / "config.json").read_text())
    origin = (
        rf"on sinusoid, seed 0, iteration {config['iterations']} \(last\) · \d+ shots · 6 held-out tasks · metarl .+"
    )
    assert re.search(origin, figure.get_supxlabel())
    # The frequency is always 1.
    assert all(re.fullmatch(r"\d\.\d\d sin\(x \+ \d\.\d\d\)", ax.get_title(loc="left")) for ax in figure.axes)


def test_figures_and_analysis_of_a_supervised_run(run, tmp_path):
    evaluate(run, EvaluationConfig(tasks=10, gradient_steps=2))
    for x in ("gradient-step", "iteration", "input"):
        assert plot(run, tmp_path / f"{x}.png", x=x).stat().st_size > 10_000
    with pytest.raises(UserError, match=r"no run holds 'env_steps' .*; draw against iteration"):
        plot(run, tmp_path / "no.png", x="env-steps")
    analysis = analyze(run, AnalysisConfig(tasks=5, rollouts=4, embedding_tasks=20, output=tmp_path))
    assert analysis.measure == "error"
    assert analysis.conflict is not None
    assert analysis.attenuation is not None
    assert analysis.embedding is not None
    assert json.loads((tmp_path / "analysis.json").read_text())["measure"] == "error"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 10}, "horizon would do nothing: it is for reinforcement learning"),
        ({"inner_loss": "dice"}, "inner_loss would do nothing: it is for reinforcement learning"),
        ({"env": "navigation", "shots": 3}, "shots would do nothing: it is for supervised families"),
        ({"meta_optimiser": "trpo"}, "sinusoid is supervised, and trpo needs rollouts; take meta_optimiser adam"),
        ({"algo": "standstill"}, "standstill acts in environments, and sinusoid is supervised"),
        (
            {"algo": "pretrain", "baseline": {"trainer": "ppo"}},
            "baseline.trainer ppo acts in environments, and sinusoid is supervised; leave it out",
        ),
        ({"envs_per_process": 4}, "envs_per_process would do nothing: it is for reinforcement learning"),
        ({"algo": "l2f", "l2f": {"start_kl": 1.0}}, "supervised families have none"),
        ({"algo": "l2f", "l2f": {"attenuation_rollouts": "fresh"}}, "one support set"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**{"env": "sinusoid", "algo": "maml", **settings})


def test_a_family_that_does_not_tell_modes_is_refused_by_multi_maml(tmp_path):
    train(small(tmp_path, env="regression-2", algo="multi-maml"))
    with pytest.raises(UserError, match="multi-maml must be told each task's mode"):
        evaluate(tmp_path, EvaluationConfig(env="sinusoid", tasks=2))


@pytest.mark.parametrize(
    ("algo", "settings"),
    [("mumomaml", {"mumomaml": {"trajectories": 2}}), ("l2f", {"l2f": {"embedding": "gru", "trajectories": 2}})],
)
def test_more_than_the_one_trajectory_of_a_supervised_task_is_refused_before_training(tmp_path, algo, settings):
    message = f"{algo} reads 2 trajectories of each task, and supervised tasks have only one"
    with pytest.raises(UserError, match=message):
        train(small(tmp_path / "run", algo=algo, **settings))
    assert not (tmp_path / "run").exists()


def test_an_agent_of_functions_does_not_act_and_one_that_acts_does_not_fit(run, tmp_path):
    with pytest.raises(UserError, match="supervised family without environments"):
        load(run).adapt(gymnasium.make("CartPole-v1"))
    train(Config(algo="random", run_dir=tmp_path, hidden_sizes=(4,)))
    with pytest.raises(UserError, match="acts in environments of navigation"):
        load(tmp_path).fit([[0.0]], [[0.0]])
    for name in ("shots", "queries"):
        with pytest.raises(UserError, match=f"{name} would do nothing"):
            evaluate(tmp_path, EvaluationConfig(tasks=1, rollouts=1, **{name: 3}))


def test_pretraining_takes_adams_steps_without_an_inner_loop(tmp_path):
    train(small(tmp_path, algo="pretrain"))
    assert {"pre_adaptation_error", "meta_loss"} <= set(numbers(tmp_path)[0])
    assert "post_adaptation_error" not in numbers(tmp_path)[0]
    result = evaluate(tmp_path, EvaluationConfig(tasks=5, gradient_steps=2))
    assert evaluation_table(result).startswith("pretrained (Adam) on sinusoid")
