"""Learn-to-Forget: reductions, attenuation and its embedding."""

from dataclasses import replace

import numpy as np
import problems
import pytest
import torch
from problems import MODES, TASKS, initial, make_policy, make_rule, make_support
from torch import Tensor

from benchmarks.triple_derivative import PlainSupport
from metarl.agents.l2f import L2F
from metarl.common.errors import UserError
from metarl.common.parallel import Workers
from metarl.config.algorithms import L2FConfig
from metarl.config.config import Config
from metarl.inner.loop import InnerLoop
from metarl.inner.rule import Adaptation
from metarl.inner.support import PolicyGradientSupport
from metarl.outer.objective import MetaObjective
from metarl.policies.losses import inner_loss
from metarl.runs.build import build as build_run
from metarl.runs.training import Trainer, train


def build(**options: object) -> tuple[L2F, Tensor]:
    rule = make_rule("l2f", make_policy(), **options)
    assert isinstance(rule, L2F)
    return rule, initial(rule)


def support_of(rule: Adaptation, meta: Tensor, seed: int = 1) -> PolicyGradientSupport:
    return make_support(rule.policy, rule.start(meta, MODES), seed)


def observe(rule: L2F, meta: Tensor) -> Tensor:
    return rule.observe(InnerLoop(rule, rule.stages((1.0,)), meta, MODES, 2 * [support_of(rule, meta)], []))


def attenuated(rule: L2F, meta: Tensor) -> Tensor:
    if rule.stages((1.0,))[0].is_step:  # Constants are there from the start.
        return rule.start(meta, MODES)
    return rule.stages((1.0,))[0].update(meta, rule.start(meta, MODES), support_of(rule, meta))


