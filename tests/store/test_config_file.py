"""config.json: what was chosen and what is in force, now and from before."""

import dataclasses
import json

import pytest

from metarl import Config, TRPOConfig, UserError
from metarl.config.algorithms import REUSE_KL
from metarl.store.config_file import load_config, read_config, save_config


def test_saved_configuration_is_loaded_for_the_folder_it_lies_in(tmp_path):
    config = Config(run_dir=tmp_path / "run", seed=3)
    save_config(config, {"commit": "abc"})
    assert json.loads((tmp_path / "run" / "config.json").read_text())["metarl"] == {"commit": "abc"}
    assert load_config(tmp_path / "run") == config
    (tmp_path / "run").rename(tmp_path / "moved")
    assert load_config(tmp_path / "moved") == dataclasses.replace(config, run_dir=tmp_path / "moved")


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"env": "cheetah-dir", "horizon": 200},
        {"algo": "anil", "attenuate": True, "adapted_layers": ["bias3"]},
        {"algo": "l2f", "trpo": {"max_kl": 0.5}, "l2f": {"initial_gamma": 0.9}},
        {"trpo": TRPOConfig(max_kl=0.5)},
        {"env_kwargs": {"goal_bound": 0.25}},
        {"algo": "pretrain", "hidden_sizes": (8,)},
        {"algo": "oracle", "baseline": {"trainer": "ppo"}},
    ],
)
def test_what_was_chosen_is_told_from_what_was_not_after_loading(tmp_path, chosen):
    config = Config(**chosen, run_dir=tmp_path)
    save_config(config, {})
    loaded = load_config(tmp_path)
    assert loaded.chosen.keys() == config.chosen.keys()
    assert loaded.resolve() == config.resolve()


def test_a_stored_configuration_resolves_anew_for_another_family(tmp_path):
    save_config(Config(env="navigation", inner_lr=0.3, run_dir=tmp_path), {})
    copy = dataclasses.replace(load_config(tmp_path), env="cheetah-dir")
    assert copy == Config(env="cheetah-dir", inner_lr=0.3, run_dir=tmp_path)


def test_a_run_keeps_its_settings_when_defaults_have_changed_since(tmp_path):
    save_config(Config(run_dir=tmp_path), {})
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "discount": 0.5, "trpo": {**stored["trpo"], "max_kl": 0.25}}))
    loaded = load_config(tmp_path)
    assert loaded.resolve().rollouts.discount == 0.5
    assert loaded.resolve().optimiser == dataclasses.replace(Config().resolve().optimiser, max_kl=0.25)
    assert loaded.chosen["trpo"] == {"max_kl": 0.25}


def test_a_configuration_from_before_choices_were_stored_is_read(tmp_path):
    save_config(Config(env="cheetah-dir", algo="maml", horizon=50, run_dir=tmp_path), {"version": "0.1.0"})
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    del stored["chosen"], stored["rule"], stored["optimiser"]
    path.write_text(json.dumps(stored))
    assert load_config(tmp_path) == Config(env="cheetah-dir", algo="maml", horizon=50, run_dir=tmp_path)


def test_settings_without_effect_that_older_versions_stored_are_left_out(tmp_path):
    config = Config(algo="maml", run_dir=tmp_path)
    save_config(config, {})
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    assert stored["l2f"] is None
    path.write_text(json.dumps({**stored, "l2f": {"initial_gamma": 0.5}}))
    assert load_config(tmp_path) == config


@pytest.mark.parametrize(
    ("conditioning", "expected", "unknown"),
    [("task", "through", ()), ("constant", "stop", ()), ("task", "through", ("conditioning", "scope", "transform"))],
    ids=["task", "constant", "of 0.1"],
)
def test_an_l2f_of_before_its_gradient_was_a_choice_went_through_the_embedding(
    tmp_path, conditioning, expected, unknown
):
    """A run of 0.1 does not know of other conditionings either."""
    save_config(Config(algo="l2f", l2f={"conditioning": conditioning}, run_dir=tmp_path), {})
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    assert stored["l2f"].pop("embedding_gradient") == "stop"
    for name in unknown:
        del stored["l2f"][name]
    path.write_text(json.dumps(stored))
    assert load_config(tmp_path).resolve().l2f.embedding_gradient == expected


