"""Checks a task family and tells its author what is wrong."""

import pickle
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from traceback import FrameSummary, extract_tb
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation, NormalizeReward
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray
from metarl.common.errors import UserError, blaming
from metarl.common.strict_json import one_line
from metarl.envs.family import SPLITS, Family, TaskFamily
from metarl.envs.interface import EpisodeBatch, reported, require_episode_batch
from metarl.envs.looped import make_flat_env
from metarl.envs.single import begin, new_env, require_gymnasium, require_whole_episodes, take_step
from metarl.envs.spaces import all_elements, check_actions, element, observed, sampled, stacked
from metarl.envs.supervised import SupervisedFamily, drawn_sets

_NOT_THEIRS = sysconfig.get_path("stdlib"), str(Path(__file__).parents[1])
_TASKS = 16  # Number of tasks per split.
_STEPS = 50  # Maximum number of steps of a trajectory.
_HELD, _HELD_STEPS, _HELD_TASKS = 12, 200, 8  # Actions that are held, for how many steps and in how many tasks at most.

Trajectory = list[NDArray[Any]]
Problems = Iterator[str | BaseException]
_SecondReset = Literal["given", "plain", "after an episode"] | None


def check_task_family(family: Family, seed: int = 0) -> None:
    """Tries out a task family and raises an error that lists all its problems.

    It checks that

    - the family can be pickled and its spaces are supported;
    - ``metrics`` have known aggregates;
    - tasks of every split lie inside the task space, are reproducible, and are not shared between splits (unless the
      task space or ``finite_tasks`` says that there are finitely many);
    - each ``make_env`` makes a new environment; every one of ``kinds`` has the same spaces, and tasks have no others;
    - no wrapper ends episodes before the family's ``horizon``;
    - ``reset`` and ``step`` return what Gymnasium asks for, and all numbers are finite;
    - no wrapper carries statistics from episode to episode, which no checkpoint would hold;
    - the same seed gives the same trajectory, also after an episode in the same environment;
    - the task has an effect after a reset with and without a seed, and survives a plain ``env.reset()``;
    - ``make_episodes`` equals single environments, including the terms of the family's ``metrics``; slots whose episode
      has ended stand still, and none goes on after the horizon.

    Of a supervised family it checks, beside the first two, that examples have the family's shapes, that they are
    reproducible and differ from task to task, and that two draws differ.

    Args:
        family: The family.
        seed: Seed of all checks.

    Raises:
        UserError: If there is a problem; the message lists all problems and says what to do.
    """
    checks: Sequence[Callable[[Any, int], Problems]]
    first: Callable[[Any, int], Problems]
    if isinstance(family, SupervisedFamily):
        first, checks = _task_basics, [_examples]
    elif isinstance(family, TaskFamily):
        first = _basics
        checks = [_numbers, _determinism, _lost, _lost_at_plain_reset, _episodes]
    else:
        raise UserError(
            "a task family must be an instance of a subclass of metarl.TaskFamily or metarl.SupervisedFamily, got "
            f"{family!r}."
        )
    found = _Found()
    found.by(first, family, seed)
    # If tasks or spaces are broken, trajectories would only repeat the same problems.
    if not found.problems:
        for check in checks:
            found.by(check, family, seed)
    if found.problems:
        listed = "".join(f"\n- {problem}" for problem in found.problems)
        what = f"the task family {family.name} has {len(found.problems)} problem(s):{listed}"
        raise UserError(what) from found.first_error


class _Found:
    """The problems that were found. An error of the family's code is one problem, however many checks meet it.

    Attributes:
        problems: One text each.
        first_error: The first error; its traceback leads to the family's code.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.first_error: BaseException | None = None
        self._places: set[tuple[str, int | None]] = set()

    def by(self, check: Callable[[Any, int], Problems], family: Family, seed: int) -> None:
        """Adds what a check finds, and what it stumbles over."""
        try:
            for problem in check(family, seed):
                if isinstance(problem, str):
                    self.problems.append(problem)
                else:
                    self._add(problem)
        except (Exception, SystemExit) as error:  # Report any error to the author of the family, also an exit.
            self._add(error)

    def _add(self, error: BaseException) -> None:
        line = _line(error)
        place = (line.filename, line.lineno)
        if place not in self._places:
            self._places.add(place)
            self.first_error = self.first_error or error
            self.problems.append(_in_words(error, line))


def _line(error: BaseException) -> FrameSummary:
    """The line of the family's author that an error came from; else the last line of all."""
    frames = list(extract_tb(error.__traceback__))
    if error.__cause__ is not None:  # Its place was added by `blame`.
        frames += extract_tb(error.__cause__.__traceback__)
    return next(filter(_is_theirs, reversed(frames)), frames[-1])


