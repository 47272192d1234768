"""Runs that start from the meta-parameters of another one."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from tiny_runs import final_parameters, numbers, tiny

from metarl import ALGORITHMS, L2FConfig, RuleSettings, UserError
from metarl.agents.maml import MAML
from metarl.commands.train import parse_config
from metarl.config.checked import hints
from metarl.config.resolved import GROUPS
from metarl.runs.training import train
from metarl.runs.warm_start import warm_start
from metarl.store.checkpoints import load_checkpoint, save_checkpoint
from metarl.store.config_file import load_config
from metarl.store.folder import RunFolder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run on navigation."""
    return train(tiny(tmp_path_factory.mktemp("runs") / "source")).path


def test_a_run_starts_from_another_ones_parameters(source, tmp_path):
    run = train(tiny(tmp_path / "run", init_from=source, env="navigation-b", seed=3, iterations=0))
    np.testing.assert_array_equal(run.agent.meta.numpy(), final_parameters(source))
    stored = json.loads(RunFolder(run.path).config.read_text())
    assert stored["init_from"] == str(source)
    assert parse_config(["--init-from", str(source)]).init_from == source


def test_a_resumed_run_goes_on_from_its_own_parameters_without_the_other_one(source, tmp_path):
    train(tiny(tmp_path / "whole", init_from=source, iterations=2))
    train(tiny(tmp_path / "source"))
    before = tiny(tmp_path / "parts", init_from=tmp_path / "source", iterations=1)
    train(before)
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    train(tiny(tmp_path / "parts", init_from=tmp_path / "source", iterations=2, resume=True))
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    with pytest.raises(UserError, match=r"was run with init_from .*source', not None; resume it with its own settings"):
        train(tiny(tmp_path / "parts", iterations=3, resume=True))
    with pytest.raises(UserError, match="source' does not exist"):
        train(tiny(tmp_path / "new", init_from=tmp_path / "source"))
    assert not (tmp_path / "new" / "config.json").exists()


def test_parameters_that_do_not_fit_are_refused(source, tmp_path):
    for settings, message in (
        ({"algo": "anil"}, "was trained with algo maml, and this run has anil"),
        ({"hidden_sizes": (8, 8)}, r"was trained with hidden_sizes \[16\], and this run has \(8, 8\)"),
        ({"attenuate": True}, "was trained with attenuate False, and this run has True"),
        (
            {"env": "cheetah-dir", "activation": "relu", "action_scale": 1.0},
            r"has \d+ meta-parameters, and this run \d+: the observations, the actions",
        ),
    ):
        with pytest.raises(UserError, match=message):
            train(tiny(tmp_path / "run", init_from=source, **settings))
        assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(UserError, match="init_from would do nothing: random is not trained"):
        tiny(tmp_path / "run", algo="random", iterations=0, init_from=source)
    with pytest.raises(UserError, match="init_from is not for Stable-Baselines3's ppo"):
        tiny(tmp_path / "run", algo="pretrain", baseline={"trainer": "ppo"}, init_from=source)


def test_a_step_size_for_each_step_does_not_fit_another_number_of_steps(tmp_path):
    train(tiny(tmp_path / "one", algo="mamlpp", iterations=0))
    with pytest.raises(UserError, match=r"and this run \d+: num_inner_steps \(1, here 2\), the observations, the act"):
        train(tiny(tmp_path / "two", algo="mamlpp", num_inner_steps=2, init_from=tmp_path / "one"))


def test_of_a_damaged_checkpoint_the_previous_one_is_taken(source, tmp_path, capsys):
    train(tiny(tmp_path / "damaged", checkpoint_every=1))
    checkpoint = RunFolder(tmp_path / "damaged").checkpoint("last")
    content = bytearray(checkpoint.read_bytes())
    content[-3] ^= 1
    checkpoint.write_bytes(content)
    train(tiny(tmp_path / "run", init_from=tmp_path / "damaged", iterations=0))
    assert "is damaged" in (told := capsys.readouterr().err)
    assert "Took the previous one." in told
    train(tiny(tmp_path / "earlier", iterations=1))
    np.testing.assert_array_equal(final_parameters(tmp_path / "run"), final_parameters(tmp_path / "earlier"))


