"""The meta-gradient and the Fisher-vector product against triple differentiation and finite differences."""

import gc
import weakref
from dataclasses import replace

import problems
import pytest
import torch
from problems import MODES, TASKS, initial, make_policy, make_rule

from benchmarks.triple_derivative import TripleDerivative
from metarl.common.parallel import Workers
from metarl.data import Rollouts
from metarl.inner.support import _LossGradient
from metarl.outer.objective import MetaObjective

RULES = [
    ("maml", {}),
    ("l2f", {}),
    ("l2f", {"attenuation_rollouts": "fresh", "normalise_embedding": True}),
    ("l2f", {"attenuate_log_std": True, "initial_gamma": 0.9}),
    ("l2f", {"scope": "network", "transform": "unconstrained"}),
    ("l2f", {"scope": "filter", "transform": "affine"}),
    ("l2f", {"scope": "parameter", "conditioning": "constant"}),
    ("l2f", {"embedding": "gru", "trajectories": 3}),
    ("l2f", {"embedding": "gru", "attenuation_rollouts": "fresh", "transform": "affine"}),
    ("l2f", {"reuse_kl": 0.3}),
    ("l2f", {"reuse_kl": 0.3, "start_kl": 0.2}),
    ("fomaml", {}),
    ("anil", {}),
    ("anil", {"attenuate": True, "adapted_layers": ("weight1", "bias2")}),
    ("meta-sgd", {}),
    ("meta-sgd", {"attenuate": True}),
    ("mamlpp", {"num_steps": 2, "first_order_iterations": 0, "multi_step_iterations": 5}),
    ("mamlpp", {"num_steps": 3, "first_order_iterations": 0, "attenuate": True}),
    ("mumomaml", {}),
    ("mumomaml", {"modulation": "sigmoid", "attenuate": True}),
    ("mumomaml", {"modulation": "softmax", "embedding_size": 3}),
    ("mumomaml", {"trajectories": 3}),
    ("multi-maml", {"num_modes": 2}),
    ("multi-maml", {"num_modes": 2, "attenuate": True}),
    ("context", {}),
    ("context", {"context_size": 3, "attenuate": True}),
    ("cavia", {"context_size": 3}),
]


@pytest.fixture
def workers():
    with Workers(2) as workers:
        yield workers


def build(
    algo, workers, options=None, kind="gaussian", activation="tanh", body="mlp", num_steps=1, loss="ratio", **rows
):
    rule = make_rule(algo, make_policy(kind, activation, body), **(options or {}))
    loop = problems.run(rule, initial(rule), num_steps, loss=loss)
    return MetaObjective(loop, workers, **rows), loop


