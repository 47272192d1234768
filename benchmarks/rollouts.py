"""Rollouts: environment steps per second with one policy per task, and for physics alone and vector environments.

The vector environments replay the actions of our policies in the same environments, so they need not wait for a policy.
Two of them are metarl's own doors to its native batches. envpool runs Gymnasium's environments, whose physics is the
same.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from benchmarks.measure import Cell, Table, interleaved, median_ratio, seconds
from metarl.common.cores import available_cores
from metarl.common.parallel import Workers
from metarl.common.streams import Purpose, stream
from metarl.config.config import Config
from metarl.envs.interface import EpisodeBatch
from metarl.envs.mujoco_core import MujocoCore
from metarl.inner.runner import Runner
from metarl.policies.base import require_derivatives
from metarl.rollouts.sampler import with_advantages
from metarl.runs.build import build

SEED = 0
OURS = "metarl"
PHYSICS = "physics alone"
ENVIRONMENT = "environment alone"

Actions = np.ndarray


@dataclass(frozen=True)
class Problem:
    """A task family at the size of the papers.

    Attributes:
        family: Name of the task family.
        env_id: Id of its environment in Gymnasium; None to measure no vector environments.
        envpool_id: Id of the envpool environment with the same physics; None if there is none.
        size: (tasks, rollouts per task, steps per rollout).
    """

    family: str
    env_id: str | None
    envpool_id: str | None
    size: tuple[int, int, int]


PROBLEMS = (
    Problem("navigation", "Navigation", None, (20, 20, 100)),
    Problem("cheetah-dir", "CheetahDir", "HalfCheetah-v5", (40, 20, 200)),
    Problem("ant-dir", "AntDir", "Ant-v5", (40, 20, 200)),
    *(
        Problem(family, None, None, (40, 20, 200))
        for family in (
            "walker-params",
            "hopper-params",
            "cheetah-params",
            "cheetah-crippled",
            "ant-crippled",
            "humanoid-dir",
        )
    ),
)


@dataclass(frozen=True)
class Effort:
    """The effort of a measurement.

    Attributes:
        rounds: Number of turns per subject.
        seconds: Shortest duration of a turn, seconds.
        sizes: Numbers of environments to try in one process, also with envpool.
        processes: Numbers of processes to try, as multiples of the number of cores.
    """

    rounds: int = 3
    seconds: float = 1.0
    sizes: tuple[int, ...] = (4, 16, 64, 256)
    processes: tuple[int, ...] = (1, 2, 4, 8)


FULL, QUICK = Effort(), Effort(2, 0.0, (4,), (1,))
QUICK_SIZE = (4, 2, 10)


@dataclass(frozen=True)
class Subject:
    """A measured program that takes environment steps.

    Attributes:
        name: Name of the subject.
        envs: Number of parallel environments.
        policy: Whether it runs a policy.
        steps: Environment steps per call of ``work``.
        work: Takes the steps.
    """

    name: str
    envs: int
    policy: bool
    steps: int
    work: Callable[[], object]

    def for_seconds(self, least: float) -> Subject:
        """The same subject; one call repeats the work to last about ``least`` seconds."""
        self.work()
        repeats = max(1, round(least / seconds(self.work)))

        def work() -> None:
            for _ in range(repeats):
                self.work()

        return Subject(self.name, self.envs, self.policy, self.steps * repeats, work)


def measure(quick: bool, device: torch.device) -> list[Table]:
    """Table 1; rollouts are collected on the CPU for any device."""
    effort = QUICK if quick else FULL
    rows = [row for problem in PROBLEMS for row in _rows(problem, QUICK_SIZE if quick else problem.size, effort)]
    note = (
        f"Environment steps a second on {available_cores()} cores; ratios are medians over {effort.rounds} interleaved "
        f"rounds. {OURS}: a 2 x 100 policy of its own for each task, exploration noise, masks and log-probabilities, "
        f"as training collects rollouts. {PHYSICS}: the simulator replays the actions that {OURS} took, from the same "
        f"starts, on as many threads; this is the limit. {ENVIRONMENT}: with observations, rewards and ends too; the "
        "limit of navigation, which has no simulator. The others are given the same actions and run no policy; a reset "
        f"counts as a step. Gymnasium's make_vec and TaskVecEnv step {OURS}'s batches, as many environments as {OURS}; "
        "the rest run at the number of environments (of those tried) that suits them best."
    )
    if not importlib.util.find_spec("envpool"):
        note += " envpool is not installed: pip install -e '.[bench]'."
    return [Table("Rollouts", rows, note)]


def _rows(problem: Problem, size: tuple[int, int, int], effort: Effort) -> list[dict[str, Cell]]:
    with Workers(available_cores()) as workers, ExitStack() as stack:
        ours = stack.enter_context(closing(Rollouts(problem.family, size, workers)))
        subjects = ours.subjects()
        for name, sizes, make in _peers(problem, size, effort):
            subjects.append(_at_best_size(name, sizes, make, ours.actions, stack))
        subjects = [subject.for_seconds(effort.seconds) for subject in subjects]
        times = interleaved({subject.name: subject.work for subject in subjects}, effort.rounds)
    rates = {subject.name: subject.steps / times[subject.name] for subject in subjects}
    limit = rates.get(PHYSICS, rates[ENVIRONMENT])
    return [
        {
            "environment": problem.family,
            "subject": subject.name,
            "policy": "yes" if subject.policy else "no",
            "environments": subject.envs,
            "steps/s": float(np.median(rates[subject.name])),
            "share of limit": median_ratio(rates[subject.name], limit),
            f"{OURS} / subject": median_ratio(rates[OURS], rates[subject.name]),
        }
        for subject in subjects
    ]


class Rollouts:
    """Rollouts as in training, in shards on the workers' threads; and the same steps without policies.

    Args:
        family: Name of the task family.
        size: (tasks, rollouts per task, steps per rollout).
        workers: Threads.

    Attributes:
        actions: Actions in the environments of the first shard, [time, env, action].
    """

    def __init__(self, family: str, size: tuple[int, int, int], workers: Workers) -> None:
        tasks, rollouts, horizon = size
        settings = Config(env=family, algo="maml", horizon=horizon, rollouts_per_task=rollouts).resolve()
        self._settings = settings.rollouts
        task_family, rule = build(settings)
        self._workers = workers
        self._runner = Runner(
            task_family, rule, tasks, self._settings, settings.inner.inner_loss, workers, torch.device("cpu")
        )
        # Use the runner's own shards, so that the measurement follows training.
        self._shards = [tasks for (tasks,) in self._runner._shards]
        self._samplers = [sampler for of_shard in self._runner._samplers for sampler in of_shard.values()]
        self._tasks = task_family.sample_tasks(tasks, stream(SEED, Purpose.TRAIN_TASKS))
        generators = [stream(SEED, Purpose.INITIALISATION, task) for task in range(tasks)]
        policy = require_derivatives(rule.policy)
        self._begin, self._policies = policy.begin, torch.stack([policy.initial(g) for g in generators])
        self._envs = tasks * rollouts
        self._steps, self._recordings = self._record()
        self.actions = np.stack([actions for actions, _ in self._recordings[0].moves])

    def close(self) -> None:
        """Closes the environments."""
        self._runner.close()

    def subjects(self) -> list[Subject]:
        """Subjects: with policies, also with advantages, without policies, and the simulator alone if there is one."""
        subjects = [
            Subject(OURS, self._envs, True, self._steps, self._collect),
            Subject(f"{OURS}, advantages included", self._envs, True, self._steps, partial(self._collect, True)),
            Subject(ENVIRONMENT, self._envs, False, self._steps, partial(self._replay, Recording.replay)),
        ]
        if self._recordings[0].has_simulator:
            work = partial(self._replay, Recording.replay_physics)
            subjects.append(Subject(PHYSICS, self._envs, False, self._steps, work))
        return subjects

    def _collect(self, advantages: bool = False) -> int:
        """Collects rollouts, the same ones at every call; returns the number of environment steps."""

        def of_shard(index: int) -> int:
            start, stop = self._shards[index]
            streams = [stream(SEED, Purpose.TRAIN_ROLLOUTS, task) for task in range(start, stop)]
            policies, tasks = self._policies[start:stop], self._tasks[start:stop]
            rollouts = self._samplers[index].collect(self._begin, policies, tasks, streams)
            if advantages:
                rollouts = with_advantages(rollouts, self._settings.discount, self._settings.gae_lambda)
            return rollouts.env_steps

        return sum(self._workers.map(of_shard, range(len(self._shards))))

    def _replay(self, replay: Callable[[Recording], None]) -> None:
        self._workers.map(replay, self._recordings)

    def _record(self) -> tuple[int, list[Recording]]:
        checked = [sampler._episodes for sampler in self._samplers]
        recordings = [Recording(batch._episodes) for batch in checked]
        for batch, recording in zip(checked, recordings, strict=True):
            batch._episodes = recording
        steps = self._collect()
        for batch, recording in zip(checked, recordings, strict=True):
            batch._episodes = recording.episodes
        return steps, recordings


class Recording(EpisodeBatch):
    """Wraps a batch of episodes and records its calls, so that they can be replayed.

    Args:
        episodes: The batch.

    Attributes:
        episodes: The batch.
        moves: For each step, the actions of all slots, [env, action], and the indices of running slots (None for all).
    """

    def __init__(self, episodes: EpisodeBatch) -> None:
        super().__init__(episodes.num_envs, episodes.observation_size, episodes.terms)
        self.episodes = episodes
        self.moves: list[tuple[Actions, np.ndarray | None]] = []

    @property
    def has_simulator(self) -> bool:
        """Whether the batch runs on MuJoCo."""
        return isinstance(getattr(self.episodes, "_core", None), MujocoCore)

    def reset(
        self, tasks: np.ndarray, seeds: Sequence[int], observations: np.ndarray, slots: np.ndarray | None = None
    ) -> None:
        """Begins an episode in every slot; see `EpisodeBatch.reset`."""
        assert slots is None, "what is replayed begins everywhere at once"
        self._start, self._observations = (tasks.copy(), list(seeds)), observations.copy()
        self.episodes.reset(tasks, seeds, observations)

    def step(self, actions: Actions, observations: Any, rewards: Any, terminated: Any, truncated: Any) -> None:
        """Takes a step; see `EpisodeBatch.step`."""
        ended = terminated | truncated
        self.moves.append((actions.copy(), np.flatnonzero(~ended) if ended.any() else None))
        self.episodes.step(actions, observations, rewards, terminated, truncated)
        self.terms = self.episodes.terms

    def close(self) -> None:
        """Closes the environments."""
        self.episodes.close()

    def replay(self) -> None:
        """Replays everything: physics, observations, rewards and ends of episodes."""
        rewards, ended = np.zeros(self.num_envs, np.float32), np.zeros((2, self.num_envs), bool)
        self.episodes.reset(*self._start, self._observations)
        for actions, _ in self.moves:
            self.episodes.step(actions, self._observations, rewards, *ended)

    def replay_physics(self) -> None:
        """Replays only the starts and the simulator's steps, with the same controls."""
        self.episodes.reset(*self._start, self._observations)
        core = self.episodes._core  # type: ignore[attr-defined]
        controls = core.batch.bind("ctrl")
        for actions, running in self.moves:
            controls[...] = actions
            core.batch.step(running, nstep=core.env.frame_skip)


