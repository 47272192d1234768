"""Agents that come with the package: whole, small, and as good as it says."""

import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from quick import quick
from safetensors.torch import load_file
from tiny_runs import ROOT, everything_in, final_parameters, tiny

import metarl
from benchmarks import collect as collecting
from benchmarks.collect import collect
from metarl import EvaluationConfig, UserError
from metarl.commands import evaluate
from metarl.common.statistics import mean_and_interval
from metarl.runs.training import train
from metarl.store import reference
from metarl.store.folder import RunFolder
from metarl.store.provenance import provenance
from metarl.store.reference import REFERENCES, reference_names, results_folder, run_folder
from metarl.store.runs import read_run

NAMES = reference_names()
FEW = EvaluationConfig(tasks=2, rollouts=2)
MOST_BYTES = 10 * 2**20


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_agents_together_are_small():
    assert NAMES
    files = [path for path in REFERENCES.rglob("*") if path.is_file()]
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) <= MOST_BYTES  # As a wheel holds them.


def test_an_agent_given_by_its_path_stays_as_it_came(monkeypatch):
    monkeypatch.chdir(REFERENCES)
    assert results_folder(Path(NAMES[0])) == Path("runs/reference") / NAMES[0]


@pytest.mark.parametrize("name", quick(NAMES, *NAMES[::8]))
def test_an_agent_holds_meta_parameters_and_their_units_alone_and_loads(name):
    files = RunFolder(REFERENCES / name)
    assert {path.name for path in files.path.rglob("*") if path.is_file()} == {
        "config.json",
        "evaluation.json",
        "last.safetensors",
    }
    tensors = load_file(files.checkpoint("last"))
    meta = tensors.pop("meta")
    assert tensors.keys() <= {"memory.values"}
    assert meta.dtype == torch.float32
    assert torch.equal(metarl.load(f"reference:{name}").meta, meta)
    stored = read_run(Path(f"reference:{name}"))
    assert not Path(stored.config["run_dir"]).is_absolute()
    assert not stored.config["metarl"]["commit"].endswith("-dirty")
    assert stored.evaluated().iteration == stored.config["iterations"]


@pytest.mark.parametrize("name", quick(NAMES, *NAMES[::8]))
def test_an_agent_is_that_of_the_committed_results(name):
    committed, shipped = _committed(name), read_run(Path(f"reference:{name}"))
    assert shipped.config == committed.config
    whole, shortened = committed.evaluated(), shipped.evaluated()
    np.testing.assert_allclose(shortened.returns, whole.returns, rtol=5.1e-7)  # Seven digits.
    for part in ("mean", "interval", "tasks"):
        np.testing.assert_array_equal(getattr(shortened, part), getattr(whole, part))


def _committed(name):
    """The run in benchmarks/results whose agent is shipped as ``name``."""
    results = [
        path for path in (ROOT / "benchmarks/results").glob("*/*-seed*") if f"{path.parent.name}-{path.name}" == name
    ]
    (run,) = map(read_run, results)
    return run


def _check_again(name):
    """The first group of tasks of the agent's own evaluation; each group has random streams of its own."""
    tasks = 40
    committed = _committed(name).evaluated()
    Path("tasks.json").write_text(json.dumps({"tasks": committed.to_json()["tasks"][:tasks]}))
    size = "rollouts" if committed.shots is None else "queries"
    config = EvaluationConfig(
        task_file=Path("tasks.json"),
        **{size: committed.rollouts},
        shots=committed.shots,
        gradient_steps=len(committed.mean) - 1,
        seed=committed.seed,
        device="cpu",
    )
    now, before = metarl.evaluate(f"reference:{name}", config).returns, committed.returns[:tasks]
    if _made_with(committed.metarl) == _made_with(provenance(torch.device("cpu"))):
        np.testing.assert_array_equal(now, before)
    else:
        half_width = mean_and_interval(before).half_width
        assert (np.abs(now.mean(0) - before.mean(0)) <= half_width).all()


def _made_with(facts):
    """What numbers depend on in the last bit: the type of processor, and versions."""
    return facts["hardware"].partition(", ")[2], *(facts[part] for part in ("torch", "numpy", "mujoco", "gymnasium"))


def test_an_evaluation_gives_the_committed_numbers():
    _check_again("memory-navigation-rl2-seed0")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("seed0")])
def test_the_evaluation_of_each_first_seed_gives_the_committed_numbers(name):
    _check_again(name)


def test_an_evaluation_goes_into_a_folder_of_the_user(folder):
    before = everything_in(REFERENCES / NAMES[0])
    result = metarl.evaluate(f"reference:{NAMES[0]}", FEW)
    written = json.loads((folder / "runs/reference" / NAMES[0] / "evaluation.json").read_text())
    assert written["mean"] == result.mean.tolist()
    metarl.plot(f"reference:{NAMES[0]}", "curve.png")  # Draws the committed evaluation.
    assert everything_in(REFERENCES / NAMES[0]) == before


