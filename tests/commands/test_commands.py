"""The commands as users type them: what they print, write, refuse and survive."""

import dataclasses
import importlib
import json
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from disks import Disk, during_training, full_disk
from fault_table import fault
from quick import quick
from safetensors.torch import save_file
from tiny_runs import (
    ROOT,
    TINY,
    arguments,
    assert_same_run,
    everything_in,
    numbers,
    stored_progress,
    tiny,
)

import metarl
from metarl import EvaluationConfig, L2FConfig, TRPOConfig
from metarl.commands import analyze, evaluate, plot
from metarl.commands.train import main as train_main
from metarl.commands.train import parse_config
from metarl.config.config import Config
from metarl.envs.navigation import NavigationFamily
from metarl.outer.trpo import TRPO
from metarl.runs.training import train
from metarl.store.folder import RunFolder

TINY_ARGUMENTS = arguments(TINY)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The commands run in an empty folder of their own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on navigation, not to be changed."""
    return train(tiny(tmp_path_factory.mktemp("runs") / "run")).path


def answer(main, line, capsys):
    """Exit code and what a command printed, [standard output, standard error]."""
    try:
        code = main(line)
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def typed(line):
    """The same of a command in a process of its own."""
    command, *options = line.split()
    process = [sys.executable, "-m", f"metarl.{command}", *options]
    result = subprocess.run(process, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout, result.stderr


def test_train_evaluate_and_plot_follow_from_one_another(folder, capsys):
    line = ["--env", "navigation", "--algo", "maml", "--iterations", "1", *TINY_ARGUMENTS]
    code, printed, _ = answer(train_main, line, capsys)
    assert code == 0
    assert printed == "done; next: python -m metarl.evaluate runs/navigation-maml-seed0\n"
    code, printed, _ = answer(evaluate.main, [*shlex.split(printed)[5:], "--tasks", "2", "--rollouts", "2"], capsys)
    assert code == 0
    assert printed.startswith(
        "MAML on navigation: 2 held-out tasks, 2 episodes, checkpoint last (iteration 1), seed 10000\n"
    )
    code, printed, _ = answer(plot.main, ["runs/navigation-maml-seed0", "--output", "curve.png"], capsys)
    assert (code, printed) == (0, "curve.png\n")
    assert (folder / "curve.png").stat().st_size > 0


def test_python_m_metarl_names_every_command_and_a_start_that_works(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["metarl"])
    runpy.run_module("metarl", run_name="__main__")
    shown = capsys.readouterr().out
    for path in (ROOT / "metarl").glob("[a-z]*.py"):
        if (path.parent / "commands" / path.name).exists():
            assert re.search(rf"^python -m metarl\.{path.stem} +\w", shown, re.MULTILINE)
    first = [shlex.split(line)[2:] for line in re.findall(r"^  (python .*)$", shown, re.MULTILINE)]
    small = {"metarl.train": [*TINY_ARGUMENTS, "--iterations", "1"], "metarl.evaluate": ["--tasks", "2"]}
    for module, *options in first:
        command = importlib.import_module(module.replace("metarl.", "metarl.commands."))
        assert command.main([*options, *small.get(module, [])]) == 0
    assert (folder / "first.png").is_file()


def test_the_live_line_tells_iteration_speed_returns_and_kl(capsys):
    _, _, shown = answer(train_main, ["--algo", "maml", "--iterations", "2", *TINY_ARGUMENTS], capsys)
    last = shown.replace("\r", "\n").strip().splitlines()[-1]
    assert re.search(r"2/2 .* \d+ steps/s, return -?\d+\.\d -> -?\d+\.\d, KL 0\.\d{4}, \w+", last)
    assert last.startswith("2/2 [")
    assert len(last) <= 80


def test_options_reach_the_stored_configuration():
    line = "--env cheetah-dir --algo l2f --trpo.max-kl 0.02 --l2f.normalise-embedding --hidden-sizes 8 4"
    line += " --env-kwargs frame_skip 1 --inner-lr 0.3 --run-dir here --seed 4 --checkpoint-every 5 --device cpu"
    config = parse_config(line.split())
    assert config == Config(
        env="cheetah-dir",
        algo="l2f",
        trpo={"max_kl": 0.02},
        l2f={"normalise_embedding": True},
        hidden_sizes=(8, 4),
        env_kwargs={"frame_skip": 1},
        inner_lr=0.3,
        run_dir=Path("here"),
        seed=4,
        checkpoint_every=5,
        device="cpu",
    )


def test_a_run_can_be_resumed_again_and_again_by_its_folder_alone(folder, capsys):
    train(tiny(folder / "whole", iterations=4, seed=3))
    assert (
        answer(
            train_main,
            ["--algo", "maml", "--seed", "3", "--run-dir", "run", "--iterations", "2", *TINY_ARGUMENTS],
            capsys,
        )[0]
        == 0
    )
    for iterations in ("3", "4"):
        code, _, shown = answer(train_main, ["--run-dir", "run", "--resume", "--iterations", iterations], capsys)
        assert code == 0, shown
    assert_same_run(folder / "whole", folder / "run")


# A training that says when three of its iterations are in progress.csv. Ctrl-C's handler is set again, because a
# process started in the background may inherit that it is ignored.
TELLING = """
import signal, sys
from metarl.store.progress import ProgressLog
from metarl.commands.train import main

