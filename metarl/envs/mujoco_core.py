"""Shared by the MuJoCo families: models, batched stepping, divergence checks, the fallback without a batch."""

import importlib
import os
import sys
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray, IntArray
from metarl.common.errors import UserError
from metarl.envs.interface import BrokenEpisode, EpisodeBatch
from metarl.envs.looped import LoopedEpisodes
from metarl.envs.native import ALL, CoreFamily, NativeCore, NativeFamily, Slots
from metarl.envs.tasks import TaskKeeper

# MuJoCo silently resets a simulation that runs into one of the first three, and silently zeroes bad controls.
_BAD = [int(getattr(mujoco.mjtWarning, f"mjWARN_BAD{what}").value) for what in ("QPOS", "QVEL", "QACC", "CTRL")]
_DIVERGED = slice(min(_BAD), max(_BAD) + 1)
_HAS_DIVERGED = "the simulation diverged (controls, positions, velocities or accelerations became huge or not a number)"


def batch_module() -> Any:
    """The module ``mujoco.batch``, or None where MuJoCo is older than 3.17."""
    try:
        return importlib.import_module("mujoco.batch")
    except ImportError:
        return None


@cache
def say_fallback_once() -> None:
    """Warns, once in a process, that rollouts step one environment after the other."""
    warnings.warn(
        f"MuJoCo {mujoco.__version__} has no mujoco.batch (new in 3.17), so environments are stepped one by one, "
        "several times slower; `pip install -U mujoco` updates it.",
        stacklevel=3,
    )


def compile_model(path: str, velocity_sensor: bool = False) -> Any:
    """Compiles a model file.

    Args:
        path: The XML file.
        velocity_sensor: Whether to add a sensor of the velocity of the whole body's centre of mass, at the torso.
    """
    spec = mujoco.MjSpec.from_file(path)
    if velocity_sensor:
        spec.add_sensor(
            name="centre_of_mass_velocity",
            type=mujoco.mjtSensor.mjSENS_SUBTREELINVEL,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname="torso",
        )
    with warnings.catch_warnings():
        # Gymnasium's half-cheetah file uses an attribute that MuJoCo 4 calls deprecated.
        warnings.filterwarnings("ignore", message=".*settotalmass.*")
        return spec.compile()


def check_not_diverged(env: MujocoEnv) -> None:
    """Raises BrokenEpisode if a single environment's simulation has diverged."""
    if np.asarray(env.data.warning.number)[_DIVERGED].any():
        raise BrokenEpisode(_HAS_DIVERGED)


