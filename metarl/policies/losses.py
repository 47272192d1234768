"""The inner loss of policy-gradient adaptation: its value, and its derivatives with respect to a policy's outputs."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from metarl.data import Samples
from metarl.policies.distributions import DifferentiableDistribution

InnerLoss = Literal["ratio", "score", "dice"]


def inner_loss(
    distribution: DifferentiableDistribution, outputs: Tensor, extra: Tensor, samples: Samples, loss: InnerLoss
) -> Tensor:
    """Policy-gradient surrogate of each task, [task].

    With l = log pi(a|s) - log pi_behaviour(a|s), and A the advantage:

    ``ratio``: L = - mean exp(l_t) A_t. At other policies than the behaviour policy it corrects the actions, and keeps
    the states that the behaviour policy has met. The Hessian has low variance but a bias (LVC: no cross terms between
    time steps).
    ``score``: L = - mean log pi(a_t|s_t) A_t, the loss of the original release. It is for the behaviour policy alone,
    where the Hessian differs from the other two.
    ``dice``: L = - mean (exp(l_0 + ... + l_t) - exp(l_0 + ... + l_{t-1})) A_t, summed along the episode. For
    undiscounted returns, gradient and Hessian are right in expectation at any policy, with cross terms, but noisy.

    At the behaviour policy all three gradients equal the vanilla policy gradient.

    Args:
        distribution: The action distribution.
        outputs: The network's outputs, [task, row, output].
        extra: State-independent parameters, [task, extra].
        samples: The rows, with behaviour log-probabilities, advantages and weights; whole episodes for ``dice``.
        loss: ``ratio``, ``score`` or ``dice``.

    Source: Rothfuss et al. 2019 (ProMP), equation 12; Finn et al. 2017, equation 4; Foerster et al. 2018 (DiCE) with
    the advantages of Farquhar et al. 2019 (Loaded DiCE).
    """
    log_prob = distribution.log_prob(outputs, extra, samples.actions)
    return -(samples.weights * samples.advantages * _LIKELIHOODS[loss](log_prob, samples).values).sum(1)


class _Likelihood(ABC):
    """The factor on the advantages, as a function of the log-probabilities [task, row].

    Attributes:
        values: The factor, [task, row].
    """

    values: Tensor

    @abstractmethod
    def __init__(self, log_prob: Tensor, samples: Samples) -> None: ...

    @abstractmethod
    def gradient(self, coefficient: Tensor) -> Tensor:
        """Gradient of sum(coefficient * values) with respect to the log-probabilities, [task, row]."""

    @abstractmethod
    def tangent(self, coefficient: Tensor, d_log_prob: Tensor) -> Tensor:
        """Derivative of `gradient` along ``d_log_prob`` [task, row], same shape."""


class _Ratio(_Likelihood):
    def __init__(self, log_prob: Tensor, samples: Samples) -> None:
        self.values = torch.exp(log_prob - samples.log_probs)

    def gradient(self, coefficient: Tensor) -> Tensor:
        return coefficient * self.values

    def tangent(self, coefficient: Tensor, d_log_prob: Tensor) -> Tensor:
        return coefficient * self.values * d_log_prob


class _Score(_Likelihood):
    def __init__(self, log_prob: Tensor, samples: Samples) -> None:
        self.values = log_prob

    def gradient(self, coefficient: Tensor) -> Tensor:
        return coefficient

    def tangent(self, coefficient: Tensor, d_log_prob: Tensor) -> Tensor:
        return torch.zeros_like(d_log_prob)


class _DiCE(_Likelihood):
    def __init__(self, log_prob: Tensor, samples: Samples) -> None:
        if not samples.episode_length:
            raise ValueError("dice needs whole episodes, got samples of which rows were left out")
        self._length = samples.episode_length
        # Rows after an episode's end do not affect its earlier steps; as 0 they cannot overflow.
        log_ratio = torch.where(samples.weights > 0, log_prob - samples.log_probs, 0)
        total = self._episodes(log_ratio).cumsum(2)
        self._until, self._before = total.exp(), (total - self._episodes(log_ratio)).exp()
        self.values = (self._until - self._before).flatten(1)

    def gradient(self, coefficient: Tensor) -> Tensor:
        weights = self._episodes(coefficient)
        return self._by_step(weights * self._until, weights * self._before)

    def tangent(self, coefficient: Tensor, d_log_prob: Tensor) -> Tensor:
        # until_s changes by until_s * (d_0 + ... + d_s), and before_s by before_s * (d_0 + ... + d_{s-1}).
        weights, change = self._episodes(coefficient), self._episodes(d_log_prob)
        total = change.cumsum(2)
        return self._by_step(weights * self._until * total, weights * self._before * (total - change))

    def _by_step(self, until: Tensor, before: Tensor) -> Tensor:
        """Derivative with respect to the log-probability l_t of each step, [task, row].

        Let until_s = c_s exp(l_0 + ... + l_s) and before_s = c_s exp(l_0 + ... + l_{s-1}), both [task, episode, step].
        The weighted sum is sum_s (until_s - before_s). There, l_t occurs in until_s for s >= t and in before_s for
        s > t. The derivative is therefore until_t + sum_{s > t} (until_s - before_s).
        """
        later = (until - before).sum(2, keepdim=True) - (until - before).cumsum(2)
        return (until + later).flatten(1)

    def _episodes(self, rows: Tensor) -> Tensor:
        return rows.unflatten(1, (-1, self._length))


_LIKELIHOODS: dict[str, type[_Likelihood]] = {"ratio": _Ratio, "score": _Score, "dice": _DiCE}


class OutputDerivatives:
    """First and second derivatives of `inner_loss` with respect to outputs and extra parameters, row by row.

    Args:
        distribution: The action distribution.
        outputs: [task, row, output].
        extra: [task, extra].
        samples: The rows.
        loss: Name of the inner loss.

    Attributes:
        gradient: Gradient with respect to the outputs, [task, row, output].
        extra_gradient: Gradient with respect to the extra parameters, summed over rows, [task, extra].
    """

    def __init__(
        self,
        distribution: DifferentiableDistribution,
        outputs: Tensor,
        extra: Tensor,
        samples: Samples,
        loss: InnerLoss,
    ) -> None:
        self._distribution, self._outputs, self._extra, self._actions = distribution, outputs, extra, samples.actions
        self._score, self._extra_score = distribution.score(outputs, extra, samples.actions)
        self._weights = -samples.weights * samples.advantages
        self._likelihood = _LIKELIHOODS[loss](distribution.log_prob(outputs, extra, samples.actions), samples)
        self._by_log_prob = self._likelihood.gradient(self._weights)[..., None]
        self.gradient = self._by_log_prob * self._score
        self.extra_gradient = (self._by_log_prob * self._extra_score).sum(1)

    def tangent(self, d_outputs: Tensor, d_extra: Tensor) -> tuple[Tensor, Tensor]:
        """Hessian times a direction: outputs [task, row, output], extra parameters [task, extra]."""
        # The gradient is g * score, with g the derivative of the loss with respect to log pi. By the product rule its
        # change is g * d score + dg * score, where dg follows from d log pi = score . direction (`along`).
        by_outputs, by_extra = self._distribution.score_tangent(
            self._outputs, self._extra, self._actions, d_outputs, d_extra
        )
        along = (self._score * d_outputs).sum(-1) + (self._extra_score @ d_extra[..., None])[..., 0]
        change = self._likelihood.tangent(self._weights, along)[..., None]
        by_outputs = self._by_log_prob * by_outputs + change * self._score
        return by_outputs, (self._by_log_prob * by_extra + change * self._extra_score).sum(1)
