"""What a trained agent learned: conflict, attenuation, smoothness, reuse of representations, embeddings of tasks."""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.agents.anil import PartialAdaptation
from metarl.agents.l2f import L2F
from metarl.common.errors import UserError
from metarl.common.parallel import Workers
from metarl.common.statistics import mean_and_interval, tasks_in_words
from metarl.common.streams import Purpose, stream
from metarl.config.algorithms import run_title
from metarl.config.evaluation import AnalysisConfig
from metarl.inner.loop import Adapted, observe
from metarl.inner.rule import Adaptation, Stage
from metarl.inner.runner import Runner
from metarl.reports.inspection import inspect, layers
from metarl.reports.measures import Floats, over_tasks, principal_components
from metarl.runs.agent import Agent, load
from metarl.store.checkpoints import checkpoint_path, load_meta
from metarl.store.provenance import provenance

# Brings embeddings [task, feature] to coordinates [task, 2], with each one's share of the variance if it has one.
_Projection = Callable[[Floats], tuple[Floats, Floats | None]]


def analyze(run_dir: str | Path, config: AnalysisConfig | None = None) -> dict[str, Any]:
    """Analyses a run on held-out tasks and writes ``analysis.json``.

    The inner loop is run with the training's number of steps, on the tasks and with the random streams of an evaluation
    of as many tasks (up to 40) with the same seed. What is measured for each task is given as
    `metarl.reports.measures.over_tasks` says; what is not defined, such as the angle of a zero gradient, is None.

    Args:
        run_dir: The run's folder.
        config: What to analyse it on.

    Returns:
        What was written: the run's ``config``, the ``analysis`` settings, ``metarl`` (what it was analysed with); the
        ``checkpoint`` and the ``iteration`` it was made at; ``tasks``, their ``modes`` and whether they are all there
        are (``finite``); ``tensors`` and ``layers`` of the policy; ``returns`` as [task][gradient step] and the
        ``env_steps`` of the whole analysis. Then, each None where it does not apply and ``left_out`` says why:

        - ``conflict``: angles in radians for each tensor, see `metarl.reports.inspection.conflict`.
        - ``attenuation``: Learn-to-Forget's gamma of each tensor.
        - ``landscape``: smoothness of the inner loss along the inner steps at ``fractions``, see
          `metarl.reports.measures.along_step`; means over the inner steps.
        - ``representations``: similarity before and after adaptation of each of ``names``, ``cka`` and ``cca``; since
          the ``start`` and, where a rule does something else first, over the ``gradient_steps`` alone.
        - ``movement``: Euclidean distance that each tensor moves, likewise; ``norm`` is the tensor's before.
        - ``freezing``: returns with the first k layers frozen in the inner loop, and the difference to k = 0.
        - ``embedding``: tasks in two dimensions by what the rule saw of them.
        - ``through_training``: the first five, without their ``per_task``, at every checkpoint that was kept and at the
          one that is analysed; None if that is a single one.

        What a rule sees the same of for every task, such as with attenuation by constants, is not in ``embedding``.

    Raises:
        UserError: If the run or its checkpoint cannot be used, or t-SNE is wanted and scikit-learn is not there.
    """
    run_dir, config = Path(run_dir), config or AnalysisConfig()
    agent = load(run_dir, config.checkpoint)
    project = _projection(config)
    tasks = agent.family.sample_tasks(config.tasks, stream(config.seed, Purpose.TEST_TASKS), "test")
    left_out: dict[str, str] = {}
    with Workers(config.threads) as workers:
        loops = _InnerLoops(agent, config, workers)
        adapted = loops.run(agent.rule, agent.meta, loops.stages(agent.rule), tasks, config.rollouts)
        iteration = load_meta(agent.config, config.checkpoint)[1].iteration
        seen = inspect(adapted.loop, loops.workers, left_out)
        result = {
            "config": agent.config.to_dict(),
            "analysis": {**asdict(config), "output": str(config.folder(run_dir))},
            "metarl": provenance(torch.device("cpu")),
            "checkpoint": config.checkpoint,
            "iteration": iteration,
            "tasks": tasks,
            "modes": agent.family.modes(tasks),
            "finite": agent.family.finite_tasks is not None,
            "tensors": agent.rule.policy.layout.names,
            "layers": layers(agent.rule.policy),
            "returns": adapted.returns.numpy(),
            **seen,
            "freezing": _freezing(loops, agent, tasks, adapted.returns[:, -1].numpy(), left_out),
            "embedding": _embedding(loops, agent, project, left_out),
            "through_training": _through_training(
                loops, agent, tasks, _at_checkpoint(iteration, adapted, seen), left_out
            ),
            "left_out": left_out,
            "env_steps": loops.env_steps,
        }
    result = _plain(result)
    _write(config.folder(run_dir) / "analysis.json", result)
    return result


