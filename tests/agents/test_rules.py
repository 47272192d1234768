"""Every adaptation rule: what it reduces to, and what it says it does, written out in the obvious way."""

from dataclasses import replace

import numpy as np
import problems
import pytest
import torch
from problems import LAYERS, MODES, TASKS, initial, make_policy, make_rule, mean_last_states

from metarl import L2FConfig
from metarl.agents import build_rule
from metarl.agents.anil import PartialAdaptation
from metarl.agents.l2f import L2F
from metarl.agents.maml import MAML
from metarl.agents.mumomaml import MuMoMAML
from metarl.common.errors import UserError
from metarl.common.parallel import Workers
from metarl.config.algorithms import ALGORITHMS
from metarl.config.settings import InnerSettings
from metarl.inner.loop import InnerLoop
from metarl.inner.rule import UNKNOWN_MODE, StageKind, WrappedAdaptation
from metarl.outer.objective import MetaObjective
from metarl.policies.losses import inner_loss


def loss_gradient_and_product(loop, size):
    """Surrogate loss, and the first ``size`` numbers of its gradient and of a Fisher-vector product."""
    direction = torch.zeros_like(loop.meta)
    direction[:size] = 1
    with Workers(1) as workers:
        objective = MetaObjective(loop, workers)
        loss, gradient = objective.loss_and_gradient()
        return torch.tensor(loss), gradient[:size], objective.fisher_product(direction)[:size]


