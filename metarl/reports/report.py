"""A report on some runs: one HTML file with figures, tables and how to make them, readable without a network."""

from __future__ import annotations

import base64
import json
import mimetypes
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.common.errors import UserError
from metarl.common.statistics import MIN_SEEDS_FOR_INTERVAL, mean_and_interval
from metarl.common.streams import Purpose, stream
from metarl.common.strict_json import one_line, plain
from metarl.config.algorithms import run_title
from metarl.config.checked import convert
from metarl.config.measuring import Checkpoint
from metarl.config.trust import Trust, require_trust, trust_options
from metarl.envs import get_family
from metarl.reports.comparison import compare_lines, usual_reference
from metarl.reports.comparison_figure import draw_comparison
from metarl.reports.curves import draw_gradient_steps, draw_training
from metarl.reports.files import checked_file, take_literally, writing
from metarl.reports.labels import Group, by_evaluated_family, by_family, differences, evaluated_on, group_runs, runs_of
from metarl.reports.tables import comparison_table, usual_step_scales
from metarl.reports.wording import MEASURES, decimals_of, engineering, estimates_text, seeds_text, tasks_text
from metarl.store.evaluations import Evaluation
from metarl.store.reference import results_folder
from metarl.store.runs import StoredRun, read_run, run_folders

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PHASES = {
    "seconds_rollout": "rollouts",
    "seconds_adaptation": "adaptation",
    "seconds_meta_step": "meta-step",
}
_MOVING = (".mp4", ".gif")


def report(
    runs: str | Path | Iterable[str | Path],
    output: str | Path,
    checkpoint: Checkpoint = "last",
    trust: Trust = False,
) -> Path:
    """Writes a report on some runs: one HTML file that holds everything it shows.

    It shows adaptation to held-out tasks, a comparison paired by seed and task, learning curves, where the time went,
    in which settings the runs differ, how to make them again, and the recordings in their folders. What a run lacks is
    left out, with the reason.

    Args:
        runs: Folders of one or several runs. Runs that differ only in their seed are shown together.
        output: The file, whose name ends in ``.html``. An existing one is replaced.
        checkpoint: The checkpoint whose evaluations are shown: ``last`` or ``best``.
        trust: Whether code from outside metarl that a run names may be imported, as for `metarl.load`. It is not
            needed; tables then name settings that a family of your own has as its default.

    Returns:
        Path of the file.

    Raises:
        UserError: If a folder is no run, if seeds of a line were evaluated for different numbers of steps, or if the
            file cannot be written, which is tried first.
    """
    page = checked_file(output, "report", (".html",))
    checkpoint = convert("checkpoint", checkpoint, Checkpoint)
    folders = run_folders(runs)
    groups = group_runs([read_run(folder, checkpoint, trust) for folder in folders])
    text = _rendered(groups)
    with writing(page) as file:
        file.write(text.encode())
    return page


def _rendered(groups: Sequence[Group]) -> str:
    # Imported here, because only this needs it.
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files(__package__).joinpath("report.html").read_text("utf-8"))
    runs = runs_of(groups)
    evaluated = _having(groups, _is_evaluated)
    trained = _having(groups, _has_progress)
    return template.render(
        title="; ".join(
            f"{', '.join(dict.fromkeys(run_title(run.config) for run in runs_of(family)))} on {family[0].env}"
            for family in by_family(groups)
        ),
        runs=[_facts(run) for run in runs],
        adaptation=[_adaptation(family) for family in by_evaluated_family(evaluated)],
        comparisons=[_comparison(family) for family in by_evaluated_family(evaluated) if len(family) > 1],
        training=[_training(family) for family in by_family(trained)],
        not_evaluated=[run.name for run in runs if not _is_evaluated(run)],
        without_progress=[run.name for run in runs if not _has_progress(run)],
        phases=[row for group in trained for row in _phases(group)],
        phase_names=list(_PHASES.values()),
        settings=[_settings(family) for family in by_family(groups) if len(runs_of(family)) > 1],
        recordings=[_recording(run, file) for run in runs for file in _recordings(run)],
    )


