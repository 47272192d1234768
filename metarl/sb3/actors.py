"""Converts actors of Stable-Baselines3's models to parameters of metarl's policies, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces.utils import flatdim
from gymnasium.wrappers import NormalizeObservation
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

from metarl.common.errors import UserError, shown
from metarl.policies.base import Policy
from metarl.policies.mlp import MLPPolicy

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def policy_parameters(model: BaseAlgorithm, policy: Policy) -> Tensor:
    """Returns the actor of a PPO or A2C model as parameters of a metarl policy.

    If the model's environment normalises observations (``VecNormalize``), so do the parameters: the first layer takes
    the mean and the scale over. Stable-Baselines3 stores them with the environment, so load such a model with it.

    Args:
        model: A Stable-Baselines3 model with an ``ActorCriticPolicy`` (``MlpPolicy``).
        policy: The built-in multilayer perceptron with the same hidden layers and activation.

    Returns:
        Parameters that give ``policy`` the actor's action distribution, float32 [parameter]. The policy's floor of the
        standard deviation still applies.

    Raises:
        UserError: If the actor is of another kind, or does not fit; the message says what differs. Also if a linear
            layer cannot do what its environment does to observations.
    """
    if not isinstance(model, BaseAlgorithm):
        raise UserError(f"model must be a Stable-Baselines3 model, got {shown(model)}.")
    if not isinstance(policy, MLPPolicy):
        raise UserError("an actor's parameters fit the built-in multilayer perceptron only; leave out policy_body.")
    _check_fits(_actor(model), policy)
    weight, bias, *others = (tensor.detach().cpu() for tensor in _tensors(_actor(model)))
    _check_same_outputs(_actor(model), policy, _flat(weight, bias, *others))
    mean, scale = _normalisation(model)
    folded = weight.double() / scale
    parameters = _flat(folded.float(), (bias.double() - folded @ mean).float(), *others)
    _check_precision(_actor(model), policy, parameters, mean, scale)
    return parameters


def _flat(*tensors: Tensor) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _normalisation(model: BaseAlgorithm) -> tuple[Tensor, Tensor]:
    """Mean and scale by which the model's environment normalises observations, float64 [observation]; 0 and 1 if not.

    Raises:
        UserError: If it also does what no linear layer can.
    """
    space: Any = model.observation_space
    env: Any = model.get_vec_normalize_env()
    if (made := model.get_env()) is not None and any(made.env_is_wrapped(NormalizeObservation)):
        raise UserError(
            "the model's environments are wrapped in Gymnasium's NormalizeObservation, each with its own statistics; "
            "train it in Stable-Baselines3's VecNormalize instead."
        )
    if env is None or not env.norm_obs:
        size = flatdim(space)
        return torch.zeros(size).double(), torch.ones(size).double()
    mean, scale = env.obs_rms.mean, np.sqrt(env.obs_rms.var + env.epsilon)
    if max(np.abs((bound - mean) / scale).max() for bound in (space.low, space.high)) > env.clip_obs:
        raise UserError(
            f"the model's VecNormalize clips normalised observations at {env.clip_obs:g}, and a policy cannot; if the "
            "observations do not get there, set model.get_vec_normalize_env().clip_obs = float('inf')."
        )
    return torch.from_numpy(np.ravel(mean)), torch.from_numpy(np.ravel(scale))


@torch.no_grad()
def set_policy_parameters(model: BaseAlgorithm, policy: Policy, parameters: Tensor) -> None:
    """The inverse of `policy_parameters`: gives a model's actor the parameters [parameter] of a policy."""
    for tensor, value in zip(_tensors(_actor(model)), policy.layout.views(parameters), strict=True):
        tensor.copy_(value)


def _actor(model: BaseAlgorithm) -> ActorCriticPolicy:
    actor = model.policy
    if not isinstance(actor, ActorCriticPolicy):
        raise UserError(
            f"the model is {type(model).__name__} with {type(actor).__name__}; only the ActorCriticPolicy of PPO and "
            "A2C can be taken over."
        )
    if actor.use_sde:
        raise UserError("the actor explores state-dependently (gSDE); make the model with use_sde=False.")
    if not isinstance(actor.pi_features_extractor, FlattenExtractor):
        raise UserError(
            f"the actor has a {type(actor.pi_features_extractor).__name__} as its features extractor, and only "
            "FlattenExtractor can be taken over; make the model with 'MlpPolicy' on flat observations."
        )
    return actor


