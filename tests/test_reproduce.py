"""The learning results: that they are trained, resumed, kept, compared and told of as the command says."""

import importlib
import json
import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from quick import quick
from scipy import stats
from tiny_runs import arguments, everything_in, numbers, tiny

from benchmarks import collect, experiments, measure, overview, reproduce, summaries
from benchmarks.experiments import EXPERIMENTS, RESULTS, Experiment, Published, run_name
from metarl.commands.train import parse_config
from metarl.common.errors import UserError
from metarl.envs import metaworld
from metarl.runs.training import train
from metarl.store.provenance import provenance
from metarl.store.runs import read_run

SMALL = {
    "meta_batch_size": 4,
    "rollouts_per_task": 4,
    "horizon": 5,
    "hidden_sizes": (8,),
    "validate_every": 0,
    "validation_tasks": 3,
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An experiment of seconds, with results and runs of its own."""
    options = " ".join(arguments({**SMALL, "iterations": 2}))
    experiment = Experiment(
        "navigation",
        {"maml": f"--algo maml {options}", "anil": f"--algo anil {options}"},
        "--tasks 3 --rollouts 2 --gradient-steps 2",
        seeds=(0,),
        published=(Published("maml", {0: -40.0, 1: -11.5}, "somebody 1999", {1: 2.0}),),
    )
    monkeypatch.setitem(EXPERIMENTS, "small", experiment)
    monkeypatch.chdir(tmp_path)
    for module in (reproduce, experiments, collect, overview):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(collect, "REFERENCES", tmp_path / "agents")
    monkeypatch.setattr(reproduce, "refuse_changes", lambda: None)
    monkeypatch.setattr(reproduce, "_call", call_here)
    # Whatever the checkout has been changed by.
    monkeypatch.setattr("metarl.store.provenance._commit", lambda: "0123456789ab")
    return experiment


def call_here(module, *options):
    """Runs a command in this process, which is faster."""
    command = importlib.import_module(module.replace("metarl.", "metarl.commands."))
    if code := command.main([*options, "--threads", "1"]):
        raise subprocess.CalledProcessError(code, module)


def test_an_experiment_is_trained_in_a_folder_of_its_own_and_printed_beside_the_published(small, tmp_path, capfd):
    assert reproduce.main(["small", "--jobs", "1"]) == 0
    printed = capfd.readouterr().out
    run = tmp_path / "runs/reproduce/small/maml-seed0"
    assert len(numbers(run)) == 2
    assert "| published: maml | | -40.00 | -11.50 ± 2 |  |" in printed
    assert "Published: somebody 1999." in printed
    mean = read_run(run).evaluated().mean
    assert f"| maml | 0 | {mean[0]:.2f} ({mean[0]:.2f}) |" in printed
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_what_is_done_is_said_and_what_was_interrupted_goes_on(small, tmp_path, capfd):
    runs = tmp_path / "runs/reproduce/small"
    whole = tiny(runs / "anil-seed0", algo="anil", **{**SMALL, "iterations": 2})
    train(whole)
    expected = numbers(runs / "anil-seed0")
    shutil.rmtree(runs)
    train(tiny(runs / "anil-seed0", algo="anil", **{**SMALL, "iterations": 1}))
    assert reproduce.main(["small", "--jobs", "1"]) == 0
    assert f"{reproduce.RUNS / 'small/anil-seed0'}: goes on" in capfd.readouterr().out
    assert numbers(runs / "anil-seed0") == expected
    before = (runs / "maml-seed0/evaluation.json").read_bytes()
    assert reproduce.main(["small", "--jobs", "1"]) == 0
    assert "maml-seed0/evaluation.json: there already; remove it to compute it again" in capfd.readouterr().out
    assert (runs / "maml-seed0/evaluation.json").read_bytes() == before


@pytest.mark.slow
def test_a_run_that_was_begun_with_fewer_iterations_is_finished_and_measured_again(small, tmp_path, capfd):
    runs = tmp_path / "runs/reproduce/small"
    assert reproduce.main(["small", "--jobs", "1"]) == 0
    shutil.rmtree(runs / "maml-seed0")
    fewer = train(tiny(runs / "maml-seed0", **{**SMALL, "iterations": 1}))
    shutil.copy(runs / "anil-seed0/evaluation.json", fewer.path)
    stored = json.loads((fewer.path / "evaluation.json").read_text())
    (fewer.path / "evaluation.json").write_text(json.dumps({**stored, "iteration": 1}))
    capfd.readouterr()
    read_run(fewer.path)
    assert "was evaluated after" not in capfd.readouterr().err
    assert reproduce.main(["small", "--jobs", "1"]) == 0
    assert "it is of iteration 1, and training went on to 2" in capfd.readouterr().out
    assert read_run(fewer.path).evaluated().iteration == 2
    (fewer.path / "evaluation.json").write_text(json.dumps({**stored, "iteration": 1}))
    read_run(fewer.path)
    assert "was evaluated after iteration 1, and training went on to 2: run" in capfd.readouterr().err


def test_a_run_goes_on_to_the_iterations_that_are_the_default_today(small, tmp_path, monkeypatch):
    called = []
    options = " ".join(arguments({name: value for name, value in SMALL.items() if name != "iterations"}))
    begun = train(tiny(tmp_path / "begun", **{**SMALL, "iterations": 1}))
    monkeypatch.setattr(reproduce, "_call", lambda *words: called.append(words))
    reproduce._train(replace(small, variants={"maml": f"--algo maml {options}"}), "maml", 0, begun.path, [])
    default = str(parse_config(["--env", "navigation", "--algo", "maml"]).resolve().run.iterations)
    assert called[0][-3:] == ("--resume", "--iterations", default)


def test_what_is_not_trained_has_no_first_iterations():
    assert reproduce.quick_options(EXPERIMENTS["algorithms-navigation"], "standstill", 0) == []
    assert reproduce.quick_options(EXPERIMENTS["algorithms-navigation"], "maml", 0) == ["--iterations", "2"]


def test_an_experiment_without_runs_has_nothing_to_summarise_or_check(small, tmp_path, capsys):
    (tmp_path / "results").mkdir()
    assert reproduce.main(["small", "--summary"]) == 0
    assert "small: no run is kept" in capsys.readouterr().out
    assert reproduce.main(["small", "--check"]) == 0
    assert "small: no run is kept" in capsys.readouterr().out


@pytest.fixture
def trained(small, tmp_path, monkeypatch):
    """The small experiment's runs without training: copies of committed ones under its name."""
    for name in small.variants:
        folder = tmp_path / "runs/reproduce/small" / f"{name}-seed0"
        shutil.copytree(RESULTS / "algorithms-navigation" / f"{name}-seed0", folder)
    monkeypatch.setattr(reproduce, "_call", lambda *words: None)
    monkeypatch.setattr(collect, "_keep_agent", lambda *folders: None)  # No checkpoints are committed here.
    return tmp_path / "runs/reproduce/small"


def test_kept_results_are_not_trained_again_which_is_said(trained, tmp_path, capsys, monkeypatch):
    assert reproduce.main(["small", "--keep"]) == 0
    kept = tmp_path / "results/small"
    assert {path.name for path in (kept / "maml-seed0").iterdir()} == {"config.json", "progress.csv", "evaluation.json"}
    assert {"summary.json", "summary.md", "training.png", "adaptation.png"} <= {path.name for path in kept.iterdir()}
    assert "| [small](small/summary.md) | 2 of 2 |  | 2 | " in (kept.parent / "README.md").read_text()
    capsys.readouterr()
    shutil.rmtree(kept / "anil-seed0")
    trainings = []
    monkeypatch.setattr(reproduce, "_train", lambda *words: trainings.append(words[1:3]))
    assert reproduce.main(["small", "--keep"]) == 0
    assert trainings == [("anil", 0)]
    printed = capsys.readouterr().out
    assert "small/maml-seed0: in benchmarks/results already; remove it there to train it again" in printed
    assert "small/anil-seed0: in benchmarks/results" not in printed
    assert (kept / "anil-seed0/evaluation.json").is_file()


def test_a_summary_with_other_commands_than_todays_is_told_of(trained, tmp_path, capsys):
    assert reproduce.main(["small", "--keep"]) == 0
    path = tmp_path / "results/small/summary.json"
    summary = json.loads(path.read_text())
    summary["variants"]["anil"]["command"] += " --horizon 3"
    path.write_text(json.dumps(summary))
    assert reproduce.main(["small", "--check"]) == 1
    assert "small: its summary has other commands; python -m benchmarks.reproduce small" in capsys.readouterr().out


def test_results_from_a_changed_tree_are_refused(trained, tmp_path, monkeypatch, capsys):
    config = json.loads((trained / "maml-seed0/config.json").read_text())
    config["metarl"]["commit"] += "-dirty"
    (trained / "maml-seed0/config.json").write_text(json.dumps(config))
    assert reproduce.main(["small", "--keep"]) == 1
    assert "comes from a tree with uncommitted changes" in capsys.readouterr().err
    assert not (tmp_path / "results/small/maml-seed0").exists()
    assert (tmp_path / "results/small/anil-seed0").exists()  # What can be kept is.
    assert reproduce.main(["small", "--keep"]) == 1
    assert "small/maml-seed0; commit what was kept; then the same command tries again" in capsys.readouterr().err
    config["metarl"]["commit"] = "1" * 12
    (trained / "maml-seed0/config.json").write_text(json.dumps(config))
    sweep = {"evaluations": [{"metarl": {"commit": commit}} for commit in ("1" * 12, f"{'1' * 12}-dirty")]}
    (trained / "maml-seed0/evaluation-sweep.json").write_text(json.dumps(sweep))
    with pytest.raises(UserError, match=r"evaluation-sweep\.json comes from a tree with uncommitted changes"):
        collect.collect(trained / "maml-seed0", "small")
    monkeypatch.setattr(reproduce, "refuse_changes", measure.refuse_changes)
    monkeypatch.setattr(measure, "__file__", str(tmp_path / "tree" / "file"))
    git = ["git", "-C", str(tmp_path / "tree"), "-c", "user.name=N", "-c", "user.email=E"]
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("1")
    for words in (["init"], ["add", "file"], ["commit", "-m", "Begin"]):
        subprocess.run([*git, *words], check=True)
    measure.refuse_changes()
    (tmp_path / "tree/file").write_text("2")
    assert reproduce.main(["small", "--keep"]) == 2
    assert "the tree has uncommitted changes" in capsys.readouterr().err


def test_agents_of_another_experiment_are_trained_there_and_evaluated_here(small, tmp_path, monkeypatch, capfd):
    elsewhere = replace(small, variants={"maml": small.variants["maml"]}, agents_of="small")
    monkeypatch.setitem(EXPERIMENTS, "far", replace(elsewhere, evaluation=f"{small.evaluation} --env navigation-c"))
    assert reproduce.main(["far", "--keep"]) == 0
    runs, kept = tmp_path / "runs/reproduce", tmp_path / "results/far"
    assert len(numbers(runs / "small/maml-seed0")) == 2
    assert not (runs / "far/maml-seed0/progress.csv").exists()
    assert {path.name for path in kept.iterdir()} == {"maml-seed0", "summary.json", "summary.md", "adaptation.png"}
    assert read_run(kept / "maml-seed0").evaluated().env == "navigation-c"
    text = (kept / "summary.md").read_text()
    assert "Agents: [small](../small/summary.md)." in text
    assert "Training:" not in text
    assert summaries.outdated("far", kept) == {}
    capfd.readouterr()
    assert reproduce.main(["far"]) == 0
    assert f"{reproduce.RUNS / 'far/maml-seed0/evaluation.json'}: there already" in capfd.readouterr().out
    trained = runs / "small/maml-seed0/config.json"
    config = json.loads(trained.read_text())
    config["metarl"]["commit"] = "fedcba987654"  # As if it had been removed and trained again.
    trained.write_text(json.dumps(config))
    assert reproduce.main(["far"]) == 0
    assert (
        "far/maml-seed0/evaluation.json: computed again, because its agent was trained again" in capfd.readouterr().out
    )
    assert json.loads((runs / "far/maml-seed0/config.json").read_text())["metarl"]["commit"] == "fedcba987654"


def test_meta_world_without_its_package_is_a_sentence(tmp_path, monkeypatch, capsys):
    def missing():
        raise UserError("install it: pip install '.[metaworld]'.")

    monkeypatch.setattr(metaworld, "_classes", missing)
    monkeypatch.setattr(reproduce, "RUNS", tmp_path)
    monkeypatch.setattr(reproduce, "_call", call_here)
    assert reproduce.main(["meta-world-reach", "--jobs", "1"]) == 1
    captured = capsys.readouterr()
    assert "error: install it: pip install '.[metaworld]'." in captured.err
    assert "Traceback" not in captured.err
    monkeypatch.setattr(overview, "RESULTS", tmp_path)  # Steps to do are counted of what is not there.
    assert reproduce.main(["--list", "meta-world-reach"]) == 0
    assert "install it: pip install '.[metaworld]'." in capsys.readouterr().out


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_evaluated_with_options_that_there_are(name):
    experiment = EXPERIMENTS[name]
    asked = summaries.measurements(experiment)
    assert len(asked) == sum(options is not None for options in (experiment.evaluation, experiment.analysis))
    assert experiment.other_seeds.keys() <= experiment.variants.keys()


def test_variants_may_have_seeds_of_their_own():
    experiment = Experiment("navigation", {"a": "", "b": ""}, None, seeds=(0, 1), other_seeds={"a": (0, 2)})
    assert list(experiment.runs()) == [("a", 0), ("b", 0), ("b", 1), ("a", 2)]


@pytest.fixture
def run(small, tmp_path, monkeypatch):
    """A finished run of the small experiment; the same is kept, with a mark."""
    run = train(tiny(tmp_path / "maml-seed0", algo="maml", **{**SMALL, "iterations": 1})).path
    shutil.copytree(run, tmp_path / "results/small/maml-seed0")
    (tmp_path / "results/small/maml-seed0/mark").touch()
    return run


def test_collected_runs_are_named_and_replace_what_was_there(run, tmp_path, capsys):
    assert collect.main(["small", str(run)]) == 0
    kept = tmp_path / "results/small/maml-seed0"
    assert capsys.readouterr().out == f"{run}: kept in {kept}\n"
    assert {path.name for path in kept.iterdir()} == {"config.json", "progress.csv"}
    assert [path.name for path in kept.parent.iterdir()] == ["maml-seed0"]


@pytest.mark.parametrize(
    ("experiment", "name", "lacks", "problem"),
    [
        ("smal", "maml-seed0", "", "there is no experiment 'smal'. Did you mean 'small'"),
        ("small", "maml-sed0", "", "is no run of small: its folder must be named VARIANT-seedSEED"),
        ("small", "anil-attenuated-seed0", "", "is no run of small"),
        ("small", "maml-seed7", "", "is no run of small"),
        ("adaptation-axis", "maml", "", "is no run of adaptation-axis"),
        ("small", "anil-seed0", "", "anil-seed0' does not exist"),
        ("small", "maml-seed0", "config.json", "is no finished run: it has no config.json"),
        ("small", "maml-seed0", "progress.csv", "is no finished run: it has no progress.csv"),
    ],
)
def test_what_is_no_run_is_not_collected_and_replaces_nothing(run, tmp_path, experiment, name, lacks, problem, capsys):
    if lacks:
        (run / lacks).unlink()
    before = everything_in(tmp_path / "results")
    assert collect.main([experiment, str(tmp_path / name)]) == 2
    assert problem in capsys.readouterr().err
    assert everything_in(tmp_path / "results") == before


def test_a_failed_copy_leaves_what_was_kept(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    before = everything_in(tmp_path / "results")
    monkeypatch.setattr(collect.shutil, "copy", full)
    with pytest.raises(OSError, match="no space left"):
        collect.main(["small", str(run)])
    assert everything_in(tmp_path / "results") == before


def test_a_run_without_training_has_no_progress_to_collect(tmp_path, monkeypatch):
    for part in ("RESULTS", "REFERENCES"):
        monkeypatch.setattr(collect, part, tmp_path / part)
    run = RESULTS / "algorithms-navigation/standstill-seed0"
    monkeypatch.setattr(collect, "_keep_agent", lambda *folders: None)
    assert not (run / "progress.csv").exists()
    assert collect.main(["algorithms-navigation", str(run)]) == 0
    assert (tmp_path / "RESULTS/algorithms-navigation/standstill-seed0/evaluation.json").is_file()


def test_a_failed_run_is_named_and_stops_no_other(small, tmp_path, capfd):
    folder = tmp_path / "runs/reproduce/small/maml-seed0"
    train(tiny(folder, algo="maml", **{**SMALL, "iterations": 1, "inner_lr": 0.7}))  # Not the experiment's settings.
    assert reproduce.main(["small", "--jobs", "1"]) == 1
    captured = capfd.readouterr()
    assert "was begun with other settings (inner_lr 0.7, today 0.1); remove it to begin anew" in captured.err
    assert "failed: small/maml-seed0" in captured.err
    assert "small: no summary" in captured.out
    assert (tmp_path / "runs/reproduce/small/anil-seed0/evaluation.json").is_file()


def test_outdated_runs_are_told_with_what_has_changed(trained, small, tmp_path):
    config = json.loads((trained / "maml-seed0/config.json").read_text())
    found = summaries.outdated("small", trained)
    # The copied runs have other sizes than the small experiment.
    assert "hidden_sizes [100, 100], today [8]" in found["maml-seed0"]["trained with"]
    assert f"iterations {config['iterations']}, today 2" in found["maml-seed0"]["trained with"]
    text = summaries.summarise("small", trained)
    assert config["metarl"]["commit"] in next(line for line in text.splitlines() if line.startswith("**Results of"))
    assert json.loads((trained / "summary.json").read_text())["outdated"] == found


def test_only_what_was_trained_otherwise_has_its_commit_named_and_can_be_trained_again(trained, small, monkeypatch):
    changed = {"maml-seed0": {"trained with": ["a 1, today 2"]}, "anil-seed0": {"evaluated with": ["b 3, today 4"]}}
    monkeypatch.setattr(summaries, "outdated", lambda *_: changed)
    commits = []
    for run in changed:
        path = trained / run / "config.json"
        config = json.loads(path.read_text())
        commits.append(f"{len(commits)}" * 12)
        path.write_text(json.dumps({**config, "metarl": {**config["metarl"], "commit": commits[-1]}}))
    text = summaries.summarise("small", trained)
    head, again, between, otherwise = text.split("\n\n")[1:5]
    assert head.startswith(f"**Results of commit {commits[0]}.**")
    assert again == "- maml-seed0: trained with a 1, today 2"
    assert between == "**Measured otherwise than today**, whatever the training:"
    assert otherwise == "- anil-seed0: evaluated with b 3, today 4"
    assert json.loads((trained / "summary.json").read_text())["outdated"] == changed


def test_agents_that_are_evaluated_here_are_outdated_if_todays_command_trains_them_longer(trained, small, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "far", replace(small, variants={"maml": "--algo maml"}, agents_of="small"))
    run = trained / "maml-seed0"
    (run / "progress.csv").unlink()
    content = json.loads((run / "evaluation.json").read_text())
    today = summaries.settings_of(EXPERIMENTS["far"].train_options("maml", 0))["iterations"]
    for iteration in (int(today), 7, None):
        (run / "evaluation.json").write_text(json.dumps({**content, "iteration": iteration}))
        found = summaries.outdated("far", trained)["maml-seed0"].get("trained with", [])
        assert (f"iterations 7, today {today}" in found) == (iteration == 7)


def test_a_missing_analysis_is_told_of(small, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "results/small/maml-seed0"
    shutil.copytree(RESULTS / "headroom-navigation/maml-seed0", folder)
    (folder / "analysis.json").unlink()
    without_tasks = replace(EXPERIMENTS["headroom-navigation"], variants={"maml": "--algo maml"}, evaluation=None)
    monkeypatch.setitem(EXPERIMENTS, "small", without_tasks)
    assert summaries.outdated("small", folder.parent)["maml-seed0"]["without"] == ["analysis.json"]
    assert reproduce.main(["small", "--check"]) == 1
    assert "small/maml-seed0: " in (printed := capsys.readouterr().out)
    assert "without analysis.json" in printed
    assert reproduce.main(["small", "--summary"]) == 1
    told = f"run '{folder}' was not analysed yet: run `python -m metarl.analyze {folder} --gamma-sweep"
    assert told in capsys.readouterr().err


def test_what_an_analysis_leaves_undefined_is_a_dash_and_intervals_are_promised_where_there_are_any():
    entry = {
        "excess_conflict": dict(zip("ab", summaries._mean_and_interval({"mean": [0.5, None]}), strict=True)),
        "share_of_the_gap": {"network": None},
    }
    text = summaries._analysis_markdown({"variants": {"maml": entry}})
    assert "less that within a task, in radian:" in text
    assert "| maml | 0.500 | - |" in text
    assert "interval" not in text
    entry["excess_conflict"]["a"] = [0.5, 0.25]
    text = summaries._analysis_markdown({"variants": {"maml": entry}})
    assert "in radian (± 95 % t interval over tasks):" in text
    assert "| maml | 0.500 ± 0.250 | - |" in text


def test_variants_with_other_random_initialisations_have_rows_of_their_own(trained, small, monkeypatch):
    assert "\n| random initialisation | | " in summaries.summarise("small", trained)
    path = trained / "anil-seed0/evaluation.json"
    content = json.loads(path.read_text())
    content["references"]["random_initialisation"][0] = -99.0
    path.write_text(json.dumps(content))
    text = summaries.summarise("small", trained)
    assert "\n| random initialisation (anil) | | -99.00 | " in text
    assert "\n| random initialisation | | " in text


def test_the_training_of_what_does_not_adapt_is_that_before_adaptation():
    name = "algorithms-navigation"
    runs = {variant: [read_run(RESULTS / name / f"{variant}-seed0")] for variant in ("maml", "oracle")}
    variants = {variant: summaries._training(EXPERIMENTS[name], variant, of_one) for variant, of_one in runs.items()}
    rows = summaries._training_markdown({"variants": variants}, [], in_environments=True).splitlines()
    assert "most iterations | most environment steps | most core-hours" in rows[2]
    for variant, when in (("maml", "post"), ("oracle", "pre")):
        values = runs[variant][0].progress[f"{when}_adaptation_return"]
        (row,) = [row for row in rows if row.startswith(f"| {variant} ")]
        words = " (before adaptation)" if variant == "oracle" else ""
        assert f"| {values[:10].mean():.1f} to {values[-10:].mean():.1f}{words} |" in row
    bandit = read_run(RESULTS / "memory-bandit/rl2-seed0")
    assert summaries._measured_when(bandit) == "only episode of a trial"


def test_what_is_set_today_and_was_unset_counts_as_changed(trained, small):
    run = trained / "maml-seed0"
    done = str(int(read_run(run).progress["iteration"][-1]))
    today = summaries.settings_of(EXPERIMENTS["algorithms-navigation"].train_options("maml", 0))
    assert summaries.differences_from(today, run, done) == []
    for name in ("env_kwargs.squared_distance", "policy_body"):
        assert summaries.differences_from({**today, name: "1"}, run, done) == [f"{name} unset, today 1"]


def test_figures_have_the_names_of_the_variants_and_are_linked(trained, monkeypatch):
    drawn = {}
    monkeypatch.setattr(summaries, "save_picture", lambda figure, path: drawn.update({path.name: figure}))
    text = summaries.summarise("small", trained)
    assert drawn.keys() == {"training.png", "adaptation.png", "comparison.png"}
    names = [text.get_text() for text in drawn["adaptation.png"].legends[0].get_texts()]
    assert names[:2] == ["maml", "anil"]
    assert drawn["comparison.png"].axes[0].get_title(loc="left") == "anil"
    assert "[differences from maml after each step](comparison.png)" in text
    assert "different settings" not in text


def test_runs_made_elsewhere_are_told_of(trained):
    path = trained / "anil-seed0/config.json"
    content = json.loads(path.read_text())
    elsewhere = {**content["metarl"], "hardware": "8 cores, Another"}
    path.write_text(json.dumps({**content, "resumed_with": [elsewhere, elsewhere]}))
    text = summaries.summarise("small", trained)
    here = "2 cores, AMD EPYC; torch 2.13.0+cpu, MuJoCo 4.0.0"
    there = here.replace("2 cores, AMD EPYC", "8 cores, Another")
    assert f"\nHardware: {here}. Of anil-seed0: {here} and {there}. All of it: " in text


def test_seeds_of_a_variant_with_different_settings_are_told_of(trained, small, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "small", replace(small, seeds=(0, 1)))
    other = shutil.copytree(RESULTS / "algorithms-navigation/maml-seed1", trained / "maml-seed1")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "discount": 0.9}))
    text = summaries.summarise("small", trained)
    assert "- maml: discount 0.99 (seed 0); 0.9 (seed 1)" in text
    kept = json.loads((trained / "summary.json").read_text())
    assert kept["differing_seeds"] == {"maml": {"discount": "0.99 (seed 0); 0.9 (seed 1)"}}