@pytest.mark.parametrize("attenuation_rollouts", ["reuse", "fresh"])
@pytest.mark.parametrize(("algo", "num_modes"), [("maml", 1), ("anil", 1), ("mumomaml", 1), ("multi-maml", 2)])
def test_gamma_of_one_is_the_attenuated_rule_itself(algo, num_modes, attenuation_rollouts, monkeypatch):
    monkeypatch.setattr(L2F, "gamma", None)  # Not what the inner loop uses.
    monkeypatch.setattr(L2F, "_transformation", lambda self, meta, embedding: (torch.ones(1).double(), None))
    inner = {"num_modes": num_modes}
    l2f = make_rule(algo, make_policy(), attenuate=True, attenuation_rollouts=attenuation_rollouts, **inner)
    rule, meta = make_rule(algo, l2f.policy, **inner), initial(l2f)
    size = rule.num_meta
    loop = problems.run(rule, meta[:size], 2)
    stages = l2f.stages((1.0, 1.0))
    attenuated = replace(loop, rule=l2f, stages=stages, meta=meta, supports=[loop.supports[0], *loop.supports])
    assert torch.equal(attenuated.replay(meta)[-1], loop.replay(meta[:size])[-1])
    direction = torch.ones_like(meta)
    with Workers(1) as workers:
        reference, objective = MetaObjective(loop, workers), MetaObjective(attenuated, workers)
        gradient, product = objective.loss_and_gradient()[1], objective.fisher_product(direction)
        torch.testing.assert_close(gradient[:size], reference.loss_and_gradient()[1], rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(product[:size], reference.fisher_product(direction[:size]), rtol=1e-12, atol=1e-15)
    assert not gradient[size:].any()


def test_learned_gamma_is_not_maml():
    l2f, meta = build()
    maml = make_rule("maml", l2f.policy)
    loop = problems.run(maml, meta[: l2f.policy.layout.size])
    forgetful = replace(loop, rule=l2f, stages=l2f.stages((1.0,)), meta=meta, supports=2 * loop.supports)
    assert not torch.allclose(forgetful.replay(meta)[-1], loop.replay(loop.meta)[-1], rtol=0.1)


@pytest.mark.parametrize("conditioning", ["task", "constant"])
def test_affine_without_offset_is_unconstrained(conditioning):
    unconstrained, meta = build(transform="unconstrained", conditioning=conditioning)
    affine, affine_meta = build(transform="affine", conditioning=conditioning)
    theta, num_layers = affine.policy.layout.size, 7
    phi = meta[theta:]
    if conditioning == "constant":
        affine_meta = torch.cat([meta, torch.zeros(num_layers).double()])
    else:
        rows, biases = torch.zeros(num_layers * num_layers), torch.zeros(num_layers)
        affine_meta = torch.cat([meta[:-num_layers], rows.double(), phi[-num_layers:], biases.double()])
    assert affine_meta.shape == (affine.num_meta,)
    assert torch.equal(attenuated(affine, affine_meta), attenuated(unconstrained, meta))
    affine_meta[-num_layers] += 0.5  # Of the first layer's offset.
    moved = attenuated(affine, affine_meta) - attenuated(unconstrained, meta)
    torch.testing.assert_close(moved[:, :15], torch.full((TASKS, 15), 0.5).double(), rtol=1e-12, atol=0)
    assert not moved[:, 15:].any()


@pytest.mark.parametrize(("scope", "groups"), [("network", 1), ("layer", 7), ("filter", 24), ("parameter", 56)])
@pytest.mark.parametrize("conditioning", ["task", "constant"])
def test_scope_says_what_shares_a_gamma(scope, groups, conditioning):
    rule, meta = build(scope=scope, conditioning=conditioning, transform="unconstrained", attenuate_log_std=True)
    size = rule.policy.layout.size
    meta[size:] = torch.randn(len(meta) - size, generator=torch.Generator().manual_seed(0)).double()
    gamma = rule.gamma(meta, observe(rule, meta))
    assert gamma.shape == (TASKS, rule.policy.layout.size)
    assert [len(row.unique()) for row in gamma] == [groups] * TASKS
    weight1 = rule.policy.layout.views(gamma)[0]
    assert (weight1 == weight1[:, :, :1]).all() == (scope != "parameter")
    assert (weight1 == weight1[:, :1]).all() == (scope in ("network", "layer"))


def test_constant_gamma_is_the_same_for_every_task_and_starts_where_it_should():
    for transform in ("sigmoid", "unconstrained", "affine"):
        rule, _ = build(conditioning="constant", transform=transform, initial_gamma=0.9)
        meta = rule.initial(np.random.default_rng(0)).double()
        observed = observe(rule, meta)
        gamma = rule.gamma(meta, observed)
        torch.testing.assert_close(gamma[:, :-2], torch.full_like(gamma[:, :-2], 0.9), rtol=1e-6, atol=0)
    conditioned, meta = build(initial_gamma=0.9)
    assert not torch.equal(*conditioned.gamma(meta, observe(conditioned, meta))[:2])


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, 0.5),
        ({"initial_gamma": 0.95}, 0.95),
        ({"embedding": "gru"}, 0.5),
        ({"embedding": "gru", "trajectories": 4, "initial_gamma": 0.95}, 0.95),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_gamma_starts_near_where_it_should(options, want, seed):
    rule = make_rule("l2f", make_policy(), **options)
    meta = rule.initial(np.random.default_rng(seed)).double()
    layers = [index for index, name in enumerate(rule.layer_names) if name != "log_std"]
    gamma = rule.layer_gamma(meta, observe(rule, meta))[:, layers]
    # The hidden layers contribute a logit of a few tenths.
    assert ((torch.logit(gamma) - torch.logit(torch.tensor(want).double())).abs() < 0.4).all()


def test_attenuation_multiplies_each_layer_by_its_gamma():
    rule, meta = build()
    gamma = rule.layer_gamma(meta, observe(rule, meta))
    assert ((gamma > 0) & (gamma <= 1)).all()
    before = rule.policy.layout.views(rule.start(meta, MODES))
    after = rule.policy.layout.views(attenuated(rule, meta))
    for layer, (old, new) in enumerate(zip(before, after, strict=True)):
        factor = gamma[:, layer].view(TASKS, *[1] * (old.ndim - 1))
        torch.testing.assert_close(new, factor * old, rtol=1e-14, atol=0)


def test_embedding_is_the_mean_gradient_of_each_layer():
    rule, meta = build()
    support = support_of(rule, meta)
    gradient = PlainSupport.like(support).gradient(rule.start(meta, MODES))
    expected = [view.flatten(1).mean(1) for view in rule.policy.layout.views(gradient)]
    torch.testing.assert_close(observe(rule, meta), torch.stack(expected, 1), rtol=1e-11, atol=1e-14)


def test_log_std_is_attenuated_only_on_request():
    for option in (False, True):
        rule, meta = build(attenuate_log_std=option)
        start, end = rule.start(meta, MODES)[:, -2:], attenuated(rule, meta)[:, -2:]
        assert torch.equal(start, end) != option
        assert not option or (end.abs() < start.abs()).all()


