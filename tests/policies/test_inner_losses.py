"""What distinguishes the inner losses, on decision processes that are enumerated: no sampling, and no tolerance for it.

Derivatives are those of the gain, minus the loss. References come from dynamic programming, without trajectories.
"""

from collections.abc import Callable
from dataclasses import replace

import problems
import pytest
import torch
from enumeration import Enumeration
from problems import TASKS, TIME, make_policy, make_rule
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from metarl.common.parallel import Workers
from metarl.data import Rollouts, Samples
from metarl.inner.differentiable import GraphJacobian
from metarl.inner.loop import adapt
from metarl.inner.support import PolicyGradientSupport
from metarl.outer.objective import MetaObjective
from metarl.policies.distributions import Categorical
from metarl.policies.losses import inner_loss
from metarl.policies.mlp import MLPPolicy

LOSSES = ["ratio", "score", "dice"]
BASELINES = ["none", "random", "values"]
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def softmax_policy(hidden_sizes: tuple[int, ...] = ()) -> MLPPolicy:
    """Without hidden layers, the tabular softmax."""
    return MLPPolicy(Enumeration.num_states, Categorical(Enumeration.num_actions), hidden_sizes, "tanh")


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def distance(got: Tensor, wanted: Tensor) -> float:
    """Norm of the difference, in norms of what is wanted."""
    return float((got - wanted).norm() / wanted.norm())


class Problem:
    """An enumerated process, and rollouts of a policy with parameters theta [parameter] in it."""

    def __init__(self, hidden_sizes: tuple[int, ...], ending: bool, baseline: str = "none", horizon: int = 3) -> None:
        self.process = Enumeration(ending, horizon=horizon)
        self.policy = softmax_policy(hidden_sizes)
        self.theta = normal(self.policy.layout.size, seed=1)
        self.elsewhere = self.theta + 0.5 * normal(self.policy.layout.size, seed=2)
        subtracted = {
            "none": None,
            "random": 2 * normal(1, horizon, Enumeration.num_states, seed=5),
            "values": self.process.values(self.policy, self.theta[None]),
        }[baseline]
        self.rollouts = self.process.rollouts(self.policy, self.theta[None], subtracted)

    def gain(self, loss: str, theta: Tensor) -> Tensor:
        samples = self.rollouts.whole_episodes
        outputs = self.policy.outputs(theta[None], samples.observations)
        return -inner_loss(self.policy.distribution, outputs, self.policy.extra(theta[None]), samples, loss)[0]

    def gradient(self, loss: str, theta: Tensor) -> Tensor:
        """The kernel's, [parameter]."""
        return -self.policy.inner_gradient(theta[None], self.rollouts.whole_episodes, loss)[0]

    def hessian(self, loss: str, theta: Tensor) -> Tensor:
        """The kernel's, [parameter, parameter]."""
        curvature = self.policy.inner_curvature(theta[None], self.rollouts.whole_episodes, loss)
        return -torch.cat([curvature.pushforward(row[None]) for row in torch.eye(len(theta), dtype=torch.float64)])

    def expected_return(self, theta: Tensor) -> Tensor:
        return self.process.expected_return(self.policy, theta[None])[0]

    def log_policy(self, theta: Tensor) -> Tensor:
        """[state, action]."""
        return self.process.log_policy(self.policy, theta[None])[0]

    def single_step(self, kind: str, theta: Tensor) -> Tensor:
        """What is expected of pi(a|s) / pi_behaviour(a|s) or log pi(a|s), times the behaviour policy's action value."""
        visits = self.process.visits(self.policy, self.theta[None])[0]
        values = self.process.action_values(self.policy, self.theta[None])[0]
        behaviour, log_policy = self.log_policy(self.theta).exp(), self.log_policy(theta)
        likelihood = {"ratio": log_policy.exp() / behaviour, "score": log_policy}[kind]
        return torch.einsum("ts,sa,tsa,sa->", visits, behaviour, values, likelihood)

    def cross_terms(self) -> Tensor:
        """Expected sum over t of A_t (u_t (u_0 + ... + u_{t-1})^T + transpose), u_t the gradient of log pi(a_t|s_t)."""
        scores = self._each_step(jacobian(self.log_policy, self.theta))
        product = torch.einsum("rt,rti,rtj->ij", self._advantages(), scores, scores.cumsum(1) - scores)
        return product + product.T

    def score_hessian(self) -> Tensor:
        """Expected sum over t of A_t times the Hessian of log pi(a_t|s_t)."""

        def weighted(theta: Tensor) -> Tensor:
            return (self._advantages() * self._each_step(self.log_policy(theta))).sum()

        return hessian(weighted, self.theta)

    def _each_step(self, table: Tensor) -> Tensor:
        return table[self.process.states, self.process.actions]

    def _advantages(self) -> Tensor:
        """A_t times the trajectory's probability, [rollout, time]."""
        samples = self.rollouts.whole_episodes
        return (samples.weights * samples.advantages).view(self.process.states.shape)


