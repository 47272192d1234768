"""Compares algorithms by the evaluations of their runs, paired by seed and task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metarl.common.arrays import Floats
from metarl.common.errors import UserError
from metarl.common.statistics import (
    MIN_SEEDS_FOR_INTERVAL,
    aggregate,
    bootstrap_interval,
    holm,
    interquartile_mean,
    paired_difference,
    paired_p_values,
    probability_of_improvement,
    share_made_worse,
    share_of_gap,
)
from metarl.config.algorithms import ALGORITHMS, run_title
from metarl.config.checked import Natural, convert
from metarl.config.measuring import Checkpoint
from metarl.config.trust import Trust
from metarl.reports.files import PICTURES, checked_file, save_picture
from metarl.reports.labels import Group, evaluated_on, group_runs, require_same_step_sizes, runs_of
from metarl.reports.wording import tasks_in_words
from metarl.store.reference import run_folder
from metarl.store.runs import StoredRun, read_run, run_folders

Ends = tuple[Floats, Floats]
"""Lower and upper ends of an interval, [step] each."""

# Settings that say what a return is.
_PROBLEM = ("env_kwargs", "horizon")


@dataclass(frozen=True, eq=False)
class Line:
    """Runs that differ only in their seed.

    Attributes:
        label: Name of the line.
        seeds: Training seeds, ascending.
        returns: Mean return of an episode, or the error or accuracy, [seed, task, step].
        mean: Mean over tasks and seeds, [step].
        interval: Half-width of its 95 % t interval over seeds, [step]; None below five seeds.
        interquartile_mean: `metarl.common.statistics.interquartile_mean`, [step].
        interquartile_interval: Its bootstrap interval over seeds; None below ten seeds.
        made_worse: Share of tasks that adaptation makes worse, mean over seeds, [step]; None if no step changes the
            policy.
        gap_closed: Share of the gap from standing still to the oracle, [step]; None without an oracle among the runs,
            or if it returns no more than standing still.
        data: Episodes of a task, or examples, that adaptation had read before each return, mean over tasks and seeds,
            [step]; None if evaluations of older versions do not say it.
    """

    label: str
    seeds: tuple[int, ...]
    returns: Floats
    mean: Floats
    interval: Floats | None
    interquartile_mean: Floats
    interquartile_interval: Ends | None
    made_worse: Floats | None
    gap_closed: Floats | None
    data: Floats | None


@dataclass(frozen=True, eq=False)
class Pair:
    """A line and the reference, on the seeds that both have and on the same tasks.

    Attributes:
        label: Name of the line.
        seeds: The common seeds, ascending.
        per_seed: The line less the reference, mean over tasks, [seed, step].
        mean: Mean over seeds, [step].
        interval: Half-width of its 95 % t interval over seeds, [step], not adjusted for the number of comparisons; None
            below five seeds.
        p_values: Of the paired t test over seeds, [step], not adjusted; None below five seeds.
        adjusted: The p-value of the primary comparison, adjusted by Holm's method for the table; None below five seeds.
        improvement: `metarl.common.statistics.probability_of_improvement`, [step]; of supervised tasks measured by
            their error, the chance of a smaller one.
        improvement_interval: Its bootstrap interval over seeds; None below ten seeds.
    """

    label: str
    seeds: tuple[int, ...]
    per_seed: Floats
    mean: Floats
    interval: Floats | None
    p_values: Floats | None
    adjusted: float | None
    improvement: Floats
    improvement_interval: Ends | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Lines on one family, and each line's difference from the reference.

    The primary comparison is named before the numbers are seen: each line with at least five seeds against the
    reference, after ``step`` steps. Its p-values are adjusted for their number; nothing else is.

    Attributes:
        env: The family of the evaluations, and that of training where it is another, as in
            `metarl.reports.labels.evaluated_on`.
        measure: "return", or of supervised families "error" or "accuracy".
        step_name: What a step of adaptation is.
        step: Steps of the primary comparison.
        checkpoint: The evaluated checkpoint.
        tasks: The tasks, in words.
        reference: Label of the line that the others are compared with.
        lines: All lines, in order of their first run.
        pairs: The other lines' differences from the reference, in the same order.
    """

    env: str
    measure: str
    step_name: str
    step: int
    checkpoint: str
    tasks: str
    reference: str
    lines: tuple[Line, ...]
    pairs: tuple[Pair, ...]

    @property
    def sign(self) -> int:
        """1 if more of the measure is better, -1 if less is."""
        return _sign(self.measure)


def _sign(measure: str) -> int:
    return -1 if measure == "error" else 1