def test_meta_gradient_leaves_the_running_statistics_alone():
    rule, meta = build(normalise_embedding=True)
    with Workers(1) as workers:
        gradient = MetaObjective(problems.run(rule, meta), workers).loss_and_gradient()[1]
    width = len(rule.layer_names)
    assert not gradient[-2 * width :].any()
    assert gradient[rule.policy.layout.size : -2 * width].any()


def test_running_statistics_are_the_first_tasks_and_then_move_a_tenth_of_the_way():
    rule, meta = build(normalise_embedding=True)
    width = len(rule.layer_names)
    observed = observe(rule, meta)
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
    observed = observe(rule, meta)
    assert torch.equal(rule.gamma(meta, observed), rule.gamma(meta, 0 * observed))


def test_running_statistics_standardise_the_embedding():
    rule, meta = build(normalise_embedding=True)
    observed = observe(rule, meta)
    meta[-2 * len(rule.layer_names) :] = 0
    meta = rule.after_meta_step(meta, observed)
    # gamma of the plain rule at the standardised embedding is gamma of this one at the raw embedding.
    plain = make_rule("l2f", rule.policy)
    standardised = (observed - observed.mean(0)) / (observed.std(0, correction=0) + 1e-8)
    torch.testing.assert_close(rule.gamma(meta, observed), plain.gamma(meta, standardised), rtol=1e-6, atol=0)


def test_without_normalisation_a_meta_step_is_not_followed_by_anything():
    rule, meta = build()
    assert torch.equal(rule.after_meta_step(meta, torch.ones(TASKS, len(rule.layer_names))), meta)


def test_description_tells_the_mean_and_spread_of_each_layers_gamma():
    rule, meta = build()
    observed = observe(rule, meta)
    gamma, report = rule.layer_gamma(meta, observed), rule.describe(meta, observed)
    assert rule.layer_names == ["weight1", "bias1", "weight2", "bias2", "weight3", "bias3", "log_std"]
    assert list(report) == [f"gamma_{what}/{name}" for what in ("mean", "spread") for name in rule.layer_names]
    for layer, name in enumerate(rule.layer_names):
        assert report[f"gamma_mean/{name}"] == pytest.approx(float(gamma[:, layer].mean()), rel=1e-12)
        spread = float(gamma[:, layer].std(correction=0))
        assert report[f"gamma_spread/{name}"] == pytest.approx(spread, rel=1e-9, abs=1e-15)
    assert (report["gamma_mean/log_std"], report["gamma_spread/log_std"]) == (1.0, 0.0)


def _without_graph(rule: L2F, meta: Tensor, loop: InnerLoop) -> tuple[Tensor, Tensor]:
    """(meta-gradient, the same through the embedding), of an L2F whose embedding comes from autograd."""
    gradients = []
    for keep in (False, True):
        leaf = meta.clone().requires_grad_()
        supports = [PlainSupport.like(support) for support in loop.supports]
        theta = rule.start(leaf, MODES)
        gradient = supports[0].gradient(theta)
        embedding = torch.stack([view.flatten(1).mean(1) for view in rule.policy.layout.views(gradient)], dim=1)
        gamma = rule.gamma(leaf, embedding if keep else embedding.detach())
        policies = gamma * theta
        policies = policies - 0.5 * supports[1].gradient(policies)
        samples = loop.queries[0].samples
        outputs, extra = rule.policy.outputs(policies, samples.observations), rule.policy.extra(policies)
        loss = inner_loss(rule.policy.distribution, outputs, extra, samples, "ratio").mean()
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    return gradients[0], gradients[1]


@pytest.mark.parametrize("embedding_gradient", ["stop", "through"])
@pytest.mark.parametrize("attenuation_rollouts", ["reuse", "fresh"])
def test_stopped_meta_gradient_is_exact_for_phi_and_takes_the_embedding_as_a_constant_for_theta(
    embedding_gradient, attenuation_rollouts
):
    rule, meta = build(embedding_gradient=embedding_gradient, attenuation_rollouts=attenuation_rollouts)
    loop = problems.run(rule, meta)
    stopped, through = _without_graph(rule, meta, loop)
    theta = rule.policy.layout.size
    torch.testing.assert_close(stopped[theta:], through[theta:], rtol=1e-12, atol=0)
    assert not torch.allclose(stopped[:theta], through[:theta], rtol=1e-3)
    with Workers(1) as workers:
        gradient = MetaObjective(loop, workers).loss_and_gradient()[1]
    expected = stopped if embedding_gradient == "stop" else through
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-15)
    assert rule.exact == (embedding_gradient == "through")


