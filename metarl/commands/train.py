"""Meta-trains an agent: ``python -m metarl.train --env cheetah-dir --algo l2f``."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from metarl.commands.cli import Trusted, parse, run_command, show
from metarl.commands.seeds import split_seeds, train_seeds
from metarl.common.cores import num_launched
from metarl.common.errors import UserError
from metarl.common.output import say, say_on_stdout
from metarl.config.algorithms import ALGORITHMS
from metarl.config.checked import Checked
from metarl.config.config import Config, every_setting, overridden
from metarl.config.optimisers import META_OPTIMISERS
from metarl.config.presets import PRESETS, preset
from metarl.config.resolved import difference
from metarl.config.settings import EXECUTION, Experiment
from metarl.config.trust import code_in, trust_options
from metarl.envs import family_summaries
from metarl.store.config_file import load_config, read_config, read_values
from metarl.store.folder import RunFolder


@dataclass(frozen=True)
class Start:
    """The settings to start from."""

    config: Path | None = None
    """Start from the settings of this config.json; other options on the command line override them."""
    preset: str | None = None
    """Start from the settings of a paper's experiment, which --list names; other options override them."""
    trust: Trusted = ()
    """Code from outside metarl that --config or the run's folder may name, as package.module:name."""
    seeds: tuple[str, ...] = ()
    """Train several seeds side by side, 0-4 or 0 2 5: each in a process with one thread, as many at a time as there are
    cores. A --run-dir gets the seed as a suffix."""
    list: bool = False
    """List all task families, algorithms, meta-optimisers and presets, and exit."""


def parse_config(arguments: Sequence[str], quiet: bool = False) -> Config:
    """Parses a command line into a configuration.

    Args:
        arguments: The words after the command's name.
        quiet: Not to say what of a preset or a stored configuration was left out.

    Raises:
        UserError: If a setting is impossible.
        SystemExit: After printing help, or after printing that arguments cannot be parsed (code 2).
    """
    start, shown = _start(arguments)
    settings, named = every_setting(shown), _named_options(arguments)
    # Elsewhere they are read, too, so that a sentence says what they are for.
    shortens = {"algo", "help"} <= {*named}
    groups = _without_effect(settings, shown) if shortens else ()
    idle = shown.resolve().idle if shortens else ()
    parsed = parse(
        _options_type(settings, groups),
        {type(values): idle for values, option in settings.values() if option is None},
        prog="python -m metarl.train",
        description="Meta-trains an agent. Defaults depend on --env and --algo; with --resume, they are the run's. "
        "With --algo, this text leaves out the settings that only other algorithms take.",
        args=list(arguments),
    )
    config, left_out = overridden(start, _chosen(parsed, arguments, start))
    if left_out and not quiet:
        say(f"without effect here, and so not taken over: {', '.join(left_out)}")
    return config


def _start(arguments: Sequence[str]) -> tuple[Config, Config]:
    """Returns the configuration that the other options override, and one whose values --help shows as defaults.

    The latter has the family and the rules of the command line, if the former's other choices fit them.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--env", "--algo", "--preset", "--policy-body", "--meta-optimiser"):
        first.add_argument(option, f"--{option[2:].replace('-', '_')}")
    first.add_argument("--attenuate", action="store_true")
    first.add_argument("--seed", type=int)
    for option in ("--run-dir", "--config"):
        first.add_argument(option, type=Path)
    first.add_argument("--resume", nargs="?", const=True, choices=["auto"])
    first.add_argument("--trust", action="append", default=[])
    # Ignore mistakes here: the full parser reports them.
    first.exit_on_error = False
    try:
        choice, _ = first.parse_known_args(arguments)
    except argparse.ArgumentError:
        choice = first.parse_args([])
    given = ("env", "algo", "meta_optimiser", "attenuate")
    named = {name: value for name in given if (value := getattr(choice, name))}
    if choice.preset and choice.config:
        raise UserError("--preset and --config both say what to start from; give one of them.")
    # Naming code here is the user's word that a stored configuration may name it too.
    trust = [*code_in(vars(choice)).values(), *choice.trust]
    if choice.config:
        stored = read_config(choice.config, trust)
        start = dataclasses.replace(stored, run_dir=None, resume=False, take_over=False)
    else:
        start = preset(choice.preset) if choice.preset else Config(**named)
    try:
        shown, _ = overridden(start, named)
    except UserError:  # Other options may mend that; if they do not, the whole command line says so.
        shown = Config(**{"env": start.env, "env_kwargs": start.env_kwargs, "algo": start.algo, **named})
    if choice.resume:
        where = {name: value for name in ("seed", "run_dir") if (value := getattr(choice, name)) is not None}
        wanted = dataclasses.replace(shown, **where)
        folder = RunFolder(wanted.folder)
        if folder.holds_run() or not folder.begins(choice.resume):
            run = dataclasses.replace(load_config(folder.path, trust), profile=False)
            if choice.preset or choice.config:
                _check_begun_with(wanted, run, folder)
            return run, run
        if choice.resume is True and choice.run_dir and not (named or choice.preset or choice.config):
            raise UserError(f"{folder.path} holds no settings yet: the run was stopped too early. Start it again.")
    return start, shown


def _check_begun_with(wanted: Config, run: Config, folder: RunFolder) -> None:
    """Raises UserError if a preset or a stored configuration says what the run neither has nor has overridden."""
    now, before = wanted.to_dict(), run.to_dict()
    # Family and algorithm are always among a run's choices.
    overridden_there = read_values(folder.config).get("chosen", {}).keys() - {"env", "algo"}
    said = (name for name in wanted.chosen if name not in (*EXECUTION, "iterations", *overridden_there))
    if changed := difference(before, now, said):
        raise UserError(
            f"{folder.path} was run with {changed} as --preset or --config says; resume it without, or choose another "
            "--run-dir."
        )


def _without_effect(settings: Mapping[str, tuple[Checked, str | None]], config: Config) -> list[str]:
    """The groups of ``settings`` that do nothing with the configuration's family and algorithm."""
    in_force = config.to_dict()

    def held_in(values: Checked, option: str | None) -> list[str]:
        return [part.name for part in dataclasses.fields(values)] if option is None else [option]

    return [name for name, group in settings.items() if all(in_force[part] is None for part in held_in(*group))]


