"""The configuration: what was chosen, what it resolves to, and what is refused."""

import dataclasses
import itertools
import json
import os
from functools import cache
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch

import metarl
from metarl import ALGORITHMS, Config, L2FConfig, MuMoMAMLConfig, TaskFamily, TRPOConfig, UserError, family_names
from metarl.config.algorithms import run_title
from metarl.config.checked import hints
from metarl.config.resolved import GROUPS, components, idle_fields
from metarl.config.settings import ExampleSettings
from metarl.envs.navigation import NavigationFamily
from metarl.store.config_file import stored_config


class ChoosyFamily(NavigationFamily):
    """Says its own defaults."""

    horizon = 30
    defaults = {"inner_lr": 0.3, "hidden_sizes": [7], "trpo": {"max_kl": 0.5}}  # noqa: RUF012


class WrongFamily(NavigationFamily):
    """Says a default that is no setting."""

    defaults = {"inner_lrs": 0.3}  # noqa: RUF012


OWN = f"{__name__}:ChoosyFamily"


def resolved(**chosen):
    return Config(**chosen).resolve()


# Resolution


def test_what_is_chosen_comes_before_the_familys_defaults_and_these_before_the_general_ones():
    settings = resolved(env=OWN, inner_lr=0.2, trpo={"cg_damping": 0.1})
    assert settings.inner.inner_lr == 0.2
    assert settings.policy.hidden_sizes == (7,)
    assert settings.rollouts.horizon == 30
    assert settings.optimiser == TRPOConfig(max_kl=0.5, cg_damping=0.1)
    assert settings.rollouts.discount == 0.99


def test_an_object_of_settings_chooses_all_of_them():
    assert resolved(env=OWN, trpo=TRPOConfig(cg_damping=0.1)).optimiser == TRPOConfig(cg_damping=0.1)


def test_defaults_follow_the_built_in_families():
    assert resolved(env="navigation").rollouts.horizon == 100
    assert resolved(env="cheetah-dir").rollouts.horizon == 200
    assert resolved(env="navigation").meta.meta_batch_size == resolved(env="navigation-b").meta.meta_batch_size == 20
    assert resolved(env="ant-dir").rollouts.discount == 0.95
    assert resolved(env="cheetah-dir").policy.activation == "tanh"
    assert resolved(env="cheetah-dir-rllab", algo="l2f").l2f.initial_gamma == 0.95


@cache
def fresh(name, value):
    """A configuration with a family or an algorithm and a few other choices, and what it resolves to."""
    others = {"seed": 3, "inner_lr": 0.2} if name == "env" else {"horizon": 9}
    config = Config(**{name: value}, **others)
    return config, config.resolve()


@pytest.mark.parametrize(("name", "values"), [("env", tuple(family_names())), ("algo", tuple(ALGORITHMS))])
def test_a_copy_with_another_family_or_algorithm_equals_a_fresh_configuration(name, values):
    for first, second in itertools.permutations(values, 2):
        copy = dataclasses.replace(fresh(name, first)[0], **{name: second})
        assert (copy, copy.resolve()) == fresh(name, second), f"from {first} to {second}"


def test_a_choice_is_not_what_a_default_happens_to_be():
    chosen = Config(env="navigation", horizon=100)
    assert "horizon" in chosen.chosen
    assert "horizon" not in Config(env="navigation").chosen
    assert dataclasses.replace(chosen, env="cheetah-dir").resolve().rollouts.horizon == 100


def test_consumers_share_no_setting_and_have_those_of_the_configuration():
    names = [name for group in [*GROUPS.values(), ExampleSettings] for name in hints(group)]
    names += [name for part in components("l2f", False, "trpo", "trpo") for name in part.fields]
    assert sorted([*names, "rule", "optimiser"]) == sorted(part.name for part in dataclasses.fields(Config))