def test_stopped_embedding_is_computed_again_where_the_line_search_looks():
    rule, meta = build(embedding_gradient="stop")
    loop = problems.run(rule, meta)
    elsewhere = meta + 0.1
    embedding = rule.embedding(elsewhere, rule.start(elsewhere, MODES), loop.supports[0])
    expected = rule.gamma(elsewhere, embedding) * rule.start(elsewhere, MODES)
    assert torch.equal(loop.replay(elsewhere)[1], expected)


@pytest.mark.parametrize("embedding_gradient", ["stop", "through"])
def test_moments_are_mean_log_root_mean_square_and_return(embedding_gradient):
    rule, meta = build(embedding="moments", normalise_embedding=True, embedding_gradient=embedding_gradient)
    support = support_of(rule, meta)
    views = rule.policy.layout.views(PlainSupport.like(support).gradient(rule.start(meta, MODES)))
    means = torch.stack([view.flatten(1).mean(1) for view in views], 1)
    log_rms = torch.stack([(view.flatten(1) ** 2).mean(1).sqrt().log() for view in views], 1)
    returns = support.rollouts.rewards.sum(2).mean(1)[:, None]
    observed = observe(rule, meta)
    torch.testing.assert_close(observed, torch.cat([means, log_rms, returns], 1), rtol=1e-9, atol=1e-12)
    meta[-2 * observed.shape[1] :] = 0
    meta = rule.after_meta_step(meta, observed)
    assert rule.layer_gamma(meta, observed).std(0)[0] > 0
    with Workers(1) as workers:
        gradient = MetaObjective(problems.run(rule, meta), workers).loss_and_gradient()[1]
    assert gradient[rule.policy.layout.size : -2 * observed.shape[1]].any()


@pytest.mark.parametrize("trajectories", [1, 3])
def test_gru_embedding_is_the_mean_last_state_and_the_meta_gradient_moves_the_gru(trajectories):
    rule, meta = build(embedding="gru", trajectories=trajectories)
    support, width = support_of(rule, meta), len(rule.layer_names)
    size = 3 * width * (problems.OBSERVATION + problems.ACTIONS + 1 + width + 2)
    expected = problems.mean_last_states(meta[-size:], width, support.rollouts, trajectories)
    torch.testing.assert_close(observe(rule, meta), expected, rtol=1e-12, atol=1e-14)
    assert rule.layer_gamma(meta, expected).std(0)[0] > 0
    assert rule.exact
    with Workers(1) as workers:
        assert MetaObjective(problems.run(rule, meta), workers).loss_and_gradient()[1][-size:].all()


def test_fresh_rollouts_after_attenuation_leave_the_gru_only_what_it_reads():
    for attenuation_rollouts, collected in (("reuse", [4, 4]), ("fresh", [2, 4])):
        rule, meta = build(embedding="gru", trajectories=2, attenuation_rollouts=attenuation_rollouts)
        supports = problems.run(rule, meta).supports
        assert [support.rollouts.mask.shape[1] for support in supports] == collected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding": "gru", "normalise_embedding": True}, "normalise_embedding is for gradients"),
        ({"embedding": "gru", "embedding_gradient": "through"}, "embedding_gradient is for gradients"),
        ({"embedding": "gru", "trajectories": 0}, "l2f.trajectories must be at least 1, got 0"),
        ({"trajectories": 2}, "l2f.trajectories needs l2f.embedding gru"),
    ],
)
def test_settings_that_make_no_sense_with_the_embedding_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        L2FConfig(**options)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"algo": "l2f", "l2f": {"embedding": "gru", "trajectories": 3}}, "l2f"),
        ({"algo": "mumomaml", "attenuate": True, "mumomaml": {"trajectories": 3}}, "mumomaml-attenuated"),
    ],
)
def test_more_trajectories_than_reused_rollouts_are_refused(settings, name):
    message = f"rollouts_per_task must be at least 3, the trajectories of each task that {name} reads .*, got 2"
    with pytest.raises(UserError, match=message):
        build_run(Config(**settings, rollouts_per_task=2).resolve())
    # Enough; or fresh ones, which are as many as it takes.
    build_run(Config(**settings, rollouts_per_task=3).resolve())
    fresh = {**settings.get("l2f", {}), "attenuation_rollouts": "fresh"}
    build_run(Config(**{**settings, "l2f": fresh}, rollouts_per_task=2).resolve())


