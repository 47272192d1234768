"""Overviews of the experiments: what benchmarks/results has of each, what it cost, and what is still to be done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.experiments import EXPERIMENTS, RESULTS, RUNS, Published, run_name
from benchmarks.measure import Cell, Table
from benchmarks.summaries import config_of, core_hours
from metarl.common.errors import UserError
from metarl.common.strict_json import read_json
from metarl.config.resolved import Settings
from metarl.inner.rule import Stage
from metarl.runs.build import build
from metarl.store.runs import StoredRun, commits_of, read_run


def committed(name: str) -> list[Path]:
    """The folders of an experiment's runs in benchmarks/results."""
    folders = [RESULTS / name / run_name(*run) for run in EXPERIMENTS[name].runs()]
    return [folder for folder in folders if folder.is_dir()]


def listed(names: Iterable[str]) -> str:
    """A table with a row for each experiment."""
    rows: list[dict[str, Cell]] = []
    for name in names:
        experiment, runs = EXPERIMENTS[name], [read_run(folder) for folder in committed(name)]
        to_do: str | None = "unknown"
        with suppress(UserError):  # A package is missing, which the details of the experiment say.
            to_do = _to_do(name, list(experiment.variants))
        rows.append(
            {
                "experiment": name,
                "variants": len(experiment.variants),
                "runs kept": f"{len(runs)} of {len(list(experiment.runs()))}",
                **_costs(runs),
                "M env steps to do": to_do,
                "commits": ", ".join(dict.fromkeys(commit[:9] for commit in _commits(runs))) or None,
                "published": "; ".join(dict.fromkeys(figure.source for figure in experiment.published)) or None,
            }
        )
    note = (
        "Environment steps and core-hours are those of training the runs that are kept; to do: at most, of the others. "
        "Core-hours are CPU time, or the wall-clock time of runs that do not hold it."
    )
    return str(Table("Experiments", rows, note))


def detailed(name: str) -> str:
    """What is kept of an experiment's variants, what is to be done, the commands, and the published figures."""
    experiment = EXPERIMENTS[name]
    rows: list[dict[str, Cell]] = []
    problems: dict[str, None] = {}
    for variant in experiment.variants:
        seeds = experiment.seeds_of(variant)
        folders = {seed: RESULTS / name / run_name(variant, seed) for seed in seeds}
        runs = {seed: read_run(folder) for seed, folder in folders.items() if folder.is_dir()}
        to_do: str | None = "unknown"
        try:
            to_do = _to_do(name, [variant])
        except UserError as error:
            problems[str(error)] = None
        rows.append(
            {
                "variant": variant,
                "seeds kept": f"{', '.join(map(str, runs)) or 'none'} of {', '.join(map(str, seeds))}",
                "iterations": config_of(*experiment.train_options(variant, 0)).resolve().run.iterations,
                **_costs(list(runs.values())),
                "M env steps to do": to_do,
                "commits": ", ".join(_commits(list(runs.values()))) or None,
            }
        )
    lines = [str(Table(name, rows, experiment.note)), *problems, "", "Commands:"]
    if experiment.agents_of:
        lines.append(f"  the agents are those of {experiment.agents_of}")
    lines += [f"  {experiment.command(variant)}" for variant in experiment.variants]
    for module, options in (("evaluate", experiment.evaluation), ("analyze", experiment.analysis)):
        if options is not None:
            lines.append(f"  python -m metarl.{module} RUN {options}".rstrip())
    published = [f"  {_in_words(figure)}" for figure in experiment.published]
    return "\n".join([*lines, *(["", "Published:", *published] if published else [])])


def _in_words(figure: Published) -> str:
    spread = figure.spread
    after = [
        f"{value:g}" + (f" ± {spread[k]:g}" if k in spread else "") + f" (step {k})"
        for k, value in figure.after.items()
    ]
    return f"{figure.variant}: {', '.join(after)}; {figure.source}"


