"""Checks a task family and tells its author what is wrong."""

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation, NormalizeReward
from numpy.typing import NDArray

from metarl.common.arrays import FloatArray
from metarl.common.errors import UserError
from metarl.common.strict_json import one_line
from metarl.envs.family import SPLITS, Family, TaskFamily
from metarl.envs.interface import EpisodeBatch, reported, require_episode_batch
from metarl.envs.looped import make_flat_env
from metarl.envs.single import begin, require_gymnasium, take_step
from metarl.envs.spaces import all_elements, check_actions, element, stacked
from metarl.envs.supervised import SupervisedFamily

_TASKS = 16  # Number of tasks per split.
_STEPS = 50  # Maximum number of steps of a trajectory.

Trajectory = list[NDArray[Any]]
Problems = Iterator[str]
_SecondReset = Literal["given", "plain"] | None


def check_task_family(family: Family, seed: int = 0) -> None:
    """Tries out a task family and raises an error that lists all its problems.

    It checks that

    - the family can be pickled and its spaces are supported;
    - tasks of every split lie inside the task space, are reproducible, and are not shared between splits (unless the
      task space or ``finite_tasks`` says that there are finitely many);
    - each ``make_env`` makes a new environment;
    - ``reset`` and ``step`` return what Gymnasium asks for, and all numbers are finite;
    - no wrapper carries statistics from episode to episode, which no checkpoint would hold;
    - the same seed gives the same trajectory;
    - the task has an effect after a reset with and without a seed, and survives a plain ``env.reset()``;
    - ``make_episodes`` equals single environments, including the family's ``terms``.

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
        checks = [_numbers, _determinism, _lost_at_reset, _lost_without_seed, _lost_at_plain_reset, _episodes]
    else:
        raise UserError(
            "a task family must be an instance of a subclass of metarl.TaskFamily or metarl.SupervisedFamily, got "
            f"{family!r}."
        )
    problems = _problems_of(first, family, seed)
    # If tasks or spaces are broken, trajectories would only repeat the same problems.
    if not problems:
        for check in checks:
            problems += _problems_of(check, family, seed)
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise UserError(f"the task family {family.name} has {len(problems)} problem(s):{listed}")


def _problems_of(check: Callable[[Any, int], Problems], family: Family, seed: int) -> list[str]:
    problems = []
    try:
        for problem in check(family, seed):
            problems.append(problem)
    except (Exception, SystemExit) as error:  # Report any error to the author of the family, also an exit.
        problems.append(f"{check.__name__.strip('_')} could not be checked: {_in_words(error)}")
    return problems


def _basics(family: TaskFamily, seed: int) -> Problems:
    yield from _task_basics(family, seed)
    if isinstance(getattr(family, "task_space", None), gym.Space):
        yield from _environment_problems(family)


def _task_basics(family: Family, seed: int) -> Problems:
    yield from _pickling(family)
    if not isinstance(getattr(family, "task_space", None), gym.Space):
        yield "it has no task_space; set it to a gymnasium.Space whose elements are the tasks."
        return
    yield from _task_problems(family, seed)


def _examples(family: SupervisedFamily, seed: int) -> Problems:
    tasks = _tasks(family, seed)[:4]

    def drawn(task: Any, seed: int) -> NDArray[Any]:
        support, query = family.draw_sets(task, 3, 5, np.random.default_rng(seed))
        return _flat(*support, *query)

    first = drawn(tasks[0], seed)
    if not np.array_equal(first, drawn(tasks[0], seed)):
        yield "draw is not reproducible: draw from the generator that is passed in only."
    if np.array_equal(first, drawn(tasks[0], seed + 1)):
        yield "two draws gave the same examples; draw them from the generator that is passed in."
    if all(np.array_equal(first, drawn(task, seed)) for task in tasks[1:]):
        yield "different tasks gave the same examples; let them depend on the task."


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
    for split in SPLITS:
        try:
            splits[split] = family.sample_tasks(_TASKS, np.random.default_rng(seed), split)
        except Exception as error:
            yield f"tasks of the split {split!r} cannot be drawn: {_in_words(error)}"
    for split, tasks in splits.items():
        if len(tasks) != _TASKS:
            yield f"sample_tasks(n={_TASKS}, split={split!r}) returned {len(tasks)} tasks; return n of them."
        outside = [task for task in tasks if not _contains(family.task_space, task)]
        if outside:
            yield (
                f"sample_tasks gives tasks outside the task space, such as {outside[0]} in {family.task_space} "
                f"(split {split!r}); widen task_space, or draw inside it."
            )
        again = family.sample_tasks(_TASKS, np.random.default_rng(seed), split)
        if [one_line(task) for task in tasks] != [one_line(task) for task in again]:
            yield (
                f"sample_tasks is not reproducible (split {split!r}): the same generator state gave other tasks; "
                "draw from the generator that is passed in only."
            )
    if "train" in splits and len(_different(splits["train"])) < 2:
        yield "all tasks are the same; draw them from the generator that is passed in."
    elif family.finite_tasks is None and all_elements(family.task_space) is None:
        yield from _leaks(splits)


def _leaks(splits: dict[str, NDArray[Any]]) -> Problems:
    names = list(splits)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            shared = _different(splits[one]).keys() & _different(splits[other]).keys()
            if shared:
                yield (
                    f"the splits leak: {one!r} and {other!r} share {len(shared)} of {_TASKS} tasks; override draw_tasks"
                    " rather than sample_tasks, let it draw other tasks for each split if tasks repeat, or return all "
                    "tasks from finite_tasks if they are few."
                )


def _environment_problems(family: TaskFamily) -> Problems:
    env = family.make_env()
    if env is family.make_env():
        yield "make_env returns the same environment each time; make a new one, because every slot needs its own."
    require_gymnasium(env, family.name)
    yield from _stateful_wrappers(env)
    _ = family.observation_space  # Raises UserError if it is not supported.
    try:
        check_actions(family.action_space)
    except UserError as error:
        yield str(error)


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
            if not np.isfinite(values).all():
                yield (
                    f"a number is not finite: {family.describe_task(task)} gave {values[~np.isfinite(values)][0]} in "
                    f"step {step} (seed {seed}; 0 is the reset); mend observations, rewards and terms."
                )
                return


def _determinism(family: TaskFamily, seed: int) -> Problems:
    task = _tasks(family, seed)[0]
    if not _same(_trajectory(family, task, seed), _trajectory(family, task, seed)):
        yield (
            "it is not deterministic under a seed: the same task, seed and actions gave another trajectory; draw from "
            "self.np_random only, and call super().reset(seed=seed) in the environment's reset."
        )


def _lost_at_reset(family: TaskFamily, seed: int) -> Problems:
    first, *others = (_trajectory(family, task, seed) for task in _tasks(family, seed))
    if all(_same(first, other) for other in others):
        yield (
            "the task is lost at reset: different tasks gave the same trajectory; use options['task'] in the "
            "environment's reset, or override set_task, and do not let reset overwrite what set_task changed."
        )


def _lost_without_seed(family: TaskFamily, seed: int) -> Problems:
    first, *others = (_trajectory(family, task, seed, "given") for task in _tasks(family, seed))
    if all(_same(first, other) for other in others):
        yield (
            "the task is lost at a reset without a seed: different tasks gave the same trajectory after it; let the "
            "environment use its task at every reset, not only at one with a seed."
        )


def _lost_at_plain_reset(family: TaskFamily, seed: int) -> Problems:
    for task in _tasks(family, seed):
        if not _same(_trajectory(family, task, seed, "plain"), _trajectory(family, task, seed, "given")):
            yield (
                f"the task is lost at a plain reset: after env.reset() without options, task {task} gave another "
                "trajectory than when it was given again; let the environment keep its task until another is given."
            )
            return


def _episodes(family: TaskFamily, seed: int) -> Problems:
    tasks, horizon = _tasks(family, seed)[:2], min(family.horizon, _STEPS)
    expected, actions = [_trajectory(family, task, seed) for task in tasks], _actions(family, seed, horizon)
    half = horizon // 2
    batch = require_episode_batch(family.make_episodes(2, horizon))
    if set(batch.terms) != set(family.terms):
        yield (
            f"make_episodes reports the terms {sorted(batch.terms)}, and the family names {sorted(family.terms)}; give "
            "the batch the family's terms."
        )
        return
    observations = np.zeros((2, *family.observation_space.shape))
    batch.reset(stacked(tasks), [seed, seed], observations)
    first = _trajectories(batch, observations, [(action, action) for action in actions[:half]])
    batch.reset(stacked(tasks[:1]), [seed], observations, np.array([1]))
    # Slot 0 goes on, while slot 1 has begun another episode.
    second = _trajectories(batch, observations, zip(actions[half:], actions, strict=False))
    batch.close()
    whole = first[0] + second[0][1:] if len(expected[0]) > half + 1 else first[0]
    pairs = (
        (0, whole, expected[0]),
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
    batch: EpisodeBatch, observations: FloatArray, actions: Iterable[tuple[Any, Any]]
) -> list[Trajectory]:
    """Trajectories of both slots from here on, under these actions, in the form of `_trajectory`."""
    rewards, terminated, truncated = np.zeros(2), np.zeros(2, bool), np.zeros(2, bool)
    trajectories = [[_flat(observation)] for observation in observations]
    living = np.ones(2, bool)
    for pair in actions:
        batch.step(np.stack(pair), observations, rewards, terminated, truncated)
        for slot in np.flatnonzero(living):
            terms = [values[slot] for _, values in sorted(batch.terms.items())]
            trajectories[slot].append(_flat(observations[slot], rewards[slot], *terms))
        living &= ~(terminated | truncated)
    return trajectories


def _trajectory(family: TaskFamily, task: Any, seed: int, second_reset: _SecondReset = None) -> Trajectory:
    """The first observation, then observation, reward and terms of each step, under fixed random actions.

    Args:
        family: The family.
        task: The task, given at the first reset together with the seed.
        seed: Seed of environment and actions.
        second_reset: None, or a second reset without a seed: "given" passes the task again; "plain" does not, like an
            agent that adapts in a user's environment.
    """
    env = make_flat_env(family)
    observation, _ = begin(env, seed, family.set_task(env, task))
    if second_reset == "given":
        observation, _ = begin(env, None, family.set_task(env, task))
    if second_reset == "plain":
        observation, _ = begin(env, None, None)
    trajectory = [_flat(observation)]
    for action in _actions(family, seed, min(family.horizon, _STEPS)):
        observation, reward, terminated, truncated, info = take_step(env, action)
        trajectory.append(_flat(observation, reward, *(reported(info, name) for name in sorted(family.terms))))
        if terminated or truncated:
            break
    env.close()
    return trajectory


def _actions(family: TaskFamily, seed: int, n: int) -> list[Any]:
    space = pickle.loads(pickle.dumps(family.action_space))
    space.seed(seed)
    return [space.sample() for _ in range(n)]


def _tasks(family: Family, seed: int) -> list[Any]:
    """Different tasks for training."""
    return list(_different(family.sample_tasks(_TASKS, np.random.default_rng(seed))).values())


def _different(tasks: NDArray[Any]) -> dict[str, Any]:
    """The tasks that differ, by their text."""
    return {one_line(task): task for task in tasks}


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _flat(*parts: Any) -> NDArray[Any]:
    return np.concatenate([np.ravel(part).astype(np.float64) for part in parts])


def _same(one: Trajectory, other: Trajectory) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


def _contains(space: spaces.Space[Any], task: Any) -> bool:
    try:
        return bool(space.contains(element(space, task, "the task")))
    except UserError:
        return False
