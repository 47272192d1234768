"""Figure of regression tasks: the true function, the support points, and the fit before and after adaptation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from metarl.common.errors import UserError
from metarl.common.streams import Purpose, stream
from metarl.common.words import counted
from metarl.config.measuring import Checkpoint
from metarl.envs import SupervisedFamily
from metarl.reports.styles import add_caption, style_axes
from metarl.reports.wording import agent_text, software_text
from metarl.runs.trained_agent import Agent
from metarl.store.config_file import read_values
from metarl.store.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TASKS = 6
_STEPS = (0, 1, 10)
_COLOURS = ("#b0b0b0", "#e69f00", "#0072b2")
_SEED = 10_000  # As in an evaluation.


def draw_functions(agent: Agent, iteration: int, checkpoint: Checkpoint) -> Figure:
    """Draws what an agent fits to six held-out tasks with one input and one output, after 0, 1 and 10 gradient steps.

    Args:
        agent: An agent of such a family.
        iteration: Meta-iterations behind it.
        checkpoint: Its checkpoint.

    Raises:
        UserError: If the family has environments, or other than one input and one output.
    """
    from matplotlib.figure import Figure

    family = agent.family
    if not isinstance(family, SupervisedFamily) or family.classes or (family.num_inputs, family.num_outputs) != (1, 1):
        raise UserError(
            f"x='input' (--x) needs a regression family with one input and one output; {family.name} is another."
        )
    assert agent.settings.examples is not None
    shots = agent.settings.examples.shots
    tasks = family.sample_tasks(_TASKS, stream(_SEED, Purpose.TEST_TASKS), "test")
    figure = Figure(figsize=(10.5, 6.0), layout="constrained")
    rows = figure.subplots(2, 3)
    for number, (ax, task) in enumerate(zip(rows.flat, tasks, strict=True)):
        generator = stream(_SEED, Purpose.TEST_ROLLOUTS, 0, number)
        support, query = family.draw_sets(task, shots, 1000, generator)
        low, high = (edge(query.inputs) for edge in (np.min, np.max))
        x = np.linspace(low, high, 200)[:, None]
        true = family.function(task, x)
        if true is not None:
            ax.plot(x, true, color="black", linewidth=1.2, linestyle=(0, (4, 2)), label="true function")
        mode = int(family.checked_modes(tasks[number : number + 1])[0])
        for steps, colour in zip(_STEPS, _COLOURS, strict=True):
            fitted = agent.fit(support.inputs, support.targets, steps, mode)
            ax.plot(x, fitted.predict(x), color=colour, linewidth=1.8, label=_in_words(steps))
        ax.plot(*support, "o", color="black", markersize=5, label="support points", zorder=5)
        ax.set_title(family.describe_task(task), loc="left", fontsize=9)
        style_axes(ax)
    for ax in rows[-1]:
        ax.set_xlabel("input")
    for ax in rows[:, 0]:
        ax.set_ylabel("output")
    handles, labels = rows[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=9)
    content = read_values(RunFolder(agent.config.folder).config)
    words = [
        agent_text(content, iteration, checkpoint),
        counted(shots, "shot"),
        counted(_TASKS, "held-out task"),
        software_text([content]),
    ]
    add_caption(figure, " \N{MIDDLE DOT} ".join(words))
    return figure


def _in_words(steps: int) -> str:
    return "before adaptation" if steps == 0 else f"after {counted(steps, 'step')}"