@pytest.fixture(params=[(), (4,)], ids=["tabular", "network"])
def hidden_sizes(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["endless", "ending"])
def ending(request):
    return request.param


@pytest.fixture(params=BASELINES)
def problem(request, hidden_sizes, ending):
    return Problem(hidden_sizes, ending, request.param)


@pytest.fixture
def plain(hidden_sizes, ending):
    return Problem(hidden_sizes, ending)


@pytest.mark.parametrize(
    ("ending", "lengths"),
    # Two actions in each step; three states follow or, where the third is the end, two.
    [(False, {3: 2 * 3 * 2 * 3 * 2}), (True, {1: 2, 2: 2 * 2 * 2, 3: 2 * 2 * 2 * 2 * 2})],
)
def test_enumeration_holds_every_trajectory_once(ending, lengths):
    process = Enumeration(ending)
    paths = torch.cat([process.states, process.actions], 1)
    assert len(paths.unique(dim=0)) == len(paths)
    assert {int(n): int((process.mask.sum(1) == n).sum()) for n in process.mask.sum(1).unique()} == lengths


def test_mean_over_the_enumeration_is_the_expected_return(plain):
    mean, elsewhere = plain.rollouts.mean_returns()[0], plain.expected_return(plain.elsewhere)
    torch.testing.assert_close(mean, plain.expected_return(plain.theta), **EXACT)
    assert distance(elsewhere, mean) > 0.001


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_at_the_behaviour_policy_is_that_of_the_expected_return(loss, problem):
    exact = jacobian(problem.expected_return, problem.theta)
    assert exact.norm() > 0.1
    torch.testing.assert_close(problem.gradient(loss, problem.theta), exact, **EXACT)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_of_immediate_rewards_is_not_that_of_the_expected_return(loss, plain):
    steps_per_rollout = plain.rollouts.mask.sum() / len(plain.process.states)
    plain.rollouts = replace(plain.rollouts, advantages=plain.rollouts.rewards * steps_per_rollout)
    assert distance(plain.gradient(loss, plain.theta), jacobian(plain.expected_return, plain.theta)) > 0.1


def test_hessian_of_dice_is_that_of_the_expected_return(problem):
    exact = hessian(problem.expected_return, problem.theta)
    assert exact.norm() > 0.1
    torch.testing.assert_close(problem.hessian("dice", problem.theta), exact, **EXACT)


def test_hessian_of_ratio_lacks_the_cross_terms_between_time_steps_and_nothing_else(problem):
    exact, cross = hessian(problem.expected_return, problem.theta), problem.cross_terms()
    torch.testing.assert_close(problem.hessian("ratio", problem.theta), exact - cross, **EXACT)
    assert cross.norm() / exact.norm() > 0.05


def test_hessian_of_score_is_neither_the_true_one_nor_that_of_ratio(problem):
    got = problem.hessian("score", problem.theta)
    torch.testing.assert_close(got, problem.score_hessian(), **EXACT)
    assert distance(got, hessian(problem.expected_return, problem.theta)) > 0.4
    assert distance(got, problem.hessian("ratio", problem.theta)) > 0.4


def test_hessian_of_score_alone_depends_on_the_baseline(hidden_sizes, ending):
    without, other = (Problem(hidden_sizes, ending, baseline) for baseline in ("none", "random"))
    for loss in ("ratio", "dice"):
        torch.testing.assert_close(other.hessian(loss, other.theta), without.hessian(loss, without.theta), **EXACT)
    assert distance(other.hessian("score", other.theta), without.hessian("score", without.theta)) > 0.1


def test_hessian_of_score_vanishes_for_a_tabular_softmax_whose_values_are_subtracted(ending):
    tabular, network = Problem((), ending, "values"), Problem((4,), ending, "values")
    assert tabular.hessian("score", tabular.theta).norm() < 1e-14
    assert tabular.hessian("ratio", tabular.theta).norm() > 0.1
    assert network.hessian("score", network.theta).norm() > 0.1


def test_hessians_of_ratio_and_dice_are_the_same_true_one_for_a_single_step(hidden_sizes):
    single = Problem(hidden_sizes, ending=False, horizon=1)
    exact = hessian(single.expected_return, single.theta)
    assert exact.norm() > 0.01
    for loss in ("ratio", "dice"):
        torch.testing.assert_close(single.hessian(loss, single.theta), exact, **EXACT)
    assert distance(single.hessian("score", single.theta), exact) > 0.1


