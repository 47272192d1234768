"""Records how an agent adapts to held-out tasks: films, and for navigation a figure of trajectories."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from metarl.common.errors import Fault, UserError
from metarl.common.files import reason, replacing, unwritable
from metarl.common.output import say
from metarl.common.streams import Purpose, stream
from metarl.config.algorithms import run_title
from metarl.config.checked import expect
from metarl.config.measuring import HELD_OUT_TASKS, RecordingConfig
from metarl.config.trust import Trust
from metarl.envs import require_environments
from metarl.envs.navigation import NavigationEnv
from metarl.reports.episodes import Camera, adaptation, drawing_env
from metarl.reports.film import Film, can_write_mp4
from metarl.reports.trajectories import draw_trajectories
from metarl.reports.wording import agent_text
from metarl.runs.trained_agent import load_with_iteration
from metarl.store.folder import RunFolder
from metarl.store.reference import results_folder

_GRADIENT_STEPS = 3


def record(run_dir: str | Path, config: RecordingConfig | None = None, trust: Trust = False) -> list[Path]:
    """Films an agent in one held-out task, before adaptation and after each step, side by side.

    An agent with gradient steps adapts anew for each panel, to the same episodes as far as it goes, then acts in one
    more episode. Of an agent with memory, the panels are its first, second, ... episode. Actions are chosen as in an
    evaluation. Navigation also gets a figure of the trajectories to several goals.

    Args:
        run_dir: The run's folder, or ``reference:NAME``, whose files go into ``runs/reference/NAME``.
        config: Settings of the recording; by default `RecordingConfig` ().
        trust: Whether code from outside metarl that the run names may be imported, as for `metarl.load`.

    Returns:
        The files: a GIF; an MP4, or without an encoder a sentence on stderr; the figure.

    Raises:
        UserError: If the run or its checkpoint cannot be used, if the family's environments do not draw pictures or
            cannot do so here, or if the folder cannot be written, which is tried first.
        Fault: If a file cannot be written in the end.
    """
    config = expect("config", RecordingConfig() if config is None else config, RecordingConfig)
    here = Path.cwd()  # An environment may change it.
    agent, iteration = load_with_iteration(run_dir, config.checkpoint, trust)
    family = require_environments(agent.family, "a recording")
    folder = here / (config.output or RunFolder(results_folder(agent.config.folder)).recording)
    suffix = "" if config.checkpoint == "last" else f"-{config.checkpoint}"
    if config.seed != RecordingConfig.seed:
        suffix += f"-seed{config.seed}"
    gif = folder / f"task{config.task}{suffix}.gif"
    if why := unwritable(gif):
        raise UserError(f"cannot write {gif}: {why}; choose another output (--output).")
    tasks = family.sample_tasks(HELD_OUT_TASKS, stream(config.seed, Purpose.TEST_TASKS), "test")
    steps = config.steps
    if steps is None:
        steps = agent.settings.inner.num_inner_steps if agent.rule.remembers else _GRADIENT_STEPS
    title = f"{run_title(agent.config.to_dict())} on {family.name}"
    if config.checkpoint != "last":
        title += f", {config.checkpoint} checkpoint"
    task = tasks[config.task]
    with closing(drawing_env(family, task)) as env:
        camera = Camera.on(env, family.name, agent.settings.rollouts.horizon)
        film = Film(
            f"{title}: {family.describe_task(task)}",
            adaptation(agent, env, task, steps, config.seed, camera),
            camera.rate,
        )
        files: dict[Path, Callable[[Path], None]] = {gif: film.write_gif}
        if can_write_mp4():
            files[gif.with_suffix(".mp4")] = film.write_mp4
        else:
            say("no MP4: its encoder is not installed; install it from a clone of metarl: pip install '.[video]'.")
        if isinstance(env.unwrapped, NavigationEnv):
            chosen = [tasks[(config.task + goal) % HELD_OUT_TASKS] for goal in range(config.goals)]
            goals = [adaptation(agent, env, task, steps, config.seed) for task in chosen]
            origin = agent_text(agent.config.to_dict(), iteration, config.checkpoint)
            figure = draw_trajectories(f"{origin}, tasks of seed {config.seed}", chosen, goals)
            files[folder / f"trajectories{config.task or ''}{suffix}.png"] = partial(_save, figure)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, write in files.items():
            write(path)
    except OSError as error:
        raise Fault(f"cannot write into {folder}: {reason(error)}; choose another output (--output).") from error
    return list(files)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as file:
        figure.savefig(file, dpi=200)
