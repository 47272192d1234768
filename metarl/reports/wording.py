"""Texts in figures and tables: captions, titles, axes, numbers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.common.arrays import Floats, rows_of_numbers
from metarl.common.statistics import MIN_SEEDS_FOR_INTERVAL
from metarl.common.strict_json import one_line
from metarl.common.words import counted, plural
from metarl.config.algorithms import ALGORITHMS, run_title
from metarl.reports.labels import Group, evaluated_on, runs_of
from metarl.store.runs import StoredRun, commits_of

MEASURES = {"return": "return of an episode", "error": "mean squared error", "accuracy": "accuracy"}
"""What families are measured by (`metarl.envs.Family.measure`), as the name of an axis."""

_LONGEST_NUMBER = 9  # characters
_COMMIT = re.compile(r"([0-9a-f]{7,40})(-dirty)?")


def tasks_in_words(tasks: Sequence[Any] | NDArray[Any], finite: bool) -> str:
    """Says on how many tasks returns were measured, and whether the tasks were held out.

    Args:
        tasks: Tasks of an evaluation, repeats included, [task, ...].
        finite: Whether the family has finitely many tasks, so that training has seen them all.

    Returns:
        For example "40 held-out tasks", or "2 tasks (none held out), 20 repeats each".
    """
    repeats = Counter(map(one_line, tasks)).values()
    low, high = min(repeats), max(repeats)
    if not finite and high == 1:
        return counted(len(tasks), "held-out task")
    what = f"{counted(len(repeats), 'task')} (none held out)" if finite else counted(len(repeats), "held-out task")
    how_often = counted(high, "repeat") if low == high else f"{low} to {high} repeats"
    return f"{what}, {how_often} each"


def count_text(groups: Sequence[Group]) -> str:
    """The number of seeds of the lines with one label, one line per family."""
    counts = sorted({len(group.runs) for group in groups})
    interval = "95 % interval" if counts[0] >= MIN_SEEDS_FOR_INTERVAL else "no interval"
    if counts[0] < MIN_SEEDS_FOR_INTERVAL <= counts[-1]:
        interval = f"95 % interval from {MIN_SEEDS_FOR_INTERVAL} on"
    return f"{' or '.join(map(str, counts))} seed{'s' if counts[-1] > 1 else ''}, {interval}"


def task_name(runs: Sequence[StoredRun], task: Floats) -> str:
    """The name of a task in the runs' evaluations; its components if it has no name."""
    for run in runs:
        evaluation = run.evaluated()
        where = np.flatnonzero((rows_of_tasks(run) == task).all(axis=1))
        if evaluation.task_names and len(where):
            return evaluation.task_names[where[0]]
    return "task " + ", ".join(f"{value:+g}".replace("-", "\N{MINUS SIGN}") for value in task)


def rows_of_tasks(run: StoredRun) -> Floats:
    """The tasks that a run was evaluated on, [task, number]."""
    return rows_of_numbers(run.evaluated().tasks)


def tasks_text(families: Sequence[Sequence[Group]]) -> str:
    """The number of evaluation tasks, whether they were held out, and the checkpoint."""
    runs = [run for family in families for run in runs_of(family)]
    lists = [rows_of_tasks(run) for run in runs]
    different = {(evaluated_on(run), str(sorted(tasks.tolist()))) for run, tasks in zip(runs, lists, strict=True)}
    same = len(different) == len(families)
    words = dict.fromkeys(map(tasks_in_words, lists, (run.evaluated().finite for run in runs)))
    checkpoints = sorted({run.evaluated().checkpoint for run in runs})
    return f"{' and '.join(words)}{'' if same else ', not the same for all runs'} · {'/'.join(checkpoints)} checkpoint"


def steps_text(runs: Sequence[StoredRun]) -> str:
    """The label of the adaptation axis."""
    names = dict.fromkeys(run.evaluated().step_name for run in runs)
    return f"{plural(' or '.join(names))} on the task"


def training_text(runs: Sequence[StoredRun], when: str, alone: bool = False) -> str:
    """When the returns of training are measured.

    Args:
        runs: The runs of a panel.
        when: ``before`` or ``after`` adaptation.
        alone: Whether training measures nothing else.
    """
    algorithms = [ALGORITHMS.get(run.config["algo"]) for run in runs]
    remember = [algorithm is not None and algorithm.remembers for algorithm in algorithms]
    episode = f"{'only' if alone else 'first' if when == 'before' else 'last'} episode of a trial"
    if all(remember):
        return episode
    return f"{when} adaptation\n(with memory: {episode})" if any(remember) else f"{when} adaptation"


