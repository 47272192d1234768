"""The evaluation protocol: return after 0, 1, ... gradient steps on held-out tasks, fresh episodes at each step."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.agents.anil import PartialAdaptation
from metarl.agents.maml import MAML
from metarl.agents.normalised import NormalisedObservations
from metarl.common.device import resolve_device
from metarl.common.errors import UserError
from metarl.common.files import keeping, warn_if_unwritable
from metarl.common.memory import require_memory
from metarl.common.output import progress_bar
from metarl.common.parallel import Workers
from metarl.common.statistics import mean_and_interval, share_made_worse
from metarl.common.streams import Purpose, stream
from metarl.common.strict_json import plain, read_json, write_json
from metarl.config.checked import Count, convert, expect
from metarl.config.measuring import EvaluationConfig
from metarl.config.resolved import Settings
from metarl.config.trust import Trust, code_in, names_in
from metarl.envs import Family, SupervisedFamily, TaskFamily
from metarl.envs.checked import CheckedEpisodes, checked_episodes, watching
from metarl.envs.single import require_whole_episodes
from metarl.envs.spaces import stacked, zero_action
from metarl.inner.loop import Measured
from metarl.inner.memory import MemoryRule
from metarl.inner.rule import Adaptation
from metarl.inner.runner import check_dropped, make_runner
from metarl.policies.base import require_derivatives
from metarl.runs.build import family_of, require_episodes
from metarl.runs.room import require_room
from metarl.runs.trained_agent import Agent, load_with_iteration, require_same_data
from metarl.store.evaluations import Evaluation, MetricResult, References
from metarl.store.folder import RunFolder
from metarl.store.provenance import provenance
from metarl.store.reference import results_folder

# Tasks in a group. A group adapts to its tasks side by side and has random streams of its own.
_GROUP = 40
# Numbers of a task that an error message shows.
_MOST_SHOWN = 20


def evaluate(run_dir: str | Path, config: EvaluationConfig | None = None, trust: Trust = False) -> Evaluation:
    """Evaluates a run on held-out tasks and writes ``evaluation.json`` into its folder.

    The file of the best checkpoint is ``evaluation-best.json``, that of another family ``evaluation-ENV.json``, see
    `metarl.store.folder.RunFolder.evaluation`. The file is strict JSON, where NaN is null; `Evaluation.from_json` reads
    it back.

    Two references are measured on the same tasks: standing still (the zero action, whose return does not depend on the
    step), and a random initialisation of the same network that takes the same policy-gradient steps.

    Args:
        run_dir: The run's folder, or ``reference:NAME``, whose file goes into ``runs/reference/NAME``.
        config: Settings of the evaluation; by default `EvaluationConfig` ().
        trust: Whether code from outside metarl that the run names may be imported, as for `metarl.load`.

    Returns:
        The evaluation, as written.

    Raises:
        UserError: If the run, its checkpoint or the tasks cannot be used.
        NotWritten: If the file cannot be written; its ``result`` is the evaluation. A folder that cannot be written is
            said on stderr at once.
    """
    here = Path.cwd()  # An environment may change it.
    agent, iteration, config = _prepared(run_dir, config, trust)
    path = here / RunFolder(results_folder(agent.config.folder)).evaluation(config)
    warn_if_unwritable(path)
    result = _measured(agent, iteration, config)
    with keeping(result, path):
        write_json(path, result)
    return result


def sweep_rollouts(
    run_dir: str | Path, rollouts: Sequence[int], config: EvaluationConfig | None = None, trust: Trust = False
) -> list[Evaluation]:
    """Evaluates a run once for each number of episodes per step, on the same tasks; writes ``evaluation-sweep.json``.

    It says what a rule makes of less data. The file's name contains what that of `evaluate` does; its key
    ``evaluations`` holds the evaluations as ``evaluation.json`` does, and `metarl.plot` draws them.

    Args:
        run_dir: As for `evaluate`.
        rollouts: Numbers of episodes of each task at each step, in place of the configuration's ``rollouts``.
        config: Other settings of the evaluations; by default `EvaluationConfig` ().
        trust: As for `evaluate`.

    Returns:
        The evaluations, in ascending order of episodes.

    Raises:
        UserError: As `evaluate`; also if ``rollouts`` is empty, if the family is supervised, or if the agent remembers.
            Nothing is evaluated then.
        NotWritten: If the file cannot be written; its ``result`` is the list.
    """
    sizes = sorted(set(convert("rollouts", rollouts, tuple[Count, ...])), reverse=True)
    if not sizes:
        raise UserError("rollouts must hold at least one number of episodes, got none.")
    here = Path.cwd()  # An environment may change it.
    agent, iteration, config = _prepared(run_dir, config, trust)
    if agent.settings.examples is not None:
        name = agent.settings.experiment.env
        raise UserError(f"rollouts cannot be swept on {name}, which has no episodes; evaluate it with other shots.")
    if agent.rule.remembers:
        raise UserError("rollouts cannot be swept for an agent with memory, whose every step reads one episode.")
    stages = agent.rule.stages(agent.step_scales(config.gradient_steps, config.step_scales))
    require_episodes(agent.settings.measured_on(sizes[-1]), stages, "rollouts")
    path = here / RunFolder(results_folder(agent.config.folder)).evaluation(config, sweep=True)
    warn_if_unwritable(path)
    # The largest first: what does not fit into memory should fail early.
    results = [_measured(agent, iteration, replace(config, rollouts=size)) for size in sizes][::-1]
    with keeping(results, path):
        write_json(path, {"evaluations": results})
    return results


def _prepared(
    run_dir: str | Path, config: EvaluationConfig | None, trust: Trust
) -> tuple[Agent, int, EvaluationConfig]:
    """The agent, the iterations behind it, and the configuration without the run's own family."""
    config = expect("config", EvaluationConfig() if config is None else config, EvaluationConfig)
    resolve_device(config.device)  # Refuse a device that is missing before the run is read.
    # To name the family here is the word for it.
    words = trust is True or [*names_in(trust), *code_in({"env": config.env}).values()]
    if config.task_file is not None:
        config = replace(config, task_file=config.task_file.absolute())  # An environment may change the directory.
    agent, iteration = load_with_iteration(run_dir, config.checkpoint, words)
    if config.env == agent.config.env:
        config = replace(config, env=None)
    if config.env is None:
        require_same_data(agent.config, agent.family)
    return agent, iteration, config


