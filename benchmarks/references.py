"""What agents that know the prior reach on the discrete families: references for agents that learn to adapt.

    python -m benchmarks.references                # both families
    python -m benchmarks.references bandit         # exact values, by dynamic programming
    python -m benchmarks.references tabular-mdp    # planning agents on held-out tasks

Families have their default sizes and horizons. Results go to benchmarks/results/references.json, where a family that is
not asked for keeps its figures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
import tyro

from benchmarks import bandit_agents, tabular_agents
from benchmarks.measure import Table
from metarl.common.statistics import mean_and_interval
from metarl.common.streams import Purpose, stream
from metarl.common.strict_json import write_json
from metarl.envs.bandit import BanditFamily
from metarl.envs.tabular import TabularMDPFamily
from metarl.store.provenance import provenance

RESULT = Path(__file__).parent / "results" / "references.json"
Part = Literal["bandit", "tabular-mdp"]
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
    """Measures what agents that know the prior reach on the discrete families."""

    parts: Annotated[tuple[Part, ...], tyro.conf.Positional] = get_args(Part)
    """Families; by default both."""
    tasks: int = 2000
    """Held-out processes of tabular-mdp; bandits are summed exactly."""
    episodes: int = 10
    """Episodes on each process, through which agents remember."""
    seed: int = 10_000
    """Seed of processes and episodes, the default of metarl.evaluate."""
    output: Path = RESULT
    """Where the figures go."""


def main() -> None:
    """Runs the command."""
    options = tyro.cli(Options, prog="python -m benchmarks.references")
    measured = {part: _bandit() if part == "bandit" else _tabular(options) for part in options.parts}
    stored = json.loads(options.output.read_text()) if options.output.exists() else {}
    made_with = {"metarl": provenance(torch.device("cpu"))}
    stored |= {part: {**result, **made_with} for part, result in measured.items()}
    write_json(options.output, stored, indent=1)


def _bandit() -> dict[str, Any]:
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


if __name__ == "__main__":
    main()
