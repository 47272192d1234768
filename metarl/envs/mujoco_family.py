"""Families around any MuJoCo model: one definition gives the single environment and the native batch."""

import copy
import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.mujoco_env import DEFAULT_SIZE, expand_model_path
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray, IntArray
from metarl.common.errors import UserError, nearest, shown
from metarl.envs.mujoco_core import (
    MujocoCore,
    MujocoTask,
    SimulatedFamily,
    check_not_diverged,
    compile_model,
)
from metarl.envs.native import ALL, NativeVectorEnv, Slots, rows
from metarl.envs.parameters import not_negative, positive_whole, whole_between
from metarl.envs.registry import get_family
from metarl.envs.spaces import element, is_countable
from metarl.envs.tasks import TaskDistribution


@dataclass(frozen=True)
class MujocoState:
    """The states of k environments at one moment; the arrays are read-only.

    Attributes:
        tasks: Their tasks, [k, *task shape].
        positions: MuJoCo's ``qpos``, [k, nq]; m and rad.
        velocities: MuJoCo's ``qvel``, [k, nv]; m/s and rad/s.
        data: Arrays of ``MjData`` by name, those in `MujocoFamily.data_fields`, [k, ...]. As always in MuJoCo, they
            describe the state before the last physics step, except at the start of an episode.
    """

    tasks: NDArray[Any]
    positions: FloatArray
    velocities: FloatArray
    data: Mapping[str, FloatArray]


@dataclass(frozen=True)
class MujocoStep:
    """One step of k environments.

    Attributes:
        before: The states before the step.
        after: The states after it.
        actions: The actions, not clipped, [k, action].
        seconds: Simulated duration of the step, s.
    """

    before: MujocoState
    after: MujocoState
    actions: FloatArray
    seconds: float

    @property
    def tasks(self) -> NDArray[Any]:
        """The tasks, [k, *task shape]."""
        return self.after.tasks

    @property
    def forward_velocity(self) -> FloatArray:
        """Displacement along the first coordinate over the step's duration, [k], m/s."""
        return (self.after.positions[:, 0] - self.before.positions[:, 0]) / self.seconds


# Families of one environment draw from one simulation, perhaps in several threads.
_drawing = threading.Lock()
# What an environment defines of a family around it.
_OF_ENVIRONMENT = ("model_file", "frame_skip", "unobserved_positions", "velocity_bound", "reset_noise")