@pytest.mark.parametrize("group", GROUPS)
def test_settings_have_the_same_types_as_choices(group):
    chosen, kinds = hints(Config), get_type_hints(GROUPS[group])  # Without ranges.
    for name in hints(GROUPS[group]):
        kind = kinds[name]
        if name not in ("env", "algo", "env_kwargs", "run_dir", "init_from"):
            assert chosen[name] in (kind, kind | None), name


def test_a_configuration_makes_no_environment(monkeypatch):
    def make_env(self, render_mode=None):
        raise AssertionError("an environment was made")

    monkeypatch.setattr(NavigationFamily, "make_env", make_env)
    assert Config(env="navigation").resolve().rollouts.horizon == 100


# Values


@pytest.mark.parametrize(
    ("passed", "taken"),
    [
        ({"horizon": np.int64(7)}, 7),
        ({"horizon": torch.tensor(7)}, 7),
        ({"horizon": 7.0}, 7),
        ({"inner_lr": np.float32(0.5)}, 0.5),
        ({"inner_lr": torch.tensor(0.5)}, 0.5),
        ({"inner_lr": 1}, 1.0),
        ({"hidden_sizes": [4, 5]}, (4, 5)),
        ({"hidden_sizes": np.array([4, 5])}, (4, 5)),
        ({"run_dir": "runs/here"}, Path("runs/here")),
        ({"keep_checkpoints": np.True_}, True),
        ({"env_kwargs": {"goal_bound": np.float64(0.25)}}, {"goal_bound": 0.25}),
        ({"trpo": {"max_kl": np.float64(0.5)}}, {"max_kl": 0.5}),
        ({"env": NavigationFamily}, "navigation"),
    ],
)
def test_values_are_taken_as_what_the_setting_wants(passed, taken):
    (name,) = passed
    value = getattr(Config(**passed), name)
    assert value == taken
    assert type(value) is type(taken)