def _options_type(settings: Mapping[str, tuple[Checked, str | None]], hidden: Collection[str]) -> type[Any]:
    """Builds the dataclass that tyro parses into: a field per settings class, with the prefix of its option, if any.

    Args:
        settings: The settings by their group.
        hidden: Groups that the help leaves out.
    """
    fields: list[tuple[str, Any, Any]] = [("start", Annotated[Start, tyro.conf.OmitArgPrefixes], Start())]
    for name, (values, option) in settings.items():
        if isinstance(values, Experiment):
            # tyro makes an option of each entry of a default that is not empty.
            values = dataclasses.replace(values, env_kwargs={})
        kind: Any = type(values) if option else Annotated[type(values), tyro.conf.OmitArgPrefixes]
        kind = Annotated[kind, tyro.conf.Suppress] if name in hidden else kind
        fields.append((option or name, kind, field(default=values)))
    return dataclasses.make_dataclass("Options", fields, frozen=True)


def _chosen(parsed: Any, arguments: Sequence[str], start: Config) -> dict[str, Any]:
    """Returns the choices of the command line: the settings that it names."""
    chosen: dict[str, Any] = {}
    groups = [getattr(parsed, part.name) for part in dataclasses.fields(parsed)]
    flat = {name: value for group in groups for name, value in vars(group).items()}
    for option in _named_options(arguments):
        component, _, name = option.rpartition(".")
        if component:
            before = chosen.get(component, getattr(start, component))
            of_component = getattr(parsed, component)
            if not hasattr(of_component, name):
                name = name.removeprefix("no_")
            value = getattr(of_component, name)
            chosen[component] = (
                dataclasses.replace(before, **{name: value})
                if isinstance(before, Checked)
                else {**(before or {}), name: value}
            )
        elif option not in vars(Start):
            name = option if option in flat else option.removeprefix("no_")
            chosen[name] = flat[name]
    return chosen


def _named_options(arguments: Sequence[str]) -> list[str]:
    """Names of the options on a command line, spelt like the settings; a flag that is switched off begins with no_."""
    return [argument[2:].partition("=")[0].replace("-", "_") for argument in arguments if argument.startswith("--")]


def listing() -> str:
    """Lists all task families, algorithms, meta-optimisers and presets, one sentence each."""
    parts: dict[str, Mapping[str, str]] = {
        "task families (--env)": family_summaries(),
        "algorithms (--algo)": {name: row.summary for name, row in ALGORITHMS.items()},
        "meta-optimisers (--meta-optimiser)": {name: row.summary for name, row in META_OPTIMISERS.items()},
        "presets (--preset)": {name: f"{row.summary} Source: {row.source}." for name, row in PRESETS.items()},
    }
    lines = []
    for title, summaries in parts.items():
        width = max(map(len, summaries)) + 2
        lines += [title, *(f"  {name:<{width}}{summary}".rstrip() for name, summary in summaries.items()), ""]
    return "\n".join([*lines, "Families and algorithms of your own are given as package.module:Name."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def command() -> None:
        if "--list" in arguments:
            show(listing())
            return
        seeds, others = split_seeds(arguments)
        if seeds and not {"--help", "-h"} & set(others):
            train_seeds(seeds, others, parse_config)
            return
        config = parse_config(arguments)
        own = trust_options(config.to_dict())
        from metarl.runs.training import train  # After parsing, so that --help answers at once.

        run = train(config)
        if num_launched() and os.environ["RANK"] != "0":
            return  # The first of torchrun's processes says it.
        follows = f"next: python -m metarl.evaluate {' '.join([shlex.quote(str(config.folder)), *own])}"
        say_on_stdout("; ".join(["done", *run.remarks(), follows]))

    return run_command(command)