Make = Callable[[int], Any]


def _peers(problem: Problem, size: tuple[int, int, int], effort: Effort) -> list[tuple[str, tuple[int, ...], Make]]:
    """Vector environments: their names, the sizes to try, and functions that make one of a given size."""
    if problem.env_id is None:
        return []
    from stable_baselines3.common.vec_env import SubprocVecEnv

    from metarl.sb3 import TaskVecEnv

    num_tasks, rollouts, horizon = size
    as_ours = (num_tasks * rollouts,)
    # The id names the module that registers it, for other processes.
    make_one = partial(
        gym.make, f"metarl:metarl/{problem.env_id}-v0", max_episode_steps=horizon, disable_env_checker=True
    )
    # No plain fork, because this process has threads. The fork server imports the modules once for all processes.
    multiprocessing.set_forkserver_preload(["metarl", "stable_baselines3.common.vec_env"])
    make_async = partial(AsyncVectorEnv, context="forkserver")
    make_subproc = partial(SubprocVecEnv, start_method="forkserver")
    processes = tuple(available_cores() * factor for factor in effort.processes)
    peers: list[tuple[str, tuple[int, ...], Make]] = [
        ("metarl by Gymnasium's make_vec", as_ours, partial(_make_vec, f"metarl/{problem.env_id}-v0", horizon)),
        ("metarl.sb3 TaskVecEnv", as_ours, lambda size: TaskVecEnv(problem.family, size, horizon=horizon)),
        ("Gymnasium SyncVectorEnv", effort.sizes, lambda size: SyncVectorEnv([make_one] * size)),
        ("Gymnasium AsyncVectorEnv", processes, lambda size: make_async([make_one] * size)),
        ("Stable-Baselines3 SubprocVecEnv", processes, lambda size: make_subproc([make_one] * size)),
    ]
    if problem.envpool_id and importlib.util.find_spec("envpool"):
        peers.append(("envpool", effort.sizes, partial(_make_envpool, problem.envpool_id, horizon)))
    return peers


