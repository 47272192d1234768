"""The measurements of speed: that they measure and tell what they say, never how fast."""

import functools
import json
import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from meta_worlds import stand_in
from tiny_runs import ROOT, tiny

from benchmarks import curvature, measure, meta_world, step_length
from benchmarks.figure import draw, meta_step_panels, rollout_panels
from benchmarks.measure import Table, as_json, fitted_exponent, interleaved, median_ratio, own_process
from benchmarks.meta_step import ALGOS, BESIDE, ENVS
from benchmarks.rollouts import Rollouts
from metarl.common.errors import UserError
from metarl.common.parallel import Workers
from metarl.envs import metaworld
from metarl.envs.mujoco_core import batch_module
from metarl.inner.runner import Runner
from metarl.runs.training import train


def test_candidates_take_turns_after_a_call_that_is_not_timed(monkeypatch):
    calls, clock = [], iter(range(1000))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock) ** 2)
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert "".join(calls) == "ab" * 4
    # The clock shows 0, 1, 4, 9, ... and is read before and after each of the timed calls.
    assert {name: values.tolist() for name, values in times.items()} == {"a": [1, 9, 17], "b": [5, 13, 21]}


def test_learning_curves_are_paired_by_seed(tmp_path, monkeypatch):
    """By name, seed 10 comes before seed 2, and a seed of one alone has no pair."""
    returns = {("exact", 2): -20.0, ("exact", 10): -10.0, ("default", 2): -21.0, ("default", 10): -11.0}
    for (name, seed), value in {**returns, ("default", 1): 0.0}.items():
        folder = tmp_path / f"{name}-seed{seed}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"env": "navigation", "algo": "maml", "seed": seed}))
        (folder / "progress.csv").write_text(f"iteration,post_adaptation_return\n1,{value - 1}\n2,{value + 1}\n")
    monkeypatch.setattr(curvature, "CURVES", tmp_path)
    (table,) = curvature._curves()
    assert table.rows == [
        {"seed": 2, "exact": -20.0, "default": -21.0, "difference": pytest.approx(-1 / 15)},
        {"seed": 10, "exact": -10.0, "default": -11.0, "difference": pytest.approx(-1 / 15)},
    ]


def test_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians():
    numerator, denominator = np.array([1.0, 20.0, 3.0]), np.array([2.0, 4.0, 30.0])
    assert median_ratio(numerator, denominator) == 0.5
    assert np.median(numerator) / np.median(denominator) != 0.5


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.7])
def test_exponent_of_a_power_law_is_found(exponent):
    sizes = [10, 20, 40, 80]
    assert fitted_exponent(sizes, [3 * size**exponent for size in sizes]) == pytest.approx(exponent, abs=1e-12)


def test_table_is_printed_as_markdown_with_numbers_to_the_right():
    rows = [
        {"what": "a", "steps": 1234567, "rate": 98765.4, "share": 0.98765},
        {"what": "longer", "steps": 12, "rate": None, "share": 2.0},
    ]
    assert str(Table("Title", rows, "A note.")).splitlines() == [
        "**Title**",
        "",
        "| what   |     steps |   rate | share |",
        "| ------ | --------: | -----: | ----: |",
        "| a      | 1,234,567 | 98,765 | 0.988 |",
        "| longer |        12 |      - |     2 |",
        "",
        "A note.",
    ]


def test_tables_are_stored_as_they_are():
    (stored,) = json.loads(json.dumps(as_json([Table("Title", [{"what": "a", "share": 0.98765}], "A note.")])))
    assert stored == {"title": "Title", "rows": [{"what": "a", "share": 0.98765}], "note": "A note."}


def test_what_a_process_prints_last_is_its_result():
    assert own_process("json.tool", "--compact", ROOT / "benchmarks/task_lists/navigation.json")["seed"] == 20261121


def test_a_process_that_fails_tells_why():
    with pytest.raises(RuntimeError, match=r"-m json.tool /nowhere.json failed:\n(?s:.)*No such file"):
        own_process("json.tool", "/nowhere.json")