def _costs(runs: Sequence[StoredRun]) -> dict[str, Cell]:
    """Millions of environment steps, and core-hours, of training some runs."""
    steps = [run.progress["env_steps"][-1] for run in runs if "env_steps" in run.progress]
    return {
        "M env steps": f"{sum(steps) / 1e6:.1f}" if steps else None,
        "core-hours": f"{sum(map(core_hours, runs)):.2f}" if runs else None,
    }


def _commits(runs: Iterable[StoredRun]) -> list[str]:
    return list(dict.fromkeys(commit for run in runs for commit in run.commits))


def _to_do(name: str, variants: Sequence[str]) -> str | None:
    """Millions of environment steps that training the runs takes that are not kept; None without any.

    The agents of another experiment are trained where their runs are not at hand.
    """
    experiment = EXPERIMENTS[name]

    def lacks(run: str) -> bool:
        at_hand = bool(experiment.agents_of) and (RUNS / experiment.agents_of / run).is_dir()
        return not ((RESULTS / name / run).is_dir() or at_hand)

    missing = {
        variant: sum(lacks(run_name(variant, seed)) for seed in experiment.seeds_of(variant)) for variant in variants
    }
    steps = sum(
        runs * budget(config_of(*experiment.train_options(variant, 0)).resolve())
        for variant, runs in missing.items()
        if runs
    )
    return f"{steps / 1e6:.1f}" if steps else None


def budget(settings: Settings) -> int:
    """The most environment steps that training can take: fewer, if episodes end early; none on supervised families.

    Args:
        settings: The run's settings.

    Raises:
        UserError: If the family needs a package that is missing.
    """
    if settings.examples is not None or settings.algorithm.training == "none":
        return 0
    usual, iterations = settings.rollouts.rollouts_per_task, settings.run.iterations
    if settings.baseline is not None and settings.baseline.trainer == "ppo":
        episodes = iterations * usual * (settings.inner.num_inner_steps + 1)
    else:
        _, rule = build(settings)

        def collected(stage: Stage) -> int:
            """Episodes of each task for the stage's update and, if it counts in the meta-objective, after it."""
            return (usual if stage.rollouts is None else stage.rollouts) + (usual if stage.query_weight else 0)

        loops = [rule.stages((1.0,) * settings.trained_steps, iteration) for iteration in range(iterations)]
        episodes = sum(usual + sum(map(collected, stages)) for stages in loops)
    return episodes * settings.meta.meta_batch_size * settings.rollouts.horizon


def status() -> str:
    """The page that says of every experiment how many of its runs are kept, and which commits made them."""
    lines = [
        "# Results by experiment",
        "",
        "The runs that are kept here, of those that each experiment asks for. Outdated are those that today's commands",
        "no longer make; the experiment's page says what has changed. `--list EXPERIMENT` says what is to be done and",
        "what has been published. Written by `python -m benchmarks.reproduce --summary`.",
        "",
        "| experiment | runs | | outdated | commits |",
        "|---|---|---|---|---|",
    ]
    lines += [_row(name) for name in EXPERIMENTS]
    others = sorted(path.parent.name for path in RESULTS.glob("*/summary.md") if path.parent.name not in EXPERIMENTS)
    if others:
        lines += ["", f"Other measurements: {', '.join(f'[{name}]({name}/summary.md)' for name in others)}."]
    return "\n".join(lines) + "\n"


def _row(name: str) -> str:
    """The row of `status` of an experiment."""
    folders, wanted = committed(name), len(list(EXPERIMENTS[name].runs()))
    commits = dict.fromkeys(commit for folder in folders for commit in commits_of(read_json(folder / "config.json")))
    summary = RESULTS / name / "summary.json"
    outdated = len(read_json(summary)["outdated"]) if summary.is_file() else 0
    state = "" if len(folders) == wanted else "unfinished" if folders else "not begun"
    link = f"[{name}]({name}/summary.md)" if summary.is_file() else name
    return f"| {link} | {len(folders)} of {wanted} | {state} | {outdated or ''} | {', '.join(commits)} |"


def write_status() -> None:
    """Writes `status` to benchmarks/results/README.md."""
    (RESULTS / "README.md").write_text(status())
