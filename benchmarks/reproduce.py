"""Learning results: trains, evaluates on shared held-out tasks, compares with what has been published.

    python -m benchmarks.reproduce --list                 # the experiments, their cost, what there is, what is to do
    python -m benchmarks.reproduce navigation --list      # one of them in detail: commands, seeds, published figures
    python -m benchmarks.reproduce navigation             # trains all of it, prints ours beside the published
    python -m benchmarks.reproduce navigation --quick     # the first iterations of one seed, beside the committed rows
    python -m benchmarks.reproduce --check                # which committed runs today's commands no longer make
    python -m benchmarks.reproduce navigation --keep      # trains what benchmarks/results lacks, and puts it there
    python -m benchmarks.reproduce navigation --summary   # summarises benchmarks/results again, without training

Runs go to runs/reproduce/EXPERIMENT/VARIANT-seedSEED; interrupted ones are resumed. The files that suffice to recompute
and redraw everything are kept in benchmarks/results/EXPERIMENT: configuration, progress and evaluation of each run,
summary.json, summary.md and the figures; agents go into the package (`benchmarks.collect`). README.md there says what
is unfinished. To repeat a run with --keep, remove its folder there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from benchmarks.collect import collect
from benchmarks.experiments import EXPERIMENTS, RESULTS, RUNS, Experiment, run_name
from benchmarks.measure import refuse_changes
from benchmarks.overview import committed, detailed, listed, status, write_status
from benchmarks.summaries import (
    Measurement,
    differences_from,
    in_words,
    measurements,
    other_options,
    outdated,
    settings_of,
    summarise,
)
from metarl.common.errors import UserError, nearest
from metarl.common.strict_json import read_json
from metarl.config.measuring import EvaluationConfig
from metarl.store.folder import RunFolder
from metarl.store.runs import read_run

QUICK_RUNS = Path("runs/reproduce-quick")
# Rows are compared bit for bit only where these agree.
_SOFTWARE = ("torch", "numpy", "mujoco", "gymnasium")


@dataclass(frozen=True)
class Options:
    """Trains experiments, evaluates them and prints ours beside the published figures."""

    experiments: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names of experiments, or all; --list, --check and --summary take all by default."""
    list: bool = False
    """List the experiments: runs kept, environment steps and core-hours as measured, steps to do, commits, published
    figures. Of experiments that are named: also commands and seeds of each variant."""
    check: bool = False
    """Tell from their config.json which committed runs today's commands no longer make; trains nothing. The exit code
    is 1 if a summary does not say so."""
    summary: bool = False
    """Summarise benchmarks/results again; trains nothing."""
    quick: bool = False
    """Train the first two iterations of each variant's first seed, or as many as the first row of progress takes, and
    compare their rows with the committed ones. No results. The exit code is 1 if a row differs."""
    keep: bool = False
    """Train what benchmarks/results lacks, and put it there; refused if the tree has uncommitted changes."""
    jobs: int = 2
    """Number of parallel runs, with one thread each; the results do not depend on it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = tyro.cli(Options, prog="python -m benchmarks.reproduce", args=arguments)
    try:
        return _command(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _command(options: Options) -> int:
    modes = [mode for mode in ("list", "check", "summary", "quick", "keep") if getattr(options, mode)]
    if len(modes) > 1:
        raise UserError(f"--{' and --'.join(modes)} exclude one another; give one of them.")
    names = _named(options.experiments, kept="check" in modes or "summary" in modes, default="list" in modes)
    if options.list:
        print("\n\n".join(map(detailed, names)) if options.experiments else listed(names))
    elif options.check:
        return _check(names)
    elif options.summary:
        failed = []
        for name in names:
            if committed(name):
                failed += _tried(name, partial(_summarise, name, RESULTS / name))
            else:
                print(f"{name}: no run is kept")
        write_status()
        return 1 if failed else 0
    elif options.quick:
        return _quick(names, options.jobs)
    else:
        return _reproduce(names, options.keep, options.jobs)
    return 0


def _named(experiments: Sequence[str], kept: bool, default: bool) -> list[str]:
    """The experiments that are meant; all, or all with committed results, where none need be named."""
    known = (*EXPERIMENTS, "all")
    unknown = [name for name in experiments if name not in known]
    if unknown:
        raise UserError(f"there is no experiment {unknown[0]!r}; see --list.{nearest(unknown[0], known)}")
    if not experiments and not (kept or default):
        raise UserError("name an experiment, or all; --list shows them.")
    if experiments and "all" not in experiments:
        return list(experiments)
    return [name for name in EXPERIMENTS if not kept or committed(name)]


def _check(names: Iterable[str]) -> int:
    """Prints which committed runs today's commands no longer make; 1 if a summary or README.md does not say so."""
    unsaid = 0
    for name in names:
        if not committed(name):
            print(f"{name}: no run is kept")
            continue
        found, summary = outdated(name, RESULTS / name), RESULTS / name / "summary.json"
        for run, differences in found.items():
            print(f"{name}/{run}: {'; '.join(in_words(differences))}")
        said = read_json(summary) if summary.is_file() else {"variants": {}}
        summarised = {run_name(variant, seed) for variant, of in said["variants"].items() for seed in of["seeds"]}
        if said.get("outdated") != found:
            unsaid += 1
            print(f"{name}: its summary does not say so; python -m benchmarks.reproduce {name} --summary")
        elif summarised != {folder.name for folder in committed(name)}:
            unsaid += 1
            print(f"{name}: its summary is of other runs; python -m benchmarks.reproduce {name} --summary")
        elif any(of["command"] != EXPERIMENTS[name].command(variant) for variant, of in said["variants"].items()):
            unsaid += 1
            print(f"{name}: its summary has other commands; python -m benchmarks.reproduce {name} --summary")
        elif not found:
            print(f"{name}: today's commands make all of its {len(summarised)} runs")
    page = RESULTS / "README.md"
    if not page.is_file() or page.read_text() != status():
        unsaid += 1
        print(f"{page}: says something else than there is; python -m benchmarks.reproduce NAME --summary, of any NAME")
    return min(unsaid, 1)


