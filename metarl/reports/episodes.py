"""Single episodes of an agent in one task, before adaptation and after each step, with pictures."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metarl.common.errors import UserError
from metarl.common.output import progress_bar
from metarl.common.streams import Purpose, stream
from metarl.common.words import counted
from metarl.envs import TaskFamily, require_environments
from metarl.envs.single import begin, new_env, take_step
from metarl.envs.spaces import flatten, stacked
from metarl.runs.adapted import AdaptedMemory, AdaptedPolicy
from metarl.runs.trained_agent import Agent

HEIGHT = 256
"""Height of a picture, in pixels."""
PANELS_IN_ROW = 4
"""Episodes, or tasks, beside one another; more take several rows."""
# A film has hardly more pictures a second, and no more in all. It leaves out steps, and keeps the pace.
_MOST_PER_SECOND = 25
_MOST_PICTURES = 500
_USUAL_RATE = 30

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Episode:
    """An episode of an agent.

    Attributes:
        title: What the agent knows of the task at the start, such as "after 1 gradient step".
        rewards: Rewards, [step].
        observations: Flat observations at the start and after each step, [step + 1, observation].
        pictures: Pictures at the start, after every ``stride`` steps and at the end, [picture][256, width, 3]; none
            without a camera.
        stride: Steps between two pictures.
    """

    title: str
    rewards: NDArray[np.float64]
    observations: NDArray[np.float64]
    pictures: list[Picture]
    stride: int = 1

    def steps_until(self, picture: int) -> int:
        """Steps taken before a picture; after the last one, all."""
        return min(picture * self.stride, len(self.rewards))


@dataclass(frozen=True)
class Camera:
    """Takes pictures of an environment.

    Attributes:
        env: The environment.
        name: The family's name.
        stride: Steps between two pictures.
        rate: Pictures a second at which the film shows the environment's own pace.
    """

    env: gym.Env[Any, Any]
    name: str
    stride: int
    rate: float

    @classmethod
    def on(cls, env: gym.Env[Any, Any], name: str, horizon: int) -> Camera:
        """The camera for episodes of ``horizon`` steps in an environment of the family ``name``."""
        steps_per_second = float(env.metadata.get("render_fps") or _USUAL_RATE)
        stride = max(1, round(steps_per_second / _MOST_PER_SECOND), math.ceil(horizon / _MOST_PICTURES))
        return cls(env, name, stride, steps_per_second / stride)

    def picture(self) -> Picture:
        """A picture, [256, width, 3].

        Raises:
            UserError: If the environment cannot draw itself here.
        """
        try:
            drawn = np.asarray(self.env.render(), np.uint8)
            picture = Image.fromarray(drawn)
        except Exception as error:
            hint = ""
            if hasattr(self.env.unwrapped, "mujoco_renderer"):
                hint = (
                    " Without a display, MuJoCo draws with EGL or OSMesa: install one of them (libegl1, libosmesa6), "
                    "and set MUJOCO_GL=egl or MUJOCO_GL=osmesa."
                )
            problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"an environment of {self.name} cannot be drawn here ({problem}).{hint}") from error
        width = max(1, round(picture.width * HEIGHT / picture.height))
        return np.asarray(picture.resize((width, HEIGHT), Image.Resampling.LANCZOS))


def drawing_env(family: TaskFamily, task: Any) -> gym.Env[Any, Any]:
    """An environment of the kind that the task needs, which draws pictures.

    Raises:
        UserError: If the family's environments do not.
    """
    kind = family.kind(task)
    plain = new_env(family, kind)
    plain.close()
    if "rgb_array" not in (plain.metadata.get("render_modes") or ()):
        raise UserError(
            f"{family.name} cannot be filmed: its environments do not draw pictures (render mode 'rgb_array')."
        )
    try:
        return new_env(family, kind, "rgb_array")
    except TypeError as error:
        if "'render_mode'" not in str(error):
            raise
        raise UserError(
            f"{family.name} cannot be filmed: its make_env takes no render_mode; give it this parameter, and hand it "
            "on to the environment."
        ) from error


def adaptation(
    agent: Agent, env: gym.Env[Any, Any], task: Any, steps: int, seed: int, camera: Camera | None = None
) -> list[Episode]:
    """An episode before adaptation and one after each step.

    An agent with gradient steps adapts anew before each of them, to the same episodes as far as it goes, and each
    begins alike. Those of an agent with memory follow one another, and each is what the next one remembers.

    Args:
        agent: The agent.
        env: An environment of its family.
        task: The task.
        steps: Number of steps.
        seed: Seed of adaptation and episodes.
        camera: Takes the pictures, if wanted.

    Raises:
        UserError: If the family is supervised, or its environment does not fit the agent.
    """
    family = require_environments(agent.family, "a recording")
    horizon = agent.settings.rollouts.horizon

    def in_task() -> Any:
        """Begins an episode, always the same one, and returns the first observation."""
        return begin(env, seed, family.set_task(env, copy.deepcopy(task)))[0]

    numbers = progress_bar(range(steps + 1), desc="episodes", leave=False)
    in_task()
    if agent.rule.remembers:
        memory = agent.adapt(env, num_steps=0, seed=seed)
        assert isinstance(memory, AdaptedMemory)
        return [_next_episode(memory, f"episode {number + 1}", env, horizon, camera) for number in numbers]
    mode = int(family.checked_modes(stacked([task]))[0])
    episodes = []
    for number in numbers:
        in_task()
        policy = agent.adapt(env, num_steps=number, seed=seed, mode=mode)
        assert isinstance(policy, AdaptedPolicy)
        title = f"after {counted(number, agent.rule.step_name)}" if number else "before adaptation"
        # The same noise in all of them: they differ by what was learned.
        sample = partial(_sample, policy, stream(seed, Purpose.TEST_ROLLOUTS))
        episodes.append(_episode(title, sample, env, in_task(), horizon, camera))
    return episodes


def _sample(policy: AdaptedPolicy, rng: np.random.Generator, observation: Any, reward: float | None) -> Any:
    return policy.predict(observation, deterministic=False, rng=rng)


def _next_episode(
    memory: AdaptedMemory, title: str, env: gym.Env[Any, Any], horizon: int, camera: Camera | None
) -> Episode:
    """An episode that the agent remembers."""
    observation, _ = begin(env, None, None)
    memory.start()
    episode = _episode(title, memory.predict, env, observation, horizon, camera)
    memory.finish(float(episode.rewards[-1]))
    return episode


def _episode(
    title: str,
    act: Callable[[Any, float | None], Any],
    env: gym.Env[Any, Any],
    observation: Any,
    horizon: int,
    camera: Camera | None,
) -> Episode:
    """An episode that has begun with an observation; ``act`` maps it and the reward before to an action."""

    def flat(observation: Any) -> NDArray[Any]:
        return flatten(env.observation_space, observation, "an observation")

    rewards: list[float] = []
    observations, pictures = [flat(observation)], [camera.picture()] if camera else []
    ended = False
    while not ended:
        action = act(observation, rewards[-1] if rewards else None)
        observation, reward, terminated, truncated, _ = take_step(env, action)
        rewards.append(reward)
        observations.append(flat(observation))
        ended = terminated or truncated or len(rewards) == horizon
        if camera and (ended or len(rewards) % camera.stride == 0):
            pictures.append(camera.picture())
    return Episode(title, np.array(rewards), np.array(observations), pictures, camera.stride if camera else 1)
