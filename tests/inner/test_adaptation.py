"""The inner loop: its reductions, what it leaves alone, and what `adapt` counts."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import problems
import pytest
import torch
from problems import MODES, TASKS, TIME, initial, make_policy, make_rule, make_support
from torch import Tensor

from metarl.data import Rollouts
from metarl.inner import loop as loop_module
from metarl.inner.loop import Adapted, adapt
from metarl.inner.rule import Adaptation
from metarl.policies.base import Policy

FRESH = {"attenuation_rollouts": "fresh"}
RULES = [
    ("maml", {}),
    ("fomaml", {}),
    ("l2f", {}),
    ("l2f", FRESH),
    ("l2f", {"transform": "affine", "scope": "filter"}),
    ("anil", {}),
    ("meta-sgd", {}),
    ("mamlpp", {"num_steps": 2}),
    ("mumomaml", {}),
    ("mumomaml", {"attenuate": True}),
    ("multi-maml", {"num_modes": 2}),
    ("context", {}),
]


class Collector:
    """Imaginary rollouts whose reward is 1 + phase at each step; remembers what it handed out."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.handed_out: list[Rollouts] = []
        self.parameters: list[Tensor] = []

    def __call__(self, parameters: Tensor, phase: int, wanted: int | None) -> Rollouts:
        assert phase == len(self.handed_out)
        rollouts = problems.collect(self.policy, parameters, 10 + phase, wanted or problems.ROLLOUTS)
        rollouts = replace(rollouts, rewards=(1 + phase) * torch.ones_like(rollouts.rewards))
        self.handed_out.append(rollouts)
        self.parameters.append(parameters.clone())
        return rollouts


def run(
    algo: str, options: dict, num_steps: int, each_task: bool = True
) -> tuple[Adapted, Collector, Adaptation, Tensor]:
    rule = make_rule(algo, make_policy(), **options)
    meta, collector = initial(rule), Collector(rule.policy)
    stages = rule.stages((1.0,) * num_steps)
    return adapt(rule, meta, stages, MODES, collector, "ratio", each_task), collector, rule, meta


@pytest.mark.parametrize(("algo", "options"), RULES)
def test_no_inner_steps_is_no_adaptation(algo, options):
    adapted, collector, rule, meta = run(algo, options, 0)
    start = rule.start(meta, MODES)[:, : rule.policy.layout.size]
    assert rule.stages(()) == []
    assert torch.equal(adapted.parameters, start)
    assert torch.equal(adapted.loop.replay(meta)[-1], start)
    assert adapted.loop.supports == []
    assert adapted.returns.shape == (TASKS, 1)
    assert adapted.env_steps == collector.handed_out[0].env_steps


@pytest.mark.parametrize("loss", ["ratio", "score"])
@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_inner_gradient_on_policy_is_the_vanilla_policy_gradient(kind, loss):
    policy = make_policy(kind)
    parameters = 0.5 * torch.randn(
        TASKS, policy.layout.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    support = make_support(policy, parameters, 1, loss)
    leaf = parameters.clone().requires_grad_()
    outputs = policy.outputs(leaf, support.samples.observations)
    if kind == "gaussian":
        normal = torch.distributions.Normal(outputs, policy.extra(leaf).exp()[:, None])
        log_prob = normal.log_prob(support.samples.actions).sum(-1)
    else:
        log_prob = torch.distributions.Categorical(logits=outputs).log_prob(support.samples.actions)
    steps = (support.samples.weights > 0).double()
    objective = (steps * support.samples.advantages * log_prob).sum(1) / steps.sum(1)
    expected = -torch.autograd.grad(objective.sum(), leaf)[0]
    got = support.gradient(parameters)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)


def test_ratio_and_score_gradients_differ_off_policy():
    policy = make_policy()
    meta = initial(make_rule("maml", policy)).expand(TASKS, -1)
    ratio, score = (make_support(policy, meta + 0.3, 1, loss).gradient(meta) for loss in ("ratio", "score"))
    assert not torch.allclose(ratio, score, rtol=1e-2)