class MujocoFamily(SimulatedFamily):
    """A family around a MuJoCo model, stepped natively: the task changes the model, the reward, or both.

    A subclass needs a ``model_file`` or an ``environment``, a ``task_space`` and `reward`; it overrides what else
    differs. Its functions work on k environments at once and must treat each alone: reduce over the last axis, never
    over the first. The same functions make the single environment (with k = 1) and the native batch, so both give the
    same numbers, bit for bit; `metarl.check_task_family` verifies that. See ``examples/pendulum_family.py`` and, for an
    ``environment``, ``examples/walker_family.py``.

    In the batch, each simulation runs on the model of its task (``mujoco.batch``, MuJoCo 3.17). With an older MuJoCo,
    single environments are stepped one by one.

    Attributes:
        model_file: An MJCF file: a path that starts with "/", "." or "~", or the name of one of Gymnasium's, such as
            "walker2d_v5.xml".
        environment: Instead, the id of one of Gymnasium's MuJoCo environments, such as "Walker2d-v5", or of another
            that derives from ``gymnasium.envs.mujoco.MujocoEnv``. The family takes over its model with the bounds of
            the actions, ``frame_skip``, the distribution of first states, ``camera``, and of its observations the
            positions and velocities (``unobserved_positions``, ``velocity_bound``). It does not take over what else is
            observed (contact forces, inertias), reward, termination and time limit.
        environment_kwargs: Parameters of this environment, such as {"frame_skip": 2, "reset_noise_scale": 0.1}.
        frame_skip: Physics steps in one environment step.
        unobserved_positions: Number of leading positions that are not observed, such as 1 for the distance covered.
        velocity_bound: Velocities are clipped to within this where they are observed; m/s and rad/s.
        reset_noise: The first positions and velocities are the model's own, plus uniform noise within this; m and rad,
            m/s and rad/s.
        data_fields: Names of arrays of ``MjData`` that the functions use beside positions and velocities, such as
            "xpos". Contact forces (``cfrc_ext``) and others that a step does not refresh differ between batch and
            single environment.
        camera: Attributes of the camera for rendering, as Gymnasium's ``default_camera_config``.
    """

    model_file: str
    environment: str
    environment_kwargs: Mapping[str, Any] = {}
    frame_skip: int = 5
    unobserved_positions: int = 0
    velocity_bound: float = np.inf
    reset_noise: float = 0.01
    data_fields: Sequence[str] = ()
    camera: Mapping[str, Any] = {}
    _original: ClassVar[MujocoEnv | None] = None  # The environment; it draws first states, and is never stepped.

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Takes over what the ``environment`` defines.

        Raises:
            UserError: If there is no such environment, if it is not of MuJoCo, if it observes something else than
                positions and velocities and `observation` is not overridden, or if the class sets what it defines.
        """
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "environment"):
            return
        if beside := [name for name in _OF_ENVIRONMENT if name in cls.__dict__]:
            raise UserError(
                f"{cls.__name__} has the environment {cls.environment!r}, which defines {' and '.join(beside)}; leave "
                "that out, and change the environment by environment_kwargs if it should differ."
            )
        if "environment" in cls.__dict__ or "environment_kwargs" in cls.__dict__:
            cls._original = original = _made(cls)
            cls.frame_skip = original.frame_skip
            if "camera" not in cls.__dict__:
                cls.camera = original.mujoco_renderer.default_cam_config or {}
            if cls.observation is MujocoFamily.observation:
                cls.unobserved_positions, cls.velocity_bound = _observed(original, cls)

    def set_model(self, model: Any, task: Any) -> None:
        """Turns a copy of the model into the model of a task; by default all tasks have the same.

        Anything may change that leaves the sizes, the time step and ``qpos0`` as they are, such as
        ``model.body("torso").mass *= 2``, ``model.dof_damping``, ``model.geom_friction``, ``model.opt.gravity``,
        ``model.actuator_gear[2] = 0`` to disable an actuator. What MuJoCo derives from masses and inertias follows
        (``mj_setConst``); what its compiler derives from shapes does not.

        Args:
            model: A fresh ``mujoco.MjModel``, to be modified in place.
            task: The task, [*task shape].
        """

    def reward(self, step: MujocoStep) -> Mapping[str, Any]:
        """The terms whose sum is the reward, by name, [k] each; they are also in the environment's ``info``."""
        raise NotImplementedError(f"{self.name} must define reward(self, step).")

    def info(self, step: MujocoStep) -> Mapping[str, Any]:
        """Other numbers for the environment's ``info``, by name, [k] each, for ``metrics``; by default none."""
        return {}

    def terminated(self, step: MujocoStep) -> Any:
        """Whether the episodes end in a terminal state, [k]; by default never."""
        return False

    def observation(self, state: MujocoState) -> Any:
        """The observations, [k, observation]; by default positions and velocities.

        See ``unobserved_positions`` and ``velocity_bound``.
        """
        velocities = np.clip(state.velocities, -self.velocity_bound, self.velocity_bound)
        return np.concatenate([state.positions[:, self.unobserved_positions :], velocities], axis=1)

    def initial_state(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draws the first positions [nq] and velocities [nv] of an episode.

        By default as the ``environment`` does, or the model's own plus ``reset_noise``.
        """
        if self._original is not None:
            with _drawing:
                return _drawn(self._original, rng)
        positions = self.model.qpos0 + rng.uniform(-self.reset_noise, self.reset_noise, self.model.nq)
        return positions, rng.uniform(-self.reset_noise, self.reset_noise, self.model.nv)

    @cached_property
    def model(self) -> Any:
        """The ``mujoco.MjModel`` of ``model_file`` or of the ``environment``, shared; not to be modified.

        Raises:
            UserError: If there is no such file, if an actuator has no ``ctrlrange``, or if an instance sets what its
                class must.
        """
        of_class = ("environment", "environment_kwargs", *(_OF_ENVIRONMENT if self._original is not None else ()))
        if found := [name for name in of_class if name in vars(self)]:
            raise UserError(
                f"{self.name} sets self.{found[0]}, which has no effect beside an environment; set environment and "
                "environment_kwargs in the class, and make a subclass for each variant."
            )
        path = self._path
        model = self._original.model if self._original is not None else _compiled(path, Path(path).stat().st_mtime_ns)
        unlimited = np.flatnonzero(model.actuator_ctrllimited == 0)
        if len(unlimited):
            raise UserError(
                f"actuator {model.actuator(unlimited[0]).name!r} in {path} has no ctrlrange, so its actions are "
                "unbounded; give it one."
            )
        return model

    def task_model(self, task: Any) -> Any:
        """The ``mujoco.MjModel`` of a task; the shared ``model`` if `set_model` is not overridden.

        Raises:
            UserError: If `set_model` changes the time step or ``qpos0``, or returns a model.
        """
        if type(self).set_model is MujocoFamily.set_model:
            return self.model
        model = copy.copy(self.model)
        returned = self.set_model(model, task)  # type: ignore[func-returns-value]
        if returned is not None:
            raise UserError(
                f"set_model of {self.name} must change the model that it is given, and return nothing; got "
                f"{shown(returned)}."
            )
        if not np.array_equal(model.qpos0, self.model.qpos0):
            raise UserError(
                f"set_model of {self.name} changes qpos0, which the first positions would not follow; all tasks must "
                "have the same, and initial_state draws the first positions."
            )
        if model.opt.timestep != self.model.opt.timestep:
            raise UserError(
                f"set_model of {self.name} changes the time step from {self.model.opt.timestep:g} to "
                f"{model.opt.timestep:g} s; all tasks must have the same."
            )
        mujoco.mj_setConst(model, mujoco.MjData(model))
        return model

    def make_env(
        self, render_mode: str | None = None, width: int = DEFAULT_SIZE, height: int = DEFAULT_SIZE
    ) -> gym.Env[Any, Any]:
        """Makes one environment, without a limit on the episode's length; frames are ``height`` x ``width`` pixels."""
        return ModelEnv(self, render_mode, width, height)

    @property
    def _path(self) -> str:
        if self._original is not None:
            return str(self._original.fullpath)
        if not hasattr(self, "model_file"):
            raise UserError(
                f"{self.name} has no model_file; set it to the path of an MJCF file, or set environment to the id of "
                "one of Gymnasium's MuJoCo environments, such as 'Walker2d-v5'."
            )
        try:
            return expand_model_path(str(self.model_file))
        except OSError:
            raise UserError(
                f"{self.name} has the model_file {str(self.model_file)!r}, which does not exist; write a path that "
                "starts with '/', '.' or '~', or the name of one of Gymnasium's files, such as 'walker2d_v5.xml'."
            ) from None

    def _rules(self) -> "ModelEnv":
        return self._env

    @cached_property
    def _env(self) -> "ModelEnv":
        return ModelEnv(self)

    def __getstate__(self) -> dict[str, Any]:
        """All but what can be made again."""
        return {name: value for name, value in self.__dict__.items() if name not in ("model", "_env", "_spaces")}


@cache
def _compiled(path: str, modified: int) -> Any:
    """The model in a file, compiled once in a process for each time that the file was modified."""
    return compile_model(path)


def _made(family: type[MujocoFamily]) -> MujocoEnv:
    """Makes the environment that a family is around."""
    name = f"{family.__name__} has the environment {family.environment!r}"
    try:
        env = gym.make(family.environment, **family.environment_kwargs).unwrapped
    except (gym.error.Error, ImportError, OSError, TypeError) as error:
        raise UserError(
            f"{name}, which Gymnasium cannot make with the environment_kwargs {dict(family.environment_kwargs)} "
            f"({error}); give the id of a MuJoCo environment, such as 'Walker2d-v5', and its parameters."
        ) from error
    if not isinstance(env, MujocoEnv):
        raise UserError(
            f"{name}, which is no MuJoCo environment: it must derive from gymnasium.envs.mujoco.MujocoEnv, got "
            f"{type(env).__name__}. Derive the family from metarl.TaskFamily instead."
        )
    return env


def _drawn(env: MujocoEnv, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """The positions and velocities to which an environment resets itself with these random numbers."""
    mujoco.mj_resetData(env.model, env.data)
    env.np_random = rng
    env.reset_model()
    return env.data.qpos.copy(), env.data.qvel.copy()


def _observed(env: MujocoEnv, family: type[MujocoFamily]) -> tuple[int, float]:
    """How many leading positions an environment does not observe, and to what bound it clips velocities.

    It is asked for the observation of a state that tells all candidates apart.
    """
    rng, data = np.random.default_rng(0), env.data
    data.qpos[:], data.qvel[:] = rng.uniform(-1, 1, env.model.nq), rng.uniform(-40, 40, env.model.nv)
    observation = env._get_obs() if hasattr(env, "_get_obs") else np.zeros(0)
    for unobserved, bound in itertools.product(range(env.model.nq), (np.inf, 10.0)):
        expected = np.concatenate([data.qpos[unobserved:], np.clip(data.qvel, -bound, bound)])
        if np.array_equal(observation[: len(expected)], expected):
            return unobserved, bound
    raise UserError(
        f"{family.__name__} has the environment {family.environment!r}, whose observations do not begin with positions "
        "and velocities; define observation(self, state)."
    )


class ModelEnv(MujocoTask, MujocoEnv, EzPickle):
    """The single environment of a `MujocoFamily`.

    Args:
        family: The family.
        render_mode: As in Gymnasium's environments.
        width: Pixels of a frame in a row.
        height: Pixels of a frame in a column.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}  # noqa: RUF012

    def __init__(
        self,
        family: MujocoFamily,
        render_mode: str | None = None,
        width: int = DEFAULT_SIZE,
        height: int = DEFAULT_SIZE,
    ) -> None:
        self.family = family
        positive_whole(f"frame_skip of {family.name}", family.frame_skip)
        not_negative(f"reset_noise of {family.name}", family.reset_noise)
        whole_between(0, family.model.nq)(f"unobserved_positions of {family.name}", family.unobserved_positions)
        self.tasks = _FamilyTasks(family)
        self._modelled: Any = None  # The task of the present model.
        camera = dict(family.camera)
        MujocoEnv.__init__(
            self, family._path, family.frame_skip, None, render_mode, width, height, default_camera_config=camera
        )
        self.metadata = {**self.metadata, "render_fps": round(1 / self.dt)}
        arrays = [name for name in dir(self.data) if isinstance(getattr(self.data, name, None), np.ndarray)]
        for name in family.data_fields:
            if name not in arrays:
                hint = nearest(name, arrays)
                raise UserError(f"MjData has no array {name!r}, one of the data_fields of {family.name}.{hint}")
        # Any task will do to find out how long an observation is.
        self.task = self.tasks.draw(1, np.random.default_rng(0))[0]
        self.observation_space = spaces.Box(-np.inf, np.inf, self._get_obs().shape, np.float64)
        self.task = None
        EzPickle.__init__(self, family, render_mode, width, height)

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float64], np.float64, bool, bool, dict[str, Any]]:
        """Takes one step with controls ``action``, [action]."""
        before = _kept(self._state())
        self.do_simulation(action, self.frame_skip)
        check_not_diverged(self)
        step = MujocoStep(before, self._state(), np.asarray(action, np.float64)[None], self.dt)
        terms = _terms(self.family, step)
        if self.render_mode == "human":
            self.render()
        reward: np.float64 = sum(terms.values(), np.zeros(1))[0]
        info = {name: values[0] for name, values in (terms | _info(self.family, step)).items()}
        return self._get_obs(), reward, bool(_ends(self.family, step)[0]), False, info

    def initial_state(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draws the first positions [nq] and velocities [nv] of an episode.

        Raises:
            UserError: If the family draws anything else.
        """
        drawn, sizes = self.family.initial_state(rng), (self.model.nq, self.model.nv)
        parts = drawn if isinstance(drawn, tuple | list) and len(drawn) == 2 else (np.nan, np.nan)
        positions, velocities = (np.asarray(part, np.float64) for part in parts)
        fits = (positions.shape, velocities.shape) == ((sizes[0],), (sizes[1],))
        if not fits or not (np.isfinite(positions).all() and np.isfinite(velocities).all()):
            raise UserError(
                f"initial_state of {self.family.name} must return finite positions of shape ({sizes[0]},) and "
                f"velocities of shape ({sizes[1]},), got {shown(drawn)}."
            )
        return positions, velocities

    def seed_and_choose_task(self, seed: int | None, options: dict[str, Any] | None) -> dict[str, Any]:
        """Seeds the environment, chooses its task and takes over the task's model."""
        info = super().seed_and_choose_task(seed, options)
        task = info["task"]
        if not np.array_equal(self._modelled, task):
            self._modelled = task.copy()
            self.model = self.mujoco_renderer.model = self._with_room(self.family.task_model(task.copy()))
            for viewer in self.mujoco_renderer._viewers.values():
                viewer.model = self.model
        return info

    def _get_obs(self) -> NDArray[np.float64]:
        return _observations(self.family, self._state())[0].copy()

    def _state(self) -> MujocoState:
        """The present state, of one environment; it changes with the next step."""
        data = {name: _read_only(getattr(self.data, name)[None]) for name in self.family.data_fields}
        positions, velocities = self.data.qpos[None], self.data.qvel[None]
        return MujocoState(np.array(self.task)[None], _read_only(positions), _read_only(velocities), data)

    def _initialize_simulation(self) -> tuple[Any, Any]:
        model = self._with_room(self.family.model)
        return model, mujoco.MjData(model)

    def _with_room(self, model: Any) -> Any:
        """The model, which others may share, with room for this environment's frames."""
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model


class _FamilyTasks(TaskDistribution):
    """The training tasks of a family.

    Args:
        family: The family; its tasks must be arrays.
    """

    space: Any

    def __init__(self, family: MujocoFamily) -> None:
        self._family, self.space = family, family.task_space
        if isinstance(self.space, spaces.Dict | spaces.Tuple):
            raise UserError(
                f"the tasks of {family.name}, a MujocoFamily, must be arrays, got {self.space}; use a Box, say."
            )

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """Draws n tasks, [n, *task shape]."""
        listed = self._family.listed_tasks("train")
        return self._family.draw_tasks(n, rng, "train") if listed is None else rng.choice(listed, n)

    def check(self, task: Any) -> NDArray[Any]:
        """Returns a copy of a task that a user gave.

        Raises:
            UserError: If it has another shape or is not finite, or if tasks are whole numbers and it is none of them.
        """
        checked = np.array(element(self.space, task, "the task"))
        if not np.isfinite(checked).all():
            raise UserError(f"the task must be finite, got {checked}.")
        if is_countable(self.space) and not self.space.contains(checked):
            raise UserError(f"the task must be an element of {self.space}, got {checked}.")
        return checked


class ModelCore(MujocoCore):
    """Many environments of a `MujocoFamily` at once, each simulation on the model of its task.

    Args:
        env: A single environment of the family.
        num_envs: Number of slots.
    """

    def __init__(self, env: ModelEnv, num_envs: int) -> None:
        self._family = env.family
        super().__init__(env, num_envs)
        self.tasks = np.zeros(self.tasks.shape, env.tasks.space.dtype)
        self._models: list[Any] = [self._family.model] * num_envs
        self._modelled: list[bytes] = [b""] * num_envs  # The task of each slot's model.

    def bind(self) -> None:
        """Finds the state's arrays and the family's, see `MujocoCore.bind`."""
        super().bind()
        try:
            self._data: dict[str, FloatArray] = {name: self.batch.bind(name) for name in self._family.data_fields}
        except ValueError as error:
            raise UserError(f"the data_fields of {self._family.name} cannot be read in a batch: {error}.") from error

    def start(self, slots: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Gives simulations the models of their tasks and resets them; see `NativeCore.start`."""
        made = dict(zip(self._modelled, self._models, strict=True))
        changed = [(slot, key) for slot in slots if (key := self.tasks[slot].tobytes()) != self._modelled[slot]]
        for slot, key in changed:
            if key not in made:
                made[key] = self._family.task_model(self.tasks[slot].copy())
            self._models[slot], self._modelled[slot] = made[key], key
        if changed:
            self.batch.set_models(self._models)
        super().start(slots, generators)

    def move(self, slots: Slots, actions: FloatArray, rewards: FloatArray, terminated: BoolArray) -> None:
        """Simulates some slots; see `MujocoCore.move`."""
        before = _kept(self._state(slots))
        self.simulate(slots)
        step = MujocoStep(before, self._state(slots), actions, self.env.dt)
        self.record_terms(slots, _terms(self._family, step), rewards)
        self.record(slots, _info(self._family, step))
        terminated[slots] = _ends(self._family, step)

    def observe(self, observations: FloatArray) -> None:
        """Writes the observations of all slots."""
        observations[...] = _observations(self._family, self._state(ALL))

    def _state(self, slots: Slots) -> MujocoState:
        """The present states of some slots; they may change with the next step."""

        def part(values: NDArray[Any]) -> NDArray[Any]:
            return _read_only(rows(values, slots))

        data = {name: part(values) for name, values in self._data.items()}
        return MujocoState(part(self.tasks), part(self.positions), part(self.velocities), data)


MujocoFamily.core_class = ModelCore


def _read_only(values: NDArray[Any]) -> NDArray[Any]:
    """The values, which are protected from a family's functions: they may be the simulator's own."""
    view = values.view()
    view.flags.writeable = False
    return view


def _kept(state: MujocoState) -> MujocoState:
    """A state that the next step does not change."""
    data = {name: _read_only(values.copy()) for name, values in state.data.items()}
    return MujocoState(state.tasks, _read_only(state.positions.copy()), _read_only(state.velocities.copy()), data)


def _terms(family: MujocoFamily, step: MujocoStep) -> dict[str, FloatArray]:
    """The reward terms of a step by name, [k] each."""
    terms = family.reward(step)
    if not (isinstance(terms, Mapping) and terms):
        raise UserError(
            f"reward of {family.name} must return the terms of the reward by name, such as "
            f"{{'reward_run': step.forward_velocity}}, got {shown(terms)}."
        )
    return _columns(family, step, terms)


def _info(family: MujocoFamily, step: MujocoStep) -> dict[str, FloatArray]:
    """Other numbers of a step by name, [k] each."""
    return _columns(family, step, family.info(step))


def _columns(family: MujocoFamily, step: MujocoStep, terms: Mapping[str, Any]) -> dict[str, FloatArray]:
    k = len(step.actions)
    return {name: _column(values, k, f"the term {name!r} of {family.name}") for name, values in terms.items()}


def _ends(family: MujocoFamily, step: MujocoStep) -> BoolArray:
    """Whether the episodes end in a terminal state, [k]."""
    return _column(family.terminated(step), len(step.actions), f"terminated of {family.name}").astype(bool)


def _column(values: Any, k: int, what: str) -> FloatArray:
    """One number for each of k environments, [k]; a number of Python's stands for all of them."""
    column = np.asarray(values, np.float64)
    # One number of NumPy's is what a sum over all environments gives.
    if column.shape != (k,) and (column.shape or isinstance(values, np.generic | np.ndarray)):
        raise UserError(
            f"{what} must have shape ({k},), a number for each environment, got {column.shape}; reduce over the last "
            "axis."
        )
    return np.broadcast_to(column, (k,))


def _observations(family: MujocoFamily, state: MujocoState) -> FloatArray:
    """The observations of k environments, [k, observation]."""
    observations = np.asarray(family.observation(state), np.float64)
    k = len(state.positions)
    if observations.ndim != 2 or len(observations) != k:
        raise UserError(
            f"observation of {family.name} must have shape ({k}, observation), a row for each environment, got "
            f"{observations.shape}."
        )
    return observations


def make_env(
    family: str,
    render_mode: str | None = None,
    width: int = DEFAULT_SIZE,
    height: int = DEFAULT_SIZE,
    **parameters: Any,
) -> gym.Env[Any, Any]:
    """Makes the single environment of a registered family, for Gymnasium's registry; parameters as for the family."""
    return _get(family, parameters).make_env(render_mode, width, height)


def make_vector_env(
    family: str, num_envs: int, max_episode_steps: int, num_threads: int | None = None, **parameters: Any
) -> NativeVectorEnv:
    """Makes the native vector environment of a registered family.

    Args:
        family: The family's name.
        num_envs: Number of slots.
        max_episode_steps: Steps after which an episode is truncated.
        num_threads: Threads that step them; by default as many as there are cores. It changes no number.
        **parameters: Parameters of the family.
    """
    env = ModelEnv(_get(family, parameters))
    return NativeVectorEnv(ModelCore(env, num_envs), env, max_episode_steps, num_threads)


def _get(family: str, parameters: dict[str, Any]) -> MujocoFamily:
    made = get_family(family, **parameters)
    assert isinstance(made, MujocoFamily)
    return made
