"""ProMP: its loss and gradient, what clips them, and what Adam remembers."""

import problems
import pytest
import torch
from problems import initial, make_policy, make_rule
from tiny_runs import assert_same_run, numbers, tiny

from metarl import ProMPConfig, UserError
from metarl.common.parallel import Workers
from metarl.data import LearnerState
from metarl.outer.adam import adam_of
from metarl.outer.objective import MetaObjective
from metarl.outer.promp import promp_step
from metarl.runs.training import train

RULES = [
    ("maml", {}),
    ("l2f", {"embedding_gradient": "through"}),
    ("mamlpp", {"num_steps": 2, "first_order_iterations": 0}),
    ("mumomaml", {}),
]


@pytest.fixture
def workers():
    with Workers(2) as workers:
        yield workers


def build(algo, workers, options=None, kind="gaussian"):
    rule = make_rule(algo, make_policy(kind), **(options or {}))
    loop = problems.run(rule, initial(rule), 2)
    return MetaObjective(loop, workers), loop


def random_like(meta, seed=0):
    return torch.randn(meta.shape, dtype=meta.dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
@pytest.mark.parametrize(("algo", "options"), RULES)
def test_gradient_equals_finite_differences_away_from_the_old_parameters(algo, options, kind, workers):
    objective, loop = build(algo, workers, options, kind)
    meta, direction, h = loop.meta + 0.02 * random_like(loop.meta, 1), random_like(loop.meta), 1e-5
    direction /= direction.norm()
    _, gradient = objective.proximal(meta, 0.05, 3.0)
    up, down = (objective.proximal(meta + sign * h * direction, 0.05, 3.0)[0] for sign in (1, -1))
    assert float(gradient @ direction) == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-9)


def test_where_the_rollouts_come_from_the_gradient_is_the_surrogates(workers):
    objective, loop = build("maml", workers)
    loss, gradient = objective.proximal(loop.meta, 0.3, 10.0)
    expected_loss, expected = objective.loss_and_gradient()
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-13)


def test_ratios_outside_the_clip_count_as_at_its_edge_where_that_is_worse(workers):
    objective, loop = build("maml", workers)
    meta, policy, samples = loop.meta + 0.1 * random_like(loop.meta), loop.rule.policy, loop.queries[0].samples
    adapted = loop.replay(meta)[-1]
    outputs, extra = policy.outputs(adapted, samples.observations), policy.extra(adapted)
    ratio = torch.exp(policy.distribution.log_prob(outputs, extra, samples.actions) - samples.log_probs)
    pessimistic = torch.where(samples.advantages > 0, ratio.clamp(max=1.2), ratio.clamp(min=0.8))
    bounded = (samples.weights > 0) & (pessimistic != ratio)
    assert 0.1 < bounded.sum() / (samples.weights > 0).sum() < 0.6
    expected = -(samples.weights * samples.advantages * pessimistic).sum() / problems.TASKS
    assert objective.proximal(meta, 0.2, 0.0)[0] == pytest.approx(float(expected), rel=1e-12)
    assert objective.proximal(meta, 1e6, 0.0)[0] == pytest.approx(objective.evaluate(meta)[0], rel=1e-12)


def test_penalty_is_the_divergence_of_the_policies_that_collected_the_support(workers):
    objective, loop = build("maml", workers)
    meta = loop.meta + 0.05 * random_like(loop.meta)
    with_penalty, without = (objective.proximal(meta, 0.3, weight)[0] for weight in (2.0, 0.0))
    policy, total = loop.rule.policy, 0.0
    olds, news = loop.replay(loop.meta)[:-1], loop.replay(meta)[:-1]
    for old, new, support in zip(olds, news, loop.supports, strict=True):
        samples = support.samples
        old_at, new_at = ((policy.outputs(p, samples.observations), policy.extra(p)) for p in (old, new))
        total += float((samples.weights * policy.distribution.kl(*old_at, *new_at)).sum()) / problems.TASKS / 2
    assert total > 1e-3
    assert with_penalty - without == pytest.approx(2 * total, rel=1e-10)


def test_step_is_adams(workers):
    objective, loop = build("maml", workers)
    config = ProMPConfig(lr=0.01, epochs=3)
    state, report = promp_step(LearnerState(loop.meta, {}), objective, config)
    leaf = loop.meta.clone().requires_grad_()
    adam = torch.optim.Adam([leaf], lr=0.01)
    for _ in range(3):
        leaf.grad = objective.proximal(leaf.detach(), config.clip, config.kl_penalty)[1]
        adam.step()
    moved, numbers = state.meta, report.numbers
    assert torch.equal(moved, leaf.detach())
    assert (report.outcome, numbers["epochs"]) == ("3 epochs", 3)
    assert numbers["surrogate_gain"] == pytest.approx(objective.evaluate(loop.meta)[0] - objective.evaluate(moved)[0])
    assert numbers["surrogate_gain"] > 0
    assert numbers["kl"] == pytest.approx(objective.evaluate(moved)[1])
    assert float(state.memory["step"]) == 3
    # The memory makes a difference to the next step, which starts with all of it and leaves it as it was.
    before = {name: value.clone() for name, value in state.memory.items()}
    again, _ = promp_step(state, objective, config)
    forgetful, _ = promp_step(LearnerState(moved, {}), objective, config)
    assert float(again.memory["step"]) == 6
    assert all(torch.equal(value, before[name]) for name, value in state.memory.items())
    assert not torch.allclose(again.meta, forgetful.meta, rtol=1e-3)


def test_gradient_that_is_not_finite_moves_nothing():
    class Broken:
        def proximal(self, meta, clip, kl_penalty):
            return 0.0, torch.full_like(meta, float("nan"))

    moments = {"exp_avg": torch.arange(3.0), "exp_avg_sq": torch.arange(3.0)}
    state = LearnerState(torch.ones(3), {"step": torch.tensor(1.0), **moments})
    kept, report = promp_step(state, Broken(), ProMPConfig())
    assert kept is state
    assert (report.outcome, report.numbers["epochs"]) == ("non-finite", 0)


def test_run_learns_and_a_resumed_one_remembers_adams_moments(tmp_path):
    settings = {"meta_optimiser": "promp", "promp": ProMPConfig(lr=0.01)}
    train(tiny(tmp_path / "whole", iterations=4, **settings))
    train(tiny(tmp_path / "parts", iterations=2, **settings))
    train(tiny(tmp_path / "parts", iterations=4, resume=True, **settings))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert {row["outcome"] for row in numbers(tmp_path / "whole")} == {"5 epochs"}
    assert {row["epochs"] for row in numbers(tmp_path / "whole")} == {"5"}
    assert all(float(row["surrogate_gain"]) > 0 for row in numbers(tmp_path / "whole"))


@pytest.mark.parametrize(
    "memory",
    [{"step": torch.tensor(1.0)}, {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(3)}],
)
def test_a_memory_that_is_not_adams_is_refused(memory):
    with pytest.raises(UserError, match="the checkpoint does not hold what Adam remembers; train again"):
        adam_of(LearnerState(torch.zeros(3), memory), 0.1)
