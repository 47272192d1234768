"""Speed: measures, prints and stores how fast this machine runs the package and its alternatives.

    python -m benchmarks                      # everything
    python -m benchmarks rollouts meta-step   # some parts
    python -m benchmarks --quick              # small sizes and few rounds: a test that it works, not a measurement

Run nothing else meanwhile. Every part is stored in benchmarks/results/speed/PART.json (or below --output) with
hardware, versions and commit.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from benchmarks.experiments import RESULTS
from benchmarks.measure import Table, as_json, refuse_changes, seconds
from metarl.commands.cli import run_command
from metarl.common.device import resolve_device
from metarl.common.strict_json import write_json
from metarl.store.provenance import provenance

SPEED = RESULTS / "speed"
Part = Literal["rollouts", "checks", "meta-step", "iteration", "scaling", "processes", "start-up"]


@dataclass(frozen=True)
class Options:
    """Measures how fast this machine runs metarl. Run nothing else meanwhile."""

    parts: Annotated[tuple[Part, ...], tyro.conf.Positional] = get_args(Part)
    """Parts to measure; by default all."""
    quick: bool = False
    """Small sizes and few rounds: a test that it works, not a measurement."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device of meta-step and iteration."""
    output: Path | None = None
    """Folder of the JSON files; by default benchmarks/results/speed, for which the tree must have no uncommitted
    changes. With --quick, none are written by default."""


def main() -> int:
    """Runs the command; returns its exit code."""
    options = tyro.cli(Options, prog="python -m benchmarks")
    return run_command(partial(_measure, options))


def _measure(options: Options) -> None:
    folder = options.output or (None if options.quick else SPEED)
    device = resolve_device(options.device)
    if folder == SPEED:
        refuse_changes()
    made_with = provenance(device)  # Before results change the tree.
    for part in options.parts:
        module = importlib.import_module(f"benchmarks.{part.replace('-', '_')}")
        tables: list[Table] = []
        elapsed = seconds(lambda: tables.extend(module.measure(options.quick, device)))  # noqa: B023 (called at once)
        print("\n\n".join(map(str, tables)), f"\n\n({part}: {elapsed:.0f} s)\n", flush=True)
        if folder is not None:
            suffix = "-cuda" if device.type == "cuda" else ""
            content = {"part": part, "quick": options.quick, "made_with": made_with, "tables": as_json(tables)}
            write_json(folder / f"{part}{suffix}.json", content, indent=1)


if __name__ == "__main__":
    sys.exit(main())
