"""Policies on flat parameters: layout, initialisation, floor of the deviation, bodies that are refused."""

import math

import numpy as np
import problems
import pytest
import torch
from problems import ACTIONS, HIDDEN, LAYERS, OBSERVATION, TASKS, make_body, make_policy
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from metarl.common.errors import UserError
from metarl.policies import mlp as policies
from metarl.policies.base import Policy
from metarl.policies.distributions import Categorical, Gaussian
from metarl.policies.layout import Layout
from metarl.policies.mlp import MLPPolicy
from metarl.policies.module import ModulePolicy

BODIES = ["mlp", "module"]
KINDS = ["gaussian", "categorical"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def some_parameters(policy: Policy) -> Tensor:
    return 0.5 * draw(TASKS, policy.layout.size)


def test_layout_views_share_memory_with_the_vector_and_cover_it_in_order():
    layout = Layout([("weight", (2, 3)), ("bias", (2,)), ("scale", ())])
    flat = torch.arange(18.0).view(2, 9)
    weight, bias, scale = layout.views(flat)
    assert (layout.size, layout.sizes, layout.names) == (9, [6, 2, 1], ["weight", "bias", "scale"])
    assert torch.equal(weight[1], torch.tensor([[9.0, 10, 11], [12, 13, 14]]))
    assert torch.equal(bias, torch.tensor([[6.0, 7], [15, 16]]))
    scale[0] = -1
    assert flat[0, 8] == -1


def test_layout_tells_which_tensor_each_parameter_belongs_to():
    layout = Layout([("weight", (2, 2)), ("bias", (2,)), ("log_std", (1,))])
    assert layout.tensor_index().tolist() == [0, 0, 0, 0, 1, 1, 2]


def test_initial_weights_fill_the_glorot_limits_and_the_last_layer_is_scaled():
    policy = MLPPolicy(17, Gaussian(6), (100, 80), initial_std=0.3, output_gain=0.01)
    parameters = policy.initial(np.random.default_rng(0))
    views = dict(zip(policy.layout.names, policy.layout.views(parameters[None]), strict=True))
    for name, gain in (("weight1", 1), ("weight2", 1), ("weight3", 0.01)):
        limit = gain * math.sqrt(6 / sum(views[name].shape[1:]))
        assert 0.97 * limit < float(views[name].abs().max()) <= limit * (1 + 1e-6)
        assert abs(float(views[name].mean())) < 0.1 * limit
        assert not views[name.replace("weight", "bias")].any()
    torch.testing.assert_close(policy.extra(parameters[None]).exp(), torch.full((1, 6), 0.3))
    assert parameters.dtype == torch.float32


@pytest.mark.parametrize("body", BODIES)
def test_same_generator_gives_the_same_initial_parameters_and_leaves_the_global_one_alone(body):
    policy, state = make_policy(body=body), torch.get_rng_state()
    first, second, other = (policy.initial(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first) == policy.layout.size


def test_categorical_policy_has_no_deviation():
    policy = make_policy("categorical")
    assert "log_std" not in policy.layout.names
    assert policy.extra(torch.zeros(TASKS, policy.layout.size)).shape == (TASKS, 0)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("kind", KINDS)
def test_written_out_network_and_module_have_equal_outputs(kind, activation):
    mlp, module = (make_policy(kind, activation, body) for body in BODIES)
    assert mlp.layout.shapes == module.layout.shapes
    parameters, observations = some_parameters(mlp), draw(TASKS, 9, OBSERVATION, seed=1)
    expected = module.outputs(parameters, observations)
    torch.testing.assert_close(mlp.outputs(parameters, observations), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(mlp.extra(parameters), module.extra(parameters), rtol=0, atol=0)


def test_network_outputs_equal_torch_layers_task_by_task():
    policy = make_policy()
    parameters, observations = some_parameters(policy), draw(TASKS, 9, OBSERVATION, seed=1)
    outputs = policy.outputs(parameters, observations)
    for task in range(TASKS):
        body = make_body(OBSERVATION, ACTIONS).double()
        nn.utils.vector_to_parameters(parameters[task, : policy.layout.size - ACTIONS], body.parameters())
        torch.testing.assert_close(outputs[task], body(observations[task]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("loss", ["ratio", "score"])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_rows_change_nothing(kind, loss, monkeypatch):
    monkeypatch.setattr(policies, "_CPU_BLOCK_ROWS", 7)
    mlp, module = (make_policy(kind, body=body) for body in BODIES)
    parameters, direction = some_parameters(mlp), draw(TASKS, mlp.layout.size, seed=2)
    samples = problems.collect(mlp, 0.8 * parameters, seed=3).whole_episodes
    assert samples.num_rows == 20  # two whole blocks and a part
    cotangents = draw(TASKS, 20, mlp.distribution.num_outputs, seed=4), draw(TASKS, mlp.distribution.num_extra, seed=5)

    def everything(policy: Policy) -> list[Tensor]:
        linearised = policy.linearise(parameters, samples)
        return [
            policy.outputs(parameters, samples.observations),
            policy.inner_gradient(parameters, samples, loss),
            policy.inner_curvature(parameters, samples, loss).pushforward(direction),
            linearised.outputs,
            linearised.pullback(*cotangents),
            linearised.fisher_product(direction),
        ]

    for got, want in zip(everything(mlp), everything(module), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "adapted",
    [(), ("log_std",), ("weight3", "bias3", "log_std"), ("weight2", "bias2"), ("bias1", "weight3"), ("weight1",)],
    ids=" ".join,
)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("body", BODIES)
def test_derivatives_by_some_tensors_are_those_rows_of_all(adapted, activation, body, monkeypatch):
    monkeypatch.setattr(policies, "_CPU_BLOCK_ROWS", 7)
    policy = make_policy(activation=activation, body=body)
    adapted = [name for name, same in zip(policy.layout.names, LAYERS, strict=True) if same in adapted]
    parameters, direction = some_parameters(policy), draw(TASKS, policy.layout.size, seed=2)
    samples = problems.collect(policy, 0.8 * parameters, seed=3).samples
    rows = policy.layout.members(adapted)
    whole = policy.inner_curvature(parameters, samples, "ratio")
    some = policy.inner_curvature(parameters, samples, "ratio", adapted)
    pairs = [
        (policy.inner_gradient(parameters, samples, "ratio", adapted),
         rows * policy.inner_gradient(parameters, samples, "ratio")),
        (some.pushforward(direction), rows * whole.pushforward(direction)),
        (some.pullback(direction), whole.pushforward(rows * direction)),
    ]  # fmt: skip
    for got, want in pairs:
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)
        assert bool(want.any()) == bool(adapted)


def test_what_only_the_other_tensors_need_is_not_computed():
    policy = make_policy()
    parameters, direction = some_parameters(policy), draw(TASKS, policy.layout.size, seed=2)
    samples = problems.collect(policy, parameters, seed=3).samples

    def operations(adapted: list[str] | None) -> list[int]:
        found = []
        curvature = policy.inner_curvature(parameters, samples, "ratio", adapted)
        for work in (
            lambda: policy.inner_gradient(parameters, samples, "ratio", adapted),
            lambda: curvature.pushforward(direction),
            lambda: curvature.pullback(direction),
        ):
            with FlopCounterMode(display=False) as counter:
                work()
            found.append(counter.get_total_flops())
        return found

    assert all(
        head < 0.7 * everything for head, everything in zip(operations(policy.head), operations(None), strict=True)
    )
    assert operations(LAYERS) == operations(None)


@pytest.mark.parametrize("body", BODIES)
def test_products_need_nothing_new_on_the_device(body, monkeypatch):
    policy = make_policy(body=body)
    parameters, direction = some_parameters(policy), draw(TASKS, policy.layout.size, seed=2)
    samples = problems.collect(policy, parameters, seed=3).samples
    curvature = policy.inner_curvature(parameters, samples, "ratio", policy.head)
    monkeypatch.delattr(Layout, "members")  # A GPU would have to wait for which parameters are meant.
    for product in (curvature.pushforward, curvature.pullback):
        assert product(direction).any()


def with_log_std(policy: Policy, value: float) -> Tensor:
    parameters = some_parameters(policy)
    parameters[:, -ACTIONS:] = value
    return parameters


def floored(body: str) -> Policy:
    if body == "mlp":
        return MLPPolicy(OBSERVATION, Gaussian(ACTIONS), HIDDEN, min_std=0.5)
    return ModulePolicy(OBSERVATION, Gaussian(ACTIONS), make_body, min_std=0.5)


@pytest.mark.parametrize("body", BODIES)
def test_deviation_stays_at_its_floor_where_its_derivatives_vanish(body):
    policy = floored(body)
    parameters = with_log_std(policy, math.log(0.5) - 1)
    torch.testing.assert_close(policy.extra(parameters).exp(), torch.full((TASKS, ACTIONS), 0.5).double())
    samples = problems.collect(policy, parameters, seed=0).samples
    ones = torch.ones_like(parameters)
    for derivative in (
        policy.inner_gradient(parameters, samples, "ratio"),
        policy.inner_curvature(parameters, samples, "ratio").pushforward(ones),
        policy.linearise(parameters, samples).fisher_product(ones),
    ):
        assert not derivative[:, -ACTIONS:].any()
        assert derivative[:, :-ACTIONS].any()


@pytest.mark.parametrize("body", BODIES)
def test_deviation_can_leave_its_floor(body):
    policy = floored(body)
    parameters = with_log_std(policy, math.log(0.5))
    samples = problems.collect(policy, parameters, seed=0).samples
    assert policy.inner_gradient(parameters, samples, "ratio")[:, -ACTIONS:].all()


class Shifted(nn.Module):
    """Adds a buffer, which may count the calls."""

    def __init__(self, shift, counts=False):
        super().__init__()
        self.register_buffer("shift", shift)
        self.counts = counts

    def forward(self, x):
        if self.counts:
            self.shift += 1
        return x + self.shift


def with_constants(inputs, outputs):
    """A body with a buffer, and a first layer that is frozen at twice the identity."""
    first = nn.Linear(inputs, inputs).requires_grad_(False)
    first.weight.data, first.bias.data = 2 * torch.eye(inputs), torch.zeros(inputs)
    return nn.Sequential(Shifted(torch.arange(float(inputs))), first, nn.Linear(inputs, outputs))


class Tuple(nn.Module):
    """Has an output that is no tensor."""

    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i, o: nn.LSTM(i, o), "recurrent policy bodies are not supported: LSTM; use a feed-forward module."),
        (
            lambda i, o: nn.Sequential(nn.GRUCell(i, o)),
            "recurrent policy bodies are not supported: GRUCell (0); use a feed-forward module.",
        ),
        (
            lambda i, o: nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o)),
            "policy bodies with batch normalisation are not supported: BatchNorm1d (1); use LayerNorm.",
        ),
        (
            lambda i, o: nn.Sequential(nn.BatchNorm1d(i, track_running_stats=False), nn.Linear(i, o)),
            "policy bodies with batch normalisation are not supported: BatchNorm1d (0); use LayerNorm.",
        ),
        (
            lambda i, o: nn.Sequential(nn.Linear(i, o), nn.Dropout(0.1)),
            "a policy body must be deterministic: Dropout (1) is not; remove it.",
        ),
        (
            lambda i, o: nn.Linear(i, o + 1),
            "the policy body must map observations (3, 4) to outputs (3, 2), got shape (3, 3).",
        ),
        (lambda i, o: Tuple(), "the policy body must map observations (3, 4) to outputs (3, 2), got a tuple."),
        (
            lambda i, o: nn.Sequential(Shifted(torch.zeros(1), counts=True), nn.Linear(i, o)),
            "a policy body's buffers must not change, and its forward pass changes 0.shift.",
        ),
        (
            lambda i, o: nn.Sequential(Shifted(torch.randn(i)), nn.Linear(i, o)),
            "a policy body's buffers and frozen parameters must be the same whenever it is made, and 0.shift is not; "
            "make it from constants, or train it (requires_grad=True).",
        ),
        (
            lambda i, o: nn.Sequential(nn.Linear(i, i).requires_grad_(False), nn.Linear(i, o)),
            "a policy body's buffers and frozen parameters must be the same whenever it is made, and 0.weight is not; "
            "make it from constants, or train it (requires_grad=True).",
        ),
        (
            lambda i, o: nn.Linear(i, o).requires_grad_(False),
            "a policy body needs parameters to train, and none of its parameters requires a gradient.",
        ),
        (lambda i, o: torch.tanh, "a policy body must be a torch.nn.Module, got builtin_function_or_method."),
    ],
)
def test_body_that_is_no_function_of_parameters_and_observation_is_refused_by_name(make, message):
    with pytest.raises(UserError) as error:
        ModulePolicy(4, Gaussian(2), make)
    assert str(error.value) == message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_buffers_that_never_change_and_frozen_parameters_are_constants(dtype):
    policy = ModulePolicy(4, Gaussian(2), with_constants)
    assert policy.layout.names == ["2.weight", "2.bias", "log_std"]
    assert policy.head == policy.layout.names
    parameters = policy.initial(np.random.default_rng(0)).to(dtype).expand(3, -1)
    observations = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight, bias, _ = policy.layout.views(parameters)
    expected = (2 * (observations + torch.arange(4.0))) @ weight[0].T + bias[0]
    torch.testing.assert_close(policy.outputs(parameters, observations), expected)
    torch.testing.assert_close(policy.activations(parameters[0], observations[0])["output"], expected[0])


