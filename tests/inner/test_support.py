"""Supports: policy gradients with sampled curvature, and rules on data that knows no policy gradient."""

import gc
import weakref
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import problems
import pytest
import torch
from problems import ACTIONS, MODES, OBSERVATION, TASKS, initial, make_policy, make_rule, make_support
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metarl.agents.anil import PartialAdaptation
from metarl.agents.encoder import TrajectoryEncoder
from metarl.common.errors import UserError
from metarl.inner.differentiable import GraphJacobian
from metarl.inner.rule import Adaptation
from metarl.inner.support import Support
from metarl.policies.base import DifferentiablePolicy
from metarl.policies.mlp import MLPPolicy

POINTS = 7


@dataclass(frozen=True, eq=False)
class RegressionSupport(Support):
    """Supervised regression: half the mean squared error of the policy's outputs."""

    policy: DifferentiablePolicy
    inputs: Tensor
    targets: Tensor
    adapted: Collection[str] | None = None

    @property
    def num_tasks(self) -> int:
        return len(self.inputs)

    def loss(self, parameters: Tensor) -> Tensor:
        errors = self.policy.outputs(parameters, self.inputs) - self.targets
        return 0.5 * (errors**2).sum(2).mean(1)

    @torch.enable_grad()
    def gradient(self, parameters: Tensor) -> Tensor:
        leaf = parameters if parameters.requires_grad else parameters.detach().requires_grad_()
        gradient = torch.autograd.grad(
            self.loss(leaf).sum(), leaf, create_graph=parameters.requires_grad, materialize_grads=True
        )[0]
        return gradient if self.adapted is None else gradient * self.policy.layout.members(self.adapted)

    def restricted(self, tensors: Collection[str]) -> Support:
        return replace(self, adapted=tensors)

    def performance(self) -> Tensor:
        return self.targets.mean((1, 2))

    def tasks(self, start: int, stop: int) -> Support:
        return replace(self, inputs=self.inputs[start:stop], targets=self.targets[start:stop])

    def trajectories(self, count: int) -> tuple[Tensor, Tensor]:
        features = torch.cat([self.inputs, self.targets, torch.zeros(*self.inputs.shape[:2], 1).double()], dim=2)
        return features[:, None].expand(-1, count, -1, -1), torch.full((self.num_tasks, count), POINTS)


def test_dropped_episodes_are_not_read():
    policy = make_policy()
    support = make_support(policy, initial(make_rule("maml", policy)).expand(TASKS, -1), seed=1)
    mask = support.rollouts.mask.clone()
    mask[1, :2] = 0
    dropping = replace(support, data=replace(support.rollouts, mask=mask))
    features, lengths = support.trajectories(4)
    read, read_lengths = dropping.trajectories(2)
    wanted = torch.arange(TASKS)[:, None], torch.tensor([[2, 3] if task == 1 else [0, 1] for task in range(TASKS)])
    torch.testing.assert_close(read, features[wanted], rtol=0, atol=0)
    assert torch.equal(read_lengths, lengths[wanted])


def test_an_embedding_is_the_mean_over_the_episodes_that_are_left():
    policy = make_policy()
    support = make_support(policy, initial(make_rule("maml", policy)).expand(TASKS, -1), seed=1)
    encoder = TrajectoryEncoder(policy, 3, 2)
    parameters = encoder.initial(np.random.default_rng(0)).double()
    mask = support.rollouts.mask.clone()
    mask[1, :2], mask[1, 3:] = 0, 0  # The third alone is left.
    left = encoder.embedding(parameters, replace(support, data=replace(support.rollouts, mask=mask)))
    whole = encoder.embedding(parameters, support)
    third = replace(support, data=support.rollouts.part(2))
    alone = TrajectoryEncoder(policy, 3, 1).embedding(parameters, third)
    torch.testing.assert_close(left[1], alone[1], rtol=0, atol=0)
    torch.testing.assert_close(left[[0, *range(2, TASKS)]], whole[[0, *range(2, TASKS)]], rtol=0, atol=0)