def _is_theirs(frame: FrameSummary) -> bool:
    """Whether a line is neither metarl's nor of an installed package."""
    path = Path(frame.filename)
    # Packages are installed in several places: for one user, for all, by the system.
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not any(path.is_relative_to(folder) for folder in _NOT_THEIRS)


def _in_words(error: BaseException, line: FrameSummary) -> str:
    """An error with its line, and with the place that `blame` has added."""
    if isinstance(error, UserError):
        return str(error)
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    place = f"{line.filename}:{line.lineno}, in {line.name}" + (f": {line.line}" if line.line else "")
    return f"{type(error).__name__}: {error} ({place}).{notes}"


def _basics(family: TaskFamily, seed: int) -> Problems:
    try:
        family.check_metrics()
    except UserError as error:
        yield error
    yield from _task_basics(family, seed)
    if isinstance(getattr(family, "task_space", None), gym.Space):
        yield from _environment_problems(family)
        yield from _kind_problems(family, seed)
        require_whole_episodes(family, family.horizon)


def _task_basics(family: Family, seed: int) -> Problems:
    yield from _pickling(family)
    if not isinstance(getattr(family, "task_space", None), gym.Space):
        yield "it has no task_space; set it to a gymnasium.Space whose elements are the tasks."
        return
    yield from _task_problems(family, seed)


def _examples(family: SupervisedFamily, seed: int) -> Problems:
    tasks = _tasks(family, seed)[:4]

    def drawn(task: Any, seed: int) -> NDArray[Any]:
        support, query = drawn_sets(family, task, 3, 5, np.random.default_rng(seed))
        return _flat(*support, *query)

    first = drawn(tasks[0], seed)
    if not np.array_equal(first, drawn(tasks[0], seed)):
        yield "draw is not reproducible: draw from the generator that is passed in only."
    if np.array_equal(first, drawn(tasks[0], seed + 1)):
        yield "two draws gave the same examples; draw them from the generator that is passed in."
    if all(np.array_equal(first, drawn(task, seed)) for task in tasks[1:]):
        yield "different tasks gave the same examples; let them depend on the task."
    few, more = (drawn_sets(family, tasks[0], *sizes, np.random.default_rng(seed)) for sizes in ((3, 5), (4, 7)))
    if any(len(one.inputs) >= len(other.inputs) for one, other in zip(few, more, strict=True)):
        yield "draw_sets gives no more examples where it is asked for more; heed shots and queries."


def _pickling(family: Family) -> Problems:
    try:
        pickle.loads(pickle.dumps(family))
    except Exception as error:
        yield (
            f"it cannot be pickled ({type(error).__name__}: {error}); define the class at the top level of a module, "
            "and keep lambdas and open files out of its attributes."
        )


def _task_problems(family: Family, seed: int) -> Problems:
    splits: dict[str, NDArray[Any]] = {}
    wrong: dict[str, str] = {}  # By kind: what is wrong in several splits is one problem.
    for split in SPLITS:
        try:
            tasks, again = (_drawn(family, seed, split) for _ in range(2))
        except Exception as error:
            yield error
            continue
        listed = family.listed_tasks(split)
        splits[split] = tasks if listed is None else listed
        try:
            family.checked_modes(tasks)
        except UserError as error:
            wrong.setdefault("modes", str(error))
        if len(tasks) != _TASKS:
            told = f"sample_tasks(n={_TASKS}, split={split!r}) returned {len(tasks)} tasks; return n of them."
            wrong.setdefault("number", told)
        outside = [task for task in tasks if not _contains(family.task_space, task)]
        if outside:
            told = (
                f"sample_tasks gives tasks outside the task space, such as {outside[0]} in {family.task_space} "
                f"(split {split!r}); widen task_space, or draw inside it."
            )
            wrong.setdefault("outside", told)
        if [one_line(task) for task in tasks] != [one_line(task) for task in again]:
            told = (
                f"sample_tasks is not reproducible (split {split!r}): the same generator state gave other tasks; "
                "draw from the generator that is passed in only."
            )
            wrong.setdefault("reproducible", told)
    yield from wrong.values()
    if "train" in splits and len(_different(splits["train"])) < 2:
        yield "all tasks are the same; draw them from the generator that is passed in."
    elif family.finite_tasks is None:
        yield from _leaks(splits, few=all_elements(family.task_space) is not None)


