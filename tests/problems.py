"""Small random problems in float64, whose derivatives `benchmarks.triple_derivative` computes in the obvious way."""

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from metarl.adaptation import Adaptation, Stage
from metarl.agents import build_rule
from metarl.agents.l2f import L2F
from metarl.distributions import Categorical, Distribution, Gaussian
from metarl.policies import MLPPolicy, ModulePolicy, Policy
from metarl.settings import InnerConfig, L2FConfig
from metarl.types import Rollouts

OBSERVATION, HIDDEN, ACTIONS = 3, (5, 4), 2
TASKS, ROLLOUTS, TIME = 3, 4, 5


def make_policy(kind: str = "gaussian", activation: str = "tanh", body: str = "mlp") -> Policy:
    distribution: Distribution = Gaussian(ACTIONS) if kind == "gaussian" else Categorical(ACTIONS + 1)
    if body == "mlp":
        return MLPPolicy(OBSERVATION, distribution, HIDDEN, activation)
    return ModulePolicy(OBSERVATION, distribution, lambda i, o: make_body(i, o, activation))


def make_body(inputs: int, outputs: int, activation: str = "tanh") -> nn.Module:
    """The same network as the written-out one, with its parameters in the same order."""
    kind = {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]
    sizes = [inputs, *HIDDEN, outputs]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), kind()]
    return nn.Sequential(*layers[:-1])


def make_rule(algo: str, policy: Policy, lr: float = 0.5, loss: str = "ratio", **l2f: object) -> Adaptation:
    return build_rule(algo, policy, InnerConfig(lr=lr, loss=loss, l2f=L2FConfig(**l2f)))


def initial(rule: Adaptation, seed: int = 0) -> Tensor:
    meta = rule.initial(np.random.default_rng(seed)).double()
    if rule.policy.distribution.num_extra:
        start = rule.policy.layout.size - rule.policy.distribution.num_extra
        meta[start : rule.policy.layout.size] = torch.tensor([-0.3, 0.2], dtype=torch.float64)
    if isinstance(rule, L2F) and len(meta) > len(make_rule("l2f", rule.policy).initial(np.random.default_rng(seed))):
        width = len(rule.layer_names)  # A normalised embedding: as if training had gone on for a while.
        meta[-2 * width :] = torch.cat([torch.full((width,), 0.01), torch.full((width,), 0.1)])
    return meta


def collect(policy: Policy, parameters: Tensor, seed: int) -> Rollouts:
    """Rollouts of an imaginary environment, a third of the steps after the episodes' ends."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(parameters), ROLLOUTS, TIME)
    observations = torch.randn(*shape, OBSERVATION, dtype=torch.float64, generator=generator)
    rows = observations.flatten(1, 2)
    noise = policy.distribution.noise(np.random.default_rng(seed), (len(parameters), ROLLOUTS * TIME))
    outputs, extra = policy.outputs(parameters, rows), policy.extra(parameters)
    actions = policy.distribution.sample(outputs, extra, torch.from_numpy(noise).double())
    log_probs = policy.distribution.log_prob(outputs, extra, actions)
    lengths = torch.randint(2, TIME + 1, shape[:2], generator=generator)
    mask = (torch.arange(TIME) < lengths[..., None]).double()
    advantages = torch.randn(shape, dtype=torch.float64, generator=generator) * mask
    actions = actions.unflatten(1, shape[1:])
    return Rollouts(observations, actions, log_probs.view(shape), advantages.clone(), mask, advantages)


@torch.no_grad()
def run(
    rule: Adaptation, meta: Tensor, num_steps: int = 1, seed: int = 1
) -> tuple[list[Stage], list[Rollouts], Rollouts]:
    """An inner loop with imaginary rollouts: (stages, supports, query)."""
    stages = rule.stages((1.0,) * num_steps)
    parameters, supports = rule.start(meta, TASKS), []
    for index, stage in enumerate(stages):
        supports.append(supports[-1] if stage.reuse else collect(rule.policy, parameters, seed + index))
        parameters = stage.update(meta, parameters, supports[-1])
    return stages, supports, collect(rule.policy, parameters, seed + 100)