def table(result: dict[str, Any]) -> str:
    """An analysis as text: a row for each tensor, each representation and each number of frozen layers."""
    run, settings, returns = result["config"], result["analysis"], np.mean(result["returns"], axis=0)
    head = [
        f"{run_title(run)} on {run['env']}: "
        f"{tasks_in_words(result['tasks'], result['finite'])}, "
        f"{settings['rollouts']} episodes, checkpoint {result['checkpoint']} (iteration {result['iteration']}), "
        f"seed {settings['seed']}",
        f"return before the inner loop {returns[0]:.2f}, after it {returns[-1]:.2f}",
    ]
    sections = [_table_of_tensors(result), _table_of_representations(result), _table_of_freezing(result)]
    reasons: dict[str, list[str]] = {}
    for name, why in result["left_out"].items():
        reasons.setdefault(why, []).append(name)
    sections += [["", *(f"left out: {', '.join(names)} ({why})" for why, names in reasons.items())]] if reasons else []
    return "\n".join("\n".join(lines) for lines in [head, *sections] if lines)


def _table_of_tensors(result: dict[str, Any]) -> list[str]:
    conflict, movement, attenuation = (result[name] for name in ("conflict", "movement", "attenuation"))
    columns: dict[str, list[str]] = {}
    unrelated: list[str] = []
    notes: dict[str, str] = {}
    if conflict:
        titles = {"between_tasks": "tasks", "between_episodes": "episodes", "within_task": "in a task"}
        columns |= {title: _column(conflict[name]["mean"], 3) for name, title in titles.items()}
        unrelated = _column([conflict[name]["unrelated"] for name in titles], 3)
        notes["tasks"] = "angle of the tasks' meta-gradients to their sum, radians; - without a gradient"
        notes["episodes"] = "the same of single episodes, each of another task"
        notes["in a task"] = "the same of single episodes of one task"
        notes["(if unrelated)"] = "the angle that as many unrelated gradients would have"
    if movement:
        columns["moved"] = _column(movement["start"]["distance"]["mean"])
        notes["moved"] = "distance in the inner loop"
        if 0 in movement["start"]["distance"]["max"]:
            notes["moved"] += "; 0 is not adapted, and an adapted context vector counts as part of the first bias"
    if attenuation:
        columns["gamma"] = _column(attenuation["gamma"]["mean"], 4)
        columns["spread"] = _column(attenuation["gamma"]["std"])
        notes["spread"] = "standard deviation of gamma over tasks"
    if not columns:
        return []
    lines = ["", "means over tasks", *(f"  {name:<16}{meaning}" for name, meaning in notes.items()), ""]
    lines += [_row("tensor", columns), *_rows(result["tensors"], list(columns.values()))]
    return [*lines, _row("(if unrelated)", unrelated)] if unrelated else lines


def _table_of_representations(result: dict[str, Any]) -> list[str]:
    if not result["representations"]:
        return []
    found, smoothness = result["representations"]["start"], result["landscape"]["smoothness"]
    lines = []
    if "similarity" not in result["left_out"]:
        columns = [_column(found[kind][of], 4) for kind in ("cka", "cca") for of in ("mean", "min")]
        lines += ["", "similarity before and after adaptation", _row("output of", ("CKA", "lowest", "CCA", "lowest"))]
        lines += _rows(result["representations"]["names"], columns)
    low, middle, high = _column([smoothness[key] for key in ("min", "median", "max")])
    return [*lines, "", f"effective smoothness along the inner steps: median {middle} (tasks: {low} to {high})"]