def test_gradient_step_is_as_long_as_learning_rate_and_scale_say():
    rule = make_rule("maml", make_policy(), lr=0.7)
    meta, collector = initial(rule), Collector(rule.policy)
    adapted = adapt(rule, meta, rule.stages((1.0, 0.5)), MODES, collector, "ratio")
    expected = meta.expand(TASKS, -1)
    for scale, support in zip((1.0, 0.5), adapted.loop.supports, strict=True):
        expected = expected - scale * 0.7 * support.gradient(expected)
    torch.testing.assert_close(adapted.parameters, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("algo", "options"), RULES)
def test_batched_adaptation_equals_task_by_task(algo, options):
    one_by_one, *_ = run(algo, options, 2, each_task=True)
    together, *_ = run(algo, options, 2, each_task=False)
    torch.testing.assert_close(one_by_one.parameters, together.parameters, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("algo", "options"), RULES)
def test_fold_replays_what_adapt_did(algo, options):
    adapted, _, _, meta = run(algo, options, 2)
    replayed = adapted.loop.replay(meta)[-1]
    torch.testing.assert_close(replayed, adapted.parameters, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("algo", "options"), RULES)
def test_permuting_tasks_permutes_adapted_parameters(algo, options):
    adapted, _, _, meta = run(algo, options, 2)
    order = [2, 0, 1]
    supports = [s.concatenate([s.tasks(i, i + 1) for i in order]) for s in adapted.loop.supports]
    permuted = replace(adapted.loop, modes=MODES[order], supports=supports).replay(meta)[-1]
    torch.testing.assert_close(permuted, adapted.parameters[order], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("algo", "options"), RULES)
def test_adaptation_leaves_its_inputs_alone(algo, options):
    adapted, _, rule, meta = run(algo, options, 2)
    support, start = adapted.loop.supports[-1], rule.start(meta, MODES).contiguous()
    before = {name: values.clone() for name, values in support.rollouts.tensors().items()}
    parameters, meta_before = start.clone(), meta.clone()
    for stage in rule.stages((1.0,)):
        stage.update(meta, start, support)
    assert torch.equal(meta, meta_before)
    assert torch.equal(start, parameters)
    assert all(torch.equal(values, before[name]) for name, values in support.rollouts.tensors().items())


@pytest.mark.parametrize(
    ("algo", "options", "phases"),
    # The phase whose rollouts show the policy after 0, 1 and 2 gradient steps; every phase costs environment steps.
    [("maml", {}, [0, 1, 2]), ("l2f", {}, [0, 1, 2]), ("l2f", FRESH, [0, 2, 3]), ("mumomaml", {}, [0, 2, 3])],
)
def test_returns_after_each_gradient_step_and_environment_steps_are_counted(algo, options, phases):
    adapted, collector, *_ = run(algo, options, 2)
    assert len(collector.handed_out) == phases[-1] + 1
    expected = torch.tensor([float(TIME * (1 + phase)) for phase in phases], dtype=torch.float64)
    assert torch.equal(adapted.returns, expected.expand(TASKS, 3))
    assert adapted.env_steps == sum(rollouts.env_steps for rollouts in collector.handed_out)
    assert adapted.loop.queries[-1] is collector.handed_out[-1]
    assert torch.equal(collector.parameters[-1], adapted.parameters)


@pytest.mark.parametrize(
    ("algo", "options", "num_steps", "read"),
    # The phases whose rollouts had been read before the policy after 0, 1, ... gradient steps.
    [
        ("maml", {}, 0, [[]]),
        ("maml", {}, 2, [[], [0], [0, 1]]),
        ("l2f", {}, 2, [[], [0], [0, 1]]),
        ("l2f", FRESH, 2, [[], [0, 1], [0, 1, 2]]),
        ("mumomaml", {}, 1, [[], [0, 1]]),
    ],
)
def test_data_of_the_task_that_adaptation_has_read_is_counted(algo, options, num_steps, read):
    adapted, collector, *_ = run(algo, options, num_steps)
    for step, phases in enumerate(read):
        masks = [collector.handed_out[phase].mask for phase in phases]
        episodes = float(sum(mask.shape[1] for mask in masks))
        assert adapted.loop.consumed()[:, step, 0].tolist() == [episodes] * TASKS
        steps = sum((mask.sum((1, 2)) for mask in masks), torch.zeros(TASKS).double())
        assert torch.equal(adapted.loop.consumed()[:, step, 1], steps)
    assert adapted.loop.consumed().shape == (TASKS, num_steps + 1, 2)


