"""What agents and learners that know how tasks are drawn reach: references for those that learn to adapt.

    python -m benchmarks.references                # all families
    python -m benchmarks.references bandit         # exact values, by dynamic programming
    python -m benchmarks.references tabular-mdp    # planning agents on held-out tasks
    python -m benchmarks.references regression     # posterior mean of held-out functions, regression-2, -3 and -5

Families have their default sizes and horizons. Results go to benchmarks/results/references.json, where a family that is
not asked for keeps its figures.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
import tyro

from benchmarks import bandit_agents, regression_posterior, tabular_agents
from benchmarks.experiments import RESULTS
from benchmarks.measure import Table
from metarl.common.statistics import mean_and_interval
from metarl.common.streams import Purpose, stream
from metarl.common.strict_json import write_json
from metarl.envs.bandit import BanditFamily
from metarl.envs.regression import MultimodalRegressionFamily
from metarl.envs.tabular import TabularMDPFamily
from metarl.store.provenance import provenance

RESULT = RESULTS / "references.json"
Part = Literal["bandit", "tabular-mdp", "regression"]
_BANDIT_AGENTS = {
    "Bayes-optimal": bandit_agents.bayes_optimal,
    "greedy by the posterior mean": bandit_agents.greedy,
    "UCB1-Tuned": bandit_agents.ucb1_tuned,
    "Thompson sampling": bandit_agents.thompson,
    "UCB1": bandit_agents.ucb1,
    "random": bandit_agents.random,
}
# Agents and whether they plan anew before each step.
_TABULAR_AGENTS = {
    "exploration bonus, each step": (tabular_agents.exploration_bonus, True),
    "greedy by the posterior mean, each step": (tabular_agents.greedy, True),
    "exploration bonus": (tabular_agents.exploration_bonus, False),
    "greedy by the posterior mean": (tabular_agents.greedy, False),
    "optimistic posterior sampling": (tabular_agents.optimistic_psrl, False),
    "posterior sampling": (tabular_agents.psrl, False),
}


@dataclass(frozen=True)
class Options:
    """Measures what agents and learners that know how tasks are drawn reach."""

    parts: Annotated[tuple[Part, ...], tyro.conf.Positional] = get_args(Part)
    """Families; by default all."""
    tasks: int = 2000
    """Held-out processes of tabular-mdp, and functions of regression; bandits are summed exactly."""
    episodes: int = 10
    """Episodes on each process, through which agents remember."""
    functions: int = 1_000_000
    """Functions that represent the prior of regression."""
    seed: int = 10_000
    """Seed of tasks and episodes, the default of metarl.evaluate."""
    output: Path = RESULT
    """Where the figures go."""


def main() -> None:
    """Runs the command."""
    options = tyro.cli(Options, prog="python -m benchmarks.references")
    measure = {"bandit": _bandit, "tabular-mdp": _tabular, "regression": _regression}
    measured = {part: measure[part](options) for part in options.parts}
    stored = json.loads(options.output.read_text()) if options.output.exists() else {}
    made_with = {"metarl": provenance(torch.device("cpu"))}
    stored |= {part: {**result, **made_with} for part, result in measured.items()}
    write_json(options.output, stored, indent=1)


def _bandit(options: Options) -> dict[str, Any]:
    family = BanditFamily()
    arms, pulls = int(np.prod(family.task_space.shape)), family.horizon
    # The mean of the largest of n uniform numbers is n / (n + 1).
    totals = {"knows the means": pulls * arms / (arms + 1)}
    totals |= {name: bandit_agents.value(agent, arms, pulls) for name, agent in _BANDIT_AGENTS.items()}
    totals = {name: round(total, 4) for name, total in totals.items()}
    rows: list[dict[str, Any]] = [{"agent": name, "expected return": total} for name, total in totals.items()]
    print(Table(f"bandit, {pulls} pulls of {arms} arms", rows), end="\n\n", flush=True)
    return {"arms": arms, "pulls": pulls, "expected_return": totals}


def _tabular(options: Options) -> dict[str, Any]:
    family = TabularMDPFamily()
    tasks = family.sample_tasks(options.tasks, stream(options.seed, Purpose.TEST_TASKS), "test")
    sizes = options.episodes, family.horizon
    known = {"knows the process": tabular_agents.optimum, "random": tabular_agents.random}
    returns = {
        name: np.repeat(expected(family, tasks, family.horizon)[:, None], options.episodes, axis=1)
        for name, expected in known.items()
    }
    for name, (agent, each_step) in _TABULAR_AGENTS.items():
        returns[name] = tabular_agents.play(agent, family, tasks, *sizes, options.seed, each_step)
    agents: dict[str, Any] = {}
    for name, of_agent in returns.items():
        total = mean_and_interval(of_agent.sum(1))
        agents[name] = {
            "mean": round(float(total.mean), 3),
            "interval": round(float(np.asarray(total.half_width)), 3),
            "per_episode": of_agent.mean(0).round(3).tolist(),
        }
    rows: list[dict[str, Any]] = [
        {"agent": name, "all": e["mean"], "+-95%": e["interval"], "first": e["per_episode"][0]}
        | {"last": e["per_episode"][-1]}
        for name, e in agents.items()
    ]
    episodes, horizon = sizes
    print(Table(f"tabular-mdp, return of {episodes} episodes of {horizon} steps", rows), end="\n\n", flush=True)
    settings = {"tasks": options.tasks, "seed": options.seed, "episodes": episodes, "horizon": horizon}
    return {**settings, "return": agents}


def _regression(options: Options) -> dict[str, Any]:
    """Five examples, as in the paper; errors hold the noise of the targets."""
    shots, queries, noise = 5, 100, 0.3
    errors: dict[str, Any] = {}
    for kinds, released in itertools.product((2, 3, 5), (False, True)):
        family = MultimodalRegressionFamily(kinds, noise, released)
        tasks = family.sample_tasks(options.tasks, stream(options.seed, Purpose.TEST_TASKS), "test")
        drawn = family.draw_tasks(options.functions, stream(options.seed, Purpose.TRAIN_TASKS), "train")
        squared, counts = [], []
        for i, task in enumerate(tasks):
            support, query = family.draw_sets(task, shots, queries, stream(options.seed, Purpose.TEST_ROLLOUTS, i))
            mean, count = regression_posterior.posterior_mean(family, drawn, noise, support, query.inputs)
            squared.append(float(((mean - query.targets) ** 2).mean()))
            counts.append(count)
        error = mean_and_interval(np.array(squared))
        of_kind = [float(np.mean(np.array(squared)[family.modes(tasks) == kind])) for kind in range(kinds)]
        errors[f"regression-{kinds}{', released' if released else ''}"] = {
            "error": round(float(error.mean), 4),
            "interval": round(float(np.asarray(error.half_width)), 4),
            "of_each_kind": [round(value, 4) for value in of_kind],
            "effective_functions_of_nine_tasks_in_ten": round(float(np.quantile(counts, 0.1))),
        }
    rows: list[dict[str, Any]] = [
        {"family": name, "error": entry["error"], "+-95%": entry["interval"]} for name, entry in errors.items()
    ]
    print(Table(f"Bayes-optimal error from {shots} examples", rows), end="\n\n", flush=True)
    settings = {"tasks": options.tasks, "seed": options.seed, "shots": shots, "functions": options.functions}
    return {**settings, "posterior_mean": errors}


if __name__ == "__main__":
    main()
