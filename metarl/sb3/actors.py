"""Converts actors of Stable-Baselines3's models to parameters of metarl's policies, and back."""

from __future__ import annotations

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

from metarl.common.errors import UserError
from metarl.policies.base import Policy
from metarl.policies.mlp import MLPPolicy

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def policy_parameters(model: BaseAlgorithm, policy: Policy) -> Tensor:
    """Returns the actor of a PPO or A2C model as parameters of a metarl policy.

    Args:
        model: A Stable-Baselines3 model with an ``ActorCriticPolicy`` (``MlpPolicy``).
        policy: The built-in multilayer perceptron with the same hidden layers and activation.

    Returns:
        Parameters that give ``policy`` the actor's action distribution, float32 [parameter]. The policy's floor of the
        standard deviation still applies.

    Raises:
        UserError: If the actor is of another kind, or does not fit; the message says what differs.
    """
    if not isinstance(policy, MLPPolicy):
        raise UserError("an actor's parameters fit the built-in multilayer perceptron only; leave out policy_body.")
    _check_fits(_actor(model), policy)
    parameters = torch.cat([tensor.detach().cpu().reshape(-1) for tensor in _tensors(_actor(model))])
    _check_same_outputs(_actor(model), policy, parameters)
    return parameters


@torch.no_grad()
def set_policy_parameters(model: BaseAlgorithm, policy: Policy, parameters: Tensor) -> None:
    """The inverse of `policy_parameters`: gives a model's actor the parameters [parameter] of a policy."""
    for tensor, value in zip(_tensors(_actor(model)), policy.layout.views(parameters[None]), strict=True):
        tensor.copy_(value[0])


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
    probes = torch.randn(64, policy.observation_size, generator=torch.Generator().manual_seed(0))
    expected = actor.action_net(actor.mlp_extractor.forward_actor(probes.to(actor.device))).cpu()
    difference = policy.outputs(parameters[None], probes[None])[0] - expected
    if difference.abs().max() > 1e-3 * expected.abs().max() + 1e-6:
        modules = {type(module).__name__ for module in actor.mlp_extractor.policy_net} - {"Linear"}
        raise UserError(
            f"the actor does not fit the policy: activation {', '.join(sorted(modules)) or 'none'} instead of the "
            "policy's; make the model with activation_fn in its policy_kwargs as the configuration's activation, "
            "torch.nn.ReLU or torch.nn.Tanh."
        )