def tell(log, row):
    write(log, row)
    if row["iteration"] == 3:
        print("three iterations", flush=True)

write, ProgressLog.write = ProgressLog.write, tell
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_an_interrupted_training_keeps_its_iterations_and_can_go_on(folder, capsys, number, code):
    line = ["--algo", "maml", "--run-dir", "run", "--iterations", "100000", "--checkpoint-every", "100000"]
    command = [sys.executable, "-c", TELLING, *line, *TINY_ARGUMENTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        told = process.stdout.readline()
        process.send_signal(number)
        _, shown = process.communicate()
    assert told == "three iterations\n", shown
    assert process.returncode == code
    assert re.search(
        r"stopped; run holds the run up to iteration \d+; to continue: python -m metarl.train --run-dir run --resume\n",
        shown,
    )
    assert "Traceback" not in shown
    done = stored_progress(folder / "run").iteration
    assert done >= 2
    code, _, shown = answer(train_main, ["--run-dir", "run", "--resume", "--iterations", str(done + 1)], capsys)
    assert code == 0, shown
    assert [int(row["iteration"]) for row in numbers(folder / "run")] == list(range(1, done + 2))
    train(tiny(folder / "whole", iterations=done + 1))
    assert_same_run(folder / "whole", folder / "run")


def test_a_bad_word_on_the_command_line_costs_one_sentence_and_no_traceback():
    code, printed, shown = typed("train --env navgation")
    assert (code, printed) == (2, "")
    assert shown.startswith("error: there is no task family named 'navgation'. Did you mean 'navigation'")
    assert shown.count("\n") == 1


FAMILIES = """
import gymnasium
import numpy as np
from gymnasium import spaces

import metarl


class Unsupported(metarl.TaskFamily):
    task_space = spaces.Box(0, 1, (), np.float64)
    observations = spaces.Box(-1, 1, (2,))
    actions = spaces.Box(-1, 1, (2,))

    def make_env(self, render_mode=None):
        env = gymnasium.Env()
        env.observation_space, env.action_space = self.observations, self.actions
        return env


class Words(Unsupported):
    observations = spaces.Text(5)


class Graphs(Unsupported):
    task_space = spaces.Graph(spaces.Box(0, 1), None)


class ManyChoices(Unsupported):
    actions = spaces.Box(0, 2**31 - 1, (1,), np.int64)


class Unbounded(Unsupported):
    actions = spaces.Box(-np.inf, np.inf, (2,))


class NoFamily:
    pass
"""


def _write_families(folder, monkeypatch):
    (folder / "my_families.py").write_text(FAMILIES)
    (folder / "broken_families.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "my_families", raising=False)


BAD_TRAINING = {
    "--env navgation": "there is no task family named 'navgation'. Did you mean 'navigation'",
    "--algo mmal": "unknown algorithm 'mmal'. Did you mean 'maml'",
    "--env envs.navigation:Navigation": "write metarl.envs.navigation:Navigation",
    "--env envs.navigation": "write metarl.envs.navigation",
    "--env not_there:Family": "there is no module 'not_there'",
    "--env broken_families:Family": "importing 'broken_families' failed with ModuleNotFoundError",
    "--env my_families:Wrods": "module 'my_families' has no 'Wrods'. Did you mean 'Words'",
    "--env my_families:NoFamily": "must be a subclass of metarl.TaskFamily",
    "--env my_families:Words": "is not supported: use Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple",
    "--env my_families:Graphs": "the tasks of my_families:Graphs are Graph(",
    "--env my_families:ManyChoices": "has more integers than a policy can tell apart (8388608); use a Box of floats",
    "--env my_families:Unbounded": "is not supported: use a bounded one-dimensional Box, Discrete",
    "--env-kwargs gravity 3": "navigation has no parameter 'gravity'; it accepts",
    "--iterations -3": "iterations must be at least 0, got -3.",
    "--meta-batch-size 0": "meta_batch_size must be at least 1, got 0.",
    "--rollouts-per-task -1": "rollouts_per_task must be at least 1, got -1.",
    "--horizon 0": "horizon must be at least 1, got 0.",
    "--hidden-sizes 16 -16": "hidden_sizes[1] must be at least 1, got -16.",
    "--inner-lr 0": "inner_lr must be greater than 0, got 0.0.",
    "--trpo.max-kl nan": "trpo.max_kl must be a finite number, got nan.",
    "--output-gain 1e300": "output_gain must be at most 1000000000000, got 1e+300.",
    "--trpo.max-kl -1": "trpo.max_kl must be greater than 0, got -1.0.",
    "--seed -1": "seed must be at least 0, got -1.",
    "--device cuda": "PyTorch finds no CUDA GPU; take device cpu or auto.",
    "--policy-body no_body:make": "there is no module 'no_body'; run from the folder that holds it",
    "--run-dir run": "run holds a run; continue it with resume (--resume), or choose another run_dir (--run-dir).",
    "--run-dir other": "other exists and is not an empty folder",
    "--run-dir other --resume": "other is not the folder of a run: it holds no config.json",
    "--run-dir nowhere --resume": "nowhere does not exist; give the folder that",
    "--run-dir run --resume --seed 4": "run was run with seed 0, not 4; resume it with its own settings.",
    "--run-dir corrupted --resume": "last.safetensors is damaged and cannot be read",
    "--run-dir foreign --resume": "is not a metarl checkpoint; it was written by another program.",
}

BAD_EVALUATION = {
    "nowhere": "nowhere does not exist; give the folder that",
    "other": "other is not the folder of a run: it holds no config.json",
    "corrupted": "last.safetensors is damaged and cannot be read",
    "foreign": "is not a metarl checkpoint; it was written by another program.",
    "foreign --checkpoint best": "there is one from the first validation on (validate_every is",
    "run --tasks 0": "tasks must be at least 1, got 0.",
    "run --rollouts -1": "rollouts must be at least 1, got -1.",
    "run --gradient-steps -1": "gradient_steps must be at least 0, got -1.",
    "run --rollouts-sweep 2 0": "rollouts[1] must be at least 1, got 0.",
    "run --rollouts-sweep": "rollouts must hold at least one number of episodes, got none.",
    "run --env cheetah-dir": "observations have 17 numbers; this agent was trained on navigation with 2.",
    "run --env navigation-f": "there is no task family named 'navigation-f'. Did you mean",
    "run --env my_families:Words": "is not supported: use Box, Discrete",
    "run --task-file other/thesis.txt": "holds no tasks; for navigation it must be JSON such as",
    "run --device cuda": "PyTorch finds no CUDA GPU; take device cpu or auto.",
}

BAD_PLOT = {
    "nowhere --output curve.png": "'nowhere' does not exist",
    "other --output curve.png": "'other' is not a run folder",
    "run --output curve.gif": "must end in .png, .svg, .pdf",
    "run --output curve.png": "evaluate",
}


def _commands():
    for main, cases in ((train_main, BAD_TRAINING), (evaluate.main, BAD_EVALUATION), (plot.main, BAD_PLOT)):
        for line, message in cases.items():
            yield pytest.param(main, line.split(), message, id=f"{main.__module__.split('.')[1]} {line}")


@pytest.mark.parametrize(("main", "line", "message"), list(_commands()))
def test_bad_input_costs_one_sentence_and_overwrites_nothing(run, folder, monkeypatch, capsys, main, line, message):
    for name in ("run", "corrupted", "foreign"):
        shutil.copytree(run, folder / name)
    RunFolder(folder / "corrupted").checkpoint("last").write_bytes(b"no checkpoint")
    RunFolder(folder / "corrupted").checkpoint("previous").unlink()
    save_file({"weight": torch.zeros(3)}, RunFolder(folder / "foreign").checkpoint("last"))
    RunFolder(folder / "foreign").checkpoint("best").unlink()
    (folder / "other").mkdir()
    (folder / "other" / "thesis.txt").write_text("mine")
    _write_families(folder, monkeypatch)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = everything_in(folder)
    code, printed, shown = answer(main, line, capsys)
    assert code == 2
    assert printed == ""
    assert shown.startswith("error: ")
    assert message in shown
    assert shown.count("\n") == 1
    assert everything_in(folder) == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train --iteratons 3", ["--iteratons", "--iterations"]),
        ("train --seed x", ["--seed", "'x'"]),
        ("train --device tpu", ["tpu", "cuda"]),
        ("train --env", ["--env"]),
        ("evaluate run --task 3", ["--task", "--tasks"]),
        ("evaluate", ["PATH"]),
        ("evaluate run --checkpoint first", ["first", "best"]),
        ("plot run", ["--output"]),
        ("plot run --outptu a.png", ["--outptu", "--output"]),
    ],
)
def test_what_cannot_be_parsed_is_told_with_the_nearest_names(folder, line, words):
    code, printed, shown = typed(line)
    assert code == 2
    assert printed == ""
    assert all(word in shown for word in words)
    assert "Traceback" not in shown
    assert everything_in(folder) == {}


