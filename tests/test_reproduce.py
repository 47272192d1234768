"""The learning results: that they are trained, resumed, kept, compared and told of as the command says."""

import importlib
import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tiny_runs import arguments, numbers, tiny

from benchmarks import collect, experiments, reproduce, summaries
from benchmarks.experiments import EXPERIMENTS, RESULTS, Experiment, Published
from metarl.common.errors import UserError
from metarl.runs.training import train
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
    for module in (reproduce, experiments, collect):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(reproduce, "_changed", lambda: False)
    monkeypatch.setattr(reproduce, "_call", call_here)
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


@pytest.fixture
def trained(small, tmp_path, monkeypatch):
    """The small experiment's runs without training: copies of committed ones under its name."""
    for name in small.variants:
        folder = tmp_path / "runs/reproduce/small" / f"{name}-seed0"
        shutil.copytree(RESULTS / "algorithms-navigation" / f"{name}-seed0", folder)
    monkeypatch.setattr(reproduce, "_call", lambda *words: None)
    monkeypatch.setattr(collect, "_keep_agent", lambda *folders: None)  # No checkpoints are committed here.
    return tmp_path / "runs/reproduce/small"


def test_kept_results_are_not_trained_again_which_is_said(trained, tmp_path, capsys):
    assert reproduce.main(["small", "--keep"]) == 0
    kept = tmp_path / "results/small"
    assert {path.name for path in (kept / "maml-seed0").iterdir()} == {"config.json", "progress.csv", "evaluation.json"}
    assert {"summary.json", "summary.md", "training.png", "adaptation.png"} <= {path.name for path in kept.iterdir()}
    capsys.readouterr()
    shutil.rmtree(kept / "anil-seed0")
    assert reproduce.main(["small", "--keep"]) == 0
    printed = capsys.readouterr().out
    assert "small/maml-seed0: in benchmarks/results already; remove it there to train it again" in printed
    assert "small/anil-seed0: in benchmarks/results" not in printed
    assert (kept / "anil-seed0/evaluation.json").is_file()


def test_results_from_a_changed_tree_are_refused(trained, tmp_path, monkeypatch, capsys):
    config = json.loads((trained / "maml-seed0/config.json").read_text())
    config["metarl"]["commit"] += "-dirty"
    (trained / "maml-seed0/config.json").write_text(json.dumps(config))
    assert reproduce.main(["small", "--keep"]) == 2
    assert "comes from a tree with uncommitted changes" in capsys.readouterr().err
    assert not (tmp_path / "results/small/maml-seed0").exists()
    config["metarl"]["commit"] = "1" * 12
    (trained / "maml-seed0/config.json").write_text(json.dumps(config))
    sweep = {"evaluations": [{"metarl": {"commit": commit}} for commit in ("1" * 12, f"{'1' * 12}-dirty")]}
    (trained / "maml-seed0/evaluation-sweep.json").write_text(json.dumps(sweep))
    with pytest.raises(UserError, match=r"evaluation-sweep\.json comes from a tree with uncommitted changes"):
        collect.collect(trained / "maml-seed0", "small")
    monkeypatch.setattr(reproduce, "_changed", lambda: True)
    assert reproduce.main(["small", "--keep"]) == 2
    assert "the tree has uncommitted changes" in capsys.readouterr().err


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
    assert "hidden_sizes [100, 100], today [8]" in found["maml-seed0"]
    assert f"iterations {config['iterations']}, today 2" in found["maml-seed0"]
    text = summaries.summarise("small", trained)
    assert config["metarl"]["commit"] in next(line for line in text.splitlines() if line.startswith("**Results of"))
    assert json.loads((trained / "summary.json").read_text())["outdated"] == found


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
    assert options.partition(";")[0] in summaries.outdated("small", trained)["maml-seed0"]


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


def test_every_summary_says_which_runs_todays_commands_no_longer_make(capsys):
    """Fails when a default changes: run again what it changes, or say so by reproduce EXPERIMENT --summary."""
    code = reproduce.main(["--check"])
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


def test_the_list_has_every_experiment_with_its_measured_cost(capsys):
    assert reproduce.main(["--list"]) == 0
    rows = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.startswith("|")}
    assert EXPERIMENTS.keys() <= rows.keys()
    assert "Finn et al. 2017" in rows["navigation"]
    assert "| 76.7 " in rows["navigation"]  # M environment steps, from the rows of its nine runs.


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


# Whose first rows today's code still makes, on the processor and with the packages they were made with.
UNCHANGED = ("memory-bandit",)


@pytest.mark.slow
@pytest.mark.parametrize("name", UNCHANGED)
def test_two_iterations_give_the_committed_rows(name, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "QUICK_RUNS", tmp_path)
    assert reproduce.main([name, "--quick"]) == 0
    experiment = EXPERIMENTS[name]
    for variant in experiment.variants:
        run = f"{name}/{variant}-seed{experiment.seeds[0]}"
        outcome, sentence = reproduce.compared(tmp_path / run, RESULTS / run)
        if outcome == "not comparable":
            pytest.skip(sentence)
        assert outcome == "same", f"{run}: {sentence}"
