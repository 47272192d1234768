"""From a command line to what was chosen."""

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest
from quick import quick
from tiny_runs import ROOT, tiny

from metarl import Config, TRPOConfig, UserError
from metarl.commands.train import parse_config
from metarl.config.settings import RunSettings
from metarl.runs.training import train
from metarl.store.config_file import save_config

PROXIMAL = "examples.proximal_rule:ProximalMAML"
DESCENT = "examples.gradient_descent:GradientDescent"


@pytest.mark.parametrize(
    ("line", "chosen"),
    [
        ("", {}),
        ("--env cheetah-dir --seed 4", {"env": "cheetah-dir", "seed": 4}),
        ("--horizon 100", {"horizon": 100}),  # The default of navigation, chosen all the same.
        ("--horizon=7 --hidden-sizes 8 4", {"horizon": 7, "hidden_sizes": (8, 4)}),
        ("--env_kwargs goal_bound 0.25", {"env_kwargs": {"goal_bound": 0.25}}),
        ("--trpo.max-kl 0.02", {"trpo": {"max_kl": 0.02}}),
        ("--trpo.max-kl 0.02 --trpo.cg-iterations 3", {"trpo": {"max_kl": 0.02, "cg_iterations": 3}}),
        ("--algo l2f --l2f.normalise-embedding", {"algo": "l2f", "l2f": {"normalise_embedding": True}}),
        ("--algo l2f --l2f.no-normalise-embedding", {"algo": "l2f", "l2f": {"normalise_embedding": False}}),
        (
            "--algo anil --attenuate --adapted-layers bias3",
            {"algo": "anil", "attenuate": True, "adapted_layers": ("bias3",)},
        ),
        ("--no-attenuate --keep-checkpoints", {"keep_checkpoints": True}),
        (f"--algo {PROXIMAL} --rule.strength 0.5", {"algo": PROXIMAL, "rule": {"strength": 0.5}}),
        (f"--meta-optimiser {DESCENT} --optimiser.lr 0.5", {"meta_optimiser": DESCENT, "optimiser": {"lr": 0.5}}),
        ("--run-dir here --device cpu --threads 2", {"run_dir": "here", "device": "cpu", "threads": 2}),
        ("--run-dir missing --resume auto", {"run_dir": "missing", "resume": "auto"}),
        ("--resume=auto --run-dir missing --seed 1", {"run_dir": "missing", "resume": "auto", "seed": 1}),
    ],
)
def test_what_a_command_line_names_is_chosen_and_nothing_else(line, chosen):
    config = parse_config(line.split())
    assert config == Config(**chosen)
    assert config.chosen.keys() == Config(**chosen).chosen.keys()


@pytest.mark.parametrize("env_kwargs", [{"action_bound": 0.2}, {"horizon": 50}])
def test_a_stored_family_parameter_may_be_named_again_or_changed(tmp_path, env_kwargs):
    """Also one that is called as a setting is."""
    env = "navigation" if "action_bound" in env_kwargs else "cheetah-dir"
    config = Config(env=env, algo="maml", env_kwargs=env_kwargs, run_dir=tmp_path)
    save_config(config, {})
    ((name, value),) = env_kwargs.items()
    line = ["--run-dir", str(tmp_path), "--resume", "--env-kwargs", name]
    assert parse_config([*line, str(value)]).env_kwargs == env_kwargs
    assert parse_config(line[:3]).env_kwargs == env_kwargs
    stored = ["--config", str(tmp_path / "config.json")]
    assert parse_config(stored).env_kwargs == env_kwargs
    assert parse_config([*stored, "--env-kwargs", name, "1"]).env_kwargs == {name: 1}