def test_dropped_episodes_are_no_data():
    rollouts = problems.collect(make_policy(), torch.zeros(TASKS, make_policy().layout.size).double(), 0)
    mask = rollouts.mask.clone()
    mask[1, 0] = 0
    episodes, steps = replace(rollouts, mask=mask).amounts().T
    assert episodes.tolist() == [4, 3, 4]
    assert torch.equal(rollouts.amounts()[:, 1] - steps, torch.tensor([0, rollouts.mask[1, 0].sum(), 0]).double())


@pytest.mark.parametrize(
    ("algo", "options", "phase"),
    # The phase whose rollouts show the attenuated or modulated policy before its first gradient step.
    [
        ("maml", {}, None),
        ("l2f", {}, None),
        ("l2f", FRESH, 1),
        ("mumomaml", {}, 1),
        ("mumomaml", {"attenuate": True}, 1),
    ],
)
def test_return_of_the_modulated_policy_is_told_where_it_is_measured(algo, options, phase):
    adapted, collector, *_ = run(algo, options, 2)
    if phase is None:
        assert adapted.modulated_returns is None
        return
    assert torch.equal(adapted.modulated_returns, torch.full((TASKS,), float(TIME * (1 + phase))).double())
    assert torch.equal(adapted.modulated_returns, collector.handed_out[phase].mean_returns())


def test_only_the_first_step_of_l2f_reuses_rollouts():
    adapted, collector, *_ = run("l2f", {}, 2)
    first, second, _ = collector.handed_out
    rollouts = [support.rollouts for support in adapted.loop.supports]
    assert all(got is want for got, want in zip(rollouts, (first, first, second), strict=True))
    assert adapted.loop.supports[0] is adapted.loop.supports[1]


def test_effective_sample_size_is_told_for_reused_rollouts_only():
    assert run("maml", {}, 2)[0].effective_sample_size == []
    assert run("l2f", FRESH, 2)[0].effective_sample_size == []
    (size,) = run("l2f", {}, 2)[0].effective_sample_size
    assert size.shape == (TASKS,)
    assert (size < 1).all()
    assert (size > 0).all()


def test_effective_sample_size_of_rollouts_on_policy_is_one(monkeypatch):
    ones = torch.ones(1).double()
    monkeypatch.setattr("metarl.agents.l2f.L2F._transformation", lambda self, meta, embedding: (ones, None))
    (size,) = run("l2f", {}, 1)[0].effective_sample_size
    torch.testing.assert_close(size, torch.ones(TASKS).double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("loss", "shift", "of_steps"),
    [
        *(("ratio", shift, [0.0, -1.0, -3.0, -2.0]) for shift in (0.0, -1000.0, 1000.0)),
        ("dice", 0.0, [0.0, -1.0, -3.0, -5.0]),  # Two episodes of three steps, of which the last one took no step.
    ],
)
def test_effective_sample_size_is_that_of_the_weights_but_for_a_common_factor(loss, shift, of_steps, monkeypatch):
    log_ratios = torch.tensor([[0.0, -1.0, 5000.0, -3.0, -2.0, 5000.0]]).double() + shift
    alive = torch.tensor([[1.0, 1, 0, 1, 1, 0]])
    samples = SimpleNamespace(
        observations=None, actions=None, log_probs=torch.zeros(1, 6), weights=alive, episode_length=3
    )
    policy = SimpleNamespace(log_prob=lambda *arguments: log_ratios)
    monkeypatch.setattr(loop_module, "require_derivatives", lambda policy: policy)
    size = loop_module._effective_sample_size(None, SimpleNamespace(samples=samples, policy=policy, loss=loss))
    weights = np.exp(of_steps)
    assert float(size) == pytest.approx(weights.sum() ** 2 / (weights**2).sum() / 4, rel=1e-12)


def test_support_of_another_number_of_tasks_is_refused():
    rule = make_rule("maml", make_policy())
    meta = initial(rule)
    support = make_support(rule.policy, meta.expand(TASKS, -1), 0)
    with pytest.raises(ValueError, match=f"support must hold 1 tasks, got {TASKS}"):
        support.gradient(meta[None])