def _measured(agent: Agent, iteration: int, config: EvaluationConfig) -> Evaluation:
    """Measures an agent, as it was after some iteration, and the references."""
    device = resolve_device(config.device)
    family = agent.family if config.env is None else _other_family(agent, config.env)
    require_memory("the returns of the tasks", config.tasks * (config.gradient_steps + 1), "tasks or gradient_steps")
    tasks = _tasks(family, config)
    if config.adapted_layers and agent.rule.remembers:
        algo = agent.settings.experiment.algo
        raise UserError(f"adapted_layers would do nothing: {algo} takes no gradient steps.")
    rule, scales = _partial(agent.rule, config), agent.step_scales(config.gradient_steps, config.step_scales)
    if config.adapted_layers and not rule.adapted:
        adapted = ", ".join(agent.rule.adapted) or "nothing"
        raise UserError(f"adapted_layers names no tensor that this agent adapts; it adapts {adapted}.")
    if isinstance(family, TaskFamily):
        foreign, why = ["shots", "queries"], f"it is for supervised families, and {family.name} has episodes"
        size = config.episodes
    else:
        foreign, why = ["rollouts"], f"{family.name} is a supervised family; choose shots and queries"
        size = _queries(agent, family, config)
    for name in foreign:
        if getattr(config, name) is not None:
            raise UserError(f"{name} would do nothing: {why}.")
    settings = agent.settings.measured_on(size, config.shots)
    require_episodes(settings, rule.stages(scales), "rollouts")
    trials = settings.trials(size)
    lower_tasks = "tasks" if trials == 1 else "tasks or rollouts"
    require_room(settings, rule.policy, min(_GROUP, len(tasks)) * trials, lower_tasks, "rollouts, shots or queries")
    with Workers(config.threads) as workers:
        protocol = _Protocol(settings, config, scales, family, tasks, workers, device)
        measured, consumed = protocol.run(rule, agent.meta, "agent")
        untrained, random_meta = _untrained(agent, config)
        random_returns = protocol.run(untrained, random_meta, "random initialisation")[0].returns.numpy()
        standstill, _ = standing_still(family, tasks, agent.settings, config.seed, workers)
    finite, returns = family.finite_tasks, measured.returns.double().numpy()
    independent = family.independent(tasks)
    estimate, (episodes, steps) = mean_and_interval(returns), consumed.mean(0).numpy().T
    return Evaluation(
        config=agent.config.to_dict(),
        env=family.name,
        checkpoint=config.checkpoint,
        iteration=iteration,
        seed=config.seed,
        rollouts=size,
        measure=family.measure,
        shots=None if settings.examples is None else settings.examples.shots,
        adapted_layers=config.adapted_layers,
        step_name=rule.step_name,
        step_scales=scales,
        tasks=tasks,
        finite=finite is not None,
        task_names=None if finite is None or len(finite) != 2 else tuple(family.describe_task(task) for task in tasks),
        returns=returns,
        mean=estimate.mean,
        interval=estimate.half_width if independent else None,
        share_made_worse=share_made_worse(family.sign * returns) if rule.adapted else None,
        modulated=None if measured.modulated_returns is None else float(measured.modulated_returns.mean()),
        env_steps=measured.env_steps,
        dropped_episodes=len(measured.dropped),
        references=References(standstill, random_returns.mean(0).astype(np.float64)),
        metarl=provenance(device),
        adaptation_episodes=episodes,
        adaptation_steps=steps if isinstance(family, TaskFamily) else None,
        metrics={name: _metric(values.numpy(), independent) for name, values in measured.metrics.items()},
    )