def test_making_a_body_leaves_the_global_generators_alone():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    expected = torch.rand(1), np.random.random()  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    for make in (nn.Linear, lambda inputs, outputs: nn.LazyLinear(outputs)):
        ModulePolicy(4, Gaussian(2), make).initial(np.random.default_rng(0))
    assert (torch.rand(1), np.random.random()) == expected  # noqa: NPY002


def test_lazy_layers_draw_their_parameters_as_others_do():
    def lazy(inputs, outputs):
        return nn.Sequential(nn.LazyLinear(7), nn.Tanh(), nn.LazyLinear(outputs))

    def plain(inputs, outputs):
        return nn.Sequential(nn.Linear(inputs, 7), nn.Tanh(), nn.Linear(7, outputs))

    ours, expected = (ModulePolicy(4, Gaussian(2), make).initial(np.random.default_rng(3)) for make in (lazy, plain))
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_layer_norm_is_welcome():
    policy = ModulePolicy(4, Categorical(2), lambda i, o: nn.Sequential(nn.LayerNorm(i), nn.Linear(i, o)))
    assert policy.outputs(policy.initial(np.random.default_rng(0)).expand(3, -1), torch.ones(3, 5, 4)).shape == (
        3,
        5,
        2,
    )


def test_weights_of_samples_are_shares_of_the_steps_that_took_place():
    rollouts = problems.collect(make_policy(), some_parameters(make_policy()), seed=0)
    mask, weights = rollouts.mask.flatten(1), rollouts.whole_episodes.weights
    assert int((mask == 0).sum()) > 0
    torch.testing.assert_close(weights, mask / mask.sum(1, keepdim=True))
    assert rollouts.env_steps == int(mask.sum())
    torch.testing.assert_close(rollouts.mean_returns(), rollouts.rewards.sum((1, 2)) / rollouts.rewards.shape[1])