def test_the_list_names_every_agent_with_what_it_reaches(capsys):
    assert evaluate.main(["--list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["agent", "algorithm", "family"]
    assert [line.split()[0] for line in lines] == [f"reference:{name}" for name in metarl.reference_names()]
    for line, name in zip(lines, NAMES, strict=True):
        result = read_run(Path(f"reference:{name}")).evaluated()
        decimals = 4 if result.measure == "error" else 2
        words = line.rpartition(result.measure)[2].partition("(")[0].split()
        shown = [math.nan if word == "-" else float(word) for word in words]
        # Very large ones have two digits.
        assert shown == pytest.approx(result.mean, rel=0.05, abs=0.51 * 10**-decimals, nan_ok=True)
        assert all(f"{mean:.{decimals}f}" in line for mean in result.mean if abs(mean) < 1000)


def test_an_unknown_agent_is_refused_with_the_nearest_names(capsys):
    wrong = NAMES[0].replace("seed0", "seed9")
    with pytest.raises(UserError) as error:
        metarl.load(f"reference:{wrong}")
    assert f"there is no reference agent {wrong!r}. Did you mean '{NAMES[0]}'" in str(error.value)
    assert evaluate.main([f"reference:{wrong}"]) == 2
    assert "`python -m metarl.evaluate --list` names all" in capsys.readouterr().err


def test_an_agent_is_called_by_its_name(folder):
    for x in ("iteration", "adaptation-steps"):
        with pytest.raises(UserError, match=r"'reference:sinusoid-maml-seed0'"):
            metarl.plot("reference:sinusoid-maml-seed0", "curve.png", x=x)


def test_a_run_may_start_from_an_agent(folder):
    stored = read_run(Path(f"reference:{NAMES[0]}")).config
    source = f"reference:{NAMES[0]}"
    assert run_folder(Path(source)) == REFERENCES / NAMES[0]
    same = {name: stored[name] for name in ("env", "algo", "hidden_sizes", "activation")}
    train(metarl.Config(**same, rl2=stored["rl2"], init_from=source, iterations=0, run_dir=folder / "run"))
    np.testing.assert_array_equal(final_parameters(folder / "run"), metarl.load(source).meta.numpy())


@pytest.fixture
def places(folder, monkeypatch):
    """Where `collect` puts results and agents."""
    monkeypatch.setattr(collecting, "RESULTS", folder / "results")
    for module in (collecting, reference):
        monkeypatch.setattr(module, "REFERENCES", folder / "agents")
    # Whatever the checkout has been changed by.
    monkeypatch.setattr("metarl.store.provenance._commit", lambda: "0123456789ab")
    return folder


def test_a_finished_run_is_collected_with_its_agent(places):
    run = train(tiny(places / "maml-seed0", meta_optimiser="promp")).path
    result = metarl.evaluate(run, FEW)
    for _ in range(2):  # What was collected before is replaced.
        collect(run, "navigation")
    assert sorted(path.name for path in (places / "results/navigation").iterdir()) == ["maml-seed0"]
    assert {path.name for path in (places / "results/navigation/maml-seed0").iterdir()} == {
        "config.json",
        "progress.csv",
        "evaluation.json",
    }
    assert metarl.reference_names() == ["navigation-maml-seed0"]
    again = metarl.evaluate("reference:navigation-maml-seed0", FEW)
    np.testing.assert_array_equal(again.returns, result.returns)
    assert read_run(Path("reference:navigation-maml-seed0")).evaluated().mean.tolist() == result.mean.tolist()
    assert set(load_file(RunFolder(run).checkpoint("last"))) > {"meta"}
    checkpoints = RunFolder(places / "agents/navigation-maml-seed0").checkpoint("last").parent
    assert [path.name for path in checkpoints.iterdir()] == ["last.safetensors"]
    assert set(load_file(checkpoints / "last.safetensors")) == {"meta"}


def test_a_run_that_was_not_evaluated_has_results_alone(places):
    collect(train(tiny(places / "maml-seed0")).path, "navigation")
    assert (places / "results/navigation/maml-seed0/progress.csv").is_file()
    assert metarl.reference_names() == []


def test_an_evaluation_of_an_earlier_checkpoint_is_not_collected(places, monkeypatch, capsys):
    run = train(tiny(places / "maml-seed0", iterations=1)).path
    metarl.evaluate(run, FEW)
    train(tiny(run, iterations=2, resume=True))
    monkeypatch.setattr(sys, "argv", ["collect", "navigation", str(run)])
    assert collecting.main() == 2
    assert "is of iteration 1, and its last checkpoint of 2: evaluate it again." in capsys.readouterr().err
    assert not (places / "results").exists()