def test_an_l2f_of_before_reused_rollouts_were_held_near_let_them_drift(tmp_path):
    """A run of 0.1 does not know of other meta-optimisers either."""
    save_config(Config(algo="l2f", run_dir=tmp_path), {})
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    assert stored["l2f"].pop("reuse_kl") == stored["l2f"]["start_kl"] == REUSE_KL
    for start_kl in (0.0, 1.0):
        stored["l2f"]["start_kl"] = start_kl
        path.write_text(json.dumps(stored))
        resolved = load_config(tmp_path).resolve().l2f
        assert (resolved.reuse_kl, resolved.start_kl) == (0, start_kl)
    del stored["meta_optimiser"], stored["l2f"]["start_kl"]
    path.write_text(json.dumps(stored))
    resolved = load_config(tmp_path).resolve().l2f
    assert (resolved.reuse_kl, resolved.start_kl) == (0, 0)


@pytest.mark.parametrize(
    "choices",
    [
        {"l2f": {"attenuation_rollouts": "fresh"}},
        {"l2f": {"conditioning": "constant"}},
        {"meta_optimiser": "promp"},
        {"env": "sinusoid"},
    ],
)
def test_a_stored_weight_of_reused_rollouts_says_nothing_where_there_is_none(tmp_path, choices):
    config = Config(algo="l2f", run_dir=tmp_path, **choices)
    save_config(config, {})
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    weights = ("reuse_kl", "start_kl")
    assert [stored["l2f"][name] for name in weights] == [None, None]
    others = {name: value for name, value in stored["l2f"].items() if name not in weights}
    for former in ({**others, "reuse_kl": 0.0, "start_kl": 0.0}, {**others, "start_kl": 0.0}, others):
        path.write_text(json.dumps({**stored, "l2f": former}))
        assert load_config(tmp_path).to_dict() == config.to_dict()


def test_a_run_of_before_the_meta_gradient_had_a_limit_has_none(tmp_path):
    save_config(Config(env="sinusoid", algo="maml", run_dir=tmp_path), {})
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    assert stored["adam"].pop("max_gradient_norm") == 100
    path.write_text(json.dumps(stored))
    assert load_config(tmp_path).resolve().optimiser.max_gradient_norm is None


@pytest.mark.parametrize("algo", ["pretrain", "oracle"])
@pytest.mark.parametrize("with_choices", [True, False])
def test_a_baseline_of_before_its_trainer_was_a_choice_was_trained_by_ppo(tmp_path, algo, with_choices):
    config = Config(algo=algo, baseline={"trainer": "ppo"}, horizon=50, run_dir=tmp_path)
    save_config(config, {})
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    assert stored["baseline"] == {"trainer": "ppo"}
    del stored["baseline"], stored["chosen"]["baseline"]
    if not with_choices:
        del stored["chosen"]
    path.write_text(json.dumps(stored))
    assert load_config(tmp_path).resolve() == config.resolve()
    assert load_config(tmp_path).resolve().baseline.trainer == "ppo"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"env": "navigation", "inner_lrs": 1}', "unknown setting 'inner_lrs'"),
        ('{"env": "navigation", "horizon": -1}', "horizon must be at least 1"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_config(path)


def test_a_missing_file_and_a_folder_without_a_run_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*: No such file"):
        read_config(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"is not the folder of a run: it holds no config\.json"):
        load_config(tmp_path)


def test_a_supervised_run_of_an_older_version_may_hold_a_number_of_environments(tmp_path):
    config = Config(env="sinusoid", algo="maml", run_dir=tmp_path)
    save_config(config, {})
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    for environments in (0, 4):
        chosen = {**stored["chosen"], "envs_per_process": environments}
        path.write_text(json.dumps({**stored, "envs_per_process": environments, "chosen": chosen}))
        assert load_config(tmp_path).to_dict() == config.to_dict()


def test_choices_without_effect_that_older_versions_accepted_are_left_out(tmp_path):
    constant = {"conditioning": "constant", "scope": "network"}
    config = Config(algo="l2f", l2f=constant, validate_every=0, run_dir=tmp_path)
    save_config(config, {})
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    idle = {"start_kl": 1.0, "attenuation_rollouts": "fresh", "embedding_gradient": "through"}
    chosen = {**stored["chosen"], "best_by": "success", "l2f": {**constant, **idle}}
    path.write_text(json.dumps({**stored, "best_by": "success", "l2f": {**stored["l2f"], **idle}, "chosen": chosen}))
    assert load_config(tmp_path).to_dict() == config.to_dict()