def _table_of_freezing(result: dict[str, Any]) -> list[str]:
    if not result["freezing"]:
        return []
    found = result["freezing"]
    interval = found["interval"] or [None] * len(found["difference"])
    columns = [_column(values, 2) for values in (found["returns"]["mean"], found["difference"], interval)]
    lines = ["", "return with layers frozen in the inner loop", _row("frozen", ("return", "change", "+-95%"))]
    return [*lines, *_rows(found["names"], columns)]


def _rows(names: Sequence[str], columns: Sequence[Sequence[str]]) -> list[str]:
    return [_row(name, cells) for name, *cells in zip(names, *columns, strict=True)]


def _row(name: str, cells: Iterable[str]) -> str:
    return f"{name:<16}" + "".join(f"{cell:>12}" for cell in cells)


def _column(values: Sequence[float | None], decimals: int | None = None) -> list[str]:
    """Numbers with the same decimals: as said, or so that the largest has four significant digits."""
    if decimals is None:
        largest = max((abs(value) for value in values if value), default=1.0)
        decimals = min(max(3 - math.floor(math.log10(largest)), 0), 9)
    return ["-" if value is None else f"{round(value, decimals) + 0.0:.{decimals}f}" for value in values]


# The inner loop


class _InnerLoops:
    """Runs inner loops of an agent's rules, always with the same random streams.

    Attributes:
        workers: Threads.
        env_steps: Environment steps taken so far.
    """

    def __init__(self, agent: Agent, config: AnalysisConfig, workers: Workers) -> None:
        self.config, self._agent = config, agent
        self.workers, self.env_steps = workers, 0

    def stages(self, rule: Adaptation) -> list[Stage]:
        """The inner loop as it was trained."""
        return rule.stages((1.0,) * self._agent.settings.inner.num_inner_steps)

    def run(
        self, rule: Adaptation, meta: Tensor, stages: Sequence[Stage], tasks: NDArray[Any], rollouts: int
    ) -> Adapted:
        """The inner loop of some tasks, `metarl.inner.runner.Runner.run`."""
        agent = self._agent
        settings = replace(agent.settings.rollouts, rollouts_per_task=rollouts)
        runner = Runner(
            agent.family, rule, len(tasks), settings, agent.settings.inner.inner_loss, self.workers, torch.device("cpu")
        )
        with closing(runner):
            adapted, _ = runner.run(meta, tasks, stages, self.config.seed, Purpose.TEST_ROLLOUTS, 0)
        self.env_steps += adapted.env_steps
        return adapted


# Freezing


def _freezing(
    loops: _InnerLoops, agent: Agent, tasks: NDArray[Any], adapted_returns: Floats, left_out: dict[str, str]
) -> dict[str, Any] | None:
    """Returns after the inner loop with the first k layers frozen in its gradient steps; same tasks, same streams."""
    if "movement" in left_out:
        left_out["freezing"] = left_out["movement"]
        return None
    parts = layers(agent.rule.policy)
    after = [adapted_returns]  # Nothing frozen is the rule itself.
    for k in range(1, len(parts) + 1):
        rule = PartialAdaptation(agent.rule, [name for layer in parts[k:] for name in layer])
        adapted = loops.run(rule, agent.meta, loops.stages(rule), tasks, loops.config.rollouts)
        after.append(adapted.returns[:, -1].numpy())
    per_task = np.array(after).T
    difference = mean_and_interval(per_task - per_task[:, :1])
    # Repeats of one task are no sample of tasks.
    sampled = agent.family.finite_tasks is None and difference.half_width is not None
    return {
        "unit": "return",
        "frozen_layers": list(range(len(parts) + 1)),
        "names": ["none", *(f"first {k}" if k > 1 else "first" for k in range(1, len(parts))), "all"],
        "returns": over_tasks(per_task),
        "difference": difference.mean,
        "interval": difference.half_width if sampled else None,
    }


# Embeddings of tasks