@pytest.mark.parametrize(
    "choice",
    [
        {"embedding": "gru"},
        {"embedding": "moments", "normalise_embedding": True},
        {"normalise_embedding": True},
        {"embedding_gradient": "through"},
        {"attenuation_rollouts": "fresh"},
        {"start_kl": 1.0},
        {"reuse_kl": 1.0},
    ],
)
def test_what_does_nothing_with_constants_is_refused(choice):
    name = next(iter(choice))
    with pytest.raises(UserError, match=rf"l2f\.{name}.* would do nothing with l2f.conditioning constant"):
        L2FConfig(conditioning="constant", **choice)


@pytest.mark.parametrize("choice", [{"normalise_embedding": True}, {"embedding": "moments"}])
@pytest.mark.parametrize("env", ["navigation", "sinusoid"])
def test_one_task_alone_cannot_normalise_the_embedding(env, choice):
    """Its variance over the tasks of an iteration is always 0. A run that has been made so can still be read."""
    config = Config(env=env, algo="l2f", l2f=choice, meta_batch_size=1)
    with pytest.raises(UserError, match="meta_batch_size must be at least 2 with them, got 1"):
        Trainer(config, torch.device("cpu"))
    for changed in ({"meta_batch_size": 2}, {"l2f": None}):
        Trainer(replace(config, **changed), torch.device("cpu"))


def test_moments_are_always_standardised():
    (rule, meta), (asked, same) = (build(embedding="moments", normalise_embedding=asked) for asked in (False, True))
    assert torch.equal(meta, same)
    observed = observe(rule, meta)
    assert torch.equal(rule.gamma(meta, observed), asked.gamma(meta, observed))


def test_start_kl_adds_the_unattenuated_policys_divergence_to_the_trust_region():
    (rule, meta), (plain, _) = build(start_kl=0.7), build()
    loop = problems.run(rule, meta)
    without = replace(loop, rule=plain, stages=plain.stages((1.0,), 0))
    elsewhere, direction = meta + 0.05, torch.linspace(-1, 1, len(meta)).double()
    samples, start = loop.supports[0].samples, rule.start(meta, MODES)

    def start_kl(at: Tensor) -> Tensor:
        policies, policy = rule.start(at, MODES), rule.policy
        old = policy.outputs(start, samples.observations), policy.extra(start)
        new = policy.outputs(policies, samples.observations), policy.extra(policies)
        return (samples.weights * policy.distribution.kl(*old, *new)).sum() / TASKS

    with Workers(1) as workers:
        objective, reference = MetaObjective(loop, workers), MetaObjective(without, workers)
        assert torch.equal(objective.loss_and_gradient()[1], reference.loss_and_gradient()[1])
        (loss, kl), (same_loss, adapted_kl) = objective.evaluate(elsewhere), reference.evaluate(elsewhere)
        product = objective.fisher_product(direction) - reference.fisher_product(direction)
    assert loss == same_loss
    assert kl == pytest.approx(adapted_kl + 0.7 * float(start_kl(elsewhere)), rel=1e-12)
    hessian_product = torch.autograd.functional.hvp(start_kl, meta, direction)[1]
    torch.testing.assert_close(product, 0.7 * hessian_product, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["start_kl", "reuse_kl"])
def test_divergences_are_for_trpo(name):
    with pytest.raises(UserError, match=f"l2f.{name} .* needs meta_optimiser trpo"):
        Config(algo="l2f", l2f={name: 1.0}, meta_optimiser="promp")


def test_reuse_kl_is_for_reused_rollouts():
    with pytest.raises(UserError, match=r"it needs l2f\.attenuation_rollouts reuse\."):
        L2FConfig(reuse_kl=1.0, attenuation_rollouts="fresh")