def _drawn(family: Family, seed: int, split: str) -> NDArray[Any]:
    with blaming(lambda: f"while tasks of the split {split!r} were drawn"):
        return family.sample_tasks(_TASKS, np.random.default_rng(seed), split)


def _leaks(splits: dict[str, NDArray[Any]], *, few: bool) -> Problems:
    """Tasks that splits share; of ``few`` tasks, validation may share those of training."""
    names = list(splits)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            if few and other != "test":
                continue
            shared = _different(splits[one]).keys() & _different(splits[other]).keys()
            if shared:
                yield (
                    f"the splits leak: {one!r} and {other!r} share {len(shared)} of {len(splits[one])} tasks; override "
                    "draw_tasks rather than sample_tasks, let it draw other tasks for each split if tasks repeat, or "
                    "return all tasks from finite_tasks if they are few."
                )


def _environment_problems(family: TaskFamily) -> Problems:
    with blaming(lambda: f"in make_env of {family.name}"):
        env, other = new_env(family), new_env(family)
    if env is other:
        yield "make_env returns the same environment each time; make a new one, because every slot needs its own."
    other.close()
    require_gymnasium(env, family.name)
    yield from _stateful_wrappers(env)
    env.close()
    _ = family.observation_space  # Raises UserError if it is not supported.
    try:
        check_actions(family.action_space)
    except UserError as error:
        yield str(error)


def _kind_problems(family: TaskFamily, seed: int) -> Problems:
    for kind in family.kinds:
        try:
            with blaming(partial("in make_env of {}, kind {!r}".format, family.name, kind)):
                env = make_flat_env(family, kind)
        except UserError as error:
            yield str(error)
            continue
        yield from _stateful_wrappers(env)
        env.close()
    needed = {family.kind(task) for task in _tasks(family, seed)}
    if unknown := needed - {*(family.kinds or [None])}:
        yield f"kind gives {unknown.pop()!r}, and kinds has no such entry; let kind return an entry of kinds."


def _stateful_wrappers(env: gym.Env[Any, Any]) -> Problems:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, NormalizeObservation | NormalizeReward):
            yield (
                f"make_env wraps the environment in {type(env).__name__}, whose statistics differ from slot to "
                "slot and are in no checkpoint; leave it out."
            )
        env = env.env


def _numbers(family: TaskFamily, seed: int) -> Problems:
    for task in _tasks(family, seed):
        for step, values in enumerate(_trajectory(family, task, seed)):
            with np.errstate(over="ignore"):
                bad = values[~np.isfinite(values.astype(np.float32))]
            if len(bad):
                what = "does not fit single precision" if np.isfinite(bad[0]) else "is not finite"
                yield (
                    f"a number {what}: {family.describe_task(task)} gave {bad[0]} in step {step} (seed {seed}; 0 is "
                    "the reset); mend observations, rewards and terms."
                )
                return


def _determinism(family: TaskFamily, seed: int) -> Problems:
    if problem := _not_repeated(family, seed):
        yield problem


def _not_repeated(family: TaskFamily, seed: int) -> str | None:
    """Why a trajectory is not the same again under its seed; None if it is."""
    task = _tasks(family, seed)[0]
    first = _trajectory(family, task, seed)
    if not _same(first, _trajectory(family, task, seed)):
        return (
            "it is not deterministic under a seed: the same task, seed and actions gave another trajectory; draw from "
            "self.np_random only, and call super().reset(seed=seed) in the environment's reset."
        )
    if not _same(first, _trajectory(family, task, seed, "after an episode")):
        return (
            "an episode depends on the one before: after a reset of the same environment, the same task, seed and "
            "actions gave another trajectory; let reset set everything anew that step changes."
        )
    return None


class _Try(NamedTuple):
    """Actions that may tell tasks apart; None for the fixed random ones."""

    tasks: Sequence[Any]
    actions: Sequence[Any] | None


_SPARSE = "Or its rewards are so sparse that no try met one: then report what depends on the task as a metric."


def _lost(family: TaskFamily, seed: int) -> Problems:
    tries = _tries(family, seed)
    telling = _telling(family, seed, None, tries)
    if telling is None:
        yield (
            "the task is lost at reset: different tasks gave the same trajectory; use options['task'] in the "
            "environment's reset, or override set_task (in a MujocoFamily, use it in set_model or reward), and do not "
            f"let reset overwrite what set_task changed. ({_SPARSE})"
        )
    # What tells tasks apart after one reset should do so after two: it comes first.
    tries.sort(key=lambda one: one is not telling)
    if _telling(family, seed, "given", tries) is None:
        yield (
            "the task is lost at a reset without a seed: different tasks gave the same trajectory after it; let the "
            f"environment use its task at every reset, not only at one with a seed. ({_SPARSE})"
        )


