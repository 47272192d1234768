"""The evaluation protocol: return after 0, 1, ... gradient steps on held-out tasks, fresh episodes at each step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor
from tqdm import tqdm

from metarl.adaptation import Adaptation
from metarl.agent import Agent, build, evaluation_scales, load
from metarl.agents import build_rule
from metarl.config import Config
from metarl.device import resolve_device
from metarl.envs import TaskFamily
from metarl.errors import UserError
from metarl.parallel import Workers, available_cores
from metarl.provenance import provenance
from metarl.runner import Runner
from metarl.settings import EvaluationConfig, InnerConfig
from metarl.statistics import mean_and_interval, share_made_worse
from metarl.streams import Purpose, stream

# Tasks that are adapted to side by side; each group has random streams of its own.
_GROUP = 40


def evaluate(run_dir: str | Path, config: EvaluationConfig | None = None) -> dict[str, Any]:
    """Evaluates a run and writes ``evaluation.json`` into its folder (``evaluation-ENV.json`` for another family).

    Beside the agent stand two references on the same tasks: standing still (zero action, its return does not depend on
    the step), and a random initialisation of the same network that takes the same policy-gradient steps.

    Args:
        run_dir: The run's folder.
        config: What to evaluate on.

    Returns:
        What was written: the run's ``config``; ``checkpoint``, ``seed``, ``rollouts`` and ``step_scales``; ``tasks``;
        ``returns`` as [task][step]; ``mean`` and ``interval`` (half-width, 95 %, t over tasks: how well this one
        model is known, not how seeds differ) and ``share_made_worse`` for each step; ``references``; ``metarl``, what
        it was run with.

    Raises:
        UserError: If the run, its checkpoint or the tasks cannot be used.
    """
    run_dir, config = Path(run_dir), config or EvaluationConfig()
    device = resolve_device(config.device)
    agent = load(run_dir, config.checkpoint)
    family = agent.family if config.env is None else _other_family(agent, config.env)
    tasks = _tasks(family, config)
    with Workers(config.threads or available_cores()) as workers:
        protocol = _Protocol(agent.config, config, family, tasks, workers, device)
        returns = protocol.run(agent.rule, agent.meta, "agent")
        untrained = build_rule("maml", agent.rule.policy, InnerConfig(agent.config.inner_lr, agent.config.inner_loss))
        random_meta = untrained.initial(stream(config.seed, Purpose.INITIALISATION))
        random_returns = protocol.run(untrained, random_meta, "random initialisation")
        standstill = protocol.standstill()
    estimate = mean_and_interval(returns)
    result = {
        "config": agent.config.to_dict(),
        "env": family.name,
        "checkpoint": config.checkpoint,
        "seed": config.seed,
        "rollouts": config.rollouts,
        "step_scales": evaluation_scales(config.gradient_steps),
        "tasks": tasks.tolist(),
        "returns": returns.tolist(),
        "mean": estimate.mean.tolist(),
        "interval": None if estimate.half_width is None else estimate.half_width.tolist(),
        "share_made_worse": share_made_worse(returns).tolist(),
        "references": {"standstill": standstill, "random_initialisation": random_returns.mean(0).tolist()},
        "metarl": provenance(device),
    }
    (run_dir / evaluation_file(agent.config.env, family.name)).write_text(json.dumps(result) + "\n")
    return result


def evaluation_file(trained_on: str, evaluated_on: str) -> str:
    """Name of an evaluation's file in the run folder."""
    return "evaluation.json" if trained_on == evaluated_on else f"evaluation-{evaluated_on.replace(':', '.')}.json"


def table(result: dict[str, Any]) -> str:
    """An evaluation as text: a row for each gradient step, the references beside it."""
    interval = result["interval"] or [float("nan")] * len(result["mean"])
    groups = _task_groups(result)
    lines = [
        f"{result['config']['algo']} on {result['env']}: {len(result['tasks'])} tasks x {result['rollouts']} episodes, "
        f"checkpoint {result['checkpoint']}, seed {result['seed']}",
        "step    return  +-95% tasks  made worse  random init" + "".join(f"  {name:>12}" for name in groups),
    ]
    for step, mean in enumerate(result["mean"]):
        lines.append(
            f"{step:4d}{mean:10.2f}{interval[step]:13.2f}{result['share_made_worse'][step]:11.0%} "
            f"{result['references']['random_initialisation'][step]:12.2f}"
            + "".join(f"{values[step]:14.2f}" for values in groups.values())
        )
    if (standstill := result["references"]["standstill"]) is not None:
        lines.append(f"standing still: {standstill:.2f}")
    return "\n".join(lines)