def _tensors(actor: ActorCriticPolicy) -> list[Tensor]:
    """The actor's parameters in the order of `MLPPolicy.layout`."""
    layers = [tensor for layer in _layers(actor) for tensor in (layer.weight, layer.bias)]
    return [*layers, actor.log_std] if isinstance(actor.action_dist, DiagGaussianDistribution) else layers


def _layers(actor: ActorCriticPolicy) -> list[nn.Linear]:
    modules = [*actor.mlp_extractor.policy_net, actor.action_net]
    return [module for module in modules if isinstance(module, nn.Linear)]


def _check_fits(actor: ActorCriticPolicy, policy: MLPPolicy) -> None:
    """Raises UserError unless the actor has the distribution, inputs and layers of the policy; says what differs."""
    kinds = {
        DiagGaussianDistribution: "Gaussian",
        CategoricalDistribution: "Categorical",
        MultiCategoricalDistribution: "Categoricals",
    }
    kind = kinds.get(type(actor.action_dist), type(actor.action_dist).__name__)
    sizes = [tuple(layer.weight.shape) for layer in _layers(actor)]
    wanted = [shape for name, shape in zip(policy.layout.names, policy.layout.shapes, strict=True) if "weight" in name]
    for what, actual, expected in (
        ("action distribution", kind, type(policy.distribution).__name__),
        ("number of observations", sizes[0][1], policy.observation_size),
        ("number of actions", sizes[-1][0], policy.distribution.num_outputs),
        ("hidden sizes", [size for size, _ in sizes[:-1]], [size for size, _ in wanted[:-1]]),
    ):
        if actual != expected:
            raise UserError(
                f"the actor does not fit the policy: {what} {actual} instead of {expected}; make the model on a "
                "metarl.sb3.TaskEnv of the same family, with net_arch in its policy_kwargs as the configuration's "
                "hidden_sizes."
            )


@torch.no_grad()
def _check_same_outputs(actor: ActorCriticPolicy, policy: MLPPolicy, parameters: Tensor) -> None:
    """Raises UserError if the actor's outputs differ from the policy's, for example with another activation."""
    probes = _probes(policy)
    if not _close(policy, parameters, probes, _outputs(actor, probes)):
        modules = {type(module).__name__ for module in actor.mlp_extractor.policy_net} - {"Linear"}
        raise UserError(
            f"the actor does not fit the policy: activation {', '.join(sorted(modules)) or 'none'} instead of the "
            "policy's; make the model with activation_fn in its policy_kwargs as the configuration's activation, "
            "torch.nn.ReLU or torch.nn.Tanh."
        )


@torch.no_grad()
def _check_precision(
    actor: ActorCriticPolicy, policy: MLPPolicy, parameters: Tensor, mean: Tensor, scale: Tensor
) -> None:
    """Raises UserError if numbers of single precision do not suffice for what the first layer took over."""
    observations = (mean + scale * _probes(policy)).float()
    normalised = ((observations - mean) / scale).float()
    if not _close(policy, parameters, observations, _outputs(actor, normalised)):
        raise UserError(
            "the model's VecNormalize cannot be taken over into the policy's first layer: the observations are large "
            "beside how much they vary; subtract a constant from them in the environment."
        )


def _probes(policy: MLPPolicy) -> Tensor:
    return torch.randn(64, policy.observation_size, generator=torch.Generator().manual_seed(0))


def _outputs(actor: ActorCriticPolicy, observations: Tensor) -> Tensor:
    return actor.action_net(actor.mlp_extractor.forward_actor(observations.to(actor.device))).cpu()


def _close(policy: MLPPolicy, parameters: Tensor, observations: Tensor, expected: Tensor) -> bool:
    difference = policy.outputs(parameters[None], observations[None])[0] - expected
    return bool(difference.abs().max() <= 1e-3 * expected.abs().max() + 1e-6)