def _tries(family: TaskFamily, seed: int) -> list[_Try]:
    """Random actions, then actions that are held for whole episodes, which meet rarer rewards."""
    tasks, horizon = _alike(family, seed), min(family.horizon, _HELD_STEPS)
    held = _different(_actions(family, seed, _HELD)).values()
    return [_Try(tasks, None), *(_Try(tasks[:_HELD_TASKS], [action] * horizon) for action in held)]


def _telling(family: TaskFamily, seed: int, second_reset: _SecondReset, tries: Iterable[_Try]) -> _Try | None:
    """The first try in which not all tasks give the same trajectory; None if there is none."""
    for one in tries:
        first, *others = (partial(_trajectory, family, task, seed, second_reset, one.actions) for task in one.tasks)
        expected = first()
        if not all(_same(expected, other()) for other in others):
            return one
    return None


def _lost_at_plain_reset(family: TaskFamily, seed: int) -> Problems:
    for task in _tasks(family, seed):
        if not _same(_trajectory(family, task, seed, "plain"), _trajectory(family, task, seed, "given")):
            yield (
                f"the task is lost at a plain reset: after env.reset() without options, task {task} gave another "
                "trajectory than when it was given again; let the environment keep its task until another is given."
            )
            return


def _episodes(family: TaskFamily, seed: int) -> Problems:
    if _not_repeated(family, seed):
        return  # Nor would a batch repeat it.
    first_task, *others = _tasks(family, seed)
    # Of another kind, if there is one: slot 1 then needs another environment for its second task.
    other_task = next((task for task in others if family.kind(task) != family.kind(first_task)), others[0])
    tasks, horizon = [first_task, other_task], min(family.horizon, _STEPS)
    expected, actions = [_trajectory(family, task, seed) for task in tasks], _actions(family, seed, horizon)
    half = horizon // 2
    with blaming(lambda: f"in make_episodes of {family.name}"):
        batch = require_episode_batch(family.make_episodes(2, horizon))
    if set(batch.terms) != set(family.metrics):
        yield (
            f"make_episodes reports the terms {sorted(batch.terms)}, and the family's metrics name "
            f"{sorted(family.metrics)}; give the batch the family's metrics."
        )
        batch.close()
        return
    observations = np.zeros((2, *family.observation_space.shape))
    with blaming(lambda: f"in a batch that make_episodes of {family.name} made"):
        batch.reset(stacked(tasks), [seed, seed], observations)
        living, standing = np.ones(2, bool), np.ones(2, bool)
        first = _trajectories(batch, observations, [(action, action) for action in actions[:half]], living, standing)
        batch.reset(stacked(tasks[:1]), [seed], observations, np.array([1]))
        # Slot 0 goes on, while slot 1 has begun another episode.
        living[1] = True
        second = _trajectories(batch, observations, zip(actions[half:], actions, strict=False), living, standing)
        if living[0]:
            yield (
                f"an episode of make_episodes goes on after {horizon} steps, which were asked for as its horizon; let "
                "step truncate it there."
            )
        _trajectories(batch, observations, [(actions[0], actions[0])] * 2, living, standing)
        batch.close()
    if not standing.all():
        yield (
            "in a batch of make_episodes a slot whose episode has ended does not stand still: until its next reset, "
            "step must keep its observation and its flags, and give it reward 0 and terms 0."
        )
    pairs = (
        (0, first[0] + second[0][1:], expected[0]),
        (1, first[1], expected[1][: half + 1]),
        (1, second[1], expected[0][: horizon - half + 1]),
    )
    for slot, actual, target in pairs:
        if not _same(actual, target):
            yield (
                f"make_episodes differs from a single environment in slot {slot}: environments of different slots "
                "must share nothing that changes, and a batch of your own must reproduce them exactly, also where "
                "reset begins an episode in some slots only."
            )


