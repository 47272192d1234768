"""Analyses what an agent learned: conflict, attenuation, smoothness, representations, embeddings of tasks, memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.agents.anil import PartialAdaptation
from metarl.agents.attenuated import Attenuated
from metarl.common.arrays import Floats
from metarl.common.errors import UserError
from metarl.common.files import keeping, warn_if_unwritable
from metarl.common.output import progress_bar
from metarl.common.parallel import Workers
from metarl.common.streams import Purpose, stream
from metarl.common.strict_json import write_json
from metarl.config.checked import convert, expect
from metarl.config.measuring import AnalysisConfig
from metarl.config.trust import Trust
from metarl.inner.loop import Adapted, observe
from metarl.inner.rule import Adaptation, Stage
from metarl.inner.runner import check_dropped, make_runner
from metarl.reports.inspection import inspect, layers, states_of
from metarl.reports.measures import (
    Difference,
    PrincipalAxes,
    best_on_the_other_half,
    principal_components,
    returns_over_tasks,
    task_r2,
    with_interval,
)
from metarl.reports.results import (
    Analysis,
    AtCheckpoint,
    Embedding,
    Freezing,
    GammaSweep,
    Gap,
    Inspection,
    Memory,
    Projected,
)
from metarl.runs.build import require_episodes
from metarl.runs.protocol import standing_still
from metarl.runs.room import require_room
from metarl.runs.trained_agent import Agent, load_with_iteration, require_same_data
from metarl.store.checkpoints import load_checkpoint
from metarl.store.folder import RunFolder
from metarl.store.provenance import provenance
from metarl.store.reference import results_folder, run_folder

ANALYSIS_FILE = "analysis.json"

GAMMAS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2)
"""Factors of the sweep; 1 is the initialisation itself."""

# Maps embeddings [task, feature] to (coordinates [task, 2], share of the variance along them [2] or None).
_Projection = Callable[[Floats], tuple[Floats, Floats | None]]


def analyze(run_dir: str | Path, config: AnalysisConfig | None = None, trust: Trust = False) -> Analysis:
    """Analyses a run on held-out tasks and writes ``analysis.json``; `metarl.reports.analysis_figures.draw` draws it.

    The inner loop has as many steps as in training. Tasks and random streams are those of an evaluation with the same
    seed and the same number of tasks (up to 40). The file is strict JSON; null marks undefined values, such as the
    angle of a zero gradient.

    Args:
        run_dir: The run's folder, or ``reference:NAME``, whose analysis goes into ``runs/reference/NAME``.
        config: Settings of the analysis; by default `AnalysisConfig` ().
        trust: Whether code from outside metarl that the run names may be imported, as for `metarl.load`.

    Returns:
        The analysis, as written.

    Raises:
        UserError: If the run or its checkpoint cannot be used, if t-SNE is chosen and scikit-learn is not installed, if
            the oracle's return does not exceed that of standing still.
        NotWritten: If the file cannot be written; its ``result`` is the analysis. A folder that cannot be written is
            said on stderr at once.
    """
    folder = run_folder(convert("run_dir", run_dir, Path))
    config = expect("config", AnalysisConfig() if config is None else config, AnalysisConfig)
    output = config.output or RunFolder(results_folder(folder)).analysis(config.checkpoint)
    config = replace(config, output=output)
    here = Path.cwd()  # An environment may change it.
    path = here / output / ANALYSIS_FILE
    agent, iteration = load_with_iteration(folder, config.checkpoint, trust)
    require_same_data(agent.config, agent.family)
    project, others = _projection(config), _other_checkpoints(agent, iteration, here / folder)
    warn_if_unwritable(path)
    measured = agent.settings.measured_on(config.rollouts)
    most_tasks = max(config.tasks * agent.settings.trials(config.rollouts), config.embedding_tasks)
    require_episodes(measured, agent.rule.stages((1.0,) * measured.inner.num_inner_steps), "rollouts")
    require_room(measured, agent.rule.policy, most_tasks, "tasks", "rollouts")
    tasks = agent.family.sample_tasks(config.tasks, stream(config.seed, Purpose.TEST_TASKS), "test")
    with Workers(config.threads) as workers:
        loops = _InnerLoops(agent, config, workers, independent=agent.family.independent(tasks))
        gap = _gap(loops, agent, tasks)
        adapted = loops.run(agent.rule, agent.meta, loops.stages(agent.rule), tasks, config.rollouts)
        inspection = inspect(adapted.loop, loops.workers, loops.independent)
        analysed = _at_checkpoint(iteration, adapted, inspection)
        # These return a result, and by name the reasons for the parts that they leave out.
        freezing, no_freezing = _freezing(loops, agent, tasks, adapted.returns[:, -1].numpy(), inspection)
        sweep, no_sweep = _gamma_sweep(loops, agent, tasks, adapted, inspection, gap)
        embedding, no_embedding = _embedding(loops, agent, project)
        memory, no_memory = _memory(loops, agent)
        through_training, no_course = _through_training(loops, agent, tasks, analysed, others)
        left_out = {**inspection.left_out, **no_freezing, **no_sweep, **no_embedding, **no_memory, **no_course}
        result = Analysis(
            config=agent.config.to_dict(),
            settings=config,
            metarl=provenance(torch.device("cpu")),
            checkpoint=config.checkpoint,
            iteration=iteration,
            tasks=tasks,
            modes=agent.family.checked_modes(tasks),
            finite=agent.family.finite_tasks is not None,
            tensors=() if agent.rule.remembers else agent.rule.policy.layout.names,
            layers=() if agent.rule.remembers else layers(agent.rule.policy),
            returns=adapted.returns.double().numpy(),
            measure=agent.family.measure,
            freezing=freezing,
            gamma_sweep=sweep,
            embedding=embedding,
            memory=memory,
            through_training=through_training,
            env_steps=loops.env_steps,
            **{**vars(inspection), "left_out": left_out},
        )
    with keeping(result, path, "; choose another output (--output)"):
        write_json(path, result)
    return result


# The inner loop


class _InnerLoops:
    """Runs inner loops of an agent's rules, always with the same random streams.

    Attributes:
        workers: Threads.
        env_steps: Environment steps taken so far.
        independent: Whether the tasks have an interval, see `metarl.envs.Family.independent`.
    """

    def __init__(self, agent: Agent, config: AnalysisConfig, workers: Workers, *, independent: bool) -> None:
        self.config, self._agent = config, agent
        self.workers, self.env_steps = workers, 0
        self.independent = independent

    def stages(self, rule: Adaptation) -> list[Stage]:
        """The stages of the inner loop in training."""
        return rule.stages((1.0,) * self._agent.settings.inner.num_inner_steps)

    def run(
        self,
        rule: Adaptation,
        meta: Tensor,
        stages: Sequence[Stage],
        tasks: NDArray[Any],
        rollouts: int,
        repeat: int = 0,
    ) -> Adapted:
        """Runs the inner loop for some tasks, see `metarl.inner.runner.Runner.run`; each repeat has other streams.

        An agent with memory lives through ``rollouts`` trials of each task: returns are their means, and everything
        else is by trial.
        """
        agent, trials = self._agent, self._agent.settings.trials(rollouts)
        settings, repeated = agent.settings.measured_on(rollouts), np.repeat(tasks, trials, axis=0)
        runner = make_runner(agent.family, rule, len(repeated), settings, self.workers, torch.device("cpu"))
        with closing(runner):
            adapted, _ = runner.run(meta, repeated, stages, self.config.seed, Purpose.TEST_ROLLOUTS, repeat)
        check_dropped(adapted)
        self.env_steps += adapted.env_steps
        return adapted.over_trials(trials)


# Freezing


def _freezing(
    loops: _InnerLoops, agent: Agent, tasks: NDArray[Any], adapted_returns: Floats, inspection: Inspection
) -> tuple[Freezing | None, dict[str, str]]:
    """Returns after an inner loop whose gradient steps freeze the first k layers; same tasks, same random streams."""
    if inspection.movement is None:
        return None, {"freezing": inspection.left_out["movement"]}
    parts = layers(agent.rule.policy)
    after = [adapted_returns]  # With k = 0 this is the rule itself.
    for k in range(1, len(parts) + 1):
        rule = PartialAdaptation(agent.rule, [name for layer in parts[k:] for name in layer])
        adapted = loops.run(rule, agent.meta, loops.stages(rule), tasks, loops.config.rollouts)
        after.append(adapted.returns[:, -1].numpy())
    per_task = np.array(after).T
    difference = with_interval(returns_over_tasks(per_task - per_task[:, :1]), loops.independent)
    freezing = Freezing(
        unit=agent.family.measure,
        frozen_layers=list(range(len(parts) + 1)),
        names=["none", *(f"first {k}" if k > 1 else "first" for k in range(1, len(parts))), "all"],
        returns=returns_over_tasks(per_task),
        difference=difference.mean,
        interval=difference.interval,
    )
    return freezing, {}


# Attenuation by hand


def _gap(loops: _InnerLoops, agent: Agent, tasks: NDArray[Any]) -> tuple[float, float] | None:
    """Returns of standing still and of the oracle; None if no oracle was given."""
    oracle = loops.config.oracle_return
    if oracle is None:
        return None
    standstill, env_steps = standing_still(agent.family, tasks, agent.settings, loops.config.seed, loops.workers)
    loops.env_steps += env_steps
    if standstill is None:
        raise UserError(f"{agent.family.name} has no action for standing still, so leave out oracle_return.")
    if oracle <= standstill:
        raise UserError(f"oracle_return must exceed the return of standing still, {standstill:.2f}, got {oracle:g}.")
    return standstill, oracle


def _gamma_sweep(
    loops: _InnerLoops,
    agent: Agent,
    tasks: NDArray[Any],
    adapted: Adapted,
    inspection: Inspection,
    gap: tuple[float, float] | None,
) -> tuple[GammaSweep | None, dict[str, str]]:
    """Returns after an inner loop from an attenuated initialisation; the same random streams for every gamma."""
    if inspection.movement is None:
        return None, {"gamma_sweep": inspection.left_out["movement"]}
    if not loops.config.gamma_sweep:
        return None, {"gamma_sweep": "not asked for; see gamma_sweep (--gamma-sweep)"}
    if inspection.attenuation is not None:
        return None, {"gamma_sweep": "the rule attenuates its initialisation by itself"}
    by_layer = [[name for name in layer if name != "log_std"] for layer in layers(agent.rule.policy)]
    by_layer = [layer for layer in by_layer if layer]
    tensors = [*by_layer, [name for layer in by_layer for name in layer]]

    def returns(part: Sequence[str], gamma: float, half: int) -> Floats:
        rule = Attenuated(agent.rule, part, gamma)
        run = loops.run(rule, agent.meta, loops.stages(rule), tasks, loops.config.rollouts, repeat=half)
        return run.returns[:, -1].double().numpy()

    # With gamma = 1 every part is the rule itself; the first half of that is the analysed inner loop.
    own = np.stack([adapted.returns[:, -1].double().numpy(), returns([], 1.0, half=1)])
    halves = np.broadcast_to(own[:, :, None, None], (2, len(tasks), len(tensors), len(GAMMAS))).copy()
    others = [point for point in np.ndindex(2, len(tensors), len(GAMMAS)) if GAMMAS[point[2]] != 1]
    for half, part, index in progress_bar(others, desc="gamma sweep", unit="inner loop", leave=False):
        halves[half, :, part, index] = returns(tensors[part], GAMMAS[index], half)
    sign = agent.family.sign
    chosen, best = best_on_the_other_half(sign * halves)
    best = sign * best
    gain = with_interval(returns_over_tasks(sign * (best - own.mean(0)[:, None])), loops.independent)
    sweep = GammaSweep(
        unit=agent.family.measure,
        gammas=GAMMAS,
        parts=[*(f"layer {number}" for number in range(1, len(tensors))), "network"],
        tensors=tensors,
        returns=returns_over_tasks(halves.mean(0)),
        unattenuated=returns_over_tasks(own.mean(0)),
        best=returns_over_tasks(best),
        gain=gain,
        chosen=np.array(GAMMAS)[chosen],
        gap=None if gap is None else _share_of_gap(gain, *gap),
    )
    return sweep, {}


def _share_of_gap(gain: Difference, standstill: float, oracle: float) -> Gap:
    size = oracle - standstill
    interval = None if gain.interval is None else gain.interval / size
    return Gap(standstill, oracle, gain.mean / size, interval)


# Embeddings of tasks


def _projection(config: AnalysisConfig) -> _Projection:
    if config.projection == "pca":
        return principal_components
    try:
        manifold = importlib.import_module("sklearn.manifold")
    except ImportError as error:
        raise UserError(
            "projection tsne needs scikit-learn, which is not installed: pip install scikit-learn, or take "
            "projection='pca' (--projection)."
        ) from error

    def tsne(embedding: Floats) -> tuple[Floats, None]:
        perplexity = min(30.0, (len(embedding) - 1) / 3)
        # Two principal components, the usual start, need two features; NumPy's seeds have 32 bits.
        start = "pca" if embedding.shape[1] > 1 else "random"
        projection = manifold.TSNE(perplexity=perplexity, init=start, random_state=config.seed % 2**32)
        return projection.fit_transform(embedding), None

    return tsne


def _embedding(loops: _InnerLoops, agent: Agent, project: _Projection) -> tuple[Embedding | None, dict[str, str]]:
    """Projects tasks to two dimensions, by the rule's features of them before its first gradient step."""
    rule, config = agent.rule, loops.config
    stages = loops.stages(rule)
    first_step = next((i for i, stage in enumerate(stages) if stage.is_step), 0)
    if not first_step:
        return None, {"embedding": f"the rule looks at no task before its first {rule.step_name}"}
    tasks = agent.family.sample_tasks(config.embedding_tasks, stream(config.seed, Purpose.TEST_TASKS), "test")
    # Some rules read only one trajectory per task.
    rollouts = config.rollouts if any(stage.rollouts is None for stage in stages[:first_step]) else 1
    adapted = loops.run(rule, agent.meta, stages[: first_step + 1], tasks, rollouts)
    observed = observe(adapted.loop, loops.workers).double().numpy()
    features = {name: observed[:, columns] for name, columns in rule.observed.items()}
    varying = {name: values for name, values in features.items() if np.ptp(values, axis=0).any()}
    if not features:
        return None, {"embedding": "the rule does not name what it sees of a task"}
    same = "what it sees is the same for every task"
    if not varying:
        return None, {"embedding": same}
    finite = agent.family.finite_tasks is not None
    seen = {
        name: Projected(values, *project(values), task_r2(values, tasks, finite=finite))
        for name, values in varying.items()
    }
    modes = agent.family.checked_modes(tasks)
    examples = agent.settings.examples
    read = max(stage.rollouts or rollouts for stage in stages[:first_step]) if examples is None else examples.shots
    embedding = Embedding(config.projection, read, tasks, modes, agent.family.num_modes, seen)
    return embedding, {f"embedding of {name}": same for name in features if name not in varying}