def test_samples_are_the_steps_that_took_place_in_order():
    rollouts = problems.collect(make_policy(), some_parameters(make_policy()), seed=0)
    padded, counts = rollouts.whole_episodes, rollouts.mask.sum((1, 2)).long()
    assert len(counts.unique()) > 1
    assert rollouts.samples.num_rows == int(counts.max()) < rollouts.num_rows == padded.num_rows
    assert not rollouts.samples.episode_length
    for task, count in enumerate(counts):
        alive = padded.weights[task] > 0
        alone = rollouts.tasks(task, task + 1).samples
        assert alone.num_rows == count
        for name in ("observations", "actions", "log_probs", "advantages", "weights"):
            wanted = getattr(padded, name)[task][alive]
            torch.testing.assert_close(getattr(alone, name)[0], wanted, rtol=0, atol=0)
            torch.testing.assert_close(getattr(rollouts.samples, name)[task, :count], wanted, rtol=0, atol=0)
        assert not rollouts.samples.weights[task, count:].any()


@pytest.mark.parametrize("fraction", [0.3, 0.5, 1.0])
def test_largest_advantages_of_a_task_do_not_depend_on_the_others(fraction):
    rollouts = problems.collect(make_policy(), some_parameters(make_policy()), seed=0)
    together = rollouts.samples.largest_advantages(fraction)
    for task, count in enumerate(rollouts.mask.sum((1, 2))):
        alone = rollouts.tasks(task, task + 1).samples.largest_advantages(fraction)
        kept = alone.num_rows
        assert kept == round(fraction * float(count))
        torch.testing.assert_close(together.log_probs[task, :kept], alone.log_probs[0], rtol=0, atol=0)
        torch.testing.assert_close(together.weights[task, :kept], alone.weights[0], rtol=0, atol=0)
        assert not together.weights[task, kept:].any()