def _is_evaluated(run: StoredRun) -> bool:
    return run.evaluation is not None


def _has_progress(run: StoredRun) -> bool:
    return len(run.progress.get("iteration", ())) > 0


def _having(groups: Sequence[Group], what: Callable[[StoredRun], bool]) -> list[Group]:
    """The groups with those of their runs that have something; without groups that have none."""
    return [replace(group, runs=kept) for group in groups if (kept := tuple(filter(what, group.runs)))]


def _reached(run: StoredRun) -> str:
    """The run's last iteration; of an agent that comes without its progress that of the evaluation."""
    reached = _last(run, "iteration")
    if reached is None and run.evaluation is not None:
        reached = run.evaluation.iteration
    return "?" if reached is None else f"{reached:.0f}"


def _facts(run: StoredRun) -> dict[str, Any]:
    """A run's row, and what it takes to make it again."""
    origin: Mapping[str, Any] = run.config.get("metarl") or {}
    steps, seconds = (_last(run, name) for name in ("env_steps", "seconds"))
    folder, evaluation = results_folder(run.path), run.evaluation
    drawn = evaluation is not None and _are_drawn(run, evaluation)
    train = ["python", "-m", "metarl.train", "--config", "config.json", "--run-dir", str(folder)]
    return {
        "path": run.name,
        "title": run_title(run.config),
        "env": run.env,
        "seed": run.seed,
        "iterations": f"{_reached(run)} of {run.config.get('iterations', '?')}",
        "steps": "" if steps is None else engineering(steps),
        "time": "" if seconds is None else _time(seconds),
        "commit": ", then ".join(run.commits),
        "made_with": ", ".join(
            f"{name} {value}" for name, value in origin.items() if name not in ("commit", "hardware")
        ),
        "hardware": str(origin.get("hardware") or ""),
        "config": json.dumps(run.config, indent=1),
        "train": " ".join([shlex.join(train), *trust_options(run.config)]),
        "evaluate": None if evaluation is None else _evaluate_command(run, evaluation, folder, drawn=drawn),
        "tasks": None if evaluation is None or drawn else _task_file(evaluation),
    }


def _evaluate_command(run: StoredRun, evaluation: Evaluation, folder: Path, *, drawn: bool) -> str:
    """The command that makes a run's evaluation again in ``folder``; reads ``tasks.json`` unless tasks are drawn."""
    tasks = ["--tasks", len(evaluation.tasks)] if drawn else ["--task-file", "tasks.json"]
    if evaluation.shots is None:
        size = ["--rollouts", evaluation.rollouts]
    else:
        size = ["--shots", evaluation.shots, "--queries", evaluation.rollouts]
    steps = ["--gradient-steps", len(evaluation.mean) - 1, "--seed", evaluation.seed]
    which: list[Any] = [] if evaluation.checkpoint == "last" else ["--checkpoint", evaluation.checkpoint]
    if evaluation.env != run.env:
        which += ["--env", evaluation.env]
    if evaluation.step_scales != usual_step_scales(evaluation):
        which += ["--step-scales", *evaluation.step_scales]
    if evaluation.adapted_layers:
        which += ["--adapted-layers", *evaluation.adapted_layers]
    words = ["python", "-m", "metarl.evaluate", folder, *tasks, *size, *steps, *which]
    return " ".join([shlex.join(map(str, words)), *trust_options(run.config)])


def _are_drawn(run: StoredRun, evaluation: Evaluation) -> bool:
    """Whether the evaluation's seed draws its tasks; False if the family is not available or not trusted."""
    try:
        require_trust({**run.config, "env": evaluation.env}, run.trust)
        family = get_family(evaluation.env, **(run.config.get("env_kwargs", {}) if evaluation.env == run.env else {}))
        tasks = family.sample_tasks(len(evaluation.tasks), stream(evaluation.seed, Purpose.TEST_TASKS), "test")
    except UserError:
        return False
    return bool(plain(tasks) == plain(evaluation.tasks))