def _reproduce(names: Sequence[str], keep: bool, jobs: int) -> int:
    """Trains, evaluates and summarises; returns the exit code."""
    if keep:
        refuse_changes()
    wanted = [(name, *run) for name in names for run in EXPERIMENTS[name].runs()]
    there = [run for run in wanted if keep and (RESULTS / run[0] / run_name(*run[1:])).is_dir()]
    for name, *run in there:
        print(f"{name}/{run_name(*run)}: in benchmarks/results already; remove it there to train it again")
    failed = _all(lambda run: _run(*run), [run for run in wanted if run not in there], jobs)
    if keep:
        # After all training: to write results changes the tree.
        for name, variant, seed in wanted:
            run = run_name(variant, seed)
            if (name, variant, seed) not in there and f"{name}/{run}" not in failed:
                failed += _tried(f"{name}/{run}", partial(collect, RUNS / name / run, name))
    for name in names:
        folder = (RESULTS if keep else RUNS) / name
        if not keep and any(run.startswith(f"{name}/") for run in failed):
            print(f"{name}: no summary, because not all of its runs are done")
        elif any((folder / run_name(*run)).is_dir() for run in EXPERIMENTS[name].runs()):
            failed += _tried(name, partial(_summarise, name, folder))
    if keep:
        write_status()
    first = "commit what was kept; then " if keep else ""
    for run in failed:
        print(f"failed: {run}; {first}the same command tries again", file=sys.stderr)
    return 1 if failed else 0


def _all(
    function: Callable[[tuple[str, str, int]], None], runs: Sequence[tuple[str, str, int]], jobs: int
) -> list[str]:
    """Calls the function for each run, several at a time; returns the names of those whose commands failed."""

    def attempt(run: tuple[str, str, int]) -> list[str]:
        return _tried(f"{run[0]}/{run_name(*run[1:])}", partial(function, run))

    with ThreadPoolExecutor(jobs) as pool:
        return [name for names in pool.map(attempt, runs) for name in names]