def _trajectories(
    batch: EpisodeBatch,
    observations: FloatArray,
    actions: Iterable[tuple[Any, Any]],
    living: BoolArray,
    standing: BoolArray,
) -> list[Trajectory]:
    """Trajectories of both slots from here on, under these actions, in the form of `_trajectory`.

    Args:
        batch: The batch.
        observations: Its observations, [2, observation]; they become those after the last action.
        actions: An action for each slot, step by step.
        living: Whether the episodes are running, [2]; becomes whether they are after the last action.
        standing: Becomes False where a slot whose episode has ended does not stand still, [2].
    """
    rewards, terminated, truncated = np.zeros(2), np.zeros(2, bool), np.zeros(2, bool)
    trajectories = [[_flat(observation)] for observation in observations]
    for pair in actions:
        before = observations.copy()
        batch.step(np.stack(pair), observations, rewards, terminated, truncated)
        for slot in np.flatnonzero(~living):
            terms = [values[slot] for values in batch.terms.values()]
            moved = not np.array_equal(observations[slot], before[slot], equal_nan=True)
            kept = not moved and (terminated[slot] or truncated[slot])
            standing[slot] &= kept and not any((rewards[slot], *terms))
        for slot in np.flatnonzero(living):
            terms = [values[slot] for _, values in sorted(batch.terms.items())]
            trajectories[slot].append(_flat(observations[slot], rewards[slot], *terms))
        living &= ~(terminated | truncated)
    return trajectories


def _trajectory(
    family: TaskFamily,
    task: Any,
    seed: int,
    second_reset: _SecondReset = None,
    actions: Sequence[Any] | None = None,
) -> Trajectory:
    """The first observation, then observation, reward and terms of each step.

    Args:
        family: The family.
        task: The task, given at the first reset together with the seed.
        seed: Seed of environment and actions.
        second_reset: None, or a second reset before the steps. "given" passes the task again without a seed; "plain"
            neither of them, like an agent that adapts in a user's environment. "after an episode" passes both, after
            steps with the same actions.
        actions: The actions; by default fixed random ones.
    """
    if actions is None:
        actions = _actions(family, seed, min(family.horizon, _STEPS))
    call = "make_env"
    # Each reset's seed, whether it gives the task, and whether steps follow.
    resets: dict[_SecondReset, list[tuple[int | None, bool, bool]]] = {
        None: [(seed, True, True)],
        "given": [(seed, True, False), (None, True, True)],
        "plain": [(seed, True, False), (None, False, True)],
        "after an episode": [(seed, True, True), (seed, True, True)],
    }
    with blaming(lambda: f"in {call} of {family.name}, {family.describe_task(task)}, seed {seed}"):
        env = make_flat_env(family, family.kind(task))
        for given_seed, gives_task, acts in resets[second_reset]:
            call = "set_task"
            options = family.set_task(env, task) if gives_task else None
            call = "reset"
            observation, _ = begin(env, given_seed, options)
            trajectory = [_flat(observed(env.observation_space, observation, "reset"))]
            for number, action in enumerate(actions if acts else (), 1):
                call = f"step {number}"
                observation, reward, terminated, truncated, info = take_step(env, action)
                numbers = observed(env.observation_space, observation, "step"), reward
                trajectory.append(_flat(*numbers, *(reported(info, name) for name in sorted(family.metrics))))
                if terminated or truncated:
                    break
        call = "close"
        env.close()
    return trajectory


def _actions(family: TaskFamily, seed: int, n: int) -> list[Any]:
    space = pickle.loads(pickle.dumps(family.action_space))
    space.seed(seed)
    return [sampled(space) for _ in range(n)]


def _tasks(family: Family, seed: int, draws: int = _TASKS) -> list[Any]:
    """Different tasks for training, among some draws."""
    return list(_different(family.sample_tasks(draws, np.random.default_rng(seed))).values())


def _alike(family: TaskFamily, seed: int) -> list[Any]:
    """Different tasks for training that need the same kind of environment, so that only the task differs."""
    by_kind: dict[Any, list[Any]] = {}
    for task in _tasks(family, seed, _TASKS * max(1, len(family.kinds))):
        by_kind.setdefault(family.kind(task), []).append(task)
    return max(by_kind.values(), key=len)[:_TASKS]


def _different(values: Iterable[Any]) -> dict[str, Any]:
    """The tasks or actions that differ, by their text."""
    return {one_line(value): value for value in values}


def _flat(*parts: Any) -> NDArray[Any]:
    return np.concatenate([np.ravel(part).astype(np.float64) for part in parts])


def _same(one: Trajectory, other: Trajectory) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


def _contains(space: spaces.Space[Any], task: Any) -> bool:
    try:
        return bool(space.contains(element(space, task, "the task")))
    except UserError:
        return False
