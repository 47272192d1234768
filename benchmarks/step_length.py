"""Measures how far the first gradient step moves a policy on 2D navigation, against the distance of the goal.

    python -m benchmarks.reproduce algorithms-navigation algorithms-navigation-bimodal
    python -m benchmarks.step_length

For every run of MAML and MuMoMAML in runs/reproduce/algorithms-navigation*, it measures the length of the mean action
at the origin after one step, in half-widths of the action space, and its correlation with the distance of the goal over
held-out tasks. For MuMoMAML it also correlates that distance with the mean scale that the modulation gives the hidden
units. Results go to benchmarks/results/step-length.json.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.experiments import EXPERIMENTS, RESULTS
from metarl.agents.mumomaml import MuMoMAML
from metarl.common.parallel import Workers
from metarl.common.streams import Purpose, stream
from metarl.inner.runner import Runner
from metarl.runs.trained_agent import Agent, load
from metarl.store.provenance import provenance

_TASKS, _SEED = 100, 10_000


def main() -> None:
    """Runs the command."""
    report: dict[str, Any] = {"tasks": _TASKS, "seed": _SEED, "metarl": provenance(torch.device("cpu"))}
    with Workers() as workers:
        for name in ("algorithms-navigation", "algorithms-navigation-bimodal"):
            for variant in ("maml", "mumomaml"):
                runs = [Path("runs/reproduce") / name / f"{variant}-seed{seed}" for seed in EXPERIMENTS[name].seeds]
                measured = [_measure(load(run), workers) for run in runs]
                report[f"{name}/{variant}"] = measured
                print(name, variant, *(json.dumps(result) for result in measured), sep="\n  ")
    (RESULTS / "step-length.json").write_text(json.dumps(report, indent=1) + "\n")


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
    main()
