"""Trains one policy on all tasks at once with Stable-Baselines3's PPO, for the baselines."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor

from metarl.common.errors import UserError
from metarl.common.global_seed import globally_seeded
from metarl.common.parallel import Workers
from metarl.common.profiling import timed
from metarl.common.streams import Purpose, stream
from metarl.config.resolved import Settings
from metarl.data import LearnerState, Row
from metarl.envs import TaskFamily
from metarl.policies.base import Policy
from metarl.policies.mlp import MLPPolicy
from metarl.sb3.actors import ACTIVATIONS, policy_parameters, set_policy_parameters
from metarl.sb3.envs import TaskVecEnv

_MOST_SLOTS = 40
_MINIBATCH = 1000


class PPOLearner:
    """Trains a policy with PPO. An iteration takes as many steps as a meta-iteration in which no episode ends early.

    The actor starts from the same parameters as the policy of a rule with this seed. The learner's memory is the whole
    model, including the critic and Adam's moments. Networks and discount are the run's. PPO's other settings are the
    defaults of Stable-Baselines3 (including its gae_lambda of 0.95), except for whole episodes and minibatches of about
    1000 steps.

    Args:
        settings: The run's settings.
        family: The task family; its observations may hold the task.
        policy: The policy to train.

    Attributes:
        model: The PPO model.
        env_steps: Environment steps of one iteration.

    Raises:
        UserError: If the policy is not the built-in multilayer perceptron, or if PPO would learn from a single step.
    """

    def __init__(self, settings: Settings, family: TaskFamily, policy: Policy) -> None:
        if not isinstance(policy, MLPPolicy):
            raise UserError("PPO trains the built-in multilayer perceptron only; leave out policy_body.")
        self._seed, self._policy = settings.run.seed, policy
        rollouts = settings.rollouts
        episodes = settings.meta.meta_batch_size * rollouts.rollouts_per_task
        self.env_steps = episodes * rollouts.horizon * (settings.inner.num_inner_steps + 1)
        slots = max(number for number in range(1, _MOST_SLOTS + 1) if episodes % number == 0)
        if slots * rollouts.horizon == 1:
            raise UserError("PPO needs more than one step of a task; raise horizon or rollouts_per_task.")
        self._metrics = tuple(family.metrics)
        threads = settings.run.threads or None
        env = TaskVecEnv(family, slots, "train", rollouts.horizon, rollouts.action_scale, num_threads=threads)
        self._env = VecMonitor(env)
        # On one thread, because the critic's orthogonal initialisation depends on the number of threads.
        with Workers(1), _seeded(stream(self._seed, Purpose.INITIALISATION, 1)):
            self.model = _make_ppo(settings, self._env)
        # The default logger of Stable-Baselines3 makes a temporary folder at each call of learn.
        self.model.set_logger(Logger(folder=None, output_formats=[]))

    def initial(self) -> LearnerState:
        meta = self._policy.initial(stream(self._seed, Purpose.INITIALISATION))
        set_policy_parameters(self.model, self._policy, meta)
        return LearnerState(meta, _memory(self.model))

    def iteration(self, state: LearnerState, index: int, describe: bool = True) -> tuple[LearnerState, Row]:
        generator, begin = stream(self._seed, Purpose.TRAIN_ROLLOUTS, index), time.perf_counter()
        _remember(self.model, state.memory)
        before = self.model.num_timesteps
        returns: list[float] = []
        metrics: list[Mapping[str, float]] = []

        def note(variables: dict[str, Any], _: dict[str, Any]) -> bool:
            returns.extend(info["episode"]["r"] for info in variables["infos"] if "episode" in info)
            metrics.extend(info["metrics"] for info in variables["infos"] if "metrics" in info)
            return True

        self._env.seed(int(generator.integers(2**31)))
        self.model.set_env(self._env)  # Discards unfinished episodes of the last iteration.
        with timed("PPO"), _seeded(generator):
            self.model.learn(self.env_steps, note, reset_num_timesteps=False)
        # Training does not adapt, so there is no return after adaptation.
        row = {
            "env_steps": self.model.num_timesteps - before,
            "pre_adaptation_return": float(np.mean(returns)),
            **{f"pre_adaptation_{name}": float(np.mean([of[name] for of in metrics])) for name in self._metrics},
            "seconds_ppo": round(time.perf_counter() - begin, 4),
        }
        meta = policy_parameters(self.model, self._policy).to(state.meta)
        return LearnerState(meta, _memory(self.model)), row

    def close(self) -> None:
        self._env.close()


# Not the model's own save, which holds pickled classes: loading them can run any code.
def _memory(model: PPO) -> dict[str, Tensor]:
    """Actor and critic as ``policy.NAME``; Adam's state of the parameter with index INDEX as ``adam.INDEX.NAME``."""
    parameters = model.get_parameters()
    memory = {f"policy.{name}": value for name, value in parameters["policy"].items()}
    for index, entry in parameters["policy.optimizer"]["state"].items():
        memory |= {f"adam.{index}.{name}": value for name, value in entry.items()}
    return {name: value.clone() for name, value in memory.items()}


def _remember(model: PPO, memory: Mapping[str, Tensor]) -> None:
    """Restores `_memory` into a model; the model's settings do not change."""
    parameters: dict[str, Any] = model.get_parameters()
    policy, adam = parameters["policy"], parameters["policy.optimizer"]
    adam["state"] = {}
    try:
        for name, value in memory.items():
            owner, _, rest = name.partition(".")
            if owner == "policy":
                policy[rest] = value
            else:
                index, _, part = rest.partition(".")
                # Cloned, because PyTorch's optimiser keeps these tensors and changes them in place.
                adam["state"].setdefault(int(index), {})[part] = value.clone()
        model.set_parameters(parameters)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError("the checkpoint does not hold what this PPO remembers; train again.") from error


def _make_ppo(settings: Settings, env: VecMonitor) -> PPO:
    rollouts, policy = settings.rollouts, settings.policy
    steps = rollouts.horizon * env.num_envs
    minibatches = math.ceil(steps / _MINIBATCH)
    with warnings.catch_warnings():
        # If the steps do not divide evenly, one minibatch is a little smaller.
        warnings.filterwarnings("ignore", "You have specified a mini-batch size", UserWarning)
        return PPO(
            "MlpPolicy",
            env,
            n_steps=rollouts.horizon,
            batch_size=math.ceil(steps / minibatches),
            gamma=rollouts.discount,
            policy_kwargs={
                "net_arch": {"pi": list(policy.hidden_sizes), "vf": list(policy.hidden_sizes)},
                "activation_fn": ACTIVATIONS[policy.activation],
            },
            device="cpu",
        )


def _seeded(generator: np.random.Generator) -> AbstractContextManager[None]:
    """Seeds the global generators, from which Stable-Baselines3 draws."""
    return globally_seeded(int(generator.integers(2**31)), int(generator.integers(2**31)))