def test_a_result_of_other_options_is_computed_again_and_told_of(trained, small, tmp_path, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(reproduce, "_train", lambda *_: None)
    monkeypatch.setattr(reproduce, "_call", lambda *words: called.append(words))
    reproduce._run("small", "maml", 0)
    options = "tasks 200, today 3; rollouts 40, today 2"
    assert options in capsys.readouterr().out
    assert called == [("metarl.evaluate", str(reproduce.RUNS / "small/maml-seed0"), *small.evaluation.split())]
    assert options.partition(";")[0] in summaries.outdated("small", trained)["maml-seed0"]["evaluated with"]


@pytest.mark.parametrize(
    ("run", "changed", "told"),
    [
        ("navigation/maml-seed0", {"step_scales": (1.0, 0.25)}, ["step_scales [1.0, 0.5, 0.5, 0.5], today [1.0, 0.25"]),
        ("navigation/maml-seed0", {"env": "navigation-b"}, ["env navigation, today navigation-b"]),
        ("navigation/maml-seed0", {"checkpoint": "best"}, ["checkpoint last, today best"]),
        ("navigation/maml-seed0", {"adapted_layers": ("bias1",)}, ["adapted_layers [], today ['bias1']"]),
        ("sinusoid/maml-seed0", {"queries": 7}, ["queries 100, today 7"]),
        ("sinusoid/maml-seed0", {"shots": 3}, ["shots 5, today 3"]),
    ],
)
def test_every_option_of_an_evaluation_counts(run, changed, told):
    (asked,) = summaries.measurements(EXPERIMENTS[run.partition("/")[0]])
    assert summaries.other_options(RESULTS / run / "evaluation.json", asked.wanted) == []
    others = summaries.other_options(RESULTS / run / "evaluation.json", replace(asked.wanted, **changed))
    assert [other[: len(text)] for other, text in zip(others, told, strict=True)] == told


def test_a_variant_without_a_seed_of_the_first_is_summarised_without_a_difference(trained, small, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "small", replace(small, seeds=(0, 1)))
    shutil.rmtree(trained / "anil-seed0")
    shutil.copytree(RESULTS / "algorithms-navigation/anil-seed1", trained / "anil-seed1")
    text = summaries.summarise("small", trained)
    means = read_run(trained / "anil-seed1").evaluated().mean
    assert f"| anil | 1 | {means[0]:.2f} ({means[0]:.2f}) |" in text
    assert "difference" not in json.loads((trained / "summary.json").read_text())["variants"]["anil"]


def test_an_analysis_of_other_options_is_told_of():
    kept = RESULTS / "headroom-cheetah-dir/maml-seed0/analysis.json"
    (asked,) = [m for m in summaries.measurements(EXPERIMENTS["headroom-cheetah-dir"]) if m.command == "metarl.analyze"]
    assert summaries.other_options(kept, asked.wanted) == []
    assert summaries.other_options(kept, replace(asked.wanted, tasks=20)) == ["tasks 10, today 20"]


def test_a_summarys_primary_comparison_is_the_paired_t_test_over_its_seeds():
    variants = json.loads((RESULTS / "sinusoid-l2f/summary.json").read_text())["variants"]
    difference = variants["l2f"]["difference"]
    per_seed = np.array(variants["l2f"]["per_seed"]) - np.array(variants["maml"]["per_seed"])
    assert len(per_seed) == 5
    test = stats.ttest_1samp(per_seed[:, 1], 0.0)
    low, high = test.confidence_interval()
    assert difference["primary_p_adjusted"] == pytest.approx(test.pvalue, abs=1e-3)  # Alone in its table.
    assert difference["interval"][1] == pytest.approx((high - low) / 2, abs=2e-5)
    assert "interval" not in variants["mamlpp"]["difference"]  # Four seeds.


def test_training_without_environments_has_no_number_of_their_steps():
    runs = [read_run(RESULTS / "sinusoid/maml-seed0")]
    summary = {"variants": {"maml": summaries._training(EXPERIMENTS["sinusoid"], "maml", runs)}}
    assert "| maml | 70000 | - | " in summaries._training_markdown(summary, [], in_environments=False)
    assert "| maml | 70000 | 0 | " in summaries._training_markdown(summary, [], in_environments=True)


# One of each kind of agent, and of tasks.
CHECKED = ("ant-dir", "cheetah-vel", "memory-cheetah-vel-pearl", "memory-cheetah-vel-varibad", "memory-navigation",
           "mumomaml-step-size", "sinusoid-l2f-5-steps")  # fmt: skip


@pytest.mark.parametrize("name", quick([name for name in EXPERIMENTS if overview.committed(name)], *CHECKED))
def test_every_summary_says_which_runs_todays_commands_no_longer_make(name, capsys):
    """Fails when a default changes: run again what it changes, or say so by reproduce EXPERIMENT --summary."""
    code = reproduce.main([name, "--check"])
    assert code == 0, capsys.readouterr().out


def test_the_first_rows_are_compared_bit_for_bit_on_the_same_processor(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, iterations in ((ours, 1), (theirs, 2)):
        train(tiny(folder, **{**SMALL, "iterations": iterations}))
    assert reproduce.compared(ours, theirs)[0] == "same"
    progress = (theirs / "progress.csv").read_text()
    kl = repr(float(numbers(theirs)[0]["kl"]))
    assert progress.count(kl) == 1
    (theirs / "progress.csv").write_text(progress.replace(kl, repr(float(kl) * (1 + 1e-12))))
    assert reproduce.compared(ours, theirs)[0] == "different"
    config = json.loads((theirs / "config.json").read_text())
    config["metarl"]["hardware"] = "2 cores, another processor"
    (theirs / "config.json").write_text(json.dumps(config))
    assert reproduce.compared(ours, theirs) == (
        "not comparable",
        "not compared, because the committed run has processor another processor",
    )
    assert reproduce.compared(ours, tmp_path / "missing") == ("not comparable", "no run is committed")


@pytest.mark.parametrize(("outcome", "code"), [("same", 0), ("not comparable", 0), ("different", 1)])
def test_quick_fails_if_a_row_differs_from_that_of_the_experiment_that_trained_the_agents(
    small, tmp_path, monkeypatch, capsys, outcome, code
):
    monkeypatch.setitem(EXPERIMENTS, "far", replace(small, agents_of="small"))
    monkeypatch.setattr(reproduce, "_train", lambda *_: None)
    pairs = []
    monkeypatch.setattr(reproduce, "compared", lambda *pair: (pairs.append(pair), (outcome, "a sentence"))[1])
    assert reproduce.main(["far", "--quick"]) == code
    assert pairs[0] == (reproduce.QUICK_RUNS / "far/maml-seed0", tmp_path / "results/small/maml-seed0")
    assert "far/maml-seed0: a sentence" in capsys.readouterr().out


@pytest.mark.slow
def test_the_list_has_every_experiment_with_its_measured_cost(capsys):
    assert reproduce.main(["--list"]) == 0
    printed, errors = capsys.readouterr()
    assert not errors
    assert printed.startswith("**Experiments**")  # Not by what a preset leaves out.
    rows = {line.split("|")[1].strip(): line for line in printed.splitlines() if line.startswith("|")}
    assert EXPERIMENTS.keys() <= rows.keys()
    assert "Finn et al. 2017" in rows["navigation"]
    assert "| 76.7 " in rows["navigation"]  # M environment steps, from the rows of its nine runs.
    # Without the package that they need.
    assert all(name.startswith("meta-world") for name, row in rows.items() if "| unknown " in row)


def test_details_of_an_experiment_are_listed_with_commands_seeds_budget_and_published_figures(small, tmp_path, capsys):
    folder = tmp_path / "results/small/maml-seed0"
    shutil.copytree(RESULTS / "algorithms-navigation/maml-seed0", folder)
    assert reproduce.main(["--list", "small"]) == 0
    printed = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line for line in printed.splitlines() if line.startswith("|")}
    commit = json.loads((folder / "config.json").read_text())["metarl"]["commit"]
    assert "| 0 of 0 " in rows["maml"]
    assert commit in rows["maml"]
    assert "| none of 0 " in rows["anil"]
    assert f"  python -m metarl.train --env navigation {small.variants['anil']} --seed SEED" in printed
    assert "python -m metarl.evaluate RUN --tasks 3 --rollouts 2 --gradient-steps 2" in printed
    assert "maml: -40 (step 0), -11.5 ± 2 (step 1); somebody 1999" in printed
    assert EXPERIMENTS["navigation-preset"].command("l2f") == (
        "python -m metarl.train --env navigation --preset l2f-navigation --iterations 100 --seed SEED"
    )


@pytest.mark.parametrize(
    ("options", "phases"),
    [
        ("--algo maml", 2),
        ("--algo maml --num-inner-steps 2", 3),
        ("--algo l2f", 2),
        ("--algo l2f --l2f.attenuation-rollouts fresh", 3),
        ("--algo rl2 --num-inner-steps 4 --rollouts-per-task 1", 5),
        ("--algo pretrain", 1),
        ("--algo pretrain --baseline.trainer ppo", 2),
    ],
)
def test_the_budget_is_that_of_every_episode_in_full(options, phases):
    sizes = "--iterations 3 --meta-batch-size 7 --horizon 11"
    settings = parse_config(["--env", "cheetah-vel", *options.split(), *sizes.split()]).resolve()
    assert overview.budget(settings) == 3 * 7 * settings.rollouts.rollouts_per_task * phases * 11


def test_what_is_not_trained_or_has_no_episodes_takes_no_steps():
    for options in ("--env cheetah-vel --algo standstill", "--env sinusoid --algo maml"):
        assert overview.budget(parse_config(options.split()).resolve()) == 0


def test_the_budget_is_what_a_run_takes_whose_episodes_never_end_early():
    run = read_run(RESULTS / "headroom-cheetah-dir/anil-seed0")
    settings = parse_config(EXPERIMENTS["headroom-cheetah-dir"].train_options("anil", 0)).resolve()
    assert overview.budget(settings) == run.progress["env_steps"][-1]


def test_the_page_of_all_experiments_says_what_is_unfinished_and_a_stale_one_is_found(trained, tmp_path, capsys):
    assert reproduce.main(["small", "--keep"]) == 0
    page = tmp_path / "results/README.md"
    assert "| navigation | 0 of 9 | not begun |  |  |" in page.read_text()
    assert reproduce.main(["--check", "small"]) == 0
    shutil.rmtree(tmp_path / "results/small/anil-seed0")
    assert reproduce.main(["--check", "small"]) == 1
    printed = capsys.readouterr().out
    assert "README.md: says something else than there is" in printed
    assert "small: its summary does not say so; python -m benchmarks.reproduce small --summary" in printed
    assert reproduce.main(["small", "--summary"]) == 0
    assert "| [small](small/summary.md) | 1 of 2 | unfinished | 1 | " in page.read_text()
    assert reproduce.main(["--check", "small"]) == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "name an experiment, or all"),
        (["navigatoin"], "there is no experiment 'navigatoin'; see --list. Did you mean 'navigation'"),
        (["all", "--quick", "--keep"], "--quick and --keep exclude one another"),
    ],
)
def test_an_impossible_command_is_refused(arguments, problem, capsys):
    assert reproduce.main(arguments) == 2
    assert problem in capsys.readouterr().err