def test_what_was_converted_survives_json():
    config = Config(horizon=np.int64(7), hidden_sizes=[4], l2f={"initial_gamma": np.float32(0.5)}, run_dir="here")
    assert json.loads(json.dumps(config.to_dict(), allow_nan=False))["horizon"] == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed must be at least 0, got -1."),
        ({"iterations": -3}, "iterations must be at least 0, got -3."),
        ({"meta_batch_size": 0}, "meta_batch_size must be at least 1, got 0."),
        ({"rollouts_per_task": -1}, "rollouts_per_task must be at least 1, got -1."),
        ({"horizon": 0}, "horizon must be at least 1, got 0."),
        ({"horizon": 1.5}, "horizon must be a whole number, got 1.5."),
        ({"horizon": "long"}, "horizon must be a whole number, got 'long'."),
        ({"horizon": True}, "horizon must be a whole number, got True."),
        ({"num_inner_steps": -1}, "num_inner_steps must be at least 0, got -1."),
        ({"validate_every": -1}, "validate_every must be at least 0, got -1."),
        ({"validation_tasks": 0}, "validation_tasks must be at least 1, got 0."),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0."),
        ({"threads": -1}, "threads must be at least 0, got -1."),
        ({"hidden_sizes": (8, -8)}, "hidden_sizes[1] must be at least 1, got -8."),
        ({"hidden_sizes": 8}, "hidden_sizes must be a list or tuple, got 8."),
        ({"hidden_sizes": (8, "x")}, "hidden_sizes[1] must be a whole number, got 'x'."),
        ({"inner_lr": 0.0}, "inner_lr must be greater than 0, got 0.0."),
        ({"inner_lr": float("nan")}, "inner_lr must be a finite number, got nan."),
        ({"inner_lr": np.array([0.1, 0.2])}, "inner_lr must be a finite number, got array([0.1, 0.2])."),
        ({"initial_std": -1.0}, "initial_std must be at least 1e-12, got -1.0."),
        (
            {"initial_std": 0.01, "min_std": 0.1},
            "initial_std must be at least min_std, 0.1, got 0.01: below its floor the standard deviation has no",
        ),
        ({"action_scale": float("inf")}, "action_scale must be a finite number, got inf."),
        ({"discount": 1.5}, "discount must be at most 1, got 1.5."),
        ({"gae_lambda": -0.1}, "gae_lambda must be at least 0, got -0.1."),
        ({"inner_loss": "rattio"}, "inner_loss must be one of ratio, score, dice; got 'rattio'. Did you mean 'ratio'?"),
        ({"output_gain": 1e300}, "output_gain must be at most 1000000000000, got 1e+300."),
        ({"inner_lr": 10**400}, "inner_lr must be a finite number, got 1000"),
        ({"iterations": 1.5}, "iterations must be a whole number, got 1.5."),
        ({"keep_checkpoints": 1}, "keep_checkpoints must be True or False, got 1."),
        ({"activation": np.array(["relu", "tanh"])}, "activation must be one of relu, tanh; got array("),
        (
            {"env_kwargs": {"goal_bound": [0.1, float("nan")]}},
            "['goal_bound'] must be a finite number, got nan",
        ),
        (
            {"run_dir": "x" * 300},
            "run_dir must be a path (in UTF-8; names of at most 255 bytes, together at most 4095), got",
        ),
        ({"run_dir": "a\0b"}, "run_dir must be a path"),
        ({"run_dir": "caf\udce9"}, "run_dir must be a path (in UTF-8; "),
        ({"init_from": os.fsencode("caf\udce9")}, "init_from must be a path (in UTF-8; "),
        ({"env_kwargs": {"goal_bound": "\udce9"}}, "env_kwargs['goal_bound'] must be a number, a text, or a list or"),
        ({"best_by": "\udce9"}, "best_by must be a text, got '\\udce9'."),
        ({"run_dir": "long/" * 900}, "run_dir must be a path"),
        (
            {"run_dir": 3},
            "run_dir must be a path (in UTF-8; names of at most 255 bytes, together at most 4095), got 3.",
        ),
        ({"resume": "yes"}, "resume must be True, False or 'auto', got 'yes'."),
        ({"resume": 1}, "resume must be True, False or 'auto', got 1."),
        ({"resume": None}, "resume must be True, False or 'auto', got None."),
        (
            {"l2f": {"initial_gamma": 1.0}},
            "l2f.initial_gamma must lie between 0 and 1 with l2f.transform",
        ),
        ({"l2f": {"scop": "layer"}}, "l2f has no setting 'scop'. Did you mean 'scope'?"),
        ({"l2f": 3}, "l2f must be L2FConfig or a dictionary of its settings, got 3."),
        ({"trpo": {"max_kl": 0.0}}, "trpo.max_kl must be greater than 0, got 0.0."),
        ({"trpo": {"max_kl": "much"}}, "trpo.max_kl must be a finite number, got 'much'."),
        ({"trpo": {"backtrack_ratio": 1.0}}, "trpo.backtrack_ratio must be less than 1, got 1.0."),
        ({"trpo": {"cg_iterations": 0}}, "trpo.cg_iterations must be at least 1, got 0."),
        ({"trpo": {"fisher_fraction": 0.0}}, "trpo.fisher_fraction must be greater than 0, got 0.0."),
        ({"meta_optimiser": "promps"}, "got 'promps'. Did you mean 'promp'"),
        ({"algo": None}, "algo must be a text, got None."),
        ({"env": None}, "give a task family as a name, a subclass of metarl.TaskFamily or a family, got None."),
        ({"algo": "mmal"}, "unknown algorithm 'mmal'. Did you mean 'maml'"),
        ({"algo": "promp"}, "promp is a meta-optimiser: choose an algorithm, and meta_optimiser promp."),
        ({"algo": "ppo"}, "ppo is a meta-optimiser: choose algo rl2 or varibad, which it trains."),
        ({"algo": "sac"}, "sac is a meta-optimiser: choose algo pearl, which it trains."),
        ({"env": "cheetah-dri"}, "no task family named 'cheetah-dri'. Did you mean 'cheetah-dir'"),
        ({"env_kwargs": {"gravity": 1}}, "navigation has no parameter 'gravity'; it accepts"),
        ({"env_kwargs": {"goal_bound": object}}, "env_kwargs['goal_bound'] must be a number, a text, or a list or"),
        ({"env_kwargs": ["goal_bound", 1]}, "env_kwargs must be a dictionary with names as its keys, got"),
        ({"env": WrongFamily}, "defaults: there is no setting 'inner_lrs'. Did you mean 'inner_lr'"),
        ({"algo": "maml", "l2f": L2FConfig("network")}, "l2f would do nothing: it is for algo l2f, or attenuate with"),
        ({"algo": "maml", "mumomaml": {"embedding_size": 3}}, "mumomaml would do nothing: it is for algo mumomaml."),
        ({"algo": "maml", "context_size": 3}, "context_size would do nothing: it is for algo context."),
        (
            {"algo": "maml", "baseline": {"trainer": "ppo"}},
            "baseline would do nothing: it is for algo pretrain or oracle",
        ),
        ({"algo": "oracle", "baseline": {"trainer": "sac"}}, "trainer must be one of trpo, ppo; got 'sac'."),
        (
            {"algo": "oracle", "baseline": {"trainer": "ppo"}, "trpo": {"max_kl": 1}},
            "trpo would do nothing: baseline.trainer ppo has settings of its own, the defaults of Stable-Baselines3.",
        ),
        ({"algo": "oracle", "baseline": {"trainer": "ppo"}, "ppo": {"lr": 1e-4}}, "ppo would do nothing: baseline.tra"),
        ({"algo": "random", "trpo": {"max_kl": 0.02}}, "trpo would do nothing: random is not trained."),
        ({"algo": "random", "meta_optimiser": "promp"}, "meta_optimiser would do nothing: random is not trained."),
        ({"rule": {"epsilon": 1}}, "rule would do nothing: it is for an algorithm of your own with Settings."),
        ({"meta_optimiser": "promp", "trpo": {"max_kl": 1}}, "trpo would do nothing: it is for meta_optimiser trpo."),
        (
            {"algo": "pretrain", "meta_optimiser": "promp"},
            "pretrain is trained by trpo: leave out meta_optimiser, or choose baseline.trainer ppo.",
        ),
        (
            {"algo": "pretrain", "baseline": {"trainer": "ppo"}, "meta_optimiser": "promp"},
            "meta_optimiser would do nothing: baseline.trainer ppo has settings of its own",
        ),
        (
            {"env": "sinusoid", "algo": "pretrain", "meta_optimiser": "promp"},
            "pretrain is trained by adam: leave out meta_optimiser.",
        ),
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(settings, message):
    with pytest.raises(UserError) as error:
        Config(**settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_a_component_are_checked_where_they_are_made():
    with pytest.raises(UserError, match=r"trpo\.max_kl must be greater than 0, got -1\.0\."):
        TRPOConfig(max_kl=-1)
    with pytest.raises(UserError, match=r"mumomaml\.embedding_size must be at least 1, got 0\."):
        MuMoMAMLConfig(embedding_size=0)


def test_idle_settings_that_equal_the_default_are_no_mistake():
    assert Config(algo="maml", l2f=L2FConfig()).resolve().l2f is None


def test_a_class_that_cannot_be_imported_again_is_refused():
    class Hidden(TaskFamily):
        """Defined in a function."""

    with pytest.raises(UserError, match="Hidden"):
        Config(env=Hidden)


def test_a_family_of_the_registry_is_taken_with_its_parameters():
    config = Config(env=metarl.get_family("navigation", goal_bound=0.25))
    assert (config.env, config.env_kwargs) == ("navigation", {"goal_bound": 0.25})


# The way to JSON and back


def test_what_is_in_force_survives_json():
    config = Config(
        env="cheetah-dir",
        algo="l2f",
        env_kwargs={"frame_skip": 1},
        run_dir=Path("somewhere"),
        trpo=TRPOConfig(max_kl=0.5),
        l2f=L2FConfig(attenuation_rollouts="fresh", initial_gamma=0.9),
        policy_body="module:function",
    )
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.resolve() == config.resolve()


@pytest.mark.parametrize(
    ("settings", "attenuates"),
    [({"algo": "l2f"}, True), ({"algo": "anil", "attenuate": True}, True), ({"algo": "anil"}, False)],
)
def test_what_is_stored_says_whether_the_run_attenuates(settings, attenuates):
    assert Config(**settings).to_dict()["attenuate"] is attenuates


def test_a_body_of_ones_own_leaves_nothing_to_the_built_in_networks():
    stored = Config(policy_body="module:function").to_dict()
    network = ("hidden_sizes", "activation", "output_gain")
    assert [stored[name] for name in network] == [None, None, None]
    for name, value in zip(network, ((8,), "tanh", 0.1), strict=True):
        with pytest.raises(UserError, match=f"{name} would do nothing: it is for metarl's own networks, and pol"):
            Config(policy_body="module:function", **{name: value})
    older = {**stored, "hidden_sizes": [100, 100], "activation": "relu", "output_gain": 1.0}
    again = stored_config(older, trust=["module:function"])
    assert again.to_dict() == stored


def test_idle_settings_are_stored_as_null():
    stored = Config(algo="maml").to_dict()
    idle = idle_fields(stored)
    algorithms = {"mamlpp", "mumomaml", "adapted_layers", "context_size", "cavia", "rl2", "varibad", "pearl"}
    assert {"l2f", "promp", "adam", "ppo", "sac", "baseline", *algorithms} == set(idle)
    assert all(stored[name] is None for name in idle)
    assert stored["trpo"]["max_kl"] == 0.01


@pytest.mark.parametrize("algo", ["pretrain", "oracle"])
def test_a_baseline_has_the_settings_of_its_trainer(algo):
    trpo, ppo = Config(algo=algo), Config(algo=algo, baseline={"trainer": "ppo"})
    assert trpo.resolve().optimiser == Config(algo="maml").resolve().optimiser
    assert trpo.to_dict()["meta_optimiser"] == "trpo"
    assert ppo.resolve().optimiser is None
    assert {"meta_optimiser", "trpo"} <= set(idle_fields(ppo.to_dict()))
    assert not {"meta_optimiser", "trpo", "baseline"} & set(idle_fields(trpo.to_dict()))
    assert (trpo.resolve().trained_steps, Config(algo="maml").resolve().trained_steps) == (0, 1)


@pytest.mark.parametrize(
    ("config", "title"),
    [
        (Config(algo="pretrain").to_dict(), "pretrained (TRPO)"),
        (Config(algo="oracle", baseline={"trainer": "ppo"}).to_dict(), "oracle (PPO)"),
        ({"algo": "oracle"}, "oracle (PPO)"),  # Stored before there was a choice.
        ({"algo": "random"}, "random initialisation"),
    ],
)
def test_titles_of_baselines_name_their_trainer(config, title):
    assert run_title(config) == title


@pytest.mark.parametrize("algo", ["maml", "anil", "mumomaml"])
def test_another_algorithm_brings_no_attenuation_with_it(algo):
    config = dataclasses.replace(Config.from_dict(Config(algo="l2f").to_dict()), l2f=None, algo=algo)
    assert config.resolve().algorithm_name == algo


def test_the_folder_is_named_after_family_algorithm_and_seed():
    assert Config(env="cheetah-dir", algo="maml", seed=4).folder == Path("runs/cheetah-dir-maml-seed4")
    assert Config(algo="anil", attenuate=True).folder == Path("runs/navigation-anil-attenuated-seed0")
    assert Config(env=OWN).folder == Path(f"runs/{__name__}.ChoosyFamily-maml-seed0")
    assert Config(run_dir="here").folder == Path("here")


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1


def test_unknown_settings_are_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"unknown setting 'inner_lrs' in the configuration. Did you mean 'inner_lr'"):
        Config.from_dict({"inner_lrs": 1})
