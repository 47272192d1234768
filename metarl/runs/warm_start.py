"""Starts a run from the meta-parameters of another one. Nothing of that run is imported: its folder is data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from metarl.common.errors import UserError
from metarl.common.output import say
from metarl.common.strict_json import one_line
from metarl.config.config import Config
from metarl.config.resolved import GROUPS
from metarl.data import LearnerState
from metarl.store.checkpoints import load_learner
from metarl.store.runs import read_run

# What a learner remembers that gives the meta-parameters their meaning: the unit of the critic's values.
_UNITS = ("values",)


def learner_from(run_dir: Path, config: Config, num_meta: int) -> LearnerState:
    """The meta-parameters of a run's last checkpoint, and their units, for a run with another configuration.

    Args:
        run_dir: The folder of the run.
        config: The configuration of the run that starts.
        num_meta: How many meta-parameters it has.

    Raises:
        UserError: If the folder holds no run, or its meta-parameters do not fit.
    """
    theirs, ours, settings = read_run(run_dir).config, config.to_dict(), config.resolve()
    groups = [(None, getattr(settings, group)) for group in GROUPS]
    for option, part in (*groups, ("l2f", settings.l2f), (settings.algorithm.option, settings.own)):
        before, now = _values(theirs, option), _values(ours, option)
        for name in part.meaning if part else ():
            if option is None and name in settings.idle:  # Older versions stored it all the same.
                continue
            if name in before and one_line(before[name]) != one_line(now[name]):
                full_name = f"{option}.{name}" if option else name
                raise UserError(
                    f"{run_dir} was trained with {full_name} {before[name]}, and this run has {now[name]}: its "
                    "meta-parameters do not fit; choose the same, or leave out init_from."
                )
    learner = load_learner(run_dir)
    if len(learner.meta) != num_meta:
        their_steps, our_steps = theirs.get("num_inner_steps"), settings.inner.num_inner_steps
        steps = "" if their_steps == our_steps else f"num_inner_steps ({their_steps}, here {our_steps}), "
        raise UserError(
            f"{run_dir} has {len(learner.meta)} meta-parameters, and this run {num_meta}: {steps}the observations, the "
            f"actions or the settings of {config.algo} differ; choose the same, or leave out init_from."
        )
    start = warm_start(learner)
    if settings.meta.meta_optimiser == "ppo" and not start.memory:
        say(f"{run_dir} does not hold the unit of its critic's values, so the first advantages are less exact")
    return start


def warm_start(learner: LearnerState) -> LearnerState:
    """What another run takes over from a learner: its meta-parameters and their units."""
    return replace(learner, memory={name: value for name, value in learner.memory.items() if name in _UNITS})


def _values(config: Mapping[str, Any], option: str | None) -> Mapping[str, Any]:
    """The settings among a run's that one of them holds; all of them if ``option`` is None."""
    values = config if option is None else config.get(option)
    return values if isinstance(values, Mapping) else {}
