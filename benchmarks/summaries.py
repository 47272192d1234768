"""Summaries of learning results: every number, compared with the first variant and with what has been published."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.experiments import EXPERIMENTS, Experiment, run_name
from metarl.commands.cli import parse
from metarl.commands.train import parse_config
from metarl.common.errors import UserError
from metarl.common.statistics import MIN_SEEDS_FOR_INTERVAL
from metarl.common.strict_json import plain, read_json, write_json
from metarl.config.config import Config
from metarl.config.measuring import AnalysisConfig, EvaluationConfig
from metarl.inner.rule import evaluation_scales
from metarl.reports.comparison import Comparison, compare_lines
from metarl.reports.comparison_figure import draw_differences
from metarl.reports.curves import draw_apart, draw_gradient_steps, draw_training, training_adapts
from metarl.reports.files import save_picture
from metarl.reports.labels import BOOKKEEPING, Group, differences
from metarl.reports.tables import usual_step_scales
from metarl.reports.wording import decimals_of, estimates_text, number_text, training_text
from metarl.store.config_file import load_config
from metarl.store.evaluations import Evaluation
from metarl.store.runs import StoredRun, origins_of, read_run

_UNSET = "unset"
_USUALLY = "after adaptation"
# With more, each line gets a panel of its own.
_MOST_LINES_IN_A_PANEL = 6


def summarise(name: str, folder: Path) -> str:
    """Writes summary.json, summary.md and the figures of an experiment's runs; returns the text.

    Args:
        name: The experiment.
        folder: Holds the runs, and gets the files.
    """
    experiment = EXPERIMENTS[name]
    folders = {
        variant: [folder / run_name(variant, seed) for seed in experiment.seeds_of(variant)]
        for variant in experiment.variants
    }
    stored = {variant: [read_run(run) for run in of_one if run.is_dir()] for variant, of_one in folders.items()}
    runs = {variant: of_one for variant, of_one in stored.items() if of_one}
    summary: dict[str, Any] = {
        "experiment": name,
        "evaluation": experiment.evaluation,
        "variants": {variant: _training(experiment, variant, of_one) for variant, of_one in runs.items()},
        "outdated": outdated(name, folder),
        "published": [vars(figure) for figure in experiment.published],
    }
    if differing := _differing_seeds(runs):
        summary["differing_seeds"] = differing
    lines = [Group(variant, tuple(of_one)) for variant, of_one in runs.items()]
    in_environments = next(iter(runs.values()))[0].measure == "return"
    figures = []
    if experiment.agents_of:
        text = f"Agents: [{experiment.agents_of}](../{experiment.agents_of}/summary.md).\n"
    else:
        _draw_training(lines, folder / "training.png", "env-steps" if in_environments else "iteration")
        figures = ["[training](training.png)"]
        text = _training_markdown(summary, lines, in_environments=in_environments)
    if experiment.evaluation is not None:
        comparison = _add_evaluations(summary, runs)
        apart = len(lines) > _MOST_LINES_IN_A_PANEL
        figure = draw_apart(lines, "gradient-step") if apart else draw_gradient_steps(lines)
        save_picture(figure, folder / "adaptation.png")
        of_evaluations = ["[adaptation](adaptation.png)"]
        if comparison.pairs:
            save_picture(draw_differences(comparison), folder / "comparison.png")
            of_evaluations.append(f"[differences from {comparison.reference} after each step](comparison.png)")
        figures = of_evaluations + figures
        text = f"{_evaluation_markdown(summary)}Figures: {', '.join(figures)}.\n\n{text}"
    if experiment.analysis is not None:
        _add_analyses(summary, runs, experiment.analysis)
        text = _analysis_markdown(summary) + text
    if differing:
        text = _differing_markdown(differing) + text
    if summary["outdated"]:
        text = _outdated_markdown(summary) + text
    if experiment.note:
        text = f"{experiment.note}\n\n{text}"
    text = f"# {name}\n\n{text}\n{_hardware(runs)} All of it: `python -m benchmarks.reproduce {name}`.\n"
    write_json(folder / "summary.json", summary, indent=1)
    (folder / "summary.md").write_text(text)
    return text


def _hardware(runs: Mapping[str, Sequence[StoredRun]]) -> str:
    """What the runs were trained on and with, in sentences: that of most of them, then that of each other run."""
    made_on: dict[str, list[str]] = {}
    for variant, of_one in runs.items():
        for run in of_one:
            made_on.setdefault(_made_on(run), []).append(run_name(variant, run.seed))
    usual, *others = sorted(made_on, key=lambda words: -len(made_on[words]))
    return " ".join([f"Hardware: {usual}.", *(f"Of {', '.join(made_on[words])}: {words}." for words in others)])


def _made_on(run: StoredRun) -> str:
    """Hardware and software of a run; of all its parts if it was resumed on another machine."""
    words = [f"{of['hardware']}; torch {of['torch']}, MuJoCo {of['mujoco']}" for of in origins_of(run.config)]
    return " and ".join(dict.fromkeys(words))


def _draw_training(lines: list[Group], picture: Path, x: str) -> None:
    """Draws the training of the runs that were trained."""
    trained = [replace(line, runs=kept) for line in lines if (kept := tuple(run for run in line.runs if run.progress))]
    apart = len(trained) > _MOST_LINES_IN_A_PANEL
    save_picture(draw_apart(trained, x) if apart else draw_training(trained, x), picture)


def _differing_seeds(runs: Mapping[str, Sequence[StoredRun]]) -> dict[str, dict[str, str]]:
    """Settings in which seeds of one variant differ, such as "none (seed 0); 100 (seeds 1, 2)", by variant and name."""
    found: dict[str, dict[str, str]] = {}
    for variant, of_one in runs.items():
        for name, values in differences([Group(variant, (run,)) for run in of_one]).items():
            seeds: dict[str, list[int]] = {}
            for run, value in zip(of_one, values, strict=True):
                seeds.setdefault(value or _UNSET, []).append(run.seed)
            words = [f"{value} (seed{'s' * (len(of) > 1)} {', '.join(map(str, of))})" for value, of in seeds.items()]
            found.setdefault(variant, {})[name] = "; ".join(words)
    return found


def outdated(name: str, folder: Path) -> dict[str, dict[str, list[str]]]:
    """Runs that the experiment's commands no longer make, because settings have changed since or a result is missing.

    A setting that is newer than a run is read as what the versions before did.

    Args:
        name: The experiment.
        folder: Holds the runs.

    Returns:
        What differs, by the run's name and by what it was done with: "trained with", "evaluated with", "analysed with",
        or "without" a file. Runs that today's commands make are left out.
    """
    experiment, found = EXPERIMENTS[name], {}
    wanted = measurements(experiment)
    for variant in experiment.variants:
        runs = [path for seed in experiment.seeds_of(variant) if (path := folder / run_name(variant, seed)).is_dir()]
        today = settings_of(experiment.train_options(variant, 0)) if runs else {}
        for run in runs:
            # A run that was stopped counts as one of as many iterations as it did.
            done = _iterations_done(read_run(run))
            changes = {"trained with": differences_from(today, run, today["iterations"] if done is None else str(done))}
            for asked in wanted:
                result = _result(run, asked.file)
                if result.is_file():
                    changes[asked.done] = other_options(result, asked.wanted)
                else:
                    changes.setdefault("without", []).append(asked.file.name)
            if any(changes.values()):
                found[run.name] = {kind: of_kind for kind, of_kind in changes.items() if of_kind}
    return found


def _iterations_done(run: StoredRun) -> int | None:
    """Iterations of training, by the evaluation where the progress lies elsewhere; None if neither says it."""
    if run.progress:
        return int(run.progress["iteration"][-1])
    evaluation = run.evaluation
    return None if evaluation is None or evaluation.checkpoint != "last" else evaluation.iteration


def in_words(changes: Mapping[str, Sequence[str]]) -> list[str]:
    """What is outdated of a run, a sentence for each kind."""
    return [f"{kind} {'; '.join(of_kind)}" for kind, of_kind in changes.items()]


def _result(run: Path, file: Path) -> Path:
    """Where a run has a result; kept ones lie beside its other files."""
    return kept if (kept := run / file.name).is_file() else run / file


class Measurement(NamedTuple):
    """What an experiment asks for after training.

    Attributes:
        command: The module.
        done: What it does, for a sentence on its options.
        words: Its options.
        wanted: The same, as settings.
        file: Where a run's folder holds the result.
    """

    command: str
    done: str
    words: list[str]
    wanted: EvaluationConfig | AnalysisConfig
    file: Path


def measurements(experiment: Experiment) -> list[Measurement]:
    """The evaluation and the analysis of an experiment, as far as it asks for them."""
    kinds: Any = (
        ("metarl.evaluate", "evaluated with", experiment.evaluation, EvaluationConfig, "evaluation.json"),
        ("metarl.analyze", "analysed with", experiment.analysis, AnalysisConfig, "analysis/analysis.json"),
    )
    return [
        Measurement(command, done, text.split(), parse(kind, args=text.split()), Path(file))
        for command, done, text, kind, file in kinds
        if text is not None
    ]


@cache
def config_of(*train_options: str) -> Config:
    """What a command line of ``python -m metarl.train`` asks for today; to parse it takes a tenth of a second."""
    return parse_config(train_options, quiet=True)


def settings_of(train_options: Sequence[str]) -> dict[str, str]:
    """The settings that a command line of ``python -m metarl.train`` gives today, as text by name."""
    return _as_text(config_of(*train_options).to_dict())


def differences_from(today: dict[str, str], run: Path, iterations: str) -> list[str]:
    """Settings of a run that differ today, as text; its iterations are taken as given."""
    before = {**_as_text(load_config(run).to_dict()), "iterations": iterations}

    def idle(name: str) -> bool:
        """Whether it is a part of a component that the run did without; what chose the component differs too."""
        group, _, part = name.partition(".")
        return bool(part) and group != "env_kwargs" and before.get(group) == _UNSET

    return [
        f"{name} {before.get(name, _UNSET)}, today {today.get(name, _UNSET)}"
        for name in dict.fromkeys([*before, *today])
        if name not in BOOKKEEPING and not idle(name) and before.get(name, _UNSET) != today.get(name, _UNSET)
    ]


def other_options(result: Path, wanted: EvaluationConfig | AnalysisConfig) -> list[str]:
    """What an evaluation or analysis in a file was asked for in other words than ``wanted``, as text."""
    content, today = read_json(result), plain(asdict(wanted))
    if isinstance(wanted, AnalysisConfig):
        before = {name: value for name, value in content["analysis"].items() if name not in ("output", "threads")}
    else:
        run, steps = content["config"], len(content["returns"][0]) - 1
        supervised = content.get("shots") is not None
        before = {"seed": content["seed"], "gradient_steps": steps}
        if wanted.task_file is None:
            before["tasks"] = len(content["tasks"])
        elif content["tasks"] != read_json(wanted.task_file)["tasks"]:
            before["task_file"] = "another one"
        before |= {name: content[name] for name in ("shots" if supervised else "rollouts", "env", "checkpoint")}
        before |= {"step_scales": content["step_scales"], "adapted_layers": content.get("adapted_layers", [])}
        if wanted.step_scales:
            today["step_scales"] = list(evaluation_scales(steps, 1, wanted.step_scales))
        else:
            today["step_scales"] = list(usual_step_scales(Evaluation.from_json(content)))
        today["env"], today["rollouts"] = wanted.env or run["env"], wanted.episodes
        if supervised:
            before["queries"] = content["rollouts"]
            for name in ("shots", "queries"):
                if getattr(wanted, name) is None:  # The family's own.
                    today[name] = before[name]
    return [f"{name} {value}, today {today[name]}" for name, value in before.items() if value != today[name]]


def _as_text(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings by name, those of a component as component.name."""
    flat: dict[str, str] = {}
    for name, value in plain(settings).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{part}": text for part, text in _as_text(value).items()}
        else:
            flat[name] = _UNSET if value in (None, [], "") else json.dumps(value)
    return flat