def test_dice_is_the_change_of_the_expected_return_off_policy_too(problem):
    theta = problem.elsewhere
    change = problem.expected_return(theta) - problem.expected_return(problem.theta)
    torch.testing.assert_close(problem.gain("dice", theta), change, **EXACT)
    torch.testing.assert_close(problem.gradient("dice", theta), jacobian(problem.expected_return, theta), **EXACT)
    torch.testing.assert_close(problem.hessian("dice", theta), hessian(problem.expected_return, theta), **EXACT)


@pytest.mark.parametrize("loss", ["ratio", "score"])
def test_ratio_and_score_keep_the_states_of_the_behaviour_policy(loss, plain):
    theta = plain.elsewhere

    def expectation(theta: Tensor) -> Tensor:
        return plain.single_step(loss, theta)

    torch.testing.assert_close(plain.gain(loss, theta), expectation(theta), **EXACT)
    torch.testing.assert_close(plain.gradient(loss, theta), jacobian(expectation, theta), **EXACT)
    torch.testing.assert_close(plain.hessian(loss, theta), hessian(expectation, theta), **EXACT)
    assert distance(plain.gradient(loss, theta), jacobian(plain.expected_return, theta)) > 0.01


class EnumeratedMAML:
    """MAML whose support and query rollouts are enumerated; the references are differentiated through exact steps."""

    step_size, num_tasks = 0.7, 3

    def __init__(self, loss: str, scales: tuple[float, ...], algo: str = "maml") -> None:
        self.process, self.policy, self.scales = Enumeration(True, self.num_tasks), softmax_policy((4,)), scales
        rule = make_rule(algo, self.policy, self.step_size)
        self.meta = normal(self.policy.layout.size, seed=1)
        modes = torch.zeros(self.num_tasks, dtype=torch.int64)
        self.adapted = adapt(rule, self.meta, rule.stages(scales), modes, self._collect, loss)

    def meta_gradient(self) -> Tensor:
        with Workers(1) as workers:
            return -MetaObjective(self.adapted.loop, workers).loss_and_gradient()[1]

    def exact_policies(self, meta: Tensor) -> list[Tensor]:
        """After each exact policy-gradient step, [task, parameter]; differentiable."""
        policies = [meta.expand(self.num_tasks, -1)]
        for scale in self.scales:
            total = self.process.expected_return(self.policy, policies[-1]).sum()
            (gradient,) = torch.autograd.grad(total, policies[-1], create_graph=True)
            policies.append(policies[-1] + scale * self.step_size * gradient)
        return policies

    def exact_meta_gradient(self) -> Tensor:
        def mean_return(meta: Tensor) -> Tensor:
            return self.process.expected_return(self.policy, self.exact_policies(meta)[-1]).mean()

        return jacobian(mean_return, self.meta)

    def _collect(self, policies: Tensor, phase: int, rollouts: int | None) -> Rollouts:
        return self.process.rollouts(self.policy, policies)


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5)])
@pytest.mark.parametrize("loss", LOSSES)
def test_adaptation_takes_exact_policy_gradient_steps_with_every_loss(loss, scales):
    maml = EnumeratedMAML(loss, scales)
    policies = [policy.detach() for policy in maml.exact_policies(maml.meta.clone().requires_grad_())]
    returns = torch.stack([maml.process.expected_return(maml.policy, policy) for policy in policies], 1)
    torch.testing.assert_close(maml.adapted.parameters, policies[-1], **EXACT)
    torch.testing.assert_close(maml.adapted.returns, returns, **EXACT)
    assert (returns.diff(dim=1) > 0.01).all()


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5)])
def test_meta_gradient_through_dice_is_that_of_the_return_after_exact_steps(scales):
    maml = EnumeratedMAML("dice", scales)
    torch.testing.assert_close(maml.meta_gradient(), maml.exact_meta_gradient(), **EXACT)


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5)])
@pytest.mark.parametrize(("algo", "loss"), [("maml", "ratio"), ("maml", "score"), ("fomaml", "dice")])
def test_meta_gradient_through_other_losses_and_of_first_order_is_another(algo, loss, scales):
    maml = EnumeratedMAML(loss, scales, algo)
    assert distance(maml.meta_gradient(), maml.exact_meta_gradient()) > 0.01