def assert_reduces_to_maml(rule, meta, num_steps=2, modulated=False):
    """The same adapted policies, meta-gradient and Fisher-vector product from the same rollouts."""
    maml, size = make_rule("maml", rule.policy), rule.policy.layout.size
    loop = problems.run(maml, meta[:size], num_steps)
    supports = [loop.supports[0], *loop.supports] if modulated else loop.supports
    other = replace(loop, rule=rule, stages=rule.stages((1.0,) * num_steps), meta=meta, supports=supports)
    torch.testing.assert_close(other.replay(meta)[-1], loop.replay(loop.meta)[-1], rtol=1e-12, atol=1e-14)
    for got, want in zip(*(loss_gradient_and_product(each, size) for each in (other, loop)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


def test_anil_over_all_layers_is_maml():
    rule = make_rule("anil", make_policy(), adapted_layers=LAYERS)
    assert_reduces_to_maml(rule, initial(rule))


def test_anil_over_one_layer_is_not_maml():
    rule = make_rule("anil", make_policy())
    with pytest.raises(AssertionError):
        assert_reduces_to_maml(rule, initial(rule))


def test_meta_sgd_whose_step_sizes_stay_is_maml():
    rule = make_rule("meta-sgd", make_policy())
    meta = initial(rule)
    assert_reduces_to_maml(rule, meta)
    meta[-1] += 0.1
    with pytest.raises(AssertionError):
        assert_reduces_to_maml(rule, meta)


@pytest.mark.parametrize("trained_steps", [1, 2, 3])
def test_mamlpp_whose_step_sizes_stay_is_maml(trained_steps):
    rule = make_rule("mamlpp", make_policy(), num_steps=trained_steps)
    assert_reduces_to_maml(rule, initial(rule))


@pytest.mark.parametrize("modulation", ["film", "softmax"])
def test_mumomaml_without_modulation_is_maml(modulation):
    rule = make_rule("mumomaml", make_policy(), modulation=modulation)
    meta = rule.initial(np.random.default_rng(0)).double()
    assert_reduces_to_maml(rule, meta, modulated=True)
    with pytest.raises(AssertionError):
        assert_reduces_to_maml(rule, initial(rule), modulated=True)


def test_context_with_orthonormal_weights_is_maml_on_the_first_bias():
    rule = make_rule("context", make_policy(), context_size=problems.HIDDEN[0])
    size = rule.policy.layout.size
    meta = initial(rule)
    meta[size:] = torch.linalg.qr(meta[size:].view(5, 5))[0].flatten()
    anil = make_rule("anil", rule.policy, adapted_layers=("bias1",))
    loop = problems.run(anil, meta[:size], 2)
    got = replace(loop, rule=rule, stages=rule.stages((1.0, 1.0)), meta=meta).replay(meta)[-1]
    torch.testing.assert_close(got, loop.replay(loop.meta)[-1], rtol=1e-12, atol=1e-14)


def test_multi_maml_is_a_maml_for_each_mode():
    rule = make_rule("multi-maml", make_policy(), num_modes=2)
    size = rule.policy.layout.size
    meta, maml = initial(rule), make_rule("maml", rule.policy)
    loop = problems.run(rule, meta, 2)
    assert MODES.tolist() == [1, 0, 1]
    for task, mode in enumerate(MODES):
        one, theta = loop.tasks(task, task + 1), meta[mode * size : (mode + 1) * size]
        alone = replace(one, rule=maml, stages=maml.stages((1.0, 1.0)), meta=theta)
        assert torch.equal(one.replay(meta)[-1], alone.replay(theta)[-1])
        with Workers(1) as workers:
            gradients = [MetaObjective(each, workers).loss_and_gradient()[1].clone() for each in (one, alone)]
        gradients[0] = gradients[0].view(2, size)
        assert torch.equal(gradients[0][mode], gradients[1])
        assert not gradients[0][1 - mode].any()


def test_multi_maml_wants_modes():
    with pytest.raises(UserError, match="multi-maml needs a task family with several modes"):
        make_rule("multi-maml", make_policy())
    rule = make_rule("multi-maml", make_policy(), num_modes=2)
    with pytest.raises(UserError, match="multi-maml must be told each task's mode, 0 to 1"):
        rule.start(initial(rule), torch.tensor([0, UNKNOWN_MODE]))


def test_context_vector_is_adapted_as_an_input_would_be():
    """A network with the vector appended to its observations, and a gradient step on that vector alone."""
    rule = make_rule("context", make_policy(), lr=0.7, context_size=3)
    policy, meta = rule.policy, initial(rule)
    loop = problems.run(rule, meta)
    theta, weights = meta[: policy.layout.size], meta[policy.layout.size :].view(-1, 3)
    (w1, b1, w2, b2, w3, b3, log_std) = (view[0] for view in policy.layout.views(theta[None]))

    def outputs(z, observations):
        inputs = torch.cat([observations, z.expand(len(observations), -1)], dim=1)
        hidden = torch.tanh(inputs @ torch.cat([w1, weights], dim=1).T + b1)
        return torch.tanh(hidden @ w2.T + b2) @ w3.T + b3

    for task in range(TASKS):
        samples = loop.supports[0].tasks(task, task + 1).samples
        z = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        loss = inner_loss(
            policy.distribution, outputs(z, samples.observations[0])[None], log_std[None], samples, "ratio"
        )
        z = z - 0.7 * torch.autograd.grad(loss.sum(), z)[0]
        expected = outputs(z, samples.observations[0])
        got = policy.outputs(loop.replay(meta)[-1][task : task + 1], samples.observations)[0]
        assert float((got - policy.outputs(theta[None], samples.observations)[0]).abs().max()) > 0.01
        torch.testing.assert_close(got, expected.detach(), rtol=1e-11, atol=1e-13)


def test_cavia_is_a_vector_that_starts_at_zero_and_accumulates_its_steps():
    """A network with the vector appended to its observations, and three gradient steps on that vector alone."""
    rule = make_rule("cavia", make_policy(), lr=0.1, context_size=3, step_size=0.7)
    policy, meta = rule.policy, initial(rule)
    loop = problems.run(rule, meta, 3)
    theta, weights = meta[: policy.layout.size], meta[policy.layout.size :].view(-1, 3)
    (w1, b1, w2, b2, w3, b3, log_std) = (view[0] for view in policy.layout.views(theta[None]))

    def outputs(z, observations):
        hidden = torch.tanh(observations @ w1.T + weights @ z + b1)
        return torch.tanh(hidden @ w2.T + b2) @ w3.T + b3

    for task in range(TASKS):
        z = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        for support in loop.supports:
            samples = support.tasks(task, task + 1).samples
            values = outputs(z, samples.observations[0])[None]
            loss = inner_loss(policy.distribution, values, log_std[None], samples, "ratio")
            z = z - 0.7 * torch.autograd.grad(loss.sum(), z)[0]
        observations = loop.queries[0].samples.observations[task]
        got = policy.outputs(loop.replay(meta)[-1][task : task + 1], observations[None])[0]
        torch.testing.assert_close(got, outputs(z, observations).detach(), rtol=1e-11, atol=1e-13)


def test_cavia_is_the_context_vector_with_a_step_size_of_its_own():
    context = make_rule("context", make_policy(), lr=0.7, context_size=3)
    meta = initial(context)
    loop = problems.run(context, meta, 3)
    for step_size, same in ((0.7, True), (0.6, False)):
        cavia = make_rule("cavia", context.policy, lr=0.1, context_size=3, step_size=step_size)
        assert torch.equal(initial(cavia), meta)
        policies = replace(loop, rule=cavia, stages=cavia.stages((1.0,) * 3)).replay(meta)
        assert torch.equal(policies[-1], loop.replay(meta)[-1]) == same


@pytest.mark.parametrize("modulation", ["film", "sigmoid", "softmax"])
def test_mumomaml_adapts_the_unmodulated_network_with_its_modulation_fixed(modulation):
    rule = make_rule("mumomaml", make_policy(), lr=0.7, modulation=modulation)
    assert isinstance(rule, MuMoMAML)
    policy, meta = rule.policy, initial(rule)
    loop = problems.run(rule, meta, 2)
    scales, shifts = rule.scales_and_shifts(meta, rule.embedding(meta, loop.supports[0]))
    widths = list(problems.HIDDEN)

    def outputs(theta, scale, shift, observations):
        (w1, b1, w2, b2, w3, b3, _) = (view[0] for view in policy.layout.views(theta[None]))
        hidden = torch.tanh(scale.split(widths)[0] * (observations @ w1.T + b1) + shift.split(widths)[0])
        hidden = torch.tanh(scale.split(widths)[1] * (hidden @ w2.T + b2) + shift.split(widths)[1])
        return hidden @ w3.T + b3

    for task in range(TASKS):
        theta = meta[: policy.layout.size].clone().requires_grad_()
        for support in loop.supports[1:]:
            samples = support.tasks(task, task + 1).samples
            values = outputs(theta, scales[task], shifts[task], samples.observations[0])[None]
            loss = inner_loss(policy.distribution, values, theta[None, -2:], samples, "ratio")
            theta = theta - 0.7 * torch.autograd.grad(loss.sum(), theta)[0]
        observations = loop.queries[0].samples.observations[task]
        got = policy.outputs(loop.replay(meta)[-1][task : task + 1], observations[None])[0]
        torch.testing.assert_close(
            got, outputs(theta, scales[task], shifts[task], observations).detach(), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("trajectories", [1, 3])
def test_mumomaml_reads_its_trajectories_up_to_their_ends(trajectories):
    """PyTorch's own GRU on the steps before the episodes' ends."""
    rule = make_rule("mumomaml", make_policy(), embedding_size=3, trajectories=trajectories)
    meta = initial(rule)
    support = problems.run(rule, meta).supports[0]
    rollouts = support.rollouts
    assert rollouts.rewards.shape[1] == trajectories
    expected = mean_last_states(meta[rule.policy.layout.size :], 3, rollouts, trajectories)
    torch.testing.assert_close(rule.embedding(meta, support), expected, rtol=1e-12, atol=1e-14)


def test_mumomaml_modulates_each_layer_by_a_network_of_its_own():
    """The last numbers of the meta-parameters are the second hidden layer's network."""
    rule = make_rule("mumomaml", make_policy(), embedding_size=3)
    meta = initial(rule)
    embedding = torch.rand(TASKS, 3, generator=torch.Generator().manual_seed(0)).double()
    second = 3 * 3 + 3 + 2 * problems.HIDDEN[1] * (3 + 1)
    other = meta.clone()
    other[-second:] += 0.3
    for before, after in zip(
        rule.scales_and_shifts(meta, embedding), rule.scales_and_shifts(other, embedding), strict=True
    ):
        changed = (before != after).any(0)
        assert changed.tolist() == [False] * problems.HIDDEN[0] + [True] * problems.HIDDEN[1]


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_anil_moves_the_last_layer_and_the_log_std_alone(kind):
    for body in ("mlp", "module"):
        rule = make_rule("anil", make_policy(kind, body=body))
        loop = problems.run(rule, initial(rule))
        before, *_, after = loop.replay(loop.meta)
        moved = [
            bool((a != b).any()) for a, b in zip(*(rule.policy.layout.views(p) for p in (before, after)), strict=True)
        ]
        assert moved == [False] * 4 + [True] * (len(rule.policy.layout.names) - 4)


@pytest.mark.parametrize(
    "algo", ["maml", "fomaml", "l2f", "anil", "meta-sgd", "mamlpp", "mumomaml", "multi-maml", "context", "cavia"]
)
def test_any_rule_can_be_frozen_in_part_at_test_time(algo):
    rule = make_rule(algo, make_policy(), **({"num_modes": 2} if algo == "multi-maml" else {}))
    meta = initial(rule)
    partial = PartialAdaptation(rule, ("bias1", "log_std"))
    loop = problems.run(partial, meta, 2)
    policies = loop.replay(meta)
    first_step = [stage.is_step for stage in loop.stages].index(True)
    start, end = (rule.policy.layout.views(policies[i]) for i in (first_step, -1))
    moved = [name for name, a, b in zip(rule.policy.layout.names, start, end, strict=True) if (a != b).any()]
    assert moved == [name for name in ("bias1", "log_std") if name in rule.adapted]


class WholeSteps(MAML):
    """MAML whose steps are said to be no gradient steps."""

    @property
    def step_name(self):
        return "whole step"

    def stages(self, step_scales, iteration=None):
        return [replace(stage, kind=StageKind.STEP) for stage in super().stages(step_scales, iteration)]


def test_steps_that_are_no_gradient_steps_are_counted_but_not_restricted():
    rule = WholeSteps(make_policy(), InnerSettings(inner_lr=0.5))
    meta, partial = initial(rule), PartialAdaptation(rule, ("bias1",))
    stages = partial.stages((1.0, 1.0))
    assert [stage.is_step for stage in stages] == [True, True]
    loop = problems.run(partial, meta, 2)
    assert torch.equal(loop.replay(meta)[-1], replace(loop, stages=rule.stages((1.0, 1.0))).replay(meta)[-1])


def test_rules_on_top_of_another_call_its_steps_what_it_does():
    rule = WholeSteps(make_policy(), InnerSettings())
    for wrapped in (PartialAdaptation(rule, ("bias1",)), L2F(rule, L2FConfig())):
        assert wrapped.step_name == "whole step"
    assert make_rule("l2f", make_policy()).step_name == "gradient step"


class WithExtras(WrappedAdaptation):
    """A rule around another one, with three meta-parameters of its own."""

    def __init__(self, rule):
        super().__init__(rule, rule.num_meta + 3)

    def initial(self, generator):
        return torch.cat([super().initial(generator), torch.tensor([5.0, -6.0, 7.0])])


@pytest.mark.parametrize(
    ("algo", "options"),
    [
        ("maml", {}),
        ("mamlpp", {"num_steps": 2}),
        ("meta-sgd", {}),
        ("context", {"context_size": 2}),
        ("mumomaml", {}),
        ("l2f", {"normalise_embedding": True}),
    ],
)
def test_a_rule_around_another_one_may_have_meta_parameters_of_its_own(algo, options):
    rule = make_rule(algo, make_policy(), **options)
    wrapped = WithExtras(rule)
    meta = initial(wrapped)
    alone, around = (problems.run(each, meta[: each.num_meta], 2) for each in (rule, wrapped))
    for got, want in zip(around.replay(meta), alone.replay(meta[:-3]), strict=True):
        assert torch.equal(got, want)
    observed = rule.observe(alone)
    assert torch.equal(wrapped.observe(around), observed)
    assert wrapped.describe(meta, observed) == rule.describe(meta[:-3], observed)
    after = wrapped.after_meta_step(meta, observed)
    assert torch.equal(after[:-3], rule.after_meta_step(meta[:-3], observed))
    assert after[-3:].tolist() == [5, -6, 7]


class Inexact(WrappedAdaptation):
    """A rule around another one that leaves out derivatives, and sees tasks."""

    exact = False
    sees_tasks = True


def test_a_rule_around_another_one_says_what_it_is_as_any_other():
    inner = make_rule("maml", make_policy())
    assert (inner.exact, inner.sees_tasks) == (True, False)
    assert (Inexact(inner).exact, Inexact(inner).sees_tasks) == (False, True)
    assert (WrappedAdaptation(Inexact(inner)).exact, WrappedAdaptation(Inexact(inner)).sees_tasks) == (False, True)


def test_unknown_layers_are_refused():
    with pytest.raises(UserError, match=r"the policy has no tensor 'weigth1'\. Did you mean 'weight1'"):
        make_rule("anil", make_policy(), adapted_layers=("weigth1",))


def test_learned_step_sizes_are_used_where_they_belong():
    policy = make_policy()
    rule = make_rule("mamlpp", policy, num_steps=2)
    meta = initial(rule)
    step_sizes = torch.rand(2, len(LAYERS), generator=torch.Generator().manual_seed(0)).double()
    meta[policy.layout.size :] = step_sizes.flatten()
    # Steps beyond the trained ones repeat the last one's, shortened as in every other rule.
    loop = problems.run(rule, meta, 3)
    loop = replace(loop, stages=rule.stages((1.0, 1.0, 0.5)))
    expected = meta[: policy.layout.size].expand(TASKS, -1)
    for number, scale, support in zip((0, 1, 1), (1.0, 1.0, 0.5), loop.supports, strict=True):
        alpha = scale * torch.repeat_interleave(step_sizes[number], torch.tensor(policy.layout.sizes))
        expected = expected - alpha * support.gradient(expected)
    torch.testing.assert_close(loop.replay(meta)[-1], expected, rtol=1e-12, atol=1e-14)


def test_multi_step_loss_is_the_weighted_sum_of_each_steps_own():
    rule = make_rule("mamlpp", make_policy(), num_steps=3, multi_step_iterations=10, first_order_iterations=0)
    meta = initial(rule)
    loop = problems.run(rule, meta, 3, iteration=4)
    assert loop.query_weights == pytest.approx([0.2, 0.2, 0.6])
    assert len(loop.queries) == 3
    direction = torch.randn(len(meta), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with Workers(1) as workers:
        whole = MetaObjective(loop, workers)
        parts = []
        for steps, query in enumerate(loop.queries, start=1):
            stages, supports = rule.stages((1.0,) * 3)[:steps], loop.supports[:steps]
            parts.append(MetaObjective(replace(loop, stages=stages, supports=supports, queries=[query]), workers))
        moved = meta + 0.01 * direction
        for quantity in (
            lambda objective: objective.loss_and_gradient()[1],
            lambda objective: objective.fisher_product(direction),
            lambda objective: torch.tensor(objective.evaluate(moved), dtype=torch.float64),
        ):
            expected = sum(w * quantity(part) for w, part in zip(loop.query_weights, parts, strict=True))
            torch.testing.assert_close(quantity(whole), expected, rtol=1e-11, atol=1e-13)


def test_multi_step_weights_anneal_to_the_last_step_and_cost_rollouts_until_then():
    rule = make_rule("mamlpp", make_policy(), num_steps=2, multi_step_iterations=4)
    meta = initial(rule)
    weights = [problems.run(rule, meta, 2, iteration=i).query_weights for i in (0, 1, 3, 4, None)]
    assert weights == [[0.5, 0.5], pytest.approx([0.375, 0.625]), pytest.approx([0.125, 0.875]), [1], [1]]


@pytest.mark.parametrize(("floor", "least"), [(0.03, 0.25), (0.5, 0.5), (0.0, 0.25)])
def test_early_weights_keep_a_floor_while_they_anneal_and_are_dropped_afterwards(floor, least):
    settings = {"multi_step_iterations": 4, "early_weight_floor": floor}
    rule = make_rule("mamlpp", make_policy(), num_steps=2, **settings)
    shares = [2 * rule.stages((1.0, 1.0), iteration)[0].query_weight for iteration in range(6)]
    assert shares == pytest.approx([1, 0.75, 0.5, least, 0, 0])


def test_derivative_order_anneals_from_first_to_second():
    rule = make_rule("mamlpp", make_policy(), num_steps=1, first_order_iterations=2, multi_step_iterations=0)
    meta = initial(rule)
    size = rule.policy.layout.size
    gradients = {}
    for algo in ("maml", "fomaml"):
        other = make_rule(algo, rule.policy)
        gradients[algo] = loss_gradient_and_product(problems.run(other, meta[:size]), size)[1]
    assert not torch.allclose(gradients["maml"], gradients["fomaml"], rtol=1e-3)
    for iteration, algo in ((0, "fomaml"), (1, "fomaml"), (2, "maml"), (None, "maml")):
        loop = problems.run(rule, meta, iteration=iteration)
        torch.testing.assert_close(loss_gradient_and_product(loop, size)[1], gradients[algo], rtol=1e-12, atol=1e-14)


def test_standstill_stands_still():
    rule = make_rule("standstill", make_policy())
    meta = rule.initial(np.random.default_rng(0))
    policies = InnerLoop(rule, rule.stages((1.0,)), meta, MODES, [None], []).replay(meta)[-1]
    observations = torch.randn(TASKS, 7, problems.OBSERVATION, generator=torch.Generator().manual_seed(0))
    assert not rule.policy.outputs(policies, observations).any()
    assert (rule.policy.extra(policies).exp() < 1e-5).all()
    with pytest.raises(UserError, match="standstill needs continuous actions"):
        make_rule("standstill", make_policy("categorical"))
    with pytest.raises(UserError, match="the action space of this task family does not hold it"):
        build_rule("standstill", make_policy(), InnerSettings(), zero_outputs=None)


@pytest.mark.parametrize("algo", sorted(name for name, row in ALGORITHMS.items() if not row.remembers))
def test_a_row_says_whether_steps_change_the_policy(algo):
    assert ALGORITHMS[algo].adapts == bool(make_rule(algo, make_policy(), num_modes=2).adapted)


@pytest.mark.parametrize("algo", ["context", "cavia", "mumomaml"])
def test_rules_that_look_into_the_network_refuse_a_module(algo):
    with pytest.raises(UserError, match="needs the built-in network"):
        make_rule(algo, make_policy(body="module"))


@pytest.mark.parametrize(
    "algo", sorted(name for name, row in ALGORITHMS.items() if not row.remembers and name != "standstill")
)
@pytest.mark.parametrize("attenuate", [False, True])
def test_meta_parameters_begin_with_the_policys(algo, attenuate):
    policy = make_policy()
    rule = build_rule(algo, policy, InnerSettings(), l2f=L2FConfig() if attenuate else None, num_modes=2)
    meta = rule.initial(np.random.default_rng(0))
    assert (meta.shape, meta.dtype) == ((rule.num_meta,), torch.float32)
    start = rule.start(meta, torch.zeros(2, dtype=torch.long))[:, : policy.layout.size]
    assert torch.equal(start, meta[: policy.layout.size].expand(2, -1))