def assert_equal_to_plain_differentiation(objective, loop):
    direction = torch.randn(loop.meta.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    gradient, product = objective.loss_and_gradient()[1], objective.fisher_product(direction)
    oracle = TripleDerivative(loop, tasks_at_once=TASKS)
    torch.testing.assert_close(gradient, oracle.loss_and_gradient()[1], rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(product, oracle.fisher_product(direction), rtol=1e-11, atol=1e-13)
    assert product.norm() > 0.01


@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize(("algo", "options"), RULES)
def test_gradient_and_fisher_product_equal_plain_differentiation(algo, options, num_steps, workers):
    assert_equal_to_plain_differentiation(*build(algo, workers, options, num_steps=num_steps))


@pytest.mark.parametrize("body", ["mlp", "module"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("kind", ["gaussian", "categorical", "categoricals"])
@pytest.mark.parametrize("loss", ["ratio", "score", "dice"])
def test_kernel_and_module_fallback_equal_plain_differentiation(kind, activation, body, loss, workers):
    assert_equal_to_plain_differentiation(
        *build("l2f", workers, kind=kind, activation=activation, body=body, num_steps=2, loss=loss)
    )


@pytest.mark.parametrize(("algo", "options"), [rule for rule in RULES if rule[0] != "fomaml"])
def test_derivatives_equal_finite_differences(algo, options, workers):
    by_gradients = options.get("embedding") != "gru" and options.get("conditioning") != "constant"
    if (algo == "l2f" or options.get("attenuate")) and by_gradients:
        options = {**options, "embedding_gradient": "through"}
    objective, loop = build(algo, workers, options, num_steps=2)
    meta = loop.meta
    direction = torch.randn(meta.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    if options.get("normalise_embedding"):
        direction[-2 * 7 :] = 0  # Running statistics are constants of the meta-gradient.
    direction /= direction.norm()
    h = 1e-4
    (up, kl_up), (down, kl_down) = (objective.evaluate(meta + sign * h * direction) for sign in (1, -1))
    assert float(objective.loss_and_gradient()[1] @ direction) == pytest.approx((up - down) / (2 * h), rel=1e-6)
    # The divergence vanishes at the centre together with its gradient.
    assert float(direction @ objective.fisher_product(direction)) == pytest.approx((kl_up + kl_down) / h**2, rel=1e-5)


def test_first_order_meta_gradient_differs_from_the_true_one(workers):
    exact, loop = build("maml", workers)
    rule = make_rule("fomaml", loop.rule.policy)
    first_order = MetaObjective(replace(loop, rule=rule, stages=rule.stages((1.0,))), workers)
    gradient, approximation = exact.loss_and_gradient()[1], first_order.loss_and_gradient()[1]
    assert float((gradient - approximation).norm() / gradient.norm()) > 0.05


def test_fisher_product_is_symmetric_and_positive(workers):
    objective, loop = build("l2f", workers)
    meta, generator = loop.meta, torch.Generator().manual_seed(0)
    u, v = torch.randn(2, *meta.shape, dtype=torch.float64, generator=generator)
    assert float(u @ objective.fisher_product(v)) == pytest.approx(float(v @ objective.fisher_product(u)), rel=1e-10)
    assert float(u @ objective.fisher_product(u)) > 0


def test_sampling_every_row_is_exact_and_half_of_them_is_not(workers):
    exact, loop = build("l2f", workers)
    meta, rows = loop.meta, torch.arange(loop.queries[0].num_rows)
    direction = torch.ones_like(meta)
    expected = exact.fisher_product(direction)
    whole, _ = build("l2f", workers, fisher_rows=rows)
    torch.testing.assert_close(whole.fisher_product(direction), expected, rtol=1e-12, atol=1e-14)
    for half in ({"fisher_rows": rows[::2]}, {"hessian_fraction": 0.5}):
        approximate, _ = build("l2f", workers, **half)
        assert not torch.allclose(approximate.fisher_product(direction), expected, rtol=1e-3)
        gradients = [objective.loss_and_gradient()[1] for objective in (approximate, exact)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


class PaddedRollouts(Rollouts):
    """Computes on the padding too."""

    @property
    def samples(self):
        return self.whole_episodes


@pytest.mark.parametrize("algo", ["maml", "l2f", "mamlpp"])
@pytest.mark.parametrize("rule_loss", ["ratio", "score", "dice"])
def test_leaving_out_the_padding_changes_nothing_but_rounding(algo, rule_loss, workers):
    options = {"num_steps": 2, "first_order_iterations": 0, "multi_step_iterations": 5} if algo == "mamlpp" else {}
    objective, loop = build(algo, workers, options, num_steps=2 if algo == "mamlpp" else 1, loss=rule_loss)
    assert all(query.samples.num_rows < query.num_rows for query in loop.queries)

    def padded(data):
        return PaddedRollouts(**data.tensors(), terms=data.terms)

    supports = [replace(support, data=padded(support.data)) for support in loop.supports]
    other = MetaObjective(replace(loop, supports=supports, queries=[padded(q) for q in loop.queries]), workers)
    direction, elsewhere = torch.ones_like(loop.meta), loop.meta + 0.01
    for got, want in (
        (objective.loss_and_gradient()[1], other.loss_and_gradient()[1]),
        (objective.fisher_product(direction), other.fisher_product(direction)),
        (torch.tensor(objective.evaluate(elsewhere)), torch.tensor(other.evaluate(elsewhere))),
    ):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_hessian_of_the_largest_advantages_is_that_of_the_loss_without_the_other_rows(kind):
    rule = make_rule("maml", make_policy(kind))
    meta = initial(rule)
    samples = problems.run(rule, meta).supports[0].samples
    size = (samples.weights * samples.advantages).abs()
    counts = (0.3 * (samples.weights > 0).sum(1, keepdim=True)).round().long()
    assert len(counts.unique()) > 1
    kept = size >= size.sort(dim=1, descending=True).values.gather(1, counts - 1)
    assert (kept.sum(1, keepdim=True) == counts).all()
    direction = torch.ones(TASKS, len(meta), dtype=torch.float64)
    chosen = samples.largest_advantages(0.3)
    zeroed = replace(samples, advantages=samples.advantages * kept)
    parameters = rule.start(meta, MODES)
    products = [
        rule.policy.inner_curvature(parameters, some, "ratio").pushforward(direction) for some in (chosen, zeroed)
    ]
    torch.testing.assert_close(*products, rtol=1e-12, atol=1e-14)


def test_larger_half_of_the_advantages_approximates_the_hessian_better_than_the_smaller():
    rule = make_rule("maml", make_policy())
    meta = initial(rule)
    support = problems.run(rule, meta).supports[0]
    parameters, direction = rule.start(meta, MODES), torch.ones(TASKS, len(meta), dtype=torch.float64)

    def product(samples):
        return rule.policy.inner_curvature(parameters, samples, "ratio").pushforward(direction)

    exact, larger = product(support.samples), product(support.samples.largest_advantages(0.5))
    assert float((larger - exact).norm()) < 0.5 * float(exact.norm())
    assert float((exact - larger).norm()) < float(larger.norm())


def test_permuting_tasks_leaves_the_meta_step_alone(workers):
    objective, loop = build("l2f", workers)
    order = [2, 0, 1]

    def permuted(data):
        return data.concatenate([data.tasks(i, i + 1) for i in order])

    supports, queries = [permuted(loop.supports[0])] * 2, [permuted(loop.queries[0])]
    other = MetaObjective(replace(loop, supports=supports, queries=queries), workers)
    torch.testing.assert_close(other.loss_and_gradient()[1], objective.loss_and_gradient()[1], rtol=1e-12, atol=1e-15)


def test_number_of_threads_changes_no_bit():
    results = []
    for num_threads in (1, 3):
        with Workers(num_threads) as workers:
            objective, loop = build("l2f", workers)
            results.append((objective.loss_and_gradient()[1], objective.fisher_product(torch.ones_like(loop.meta))))
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


@pytest.mark.parametrize("body", ["mlp", "module"])
def test_graph_of_a_meta_step_is_freed(body, monkeypatch):
    alive = []
    original = _LossGradient.__init__

    def remember(self, *args):
        original(self, *args)
        alive.append(weakref.ref(self))

    monkeypatch.setattr(_LossGradient, "__init__", remember)
    with Workers(1) as workers:
        objective, loop = build("l2f", workers, body=body)
        objective.loss_and_gradient()
        objective.fisher_product(torch.ones_like(loop.meta))
        assert any(reference() is not None for reference in alive)
        gc.disable()
        try:
            del objective
            assert all(reference() is None for reference in alive)
        finally:
            gc.enable()
