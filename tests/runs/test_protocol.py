"""The evaluation protocol: what it writes, that it repeats, and what it refuses."""

import json
import math
import signal
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from fault_table import fault
from faulty import FaultyFamily
from tiny_runs import ROOT, everything_in, tiny

import metarl
from metarl import AnalysisConfig, Config, EvaluationConfig, NotWritten, UserError
from metarl.common import parallel
from metarl.common.parallel import Workers
from metarl.envs import get_family
from metarl.inner import runner
from metarl.inner.runner import Runner
from metarl.reports.tables import evaluation_table, sweep_table
from metarl.runs import protocol
from metarl.runs.protocol import evaluate, sweep_rollouts
from metarl.runs.training import train
from metarl.store.evaluations import Evaluation
from metarl.store.folder import RunFolder
from metarl.store.runs import read_run

SMALL = {"tasks": 3, "rollouts": 2, "gradient_steps": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on navigation."""
    return train(tiny(tmp_path_factory.mktemp("runs") / "run", algo="l2f")).path


@pytest.fixture(scope="module")
def evaluated(run):
    """Its evaluation, and what the file held before another test evaluated the run again."""
    result = evaluate(run, EvaluationConfig(**SMALL))
    return result, json.loads((run / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def result(evaluated):
    """Its evaluation."""
    return evaluated[0]


@pytest.fixture(scope="module")
def stored(evaluated):
    """What the evaluation wrote."""
    return evaluated[1]


def write_tasks(path, tasks):
    path.write_text(json.dumps({"tasks": tasks}))
    return path


def test_the_file_holds_what_is_returned(result, stored):
    assert stored == result.to_json()
    assert result.config["algo"] == "l2f"
    assert (result.env, result.checkpoint, result.seed, result.rollouts) == ("navigation", "last", 10000, 2)
    assert list(result.step_scales) == [1.0, 0.5]
    assert (result.finite, result.task_names) == (False, None)
    assert {"commit", "torch", "mujoco", "hardware"} <= result.metarl.keys()


@pytest.mark.parametrize("algo", ["maml", "l2f", "rl2"])
def test_metrics_are_measured_in_the_episodes_of_the_returns(tmp_path, algo):
    """Of episodes with one step, the return is minus the last distance."""
    run = train(tiny(tmp_path, algo=algo, horizon=1)).path
    for when in ("pre", "post"):
        for kind in ("", "validation_"):
            columns = read_run(run).progress
            returns, distances = (columns[f"{kind}{when}_adaptation_{name}"] for name in ("return", "distance"))
            np.testing.assert_allclose(returns, -distances, rtol=1e-6)
            assert np.isfinite(returns).any()
    result = evaluate(run, EvaluationConfig(**SMALL))
    distance = result.metrics["distance"]
    np.testing.assert_allclose(distance.per_task, -result.returns, rtol=1e-6)
    np.testing.assert_allclose(distance.mean, -result.mean, rtol=1e-6)
    np.testing.assert_allclose(distance.interval, result.interval, rtol=1e-5)


def test_success_is_the_share_of_episodes_that_reach_the_goal(tmp_path):
    easy = {"end_distance": 0.3, "goal_bound": 0.3}
    run = train(tiny(tmp_path, env_kwargs=easy, horizon=3)).path
    success = evaluate(run, EvaluationConfig(**{**SMALL, "rollouts": 4})).metrics["success"]
    assert 0 < success.mean.mean() < 1
    assert set(np.ravel(4 * success.per_task)) <= {0, 1, 2, 3, 4}


def test_the_file_is_read_back_as_it_was(result, stored):
    again = Evaluation.from_json(stored)
    assert again.to_json() == result.to_json()
    for name in ("returns", "mean", "interval", "share_made_worse", "tasks", "adaptation_episodes", "adaptation_steps"):
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name))
    for name, metric in result.metrics.items():
        for part, numbers in vars(metric).items():
            np.testing.assert_array_equal(getattr(again.metrics[name], part), numbers)
    assert (again.step_scales, again.adapted_layers, again.task_names) == ((1.0, 0.5), (), None)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_return_that_is_no_number_is_null_in_strict_json_and_nan_when_read_back(run, monkeypatch):
    run_group = Runner.run

    def broken(*arguments):
        adapted, timing = run_group(*arguments)
        adapted.returns[0, 1], adapted.returns[1, 2] = math.nan, math.inf
        return adapted, timing

    monkeypatch.setattr(Runner, "run", broken)
    config = EvaluationConfig(**SMALL, seed=7, checkpoint="best")
    evaluate(run, config)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(RunFolder(run).evaluation(config).read_text(), parse_constant=refuse)
    assert (content["returns"][0][1], content["returns"][1][2], content["mean"][1]) == (None, None, None)
    assert content["mean"][0] is not None
    again = Evaluation.from_json(content)
    assert np.isnan([again.returns[0, 1], again.returns[1, 2], again.mean[1], again.interval[1]]).all()
    assert "nan" not in evaluation_table(again)


@fault(
    "Run folder",
    "`evaluate` or `analyze` of a run whose last checkpoint is damaged",
    "the previous one is used, which is said once; the result holds its iteration",
)
@pytest.mark.parametrize("measure", [metarl.evaluate, metarl.analyze])
def test_a_result_says_after_which_iteration_its_checkpoint_was_written(tmp_path, measure, capsys):
    sizes = EvaluationConfig(tasks=2, rollouts=2, gradient_steps=1)
    if measure is metarl.analyze:
        sizes = AnalysisConfig(tasks=2, rollouts=2, embedding_tasks=2)
    run = train(tiny(tmp_path / "run", iterations=2, checkpoint_every=1, validate_every=0)).path
    assert measure(run, sizes).iteration == 2
    last = RunFolder(run).checkpoint("last")
    last.write_bytes(last.read_bytes()[:-1])
    capsys.readouterr()
    result = measure(run, sizes)
    assert result.iteration == result.to_json()["iteration"] == 1
    assert capsys.readouterr().err.count("Took the previous one, after iteration 1.") == 1


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/results").glob("*/*/evaluation.json"))[::20], ids=str)
def test_stored_evaluations_of_older_versions_are_read(path):
    content = json.loads(path.read_text())
    evaluation = Evaluation.from_json(content)
    assert evaluation.to_json() == {
        "iteration": None,
        "dropped_episodes": 0,
        "modulated": None,
        "adapted_layers": [],
        "step_name": "gradient step",
        "measure": "return",
        "shots": None,
        "adaptation_episodes": None,
        "adaptation_steps": None,
        "metrics": {},
        **content,
    }
    assert evaluation_table(evaluation).count("\n") >= len(content["mean"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": ...}, "it has no 'mean'"),
        ({"returns": [[1.0], [1.0]]}, "'returns' must be a table with a row for each of 'tasks'"),
        ({"returns": [1.0] * 3}, "'returns' must be a table"),
        ({"returns": [[1.0, 2.0], [1.0], [1.0]]}, "'returns' must be a list of numbers, or of lists of equal length"),
        ({"references": {}}, "'references' must hold 'standstill' and"),
        ({"adaptation_episodes": [0.0, 2.0]}, "'adaptation_episodes' must have a number for each column of 'returns'"),
        ({"adaptation_steps": [0.0, "a", 2.0]}, "'adaptation_steps' must be a list of numbers"),
        ({"metrics": {"success": 1.0}}, "'metrics' must hold interval, mean, per_task of each metric"),
        (
            {"metrics": {"success": {"per_task": [[0.0] * 3] * 3, "mean": [0.0] * 3, "interval": [0.0]}}},
            "the metric 'success' must have the numbers of 'returns' and 'mean'",
        ),
    ],
)
def test_what_is_no_evaluation_is_refused(result, change, message):
    content = {name: value for name, value in {**result.to_json(), **change}.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        Evaluation.from_json(content)


def test_a_step_is_called_what_the_rule_calls_it(tmp_path, monkeypatch):
    run = train(tiny(tmp_path, algo="mumomaml", iterations=0)).path
    monkeypatch.setattr("metarl.agents.mumomaml.MuMoMAML.step_name", "posterior update")
    result = evaluate(run, EvaluationConfig(**SMALL))
    assert result.step_name == json.loads((run / "evaluation.json").read_text())["step_name"] == "posterior update"
    printed = evaluation_table(result)
    assert "before the first posterior update: " in printed
    assert [line.split()[0] for line in printed.splitlines()[1:5]] == ["updates", "0", "1", "2"]


def test_a_folder_that_cannot_be_written_is_told(run, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(protocol, "write_json", refuse)
    with pytest.raises(UserError, match=r"cannot write .*evaluation.json': Permission denied\."):
        evaluate(run, EvaluationConfig(**SMALL))


def test_returns_are_by_task_and_step_and_summarised_by_step(result):
    assert np.shape(result.tasks) == (3, 2)
    returns = np.array(result.returns)
    assert returns.shape == (3, 3)
    np.testing.assert_allclose(result.mean, returns.mean(0))
    quantile = 4.302653  # Of Student's t with two degrees of freedom.
    np.testing.assert_allclose(result.interval, quantile * returns.std(0, ddof=1) / 3**0.5, rtol=1e-6)
    np.testing.assert_allclose(result.share_made_worse, (returns < returns[:, :1]).mean(0))
    assert len(result.references.random_initialisation) == 3


def test_environment_steps_of_the_agent_are_counted(tmp_path):
    run = train(tiny(tmp_path, env="cheetah-vel", horizon=5, iterations=1, validate_every=0)).path
    result = evaluate(run, EvaluationConfig(**SMALL))
    assert result.env_steps == 3 * 2 * (2 + 1) * 5  # tasks, rollouts, steps and the query, horizon


def test_what_adaptation_read_before_each_return_is_said(tmp_path, monkeypatch):
    run = train(tiny(tmp_path, env="cheetah-vel", algo="mumomaml", horizon=5, iterations=0, validate_every=0)).path
    monkeypatch.setattr(protocol, "_GROUP", 2)
    result = evaluate(run, EvaluationConfig(**SMALL))
    # The embedding reads one episode, each step two; the last two episodes only measure.
    assert result.adaptation_episodes.tolist() == [0, 1 + 2, 1 + 2 + 2]
    assert result.adaptation_steps.tolist() == [0, 3 * 5, 5 * 5]
    lines = evaluation_table(result).splitlines()
    assert "random init   episodes  env steps" in lines[1]
    assert [line.split()[5:7] for line in lines[2:5]] == [["0", "0"], ["3", "15"], ["5", "25"]]


@pytest.fixture(scope="module")
def sweep(run, evaluated):
    """Evaluations of the run with one and with two episodes at each step."""
    return sweep_rollouts(run, (2, 1, 2), EvaluationConfig(**SMALL))


def test_a_sweep_holds_an_evaluation_for_each_number_of_episodes(run, sweep, result):
    assert [each.rollouts for each in sweep] == [1, 2]
    assert [each.adaptation_episodes.tolist() for each in sweep] == [[0, 1, 2], [0, 2, 4]]
    np.testing.assert_array_equal(sweep[0].tasks, sweep[1].tasks)
    # That of two episodes is the evaluation with two episodes, references included.
    again, expected = sweep[1].to_json(), result.to_json()
    assert {**again, "metarl": None} == {**expected, "metarl": None}
    stored = json.loads((run / "evaluation-sweep.json").read_text())
    assert stored == {"evaluations": [each.to_json() for each in sweep]}


def test_a_sweeps_table_has_a_row_for_each_number_of_episodes(sweep):
    lines = sweep_table(sweep).splitlines()
    assert lines[2].split() == ["episodes", "a", "gradient", "step", "0", "1", "2", "episodes", "env", "steps"]
    for line, each in zip(lines[3:], sweep, strict=True):
        size, *means, episodes, steps = map(float, line.split())
        assert (size, episodes) == (each.rollouts, 2 * each.rollouts)
        np.testing.assert_allclose(means, each.mean, atol=0.005)
        np.testing.assert_allclose(steps, each.adaptation_steps[-1], atol=0.05)


@pytest.mark.parametrize(
    ("rollouts", "message"),
    [
        ((), "rollouts must hold at least one number of episodes, got none"),
        ((1, 0), r"rollouts\[1\] must be at least 1, got 0"),
        ("many", "rollouts must be"),
    ],
)
def test_impossible_sweeps_are_refused(run, rollouts, message):
    before = everything_in(run)
    with pytest.raises(UserError, match=message):
        sweep_rollouts(run, rollouts, EvaluationConfig(**SMALL))
    assert everything_in(run) == before


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A run of L2F whose attenuator reads two trajectories of each task."""
    l2f = {"embedding": "gru", "trajectories": 2}
    return train(tiny(tmp_path_factory.mktemp("runs") / "reader", algo="l2f", l2f=l2f, iterations=0)).path


def test_an_older_sweep_or_best_agent_is_told_of(tmp_path, capsys):
    run = train(tiny(tmp_path, iterations=2, validate_every=1)).path
    config = EvaluationConfig(tasks=2, gradient_steps=1, checkpoint="best")
    sweep_rollouts(run, [2, 3], replace(config, checkpoint="last"))
    best = evaluate(run, config).iteration
    for name, kept in (("evaluation-sweep.json", "last"), ("evaluation-best.json", "best")):
        stored = json.loads((run / name).read_text())
        capsys.readouterr()
        read_run(run, kept)
        assert "was evaluated" not in capsys.readouterr().err
        older = [{**part, "iteration": 0} for part in stored.get("evaluations", [stored])]
        (run / name).write_text(json.dumps({"evaluations": older} if "evaluations" in stored else older[0]))
        read_run(run, kept)
        told = capsys.readouterr().err
        if kept == "best":
            assert f"after iteration 0, and its best agent is now that of iteration {best}: run" in told
        else:
            assert "over several numbers of episodes, after iteration 0, and training went on to 2: run" in told
            assert "--rollouts-sweep" in told


def test_rows_of_iterations_that_a_kill_has_undone_do_not_make_an_evaluation_old(tmp_path, capsys):
    run = train(tiny(tmp_path, iterations=1, log_every=1)).path
    evaluate(run, EvaluationConfig(**SMALL))
    rows = (run / "progress.csv").read_text().splitlines()
    (run / "progress.csv").write_text("\n".join([*rows, rows[-1].replace("1,", "2,", 1), ""]))
    assert read_run(run).progress["iteration"].tolist() == [1, 2]
    assert "was evaluated" not in capsys.readouterr().err
    (run / "checkpoints" / "last.safetensors").unlink()  # As of a result that is stored without its checkpoints.
    read_run(run)
    assert "after iteration 1, and training went on to 2: run" in capsys.readouterr().err


def test_an_environment_that_hangs_while_standing_still_is_noticed(monkeypatch):
    monkeypatch.setattr(parallel, "SECONDS_TO_STOP", 0.05)
    settings = tiny("run", step_timeout=0.1).resolve()
    with Workers(1) as workers, pytest.raises(UserError, match=r"nothing has come back for 0\.1 seconds"):
        protocol.standing_still(FaultyFamily("hangs"), np.ones(2), settings, 0, workers)


def test_too_few_episodes_for_what_a_rule_reads_are_refused_before_any_is_collected(reader, monkeypatch):
    def collect(*_):
        raise AssertionError("an episode was collected")

    monkeypatch.setattr(Runner, "run", collect)
    message = "must be at least 2, the trajectories of each task that l2f reads at once, got 1"
    with pytest.raises(UserError, match=f"^rollouts {message}"):
        sweep_rollouts(reader, (1, 4), EvaluationConfig(**SMALL))
    with pytest.raises(UserError, match=f"^rollouts {message}"):
        evaluate(reader, EvaluationConfig(**{**SMALL, "rollouts": 1}))
    with pytest.raises(UserError, match=f"^num_rollouts {message}"):
        metarl.load(reader).adapt(gymnasium.make("metarl/Navigation-v0"), num_rollouts=1)


def test_without_steps_a_rule_reads_nothing(reader):
    assert evaluate(reader, EvaluationConfig(tasks=2, rollouts=1, gradient_steps=0)).returns.shape == (2, 1)
    assert len(sweep_rollouts(reader, (2, 3), EvaluationConfig(**SMALL))) == 2


def test_supervised_runs_have_no_episodes_to_sweep(tmp_path):
    run = train(Config(env="sinusoid", algo="maml", iterations=1, hidden_sizes=(4,), run_dir=tmp_path)).path
    with pytest.raises(UserError, match="rollouts cannot be swept on sinusoid, which has no episodes"):
        sweep_rollouts(run, (1, 2))


def test_agents_with_memory_read_one_episode_at_each_step(tmp_path):
    run = train(tiny(tmp_path, algo="rl2", iterations=0)).path
    result = evaluate(run, EvaluationConfig(**SMALL))
    assert result.adaptation_episodes.tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="rollouts cannot be swept for an agent with memory, whose every step reads"):
        sweep_rollouts(run, (1, 2))