# Memory


def _memory(loops: _InnerLoops, agent: Agent) -> tuple[Memory | None, dict[str, str]]:
    """The states of an agent with memory in one trial of each task, and what they tell of the task."""
    if not agent.rule.remembers:
        return None, {"memory": "the agent has no memory"}
    config, family = loops.config, agent.family
    tasks = family.sample_tasks(config.embedding_tasks, stream(config.seed, Purpose.TEST_TASKS), "test")
    adapted = loops.run(agent.rule, agent.meta, loops.stages(agent.rule), tasks, 1)
    states, lengths = states_of(adapted.loop)
    ends = states[:, :, -1]
    axes = PrincipalAxes.of(ends.reshape(-1, ends.shape[2]))
    finite = family.finite_tasks is not None
    at_steps = np.moveaxis(states.reshape(len(tasks), -1, ends.shape[2]), 1, 0)
    by_step = [task_r2(at, tasks, finite=finite) for at in at_steps]
    memory = Memory(
        tasks,
        family.checked_modes(tasks),
        family.num_modes,
        lengths,
        ends,
        axes.coordinates(ends),
        axes.shares,
        axes.coordinates(states[: config.tasks]),
        {name: np.reshape([r2[name] for r2 in by_step], states.shape[1:3]) for name in by_step[0]},
    )
    return memory, {}