@pytest.mark.parametrize(
    ("choices", "penalty", "weight"),
    [
        ({}, 0.1, 0.1),
        ({"algo": "anil", "attenuate": True}, 0.1, 0.1),
        ({"l2f": {"embedding": "moments"}}, 0.1, 0.1),
        ({"l2f": {"reuse_kl": 0}}, 0, 0),
        ({"l2f": {"reuse_kl": 0.3}}, 0.3, 0.3),
        ({"l2f": {"start_kl": 0}}, 0.1, 0),
        ({"l2f": {"start_kl": 1, "reuse_kl": 0}}, 0, 1),
        ({"l2f": {"attenuation_rollouts": "fresh"}}, 0, 0),
        ({"l2f": {"attenuation_rollouts": "fresh", "start_kl": 1}}, 0, 1),
        ({"l2f": {"conditioning": "constant"}}, 0, 0),
        ({"meta_optimiser": "promp"}, 0, 0),
        ({"env": "sinusoid"}, 0, 0),
    ],
)
def test_reused_rollouts_are_held_near_by_default_where_trpo_can(choices, penalty, weight):
    _, rule = build_run(Config(**{"algo": "l2f", "hidden_sizes": (4,), **choices}).resolve())
    stages = rule.stages((1.0,), 0)
    assert (max(stage.kl_penalty for stage in stages), max(stage.kl_weight for stage in stages)) == (penalty, weight)


@pytest.mark.parametrize("start_kl", [0.0, 0.7])
def test_reuse_kl_adds_the_divergence_from_the_unattenuated_to_the_attenuated_policy_to_the_loss(start_kl):
    rule, meta = build(reuse_kl=0.3, start_kl=start_kl, embedding_gradient="through")
    plain, _ = build(start_kl=start_kl, embedding_gradient="through")
    loop = problems.run(rule, meta)
    without = replace(loop, rule=plain, stages=plain.stages((1.0,), 0))
    elsewhere, direction = meta + 0.05, torch.linspace(-1, 1, len(meta)).double()
    support = loop.supports[0]

    def penalty(at: Tensor) -> Tensor:
        policy, samples = rule.policy, support.samples
        before = rule.start(at, MODES)
        after = rule.stages((1.0,), 0)[0].update(at, before, support)
        both = [(policy.outputs(each, samples.observations), policy.extra(each)) for each in (before, after)]
        return 0.3 * (samples.weights * policy.distribution.kl(*both[0], *both[1])).sum() / TASKS

    with Workers(1) as workers:
        objective, reference = MetaObjective(loop, workers), MetaObjective(without, workers)
        (loss, gradient), (other, part) = objective.loss_and_gradient(), reference.loss_and_gradient()
        assert loss == pytest.approx(other + float(penalty(meta)), rel=1e-12)
        expected = torch.autograd.functional.vjp(penalty, meta)[1]
        torch.testing.assert_close(gradient - part, expected, rtol=1e-9, atol=1e-13)
        (loss, kl), (other, same_kl) = objective.evaluate(elsewhere), reference.evaluate(elsewhere)
        assert loss == pytest.approx(other + float(penalty(elsewhere)), rel=1e-12)
        assert kl == same_kl
        assert torch.equal(objective.fisher_product(direction), reference.fisher_product(direction))


def test_the_trust_region_knows_the_unattenuated_policy_so_that_steps_do_not_overshoot_the_penalty(tmp_path):
    """To scale the initialisation up and gamma down changes no adapted policy, and the penalty a lot."""

    def trials(**l2f):
        sizes = {"meta_batch_size": 10, "rollouts_per_task": 10, "horizon": 50, "hidden_sizes": (16, 16)}
        length = {"iterations": 4, "validate_every": 0, "seed": 2, "run_dir": tmp_path / str(len(l2f))}
        run = train(Config(env="navigation-bimodal", algo="l2f", l2f=l2f, **sizes, **length))
        return run.progress["line_search_trials"].sum()

    assert trials() < 0.7 * trials(start_kl=0)


def test_start_kl_counts_all_rows_of_a_support_with_fewer_episodes_than_the_queries():
    options = {"embedding": "gru", "attenuation_rollouts": "fresh", "start_kl": 0.7}
    rule, meta = build(**options)
    loop, rows = problems.run(rule, meta), torch.arange(problems.ROLLOUTS * problems.TIME)
    assert loop.supports[0].samples.num_rows < len(rows)
    direction = torch.linspace(-1, 1, len(meta)).double()
    with Workers(1) as workers:
        some, every = MetaObjective(loop, workers, fisher_rows=rows), MetaObjective(loop, workers)
        product, expected = some.fisher_product(direction), every.fisher_product(direction)
    torch.testing.assert_close(product, expected, rtol=1e-12, atol=1e-15)
