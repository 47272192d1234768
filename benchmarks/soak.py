"""Trains for a long time while environments fail at random; reports whether memory, descriptors and threads stay flat.

python -m benchmarks.soak --minutes 60  # writes benchmarks/results/soak.json
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

import metarl
from benchmarks.experiments import RESULTS
from benchmarks.failing import FAULTS, Failing, released
from benchmarks.measure import resident_memory
from metarl.common import parallel
from metarl.common.errors import UserError
from metarl.common.strict_json import write_json
from metarl.store.provenance import provenance

RESULT = RESULTS / "soak.json"


@dataclass(frozen=True)
class Options:
    """Trains under random faults, run after run in one process."""

    minutes: float = 60.0
    """How long."""
    output: Path = RESULT
    """Where the figures go."""


def main() -> None:
    """Runs the command."""
    options = tyro.cli(Options, prog="python -m benchmarks.soak")
    parallel.SECONDS_TO_STOP = 0.05  # The environments that hang here never come back before they are released.
    generator, rows, counts = np.random.default_rng(0), list[dict[str, float]](), dict.fromkeys((*FAULTS, "stopped"), 0)
    begin = time.monotonic()
    while (elapsed := time.monotonic() - begin) < 60 * options.minutes:
        fault = str(generator.choice(FAULTS))
        counts[fault] += 1
        counts["stopped"] += _one_run(fault, str(generator.choice(("stop", "drop"))), int(generator.integers(2**31)))
        rows.append({"minute": elapsed / 60, **_usage()})
    tenth = max(1, len(rows) // 10)
    names = [name for name in rows[0] if name != "minute"]
    summary = {
        "runs": counts,
        "minutes": round(rows[-1]["minute"], 1),
        # The first tenth warms up: allocators and caches grow in it.
        "second_tenth": {name: round(float(np.mean([r[name] for r in rows[tenth : 2 * tenth]])), 1) for name in names},
        "last_tenth": {name: round(float(np.mean([r[name] for r in rows[-tenth:]])), 1) for name in names},
        "most": {name: max(row[name] for row in rows) for name in names},
        "metarl": provenance(torch.device("cpu")),
    }
    write_json(options.output, summary, indent=1)
    print(json.dumps(summary, indent=1))


def _one_run(fault: str, on_bad_episode: str, seed: int) -> bool:
    """Trains, goes on once after a fault, evaluates; returns whether a fault stopped it."""
    folder, stopped = Path(tempfile.mkdtemp()), False
    released.clear()
    config = metarl.Config(
        env="benchmarks.failing:FailingFamily",
        env_kwargs={"fault": fault},
        algo="l2f",
        seed=seed,
        iterations=6,
        meta_batch_size=4,
        rollouts_per_task=4,
        hidden_sizes=(16,),
        validate_every=3,
        validation_tasks=2,
        checkpoint_every=1,
        on_bad_episode=on_bad_episode,
        step_timeout=1.5,
        run_dir=folder / "run",
    )
    for _ in range(2):
        try:
            agent = metarl.train(config).agent
            agent.adapt(Failing("none"), num_steps=1, num_rollouts=2)
            break
        except (UserError, LookupError):
            stopped = True
            config = replace(config, resume=True)
        finally:
            released.set()
    shutil.rmtree(folder)
    gc.collect()
    return stopped


def _usage() -> dict[str, float]:
    return {
        "megabytes": resident_memory(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


if __name__ == "__main__":
    main()