class Sampled:
    """Imaginary rollouts of unequal length, and the parameters [task, parameter] of policies other than their own."""

    def __init__(self, kind: str, activation: str) -> None:
        self.policy = make_policy(kind, activation)
        behaviour = 0.5 * normal(TASKS, self.policy.layout.size, seed=1)
        self.rollouts = problems.collect(self.policy, behaviour, seed=2)
        self.parameters = behaviour + 0.2 * normal(TASKS, self.policy.layout.size, seed=3)
        self.direction = normal(TASKS, self.policy.layout.size, seed=4)

    def loss(self, parameters: Tensor, samples: Samples, loss: str) -> Tensor:
        outputs, extra = self.policy.outputs(parameters, samples.observations), self.policy.extra(parameters)
        return inner_loss(self.policy.distribution, outputs, extra, samples, loss)

    def kernel(self, samples: Samples, loss: str = "dice") -> tuple[Tensor, Tensor]:
        """Gradient and Hessian times the direction, [task, parameter] each."""
        curvature = self.policy.inner_curvature(self.parameters, samples, loss)
        return self.policy.inner_gradient(self.parameters, samples, loss), curvature.pushforward(self.direction)

    def autograd(self, samples: Samples, loss: str) -> tuple[Tensor, Tensor]:
        leaf = self.parameters.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(leaf, samples, loss).sum(), leaf, create_graph=True)
        return gradient.detach(), torch.autograd.grad(gradient, leaf, self.direction)[0]


def assert_pairs_equal(got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert other.norm() > 0.1
        torch.testing.assert_close(one, other, **EXACT)


@pytest.fixture(params=["gaussian", "categorical"])
def sampled(request):
    return Sampled(request.param, "tanh")


# Less than an episode, one and a bit, three and then the fourth, all.
@pytest.mark.parametrize("block_rows", [TIME - 2, TIME + 2, 3 * TIME, 2000])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("kind", ["gaussian", "categorical", "categoricals"])
@pytest.mark.parametrize("loss", LOSSES)
def test_kernels_derivatives_are_those_of_the_loss_whatever_the_blocks(loss, kind, activation, block_rows, monkeypatch):
    sampled = Sampled(kind, activation)
    samples = sampled.rollouts.whole_episodes
    assert len(sampled.rollouts.mask.sum(2).unique()) > 1
    wanted = sampled.autograd(samples, loss)
    monkeypatch.setattr("metarl.policies.mlp._CPU_BLOCK_ROWS", block_rows)
    assert_pairs_equal(sampled.kernel(samples, loss), wanted)


def test_dice_of_episodes_of_one_step_is_ratio_and_of_longer_ones_is_not(sampled):
    samples = sampled.rollouts.whole_episodes
    ratio = sampled.kernel(samples, "ratio")
    assert_pairs_equal(sampled.kernel(replace(samples, episode_length=1)), ratio)
    assert min(distance(*pair) for pair in zip(sampled.kernel(samples), ratio, strict=True)) > 0.1


def test_dice_ignores_what_follows_an_episodes_end(sampled):
    samples = sampled.rollouts.whole_episodes
    over = samples.weights == 0
    assert over.any()
    # Likelihood ratios there are then exp(1000) or so, which is infinite.
    after = replace(samples, log_probs=torch.where(over, -1000.0, samples.log_probs))
    assert_pairs_equal(sampled.kernel(after), sampled.kernel(samples))
    before = replace(samples, log_probs=torch.where(over, samples.log_probs, samples.log_probs + 0.1))
    assert distance(sampled.kernel(before)[1], sampled.kernel(samples)[1]) > 0.01


def large_advantages(samples: Samples) -> Samples:
    return samples.largest_advantages(0.5)


def every_other(samples: Samples) -> Samples:
    return samples.subset(torch.arange(0, samples.num_rows, 2))


@pytest.mark.parametrize("leave_out", [large_advantages, every_other])
def test_dice_refuses_samples_of_which_rows_were_left_out(leave_out: Callable[[Samples], Samples], sampled):
    samples = leave_out(sampled.rollouts.whole_episodes)
    for function in (sampled.loss, sampled.policy.inner_gradient, sampled.policy.inner_curvature):
        with pytest.raises(ValueError, match="dice needs whole episodes, got samples of which rows were left out"):
            function(sampled.parameters, samples, "dice")
        for loss in ("ratio", "score"):
            function(sampled.parameters, samples, loss)


def test_dice_uses_every_row_where_the_others_use_the_largest_advantages(sampled):
    for loss in LOSSES:
        support = PolicyGradientSupport(sampled.policy, sampled.rollouts, loss).with_curvature(0.5)
        leaf = sampled.parameters.clone().requires_grad_()
        hessian = GraphJacobian(leaf, support.gradient(leaf))
        exact = sampled.kernel(sampled.rollouts.whole_episodes, loss)[1]
        assert distance(hessian.gradient(sampled.direction), exact) < 1e-12
        for product in (hessian.pushforward, hessian.pullback):
            error = distance(product(sampled.direction), exact)
            assert error < 1e-12 if loss == "dice" else error > 0.01