def test_peak_memory_is_that_of_the_process_itself():
    held = np.ones(25_000_000)  # 0.2 GB that a process started from here has nothing to do with
    code = "import json; from benchmarks.measure import peak_memory as peak; print(json.dumps(peak()))"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0.01 < json.loads(child.stdout) < measure.peak_memory() - 0.9 * held.nbytes / 1e9


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Maps a part to the tables that a quick run of it stored."""
    folder = tmp_path_factory.mktemp("speed")

    @functools.cache
    def measured(part):
        command = ["-m", "benchmarks", part, "--quick", "--output", str(folder)]
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        content = json.loads((folder / f"{part}.json").read_text())
        assert content["part"] == part
        assert content["quick"] is True
        assert {"commit", "hardware", "torch", "mujoco"} <= set(content["made_with"])
        assert all(set(row) == set(table["rows"][0]) for table in content["tables"] for row in table["rows"])
        return content["tables"]

    return measured


@pytest.mark.slow
def test_rollouts_compare_each_environment_with_its_limit_and_with_vector_environments(tables):
    (table,) = tables("rollouts")
    of_env = {}
    for row in table["rows"]:
        of_env.setdefault(row["environment"], {})[row["subject"]] = row
    compared = ["navigation", "cheetah-dir", "ant-dir"]
    alone = ["walker-params", "hopper-params", "cheetah-params", "cheetah-crippled", "ant-crippled", "humanoid-dir"]
    assert list(of_env) == compared + alone
    for env, rows in of_env.items():
        native = {"metarl by Gymnasium's make_vec", "metarl.sb3 TaskVecEnv"}
        others = {"Gymnasium SyncVectorEnv", "Gymnasium AsyncVectorEnv", "Stable-Baselines3 SubprocVecEnv"} | native
        assert others & set(rows) == (others if env in compared else set())
        assert {name for name, row in rows.items() if row["policy"] == "yes"} == {
            "metarl",
            "metarl, advantages included",
        }
        limit = "environment alone" if env == "navigation" or batch_module() is None else "physics alone"
        assert all(rows[name]["environments"] == rows["metarl"]["environments"] for name in native & set(rows))
        assert rows[limit]["share of limit"] == rows["metarl"]["metarl / subject"] == 1
        assert all(row["steps/s"] > 0 and row["environments"] > 0 for row in rows.values())


@pytest.mark.skipif(batch_module() is None, reason="MuJoCo has no batch")
def test_what_has_no_policy_repeats_the_trajectories_of_what_has_one():
    with Workers(2) as workers, closing(Rollouts("hopper-params", (2, 20, 60), workers)) as ours:
        cores = [recording.episodes._core for recording in ours._recordings]
        states = [core.positions.copy() for core in cores]
        assert len(cores) == 2
        assert any(running is not None for recording in ours._recordings for _, running in recording.moves)
        for subject in ours.subjects():
            for core in cores:
                core.positions[...] = 0
            subject.work()
            for core, positions in zip(cores, states, strict=True):
                np.testing.assert_array_equal(core.positions, positions, subject.name)


@pytest.mark.slow
def test_checks_are_measured_by_turns(tables):
    (table,) = tables("checks")
    assert [row["family"] for row in table["rows"]] == ["navigation", "cheetah-dir", "cart-pole (Python)"]
    assert all(row["with / without"] > 0 for row in table["rows"])


@pytest.mark.slow
def test_start_up_times_the_help_and_the_first_iteration(tables):
    (table,) = tables("start-up")
    seconds = {row["command"]: row["seconds"] for row in table["rows"]}
    assert all(value > 0 for value in seconds.values())
    assert {"python -m metarl.train --help", 'python -c "import metarl"'} < set(seconds)
    assert any("--iterations 1" in command for command in seconds)


@pytest.mark.slow
def test_meta_steps_of_the_package_and_of_the_reference_do_the_same(tables):
    parts, whole, beside = tables("meta-step")
    assert len(parts["rows"]) == len(ENVS) * len(ALGOS)
    assert all(row["share of the bound"] > 0 and row["looped / ours"] > 0 for row in parts["rows"])
    steps = {(row["size"], row["algorithm"], row["subject"]): row for row in whole["rows"]}
    for (size, algo, subject), row in steps.items():
        if subject == "metarl, exact":
            reference = steps[size, algo, "triple derivative, looped"]
            assert row["line search"] == reference["line search"]
            assert row["surrogate gain"] == pytest.approx(reference["surrogate gain"], rel=1e-2)
    assert [row["rule"] for row in beside["rows"]] == 2 * list(BESIDE)
    assert {row["ratio"] for row in beside["rows"] if row["rule"] == "maml"} == {1}


@pytest.mark.slow
def test_an_iteration_is_told_by_phase_and_its_growth_by_size(tables):
    (iterations,), (scaling,) = tables("iteration"), tables("scaling")
    for row in iterations["rows"]:
        assert row["seconds"] >= row["rollout"] + row["adaptation"] + row["meta-step"] - 1e-3
        assert (row["physics"] is None) == (not row["environment"].startswith("cheetah") or batch_module() is None)
        assert row["memory, GB"] > 0.05
    varied = [row["varied"] for row in scaling["rows"]]
    assert varied == [name for name in dict.fromkeys(varied) for _ in range(2)]
    assert [row["exponent, seconds"] is None for row in scaling["rows"]] == [True, False] * 2


@pytest.mark.slow
def test_processes_are_timed_and_what_they_say_is_counted(tables):
    times, messages, projection = tables("processes")
    ones = [row["ratio"] for row in times["rows"] if row["processes"] == 1]
    assert ones == [1] * (len(times["rows"]) // 2)
    assert all(row["messages"] > 0 and row["largest, kB"] > 0 for row in messages["rows"])
    assert projection["rows"][0]["ranks"] == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_told_before_anything_is_measured():
    command = [sys.executable, "-m", "benchmarks", "meta-step", "--device", "cuda"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: device cuda was asked for, but PyTorch finds no CUDA GPU")


@pytest.mark.slow
def test_figure_shows_every_subject_with_its_number(tables):
    rows = tables("rollouts")[0]["rows"]
    panels = rollout_panels(rows)
    assert [len(panel.bars) for panel in panels] == [
        sum(row["environment"] == env for row in rows) for env in ("navigation", "cheetah-dir", "ant-dir")
    ]
    steps = [
        {"subject": "metarl, exact", "size": "cheetah-dir", "algorithm": "maml", "seconds": 12.34},
        {"subject": "triple derivative", "size": "cheetah-dir", "algorithm": "maml", "seconds": 56.7},
        {"subject": "metarl, exact", "size": "cheetah-dir", "algorithm": "l2f", "seconds": 99.0},
    ]
    figure = draw([*panels[:2], meta_step_panels(steps)[0]], "caption")
    *_, last, empty = figure.axes
    assert not empty.get_visible()
    assert [label.get_text() for label in last.get_yticklabels()] == ["metarl, exact", "triple derivative"]
    assert [text.get_text() for text in last.texts] == ["12.3", "56.7"]
    assert len(figure.axes) == 4


def test_meta_world_is_measured_and_its_scripted_policies_are_counted(tmp_path, capsys):
    """In the stand-in, the policy of push-v3 runs away from the goal."""
    with stand_in():
        assert meta_world.main(["--quick", "--output", str(tmp_path / "meta-world.json")]) == 0
        full = {row["environment"]: row for row in meta_world._scripted(quick=False).rows}
    memory, speeds, scripted = json.loads((tmp_path / "meta-world.json").read_text())["tables"]
    assert memory["rows"][0]["environments"] == 2
    assert [row["environment"] for row in speeds["rows"]] == ["reach-v3", "push-v3", "mean"]
    assert all(row["steps a second"] > 0 for row in speeds["rows"])
    assert [(row["environment"], row["goals"], row["reached"]) for row in scripted["rows"]] == [
        ("reach-v3", 1, 1), ("push-v3", 1, 0), ("all", 2, 1)
    ]  # fmt: skip
    assert (full["door-open-v3"]["reached"], full["all"]["goals"], full["all"]["reached"]) == (3, 9, 6)
    assert "scripted policies" in capsys.readouterr().out


def test_meta_world_without_the_package_is_a_sentence(monkeypatch, capsys):
    def missing():
        raise UserError("install it: pip install '.[metaworld]'.")

    monkeypatch.setattr(metaworld, "_classes", missing)
    assert meta_world.main(["--quick"]) == 2
    assert "pip install '.[metaworld]'" in capsys.readouterr().err


def test_step_length_without_its_runs_is_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert step_length.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error: there is no trained agent in runs/reproduce/algorithms-navigation/maml-seed0; python"
    )
    assert "python -m benchmarks.reproduce algorithms-navigation algorithms-navigation-bimodal makes all" in line


def test_step_length_reads_the_distance_off_policies_that_move_by_it(tmp_path, monkeypatch):
    agent = train(tiny(tmp_path, iterations=0)).agent

    def adapted(self, meta, tasks, *_):
        parameters = torch.zeros(len(tasks), agent.rule.policy.layout.size)
        parameters[:, -4] = torch.from_numpy(3 * np.hypot(*tasks.T))  # The last bias, of which the log-std is behind.
        return SimpleNamespace(parameters=parameters), None

    monkeypatch.setattr(Runner, "run", adapted)
    with Workers(1) as workers:
        result = step_length._measure(agent, workers)
    assert result["correlation_of_step_and_distance"] == 1
    assert result["step_by_quarter_of_distance"] == sorted(result["step_by_quarter_of_distance"])
    # Of goals uniform in the unit square around 0, those of the farthest quarter are 0.55 away on average.
    assert result["step_by_quarter_of_distance"][3] == pytest.approx(3 * 0.55, abs=0.1)