@pytest.mark.parametrize(
    ("stored", "line", "chosen"),
    [
        ({"algo": "pretrain", "baseline": {"trainer": "ppo"}}, "--algo maml", {"algo": "maml"}),
        ({"algo": "maml", "meta_optimiser": "promp"}, "--algo standstill", {"algo": "standstill"}),
        ({"algo": PROXIMAL, "rule": {"strength": 0.5}}, "--algo maml", {"algo": "maml"}),
        (
            {"algo": "maml", "best_by": "success", "validate_every": 3},
            "--validate-every 0",
            {"algo": "maml", "validate_every": 0},
        ),
    ],
)
def test_what_would_do_nothing_of_a_stored_configuration_is_left_out(tmp_path, stored, line, chosen):
    save_config(Config(**stored, run_dir=tmp_path), {})
    options = ["--config", str(tmp_path / "config.json"), "--trust", PROXIMAL, *line.split()]
    assert parse_config(options) == Config(**chosen)


def test_nothing_is_left_out_of_a_start_that_holds_nothing(capsys):
    with pytest.raises(UserError, match="there is no task family named 'nosuch'"):
        parse_config(["--preset", "l2f-navigation", "--env", "nosuch"])
    assert capsys.readouterr().err == ""


def test_a_presets_folder_is_that_of_the_new_algorithm(tmp_path, monkeypatch):
    """Also where other options must mend what the preset says."""
    monkeypatch.chdir(tmp_path)
    line = ["--preset", "maml-navigation", "--algo", "l2f", "--inner-loss", "ratio", "--resume", "auto"]
    assert parse_config(line).folder == Path("runs/navigation-l2f-seed0")
    save_config(Config(env="navigation", algo="maml"), {})
    assert parse_config(line).algo == "l2f"


def test_what_a_stored_run_attenuates_may_be_switched_off(tmp_path):
    save_config(Config(algo="maml", attenuate=True, run_dir=tmp_path), {})
    config = parse_config(["--config", str(tmp_path / "config.json"), "--algo", "pretrain", "--no-attenuate"])
    assert config == Config(algo="pretrain")


def test_a_part_of_a_components_settings_leaves_the_familys_other_defaults_in_force():
    settings = parse_config(["--trpo.max-kl", "0.02"]).resolve()
    assert settings.optimiser == TRPOConfig(max_kl=0.02, fisher_fraction=0.1, hessian_fraction=0.5)


def test_help_shows_the_defaults_of_the_chosen_family_and_the_settings_of_ones_own_rule(capsys):
    for line in (["--env", "cheetah-dir"], ["--env", "navigation", "--algo", PROXIMAL]):
        with pytest.raises(SystemExit) as end:
            parse_config([*line, "--help"])
        assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for horizon in (200, 100):
        assert re.search(rf"--horizon INT [^-]*\(default: {horizon}\)", shown)
    assert "--rule.strength FLOAT Weight of half the squared distance from the initialisation. (default: 1.0)" in shown


@pytest.fixture
def stored(tmp_path):
    """The config.json of a run on navigation, in which the step size and a trust region were chosen."""
    chosen = {"env": "navigation", "inner_lr": 0.3, "trpo": {"max_kl": 0.5}, "run_dir": tmp_path / "first"}
    save_config(Config(**chosen), {})
    return tmp_path / "first" / "config.json"


def test_a_stored_configuration_is_started_from_in_a_folder_of_its_own(stored):
    assert parse_config(["--config", str(stored)]) == Config(inner_lr=0.3, trpo={"max_kl": 0.5})


def test_what_else_is_chosen_comes_on_top_of_a_stored_configuration(stored):
    line = ["--config", str(stored), "--seed", "2", "--env", "cheetah-dir", "--trpo.cg-iterations", "3"]
    expected = Config(env="cheetah-dir", seed=2, inner_lr=0.3, trpo={"max_kl": 0.5, "cg_iterations": 3})
    assert parse_config(line) == expected


def test_an_object_of_settings_in_a_stored_configuration_is_changed_in_part(tmp_path):
    save_config(Config(trpo=TRPOConfig(max_kl=0.5), run_dir=tmp_path), {})
    config = parse_config(["--config", str(tmp_path / "config.json"), "--trpo.cg-iterations", "3"])
    assert config.resolve().optimiser == TRPOConfig(max_kl=0.5, cg_iterations=3)


