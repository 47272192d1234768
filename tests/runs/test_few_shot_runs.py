"""Few-shot classification from training to figures."""

import json
import shutil

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from images import write_class, write_digits, write_patterns
from tiny_runs import assert_same_run, numbers

import metarl
from metarl import AnalysisConfig, Config, EvaluationConfig, TaskFamily, UserError, analyze, evaluate, plot, train


class Picture(gym.Env):
    """Shows a picture of 16 x 16 pixels."""

    observation_space, action_space = spaces.Box(0.0, 1.0, (256,)), spaces.Discrete(2)


class Pictures(TaskFamily):
    """Pictures."""

    task_space = spaces.Box(0.0, 1.0)

    def make_env(self, render_mode=None):
        return Picture()


SMALL = {
    "queries": 5,
    "meta_batch_size": 4,
    "log_every": 1,
    "validate_every": 0,
}


@pytest.fixture(scope="module")
def patterns(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patterns")
    write_patterns(folder)
    return {"folder": str(folder), "ways": 3, "size": 8}


def small(folder, arguments, **settings):
    return Config(
        **{"env": "few-shot", "algo": "maml", "env_kwargs": arguments, "run_dir": folder, **SMALL, **settings}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """MAML on scikit-learn's digits."""
    folder = tmp_path_factory.mktemp("digits")
    digits = {**write_digits(folder), "rotations": True}
    train(small(folder / "run", digits, iterations=40, adam={"lr": 0.003}, validate_every=40, validation_tasks=10))
    return folder / "run"


def test_defaults_are_those_of_omniglot():
    resolved = Config(env="few-shot", algo="maml").resolve()
    assert (resolved.inner.inner_lr, resolved.meta.meta_batch_size, resolved.meta.meta_optimiser) == (0.4, 32, "adam")
    assert resolved.policy.policy_body == "metarl.policies.convolution:conv4"
    assert (resolved.examples.shots, resolved.examples.queries) == (1, 15)


def test_a_class_with_too_few_images_is_told_before_anything_is_written(patterns, tmp_path):
    with pytest.raises(
        UserError, match=r"20 of the classes of .* hold fewer than the 13 images that shots and queries"
    ):
        train(small(tmp_path / "run", patterns, shots=3, queries=10))
    assert not (tmp_path / "run").exists()


def test_a_missing_folder_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="few-shot needs a folder of images"):
        train(Config(env="few-shot", algo="maml", run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_new_digits_are_told_apart_after_one_example_of_each(run):
    result = evaluate(run, EvaluationConfig(tasks=100, gradient_steps=2))
    assert (result.measure, result.shots, result.rollouts) == ("accuracy", 1, 5)
    assert result.returns.shape == (100, 3)
    # Chance is a third; before adaptation nothing tells the classes apart.
    assert abs(result.mean[0] - 1 / 3) < 0.1
    assert result.mean[1] - result.interval[1] > max(0.5, result.references.random_initialisation[1])
    deviation = result.returns.std(0, ddof=1) / 10
    np.testing.assert_allclose(result.interval, 1.96 * deviation, rtol=0.02)
    assert "validation_post_adaptation_accuracy" in numbers(run)[-1]


@pytest.mark.slow
def test_figures_and_analysis(run, tmp_path):
    evaluate(run, EvaluationConfig(tasks=4, gradient_steps=1))
    assert plot(run, tmp_path / "steps.png").stat().st_size > 10_000
    analysis = analyze(run, AnalysisConfig(tasks=3, rollouts=4, embedding_tasks=5, output=tmp_path))
    assert analysis.measure == "accuracy"
    with pytest.raises(UserError, match="needs a regression family"):
        plot(run, tmp_path / "no.png", x="input")


def test_an_agent_is_loaded_and_fitted_without_the_data_set(patterns, tmp_path):
    moved = shutil.copytree(patterns["folder"], tmp_path / "images")
    run = train(small(tmp_path / "run", {**patterns, "folder": str(moved)}, iterations=1)).path
    shutil.rmtree(moved)
    fitted = metarl.load(run).fit(np.zeros((3, 64)), [0, 1, 2])
    assert fitted.predict(np.zeros((2, 64))).shape[0] == 2
    with pytest.raises(UserError, match="there is no folder"):
        evaluate(run, EvaluationConfig(tasks=2))


@pytest.mark.slow
def test_a_body_that_normalises_over_the_batch_is_inspected_with_the_whole_batch(patterns, tmp_path):
    run = train(small(tmp_path / "run", patterns, iterations=1)).path
    found = analyze(run, AnalysisConfig(tasks=5, rollouts=4, embedding_tasks=5, output=tmp_path)).conflict
    # Alone, an image of this size would be normalised to nothing, and its gradients to 0.
    for compared in (found.within_task, found.between_episodes):
        assert np.isfinite(compared.per_task).all()


def test_tasks_of_another_split_are_refused(patterns, tmp_path):
    run = train(small(tmp_path / "run", patterns, iterations=1)).path
    held_out = evaluate(run, EvaluationConfig(tasks=3)).returns
    again = evaluate(run, EvaluationConfig(task_file=run / "evaluation.json")).returns
    np.testing.assert_array_equal(again, held_out)
    family = metarl.get_family("few-shot", **patterns)
    tasks = family.sample_tasks(3, np.random.default_rng(0), "train").tolist()
    (tmp_path / "tasks.json").write_text(json.dumps({"tasks": tasks}))
    with pytest.raises(UserError, match=r"3 of the 3 tasks of .* have classes that are not held out in this run; take"):
        evaluate(run, EvaluationConfig(task_file=tmp_path / "tasks.json"))


def test_results_do_not_depend_on_the_threads(patterns, tmp_path):
    for threads in (1, 2):
        train(small(tmp_path / str(threads), patterns, iterations=3, threads=threads))
    assert_same_run(tmp_path / "1", tmp_path / "2")


@pytest.mark.parametrize("algo", ["fomaml", "l2f", "anil", "meta-sgd", "mamlpp"])
def test_rules_learn_from_images(patterns, algo, tmp_path):
    train(small(tmp_path, patterns, algo=algo, iterations=2))
    rows = numbers(tmp_path)
    assert [row["outcome"] for row in rows] == ["updated"] * 2
    assert all(0 <= float(row["post_adaptation_accuracy"]) <= 1 for row in rows)


def test_modulation_needs_the_built_in_network(patterns, tmp_path):
    with pytest.raises(UserError, match="mumomaml modulates hidden units: it needs the built-in network"):
        train(small(tmp_path, patterns, algo="mumomaml", iterations=1))


def test_a_folder_whose_classes_have_changed_is_told_before_what_was_trained_on_gets_into_the_tests(tmp_path):
    write_patterns(tmp_path / "images")
    arguments = {"folder": str(tmp_path / "images"), "ways": 3, "size": 8}
    short = {"iterations": 1, "policy_body": "metarl.policies.convolution:conv4"}
    train(small(tmp_path / "run", arguments, **short))
    assert evaluate(tmp_path / "run", EvaluationConfig(tasks=2, gradient_steps=1)).returns.shape == (2, 2)
    write_class(tmp_path / "images" / "new", np.full((12, 8, 8), 100.0))
    changed = r"have changed since .*run was trained: 20 classes, [0-9a-f]{12} then, 21 classes, [0-9a-f]{12} now"
    for attempt in (
        lambda: evaluate(tmp_path / "run", EvaluationConfig(tasks=2)),
        lambda: evaluate(tmp_path / "run", EvaluationConfig(tasks=2, env="few-shot")),
        lambda: analyze(tmp_path / "run", AnalysisConfig(tasks=2)),
        lambda: train(small(tmp_path / "run", arguments, **{**short, "iterations": 2}, resume=True)),
    ):
        with pytest.raises(UserError, match=changed):
            attempt()


def test_a_body_that_normalises_over_the_batch_is_refused_where_an_agent_acts(tmp_path):
    body = "metarl.policies.convolution:conv4"
    with pytest.raises(UserError, match="gives an observation other outputs beside others than alone"):
        train(Config(env=Pictures, algo="maml", policy_body=body, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
