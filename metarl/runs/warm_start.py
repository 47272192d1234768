"""Starts a run from the meta-parameters of another one. Nothing of that run is imported: its folder is data."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from metarl.common.errors import UserError
from metarl.common.strict_json import one_line
from metarl.config.config import Config
from metarl.store.checkpoints import load_meta
from metarl.store.runs import read_run

# What meta-parameters mean depends on these settings. How many there are says the rest.
_SAME = ("algo", "attenuate", "hidden_sizes", "activation", "policy_body", "normalise_observations")


def meta_from(run_dir: Path, config: Config, num_meta: int) -> Tensor:
    """The meta-parameters of a run's last checkpoint, [meta parameter], for a run with another configuration.

    Args:
        run_dir: The folder of the run.
        config: The configuration of the run that starts.
        num_meta: How many meta-parameters it has.

    Raises:
        UserError: If the folder holds no run, or its meta-parameters do not fit.
    """
    theirs, ours = read_run(run_dir).config, config.to_dict()
    for name in _SAME:
        if name in theirs and one_line(theirs[name]) != one_line(ours[name]):
            raise UserError(
                f"{run_dir} was trained with {name} {theirs[name]}, and this run has {ours[name]}: its meta-parameters "
                "do not fit; choose the same, or leave out init_from."
            )
    meta = load_meta(run_dir)
    if len(meta) != num_meta:
        raise UserError(
            f"{run_dir} has {len(meta)} meta-parameters, and this run {num_meta}: the observations, the actions or the "
            f"settings of {config.algo} differ; choose the same, or leave out init_from."
        )
    return meta
