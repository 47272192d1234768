"""Scaling of time and memory of a meta-iteration with the size of the problem."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.iteration import measured
from benchmarks.measure import Cell, Table, fitted_exponent
from metarl.common.cores import available_cores

BASE: dict[str, Any] = {"env": "cheetah-dir", "algo": "maml"}
# Each setting doubles three times, up to the size of the papers or beyond; all other settings keep that size.
SWEEPS: dict[str, tuple[int, ...]] = {
    "meta_batch_size": (5, 10, 20, 40),
    "rollouts_per_task": (5, 10, 20, 40),
    "horizon": (50, 100, 200, 400),
    "hidden_sizes": (50, 100, 200, 400),
}
QUICK: dict[str, Any] = {"meta_batch_size": 2, "rollouts_per_task": 2, "horizon": 5}
QUICK_SWEEPS = ("meta_batch_size", "hidden_sizes")
NAMES = {
    "meta_batch_size": "tasks",
    "rollouts_per_task": "rollouts of each task",
    "horizon": "horizon",
    "hidden_sizes": "width of both hidden layers",
}


def measure(quick: bool, device: torch.device) -> list[Table]:
    """One row per size; the last row of a sweep has the exponents b of cost = a * size^b."""
    settings = QUICK_SWEEPS if quick else SWEEPS
    rows = [row for setting in settings for row in _sweep(setting, quick, device)]
    note = (
        f"MAML on cheetah-dir with default curvature, {available_cores()} cores; what is not varied is as in the "
        "papers (40 tasks, 20 rollouts of 200 steps, 2 x 100). Seconds: a warm iteration, and its rollouts and "
        "meta-step. Memory: what the process needs beyond what it has when training starts, GB. Exponents: "
        "least-squares fit over the sizes."
    )
    return [Table("Scaling", rows, note)]


def _sweep(setting: str, quick: bool, device: torch.device) -> list[dict[str, Cell]]:
    sizes = SWEEPS[setting][:2] if quick else SWEEPS[setting]
    results = [
        measured(1, device, **{**BASE, **(QUICK if quick else {}), setting: (n, n) if setting == "hidden_sizes" else n})
        for n in sizes
    ]
    memory = [result["memory"] - result["memory_before"] for result in results]
    exponents = {
        "exponent, seconds": fitted_exponent(sizes, [result["seconds"] for result in results]),
        "exponent, meta-step": fitted_exponent(sizes, [result["meta_step"] for result in results]),
        "exponent, memory": fitted_exponent(sizes, memory),
    }
    blank = dict.fromkeys(exponents)
    return [
        {
            "varied": NAMES[setting],
            "size": size,
            "seconds": result["seconds"],
            "rollouts": result["rollout"],
            "meta-step": result["meta_step"],
            "memory": extra,
            **(exponents if size == sizes[-1] else blank),
        }
        for size, result, extra in zip(sizes, results, memory, strict=True)
    ]
