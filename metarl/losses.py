"""The inner loss of policy-gradient adaptation: its value, and its derivatives with respect to a policy's outputs."""

from typing import Literal

import torch
from torch import Tensor

from metarl.distributions import Distribution
from metarl.types import Samples

InnerLoss = Literal["ratio", "score"]


def inner_loss(distribution: Distribution, outputs: Tensor, extra: Tensor, samples: Samples, loss: InnerLoss) -> Tensor:
    """Policy-gradient surrogate of each task, [task].

    ``ratio``: L = - mean exp(log pi(a|s) - log pi_behaviour(a|s)) * advantage. Valid for rollouts of any behaviour
    policy; the right gradient and a low-variance, biased Hessian (LVC: no cross terms between time steps).
    ``score``: L = - mean log pi(a|s) * advantage, the original release's loss; the same gradient on policy, another
    Hessian. At the behaviour policy both gradients are the vanilla policy gradient.

    Args:
        distribution: The action distribution.
        outputs: The network's outputs, [task, row, output].
        extra: State-independent parameters, [task, extra].
        samples: The rows, with behaviour log-probabilities, advantages and weights.
        loss: Which of the two.

    Source: Rothfuss et al. 2019 (ProMP), equation 12; Finn et al. 2017, equation 4.
    """
    log_prob = distribution.log_prob(outputs, extra, samples.actions)
    likelihood = torch.exp(log_prob - samples.log_probs) if loss == "ratio" else log_prob
    return -(samples.weights * samples.advantages * likelihood).sum(1)


class OutputDerivatives:
    """First and second derivatives of `inner_loss` with respect to outputs and extra parameters, row by row.

    Args:
        distribution: The action distribution.
        outputs: [task, row, output].
        extra: [task, extra].
        samples: The rows.
        loss: Which inner loss.

    Attributes:
        gradient: By the outputs, [task, row, output].
        extra_gradient: By the extra parameters, summed over rows, [task, extra].
    """

    def __init__(
        self, distribution: Distribution, outputs: Tensor, extra: Tensor, samples: Samples, loss: InnerLoss
    ) -> None:
        self._distribution, self._outputs, self._extra, self._actions = distribution, outputs, extra, samples.actions
        self._score, self._extra_score = distribution.score(outputs, extra, samples.actions)
        coefficient = samples.weights * samples.advantages
        self._ratio = loss == "ratio"
        if self._ratio:
            coefficient = coefficient * torch.exp(
                distribution.log_prob(outputs, extra, samples.actions) - samples.log_probs
            )
        self._coefficient = -coefficient[..., None]
        self.gradient = self._coefficient * self._score
        self.extra_gradient = (self._coefficient * self._extra_score).sum(1)

    def tangent(self, d_outputs: Tensor, d_extra: Tensor) -> tuple[Tensor, Tensor]:
        """Hessian times a direction: by the outputs [task, row, output], by the extra parameters [task, extra]."""
        by_outputs, by_extra = self._distribution.score_tangent(
            self._outputs, self._extra, self._actions, d_outputs, d_extra
        )
        if self._ratio:
            # The exponential's own derivative: the score's outer product with itself.
            along = (self._score * d_outputs).sum(-1, keepdim=True) + self._extra_score @ d_extra[..., None]
            by_outputs, by_extra = by_outputs + self._score * along, by_extra + self._extra_score * along
        return self._coefficient * by_outputs, (self._coefficient * by_extra).sum(1)
