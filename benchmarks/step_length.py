"""Measures how far the first gradient step moves a policy on 2D navigation, against the distance of the goal.

    python -m benchmarks.reproduce algorithms-navigation algorithms-navigation-bimodal
    python -m benchmarks.step_length

The first command makes the runs. For every run of MAML and MuMoMAML, the second measures the length of the mean action
at the origin after one step, in half-widths of the action space, and its correlation with the distance of the goal over
held-out tasks. For MuMoMAML it also correlates that distance with the mean scale that the modulation gives the hidden
units. Results go to benchmarks/results/step-length.json.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import Any

import numpy as np
import torch

from benchmarks.experiments import EXPERIMENTS, RESULTS, RUNS, run_name
from metarl.agents.mumomaml import MuMoMAML
from metarl.commands.cli import run_command
from metarl.common.errors import UserError
from metarl.common.parallel import Workers
from metarl.common.streams import Purpose, stream
from metarl.common.strict_json import write_json
from metarl.inner.runner import Runner
from metarl.runs.trained_agent import Agent, load
from metarl.store.folder import RunFolder
from metarl.store.provenance import provenance

_TASKS, _SEED = 100, 10_000
_NAMES = ("algorithms-navigation", "algorithms-navigation-bimodal")


def main() -> int:
    """Runs the command; returns its exit code."""
    return run_command(_measure_all)


def _measure_all() -> None:
    runs = {
        f"{name}/{variant}": [RUNS / name / run_name(variant, seed) for seed in EXPERIMENTS[name].seeds_of(variant)]
        for name in _NAMES
        for variant in ("maml", "mumomaml")
    }
    if missing := [
        run for of_one in runs.values() for run in of_one if not RunFolder(run).checkpoint("last").is_file()
    ]:
        raise UserError(
            f"there is no trained agent in {missing[0]}; python -m benchmarks.reproduce {' '.join(_NAMES)} makes all "
            "runs that are needed."
        )
    report: dict[str, Any] = {"tasks": _TASKS, "seed": _SEED, "metarl": provenance(torch.device("cpu"))}
    with Workers() as workers:
        for name, of_one in runs.items():
            report[name] = [_measure(load(run), workers) for run in of_one]
            print(name, *(json.dumps(result) for result in report[name]), sep="\n  ")
    write_json(RESULTS / "step-length.json", report, indent=1)


def _measure(agent: Agent, workers: Workers) -> dict[str, Any]:
    policy = agent.rule.policy
    tasks = agent.family.sample_tasks(_TASKS, stream(_SEED, Purpose.TEST_TASKS), "test")
    cpu = torch.device("cpu")
    rollouts, loss = agent.settings.rollouts, agent.settings.inner.inner_loss
    with closing(Runner(agent.family, agent.rule, _TASKS, rollouts, loss, workers, cpu)) as runner:
        adapted, _ = runner.run(agent.meta, tasks, agent.rule.stages((1.0,)), _SEED, Purpose.TEST_ROLLOUTS, 0)
    origins = torch.zeros(_TASKS, 1, policy.observation_size)
    actions = policy.outputs(adapted.parameters[:, : policy.layout.size], origins)[:, 0].detach()
    distances, lengths = np.hypot(tasks[:, 0], tasks[:, 1]), actions.norm(dim=1).numpy()
    quarters = np.digitize(distances, np.quantile(distances, [0.25, 0.5, 0.75]))
    result = {
        "correlation_of_step_and_distance": round(float(np.corrcoef(lengths, distances)[0, 1]), 3),
        "step_by_quarter_of_distance": [round(float(lengths[quarters == k].mean()), 2) for k in range(4)],
    }
    if isinstance(agent.rule, MuMoMAML):
        scales, _ = agent.rule.scales_and_shifts(agent.meta, agent.rule.observe(adapted.loop))
        mean_scales = scales.detach().mean(1).numpy()
        result["correlation_of_scale_and_distance"] = round(float(np.corrcoef(mean_scales, distances)[0, 1]), 3)
    return result


if __name__ == "__main__":
    sys.exit(main())
