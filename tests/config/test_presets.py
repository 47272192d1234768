"""Presets: what the papers print, and what is chosen on top of them."""

import dataclasses

import pytest
from tiny_runs import TINY, arguments

import metarl
from metarl import PRESETS, Config, TRPOConfig, UserError
from metarl.commands.train import listing, main, parse_config
from metarl.config.settings import RolloutSettings

EXACT = TRPOConfig(max_kl=0.01, cg_iterations=10, cg_damping=1e-5, backtrack_ratio=0.8, max_backtracks=15)
PROXIMAL = "examples.proximal_rule:ProximalMAML"
OWN = {"algo": PROXIMAL, "rule": {"strength": 0.5}}
ANT = {"frame_skip": 2, "ctrl_cost_weight": 0.005, "survive_bonus": 0.05}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_resolves_from_python_and_from_the_command_line_and_is_listed(name):
    config = metarl.preset(name)
    assert config.resolve().optimiser == EXACT
    assert parse_config(["--preset", name]) == config
    assert config.chosen.keys() == {*PRESETS[name].settings, "seed"}
    assert any(name in line and PRESETS[name].source in line for line in listing().splitlines())


# Environment, inner step, tasks, episodes, horizon, discount, network, iterations: MAML's appendix A.2 and its code,
# L2F's table L (b), MuMoMAML's appendix A.3, ANIL's appendix C.4.
PRINTED = {
    "maml-navigation": ("navigation", 0.1, 20, 20, 100, 0.99, (100, 100), 500),
    "maml-cheetah-dir": ("cheetah-dir-rllab", 0.1, 40, 20, 200, 0.99, (100, 100), 500),
    "maml-cheetah-vel": ("cheetah-vel-rllab", 0.1, 40, 20, 200, 0.99, (100, 100), 500),
    "maml-ant-dir": ("ant-dir", 0.1, 40, 40, 200, 0.99, (100, 100), 500),
    "maml-ant-vel": ("ant-vel", 0.1, 40, 20, 200, 0.99, (100, 100), 500),
    "l2f-navigation": ("navigation", 0.01, 20, 20, 100, 0.99, (100, 100), 500),
    "l2f-cheetah-dir": ("cheetah-dir-rllab", 0.01, 40, 20, 200, 0.99, (100, 100), 500),
    "l2f-cheetah-vel": ("cheetah-vel-rllab", 0.01, 40, 20, 200, 0.99, (100, 100), 500),
    "mumomaml-navigation": ("navigation-bimodal", 0.01, 20, 20, 100, 0.99, (32, 32), 100),
    "mumomaml-navigation-maml": ("navigation-bimodal", 0.03, 20, 20, 100, 0.95, (32, 32), 100),
    "anil-navigation": ("navigation", 0.1, 40, 20, 100, 0.99, (100, 100), 500),
    "anil-cheetah-dir": ("cheetah-dir", 0.1, 40, 20, 200, 0.99, (100, 100), 500),
    "anil-cheetah-vel": ("cheetah-vel", 0.1, 40, 20, 200, 0.99, (100, 100), 500),
}


def test_every_preset_is_held_against_its_paper():
    assert PRINTED.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", PRINTED)
def test_a_preset_has_the_printed_values(name):
    settings = metarl.preset(name).resolve()
    rollouts, policy = settings.rollouts, settings.policy
    assert PRINTED[name] == (
        settings.experiment.env,
        settings.inner.inner_lr,
        settings.meta.meta_batch_size,
        rollouts.rollouts_per_task,
        rollouts.horizon,
        rollouts.discount,
        policy.hidden_sizes,
        settings.run.iterations,
    )
    assert (policy.activation, policy.output_gain, policy.initial_std) == ("relu", 1, 1)
    assert rollouts == RolloutSettings(
        rollouts_per_task=rollouts.rollouts_per_task, horizon=rollouts.horizon, discount=rollouts.discount
    )
    assert settings.inner.num_inner_steps == 1
    assert settings.experiment.algo == ("maml" if name.endswith("-maml") else name.partition("-")[0])


def test_presets_have_the_papers_details():
    settings = {name: metarl.preset(name).resolve() for name in PRESETS}
    assert settings["l2f-navigation"].experiment.env_kwargs == {"action_bound": 0.2}
    # By default, the family's initial gamma is another, and reused rollouts are held near.
    assert settings["l2f-cheetah-dir"].l2f == metarl.L2FConfig(reuse_kl=0, start_kl=0)
    of_family = metarl.L2FConfig(initial_gamma=0.95, reuse_kl=0.1, start_kl=0.1)
    assert Config(env="cheetah-dir-rllab", algo="l2f").resolve().l2f == of_family
    assert settings["mumomaml-navigation"].own == metarl.MuMoMAMLConfig(embedding_size=8, trajectories=1)
    assert settings["maml-ant-dir"].experiment.env_kwargs == ANT
    assert settings["maml-ant-vel"].experiment.env_kwargs == {**ANT, "survive_bonus": 1.05}