def _tried(name: str, act: Callable[[], object]) -> list[str]:
    """Acts; where that fails, prints why and returns the name of what has failed, so that the others go on."""
    try:
        act()
    except (subprocess.CalledProcessError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return [name]
    return []


def _summarise(name: str, folder: Path) -> None:
    print(summarise(name, folder))


def _run(name: str, variant: str, seed: int) -> None:
    """Trains, evaluates and analyses one run, or goes on where it was interrupted."""
    experiment, folder = EXPERIMENTS[name], RUNS / name / run_name(variant, seed)
    agent = RUNS / experiment.agents_of / run_name(variant, seed) if experiment.agents_of else folder
    _train(experiment, variant, seed, agent, [])
    for asked in measurements(experiment):
        if _lacks(folder, asked, agent):
            _call(asked.command, str(agent), *asked.words)
            if isinstance(asked.wanted, EvaluationConfig) and experiment.agents_of:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(RunFolder(agent).config, folder)
                shutil.copy(RunFolder(agent).evaluation(asked.wanted), folder / asked.file)


def _lacks(run: Path, asked: Measurement, agent: Path) -> bool:
    """Whether a result is not there, was asked for with other options, or is of an earlier iteration of the agent."""
    result = run / asked.file
    if not result.is_file():
        return True
    measured = read_json(result).get("iteration")
    reached = max(read_run(agent).progress.get("iteration", ()), default=0)
    if asked.wanted.checkpoint == "last" and measured is not None and measured < reached:
        print(f"{result}: computed again, because it is of iteration {measured}, and training went on to {reached:.0f}")
        return True
    if agent != run and _training_of(run) != _training_of(agent):
        print(f"{result}: computed again, because its agent was trained again")
        return True
    if differences := other_options(result, asked.wanted):
        print(f"{result}: computed again, because its options were others ({'; '.join(differences)})")
        return True
    print(f"{result}: there already; remove it to compute it again")
    return False


def _training_of(run: Path) -> Any:
    """The software, commit and hardware that a run was trained with."""
    return read_json(RunFolder(run).config)["metarl"]


def _train(experiment: Experiment, variant: str, seed: int, folder: Path, more: Sequence[str]) -> None:
    resume = []
    if (folder / "checkpoints/last.safetensors").exists():  # It would go on with its own settings.
        today = settings_of(experiment.train_options(variant, seed))
        resume = ["--resume", "--iterations", today["iterations"]]
        if changed := differences_from(today, folder, today["iterations"]):
            raise UserError(f"{folder} was begun with other settings ({'; '.join(changed)}); remove it to begin anew.")
    print(f"{folder}: {'goes on' if resume else 'begins'}")
    _call("metarl.train", *experiment.train_options(variant, seed), "--run-dir", str(folder), *resume, *more)


def _call(module: str, *options: str) -> None:
    subprocess.run([sys.executable, "-m", module, *options, "--threads", "1"], check=True)


def _quick(names: Sequence[str], jobs: int) -> int:
    """Trains the first iterations of each variant's first seed; prints how their rows compare with the committed.

    Returns 1 if a run failed, or if rows differ that should be the same.
    """
    runs = [(name, *run) for name in names for run in first_seeds(EXPERIMENTS[name])]

    def train(run: tuple[str, str, int]) -> None:
        folder = QUICK_RUNS / run[0] / run_name(*run[1:])
        shutil.rmtree(folder, ignore_errors=True)
        _train(EXPERIMENTS[run[0]], *run[1:], folder, quick_options(EXPERIMENTS[run[0]], *run[1:]))

    failed, differ = _all(train, runs, jobs), False
    print("\nQUICK: the first iterations of one seed, no results")
    for name, variant, seed in runs:
        run = run_name(variant, seed)
        sentence = "failed"
        if f"{name}/{run}" not in failed:
            committed = RESULTS / (EXPERIMENTS[name].agents_of or name) / run
            outcome, sentence = compared(QUICK_RUNS / name / run, committed)
            differ |= outcome == "different"
        print(f"{name}/{run}: {sentence}")
    return 1 if failed or differ else 0


def quick_options(experiment: Experiment, variant: str, seed: int) -> list[str]:
    """Options of two iterations, or of as many as the first row of progress takes; none where nothing is trained."""
    today = settings_of(experiment.train_options(variant, seed))
    return [] if today["iterations"] == "0" else ["--iterations", str(max(2, int(today["log_every"])))]


def first_seeds(experiment: Experiment) -> list[tuple[str, int]]:
    """Each variant and its first seed."""
    return [(variant, experiment.seeds_of(variant)[0]) for variant in experiment.variants]


Outcome = Literal["same", "different", "not comparable"]


def compared(quick: Path, committed: Path) -> tuple[Outcome, str]:
    """Compares the first rows of a run with those of a committed one, but for what a clock measured.

    Args:
        quick: Folder of a run of few iterations.
        committed: Folder of the committed run.

    Returns:
        The outcome, and a sentence.
    """
    if not committed.is_dir():
        return "not comparable", "no run is committed"
    ours, theirs = read_run(quick), read_run(committed)
    if not (ours.progress and theirs.progress):
        return "not comparable", "there is no training to compare"
    machines = [machine(run.config["metarl"]) for run in (ours, theirs)]
    for part, value in machines[0].items():
        if value != machines[1][part]:
            return "not comparable", f"not compared, because the committed run has {part} {machines[1][part]}"
    for row, iteration in enumerate(ours.progress["iteration"].tolist()):
        rows = (theirs.progress["iteration"] == iteration).nonzero()[0]
        if not len(rows):
            return "not comparable", f"the committed run has no row of iteration {iteration:.0f}"
        for column in sorted(ours.progress.keys() & theirs.progress.keys()):
            if "second" in column:
                continue
            one, other = ours.progress[column][row], theirs.progress[column][rows[0]]
            if one != other and not (one != one and other != other):  # Empty cells are NaN.
                return "different", f"{column} of iteration {iteration:.0f} is {one:.9g}, committed {other:.9g}"
    commit = " and ".join(theirs.commits)
    return "same", f"the same rows as the committed run of {commit}"


def machine(made_with: Mapping[str, str]) -> dict[str, str]:
    """What the last bits of a run depend on: the type of processor, and versions of packages."""
    return {"processor": made_with["hardware"].partition(", ")[2], **{part: made_with[part] for part in _SOFTWARE}}


if __name__ == "__main__":
    sys.exit(main())
