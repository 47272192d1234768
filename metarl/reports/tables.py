"""Evaluations, analyses and comparisons as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metarl.common.arrays import Floats
from metarl.common.statistics import MIN_SEEDS_FOR_INTERVAL
from metarl.common.strict_json import one_line
from metarl.common.words import counted, dropped_text, plural
from metarl.config.algorithms import run_title
from metarl.inner.rule import evaluation_scales
from metarl.reports.comparison import Comparison, Line, Pair
from metarl.reports.measures import Difference, Summary
from metarl.reports.results import Analysis
from metarl.reports.wording import decimals_of, estimates_text, number_text, read_by, tasks_in_words
from metarl.store.evaluations import Evaluation, MetricResult
from metarl.store.reference import reference_names
from metarl.store.runs import read_run

# Numbers of a task that get a row of their own; the file has all of them.
_SHOWN_NUMBERS = 12
# Episodes of a trial that get a column of their own.
_SHOWN_EPISODES = 5
# From here on, metrics have two decimals instead of three.
_LARGE = 10


def reference_table() -> str:
    """The reference agents as text: a row for each, with what it reaches on held-out tasks step by step."""
    rows = [("agent", "algorithm", "family", "iterations", "after 0, 1, ... steps")]
    for name in reference_names():
        result = read_run(Path(f"reference:{name}")).evaluated()
        decimals = decimals_of(result.measure)
        means = " ".join(number_text(mean, decimals) for mean in result.mean)
        steps = f"{result.measure} {means} ({result.step_name}s)"
        rows.append((f"reference:{name}", run_title(result.config), result.env, str(result.iteration), steps))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def evaluation_table(result: Evaluation) -> str:
    """An evaluation as text: a row for each step of adaptation, with the references in further columns."""
    none = [np.nan] * len(result.mean)
    decimals = decimals_of(result.measure)
    interval = _column(none if result.interval is None else result.interval, decimals)
    shares = none if result.share_made_worse is None else result.share_made_worse
    worse = ["-" if math.isnan(share) else f"{share:.0%}" for share in shares]
    groups, steps = result.returns_by_name(), f"{result.step_name.split()[-1]}s"
    # Where a step is an episode, the first column counts them already.
    adapted = {unit: amounts for unit, amounts in _adaptation_data(result).items() if unit != steps}
    metrics = {name: _with_interval(metric) for name, metric in result.metrics.items()}
    widths = {name: max(len(name), *map(len, cells)) for name, cells in metrics.items()}
    at = "" if result.iteration is None else f" (iteration {result.iteration})"
    restricted = f", adapting {' '.join(result.adapted_layers)} alone" if result.adapted_layers else ""
    if result.step_scales != usual_step_scales(result):
        restricted += f", step sizes times {' '.join(f'{scale:g}' for scale in result.step_scales)}"
    lines = [
        f"{run_title(result.config)} on {result.env}{restricted}: "
        f"{tasks_in_words(result.tasks, result.finite)}, {_data(result)}, "
        f"checkpoint {result.checkpoint}{at}, seed {result.seed}",
        f"{steps}{result.measure:>10}  +-95% tasks  made worse  random init"
        + "".join(f"  {name:>9}" for name in adapted)
        + "".join(f"  {name:>12}" for name in groups)
        + "".join(f"  {name:>{width}}" for name, width in widths.items()),
    ]
    for step, mean in enumerate(result.mean):
        lines.append(
            f"{step:{len(steps)}d}{number_text(mean, decimals):>10}{interval[step]:>13}{worse[step]:>11} "
            f"{number_text(result.references.random_initialisation[step], decimals):>12}"
            + "".join(f"{_amount(values[step]):>11}" for values in adapted.values())
            + "".join(f"{number_text(values[step], decimals):>14}" for values in groups.values())
            + "".join(f"  {cells[step]:>{widths[name]}}" for name, cells in metrics.items())
        )
    if result.modulated is not None:
        lines.append(
            f"attenuated or modulated, before the first {result.step_name}: {number_text(result.modulated, decimals)}"
        )
    if result.references.standstill is not None:
        lines.append(f"standing still: {number_text(result.references.standstill, decimals)}")
    if result.dropped_episodes:
        lines.append(f"{dropped_text(result.dropped_episodes)} (on_bad_episode)")
    return "\n".join(lines)


def usual_step_scales(result: Evaluation) -> tuple[float, ...]:
    """The factors on the step size that an evaluation has if none are asked for."""
    wanted = () if result.shots is None else (1.0,)
    return evaluation_scales(len(result.step_scales), result.config.get("num_inner_steps") or 1, wanted)


def sweep_table(results: Sequence[Evaluation]) -> str:
    """Evaluations of `metarl.sweep_rollouts` as text: a row for each number of episodes per step."""
    first = results[0]
    lines = [
        f"{run_title(first.config)} on {first.env}: {tasks_in_words(first.tasks, first.finite)}, "
        f"checkpoint {first.checkpoint}, seed {first.seed}",
        f"{first.measure} after 0, 1, ... steps, and the data of a task that adaptation had read before the last",
    ]
    names = [*map(str, range(len(first.mean))), *_adaptation_data(first)]
    lines.append(f"episodes a {first.step_name}" + "".join(f"{name:>11}" for name in names))
    width = len(lines[-1]) - 11 * len(names)
    for result in results:
        means = [number_text(mean, decimals_of(result.measure)) for mean in result.mean]
        amounts = [_amount(values[-1]) for values in _adaptation_data(result).values()]
        lines.append(f"{result.rollouts:>{width}}" + "".join(f"{cell:>11}" for cell in [*means, *amounts]))
    return "\n".join(lines)


def _adaptation_data(result: Evaluation) -> dict[str, Floats]:
    """What adaptation had read before each return, [step] by its unit; empty for files of older versions."""
    unit = read_by(result.measure)
    amounts = {unit: result.adaptation_episodes, "env steps": result.adaptation_steps}
    return {name: values for name, values in amounts.items() if values is not None}


def _with_interval(metric: MetricResult) -> list[str]:
    """A metric after each step, with its interval if it has one."""
    decimals = 2 if np.nanmax(np.abs(metric.mean)) >= _LARGE else 3
    return estimates_text(metric.mean, metric.interval, decimals)


def _amount(value: float) -> str:
    """A mean number of episodes or steps, without decimals if it is whole."""
    return f"{value:.1f}".removesuffix(".0")


def _data(result: Evaluation) -> str:
    if result.shots is not None:
        return f"{counted(result.shots, 'shot')}, measured on {counted(result.rollouts, 'example')}"
    return counted(result.rollouts, "trial" if result.step_name == "episode" else "episode")  # with memory, or without


def analysis_table(result: Analysis) -> str:
    """An analysis as text: tables of tensors, representations, frozen layers, gammas, and what features predict."""
    run, settings = result.config, result.settings
    unit = "query example" if result.measure != "return" else "episode" if result.memory is None else "trial"
    head = [
        f"{run_title(run)} on {run['env']}: "
        f"{tasks_in_words(result.tasks, result.finite)}, {counted(settings.rollouts, unit)}, "
        f"checkpoint {result.checkpoint} (iteration {result.iteration}), "
        f"seed {settings.seed}",
        _before_and_after(result),
    ]
    tables = (
        _table_of_tensors,
        _table_of_representations,
        _table_of_freezing,
        _table_of_gammas,
        _table_of_features,
        _table_of_memory,
    )
    sections = [table(result) for table in tables]
    reasons: dict[str, list[str]] = {}
    for name, why in result.left_out.items():
        reasons.setdefault(why, []).append(name)
    sections += [["", *(f"left out: {', '.join(names)} ({why})" for why, names in reasons.items())]] if reasons else []
    return "\n".join("\n".join(lines) for lines in [head, *sections] if lines)


def _before_and_after(result: Analysis) -> str:
    first, *_, last = [
        number_text(value, decimals_of(result.measure)) for value in result.returns.mean(axis=0)[[0, -1]]
    ]
    if result.memory is None:
        return f"{result.measure} before the inner loop {first}, after it {last}"
    episodes = result.returns.shape[1]
    return f"return of the first episode {first}" + (f", of episode {episodes} {last}" if episodes > 1 else "")


def _table_of_tensors(result: Analysis) -> list[str]:
    columns: dict[str, list[str]] = {}
    unrelated: list[str] = []
    notes: dict[str, str] = {}
    if (conflict := result.conflict) is not None:
        compared = {
            "tasks": conflict.between_tasks,
            "episodes": conflict.between_episodes,
            "in a task": conflict.within_task,
        }
        columns |= {title: _column(angles.mean, 3) for title, angles in compared.items()}
        columns |= {"excess": _column(conflict.excess.mean, 3), "+-95%": _intervals(conflict.excess, 3)}
        unrelated = _column([angles.unrelated for angles in compared.values()], 3)
        notes["tasks"] = "angle of the tasks' meta-gradients to their sum, radians; - without a gradient"
        notes["episodes"] = "the same of single episodes, each of another task"
        notes["in a task"] = "the same of single episodes of one task"
        notes["excess"] = "episodes minus in a task: conflict that comes from the tasks, not from noise"
        notes["(if unrelated)"] = "the angle that as many unrelated gradients would have"
    if result.movement is not None:
        distance = result.movement.start.distance
        columns["moved"] = _column(distance.mean)
        notes["moved"] = "distance in the inner loop"
        if 0 in distance.max:
            notes["moved"] += "; 0 is not adapted, and an adapted context vector counts as part of the first bias"
    if result.attenuation is not None:
        columns["gamma"] = _column(result.attenuation.gamma.mean, 4)
        columns["spread"] = _column(result.attenuation.gamma.std)
        notes["spread"] = "standard deviation of gamma over tasks"
    if not columns:
        return []
    lines = ["", "means over tasks", *(f"  {name:<16}{meaning}" for name, meaning in notes.items()), ""]
    lines += [_row("tensor", columns), *_rows(result.tensors, list(columns.values()))]
    return [*lines, _row("(if unrelated)", unrelated)] if unrelated else lines


def _table_of_representations(result: Analysis) -> list[str]:
    if result.representations is None or result.landscape is None:
        return []
    similarity, smoothness = result.representations.start, result.landscape.smoothness
    lines = []
    if "similarity" not in result.left_out:
        columns = [_column(values, 4) for kind in (similarity.cka, similarity.cca) for values in (kind.mean, kind.min)]
        lines += ["", "similarity before and after adaptation", _row("output of", ("CKA", "lowest", "CCA", "lowest"))]
        lines += _rows(result.representations.names, columns)
    low, middle, high = _column([smoothness.min, smoothness.median, smoothness.max])
    return [*lines, "", f"effective smoothness along the inner steps: median {middle} (tasks: {low} to {high})"]


def _table_of_freezing(result: Analysis) -> list[str]:
    freezing = result.freezing
    if freezing is None:
        return []
    interval = np.full_like(freezing.difference, np.nan) if freezing.interval is None else freezing.interval
    decimals = decimals_of(result.measure)
    columns = [_column(values, decimals) for values in (freezing.returns.mean, freezing.difference, interval)]
    lines = [
        "",
        f"{result.measure} with layers frozen in the inner loop",
        _row("frozen", (result.measure, "change", "+-95%")),
    ]
    return [*lines, *_rows(freezing.names, columns), *_diverged(result.measure, freezing.returns)]


def _table_of_gammas(result: Analysis) -> list[str]:
    sweep = result.gamma_sweep
    if sweep is None:
        return []
    decimals, on = decimals_of(result.measure), read_by(result.measure)
    at_gammas = [_column(values, decimals) for values in np.asarray(sweep.returns.mean)]
    lines = ["", f"{result.measure} after the inner loop, the start attenuated by gamma", _row("gamma", sweep.parts)]
    lines += _rows([f"{gamma:g}" for gamma in sweep.gammas], at_gammas)
    better = "; a gain is what is better" if result.measure == "error" else ""
    lines += ["", f"best gamma of each task, chosen on one half of the {on} and scored on the other{better}"]
    columns = {
        "gamma = 1": _column([float(sweep.unattenuated.mean)] * len(sweep.parts), decimals),
        "best": _column(sweep.best.mean, decimals),
        "gain": _column(sweep.gain.mean, decimals),
        "+-95%": _intervals(sweep.gain, decimals),
    }
    if sweep.gap is not None:
        columns |= {"of the gap": ["-" if math.isnan(share) else f"{share:.1%}" for share in sweep.gap.share]}
        standstill, oracle = (number_text(value, 2) for value in (sweep.gap.standstill, sweep.gap.oracle))
        lines += [f"gap: from standing still {standstill} to the oracle's {oracle}"]
    rows = _rows(sweep.parts, list(columns.values()))
    return [*lines, _row("attenuated", columns), *rows, *_diverged(result.measure, sweep.returns)]


def _diverged(measure: str, returns: Summary) -> list[str]:
    """Says on how many tasks returns have diverged, which leaves a mean over tasks undefined."""
    tasks = int(np.isnan(returns.per_task).reshape(len(returns.per_task), -1).any(axis=1).sum())
    return [f"-: the {measure} of {counted(tasks, 'task')} has diverged"] if tasks else []


def _table_of_features(result: Analysis) -> list[str]:
    if result.embedding is None:
        return []
    columns = {kind: projected.r2 for kind, projected in result.embedding.seen.items()}
    return _table_of_r2("what the rule sees", result.embedding.tasks, result.finite, columns)


def _table_of_memory(result: Analysis) -> list[str]:
    memory = result.memory
    if memory is None:
        return []
    columns = {
        f"episode {episode + 1}": {name: values[episode, -1] for name, values in memory.r2.items()}
        for episode in range(memory.lengths.shape[1])[:_SHOWN_EPISODES]
    }
    return _table_of_r2("the memory at the end of an episode", memory.tasks, result.finite, columns)


def _table_of_r2(
    source: str, tasks: NDArray[Any], finite: bool, columns: Mapping[str, Mapping[str, float]]
) -> list[str]:
    names, different = list(next(iter(columns.values()))), counted(len(set(map(one_line, tasks))), "task")
    over = f"{len(tasks)} repeats of {different}" if finite else different
    shown = [name for name in names if name not in names[_SHOWN_NUMBERS:-1]]
    lines = ["", f"R2 of the task from {source}, leave-one-out over {over}", _row("predicted", columns)]
    lines += _rows(shown, [_column([r2[name] for name in shown], 2) for r2 in columns.values()])
    left = len(names) - len(shown)
    return [*lines, f"and {left} more in the file"] if left else lines


def _intervals(difference: Difference, decimals: int) -> list[str]:
    none = np.full_like(difference.mean, np.nan)
    return _column(none if difference.interval is None else difference.interval, decimals)


def _rows(names: Sequence[str], columns: Sequence[Sequence[str]]) -> list[str]:
    return [_row(name, cells) for name, *cells in zip(names, *columns, strict=True)]


def _row(name: str, cells: Iterable[str]) -> str:
    return f"{name:<16}" + "".join(f"{cell:>12}" for cell in cells)


def _column(values: ArrayLike, decimals: int | None = None) -> list[str]:
    """Formats numbers with equal decimals.

    Args:
        values: [row].
        decimals: Digits after the point; None gives the largest number four significant digits.
    """
    numbers = np.asarray(values, dtype=np.float64).tolist()
    if decimals is None:
        largest = max((abs(value) for value in numbers if value and not math.isnan(value)), default=1.0)
        decimals = min(max(3 - math.floor(math.log10(largest)), 0), 9)
    return [number_text(value, decimals) for value in numbers]


def comparison_table(result: Comparison) -> str:
    """A comparison as text: all lines after each step, differences from the reference, the primary comparison."""
    decimals, at = decimals_of(result.measure), result.step
    steps = ["seeds", *map(str, range(len(result.lines[0].mean)))]
    after = f"after {counted(at, result.step_name)}"
    unit = read_by(result.measure)
    text = [
        f"{result.env}: {result.tasks}, {result.checkpoint} checkpoint; the unit of all intervals is the seed",
        "",
        f"{result.measure} after 0, 1, ... {plural(result.step_name)} "
        f"(+- 95 % interval from {MIN_SEEDS_FOR_INTERVAL} seeds on)",
        *_aligned(["", *steps], [_with_means(line, line.mean, decimals) for line in result.lines]),
        "",
        f"{after}: interquartile mean (IQM) of all seeds and tasks, tasks made worse, share of the gap from standing "
        f"still to the oracle, {unit} of a task that adaptation had read",
        *_aligned(
            ["", "IQM", "made worse", "gap closed", unit], [_points(line, at, decimals) for line in result.lines]
        ),
    ]
    if not result.pairs:
        return "\n".join(text)
    text += [
        "",
        f"difference from {result.reference} on the same seeds and tasks "
        "(+- not adjusted for the number of comparisons)",
        *_aligned(["", *steps], [_with_means(pair, pair.mean, decimals, "+") for pair in result.pairs]),
        "",
        f"primary comparison: {after}, against {result.reference}; paired t test from {MIN_SEEDS_FOR_INTERVAL} seeds "
        "on, adjusted by Holm's method; P(better) is the chance that a run is better on a task",
        *_aligned(
            ["", "P(better)", "p", "adjusted", "each seed"], [_tests(pair, at, decimals) for pair in result.pairs]
        ),
    ]
    return "\n".join(text)


def _with_means(row: Line | Pair, mean: Floats, decimals: int, sign: str = "") -> list[str]:
    """The label, the number of seeds, and the mean after each step with its interval."""
    return [row.label, str(len(row.seeds)), *estimates_text(mean, row.interval, decimals, sign)]


def _points(line: Line, step: int, decimals: int) -> list[str]:
    """The label and the point values of a line; the interquartile mean has an interval from ten seeds on."""
    shares = [
        f"{round(values[step], 2) + 0.0:.0%}" if values is not None else "-"
        for values in (line.made_worse, line.gap_closed)
    ]
    middle = (
        f"{number_text(line.interquartile_mean[step], decimals)}{_ends(line.interquartile_interval, step, decimals)}"
    )
    return [line.label, middle, *shares, "-" if line.data is None else _amount(line.data[step])]


def _tests(pair: Pair, step: int, decimals: int) -> list[str]:
    """The label, the probability of improvement, the p-values and every seed's difference."""
    better = f"{number_text(pair.improvement[step], 2)}{_ends(pair.improvement_interval, step, 2)}"
    p_values = ["-", "-"]
    if pair.p_values is not None and pair.adjusted is not None:
        p_values = [
            "-" if math.isnan(value) else f"{value:.3g}" for value in (float(pair.p_values[step]), pair.adjusted)
        ]
    return [
        pair.label,
        better,
        *p_values,
        " ".join(number_text(value, decimals, "+") for value in pair.per_seed[:, step]),
    ]


def _ends(interval: tuple[Floats, Floats] | None, step: int, decimals: int) -> str:
    if interval is None:
        return ""
    low, high = (number_text(end[step], decimals) for end in interval)
    return f" [{low}, {high}]"


def _aligned(head: list[str], rows: Sequence[list[str]]) -> list[str]:
    """Lines of a table whose columns are as wide as their widest cell; the first is to the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in [head, *rows]
    ]
