"""Learn-to-Forget: reductions, attenuation and its embedding."""

import problems
import pytest
import torch
from problems import TASKS, initial, make_policy, make_rule
from torch import Tensor

from benchmarks.triple_derivative import plain_policy_gradient
from metarl.adaptation import Adaptation, fold
from metarl.agents.l2f import L2F
from metarl.meta_step import MetaObjective
from metarl.parallel import Workers


def build(**options: object) -> tuple[L2F, Tensor]:
    rule = make_rule("l2f", make_policy(), **options)
    assert isinstance(rule, L2F)
    return rule, initial(rule)


def support_of(rule: Adaptation, meta: Tensor, seed: int = 1) -> problems.Rollouts:
    return problems.collect(rule.policy, rule.start(meta, TASKS), seed)


def attenuated(rule: L2F, meta: Tensor) -> Tensor:
    return fold(rule, meta, rule.stages((1.0,))[:1], [support_of(rule, meta)], TASKS)


@pytest.mark.parametrize("attenuation_rollouts", ["reuse", "fresh"])
@pytest.mark.parametrize("num_steps", [1, 2])
def test_gamma_of_one_is_maml(num_steps, attenuation_rollouts, monkeypatch):
    monkeypatch.setattr(L2F, "gamma", lambda self, meta, embedding: torch.ones_like(embedding))
    l2f, meta = build(attenuation_rollouts=attenuation_rollouts)
    maml = make_rule("maml", l2f.policy)
    size, scales = l2f.policy.layout.size, (1.0,) * num_steps
    theta = meta[:size]
    stages, supports, query = problems.run(maml, theta, num_steps)
    supports_with_attenuation = [supports[0], *supports]
    adapted = fold(maml, theta, stages, supports, TASKS)
    assert torch.equal(fold(l2f, meta, l2f.stages(scales), supports_with_attenuation, TASKS), adapted)
    direction = torch.ones_like(meta)
    with Workers(1) as workers:
        reference = MetaObjective(maml, stages, supports, query, theta, workers)
        objective = MetaObjective(l2f, l2f.stages(scales), supports_with_attenuation, query, meta, workers)
        gradient, product = objective.loss_and_gradient()[1], objective.fisher_product(direction)
        torch.testing.assert_close(gradient[:size], reference.loss_and_gradient()[1], rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(product[:size], reference.fisher_product(direction[:size]), rtol=1e-12, atol=1e-15)
    assert not gradient[size:].any()


def test_learned_gamma_is_not_maml():
    l2f, meta = build()
    maml = make_rule("maml", l2f.policy)
    support = support_of(l2f, meta)
    forgetful = fold(l2f, meta, l2f.stages((1.0,)), [support, support], TASKS)
    assert not torch.allclose(
        forgetful, fold(maml, meta[: l2f.policy.layout.size], maml.stages((1.0,)), [support], TASKS), rtol=0.1
    )


@pytest.mark.parametrize(("options", "want"), [({}, 0.5), ({"initial_gamma": 0.95}, 0.95)])
@pytest.mark.parametrize("seed", range(5))
def test_gamma_starts_near_where_it_should(options, want, seed):
    rule = make_rule("l2f", make_policy(), **options)
    meta = initial(rule, seed)
    layers = [index for index, name in enumerate(rule.layer_names) if name != "log_std"]
    gamma = rule.gamma(meta, rule.observe(meta, [support_of(rule, meta)]))[:, layers]
    # The hidden layers contribute a logit of a few tenths.
    assert ((torch.logit(gamma) - torch.logit(torch.tensor(want).double())).abs() < 0.4).all()


def test_attenuation_multiplies_each_layer_by_its_gamma():
    rule, meta = build()
    gamma = rule.gamma(meta, rule.observe(meta, [support_of(rule, meta)]))
    assert ((gamma > 0) & (gamma <= 1)).all()
    before = rule.policy.layout.views(rule.start(meta, TASKS))
    after = rule.policy.layout.views(attenuated(rule, meta))
    for layer, (old, new) in enumerate(zip(before, after, strict=True)):
        factor = gamma[:, layer].view(TASKS, *[1] * (old.ndim - 1))
        torch.testing.assert_close(new, factor * old, rtol=1e-14, atol=0)


def test_embedding_is_the_mean_gradient_of_each_layer():
    rule, meta = build()
    support = support_of(rule, meta)
    gradient = plain_policy_gradient(rule.policy, rule.start(meta, TASKS), support)
    expected = [view.flatten(1).mean(1) for view in rule.policy.layout.views(gradient)]
    torch.testing.assert_close(rule.observe(meta, [support]), torch.stack(expected, 1), rtol=1e-11, atol=1e-14)


def test_log_std_is_attenuated_only_on_request():
    for option in (False, True):
        rule, meta = build(attenuate_log_std=option)
        start, end = rule.start(meta, TASKS)[:, -2:], attenuated(rule, meta)[:, -2:]
        assert torch.equal(start, end) != option
        assert not option or (end.abs() < start.abs()).all()


def test_meta_gradient_leaves_the_running_statistics_alone():
    rule, meta = build(normalise_embedding=True)
    problem = (rule, *problems.run(rule, meta), meta)
    with Workers(1) as workers:
        gradient = MetaObjective(*problem, workers).loss_and_gradient()[1]
    width = len(rule.layer_names)
    assert not gradient[-2 * width :].any()
    assert gradient[rule.policy.layout.size : -2 * width].any()


def test_running_statistics_are_the_first_tasks_and_then_move_a_tenth_of_the_way():
    rule, meta = build(normalise_embedding=True)
    width = len(rule.layer_names)
    observed = rule.observe(meta, [support_of(rule, meta)])
    meta[-2 * width :] = 0
    first = rule.after_meta_step(meta, observed)
    assert torch.equal(first[: -2 * width], meta[: -2 * width])
    mean, variance = first[-2 * width :].split(width)
    torch.testing.assert_close(mean, observed.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(variance, observed.var(0, correction=0), rtol=1e-12, atol=0)
    second_mean, second_variance = rule.after_meta_step(first, 3 * observed)[-2 * width :].split(width)
    torch.testing.assert_close(second_mean, 1.2 * mean, rtol=1e-9, atol=0)
    deviation = ((3 * observed - mean) ** 2).mean(0)
    torch.testing.assert_close(second_variance, 0.9 * variance + 0.1 * deviation, rtol=1e-9, atol=0)


def test_attenuator_sees_zeros_until_statistics_are_known():
    rule, meta = build(normalise_embedding=True)
    meta[-2 * len(rule.layer_names) :] = 0
    observed = rule.observe(meta, [support_of(rule, meta)])
    assert torch.equal(rule.gamma(meta, observed), rule.gamma(meta, 0 * observed))


def test_running_statistics_standardise_the_embedding():
    rule, meta = build(normalise_embedding=True)
    observed = rule.observe(meta, [support_of(rule, meta)])
    meta[-2 * len(rule.layer_names) :] = 0
    meta = rule.after_meta_step(meta, observed)
    # gamma of the plain rule at the standardised embedding is gamma of this one at the raw embedding.
    plain = make_rule("l2f", rule.policy)
    standardised = (observed - observed.mean(0)) / (observed.std(0, correction=0) + 1e-8)
    torch.testing.assert_close(rule.gamma(meta, observed), plain.gamma(meta, standardised), rtol=1e-6, atol=0)


def test_without_normalisation_a_meta_step_is_not_followed_by_anything():
    rule, meta = build()
    assert rule.after_meta_step(meta, torch.ones(TASKS, len(rule.layer_names))) is meta


def test_description_tells_the_mean_and_spread_of_each_layers_gamma():
    rule, meta = build()
    observed = rule.observe(meta, [support_of(rule, meta)])
    gamma, report = rule.gamma(meta, observed), rule.describe(meta, observed)
    assert rule.layer_names == ["weight1", "bias1", "weight2", "bias2", "weight3", "bias3", "log_std"]
    assert list(report) == [f"gamma_{what}/{name}" for what in ("mean", "spread") for name in rule.layer_names]
    for layer, name in enumerate(rule.layer_names):
        assert report[f"gamma_mean/{name}"] == pytest.approx(float(gamma[:, layer].mean()), rel=1e-12)
        spread = float(gamma[:, layer].std(correction=0))
        assert report[f"gamma_spread/{name}"] == pytest.approx(spread, rel=1e-9, abs=1e-15)
    assert (report["gamma_mean/log_std"], report["gamma_spread/log_std"]) == (1.0, 0.0)