def test_nothing_that_a_foreign_folder_names_is_imported(source, tmp_path):
    content = {path.relative_to(source): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    for name, data in content.items():
        (tmp_path / "foreign" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "foreign" / name).write_bytes(data)
    config = RunFolder(tmp_path / "foreign").config
    config.write_text(json.dumps({**json.loads(config.read_text()), "env": "no_such_module:Family"}))
    run = train(tiny(tmp_path / "run", init_from=tmp_path / "foreign", iterations=0))
    np.testing.assert_array_equal(run.agent.meta.numpy(), final_parameters(source))


class Scaled(MAML):
    """A rule whose settings change what its meta-parameters mean."""

    @dataclass(frozen=True)
    class Settings(RuleSettings):
        """A setting with a meaning, and one without."""

        prefix = "rule."
        meaning = ("unit",)

        unit: float = 1.0
        pace: float = 1.0

    def __init__(self, policy, inner, settings):
        super().__init__(policy, inner)


@pytest.mark.parametrize(
    ("algo", "before", "now", "message"),
    [
        ("l2f", {"l2f": {}}, {"l2f": {"transform": "unconstrained"}}, "l2f.transform sigmoid, .* has unconstrained"),
        ("l2f", {"l2f": {}}, {"l2f": {"attenuate_log_std": True}}, "l2f.attenuate_log_std False, .* has True"),
        (
            "mumomaml",
            {"mumomaml": {"modulation": "sigmoid"}},
            {"mumomaml": {"modulation": "softmax"}},
            "mumomaml.modulation sigmoid, .* has softmax",
        ),
        ("context", {}, {"context_size": 3}, "context_size 10, .* has 3"),
        ("cavia", {}, {"cavia": {"context_size": 3}}, "cavia.context_size 5, .* has 3"),
        ("rl2", {}, {"rl2": {"cell": "lstm"}}, "rl2.cell gru, .* has lstm"),
        ("varibad", {}, {"varibad": {"decoder": "task"}}, "varibad.decoder reward, .* has task"),
        ("pearl", {}, {"pearl": {"latent_size": 3}}, "pearl.latent_size 5, .* has 3"),
        ("maml", {}, {"action_scale": 0.5}, "action_scale 1.0, .* has 0.5"),
        (f"{__name__}:Scaled", {}, {"rule": {"unit": 2.0}}, "rule.unit 1.0, .* has 2.0"),
    ],
)
def test_parameters_of_another_meaning_are_refused(algo, before, now, message, tmp_path):
    train(tiny(tmp_path / "source", algo=algo, iterations=0, **before))
    with pytest.raises(UserError, match=f"source was trained with {message}: its meta-parameters do not fit"):
        train(tiny(tmp_path / "run", algo=algo, iterations=0, init_from=tmp_path / "source", **now))


@pytest.mark.parametrize(
    ("algo", "now"),
    [
        ("l2f", {"l2f": {"attenuation_rollouts": "fresh", "start_kl": 1.0, "initial_gamma": 0.9}, "inner_lr": 0.01}),
        ("mumomaml", {"mumomaml": {"trajectories": 2}}),
        ("mamlpp", {"mamlpp": {"first_order_iterations": 1}}),
        ("anil", {"adapted_layers": ("bias2",)}),
        ("varibad", {"varibad": {"lr": 1e-4, "kl_weight": 0.2}, "num_inner_steps": 1}),
        (f"{__name__}:Scaled", {"rule": {"pace": 2.0}}),
    ],
)
def test_a_run_may_learn_in_another_way_than_the_one_it_starts_from(algo, now, tmp_path):
    source = train(tiny(tmp_path / "source", algo=algo, iterations=0))
    run = train(tiny(tmp_path / "run", algo=algo, iterations=0, init_from=source.path, **now))
    np.testing.assert_array_equal(run.agent.meta.numpy(), source.agent.meta.numpy())


def test_what_gives_meta_parameters_their_meaning_are_settings():
    for settings in (*GROUPS.values(), L2FConfig, *(row.settings for row in ALGORITHMS.values() if row.settings)):
        assert set(settings.meaning) <= set(hints(settings))


def test_the_critics_unit_is_taken_over_and_nothing_else_that_was_remembered(tmp_path):
    trial = {"algo": "rl2", "rl2": {"units": 8}, "validate_every": 0}
    train(tiny(tmp_path / "source", **trial))
    train(tiny(tmp_path / "run", **trial, init_from=tmp_path / "source", seed=3, iterations=0))
    before, after = (load_checkpoint(load_config(tmp_path / name), "last").learner for name in ("source", "run"))
    assert {"values", "exp_avg"} <= before.memory.keys()
    assert after.memory.keys() == {"values"}
    np.testing.assert_array_equal(after.memory["values"], before.memory["values"])
    np.testing.assert_array_equal(after.meta, before.meta)
    assert warm_start(before).memory.keys() == {"values"}  # What an agent is shipped with.


def test_a_critic_whose_unit_is_missing_is_told_of(tmp_path, capsys):
    source = tmp_path / "source"
    train(tiny(source, algo="rl2", rl2={"units": 8}, validate_every=0))
    state = load_checkpoint(load_config(source), "last")
    for memory, told in ((state.learner.memory, False), ({}, True)):
        kept = replace(state, learner=replace(state.learner, memory=memory))
        save_checkpoint(load_config(source), "last", kept)
        run = tmp_path / f"run{told}"
        train(tiny(run, algo="rl2", rl2={"units": 8}, validate_every=0, init_from=source, iterations=0))
        assert ("does not hold the unit of its critic's values" in capsys.readouterr().err) is told


def test_a_body_of_ones_own_fits_whatever_the_older_run_says_of_other_networks(tmp_path):
    body = {"policy_body": "problems:make_body", "iterations": 0}
    source = train(tiny(tmp_path / "source", **body)).path
    path = source / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_sizes": [100, 100], "activation": "relu"}))
    run = train(tiny(tmp_path / "run", init_from=source, **body)).path
    np.testing.assert_array_equal(final_parameters(run), final_parameters(source))
