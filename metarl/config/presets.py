"""Presets: named sets of choices that repeat the experiments of papers; one row each.

A preset chooses what its source says, or takes over from Finn et al. 2017. The rest keeps the task family's or the
general default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metarl.common.errors import UserError, nearest
from metarl.config.checked import convert
from metarl.config.config import Config


@dataclass(frozen=True)
class Preset:
    """Choices that repeat an experiment.

    Attributes:
        source: Where they are printed.
        summary: The experiment, in one sentence, with what differs from its source.
        settings: Choices by name, as fields of `metarl.config.config.Config`.
    """

    source: str
    summary: str
    settings: Mapping[str, Any]


# The exact curvature of Finn et al.'s TRPO, which the others took over.
_TRPO: Mapping[str, Any] = {
    "meta_optimiser": "trpo",
    "trpo": {
        "max_kl": 0.01,
        "cg_iterations": 10,
        "cg_damping": 1e-5,
        "backtrack_ratio": 0.8,
        "max_backtracks": 15,
        "fisher_fraction": 1.0,
        "hessian_fraction": 1.0,
    },
}
# Network, inner loop and meta-step of Finn et al.'s released code, which agree with their paper.
_MAML: Mapping[str, Any] = {
    "algo": "maml",
    "hidden_sizes": (100, 100),
    "activation": "relu",
    "output_gain": 1.0,
    "initial_std": 1.0,
    "min_std": 1e-6,
    "action_scale": 1.0,
    "num_inner_steps": 1,
    "inner_lr": 0.1,
    "inner_loss": "score",
    "discount": 0.99,
    "gae_lambda": 1.0,
    "meta_batch_size": 40,
    "rollouts_per_task": 20,
    "iterations": 500,
    **_TRPO,
}
_NAVIGATION: Mapping[str, Any] = {"env": "navigation", "horizon": 100, "meta_batch_size": 20}
_MAML_PAPER = "Finn et al. 2017, section 5.3 and appendix A.2"
# The released code's ant: steps of 0.02 s, and the coefficients of control cost and survival.
_RLLAB_ANT: Mapping[str, Any] = {"frame_skip": 2, "ctrl_cost_weight": 0.005, "survive_bonus": 0.05}

# Discount, baseline and episodes of training are not printed: MAML's. Reused rollouts need the likelihood ratio in the
# inner loss. By default the initial gamma may be another, and there is a penalty that the paper does not have.
_L2F: Mapping[str, Any] = {
    **_MAML,
    "algo": "l2f",
    "inner_lr": 0.01,
    "inner_loss": "ratio",
    "l2f": {"initial_gamma": 0.5, "reuse_kl": 0.0},
}
_L2F_PAPER = "Baik et al. 2020, table L (b) and appendix D.1"

_BIMODAL: Mapping[str, Any] = {
    "env": "navigation-bimodal",
    "horizon": 100,
    "hidden_sizes": (32, 32),
    "activation": "relu",
    "num_inner_steps": 1,
    "meta_batch_size": 20,
    "rollouts_per_task": 20,
    "inner_loss": "score",
    **_TRPO,
}
_MUMOMAML_PAPER = "Vuorio et al. 2019, appendix A.3"

_ANIL: Mapping[str, Any] = {**_MAML, "algo": "anil"}
_ANIL_PAPER = "Raghu et al. 2020, table 2 and appendix C.4"

PRESETS: dict[str, Preset] = {
    "maml-navigation": Preset(
        _MAML_PAPER,
        "MAML on 2D navigation; the plain distance as reward, like the code, which took step 0.5 and 40 tasks. "
        "Evaluate 40 episodes a step.",
        {**_MAML, **_NAVIGATION},
    ),
    "maml-cheetah-dir": Preset(
        _MAML_PAPER,
        "MAML on the half-cheetah's direction, 100 control steps a second.",
        {**_MAML, "env": "cheetah-dir-rllab", "horizon": 200},
    ),
    "maml-cheetah-vel": Preset(
        _MAML_PAPER,
        "MAML on the half-cheetah's velocity, 100 control steps a second.",
        {**_MAML, "env": "cheetah-vel-rllab", "horizon": 200},
    ),
    "maml-ant-dir": Preset(
        _MAML_PAPER,
        "MAML on the ant's direction, 50 control steps a second, without contact forces. Evaluate 40 episodes a step.",
        {**_MAML, "env": "ant-dir", "horizon": 200, "rollouts_per_task": 40, "env_kwargs": _RLLAB_ANT},
    ),
    "maml-ant-vel": Preset(
        _MAML_PAPER,
        "MAML on the ant's velocity, 50 control steps a second, with a bonus of 1 a step; without contact forces.",
        {**_MAML, "env": "ant-vel", "horizon": 200, "env_kwargs": {**_RLLAB_ANT, "survive_bonus": 1.05}},
    ),
    "l2f-navigation": Preset(
        _L2F_PAPER,
        "L2F on 2D navigation with actions up to 0.2; the plain distance as reward, like MAML's code.",
        {**_L2F, **_NAVIGATION, "env_kwargs": {"action_bound": 0.2}},
    ),
    "l2f-cheetah-dir": Preset(
        _L2F_PAPER,
        "L2F on a direction; with MAML's half-cheetah, since the paper names no robot. Evaluate 40 episodes a step.",
        {**_L2F, "env": "cheetah-dir-rllab", "horizon": 200},
    ),
    "l2f-cheetah-vel": Preset(
        _L2F_PAPER,
        "L2F on a velocity; with MAML's half-cheetah, since the paper names no robot. Evaluate 40 episodes a step.",
        {**_L2F, "env": "cheetah-vel-rllab", "horizon": 200},
    ),
    "mumomaml-navigation": Preset(
        _MUMOMAML_PAPER,
        "MuMoMAML on navigation with goals of two modes; the plain distance as reward, where the appendix squares it.",
        {
            **_BIMODAL,
            "algo": "mumomaml",
            "inner_lr": 0.01,
            "discount": 0.99,
            "mumomaml": {"embedding_size": 8, "trajectories": 1},
        },
    ),
    "mumomaml-navigation-maml": Preset(
        _MUMOMAML_PAPER,
        "MAML on navigation with goals of two modes, as compared with MuMoMAML; the plain distance as reward.",
        {**_BIMODAL, "algo": "maml", "inner_lr": 0.03, "discount": 0.95},
    ),
    "anil-navigation": Preset(_ANIL_PAPER, "ANIL on 2D navigation.", {**_ANIL, "env": "navigation", "horizon": 100}),
    "anil-cheetah-dir": Preset(
        _ANIL_PAPER,
        "ANIL on the half-cheetah's direction, with Gymnasium's timing.",
        {**_ANIL, "env": "cheetah-dir", "horizon": 200},
    ),
    "anil-cheetah-vel": Preset(
        _ANIL_PAPER,
        "ANIL on the half-cheetah's velocity, with Gymnasium's timing.",
        {**_ANIL, "env": "cheetah-vel", "horizon": 200},
    ),
}


def preset(name: str) -> Config:
    """The configuration that repeats an experiment; ``dataclasses.replace`` changes some of its choices.

    Args:
        name: A preset, see `PRESETS`.

    Raises:
        UserError: If there is no such preset; the message suggests the nearest names.
    """
    if convert("name", name, str) not in PRESETS:
        raise UserError(f"unknown preset {name!r}.{nearest(name, PRESETS)} There are: {', '.join(PRESETS)}.")
    return Config(**PRESETS[name].settings)