def test_chosen_rows_have_weights_that_sum_to_one_or_none_are_alive():
    samples = problems.collect(make_policy(), some_parameters(make_policy()), seed=0).whole_episodes
    alive, dead = (torch.nonzero(samples.weights[0] * sign > minimum)[:, 0] for sign, minimum in ((1, 0), (-1, -1e-9)))
    torch.testing.assert_close(samples.subset(alive[:3]).weights[0], torch.full((3,), 1 / 3).double())
    assert not samples.subset(dead).weights[0].any()
    beyond = torch.cat([alive[:3], torch.tensor([samples.num_rows, 10 * samples.num_rows])])
    torch.testing.assert_close(samples.subset(beyond).weights, samples.subset(alive[:3]).weights, rtol=0, atol=0)
    assert samples.subset(beyond[3:]) is samples


def test_a_body_that_asks_for_it_is_told_the_shape_of_an_observation():
    told = []

    def body(inputs, outputs, shape):
        told.append((inputs, outputs, shape))
        return nn.Sequential(nn.Unflatten(1, shape), nn.Conv2d(shape[0], 2, 3), nn.Flatten(), nn.Linear(8, outputs))

    policy = ModulePolicy(48, Gaussian(2), body, input_shape=(3, 4, 4))
    parameters = policy.initial(np.random.default_rng(0))
    assert policy.outputs(parameters[None], torch.zeros(1, 5, 48)).shape == (1, 5, 2)
    assert set(told) == {(48, 2, (3, 4, 4))}


def test_a_row_is_what_feeds_one_unit():
    layout = Layout([("weight", (2, 3)), ("bias", (2,)), ("kernel", (1, 2, 2)), ("scale", ())])
    assert layout.row_index().tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 4, 4, 5]