def test_one_gradient_of_many_tasks_needs_no_jacobian(monkeypatch):
    policy = make_policy()
    support = make_support(policy, initial(make_rule("maml", policy)).expand(TASKS, -1), seed=1)
    encoder = TrajectoryEncoder(policy, 3, 2)
    parameters = encoder.initial(np.random.default_rng(0)).double().requires_grad_()
    cotangent = torch.randn(TASKS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def gradient(start: int, stop: int) -> Tensor:
        embedding = encoder.embedding(parameters, support.tasks(start, stop))
        return torch.autograd.grad(embedding, parameters, cotangent[start:stop])[0]

    by_rows = sum(gradient(task, task + 1) for task in range(TASKS))
    monkeypatch.setattr(torch.autograd.functional, "jacobian", None)
    torch.testing.assert_close(gradient(0, TASKS), by_rows, rtol=1e-12, atol=1e-15)


class Operations(TorchDispatchMode):
    """Remembers the names of PyTorch's operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.add(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("drops", [False, True])
def test_only_dropped_episodes_cost_a_sort_and_a_wait_for_the_gpu(drops):
    policy = make_policy()
    support = make_support(policy, initial(make_rule("maml", policy)).expand(TASKS, -1), seed=1)
    if drops:
        support.rollouts.mask[1, 0] = 0
    support.trajectories(2)
    with Operations() as operations:
        support.trajectories(2)
    costly = {"sort", "argsort", "index", "_local_scalar_dense"}
    assert bool(operations.names & costly) is drops


def regression(policy: DifferentiablePolicy, seed: int) -> RegressionSupport:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(TASKS, POINTS, OBSERVATION, dtype=torch.float64, generator=generator)
    slopes = torch.randn(TASKS, OBSERVATION, ACTIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return RegressionSupport(policy, inputs, (inputs @ slopes).sin())


def adapted(rule: Adaptation, meta: Tensor, support: Support, num_steps: int) -> Tensor:
    """The adapted policies, [task, parameter]."""
    parameters = rule.start(meta, MODES)
    for stage in rule.stages((1.0,) * num_steps):
        parameters = stage.update(meta, parameters, support)
    return parameters[:, : rule.policy.layout.size]


def rules() -> dict[str, Adaptation]:
    policy = make_policy()
    return {
        "maml": make_rule("maml", policy, 0.1),
        "partial": PartialAdaptation(make_rule("maml", policy, 0.1), ("weight2", "bias3")),
        "meta-sgd": make_rule("meta-sgd", policy, 0.1),
        "mamlpp": make_rule("mamlpp", policy, 0.1, num_steps=2),
        "l2f": make_rule("l2f", policy, 0.1, embedding_gradient="through"),
        "l2f, gru": make_rule("l2f", policy, 0.1, embedding="gru"),
        "mumomaml": make_rule("mumomaml", policy, 0.1),
        "mumomaml, attenuated": make_rule("mumomaml", policy, 0.1, attenuate=True, embedding_gradient="through"),
        "context": make_rule("context", policy, 0.1),
    }


@pytest.mark.parametrize("name", list(rules()))
def test_rules_adapt_to_regression_and_their_meta_gradient_equals_finite_differences(name):
    rule = rules()[name]
    support, query = regression(rule.policy, seed=1), regression(rule.policy, seed=2)

    def objective(meta: Tensor) -> Tensor:
        return query.loss(adapted(rule, meta, support, 2)).mean()

    meta = initial(rule).requires_grad_()
    gradient = torch.autograd.grad(objective(meta), meta)[0]
    direction = torch.randn(meta.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    direction /= direction.norm()
    h = 1e-5
    with torch.no_grad():
        up, down = (float(objective(meta + sign * h * direction)) for sign in (1, -1))
        unadapted = rule.start(meta, MODES)[:, : rule.policy.layout.size]
        assert (support.loss(adapted(rule, meta, support, 2)) < support.loss(unadapted)).all()
    assert float(gradient @ direction) == pytest.approx((up - down) / (2 * h), rel=1e-6)
    assert float(gradient.norm()) > 0.01


def test_partial_adaptation_restricts_any_support():
    rule = rules()["partial"]
    meta = initial(rule)
    after = adapted(rule, meta, regression(rule.policy, seed=1), 2)
    views = zip(rule.policy.layout.views(rule.start(meta, MODES)), rule.policy.layout.views(after), strict=True)
    moved = [name for name, (old, new) in zip(rule.policy.layout.names, views, strict=True) if (old != new).any()]
    assert moved == ["weight2", "bias3"]


def test_projected_gradient_is_the_gradients_projection_with_its_derivatives():
    policy = make_policy()
    parameters = initial(make_rule("maml", policy)).expand(TASKS, -1)
    support = make_support(policy, parameters, 1)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(2, policy.layout.size, dtype=torch.float64, generator=generator)
    along, weights = (torch.randn(TASKS, n, dtype=torch.float64, generator=generator) for n in (policy.layout.size, 2))
    for some in (support, support.with_curvature(0.5)):
        results = []
        for projected_gradient in (some.projected_gradient, super(type(some), some).projected_gradient):
            leaf = parameters.clone().requires_grad_()
            value = projected_gradient(leaf, directions)
            jacobian = GraphJacobian(leaf, value)
            gradient, *forward = jacobian.gradient(weights), *(jacobian.pushforward(along) for _ in range(2))
            transposed = [jacobian.pullback(weights) for _ in range(2)]
            results.append([value, gradient, *forward, *transposed, jacobian.pushforward(along)])
        for own, general in zip(*results, strict=True):
            torch.testing.assert_close(own, general, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("fraction", "curvatures"), [(1.0, 1), (0.5, 2)])
def test_curvature_of_all_rows_is_built_once_and_freed_where_many_products_use_fewer(fraction, curvatures, monkeypatch):
    built = []
    original = MLPPolicy.inner_curvature

    def remember(self, *args):
        # What was built before must be gone, or it would lie in memory beside this one.
        assert all(reference() is None for reference in built)
        curvature = original(self, *args)
        built.append(weakref.ref(curvature))
        return curvature

    monkeypatch.setattr(MLPPolicy, "inner_curvature", remember)
    policy = make_policy()
    leaf = initial(make_rule("maml", policy)).expand(TASKS, -1).clone().requires_grad_()
    support = make_support(policy, leaf.detach(), 1).with_curvature(fraction)
    gc.disable()
    try:
        jacobian = GraphJacobian(leaf, support.gradient(leaf))
        ones = torch.ones_like(leaf)
        jacobian.gradient(ones)
        for _ in range(3):
            jacobian.pullback(jacobian.pushforward(ones))
        assert len(built) == curvatures
        del jacobian
        assert all(reference() is None for reference in built)
    finally:
        gc.enable()


def test_restrictions_add_up_and_leave_the_data_alone():
    policy = make_policy()
    parameters = initial(make_rule("maml", policy)).expand(TASKS, -1)
    support = make_support(policy, parameters, 1)
    twice = support.restricted(("weight1", "bias1")).restricted(("bias1", "log_std"))
    assert twice.rollouts is support.rollouts
    members = policy.layout.members(("bias1",))
    assert torch.equal(twice.gradient(parameters), torch.where(members, support.gradient(parameters), 0))
    assert support.adapted is None


@pytest.mark.parametrize("kind", ["gaussian", "categorical", "categoricals"])
def test_trajectories_are_the_first_episodes_with_actions_as_the_network_gives_them(kind):
    policy = make_policy(kind)
    support = make_support(policy, initial(make_rule("maml", policy)).expand(TASKS, -1), 1)
    rollouts, (features, lengths) = support.rollouts, support.trajectories(2)
    width = policy.distribution.num_outputs
    assert features.shape == (TASKS, 2, problems.TIME, OBSERVATION + width + 1)
    assert torch.equal(features[..., :OBSERVATION], rollouts.observations[:, :2])
    assert torch.equal(features[..., -1], rollouts.rewards[:, :2])
    actions = features[..., OBSERVATION:-1]
    if kind == "categorical":
        assert (actions.sum(3) == 1).all()
        actions = actions.argmax(3)
    if kind == "categoricals":
        assert (actions.sum(3) == 2).all()
        actions = torch.stack([part.argmax(3) for part in actions.split([3, 2], dim=3)], dim=3)
    assert torch.equal(actions, rollouts.actions[:, :2])
    assert torch.equal(lengths, rollouts.mask[:, :2].sum(2).long())


def test_more_trajectories_than_there_are_is_refused():
    policy = make_policy()
    support = make_support(policy, initial(make_rule("maml", policy)).expand(TASKS, -1), 1)
    with pytest.raises(UserError, match="the rule reads 5 trajectories of each task, and the support holds 4"):
        support.trajectories(5)