class MujocoTask(TaskKeeper):
    """Mixin for Gymnasium's MuJoCo environments: reset with a task, first states, rendering without a display."""

    @abstractmethod
    def initial_state(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draws the first positions [nq] and velocities [nv] of an episode."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begins an episode; ``options={"task": task}`` sets the task."""
        info = self.seed_and_choose_task(seed, options)
        # No seed here: the generator is seeded already, and the task may have been drawn from it.
        observation, positions = super().reset()  # type: ignore[misc]
        return observation, {**positions, **info}

    def __getstate__(self) -> dict[str, Any]:
        # Gymnasium's environments are made anew from their arguments, which do not hold what a reset has chosen.
        kept: Any = super().__getstate__()
        return {**kept, "task": self.task, "generator": self._np_random}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        self.task, self._np_random = state["task"], state["generator"]

    def reset_model(self) -> NDArray[np.float64]:
        """Puts the simulation into a first state; called by Gymnasium's reset."""
        assert isinstance(self, MujocoEnv)
        self.set_state(*self.initial_state(self.np_random))
        observation: NDArray[np.float64] = self._get_obs()  # type: ignore[attr-defined]
        return observation

    def render(self) -> Any:
        """Draws a frame as ``render_mode`` says; [480, 480, 3] of bytes for "rgb_array".

        The view is that of the model's camera ``track``, which stays with the body, if there is one.
        """
        assert isinstance(self, MujocoEnv)
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            # By default, Gymnasium picks a backend that needs a display, and fails.
            os.environ.setdefault("MUJOCO_GL", "egl")
        self.mujoco_renderer.camera_id = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")  # else -1
        return super().render()  # type: ignore[misc]


class MujocoCore(NativeCore):
    """Many copies of one MuJoCo environment on ``mujoco.batch``, in one thread unless told otherwise.

    Args:
        env: A single environment, whose model and rules hold for all slots.
        num_envs: Number of slots.

    Raises:
        UserError: If MuJoCo is older than 3.17.
    """

    def __init__(self, env: Any, num_envs: int) -> None:
        super().__init__(num_envs, env.tasks.space.shape)
        module = batch_module()
        if module is None:
            raise UserError(
                f"MuJoCo {mujoco.__version__} has no mujoco.batch (new in 3.17); update with pip install -U mujoco, "
                "or use vectorization_mode='sync'."
            )
        self.env = env
        self._make_batch = partial(module.Batch, env.model, num_envs)
        self.use_threads(1)

    def use_threads(self, num_threads: int) -> None:
        """Steps with several threads, each of which runs some of the simulations; see `NativeCore.use_threads`."""
        self.batch = self._make_batch(nthread=num_threads)
        self.bind()

    def bind(self) -> None:
        """Finds the arrays that hold the state of the simulations; called whenever they are new."""
        self.positions: FloatArray = self.batch.bind("qpos")
        self.velocities: FloatArray = self.batch.bind("qvel")
        self._controls: FloatArray = self.batch.bind("ctrl")

    def start(self, slots: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Resets the simulations of some slots; see `NativeCore.start`."""
        self.batch.reset(slots, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        for slot, generator in zip(slots, generators, strict=True):
            self.positions[slot], self.velocities[slot] = self.env.initial_state(generator)
        self.batch.forward(slots)

    def advance(self, slots: Slots, actions: NDArray[Any], rewards: FloatArray, terminated: BoolArray) -> None:
        """Steps the simulations of some slots; see `NativeCore.advance`."""
        self._controls[slots] = actions[slots]
        self.move(slots, actions[slots].astype(np.float64), rewards, terminated)

    def simulate(self, slots: Slots, **options: Any) -> None:
        """Runs one environment step's physics in some slots; those whose simulation diverges are ``broken``."""
        ids = None if slots is ALL else slots
        self.batch.step(ids, nstep=self.env.frame_skip, **options)
        # How often each of MuJoCo's warnings has occurred since the episodes began, [slot, warning].
        diverged = self.batch.warning[..., 1][:, _DIVERGED].any(axis=1)
        stepped = np.arange(self.num_envs)[slots] if diverged.any() else ()
        self.broken = {int(slot): _HAS_DIVERGED for slot in stepped if diverged[slot]}

    @abstractmethod
    def move(self, slots: Slots, actions: FloatArray, rewards: FloatArray, terminated: BoolArray) -> None:
        """Simulates some slots and computes rewards and terminations.

        Args:
            slots: Which slots.
            actions: Their actions, [k, action].
            rewards: Receives the rewards of these slots, [num_envs].
            terminated: Receives whether these slots are in a terminal state, [num_envs].
        """

    def observe(self, observations: FloatArray) -> None:
        """Writes positions, except the first ``num_skipped``, and velocities of all slots."""
        skipped = self.env.num_skipped
        width = self.positions.shape[1] - skipped
        observations[:, :width] = self.positions[:, skipped:]
        observations[:, width:] = self.velocities


class SimulatedFamily(CoreFamily):
    """A family on `MujocoCore` that falls back to a loop over single environments where MuJoCo has no batch."""

    horizon = 200
    min_envs_per_shard = 20
    # A smaller initial standard deviation than 1 at this scale explores too little.
    memory_defaults: Mapping[str, Any] = {"num_inner_steps": 1, "action_scale": 0.2, "iterations": 200}

    def make_episodes(self, num_envs: int, horizon: int) -> EpisodeBatch:
        """Makes a batch of slots in which episodes run side by side."""
        if batch_module() is not None:
            return super().make_episodes(num_envs, horizon)
        say_fallback_once()
        return LoopedEpisodes(self, num_envs, horizon)


class DirectionFamily(SimulatedFamily, NativeFamily):
    """A MuJoCo family whose two tasks are the directions +1 and -1."""

    def describe_task(self, task: Any) -> str:
        """Says the direction."""
        return "forward" if task > 0 else "backward"


class VelocityFamily(SimulatedFamily, NativeFamily):
    """A MuJoCo family whose tasks are target velocities."""

    def describe_task(self, task: Any) -> str:
        """Says the target velocity."""
        return f"velocity {float(task):.2f} m/s"