def amounts_text(runs: Sequence[StoredRun], unit: str) -> str:
    """The label of the axis of what adaptation had read: ``episodes`` (of supervised tasks, examples) or ``steps``."""
    if unit == "steps":
        return "environment steps of adaptation to the task"
    kinds = dict.fromkeys(read_by(run.evaluated().measure) for run in runs)
    return f"{' or '.join(kinds)} of adaptation to the task"


def seeds_text(runs: Sequence[StoredRun]) -> str:
    """The seeds of the runs."""
    seeds = {run.seed for run in runs}
    return f"seed {_span(seeds)}" if len(seeds) == 1 else f"seeds {_span(seeds)}"


def _span(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    if low == high:
        return str(low)
    return f"{low}-{high}" if len(numbers) == high - low + 1 else ", ".join(map(str, sorted(numbers)))


def provenance_text(runs: Sequence[StoredRun]) -> str:
    """The length of training, and version and commit of the package."""
    totals = [np.nanmax(run.progress["env_steps"]) for run in runs if len(run.progress.get("env_steps", ()))]
    words = []
    if totals:
        low, high = engineering(min(totals)), engineering(max(totals))
        words.append(f"{low if low == high else f'{low} to {high}'} environment steps a run")
    return " · ".join([*words, software_text([run.config for run in runs])])


def agent_text(config: Mapping[str, Any], iteration: int, checkpoint: str) -> str:
    """The agent that a checkpoint of a run holds, such as "MAML on navigation, seed 0, iteration 500 (last)"."""
    return f"{run_title(config)} on {config['env']}, seed {config['seed']}, iteration {iteration} ({checkpoint})"


def software_text(contents: Sequence[Mapping[str, Any]]) -> str:
    """Versions and commits of the package that some files name, such as "metarl 0.1.0, commit 012345678".

    Args:
        contents: Contents as `metarl.store.runs.commits_of` takes them. What is no commit is left out.
    """
    origins = [content.get("metarl") or {} for content in contents]
    versions = sorted({str(origin["version"]) for origin in origins if origin.get("version")})
    matches = [_COMMIT.fullmatch(commit) for content in contents for commit in commits_of(content)]
    commits = sorted({match[1][:9] + (match[2] or "") for match in matches if match})
    return " ".join(["metarl", *versions]) + (f", commit {', '.join(commits)}" if commits else "")


def number_text(value: float, decimals: int, sign: str = "") -> str:
    """A number with ``decimals`` digits after the point; as 3.3e+27 if that takes more than nine characters.

    Args:
        value: The number; NaN is a dash.
        decimals: Digits after the point.
        sign: "+" to write the sign of positive numbers too.
    """
    if math.isnan(value):
        return "-"
    text = f"{value:{sign}z.{decimals}f}"  # z: never -0.00
    return text if len(text) <= _LONGEST_NUMBER else f"{value:{sign}.1e}"


def estimates_text(
    means: Floats, half_widths: Floats | None, decimals: int, sign: str = "", plus_minus: str = "+-"
) -> list[str]:
    """Means as in `number_text`, each with the half-width of its interval where it has one."""
    widths = np.full_like(means, np.nan) if half_widths is None else half_widths
    return [
        number_text(mean, decimals, sign)
        + ("" if math.isnan(width) else f" {plus_minus}{number_text(width, decimals)}")
        for mean, width in zip(means.tolist(), widths.tolist(), strict=True)
    ]


def read_by(measure: str) -> str:
    """What adaptation reads in families of this measure: episodes, or examples."""
    return "episodes" if measure == "return" else "examples"


def decimals_of(measure: str) -> int:
    """Digits after the point of what a family is measured by: errors and accuracies are about 1, returns larger."""
    return 2 if measure == "return" else 4


def engineering(value: float) -> str:
    """A number in short form for an axis or a caption, such as 32 M."""
    rounded = float(f"{value:.3g}")  # First, or 999,999 would be 1e+03 k.
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(rounded) >= factor:
            return f"{rounded / factor:.3g}{unit}"
    return f"{rounded:.3g}"
