"""Supervised tasks through the same rules: losses, gradients and Hessian products against autograd."""

import numpy as np
import problems
import pytest
import torch
from problems import ACTIONS, HIDDEN, MODES, OBSERVATION, TASKS, initial, make_rule
from torch import Tensor

from metarl import UserError, get_family
from metarl.common.parallel import Workers
from metarl.common.streams import Purpose, stream
from metarl.config.settings import ExampleSettings
from metarl.data import ExampleBatch
from metarl.inner.rule import Adaptation
from metarl.inner.supervised import SupervisedRunner, fit, measure
from metarl.inner.support import SupervisedSupport
from metarl.outer.objective import MetaObjective
from metarl.policies.distributions import Categorical, SquaredError
from metarl.policies.mlp import MLPPolicy

EXAMPLES = 6
RULES = [
    ("maml", {}),
    ("anil", {}),
    ("meta-sgd", {}),
    ("mamlpp", {"num_steps": 2, "first_order_iterations": 0, "multi_step_iterations": 5}),
    ("l2f", {"embedding_gradient": "through"}),
    ("mumomaml", {}),
    ("multi-maml", {"num_modes": 2}),
    ("context", {}),
]


def make_policy(classes: bool) -> MLPPolicy:
    distribution = Categorical(ACTIONS + 1) if classes else SquaredError(ACTIONS)
    return MLPPolicy(OBSERVATION, distribution, HIDDEN, "tanh")


def examples(classes: bool, seed: int) -> ExampleBatch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(TASKS, EXAMPLES, OBSERVATION, dtype=torch.float64, generator=generator)
    if classes:
        return ExampleBatch(inputs, torch.randint(ACTIONS + 1, (TASKS, EXAMPLES), generator=generator))
    return ExampleBatch(inputs, torch.randn(TASKS, EXAMPLES, ACTIONS, dtype=torch.float64, generator=generator))


def loss(policy: MLPPolicy, parameters: Tensor, batch: ExampleBatch) -> Tensor:
    """The loss of each task as PyTorch computes it, [task]."""
    outputs = policy.outputs(parameters, batch.inputs)
    if batch.targets.ndim == 2:
        losses = torch.nn.functional.cross_entropy(outputs.mT, batch.targets, reduction="none")
        return losses.mean(1)
    return torch.nn.functional.mse_loss(outputs, batch.targets, reduction="none").mean((1, 2))


def adapted_by_autograd(rule: Adaptation, meta: Tensor, support: ExampleBatch) -> list[Tensor]:
    """The policies after every stage, with the losses' gradients from autograd."""

    class Plain(SupervisedSupport):
        def gradient(self, parameters: Tensor) -> Tensor:
            leaf = parameters if parameters.requires_grad else parameters.detach().requires_grad_()
            with torch.enable_grad():
                total = loss(rule.policy, leaf, support).sum()
                gradient = torch.autograd.grad(total, leaf, create_graph=True)[0]
            return gradient if self.adapted is None else gradient * rule.policy.layout.members(self.adapted)

        def projected_gradient(self, parameters: Tensor, directions: Tensor) -> Tensor:
            return (self.gradient(parameters)[:, None] * directions).sum(-1)

    size, parameters = rule.policy.layout.size, rule.start(meta, MODES)
    policies = []
    for stage in rule.stages((1.0, 1.0), 0):
        parameters = stage.update(meta, parameters, Plain(rule.policy, support, "score"))
        policies.append(parameters[:, :size])
    return policies


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize(("algo", "options"), RULES)
def test_meta_gradient_is_that_of_the_plain_loss(algo, options, classes):
    rule = make_rule(algo, make_policy(classes), 0.1, **options)
    meta, support, query = initial(rule), examples(classes, 1), examples(classes, 2)
    stages = rule.stages((1.0, 1.0), 0)
    loop = fit(rule, meta, stages, MODES, support, query).loop
    with Workers(1) as workers:
        value, gradient = MetaObjective(loop, workers).loss_and_gradient()
    leaf = meta.clone().requires_grad_()
    policies = adapted_by_autograd(rule, leaf, support)
    weighted = [
        stage.query_weight * loss(rule.policy, p, query).mean() for stage, p in zip(stages, policies, strict=True)
    ]
    rest = 1 - sum(stage.query_weight for stage in stages)
    expected = sum(weighted) + rest * loss(rule.policy, policies[-1], query).mean()
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    (of_plain,) = torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(gradient, of_plain, rtol=1e-10, atol=1e-13)
    assert float(gradient.norm()) > 0.01


def test_squared_error_is_the_score_loss_of_a_normal_distribution_less_a_constant():
    outputs, targets = torch.randn(2, 3, 4, 5, dtype=torch.float64).unbind()
    ours = SquaredError(5).log_prob(outputs, outputs.new_zeros(3, 0), targets)
    normal = torch.distributions.Normal(outputs, (5 / 2) ** 0.5).log_prob(targets).sum(-1)
    difference = normal - ours
    torch.testing.assert_close(difference, difference[:1, :1].expand_as(difference), rtol=1e-12, atol=0)


