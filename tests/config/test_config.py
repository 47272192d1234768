"""The configuration: defaults, checks, and the way to JSON and back."""

import dataclasses
import json
from pathlib import Path

import pytest

from metarl import Config, L2FConfig, TRPOConfig, UserError, family_names, get_family
from metarl.config.config import load_config, save_config


def test_config_survives_json():
    config = Config(
        env="cheetah-dir",
        algo="l2f",
        env_kwargs={"frame_skip": 1},
        run_dir=Path("somewhere"),
        hidden_sizes=(8, 4),
        trpo=TRPOConfig(max_kl=0.5),
        l2f=L2FConfig(attenuation_rollouts="fresh", initial_gamma=0.9),
        policy_body="module:function",
    )
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_defaults_survive_json_but_for_the_folder_being_named():
    config = Config()
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == dataclasses.replace(config, run_dir=config.folder)


@pytest.mark.parametrize(
    ("settings", "attenuates"),
    [({"algo": "l2f"}, True), ({"algo": "anil", "attenuate": True}, True), ({"algo": "anil"}, False)],
)
def test_what_is_stored_says_whether_the_run_attenuates(settings, attenuates):
    assert Config(**settings).to_dict()["attenuate"] is attenuates


@pytest.mark.parametrize("algo", ["maml", "anil", "mumomaml"])
def test_another_algorithm_brings_no_attenuation_with_it(algo):
    config = dataclasses.replace(Config(algo="l2f"), algo=algo)
    assert config.algorithm_name == algo
    assert config == Config(algo=algo)


def test_saved_config_is_loaded_for_the_folder_it_lies_in(tmp_path):
    config = Config(run_dir=tmp_path / "run", seed=3)
    save_config(config, {"commit": "abc"})
    assert json.loads((tmp_path / "run" / "config.json").read_text())["metarl"] == {"commit": "abc"}
    assert load_config(tmp_path / "run") == config
    (tmp_path / "run").rename(tmp_path / "moved")
    assert load_config(tmp_path / "moved") == dataclasses.replace(config, run_dir=tmp_path / "moved")


@pytest.mark.parametrize("env", family_names())
def test_every_family_has_defaults(env):
    config = Config(env=env)
    assert config.horizon == get_family(env).horizon
    assert all(value is not None for name, value in vars(config).items() if name not in ("run_dir", "policy_body"))


def test_defaults_follow_the_family_and_the_settings_override_them():
    assert Config(env="navigation").horizon == 100
    assert Config(env="cheetah-dir").horizon == 200
    assert Config(env="navigation").meta_batch_size == Config(env="navigation-b").meta_batch_size == 20
    assert Config(env="ant-dir").rollouts_per_task == 40
    assert Config(env="cheetah-dir", horizon=7, meta_batch_size=3).horizon == 7
    assert Config(env="cheetah-dir", meta_batch_size=3).meta_batch_size == 3


def test_the_folder_is_named_after_family_algorithm_and_seed():
    assert Config(env="cheetah-dir", algo="maml", seed=4).folder == Path("runs/cheetah-dir-maml-seed4")
    assert Config(run_dir=Path("here")).folder == Path("here")


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed must be at least 0, got -1."),
        ({"iterations": -3}, "iterations must be at least 0, got -3."),
        ({"meta_batch_size": 0}, "meta_batch_size must be at least 1, got 0."),
        ({"rollouts_per_task": -1}, "rollouts_per_task must be at least 1, got -1."),
        ({"horizon": 0}, "horizon must be at least 1, got 0."),
        ({"num_inner_steps": -1}, "num_inner_steps must be at least 0, got -1."),
        ({"validate_every": -1}, "validate_every must be at least 0, got -1."),
        ({"validation_tasks": 0}, "validation_tasks must be at least 1, got 0."),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0."),
        ({"threads": -1}, "threads must be at least 0, got -1."),
        ({"hidden_sizes": (8, -8)}, "hidden_sizes must be positive, got (8, -8)."),
        ({"inner_lr": 0.0}, "inner_lr must be a positive number, got 0.0."),
        ({"inner_lr": float("nan")}, "inner_lr must be a positive number, got nan."),
        ({"initial_std": -1.0}, "initial_std must be a positive number, got -1.0."),
        ({"action_scale": float("inf")}, "action_scale must be a positive number, got inf."),
        ({"discount": 1.5}, "discount must lie between 0 and 1, got 1.5."),
        ({"gae_lambda": -0.1}, "gae_lambda must lie between 0 and 1, got -0.1."),
        ({"l2f": L2FConfig(initial_gamma=1.0)}, "l2f.initial_gamma must lie between 0 and 1, got 1.0."),
        ({"trpo": TRPOConfig(max_kl=0.0)}, "trpo.max_kl must be positive"),
        ({"trpo": TRPOConfig(backtrack_ratio=1.0)}, "trpo.backtrack_ratio must lie between 0 and 1"),
        ({"trpo": TRPOConfig(cg_iterations=0)}, "trpo.cg_iterations must be at least 1."),
        (
            {"trpo": TRPOConfig(fisher_fraction=0.0)},
            "trpo.fisher_fraction and trpo.hessian_fraction must lie in (0, 1]",
        ),
        ({"algo": "mmal"}, "unknown algorithm 'mmal'. Did you mean 'maml'"),
        ({"env": "cheetah-dri"}, "no task family named 'cheetah-dri'. Did you mean 'cheetah-dir'"),
        ({"env_kwargs": {"gravity": 1}}, "navigation has no parameter 'gravity'; it accepts"),
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(settings, message):
    with pytest.raises(UserError) as error:
        Config(**settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_settings_are_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"unknown setting 'inner_lrs' in the configuration. Did you mean 'inner_lr'"):
        Config.from_dict({"inner_lrs": 1})