def _make_vec(env_id: str, horizon: int, size: int) -> Any:
    return gym.make_vec(env_id, size, vectorization_mode="vector_entry_point", max_episode_steps=horizon)


def _make_envpool(env_id: str, horizon: int, size: int) -> Any:
    import envpool

    return envpool.make_gymnasium(env_id, num_envs=size, num_threads=available_cores(), max_episode_steps=horizon)


def _at_best_size(name: str, sizes: Sequence[int], make: Make, actions: Actions, stack: ExitStack) -> Subject:
    """A vector environment at the size with most steps per second; ``stack`` closes it."""

    def rate(size: int) -> float:
        with closing(make(size)) as envs:
            subject = _vector_subject(name, envs, size, actions[: len(actions) // 2])
            subject.work()
            return subject.steps / seconds(subject.work)

    best = max(sizes, key=rate) if len(sizes) > 1 else sizes[0]
    return _vector_subject(name, stack.enter_context(closing(make(best))), best, actions)


def _vector_subject(name: str, envs: Any, size: int, actions: Actions) -> Subject:
    """A subject that replays the actions; environments reset themselves when episodes end."""
    replayed = actions[:, np.arange(size) % actions.shape[1]].astype(envs.action_space.dtype)
    envs.reset()

    def work() -> None:
        for step_actions in replayed:
            envs.step(step_actions)

    return Subject(name, size, False, len(replayed) * size, work)
