"""A run folder is data: code that its config.json names is imported on the caller's word only."""

import html
import json
import re
import shlex
import sys

import pytest
from fault_table import fault
from quick import quick
from tiny_runs import TINY, arguments, tiny

import metarl
from metarl import Config, EvaluationConfig, UserError
from metarl.commands import analyze, compare, evaluate, plot
from metarl.commands import train as train_command
from metarl.config.trust import require_trust, trust_options
from metarl.runs.training import train
from metarl.store.config_file import load_config, save_config

SMALL = ["--tasks", "2", "--rollouts", "2"]

OWN = """
from torch import nn
from metarl.agents.maml import MAML
from metarl.envs.navigation import NavigationFamily

class Family(NavigationFamily):
    horizon = 30

class Rule(MAML):
    pass

def body(inputs, outputs):
    return nn.Linear(inputs, outputs)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that nothing in this process has imported, at the end also not by name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    name = f"code_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    yield name
    sys.modules.pop(name, None)


def new_process(monkeypatch, module):
    """Forgets what this process has imported by name."""
    monkeypatch.setattr("metarl.common.importing._imported", set())
    sys.modules.pop(module, None)


def foreign_run(folder, setting, name):
    """A run whose config.json names code."""
    save_config(Config(env="sinusoid", run_dir=folder), {})
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), setting: name}))
    return folder


READERS = {
    "load": metarl.load,
    "evaluate": metarl.evaluate,
    "analyze": metarl.analyze,
    "plot": lambda run: metarl.plot(run, "curve.png", x="input"),
    "resume": lambda run: train(Config(env="sinusoid", run_dir=run, resume=True)),
}


@fault(
    "Settings and Python",
    "a run folder that names somebody's code",
    "not imported without the caller's word; the sentence names the module and the options",
)
@pytest.mark.parametrize("setting", ["env", "algo", "meta_optimiser", "policy_body"])
@pytest.mark.parametrize("reader", READERS)
def test_code_that_a_run_names_is_not_imported_without_a_word(tmp_path, module, reader, setting):
    run = foreign_run(tmp_path / "run", setting, f"{module}:Thing")
    with pytest.raises(UserError) as error:
        READERS[reader](run)
    assert f"code from outside metarl, {setting} '{module}:Thing'," in str(error.value)
    assert f"add --trust {module}:Thing (in Python trust=True)." in str(error.value)
    assert module not in sys.modules


def test_a_choice_in_the_file_needs_the_word_too(tmp_path, module):
    save_config(Config(run_dir=tmp_path / "run"), {})
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chosen": {"env": f"{module}:Family"}}))
    with pytest.raises(UserError, match="code from outside metarl"):
        metarl.load(tmp_path / "run")
    assert module not in sys.modules


def test_a_path_through_metarl_is_no_way_round(tmp_path):
    run = foreign_run(tmp_path / "run", "env", "metarl.common.importing:os.system")
    with pytest.raises(UserError, match="code from outside metarl"):
        metarl.load(run)


@pytest.mark.parametrize("read", [metarl.load, metarl.evaluate])
@pytest.mark.parametrize("trust", [True, "{}:Family", ["{}:Family"]])
def test_with_a_word_the_code_is_imported(tmp_path, module, trust, read):
    if isinstance(trust, str | list):
        trust = trust.format(module) if isinstance(trust, str) else [name.format(module) for name in trust]
    run = foreign_run(tmp_path / "run", "env", f"{module}:Family")
    with pytest.raises(UserError, match=r"would do nothing|no checkpoint"):
        read(run, trust=trust)
    assert module in sys.modules


@pytest.mark.parametrize("trust", [["another:Family"], [], False])
def test_a_word_for_something_else_is_none(tmp_path, module, trust):
    run = foreign_run(tmp_path / "run", "env", f"{module}:Family")
    with pytest.raises(UserError, match="code from outside metarl"):
        metarl.load(run, trust=trust)


@pytest.mark.parametrize("trust", [3, None, [3]])
def test_a_word_of_another_type_is_refused(tmp_path, module, trust):
    run = foreign_run(tmp_path / "run", "env", f"{module}:Family")
    with pytest.raises(UserError, match=r"^.*trust(\[0\])? must be "):
        metarl.load(run, trust=trust)


def test_what_the_caller_has_named_or_registered_in_this_process_is_trusted(tmp_path, module, monkeypatch):
    monkeypatch.setattr("metarl.envs.registry._registered", dict(metarl.envs.registry._registered))
    names = {"env": f"{module}:Family"}
    with pytest.raises(UserError, match="code from outside metarl"):
        require_trust(names, False)
    Config(env=f"{module}:Family")
    require_trust(names, False)
    new_process(monkeypatch, module)
    with pytest.raises(UserError, match="code from outside metarl"):
        require_trust(names, False)
    metarl.register(f"{module}:Family", "mine")
    require_trust(names, False)
    assert trust_options(names) == []


def test_what_belongs_to_metarl_needs_no_word():
    for setting, name in (
        ("env", "navigation"),
        ("env", "metarl.envs.navigation:NavigationFamily"),
        ("algo", "l2f"),
        ("meta_optimiser", "promp"),
        ("policy_body", "metarl.policies.convolution:conv4"),
        ("policy_body", None),
    ):
        require_trust({setting: name}, False)


@pytest.mark.parametrize("by_setting", quick([False, True], False))
def test_the_commands_take_the_word_and_say_how_to_go_on(tmp_path, module, monkeypatch, capsys, by_setting):
    own = ["--env", f"{module}:Family", "--algo", f"{module}:Rule", "--policy-body", f"{module}:body"]
    word = ["--trust", own[1], "--trust", own[3], "--trust", own[5]]
    size = {name: value for name, value in TINY.items() if name != "hidden_sizes"}  # The body has its own.
    line = ["--run-dir", "run", *own, "--iterations", "1", *arguments({**size, "horizon": 5})]
    assert train_command.main(line) == 0
    assert capsys.readouterr().out == f"done; next: python -m metarl.evaluate run {' '.join(word)}\n"
    for main, options in (
        (evaluate.main, ["run", *SMALL]),
        (analyze.main, ["run", *SMALL]),
        (train_command.main, ["--run-dir", "run", "--resume", "--iterations", "2"]),
        (train_command.main, ["--config", "run/config.json", "--run-dir", "second", "--iterations", "1"]),
    ):
        new_process(monkeypatch, module)
        assert main(options) == 2
        assert f"add {' '.join(word)} (in Python" in capsys.readouterr().err
        assert module not in sys.modules
        assert main([*options, *(own if by_setting else word)]) == 0, capsys.readouterr().err


def test_a_run_on_a_family_of_ones_own_is_evaluated_and_begun_anew_on_another(tmp_path, module, monkeypatch, capsys):
    own = f"{module}:Family"
    run = train(tiny(tmp_path / "run", env=own, horizon=5, iterations=1)).path
    other = ["--env", "navigation-b"]
    for main, options in (
        (evaluate.main, [str(run), *SMALL, *other]),
        (train_command.main, ["--config", str(run / "config.json"), "--run-dir", str(tmp_path / "next"), *other]),
    ):
        new_process(monkeypatch, module)
        assert main(options) == 2
        assert f"add --trust {own} (in Python" in capsys.readouterr().err
        assert main([*options, "--trust", own]) == 0, capsys.readouterr().err
    assert (run / "evaluation-navigation-b.json").is_file()
    assert load_config(tmp_path / "next").env == "navigation-b"


@fault(
    "Settings and Python",
    "`--env` or `--algo` of `analyze` or `plot`, or `--algo` of `evaluate`, that is not the run's",
    "refused; the sentence says what the run has",
)
@pytest.mark.parametrize(
    ("main", "option", "theirs"),
    [
        (evaluate.main, "--algo", "maml"),
        (analyze.main, "--env", "navigation"),
        (analyze.main, "--policy-body", "None"),
        (plot.main, "--env", "navigation"),
        (plot.main, "--algo", "maml or l2f"),
    ],
)
def test_an_option_that_names_what_the_run_has_not_is_refused(tmp_path, capsys, main, option, theirs):
    runs = [tmp_path / "run", tmp_path / "other"][: 2 if main is plot.main else 1]
    for run, algo in zip(runs, ("maml", "l2f"), strict=False):
        save_config(tiny(run, algo=algo), {})
    output = ["--output", "curve.png"] if main is plot.main else []
    assert main([*map(str, runs), option, "bandit", *output]) == 2
    setting = option[2:].replace("-", "_")
    told = f"error: {option} names the run's own {setting}, which is {theirs}, not bandit; leave it out"
    assert told in capsys.readouterr().err


def test_a_run_on_a_family_of_ones_own_is_evaluated_on_itself(tmp_path, module, monkeypatch):
    run = train(tiny(tmp_path / "run", env=f"{module}:Family", env_kwargs={"goal_bound": 0.25}, horizon=5)).path
    new_process(monkeypatch, module)
    assert evaluate.main([str(run), *SMALL, "--env", f"{module}:Family"]) == 0
    result = metarl.evaluate(run, EvaluationConfig(tasks=2, rollouts=2))
    assert result.config["env_kwargs"] == {"goal_bound": 0.25}
    assert (run / "evaluation.json").is_file()
    assert abs(result.tasks).max() <= 0.25


def test_curves_are_drawn_without_importing_anything(tmp_path, module, monkeypatch):
    runs = []
    for lr in (0.1, 0.2):
        config = tiny(tmp_path / f"run{lr}", env=f"{module}:Family", inner_lr=lr, horizon=5, iterations=1)
        runs.append(train(config).path)
        metarl.evaluate(runs[-1], EvaluationConfig(tasks=2, rollouts=2))
    new_process(monkeypatch, module)
    assert plot.main([*map(str, runs), "--output", "curve.png"]) == 0
    assert module not in sys.modules
    assert plot.main([*map(str, runs), "--output", "curve.png", "--env", f"{module}:Family"]) == 0
    assert module in sys.modules


def test_a_comparison_leaves_out_the_defaults_of_a_trusted_family(tmp_path, module, monkeypatch, capsys):
    runs = []
    for lr in (0.1, 0.2):
        config = tiny(tmp_path / f"run{lr}", env=f"{module}:Family", inner_lr=lr, horizon=5, iterations=1)
        runs.append(str(train(config).path))
        metarl.evaluate(runs[-1], EvaluationConfig(tasks=2, rollouts=2))
    new_process(monkeypatch, module)
    assert [line.label for line in metarl.compare(runs).lines] == ["MAML (inner lr 0.1)", "MAML (inner lr 0.2)"]
    assert module not in sys.modules
    assert [line.label for line in metarl.compare(runs, trust=True).lines] == ["MAML", "MAML (inner lr 0.2)"]
    for option in ("--trust", "--env"):
        new_process(monkeypatch, module)
        capsys.readouterr()
        assert compare.main([*runs, option, f"{module}:Family"]) == 0
        assert "MAML (inner lr 0.1)" not in capsys.readouterr().out


def test_the_commands_of_a_report_take_the_word(tmp_path, module, monkeypatch):
    run = train(tiny(tmp_path / "run", env=f"{module}:Family", horizon=5, iterations=1)).path
    metarl.evaluate(run, EvaluationConfig(tasks=2, rollouts=2))
    page = html.unescape(metarl.report(run, tmp_path / "report.html").read_text())
    commands = {
        name: shlex.split(words) for name, words in re.findall(r"python -m metarl\.(train|evaluate) ([^\n<]*)", page)
    }
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    run.rename(tmp_path / "before")
    for name, main in (("train", train_command.main), ("evaluate", evaluate.main)):
        new_process(monkeypatch, module)
        assert main(commands[name]) == 0
    again, before = (json.loads((path / "evaluation.json").read_text()) for path in (run, tmp_path / "before"))
    assert again["returns"] == before["returns"]


def test_names_are_quoted_for_the_shell():
    assert trust_options({"env": "my_module:Family", "algo": "a:b; c"}) == [
        "--trust my_module:Family",
        "--trust 'a:b; c'",
    ]


def test_loading_a_configuration_takes_the_word(tmp_path, module):
    run = foreign_run(tmp_path / "run", "algo", f"{module}:Rule")
    with pytest.raises(UserError, match="code from outside metarl"):
        load_config(run)
    assert load_config(run, trust=[f"{module}:Rule"]).algo == f"{module}:Rule"