def _metric(per_task: NDArray[np.float64], independent: bool) -> MetricResult:
    """A metric, [task, step], with an interval if the tasks are independent."""
    estimate = mean_and_interval(per_task)
    return MetricResult(per_task, estimate.mean, estimate.half_width if independent else None)


def _untrained(agent: Agent, config: EvaluationConfig) -> tuple[Adaptation, Tensor]:
    """MAML from a random initialisation, with the agent's normalisation of observations; with memory, no training."""
    generator = stream(config.seed, Purpose.INITIALISATION)
    if isinstance(core := agent.rule.core, MemoryRule):
        weights = core.initial_weights(generator)
        return agent.rule, torch.cat([weights, agent.meta[len(weights) :]])
    rule: Adaptation = MAML(require_derivatives(agent.rule.policy), agent.settings.inner)
    if not agent.settings.policy.normalise_observations:
        return _partial(rule, config), rule.initial(generator)
    normalised = NormalisedObservations(rule)
    return _partial(normalised, config), normalised.with_statistics(normalised.initial(generator), agent.meta)


def _queries(agent: Agent, family: Family, config: EvaluationConfig) -> int:
    assert isinstance(family, SupervisedFamily)
    assert agent.settings.examples is not None
    return config.queries or family.test_queries or agent.settings.examples.queries


def _partial(rule: Adaptation, config: EvaluationConfig) -> Adaptation:
    return PartialAdaptation(rule, config.adapted_layers) if config.adapted_layers else rule


def _other_family(agent: Agent, env: str) -> Family:
    family = family_of(agent.settings.experiment.algo, env)
    if isinstance(family, TaskFamily):
        agent.check_fits(family.single_observation_space, family.action_space)
        require_whole_episodes(family, agent.settings.rollouts.horizon)
    else:
        agent.check_same_examples(family)
    return family


def _tasks(family: Family, config: EvaluationConfig) -> np.ndarray:
    if config.task_file is None:
        return family.sample_tasks(config.tasks, stream(config.seed, Purpose.TEST_TASKS), "test")
    try:
        values = read_json(config.task_file)["tasks"]
        if not isinstance(values, list) or not values:
            raise TypeError("tasks must be a list that is not empty")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error.__cause__, OSError):  # The file cannot be read at all.
            raise
        raise UserError(
            f"{config.task_file} holds no tasks; for {family.name} it must be JSON {_form_of_tasks(family)}."
        ) from error
    tasks = []
    for number, value in enumerate(values):
        try:
            tasks.append(family.task_from(value))
        except UserError as error:
            raise UserError(f"task {number} of {config.task_file} is wrong: {error}") from error
    if seen := sum(not family.is_held_out(task) for task in tasks):
        raise UserError(
            f"{seen} of the {len(tasks)} tasks of {config.task_file} have classes that are not held out in this run; "
            "take tasks of its test split."
        )
    return stacked(tasks)


def _form_of_tasks(family: Family) -> str:
    """What a file with tasks of a family must hold, as the end of a sentence: two tasks as an example if they fit."""
    shape = family.task_space.shape
    if shape is not None and math.prod(shape) > _MOST_SHOWN:
        return f'{{"tasks": [...]}}, with an array of shape {shape} for each task'
    example = json.dumps({"tasks": plain(family.sample_tasks(2, np.random.default_rng(0)))})
    return f"such as {json.dumps(json.loads(example, parse_float=lambda digits: round(float(digits), 2)))}"