def test_a_sweep_that_cannot_be_written_is_not_lost(run, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(protocol, "write_json", refuse)
    with pytest.raises(NotWritten, match=r"cannot write .*evaluation-sweep.json': Permission denied\.") as refusal:
        sweep_rollouts(run, (1,), EvaluationConfig(**SMALL))
    assert [each.rollouts for each in refusal.value.result] == [1]


def test_standing_still_returns_minus_the_distance_at_every_step(result):
    distances = np.linalg.norm(result.tasks, axis=1)
    np.testing.assert_allclose(result.references.standstill, -20 * distances.mean(), rtol=1e-6)


def test_held_out_tasks_are_not_the_training_tasks(run, result):
    other = evaluate(run, EvaluationConfig(**SMALL, seed=0))
    assert not {tuple(task) for task in result.tasks} & {tuple(task) for task in other.tasks}


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_seed_gives_the_same_numbers_for_any_number_of_threads(run, result, monkeypatch, threads):
    monkeypatch.setattr("metarl.envs.navigation.NavigationFamily.min_envs_per_shard", 1)
    again = evaluate(run, EvaluationConfig(**SMALL, threads=threads))
    for name in ("tasks", "returns", "references"):
        assert again.to_json()[name] == result.to_json()[name]
    assert (evaluate(run, EvaluationConfig(**SMALL, seed=1)).returns != result.returns).any()


def test_tasks_are_evaluated_in_groups(run, monkeypatch):
    monkeypatch.setattr(protocol, "_GROUP", 2)
    result = evaluate(run, EvaluationConfig(**SMALL))
    assert np.shape(result.returns) == (3, 3)
    np.testing.assert_array_equal(result.returns, evaluate(run, EvaluationConfig(**SMALL)).returns)


def test_a_groups_rollouts_are_gone_before_the_next_ones(run, monkeypatch):
    run_group, rewards, alive = Runner.run, [], []

    def watched(*arguments):
        alive.append(sum(each() is not None for each in rewards))
        adapted, timing = run_group(*arguments)
        rewards.append(weakref.ref(adapted.loop.queries[-1].rewards))
        return adapted, timing

    monkeypatch.setattr(protocol, "_GROUP", 1)
    monkeypatch.setattr(Runner, "run", watched)
    evaluate(run, EvaluationConfig(**SMALL))
    assert alive == [0] * 6  # three tasks, for the agent and for a random initialisation


def test_tasks_that_were_chosen_twice_have_no_interval(run, tmp_path):
    path = tmp_path / "tasks.json"
    for tasks, has_one in (([[0.1, 0.2]] * 3, False), ([[0.1, 0.2], [0.2, 0.1], [0.0, 0.3]], True)):
        path.write_text(json.dumps({"tasks": tasks}))
        assert (evaluate(run, EvaluationConfig(**SMALL, task_file=path)).interval is not None) == has_one


def test_a_task_file_gives_the_tasks(run, tmp_path):
    tasks = [[0.1, 0.2], [-0.3, 0.4], [0.0, 0.5], [0.1, -0.1]]
    path = write_tasks(tmp_path / "tasks.json", tasks)
    result = evaluate(run, EvaluationConfig(**SMALL, task_file=path))
    np.testing.assert_array_equal(result.tasks, tasks)
    assert np.shape(result.returns) == (4, 3)


def test_a_single_task_has_no_interval(run, tmp_path):
    path = write_tasks(tmp_path / "tasks.json", [[0.1, 0.2]])
    result = evaluate(run, EvaluationConfig(**SMALL, task_file=path))
    assert result.interval is None
    assert [line.split()[2] for line in evaluation_table(result).splitlines()[2:5]] == ["-"] * 3


def test_another_family_is_evaluated_beside_the_own_one(run, result):
    before = (run / "evaluation.json").read_bytes()
    other = evaluate(run, EvaluationConfig(**SMALL, env="navigation-b"))
    assert other.env == "navigation-b"
    assert np.shape(other.tasks) == (3, 4)  # goal and start
    assert json.loads((run / "evaluation-navigation-b.json").read_text())["returns"] == other.returns.tolist()
    assert (run / "evaluation.json").read_bytes() == before


def test_the_best_checkpoint_is_evaluated_beside_the_last(run, result):
    before = (run / "evaluation.json").read_bytes()
    best = evaluate(run, EvaluationConfig(**SMALL, checkpoint="best"))
    assert best.checkpoint == "best"
    assert json.loads((run / "evaluation-best.json").read_text())["returns"] == best.returns.tolist()
    assert (run / "evaluation.json").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "evaluation.json"),
        ({"checkpoint": "best"}, "evaluation-best.json"),
        ({"env": "navigation-b"}, "evaluation-navigation-b.json"),
        ({"env": "my.module:Mine", "checkpoint": "best"}, "evaluation-best-my.module.Mine.json"),
    ],
)
def test_each_checkpoint_and_family_has_a_file_of_its_own(settings, name):
    config, folder = EvaluationConfig(**settings), RunFolder(Path("run"))
    assert folder.evaluation(config) == Path("run") / name
    assert folder.evaluation(config, sweep=True) == Path("run") / name.replace(".json", "-sweep.json")