def _task_groups(result: dict[str, Any]) -> dict[str, np.ndarray]:
    """Mean returns of each of two tasks, if there are no more, to be shown apart."""
    tasks, returns = np.asarray(result["tasks"]), np.asarray(result["returns"])
    distinct = np.unique(tasks, axis=0)
    if len(distinct) != 2 or len(tasks) < 2:
        return {}
    flat = tasks.reshape(len(tasks), -1)
    return {f"task {np.ravel(task)[0]:g}": returns[(flat == np.ravel(task)).all(1)].mean(0) for task in distinct}


def _other_family(agent: Agent, env: str) -> TaskFamily:
    family, _ = build(Config(env=env, algo=agent.config.algo))
    agent.check_fits(family.observation_space, family.action_space)
    return family


def _tasks(family: TaskFamily, config: EvaluationConfig) -> np.ndarray:
    if config.task_file is None:
        return family.sample_tasks(config.tasks, stream(config.seed, Purpose.TEST_TASKS), "test")
    try:
        tasks = np.asarray(json.loads(config.task_file.read_text())["tasks"], dtype=family.task_space.dtype)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{config.task_file} cannot be read as tasks ({error!r}); it must be JSON with a list under 'tasks'."
        ) from error
    shape = family.task_space.shape or ()
    if tasks.ndim != 1 + len(shape) or tasks.shape[1:] != shape or len(tasks) == 0:
        raise UserError(f"{config.task_file} must hold tasks of shape {shape}, got an array of shape {tasks.shape}.")
    for task in tasks:
        if not family.task_space.contains(task):
            raise UserError(f"{config.task_file} holds {task}, which is no task of {family.name}: {family.task_space}.")
    return tasks


class _Protocol:
    """Runs rules over the same tasks with the same random streams, in groups."""

    def __init__(
        self,
        run: Config,
        config: EvaluationConfig,
        family: TaskFamily,
        tasks: np.ndarray,
        workers: Workers,
        device: torch.device,
    ) -> None:
        self._run, self._config, self._family = run, config, family
        self._workers, self._device, self._tasks = workers, device, tasks

    def run(self, rule: Adaptation, meta: Tensor, what: str) -> np.ndarray:
        """Mean return of each task after each gradient step, [task, step]."""
        scales = evaluation_scales(self._config.gradient_steps)
        meta = meta.to(self._device)
        groups: Sequence[int] = range(0, len(self._tasks), _GROUP)
        returns = []
        for index, start in enumerate(tqdm(groups, desc=what, unit="group", leave=False)):
            tasks = self._tasks[start : start + _GROUP]
            runner = Runner(
                self._run, self._family, rule, len(tasks), self._config.rollouts, self._workers, self._device
            )
            adapted, _ = runner.run(meta, tasks, scales, self._config.seed, Purpose.TEST_ROLLOUTS, index)
            runner.close()
            returns.append(adapted.returns.cpu().numpy())
        return np.concatenate(returns)

    def standstill(self) -> float | None:
        """Mean return of the zero action, one episode of each task; None where there is no zero action."""
        space = self._family.action_space
        if not isinstance(space, Box) or not space.contains(np.zeros(space.shape, space.dtype)):
            return None
        num = len(self._tasks)
        episodes = self._family.make_episodes(num, self._run.horizon)
        observations = np.zeros((num, *self._family.observation_space.shape), np.float32)
        actions = np.zeros((num, *space.shape), space.dtype)
        rewards, terminated, truncated = np.zeros(num), np.zeros(num, bool), np.zeros(num, bool)
        total = np.zeros(num)
        seeds = stream(self._config.seed, Purpose.TEST_ROLLOUTS).integers(2**31, size=num)
        episodes.reset(self._tasks, seeds.tolist(), observations)
        while not (terminated | truncated).all():
            episodes.step(actions, observations, rewards, terminated, truncated)
            total += rewards
        episodes.close()
        return float(total.mean())