def test_help_names_every_setting_with_its_comment(capsys):
    code, printed, _ = answer(train_main, ["--help"], capsys)
    assert code == 0
    for config, prefix in ((Config, ""), (TRPOConfig, "trpo."), (L2FConfig, "l2f.")):
        for name in {field.name for field in dataclasses.fields(config)} - {"rule", "optimiser"}:
            assert f"--{prefix}{name.replace('_', '-')}" in printed
    assert "Step size of the inner loop." in " ".join(printed.replace("│", " ").split())


def test_help_on_an_algorithm_leaves_out_what_others_take(capsys):
    _, printed, _ = answer(train_main, ["--algo", "rl2", "--help"], capsys)
    assert "--rl2.units" in printed
    assert "--ppo.epochs" in printed
    assert not [group for group in ("trpo", "l2f", "varibad", "sac") if f"--{group}." in printed]
    code, _, told = answer(train_main, ["--algo", "rl2", "--trpo.max-kl", "0.1"], capsys)
    assert code == 2
    assert "trpo would do nothing: it is for meta_optimiser trpo" in told


@pytest.mark.parametrize(
    ("line", "of_others", "kept"),
    [
        ("--algo rl2", "inner-lr inner-loss policy-body shots", "num-inner-steps gae-lambda horizon"),
        ("--algo pearl", "inner-lr gae-lambda", "discount"),
        ("--algo maml --env sinusoid", "horizon discount initial-std gae-lambda", "shots inner-lr policy-body"),
        ("--algo maml", "shots queries", "inner-lr policy-body horizon"),
        ("--algo cavia", "context-size", "cavia.context-size"),
    ],
)
def test_help_on_an_algorithm_leaves_out_single_settings_that_it_refuses(line, of_others, kept, capsys):
    _, printed, _ = answer(train_main, [*line.split(), "--help"], capsys)
    assert not [option for option in of_others.split() if f"--{option} " in printed]
    assert not [option for option in kept.split() if f"--{option} " not in printed]