def test_a_run_on_a_family_of_ones_own_is_evaluated_into_the_usual_file(tmp_path):
    env = "metarl.envs.navigation:NavigationFamily"
    run = train(tiny(tmp_path, env=env, iterations=1, validate_every=0)).path
    evaluate(run, EvaluationConfig(tasks=2, rollouts=2, gradient_steps=0))
    assert [path.name for path in run.glob("evaluation*")] == ["evaluation.json"]


def test_ctrl_c_stops_the_rollouts_and_then_closes_the_environments(run, monkeypatch):
    happened = []

    class Interrupted(runner.Runner):
        def __init__(self, *arguments):
            stopping = arguments[5].stopping  # The workers.

            def interrupt():
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                happened.append(stopping.wait(timeout=60))
                return True

            stopping.is_set = interrupt
            super().__init__(*arguments)

        def close(self):
            happened.append("closed")
            super().close()

    monkeypatch.setattr(runner, "Runner", Interrupted)
    before = everything_in(run)
    # A shell's background jobs ignore Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            evaluate(run, EvaluationConfig(**SMALL, threads=1))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert happened == [True, "closed"]
    assert everything_in(run) == before


def test_without_gradient_steps_there_is_one_column(run):
    result = evaluate(run, EvaluationConfig(tasks=2, rollouts=2, gradient_steps=0))
    assert np.shape(result.returns) == (2, 1)


