"""Small random problems in float64, whose derivatives `benchmarks.triple_derivative` computes in the obvious way."""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metarl.agents import build_rule
from metarl.agents.multi_maml import MultiMAML
from metarl.config.algorithms import L2FConfig, get_algorithm
from metarl.config.checked import hints
from metarl.config.settings import InnerSettings
from metarl.data import Rollouts
from metarl.inner.loop import InnerLoop, adapt
from metarl.inner.rule import Adaptation
from metarl.inner.support import PolicyGradientSupport
from metarl.policies.base import DifferentiablePolicy, Policy
from metarl.policies.distributions import Categorical, Categoricals, Distribution, Gaussian
from metarl.policies.losses import InnerLoss
from metarl.policies.mlp import MLPPolicy
from metarl.policies.module import ModulePolicy

OBSERVATION, HIDDEN, ACTIONS = 3, (5, 4), 2
TASKS, ROLLOUTS, TIME = 3, 4, 5
LAYERS = ("weight1", "bias1", "weight2", "bias2", "weight3", "bias3", "log_std")
MODES = torch.tensor([1, 0, 1])


def make_policy(kind: str = "gaussian", activation: str = "tanh", body: str = "mlp") -> DifferentiablePolicy:
    distributions: dict[str, Distribution] = {
        "gaussian": Gaussian(ACTIONS),
        "categorical": Categorical(ACTIONS + 1),
        "categoricals": Categoricals((3, 2)),
    }
    distribution = distributions[kind]
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


def make_rule(algo: str, policy: DifferentiablePolicy, lr: float = 0.5, **options: Any) -> Adaptation:
    """A rule; settings of the inner loop, of L2F and of the algorithm are found by their names."""

    def named(kind: Any) -> dict[str, Any]:
        return {name: options.pop(name) for name in hints(kind) if name in options}

    inner = InnerSettings(
        inner_lr=lr, inner_loss=options.pop("loss", "ratio"), num_inner_steps=options.pop("num_steps", 1)
    )
    settings = get_algorithm(algo).settings
    own = settings(**named(settings)) if settings else None
    attenuate, num_modes, l2f = options.pop("attenuate", algo == "l2f"), options.pop("num_modes", 1), named(L2FConfig)
    assert not options, f"nobody takes {options}"
    wrapped, zero = L2FConfig(**l2f) if attenuate else None, np.zeros(policy.distribution.num_outputs)
    return build_rule(algo, policy, inner, own, wrapped, num_modes, zero_outputs=zero)


def initial(rule: Adaptation, seed: int = 0) -> Tensor:
    """Fresh meta-parameters in float64, as if training had gone on for a while where they start at 0."""
    meta = rule.initial(np.random.default_rng(seed)).double()
    generator = torch.Generator().manual_seed(seed)
    meta = torch.where(meta == 0, 0.1 * torch.rand(meta.shape, dtype=torch.float64, generator=generator), meta)
    if rule.policy.distribution.num_extra:
        size = rule.policy.layout.size
        for start in range(0, len(meta), size) if isinstance(rule, MultiMAML) else [0]:
            meta[start + size - 2 : start + size] = torch.tensor([-0.3, 0.2], dtype=torch.float64)
    return meta


def collect(policy: Policy, parameters: Tensor, seed: int, rollouts: int = ROLLOUTS) -> Rollouts:
    """Rollouts of an imaginary environment, a third of the steps after the episodes' ends."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(parameters), rollouts, TIME)
    observations = torch.randn(*shape, OBSERVATION, dtype=torch.float64, generator=generator)
    rows = observations.flatten(1, 2)
    noise = policy.distribution.noise(np.random.default_rng(seed), (len(parameters), rollouts * TIME))
    outputs, extra = policy.outputs(parameters, rows), policy.extra(parameters)
    actions = policy.distribution.sample(outputs, extra, torch.from_numpy(noise).double())
    log_probs = policy.distribution.log_prob(outputs, extra, actions)
    lengths = torch.randint(2, TIME + 1, shape[:2], generator=generator)
    mask = (torch.arange(TIME) < lengths[..., None]).double()
    advantages = torch.randn(shape, dtype=torch.float64, generator=generator) * mask
    actions = actions.unflatten(1, shape[1:])
    return Rollouts(observations, actions, log_probs.view(shape), advantages.clone(), mask, advantages)


def make_support(
    policy: DifferentiablePolicy, parameters: Tensor, seed: int, loss: InnerLoss = "ratio"
) -> PolicyGradientSupport:
    """Imaginary rollouts as a support."""
    return PolicyGradientSupport(policy, collect(policy, parameters, seed), loss)


def mean_last_states(parameters: Tensor, size: int, rollouts: Rollouts, trajectories: int) -> Tensor:
    """What PyTorch's own GRU remembers at the end of a task's first trajectories, on average, [task, state]."""
    gru = nn.GRU(OBSERVATION + ACTIONS + 1, size).double()
    nn.utils.vector_to_parameters(parameters, gru.parameters())
    lengths = rollouts.mask.sum(2).int()
    assert len(lengths.unique()) > 1
    steps = torch.cat([rollouts.observations, rollouts.actions, rollouts.rewards[..., None]], dim=3)
    states = [
        [gru(steps[task, i, : lengths[task, i], None])[1][0, 0] for i in range(trajectories)]
        for task in range(len(steps))
    ]
    return torch.stack([torch.stack(of_task).mean(0) for of_task in states]).detach()


def run(
    rule: Adaptation,
    meta: Tensor,
    num_steps: int = 1,
    seed: int = 1,
    iteration: int | None = 0,
    loss: InnerLoss = "ratio",
) -> InnerLoop:
    """An inner loop with imaginary rollouts."""

    def collect_phase(policies: Tensor, phase: int, rollouts: int | None) -> Rollouts:
        return collect(rule.policy, policies, seed + phase, rollouts or ROLLOUTS)

    return adapt(rule, meta, rule.stages((1.0,) * num_steps, iteration), MODES, collect_phase, loss).loop