def _training(experiment: Experiment, name: str, runs: list[StoredRun]) -> dict[str, Any]:
    """Cost of a variant's runs, and what they measured in the first and last ten rows of their progress."""
    env_steps = [run.progress.get("env_steps", np.array([])) for run in runs]
    return {
        "command": experiment.command(name),
        "seeds": [run.seed for run in runs],
        "commits": [" and ".join(run.commits) for run in runs],
        "trained_on": [_made_on(run) for run in runs],
        "env_steps": [int(steps[-1]) if len(steps) else 0 for steps in env_steps],
        "core_hours": [round(core_hours(run), 3) for run in runs],
        "iterations": [int(run.progress["iteration"][-1]) if run.progress else 0 for run in runs],
        "measured": [_measured_when(run) for run in runs if run.progress],
        "first_ten_last_ten": [_first_and_last(run) for run in runs if run.progress],
    }


def _measured_when(run: StoredRun) -> str:
    """When the returns of training were measured that `_first_and_last` takes."""
    adapts = training_adapts(run)
    return training_text([run], "after" if adapts else "before", alone=not adapts)


def _first_and_last(run: StoredRun) -> list[float]:
    """Mean of the first and of the last ten rows, of fewer than twenty of the first and the second half.

    It is what was measured after adaptation; before it, if training does not adapt.
    """
    values = run.progress[f"{'post' if training_adapts(run) else 'pre'}_adaptation_{run.measure}"]
    number = min(10, len(values) // 2) or 1
    return [round(float(x.mean()), 3 if run.measure == "return" else 5) for x in (values[:number], values[-number:])]


def core_hours(run: StoredRun) -> float:
    """Hours of CPU time that training took; wall-clock time where CPU time was not measured."""
    seconds = run.progress.get("cpu_seconds", run.progress.get("seconds", np.zeros(1)))
    return float(seconds[-1]) / 3600


def _add_evaluations(summary: dict[str, Any], runs: dict[str, list[StoredRun]]) -> Comparison:
    """Adds returns after each step, and differences from the first variant, paired by seed and task; returns them."""
    reference = next(iter(runs))
    paired = {
        name: of_one for name, of_one in runs.items() if {r.seed for r in of_one} & {r.seed for r in runs[reference]}
    }
    comparison = compare_lines(paired, reference)
    first = runs[reference][0].evaluated()
    summary["measure"], summary["step_name"], summary["reference"] = first.measure, first.step_name, reference
    decimals = 5 if first.measure == "error" else 3
    for name in runs.keys() - paired.keys():  # They have no seed in common with the first variant yet.
        per_seed = np.array([run.evaluated().mean for run in runs[name]])
        means = {"per_seed": per_seed, "mean": per_seed.mean(0)}
        summary["variants"][name] |= {key: values.round(decimals).tolist() for key, values in means.items()}
    for line in comparison.lines:
        entry, of_one = summary["variants"][line.label], [run.evaluated() for run in runs[line.label]]
        entry |= {
            "per_seed": line.returns.mean(1).round(decimals).tolist(),
            "mean": line.mean.round(decimals).tolist(),
            "interquartile_mean": line.interquartile_mean.round(decimals).tolist(),
        }
        for key, values, digits in (
            ("interval", line.interval, decimals),
            ("share_made_worse", line.made_worse, 4),
            ("share_of_the_gap", line.gap_closed, 4),
        ):
            if values is not None:
                entry[key] = values.round(digits).tolist()
        if groups := _by_task(of_one):
            entry["by_task"] = groups
    for pair in comparison.pairs:
        difference = summary["variants"][pair.label]["difference"] = {
            "from": reference,
            "seeds": list(pair.seeds),
            "per_seed": pair.per_seed.round(decimals).tolist(),
            "mean": pair.mean.round(decimals).tolist(),
            "probability_of_improvement": pair.improvement.round(4).tolist(),
        }
        if pair.interval is not None and pair.p_values is not None:
            difference["interval"] = pair.interval.round(decimals).tolist()
            difference["p_values"], difference["primary_p_adjusted"] = pair.p_values.tolist(), pair.adjusted
    summary["references"] = {"standstill": first.references.standstill}
    for name, of_one in runs.items():
        of_seeds = [run.evaluated().references.random_initialisation for run in of_one]
        summary["variants"][name]["random_initialisation"] = np.mean(of_seeds, axis=0).round(decimals).tolist()
    return comparison


def _add_analyses(summary: dict[str, Any], runs: dict[str, list[StoredRun]], options: str) -> None:
    """Adds, of each variant's first seed, the excess conflict of each tensor and the gains of the best gammas."""
    for name, of_name in runs.items():
        file = _result(of_name[0].path, Path("analysis/analysis.json"))
        if not file.is_file():
            command = f"python -m metarl.analyze {of_name[0].name} {options}".rstrip()
            raise UserError(f"run '{of_name[0].name}' was not analysed yet: run `{command}` first.")
        analysis, entry = read_json(file), summary["variants"][name]
        excess = analysis["conflict"]["excess"]
        entry["excess_conflict"] = dict(zip(analysis["tensors"], _mean_and_interval(excess), strict=True))
        if sweep := analysis.get("gamma_sweep"):
            entry["gain_of_best_gamma"] = dict(zip(sweep["parts"], _mean_and_interval(sweep["gain"]), strict=True))
            if sweep.get("gap"):
                shares = [_rounded(share) for share in sweep["gap"]["share"]]
                entry["share_of_the_gap"] = dict(zip(sweep["parts"], shares, strict=True))


def _mean_and_interval(values: dict[str, Any]) -> list[list[float | None]]:
    means = values["mean"]
    intervals = values.get("interval") or [None] * len(means)
    return [[_rounded(mean), _rounded(interval)] for mean, interval in zip(means, intervals, strict=True)]


def _rounded(value: float | None) -> float | None:
    """To four digits after the point; None is what is undefined."""
    return None if value is None else round(value, 4)


def _by_task(evaluations: list[Evaluation]) -> dict[str, list[float]]:
    """Mean returns on each task of a family with two tasks; empty for other families."""
    seeds = [evaluation.returns_by_name() for evaluation in evaluations]
    return {name: np.mean([seed[name] for seed in seeds], axis=0).round(3).tolist() for name in seeds[0]}


def _evaluation_markdown(summary: dict[str, Any]) -> str:
    variants = summary["variants"]
    steps = range(len(variants[summary["reference"]]["mean"]))
    header = " | ".join(f"step {k}" for k in steps) + " |\n|---|---|" + "---|" * len(steps)
    in_environments = summary["measure"] == "return"
    decimals = decimals_of(summary["measure"])

    def cells(entry: dict[str, Any], sign: str = "") -> str:
        interval = np.array(entry["interval"]) if "interval" in entry else None
        means = estimates_text(np.array(entry["mean"]), interval, decimals, sign, "± ")
        seeds = [
            ", ".join(number_text(value, decimals, sign) for value in of_step)
            for of_step in zip(*entry["per_seed"], strict=True)
        ]
        return " | ".join(f"{mean} ({of_seeds})" for mean, of_seeds in zip(means, seeds, strict=True))

    measured, step = summary["measure"], summary["step_name"]
    what = f"{measured.capitalize()} after k {step}s" + (", on fresh episodes" if in_environments else "")
    interval = any("interval" in entry for entry in variants.values())
    lines = [f"{what}: mean over seeds{' ± 95 % t interval over seeds' if interval else ''} (every seed).", ""]
    lines += [f"| variant | seeds | {header}"]
    for name, entry in variants.items():
        lines.append(f"| {name} | {', '.join(map(str, entry['seeds']))} | {cells(entry)} |")
        for task, means in entry.get("by_task", {}).items():
            lines.append(f"| {name}: {task} | | " + " | ".join(number_text(value, 2) for value in means) + " |")
    random: dict[str, list[str]] = {}  # Other networks, or seeds, have other ones.
    for name, entry in variants.items():
        of_one = [number_text(value, decimals) for value in entry["random_initialisation"][: len(steps)]]
        random.setdefault(" | ".join(of_one), []).append(name)
    most = max(random.values(), key=len)
    for cells_of_random, names in random.items():
        of_which = "" if names is most else f" ({', '.join(names)})"
        lines.append(f"| random initialisation{of_which} | | {cells_of_random} |")
    if summary["references"]["standstill"] is not None:
        standstill = number_text(summary["references"]["standstill"], decimals)
        lines.append("| standing still | | " + " | ".join([standstill] * len(steps)) + " |")
    sources = list(dict.fromkeys(figure["source"] for figure in summary["published"]))
    marks = {source: f" [{number}]" if len(sources) > 1 else "" for number, source in enumerate(sources, 1)}
    lines += [_published_row(figure, steps, decimals, marks[figure["source"]]) for figure in summary["published"]]
    if sources:
        lines += ["", f"Published: {'; '.join(f'{marks[source]} {source}'.strip() for source in sources)}."]
    lines += _shares(variants, "share_of_the_gap", "Share of the gap from standing still to the oracle's step 0")
    lines += _shares(variants, "share_made_worse", f"Share of tasks that the first {step} makes worse")
    paired = {name: e["difference"] for name, e in variants.items() if "difference" in e}
    if paired:
        better = "negative" if summary["measure"] == "error" else "positive"
        lines += [
            "",
            f"Paired differences on the same tasks and seeds, not adjusted for their number; {better} is better.",
        ]
        lines += ["", f"| variant | from | {header}"]
        lines += [f"| {name} | {entry['from']} | {cells(entry, '+')} |" for name, entry in paired.items()]
        primary = [
            f"{name} p = {entry['primary_p_adjusted']:.3g}"
            for name, entry in paired.items()
            if "primary_p_adjusted" in entry
        ]
        said = "; ".join(primary) or f"none, as it needs {MIN_SEEDS_FOR_INTERVAL} seeds"
        lines += [
            "",
            f"Primary comparison, after one {step} against {summary['reference']}, adjusted by Holm's method: {said}.",
        ]
        chances = ", ".join(f"{name} {entry['probability_of_improvement'][1]:.2f}" for name, entry in paired.items())
        lines += ["", f"Probability of improvement there: {chances}."]
    return "\n".join(lines) + "\n\n"


def _published_row(figure: dict[str, Any], steps: range, decimals: int, mark: str) -> str:
    after, spread = figure["after"], figure["spread"]
    cells = [
        (f"{after[k]:.{decimals}f}" + (f" ± {spread[k]:g}" if k in spread else "")) if k in after else "" for k in steps
    ]
    return f"| published{mark}: {figure['variant']} | | {' | '.join(cells)} |"


def _shares(variants: dict[str, Any], key: str, what: str) -> list[str]:
    """A paragraph with each variant's share after one step; nothing if there are none."""
    shares = [f"{name} {entry[key][1] + 0.0:.0%}" for name, entry in variants.items() if key in entry]
    return ["", f"{what}: {', '.join(shares)}."] if shares else []


def _outdated_markdown(summary: dict[str, Any]) -> str:
    """Says which runs today's commands no longer make, those that were trained otherwise apart from the others."""
    trained: dict[str, list[str]] = {}
    measured: dict[str, list[str]] = {}
    for run, changes in summary["outdated"].items():
        for kind, text in zip(changes, in_words(changes), strict=True):
            (trained if kind == "trained with" else measured).setdefault(text, []).append(run)
    commits = {
        run_name(variant, seed): commit
        for variant, entry in summary["variants"].items()
        for seed, commit in zip(entry["seeds"], entry["commits"], strict=True)
    }
    paragraphs = []
    if trained:
        those = sorted({commits[run] for names in trained.values() for run in names})
        head = (
            f"**Results of commit {', '.join(those)}.** Settings have changed since, so that the commands below no "
            "longer make these runs. `python -m metarl.train --config FOLDER/config.json` trains with the settings "
            "they had:"
        )
        paragraphs.append((head, trained))
    if measured:
        paragraphs.append(("**Measured otherwise than today**, whatever the training:", measured))
    lines = [
        "\n".join([head, "", *(f"- {', '.join(names)}: {text}" for text, names in runs.items())])
        for head, runs in paragraphs
    ]
    return "\n\n".join(lines) + "\n\n"


def _differing_markdown(differing: dict[str, dict[str, str]]) -> str:
    """Says which variants' means are over seeds with different settings."""
    lines = [
        "**Seeds of a variant were trained with different settings**, and its means and intervals are over all:",
        "",
    ]
    for variant, settings in differing.items():
        lines.append(f"- {variant}: " + ", ".join(f"{name} {words}" for name, words in settings.items()))
    return "\n".join(lines) + "\n\n"


def _analysis_markdown(summary: dict[str, Any]) -> str:
    """Tables of `_add_analyses`."""
    titles = {
        "gain_of_best_gamma": "Gain in return of each task's best gamma, chosen on half of the episodes and scored on "
        "the other half",
        "share_of_the_gap": "The same as a share of the gap from standing still to the oracle",
        "excess_conflict": "Conflict between episodes of different tasks, less that within a task, in radian",
    }
    lines = []
    for key, title in titles.items():
        rows = {name: entry[key] for name, entry in summary["variants"].items() if key in entry}
        if rows:
            names, cells = list(next(iter(rows.values()))), [cell for row in rows.values() for cell in row.values()]
            interval = any(isinstance(cell, list) and cell[1] is not None for cell in cells)
            lines += [
                f"{title}{' (± 95 % t interval over tasks)' if interval else ''}:",
                "",
                f"| variant | {' | '.join(names)} |",
                "|---|" + "---|" * len(names),
            ]
            lines += [f"| {name} | {' | '.join(_cell(row[n]) for n in names)} |" for name, row in rows.items()]
            lines.append("")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if not isinstance(value, list):
        return "-" if value is None else f"{value:.1%}"
    mean, interval = value
    if mean is None:
        return "-"
    return f"{mean:.3f}" if interval is None else f"{mean:.3f} ± {interval:.3f}"


def _training_markdown(summary: dict[str, Any], lines: list[Group], *, in_environments: bool) -> str:
    decimals = 1 if in_environments else 4
    short = any(run.progress and len(run.progress["iteration"]) < 20 for line in lines for run in line.runs)
    ends = "the first and the last ten logged iterations" + (
        ", or of both halves of fewer than twenty" if short else ""
    )
    text = [
        f"Training: mean of {ends}, {_USUALLY} unless a row says otherwise. Most: of the seed that has the most. "
        "Core-hours are CPU time, or the wall-clock time of runs that do not hold it.",
        "",
        "| variant | most iterations | most environment steps | most core-hours | each seed | commits |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in summary["variants"].items():
        ends = [[f"{x:.{decimals}f}" for x in of_one] for of_one in entry["first_ten_last_ten"]]
        seeds = "; ".join(
            f"{first} to {last}{'' if when == _USUALLY else f' ({when})'}"
            for (first, last), when in zip(ends, entry["measured"], strict=True)
        )
        commits = ", ".join(sorted(set(entry["commits"])))
        steps = f"{max(entry['env_steps']):,}" if in_environments else "-"
        text.append(
            f"| {name} | {max(entry['iterations'])} | {steps} | {max(entry['core_hours']):.2f} | {seeds} | {commits} |"
        )
    text += ["", "Commands:", "", "```sh", *(entry["command"] for entry in summary["variants"].values()), "```"]
    return "\n".join(text) + "\n"
