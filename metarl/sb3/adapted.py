"""Agents that start from a Stable-Baselines3 model, and adapted policies in Stable-Baselines3's tools."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from metarl.common.errors import UserError, shown
from metarl.common.streams import Purpose, stream
from metarl.config.checked import Seed, convert, expect
from metarl.config.config import Config
from metarl.envs import require_environments
from metarl.runs.adapted import AdaptedPolicy
from metarl.runs.build import build
from metarl.runs.trained_agent import Agent
from metarl.sb3.actors import policy_parameters
from metarl.sb3.envs import policy_actions


def start_from(model: BaseAlgorithm, config: Config) -> Agent:
    """Returns an agent whose initial policy is the actor of a PPO or A2C model.

    Args:
        model: A model trained on a `TaskEnv` with the configuration's family and ``action_scale``.
        config: Determines the family, the adaptation rule and the policy. Other meta-parameters of the rule have the
            values from which its training would start.

    Raises:
        UserError: If the model acts in other units, or its actor does not fit the policy (see `policy_parameters`).
    """
    settings = expect("config", config, Config).resolve()
    if not isinstance(model, BaseAlgorithm):
        raise UserError(f"model must be a model of Stable-Baselines3, got {shown(model)}.")
    family, rule = build(settings)
    scale = settings.rollouts.action_scale
    wanted = policy_actions(require_environments(family, "metarl.sb3"), scale)
    if model.action_space != wanted:
        raise UserError(
            f"the model's actions are {model.action_space}, and this configuration's policy has {wanted}; train the "
            f"model on metarl.sb3.TaskEnv({config.env!r}, action_scale={scale})."
        )
    if not rule.adapted:
        raise UserError(f"{config.algo} never adapts, so there is nothing to start; take algo='maml', for example.")
    meta = rule.initial(stream(config.seed, Purpose.INITIALISATION))
    place = rule.initialisation(torch.arange(family.num_modes))  # Before the actor is read: it says what a rule lacks.
    meta[place] = policy_parameters(model, rule.policy)
    return Agent(config, meta)


class AdaptedModel:
    """An adapted policy with the ``predict`` of a Stable-Baselines3 model, for ``evaluate_policy`` and other tools.

    Actions are in the environment's units. The model therefore acts in the family's own environments, not in `TaskEnv`.

    Args:
        adapted: The adapted policy, from `metarl.runs.trained_agent.Agent.adapt`.
        seed: Seed of sampled actions.
    """

    def __init__(self, adapted: AdaptedPolicy, seed: int = 0) -> None:
        self._adapted = expect("adapted", adapted, AdaptedPolicy)
        self._generator = np.random.default_rng(convert("seed", seed, Seed))

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Actions for one observation or a batch of them.

        Args:
            observation: One observation of the environment, or several along a first axis.
            state: Returned unchanged, because the policy has no memory.
            episode_start: Ignored, because the policy has no memory.
            deterministic: Whether to take the mode of the distribution instead of a sample.

        Returns:
            One action [*action shape], or one for each observation [observation, *action shape]; and ``state``.

        Raises:
            UserError: If the observation does not have the form of the environment's observations.
        """
        return self._adapted.predict(observation, deterministic, self._generator), state