def compare(
    runs: str | Path | Iterable[str | Path],
    output: str | Path | None = None,
    reference: str | Path | None = None,
    step: int = 1,
    checkpoint: Checkpoint = "last",
    trust: Trust = False,
) -> Comparison:
    """Compares algorithms by the evaluations of their runs, paired by seed and task.

    Runs that differ only in their seed form a line, as for `metarl.plot`. The seed is the unit: tasks of one seed share
    one model, so intervals and p-values are over seeds.

    Args:
        runs: Folders of evaluated runs on one family.
        output: A picture of the paired differences and of each task before and after adaptation: PNG, SVG or PDF by its
            suffix; None for none. An existing picture is replaced.
        reference: A folder among ``runs``, whose line the others are compared with; None for MAML, of several lines of
            it the one with its defaults, or without it the line of the first run.
        step: The steps of adaptation after which the primary comparison is made, and which the picture shows.
        checkpoint: The checkpoint whose evaluations are compared: ``last`` or ``best``.
        trust: Whether code from outside metarl that a run names may be imported, as for `metarl.load`. It is not
            needed; labels then leave out settings that a family of your own has as its default.

    Returns:
        The comparison.

    Raises:
        UserError: If a folder is no run or was not evaluated; if the runs are of several families, or of one with
            different parameters or horizons, were evaluated on different tasks, or have no seed in common with the
            reference; if the seeds of a line were evaluated with different numbers of episodes or step sizes; or if the
            picture cannot be written.
    """
    picture = None if output is None else checked_file(output, "picture", PICTURES)
    checkpoint, step = convert("checkpoint", checkpoint, Checkpoint), convert("step", step, Natural)
    folders = run_folders(runs)
    chosen = convert("reference", reference, Path | None)
    groups = group_runs([read_run(folder, checkpoint, trust) for folder in folders])
    if len(families := dict.fromkeys(map(evaluated_on, runs_of(groups)))) > 1:
        raise UserError(f"compare looks at one family at a time, got runs on {' and '.join(families)}.")
    if chosen is None:
        labels = [usual_reference(groups)]
    else:
        labels = [g.label for g in groups if run_folder(chosen).resolve() in {run.path.resolve() for run in g.runs}]
        if not labels:
            raise UserError(f"the reference '{chosen}' is not among the runs: give one of their folders.")
    comparison = compare_lines({group.label: group.runs for group in groups}, labels[0], step)
    if picture is not None:
        from metarl.reports.comparison_figure import draw_comparison  # Needs matplotlib.

        save_picture(draw_comparison(comparison), picture)
    return comparison


def usual_reference(groups: Sequence[Group]) -> str:
    """Label of the line that the others are compared with: MAML's, the plain one of several; else the first line."""
    title = ALGORITHMS["maml"].title
    labels = [group.label for group in groups if run_title(group.runs[0].config) == title]
    return labels[0] if len(labels) == 1 else title if title in labels else groups[0].label


def compare_lines(lines: Mapping[str, Sequence[StoredRun]], reference: str, step: int = 1) -> Comparison:
    """Compares lines of evaluated runs.

    Args:
        lines: The runs of each line by its label.
        reference: Label of the line that the others are compared with.
        step: As for `compare`.

    Returns:
        The comparison.

    Raises:
        UserError: As for `compare`.
    """
    runs = [run for of_line in lines.values() for run in of_line]
    evaluations = [run.evaluated() for run in runs]
    first = evaluations[0]
    for run, evaluation in zip(runs, evaluations, strict=True):
        problems = [{name: of.config.get(name) or "unset" for name in _PROBLEM} for of in (runs[0], run)]
        if problems[0] != problems[1]:
            one, other = (", ".join(f"{name} {value}" for name, value in of.items()) for of in problems)
            raise UserError(
                f"'{runs[0].name}' ({one}) and '{run.name}' ({other}) are of different problems, so that their returns "
                "cannot be compared: give runs of one."
            )
        if not _same(evaluation.tasks, first.tasks):
            raise UserError(
                f"'{runs[0].name}' and '{run.name}' were evaluated on different tasks: evaluate them again with the "
                "same seed (--seed) and tasks (--tasks), or the same task_file (--task-file)."
            )
    for label, of_line in lines.items():
        if len({(run.evaluated().rollouts, run.evaluated().shots) for run in of_line}) > 1:
            raise UserError(
                f"seeds of {label} were evaluated with different amounts of data: evaluate them again with the same "
                "rollouts (--rollouts), or of supervised tasks shots (--shots) and queries (--queries)."
            )
    steps = min(evaluation.returns.shape[1] for evaluation in evaluations)
    for label, of_line in lines.items():
        require_same_step_sizes(label, of_line, steps - 1)
    if step >= steps:
        raise UserError(f"step must be at most {steps - 1}, the steps that all runs were evaluated for, got {step}.")
    sign = _sign(first.measure)
    ordered = {label: sorted(of_line, key=lambda run: run.seed) for label, of_line in lines.items()}
    returns = {
        label: np.array([run.evaluated().returns[:, :steps] for run in of_line]) for label, of_line in ordered.items()
    }
    ends = _ends_of_the_gap(ordered, returns)
    pairs = [
        _pair(label, of_line, returns[label], ordered[reference], returns[reference], sign)
        for label, of_line in ordered.items()
        if label != reference
    ]
    return Comparison(
        env=evaluated_on(runs[0]),
        measure=first.measure,
        step_name=" or ".join(dict.fromkeys(evaluation.step_name for evaluation in evaluations)),
        step=step,
        checkpoint=first.checkpoint,
        tasks=tasks_in_words(first.tasks, first.finite),
        reference=reference,
        lines=tuple(_line(label, of_line, returns[label], sign, ends) for label, of_line in ordered.items()),
        pairs=tuple(_adjusted(pairs, step)),
    )