def _task_file(evaluation: Evaluation) -> str:
    """The evaluation's tasks as a file for ``--task-file``, one a line."""
    return '{"tasks": [\n' + ",\n".join(map(one_line, evaluation.tasks)) + "\n]}"


def _last(run: StoredRun, column: str) -> float | None:
    values = run.progress.get(column)
    return None if values is None or not len(values) else float(values[-1])


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _adaptation(family: Sequence[Group]) -> dict[str, Any]:
    """The figure of adaptation, and its numbers: a row for each line."""
    runs = runs_of(family)
    figure, rows = draw_gradient_steps(family), []  # The figure refuses seeds that do not fit together.
    for group in family:
        means = np.array([run.evaluated().mean for run in group.runs])
        estimate = mean_and_interval(means)
        shown = estimate.half_width if len(means) >= MIN_SEEDS_FOR_INTERVAL else None
        cells = estimates_text(estimate.mean, shown, decimals_of(runs[0].measure), plus_minus="\N{PLUS-MINUS SIGN} ")
        rows.append({"label": group.label, "seeds": len(group.runs), "cells": cells})
    measure = MEASURES[runs[0].measure]
    return {
        "env": evaluated_on(runs[0]),
        "picture": _picture(figure, f"{measure} after each step of adaptation"),
        "measure": measure,
        "step_name": " or ".join(dict.fromkeys(run.evaluated().step_name for run in runs)),
        "steps": range(max(len(run.evaluated().mean) for run in runs)),
        "rows": rows,
        "note": f"{seeds_text(runs)} · {tasks_text([family])}",
    }


def _training(family: Sequence[Group]) -> dict[str, str]:
    """Learning curves against environment steps; of supervised tasks, which have none, against iterations."""
    steps = all("env_steps" in run.progress for run in runs_of(family))
    return _picture(draw_training(family, "env-steps" if steps else "iteration"), f"Learning curves on {family[0].env}")


def _comparison(family: Sequence[Group]) -> dict[str, Any]:
    """What `compare` says of the lines, or why it cannot."""
    shown: dict[str, Any] = {"env": evaluated_on(family[0].runs[0]), "picture": None}
    try:
        result = compare_lines({group.label: group.runs for group in family}, usual_reference(family))
    except UserError as error:
        return {**shown, "text": str(error)}
    picture = _picture(draw_comparison(result), f"differences from {result.reference}, paired by seed and task")
    return {**shown, "picture": picture, "text": comparison_table(result)}


def _phases(group: Group) -> list[dict[str, Any]]:
    """Seconds of an iteration in each phase, medians over a run's iterations but the first."""
    rows = []
    for run in group.runs:
        known = {name: run.progress[column][1:] for column, name in _PHASES.items() if column in run.progress}
        seconds = {name: float(np.nanmedian(values)) for name, values in known.items() if len(values)}
        if seconds:
            total = sum(seconds.values())
            shares = {name: value / total if total else 0.0 for name, value in seconds.items()}
            rows.append(
                {"label": group.label, "env": group.env, "seed": run.seed, "seconds": seconds, "shares": shares}
            )
    return rows


def _settings(family: Sequence[Group]) -> dict[str, Any]:
    return {"env": family[0].env, "labels": [group.label for group in family], "rows": differences(family)}


def _recordings(run: StoredRun) -> list[Path]:
    files = sorted(path for path in results_folder(run.path).rglob("*") if path.suffix in _MOVING)
    # A GIF beside an MP4 of its name shows the same.
    return [path for path in files if path.suffix == ".mp4" or path.with_suffix(".mp4") not in files]


def _recording(run: StoredRun, file: Path) -> dict[str, Any]:
    kind = mimetypes.guess_type(file.name)[0] or ""
    data = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
    return {"name": f"{run_title(run.config)} on {run.env}, seed {run.seed}: {file.stem}", "data": data, "kind": kind}


def _picture(figure: Figure, words: str) -> dict[str, str]:
    """A figure as an address that holds all of it, and a description for those who do not see it."""
    buffer = BytesIO()
    take_literally(figure)
    figure.savefig(buffer, format="svg")
    return {"data": f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}", "alt": words}