def test_what_is_chosen_on_the_command_line_wins():
    line = "--preset l2f-navigation --inner-lr 0.2 --trpo.max-kl 0.05 --l2f.scope filter --env navigation-c --seed 3"
    config = parse_config(line.split())
    settings = config.resolve()
    assert (settings.inner.inner_lr, settings.run.seed, settings.experiment.env) == (0.2, 3, "navigation-c")
    assert settings.optimiser == dataclasses.replace(EXACT, max_kl=0.05)
    assert settings.l2f == metarl.L2FConfig(scope="filter", reuse_kl=0, start_kl=0)
    assert (settings.meta.meta_batch_size, settings.run.iterations) == (20, 500)


@pytest.mark.parametrize(
    ("line", "chosen", "left_out"),
    [
        # What the start says may contradict the new algorithm, as long as another option mends it.
        ("maml-navigation --algo l2f --inner-loss ratio", {"algo": "l2f", "inner_loss": "ratio"}, ""),
        ("maml-navigation --attenuate --inner-loss ratio", {"attenuate": True, "inner_loss": "ratio"}, ""),
        (
            "maml-navigation --algo l2f --l2f.attenuation-rollouts fresh",
            {"algo": "l2f", "l2f": {"attenuation_rollouts": "fresh"}},
            "",
        ),
        ("maml-ant-dir --env-kwargs frame_skip 5", {"env_kwargs": {**ANT, "frame_skip": 5}}, ""),
        # What cannot be unset is left out.
        ("l2f-cheetah-dir --algo maml", {"algo": "maml", "l2f": None}, "l2f"),
        (
            "maml-navigation --meta-optimiser promp --inner-loss ratio",
            {"meta_optimiser": "promp", "inner_loss": "ratio", "trpo": None},
            "trpo",
        ),
        ("l2f-navigation --env cheetah-dir", {"env": "cheetah-dir", "env_kwargs": {}}, "env_kwargs"),
        ("l2f-navigation --env navigation-c", {"env": "navigation-c"}, ""),
        (
            "maml-navigation --algo rl2 --meta-optimiser ppo --rollouts-per-task 1",
            {
                "algo": "rl2",
                "meta_optimiser": "ppo",
                "rollouts_per_task": 1,
                "inner_lr": None,
                "inner_loss": None,
            },
            "inner_lr, inner_loss",
        ),
        (
            "maml-navigation --algo random",
            {"algo": "random", "iterations": None, "trpo": None},
            "trpo, iterations",
        ),
        (f"l2f-cheetah-dir --algo {PROXIMAL} --rule.strength 0.5", {**OWN, "l2f": None}, "l2f"),
    ],
)
def test_other_options_override_a_presets(line, chosen, left_out, capsys):
    assert parse_config(["--preset", *line.split()]) == dataclasses.replace(metarl.preset(line.split()[0]), **chosen)
    expected = f"without effect here, and so not taken over: {left_out}\n" if left_out else ""
    assert capsys.readouterr().err == expected


def test_a_contradiction_that_no_option_mends_is_refused():
    with pytest.raises(UserError, match="the score loss is wrong for the unattenuated policy's rollouts"):
        parse_config(["--preset", "maml-navigation", "--algo", "l2f"])


def test_help_shows_a_presets_values(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--preset", "maml-ant-dir", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(default: 500)" in shown
    assert "(default: 40)" in shown


def test_a_presets_run_is_resumed_by_its_options_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--preset", "mumomaml-navigation", *arguments(TINY), "--iterations", "1"]
    assert main(options) == 0
    assert main(["--preset", "mumomaml-navigation", "--resume", "--iterations", "2"]) == 0
    agent = metarl.load(tmp_path / "runs/navigation-bimodal-mumomaml-seed0")
    assert agent.settings.rollouts.horizon == TINY["horizon"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--preset maml-navigatoin", "unknown preset 'maml-navigatoin'. Did you mean 'maml-navigation'"),
        ("--preset maml-ant-dir --config a.json", "--preset and --config both say what to start from"),
    ],
)
def test_an_impossible_start_is_refused(line, message):
    with pytest.raises(UserError, match=message):
        parse_config(line.split())