class _Protocol:
    """Runs rules over the same tasks with the same random streams, in groups.

    Args:
        run: The settings that the agent was trained with.
        config: Settings of the evaluation.
        scales: Factors on the step size of each gradient step.
        family: The family of the tasks.
        tasks: [task, ...].
        workers: Threads.
        device: Device of adaptation.
    """

    def __init__(
        self,
        run: Settings,
        config: EvaluationConfig,
        scales: Sequence[float],
        family: Family,
        tasks: np.ndarray,
        workers: Workers,
        device: torch.device,
    ) -> None:
        self._run, self._config, self._scales, self._family = run, config, scales, family
        self._tasks, self._workers, self._device = tasks, workers, device

    def run(self, rule: Adaptation, meta: Tensor, what: str) -> tuple[Measured, Tensor]:
        """Adapts to all tasks from ``meta``.

        Args:
            rule: The rule.
            meta: Meta-parameters, [meta parameter].
            what: Label of the progress bar.

        Returns:
            What was measured; and what adaptation had read before each return, [task, step, 2], see
            `metarl.inner.loop.InnerLoop`.
        """
        meta = meta.to(self._device)
        measured, consumed = list[Measured](), list[Tensor]()
        with progress_bar(total=len(self._tasks), desc=what, unit="task", leave=False) as progress:
            for group in range(-(-len(self._tasks) // _GROUP)):
                of_group = self._run_group(rule, meta, group)
                measured.append(of_group[0])
                consumed.append(of_group[1])
                progress.update(len(of_group[0].returns))
        return Measured.joined(measured), torch.cat(consumed)

    def _run_group(self, rule: Adaptation, meta: Tensor, group: int) -> tuple[Measured, Tensor]:
        """Adapts to the tasks of one group side by side; frees their rollouts afterwards."""
        config, trials = self._config, self._run.trials(self._config.episodes)
        tasks = np.repeat(self._tasks[group * _GROUP : (group + 1) * _GROUP], trials, axis=0)
        stages = rule.stages(self._scales)
        runner = make_runner(self._family, rule, len(tasks), self._run, self._workers, self._device)
        with closing(runner):
            adapted, _ = runner.run(meta, tasks, stages, config.seed, Purpose.TEST_ROLLOUTS, group)
        check_dropped(adapted)
        return adapted.on_cpu().over_trials(trials), adapted.loop.consumed()


def standing_still(
    family: Family, tasks: np.ndarray, settings: Settings, seed: int, workers: Workers
) -> tuple[float | None, int]:
    """Mean return of the zero action over one episode per task, and the environment steps that it took.

    The return is None if the family is supervised, if its action space has no zero, or if all episodes were dropped.

    Args:
        family: The task family.
        tasks: [task, ...].
        settings: The run's settings.
        seed: Seed of the episodes.
        workers: Threads.

    Raises:
        Fault: If an environment does not return in time.
    """
    if not isinstance(family, TaskFamily) or (zero := zero_action(family.action_space)) is None:
        return None, 0
    num, rollouts = len(tasks), settings.rollouts
    seeds = stream(seed, Purpose.TEST_ROLLOUTS).integers(2**31, size=num)
    most = settings.run.envs_per_process or num
    returns, env_steps = list[float](), 0
    for first in range(0, num, most):
        some = slice(first, first + most)
        size = len(tasks[some])
        episodes = checked_episodes(family, size, rollouts.horizon, 1, rollouts.on_bad_episode)
        try:
            # In a thread, so that an environment that hangs is noticed.
            live = partial(_live, episodes, rollouts.horizon, tasks[some], seeds[some].tolist())
            ((of_some, steps),) = workers.map(live, [zero], *watching([episodes], rollouts.step_timeout))
        finally:
            if not workers.abandoned:
                episodes.close()
        returns, env_steps = [*returns, *of_some], env_steps + steps
    return float(np.mean(returns)) if returns else None, env_steps


def _live(
    episodes: CheckedEpisodes, horizon: int, tasks: np.ndarray, seeds: Sequence[int], action: np.ndarray
) -> tuple[list[float], int]:
    """Returns of one episode of each task with always the same action, but for dropped ones; and their steps."""
    num, env_steps = len(tasks), 0
    observations = np.zeros((num, episodes.observation_size), np.float32)
    actions = np.repeat(action[None], num, axis=0)
    rewards, terminated, truncated = np.zeros(num), np.zeros(num, bool), np.zeros(num, bool)
    total = np.zeros(num)
    episodes.reset(tasks, seeds, observations)
    for _ in range(horizon):
        ended = terminated | truncated
        if ended.all():
            break
        env_steps += int((~ended).sum())
        episodes.step(actions, observations, rewards, terminated, truncated)
        total += rewards
    kept: list[float] = np.delete(total, list(episodes.dropped)).tolist()
    return kept, env_steps