def test_a_stored_configuration_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        parse_config(["--config", str(tmp_path / "nowhere")])


def test_a_resumed_run_keeps_its_settings_but_for_what_is_named(tmp_path):
    run = train(tiny(tmp_path, iterations=1, keep_checkpoints=True))
    config = parse_config(["--run-dir", str(run.path), "--resume", "--iterations", "3"])
    before = tiny(tmp_path, iterations=3, keep_checkpoints=True, resume=True)
    assert config.resolve() == before.resolve()


def test_a_run_from_a_stored_configuration_goes_on_in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_config(Config(env="cheetah-dir", algo="maml", seed=3, inner_lr=0.3), {})
    save_config(Config(inner_lr=0.7), {})  # Where a run with the general defaults would be.
    stored = Path("stored.json")
    Path("runs/cheetah-dir-maml-seed3").rename("first")
    Path("first/config.json").rename(stored)
    line = ["--config", str(stored), "--resume", "auto"]
    assert parse_config(line) == Config(env="cheetah-dir", algo="maml", seed=3, inner_lr=0.3, resume="auto")
    train(tiny("runs/cheetah-dir-maml-seed3", env="cheetah-dir", seed=3, iterations=0, inner_lr=0.9))
    assert parse_config(line).inner_lr == 0.9


def test_a_preset_is_not_dropped_where_another_run_goes_on(tmp_path):
    run = train(tiny(tmp_path / "run", iterations=0))
    line = ["--run-dir", str(run.path), "--resume", "auto"]
    with pytest.raises(UserError, match=r"was run with .* as --preset or --config says; resume it without, or choose"):
        parse_config(["--preset", "l2f-navigation", *line])
    save_config(Config(algo="maml", run_dir=tmp_path / "other", discount=0.5), {})
    with pytest.raises(UserError, match=r"was run with discount 0\.99, not 0\.5 as --preset or --config says"):
        parse_config(["--config", str(tmp_path / "other/config.json"), *line])


@pytest.mark.parametrize("words", ["--resume yes", "--resume auto extra", "--resume=1"])
def test_resume_takes_no_word_but_auto(words, capsys):
    with pytest.raises(SystemExit):
        parse_config(words.split())
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    "command", quick(["train", "evaluate", "analyze", "plot", "compare", "record", "report"], "train")
)
def test_the_shell_completes_options_as_documented(command):
    (lines,) = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs/command-line.md").read_text(), re.DOTALL | re.MULTILINE)
    script = f"""
python() {{ {sys.executable} "$@"; }}
{lines.replace("train", command)}
function=$(complete -p metarl-{command} | sed 's/.*-F \\([^ ]*\\).*/\\1/')
for word in -- --trust --meta-; do
    COMP_WORDS=(metarl-{command} $word) COMP_CWORD=1 COMP_LINE="metarl-{command} $word" COMP_POINT=${{#COMP_LINE}}
    $function metarl-{command} $word metarl-{command}
    echo "$word: ${{COMPREPLY[@]}}"
done
"""
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    offered = {word: words.split() for word, _, words in (line.partition(":") for line in result.stdout.splitlines())}
    assert all(option.startswith(word) for word, options in offered.items() for option in options), offered
    assert "--help" in offered["--"], result.stderr
    if command == "train":
        assert set(offered["--meta-"]) == {"--meta-batch-size", "--meta-optimiser"}
        assert {f"--{part.name.replace('_', '-')}" for part in fields(RunSettings)} <= set(offered["--"])


def test_threads_may_parse_at_the_same_time():
    lines = [f"--env navigation --algo mumomaml --seed {seed} --iterations 2".split() for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        configs = list(pool.map(parse_config, lines))
    assert [(config.seed, config.algo, config.iterations) for config in configs] == [
        (seed, "mumomaml", 2) for seed in range(8)
    ]