@pytest.mark.parametrize("classes", [False, True])
def test_every_step_is_measured_on_the_query_set(classes):
    rule = make_rule("maml", make_policy(classes), 0.1)
    meta, support, query = initial(rule), examples(classes, 1), examples(classes, 2)
    adapted = fit(rule, meta, rule.stages((1.0, 1.0)), MODES, support, query)
    policies = [rule.start(meta, MODES), *adapted_by_autograd(rule, meta, support)]
    for step, parameters in enumerate(policies):
        outputs = rule.policy.outputs(parameters, query.inputs)
        if classes:
            expected = (outputs.argmax(-1) == query.targets).double().mean(1)
        else:
            expected = loss(rule.policy, parameters, query)
        torch.testing.assert_close(adapted.returns[:, step], expected.detach(), rtol=1e-11, atol=0)
    assert adapted.modulated_returns is None
    assert adapted.env_steps == 0
    # Every step reads the same examples.
    assert adapted.loop.consumed().tolist() == [[[0, 0], [EXAMPLES, 0], [EXAMPLES, 0]]] * TASKS


def test_a_classifier_whose_outputs_are_no_numbers_is_not_right_by_chance():
    rule, query = make_rule("maml", make_policy(classes=True), 0.1), examples(True, 2)
    parameters = rule.start(initial(rule), MODES).clone()
    expected = measure(rule, parameters, query)
    parameters[1] = torch.nan
    accuracy = measure(rule, parameters, query)
    assert accuracy.isnan().tolist() == [number == 1 for number in range(TASKS)]
    torch.testing.assert_close(accuracy[0], expected[0], rtol=0, atol=0)


def test_attenuated_error_is_measured_before_the_first_step():
    rule = make_rule("l2f", make_policy(classes=False), 0.1)
    meta, support, query = initial(rule), examples(False, 1), examples(False, 2)
    adapted = fit(rule, meta, rule.stages((1.0,)), MODES, support, query)
    attenuated = adapted.loop.replay(meta)[1]
    assert torch.equal(adapted.modulated_returns, measure(rule, attenuated, query))
    assert adapted.returns.shape == (TASKS, 2)


def test_embedding_reads_the_pairs():
    support = SupervisedSupport(make_policy(True), examples(True, 1), "score")
    features, lengths = support.trajectories(1)
    assert features.shape == (TASKS, 1, EXAMPLES, OBSERVATION + ACTIONS + 1 + 1)
    assert torch.equal(features[:, 0, :, :OBSERVATION], support.data.inputs)
    assert torch.equal(features[:, 0, :, OBSERVATION:-1].argmax(-1), support.data.targets)
    assert not features[..., -1].any()
    assert lengths.tolist() == [[EXAMPLES]] * TASKS
    with pytest.raises(UserError, match="reads 2 trajectories of each task, and supervised tasks have only one"):
        support.trajectories(2)


def test_examples_depend_on_seed_and_task_number_alone():
    family = get_family("sinusoid")
    rule = make_rule("maml", MLPPolicy(1, SquaredError(1), (4,), "relu"))
    meta, tasks = rule.initial(np.random.default_rng(0)), family.sample_tasks(3, np.random.default_rng(1))
    runner = SupervisedRunner(family, rule, ExampleSettings(shots=5, queries=7), torch.device("cpu"))

    def run(tasks, *key):
        return runner.run(meta, tasks, rule.stages((1.0,)), 3, Purpose.TEST_ROLLOUTS, *key)[0]

    adapted, again, fewer = run(tasks, 0), run(tasks, 0), run(tasks[:2], 0)
    assert torch.equal(adapted.returns, again.returns)
    torch.testing.assert_close(adapted.returns[:2], fewer.returns)
    assert not torch.equal(adapted.returns, run(tasks, 1).returns)
    support, query = adapted.loop.supports[0].data, adapted.loop.queries[-1]
    assert (support.num_parts, query.num_parts) == (5, 7)
    drawn = family.draw_sets(tasks[2], 5, 7, stream(3, Purpose.TEST_ROLLOUTS, 0, 2))
    np.testing.assert_array_equal(support.inputs[2], drawn[0].inputs)
    np.testing.assert_array_equal(query.targets[2], drawn[1].targets)


def test_traced_replay_is_forgotten_where_it_no_longer_holds():
    rule = make_rule("maml", make_policy(False), 0.1)
    loop = fit(rule, initial(rule), rule.stages((1.0,)), MODES, examples(False, 1), examples(False, 2)).loop
    assert loop.traced is not None
    assert loop.tasks(0, 1).traced is None
    assert loop.with_curvature(0.5).traced is None
    assert loop.with_curvature(1.0) is loop
    assert len(loop.pieces()) == 1
    assert len(problems.run(rule_of_rollouts(), initial(rule_of_rollouts())).pieces()) == TASKS


def rule_of_rollouts() -> Adaptation:
    return make_rule("maml", problems.make_policy())