_PADDING = "its episodes end early, and meta-steps computed on the padding behind them before commit 97e9c8545fb0"
# Experiments whose first rows are not compared with today's code, though today's commands are those of the runs.
NOT_COMPARED = {
    "algorithms-navigation": _PADDING,
    "algorithms-navigation-bimodal": _PADDING,
    "mumomaml-step-size": _PADDING,
    "navigation-curvature": _PADDING,
    "sinusoid-l2f-5-steps": "it has a row of every hundredth iteration alone",
    "memory-cheetah-vel-varibad": "training of the belief draws its numbers in float64 since commit 5de2919a8c9f",
    "headroom-cheetah-dir": "two iterations take a minute",
    "memory-ant-dir": "two iterations take a minute",
    "meta-world-reach-rl2": "it needs the package metaworld, and two iterations take three minutes",
}


def repeatable():
    """The first seed of each variant that was trained and is not outdated; one of those with the same command."""
    runs = {}
    for name, experiment in EXPERIMENTS.items():
        summary = RESULTS / name / "summary.json"
        if name in NOT_COMPARED or not summary.is_file():
            continue
        outdated = json.loads(summary.read_text())["outdated"]
        for variant, seed in reproduce.first_seeds(experiment):
            run = run_name(variant, seed)
            if (RESULTS / name / run / "progress.csv").is_file() and run not in outdated:
                runs.setdefault(experiment.command(variant), (name, variant, seed))
    return list(runs.values())


def test_only_committed_experiments_are_left_out_of_the_comparison_of_rows():
    assert all(overview.committed(name) for name in NOT_COMPARED)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant", "seed"), repeatable())
def test_two_iterations_give_the_committed_rows(name, variant, seed, tmp_path):
    committed = RESULTS / name / run_name(variant, seed)
    ours, theirs = provenance(torch.device("cpu")), read_run(committed).config["metarl"]
    if reproduce.machine(ours) != reproduce.machine(theirs):
        pytest.skip("the committed run is of another processor or other packages")
    experiment = EXPERIMENTS[name]
    options = reproduce.quick_options(experiment, variant, seed)
    reproduce._train(experiment, variant, seed, tmp_path / "run", options)
    outcome, sentence = reproduce.compared(tmp_path / "run", committed)
    assert outcome == "same", sentence


def test_the_ends_of_a_short_run_have_no_row_in_common():
    rows = {"post_adaptation_return": np.array([0.0, 2.0, 4.0, 10.0, 12.0])}
    run = SimpleNamespace(progress={**rows, "pre_adaptation_return": np.zeros(5)}, measure="return")
    assert summaries._first_and_last(run) == [1.0, 11.0]