def _same(tasks: NDArray[np.generic], others: NDArray[np.generic]) -> bool:
    return tasks.shape == others.shape and tasks.tolist() == others.tolist()


def _ends_of_the_gap(
    lines: Mapping[str, Sequence[StoredRun]], returns: Mapping[str, Floats]
) -> tuple[float, float] | None:
    """Returns of standing still and of the oracle before adaptation; None without one, or if there is no gap."""
    oracles = [label for label, runs in lines.items() if runs[0].config["algo"] == "oracle"]
    if not oracles:
        return None
    standstill = lines[oracles[0]][0].evaluated().references.standstill
    oracle = float(returns[oracles[0]][:, :, 0].mean())
    return (standstill, oracle) if standstill is not None and oracle > standstill else None


def _line(
    label: str, runs: Sequence[StoredRun], returns: Floats, sign: float, ends: tuple[float, float] | None
) -> Line:
    estimate = aggregate(returns)
    # What is no number, because the policy has diverged, is the worst.
    ranked = np.where(np.isnan(returns), -sign * np.inf, returns)
    row, evaluations = ALGORITHMS.get(runs[0].config["algo"]), [run.evaluated() for run in runs]
    read = [amount for evaluation in evaluations if (amount := evaluation.adaptation_episodes) is not None]
    # Evaluations of older versions do not say that no step changes the policy.
    adapts = (row is None or row.adapts) and all(evaluation.share_made_worse is not None for evaluation in evaluations)
    return Line(
        label=label,
        seeds=tuple(run.seed for run in runs),
        returns=returns,
        mean=estimate.mean,
        interval=estimate.half_width if len(runs) >= MIN_SEEDS_FOR_INTERVAL else None,
        interquartile_mean=_numbers(interquartile_mean(ranked)),
        interquartile_interval=bootstrap_interval(interquartile_mean, ranked),
        made_worse=share_made_worse(sign * returns).mean(axis=0) if adapts else None,
        gap_closed=None if ends is None else share_of_gap(estimate.mean, *ends),
        data=np.mean([amount[: returns.shape[2]] for amount in read], axis=0) if len(read) == len(runs) else None,
    )


def _numbers(values: Floats) -> Floats:
    """Values, with NaN for infinities."""
    return np.where(np.isfinite(values), values, np.nan)


def _pair(
    label: str,
    runs: Sequence[StoredRun],
    returns: Floats,
    others: Sequence[StoredRun],
    other_returns: Floats,
    sign: float,
) -> Pair:
    own, theirs = [run.seed for run in runs], [run.seed for run in others]
    seeds = tuple(seed for seed in own if seed in theirs)
    if not seeds:
        raise UserError(f"'{runs[0].name}' and '{others[0].name}' are of lines without a common seed to pair them by.")
    one = returns[[own.index(seed) for seed in seeds]]
    other = other_returns[[theirs.index(seed) for seed in seeds]]
    difference, enough = paired_difference(one, other), len(seeds) >= MIN_SEEDS_FOR_INTERVAL
    return Pair(
        label=label,
        seeds=seeds,
        per_seed=(one - other).mean(axis=1),
        mean=difference.mean,
        interval=difference.half_width if enough else None,
        p_values=paired_p_values(one, other) if enough else None,
        adjusted=None,
        improvement=probability_of_improvement(sign * one, sign * other),
        improvement_interval=bootstrap_interval(probability_of_improvement, sign * one, sign * other),
    )


def _adjusted(pairs: Sequence[Pair], step: int) -> Iterable[Pair]:
    """The pairs with the p-values of the primary comparison, adjusted for their number."""
    primary = {pair.label: float(pair.p_values[step]) for pair in pairs if pair.p_values is not None}
    adjusted = dict(zip(primary, holm(list(primary.values())).tolist(), strict=True))
    return [replace(pair, adjusted=adjusted.get(pair.label)) for pair in pairs]