# Through training


def _other_checkpoints(agent: Agent, analysed: int, folder: Path) -> dict[int, Tensor]:
    """The meta-parameters of the checkpoints that were kept in the run's folder, but for the analysed iteration's."""
    if agent.rule.remembers:
        return {}
    stored = replace(agent.config, run_dir=folder)
    iterations = [iteration for iteration in RunFolder(folder).kept_iterations() if iteration != analysed]
    return {
        iteration: Agent(agent.config, load_checkpoint(stored, f"iteration{iteration}").learner.meta).meta
        for iteration in iterations
    }


def _through_training(
    loops: _InnerLoops, agent: Agent, tasks: NDArray[Any], analysed: AtCheckpoint, others: dict[int, Tensor]
) -> tuple[list[AtCheckpoint] | None, dict[str, str]]:
    """Inspects the analysed checkpoint and the others, by their iterations, in order."""
    if agent.rule.remembers:
        return None, {"through_training": analysed.left_out["movement"]}
    if not others:
        why = "the run kept no checkpoints besides the analysed one; see keep_checkpoints (--keep-checkpoints)"
        return None, {"through_training": why}
    course = [analysed]
    for iteration, meta in others.items():
        adapted = loops.run(agent.rule, meta, loops.stages(agent.rule), tasks, loops.config.rollouts)
        course.append(_at_checkpoint(iteration, adapted, inspect(adapted.loop, loops.workers, loops.independent)))
    if not any(all(getattr(point, part) for point in course) for part in ("conflict", "attenuation", "landscape")):
        return None, {"through_training": "nothing could be measured at every checkpoint"}
    return sorted(course, key=lambda point: point.iteration), {}


def _at_checkpoint(iteration: int, adapted: Adapted, inspection: Inspection) -> AtCheckpoint:
    returns = adapted.returns.mean(0).double().numpy()
    return AtCheckpoint(iteration=iteration, returns=returns, **vars(inspection))