def test_a_family_of_two_tasks_is_shown_task_by_task(tmp_path):
    run = train(tiny(tmp_path, env="cheetah-dir", horizon=5, iterations=1, validate_every=0)).path
    result = evaluate(run, EvaluationConfig(tasks=4, rollouts=2, gradient_steps=1))
    tasks, returns = np.ravel(result.tasks), np.array(result.returns)
    assert sorted(tasks) == [-1, -1, 1, 1]
    lines = evaluation_table(result).splitlines()
    assert (result.finite, result.interval) == (True, None)
    assert result.task_names == tuple("forward" if task > 0 else "backward" for task in tasks)
    measured = "2 tasks (none held out), 2 repeats each, 2 episodes"
    assert lines[0] == f"MAML on cheetah-dir: {measured}, checkpoint last (iteration 1), seed 10000"
    assert lines[1].endswith("backward       forward  x_velocity")
    assert result.metrics["x_velocity"].interval is None
    for step in (0, 1):
        assert lines[2 + step].split()[2] == "-"
        shown = [float(number) for number in lines[2 + step].split()[-3:-1]]
        np.testing.assert_allclose(shown, [returns[tasks == task, step].mean() for task in (-1, 1)], atol=0.005)


def test_the_table_has_a_row_for_each_step_and_the_references(result):
    lines = evaluation_table(result).splitlines()
    assert len(lines) == 2 + 3 + 1
    assert "task" not in lines[1].replace("95% tasks", "")
    assert lines[1].split()[-2:] == ["success", "distance"]
    for step in range(3):
        number, mean, interval, worse, random, episodes, env_steps, *metrics = lines[2 + step].split()
        assert int(number) == step
        np.testing.assert_allclose(float(mean), result.mean[step], atol=0.005)
        np.testing.assert_allclose(float(interval), result.interval[step], atol=0.005)
        assert worse == f"{result.share_made_worse[step]:.0%}"
        np.testing.assert_allclose(float(random), result.references.random_initialisation[step], atol=0.005)
        assert float(episodes) == result.adaptation_episodes[step]
        np.testing.assert_allclose(float(env_steps), result.adaptation_steps[step], atol=0.05)
        shown = [float(number.removeprefix("+-")) for number in metrics]
        success, distance = result.metrics["success"], result.metrics["distance"]
        expected = [success.mean[step], success.interval[step], distance.mean[step], distance.interval[step]]
        np.testing.assert_allclose(shown, expected, atol=0.0005)
    assert lines[-1] == f"standing still: {result.references.standstill:.2f}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env": "cheetah-dir"}, "observations have 17 numbers; this agent was trained on navigation with 2"),
        ({"env": "navigatoin"}, "no task family named 'navigatoin'. Did you mean 'navigation'"),
    ],
)
def test_another_family_must_fit(run, settings, message):
    before = everything_in(run)
    with pytest.raises(UserError, match=message):
        evaluate(run, EvaluationConfig(**SMALL, **settings))
    assert everything_in(run) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", "tasks.json holds no tasks; for navigation it must be JSON such as"),
        ("[[0.1, 0.2]]", r'must be JSON such as \{"tasks": \[\[-?0\.\d+, -?0\.\d+\], '),
        ('{"tasks": "none"}', "holds no tasks"),
        ('{"tasks": 3}', "holds no tasks"),
        ('{"tasks": []}', "holds no tasks"),
        ('{"tasks": [[0, 0], [3]]}', r"task 1 of .* is wrong: the task must have shape \(2,\), got \(1,\)"),
        ('{"tasks": [[1, 2, 3]]}', r"task 0 of .* is wrong: the task must have shape \(2,\), got \(3,\)"),
        ('{"tasks": [[0, null]]}', r"task 0 of .* is wrong: the task must be numbers of shape \(2,\), got \[0, None\]"),
        ('{"tasks": [[0.1, 0.2], [9, 0]]}', r"task 1 of .* is wrong: \[9. 0.\] is no task of navigation"),
        ('{"tasks": [[NaN, 0]]}', r"task 0 of .* is wrong: .* is no task of navigation"),
    ],
)
def test_a_task_file_that_cannot_be_used_is_told(run, tmp_path, content, message):
    path = tmp_path / "tasks.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        evaluate(run, EvaluationConfig(**SMALL, task_file=path))
    with pytest.raises(UserError, match=r"cannot read .*missing.json: No such file or directory\."):
        evaluate(run, EvaluationConfig(**SMALL, task_file=tmp_path / "missing.json"))


def test_of_tasks_with_many_numbers_the_shape_is_told(tmp_path):
    path = tmp_path / "tasks.json"
    path.write_text("[]")
    with pytest.raises(UserError) as error:
        protocol._tasks(get_family("tabular-mdp"), EvaluationConfig(task_file=path))
    expected = 'for tabular-mdp it must be JSON {"tasks": [...]}, with an array of shape (550,) for each task.'
    assert str(error.value) == f"{path} holds no tasks; {expected}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": 0}, "tasks must be at least 1, got 0"),
        ({"rollouts": -2}, "rollouts must be at least 1, got -2"),
        ({"gradient_steps": -1}, "gradient_steps must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_impossible_sizes_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        EvaluationConfig(**settings)


def test_what_is_no_run_cannot_be_evaluated(tmp_path):
    with pytest.raises(UserError, match="is not the folder of a run"):
        evaluate(tmp_path)
    assert everything_in(tmp_path) == {}