def _projection(config: AnalysisConfig) -> _Projection:
    if config.projection == "pca":
        return principal_components
    try:
        manifold = importlib.import_module("sklearn.manifold")
    except ImportError as error:
        raise UserError(
            "projection tsne needs scikit-learn, which is not installed: pip install scikit-learn (or metarl-torch's "
            "extra 'analysis'), or take --projection pca."
        ) from error

    def tsne(embedding: Floats) -> tuple[Floats, None]:
        perplexity = min(30.0, (len(embedding) - 1) / 3)
        return manifold.TSNE(perplexity=perplexity, random_state=config.seed).fit_transform(embedding), None

    return tsne


def _embedding(
    loops: _InnerLoops, agent: Agent, project: _Projection, left_out: dict[str, str]
) -> dict[str, Any] | None:
    """Tasks in two dimensions, by what the rule sees of them before its first gradient step."""
    rule, config = agent.rule, loops.config
    stages = loops.stages(rule)
    first_step = next((i for i, stage in enumerate(stages) if stage.is_step), 0)
    if not first_step:
        left_out["embedding"] = "the rule looks at no task before its first gradient step"
        return None
    tasks = agent.family.sample_tasks(config.embedding_tasks, stream(config.seed, Purpose.TEST_TASKS), "test")
    # One trajectory of each task is all that some rules look at.
    rollouts = config.rollouts if any(stage.rollouts is None for stage in stages[:first_step]) else 1
    adapted = loops.run(rule, agent.meta, stages[: first_step + 1], tasks, rollouts)
    observed = observe(adapted.loop, loops.workers).double().numpy()
    width = len(rule.layer_names) if isinstance(rule, L2F) else 0
    split = observed.shape[1] - width
    found = {"modulation": observed[:, :split], "attenuation": observed[:, split:]}
    seen = {name: values for name, values in found.items() if values.shape[1]}
    told_apart = {name: values for name, values in seen.items() if np.ptp(values, axis=0).any()}
    same = "what it sees is the same for every task"
    left_out |= {f"embedding of {name}" if told_apart else "embedding": same for name in seen.keys() - told_apart}
    if not told_apart:
        return None
    result: dict[str, Any] = {
        "projection": config.projection,
        "rollouts": rollouts,
        "tasks": tasks,
        "modes": agent.family.modes(tasks),
        "num_modes": agent.family.num_modes,
    }
    for name, values in told_apart.items():
        coordinates, shares = project(values)
        result[name] = {"features": values, "coordinates": coordinates, "variance_shares": shares}
    return result


# Through training


def _through_training(
    loops: _InnerLoops,
    agent: Agent,
    tasks: NDArray[Any],
    analysed: dict[str, Any],
    left_out: dict[str, str],
) -> list[dict[str, Any]] | None:
    """The course of training: the checkpoints that were kept, and the analysed one among them."""
    folder = checkpoint_path(agent.config.folder, "last").parent
    matches = [re.fullmatch(r"iteration(\d+)", path.stem) for path in folder.glob("iteration*.safetensors")]
    others = {int(match[1]) for match in matches if match} - {analysed["iteration"]}
    if not others:
        left_out["through_training"] = "the run kept no checkpoints besides the analysed one; see --keep-checkpoints"
        return None
    found = [analysed]
    for iteration in others:
        meta = Agent(agent.config, load_meta(agent.config, f"iteration{iteration}")[0]).meta
        adapted = loops.run(agent.rule, meta, loops.stages(agent.rule), tasks, loops.config.rollouts)
        found.append(_at_checkpoint(iteration, adapted, inspect(adapted.loop, loops.workers, {})))
    if not any(all(each[name] for each in found) for name in ("conflict", "attenuation", "landscape")):
        left_out["through_training"] = "nothing could be measured at every checkpoint"
        return None
    return sorted(found, key=lambda each: each["iteration"])


def _at_checkpoint(iteration: int, adapted: Adapted, seen: dict[str, Any]) -> dict[str, Any]:
    return {"iteration": iteration, "returns": adapted.returns.mean(0).numpy(), **_without_tasks(seen)}


# Numbers


def _without_tasks(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _without_tasks(part) for name, part in value.items() if name != "per_task"}


def _plain(value: Any) -> Any:
    """As JSON can hold it, which has no NaN and no infinity."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, result: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose --output.") from error