def test_help_may_be_read_in_part():
    command = [sys.executable, "-m", "metarl.train", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        process.stdout.close()
        shown = process.stderr.read()
    assert process.returncode in (0, 141)  # Older tyro does not notice.
    assert shown == ""


def test_help_shows_the_familys_defaults(capsys):
    def default(line, option):
        _, printed, _ = answer(train_main, line.split(), capsys)
        words = " ".join(printed.replace("│", " ").split())
        return re.search(rf"--{option} .*?\(default: (.*?)\)", words).group(1)

    assert default("--env cheetah-dir --help", "horizon") == "200"
    assert default("--env navigation --help", "horizon") == "100"
    assert default("--help --env ant-dir", "discount") == "0.95"
    assert default("--help --algo maml", "algo") == "maml"
    assert default("--help", "env-kwargs") == "none"


def test_evaluates_help_names_every_setting(capsys):
    code, printed, _ = answer(evaluate.main, ["--help"], capsys)
    assert code == 0
    for field in dataclasses.fields(EvaluationConfig):
        assert f"--{field.name.replace('_', '-')}" in printed


@pytest.mark.parametrize("command", ["train", "evaluate", "analyze", "plot", "compare"])
def test_a_commands_module_is_run_and_not_imported(command):
    function = getattr(metarl, command)
    with pytest.raises(ImportError, match=f"metarl.{command} is a function, and a command: python -m metarl.{command}"):
        importlib.import_module(f"metarl.{command}")
    assert getattr(metarl, command) is function
    assert callable(function)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["train", "--env", "navigation"], " Write python -m metarl.train for that."),
        (["trian"], " Did you mean 'train'?"),
        (["--env"], ""),
    ],
)
def test_python_m_metarl_takes_no_arguments(monkeypatch, capsys, words, hint):
    monkeypatch.setattr("sys.argv", ["metarl", *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("metarl", run_name="__main__")
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: python -m metarl takes no arguments, got {' '.join(words)!r}.{hint}\n"


def test_list_names_everything_with_a_sentence(capsys):
    assert train_main(["--list"]) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("  ")]
    known = {*metarl.family_names(), *metarl.ALGORITHMS, *metarl.META_OPTIMISERS, *metarl.PRESETS}
    assert {line.split()[0] for line in rows} == known
    assert all(len(line.split()) > 3 and line.endswith(".") for line in rows)


TRAIN = ["--algo", "maml", "--run-dir", "run", "--iterations", "2", *TINY_ARGUMENTS]


@fault("Run folder", "closed stdout and stderr; or nobody reads them", "training is not affected; exit code 0")
@pytest.mark.parametrize("outputs", quick([">&- 2>&-", "> >(exit) 2> >(exit)"], "> >(exit) 2> >(exit)"))
def test_closed_and_abandoned_outputs_do_not_disturb_training(run, outputs):
    line = shlex.join([sys.executable, "-m", "metarl.train", *TRAIN])
    assert subprocess.run(["bash", "-c", f"{line} {outputs}"], check=False).returncode == 0
    assert_same_run("run", run)


@fault(
    "Run folder",
    "`evaluate` or `analyze` on a full disk",
    "said before computing; the table is printed all the same; exit code 1",
)
@pytest.mark.parametrize(
    ("module", "options", "title"),
    [
        (evaluate, ["--tasks", "2", "--rollouts", "2"], "MAML on navigation: 2 held-out tasks"),
        (analyze, ["--tasks", "2", "--rollouts", "2", "--embedding-tasks", "2"], "MAML on navigation"),
    ],
)
def test_a_full_disk_is_told_at_once_and_the_table_is_printed_all_the_same(
    run, folder, capsys, monkeypatch, module, options, title
):
    shutil.copytree(run, folder / "run")
    before = everything_in(folder)
    make_episodes, said_before = NavigationFamily.make_episodes, []

    def note(*arguments):
        said_before.append(capsys.readouterr().err)
        return make_episodes(*arguments)

    monkeypatch.setattr(NavigationFamily, "make_episodes", note)
    with full_disk():
        code, printed, shown = answer(module.main, ["run", *options], capsys)
    assert code == 1
    assert title in printed
    assert "File too large; the result will not be saved." in said_before[0]
    assert re.search(r"error: cannot write '\S+/run/\S+\.json': File too large", shown)
    assert everything_in(folder) == before
    assert answer(module.main, ["run", *options], capsys)[1].startswith(printed)
    assert everything_in(folder) != before


@fault("Run folder", "`plot` on a full disk", "refused before anything is read")
def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_read(capsys):
    with full_disk():
        code, _, shown = answer(plot.main, ["nowhere", "--output", "curve.png"], capsys)
    assert (code, shown) == (2, "error: cannot write 'curve.png': File too large.\n")


def test_a_result_that_cannot_be_printed_costs_one_sentence(run):
    command = f"{sys.executable} -m metarl.train --list >/dev/full"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "error: cannot print the result: [Errno 28] No space left on device.\n"


def test_training_into_a_disk_that_is_full_at_the_end_exits_with_1(folder, capsys, monkeypatch):
    disk = Disk()
    during_training(monkeypatch, {1: disk.fill})
    try:
        code, printed, shown = answer(train_main, TRAIN, capsys)
    finally:
        disk.free()
    assert (code, printed) == (1, "")
    assert shown.endswith(
        "error: cannot write into run: File too large; what was done after iteration 0 is not saved.\n"
    )


def test_a_run_that_was_stopped_before_its_settings_were_stored_is_begun_again(folder, capsys, run):
    (folder / "run").mkdir()
    code, _, shown = answer(train_main, ["--run-dir", "run", "--resume"], capsys)
    assert (code, shown) == (2, "error: run holds no settings yet: the run was stopped too early. Start it again.\n")
    assert answer(train_main, [*TRAIN, "--resume"], capsys)[0] == 0
    assert_same_run("run", run)


def test_taking_over_is_not_stored_for_the_next_resumption(folder, capsys, run):
    shutil.copytree(run, folder / "run")
    lock = {"host": "elsewhere", "namespace": "", "process": 7, "started": "", "run": ""}
    RunFolder(folder / "run").lock.write_text(json.dumps(lock))
    line = ["--run-dir", "run", "--resume", "--iterations", "3"]
    code, _, shown = answer(train_main, line, capsys)
    assert code == 2
    assert "take the folder over with take_over (--take-over)" in shown
    assert answer(train_main, [*line, "--take-over"], capsys)[0] == 0
    RunFolder(folder / "run").lock.write_text(json.dumps(lock))
    assert answer(train_main, ["--run-dir", "run", "--resume", "--iterations", "4"], capsys)[0] == 2


def test_commands_that_are_printed_can_be_pasted(folder, capsys):
    """Also if the run's folder needs quotation marks."""
    line = ["--env", "navigation", "--algo", "maml", "--run-dir", "my runs/a b", "--iterations", "1", *TINY_ARGUMENTS]
    _, printed, _ = answer(train_main, line, capsys)
    assert printed == "done; next: python -m metarl.evaluate 'my runs/a b'\n"
    assert shlex.split(printed)[-1] == "my runs/a b"
    code, _, shown = answer(plot.main, ["my runs/a b", "--output", "curve.png"], capsys)
    assert code == 2
    assert "run `python -m metarl.evaluate 'my runs/a b'` first" in shown


def test_the_closing_line_counts_meta_steps_that_were_not_accepted(capsys, monkeypatch):
    step = TRPO.step

    def reject(self, state, *rest):
        _, report = step(self, state, *rest)
        return state, dataclasses.replace(report, outcome="rejected")

    monkeypatch.setattr(TRPO, "step", reject)
    _, printed, _ = answer(train_main, TRAIN, capsys)
    assert printed == (
        "done; 2 of 2 meta-steps in progress.csv were not accepted (2 rejected): try more data for each step "
        "(meta_batch_size or rollouts_per_task), a smaller inner_lr, or normalise_observations; "
        "next: python -m metarl.evaluate run\n"
    )
