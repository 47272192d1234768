"""Action distributions, most of them with the derivatives that the meta-step needs, in closed form.

A distribution has two kinds of parameters: outputs of the network (one row per step), and extra parameters (one vector
per task, independent of the state). A Gaussian's outputs are the means, its extra parameters the log standard
deviations. A categorical's outputs are the logits, as are those of several categoricals side by side; they have no
extra parameters. Rows are [task, row, ...]; a direction in these parameters is a pair (outputs [task, row, output],
extra [task, extra]).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Of a Gaussian before tanh; wider ones are two peaks at the bounds. Stable-Baselines3 has the same.
LARGEST_LOG_STD = 2.0


class Distribution(ABC):
    """A family of action distributions."""

    num_outputs: int
    """Number of network outputs per step."""
    num_extra: int
    """Number of state-independent parameters per task."""

    @abstractmethod
    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draws the noise that `sample` turns into actions, float32 [*shape, ...]."""

    @abstractmethod
    def sample(self, outputs: Tensor, extra: Tensor, noise: Tensor) -> Tensor:
        """Samples actions [task, row, ...] with the given noise."""

    @abstractmethod
    def mode(self, outputs: Tensor) -> Tensor:
        """The most likely action of each row."""

    @abstractmethod
    def log_prob(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> Tensor:
        """Log-probability (density) of each action, summed over action dimensions, [task, row]."""

    def features(self, actions: Tensor) -> Tensor:
        """Actions as a network reads them: as they are, or one-hot if they are choices, [..., output]."""
        return actions


class DifferentiableDistribution(Distribution):
    """A distribution with the derivatives and divergences that policy gradients need."""

    @abstractmethod
    def score(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of `log_prob`: outputs [task, row, output], extra parameters [task, row, extra]."""

    @abstractmethod
    def score_tangent(
        self, outputs: Tensor, extra: Tensor, actions: Tensor, d_outputs: Tensor, d_extra: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hessian of `log_prob` times a direction, shaped like `score`."""

    @abstractmethod
    def fisher(self, outputs: Tensor, extra: Tensor, d_outputs: Tensor, d_extra: Tensor) -> tuple[Tensor, Tensor]:
        """Fisher information times a direction, shaped like `score`."""

    @abstractmethod
    def kl(self, old_outputs: Tensor, old_extra: Tensor, outputs: Tensor, extra: Tensor) -> Tensor:
        """KL(old || new) of each row, [task, row]."""

    @abstractmethod
    def entropy(self, outputs: Tensor, extra: Tensor) -> Tensor:
        """Entropy of each row's distribution, in nats, [task, row]."""


class Gaussian(DifferentiableDistribution):
    """Independent normal distributions; outputs are the means, extra is the log standard deviation.

    Args:
        num_actions: Action dimensions.
    """

    def __init__(self, num_actions: int) -> None:
        self.num_outputs = self.num_extra = num_actions

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.standard_normal((*shape, self.num_outputs), dtype=np.float32)

    def sample(self, outputs: Tensor, extra: Tensor, noise: Tensor) -> Tensor:
        return torch.addcmul(outputs, noise, extra.exp()[:, None])

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs

    def log_prob(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> Tensor:
        z = (actions - outputs) * torch.exp(-extra)[:, None]
        return -0.5 * (z * z).sum(-1) - (extra.sum(-1) + 0.5 * self.num_extra * math.log(2 * math.pi))[:, None]

    def score(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        # With z = (a - mean) / std: d log p / d mean = z / std and d log p / d log std = z^2 - 1.
        precision = torch.exp(-extra)[:, None]
        z = (actions - outputs) * precision
        return z * precision, z * z - 1

    def score_tangent(
        self, outputs: Tensor, extra: Tensor, actions: Tensor, d_outputs: Tensor, d_extra: Tensor
    ) -> tuple[Tensor, Tensor]:
        precision, d_extra = torch.exp(-extra)[:, None], d_extra[:, None]
        z = (actions - outputs) * precision
        # dz = -(d mean / std + z d log std). The changes of the score follow from the product rule:
        # d(z / std) = (dz - z d log std) / std and d(z^2 - 1) = 2 z dz.
        minus_dz = d_outputs * precision + z * d_extra
        return -precision * (minus_dz + z * d_extra), -2 * z * minus_dz

    def fisher(self, outputs: Tensor, extra: Tensor, d_outputs: Tensor, d_extra: Tensor) -> tuple[Tensor, Tensor]:
        # 1 / std^2 for the mean, 2 for the log standard deviation, no cross terms.
        return d_outputs * torch.exp(-2 * extra)[:, None], (2 * d_extra)[:, None].expand_as(d_outputs)

    def kl(self, old_outputs: Tensor, old_extra: Tensor, outputs: Tensor, extra: Tensor) -> Tensor:
        # KL = sum of log(std / old std) + (old std^2 + (old mean - mean)^2) / (2 std^2) - 1/2. With the log ratio
        # x = log(old std / std), the part without means is (exp(2 x) - 1) / 2 - x; expm1 is exact for small x.
        log_ratio = old_extra - extra
        spread = (0.5 * torch.expm1(2 * log_ratio) - log_ratio).sum(-1)
        shift = (old_outputs - outputs) * torch.exp(-extra)[:, None]
        return spread[:, None] + 0.5 * (shift * shift).sum(-1)

    def entropy(self, outputs: Tensor, extra: Tensor) -> Tensor:
        each = extra.sum(-1) + 0.5 * self.num_extra * math.log(2 * math.pi * math.e)
        return each[:, None].expand(outputs.shape[:2])


class SquashedGaussian(Distribution):
    """Independent normal distributions, squashed into (-1, 1) by tanh.

    Outputs are the means, then the log standard deviations, of the numbers before tanh; there are no extra parameters.

    Args:
        num_actions: Action dimensions.
        min_log_std: Floor of the log standard deviation.

    Source: Haarnoja et al. 2018, appendix C.
    """

    num_extra = 0

    def __init__(self, num_actions: int, min_log_std: float) -> None:
        self.num_outputs, self._num_actions, self._min_log_std = 2 * num_actions, num_actions, min_log_std

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.standard_normal((*shape, self._num_actions), dtype=np.float32)

    def sample(self, outputs: Tensor, extra: Tensor, noise: Tensor) -> Tensor:
        return self._unsquashed(outputs, noise).tanh()

    def mode(self, outputs: Tensor) -> Tensor:
        """Tanh of the mean, as Stable-Baselines3 has it; the density itself may have its peak elsewhere."""
        return self._split(outputs)[0].tanh()

    def log_prob(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> Tensor:
        # In single precision, tanh of a large number is 1.
        largest = 1 - torch.finfo(actions.dtype).eps
        return self._log_density(outputs, actions.clamp(-largest, largest).atanh())

    def sample_with_log_prob(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Samples [..., action], and their log-probabilities [...]; exact for actions near the bounds, too.

        Args:
            outputs: [..., output].
            noise: Standard normal, [..., action].
        """
        numbers = self._unsquashed(outputs, noise)
        return numbers.tanh(), self._log_density(outputs, numbers)

    def _unsquashed(self, outputs: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = self._split(outputs)
        return torch.addcmul(mean, noise, log_std.exp())

    def _log_density(self, outputs: Tensor, numbers: Tensor) -> Tensor:
        """Log-density of the actions that ``numbers``, before tanh, become."""
        mean, log_std = self._split(outputs)
        z = (numbers - mean) * torch.exp(-log_std)
        # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)), without cancellation.
        log_slope = 2 * (math.log(2) - numbers - torch.nn.functional.softplus(-2 * numbers))
        return (-0.5 * z * z - log_std - 0.5 * math.log(2 * math.pi) - log_slope).sum(-1)

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log standard deviations, [..., action] each."""
        mean, log_std = outputs.chunk(2, dim=-1)
        return mean, log_std.clamp(self._min_log_std, LARGEST_LOG_STD)


class SquaredError(DifferentiableDistribution):
    """A normal distribution whose minus log-density is the mean squared error over the outputs, less a constant.

    For d outputs that is a variance of d / 2: -log p = |y - mean|^2 / d, where the constant is left out. There are no
    extra parameters.

    Args:
        num_outputs: Numbers in a target.
    """

    num_extra = 0

    def __init__(self, num_outputs: int) -> None:
        self.num_outputs = num_outputs

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.standard_normal((*shape, self.num_outputs), dtype=np.float32)

    def sample(self, outputs: Tensor, extra: Tensor, noise: Tensor) -> Tensor:
        return outputs + math.sqrt(self.num_outputs / 2) * noise

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs

    def log_prob(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> Tensor:
        return -((actions - outputs) ** 2).mean(-1)

    def score(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return 2 / self.num_outputs * (actions - outputs), outputs.new_zeros(*outputs.shape[:2], 0)

    def score_tangent(
        self, outputs: Tensor, extra: Tensor, actions: Tensor, d_outputs: Tensor, d_extra: Tensor
    ) -> tuple[Tensor, Tensor]:
        return -2 / self.num_outputs * d_outputs, outputs.new_zeros(*outputs.shape[:2], 0)

    def fisher(self, outputs: Tensor, extra: Tensor, d_outputs: Tensor, d_extra: Tensor) -> tuple[Tensor, Tensor]:
        return 2 / self.num_outputs * d_outputs, outputs.new_zeros(*outputs.shape[:2], 0)

    def kl(self, old_outputs: Tensor, old_extra: Tensor, outputs: Tensor, extra: Tensor) -> Tensor:
        return ((old_outputs - outputs) ** 2).mean(-1)

    def entropy(self, outputs: Tensor, extra: Tensor) -> Tensor:
        each = 0.5 * self.num_outputs * math.log(math.pi * math.e * self.num_outputs)
        return outputs.new_full(outputs.shape[:2], each)


class _Choices(DifferentiableDistribution):
    """What `Categorical` and `Categoricals` have in common: outputs are logits, and there are no extra parameters."""

    num_extra = 0

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.gumbel(size=(*shape, self.num_outputs)).astype(np.float32)

    def sample(self, outputs: Tensor, extra: Tensor, noise: Tensor) -> Tensor:
        # The Gumbel-max trick: the argmax of logits plus Gumbel noise is a sample from the softmax.
        return self.mode(outputs + noise)

    def score_tangent(
        self, outputs: Tensor, extra: Tensor, actions: Tensor, d_outputs: Tensor, d_extra: Tensor
    ) -> tuple[Tensor, Tensor]:
        # The Hessian of log p does not depend on the action: it is minus the Fisher information.
        information, nothing = self.fisher(outputs, extra, d_outputs, d_extra)
        return -information, nothing

    def _nothing(self, outputs: Tensor) -> Tensor:
        return outputs.new_zeros(*outputs.shape[:2], 0)


class Categorical(_Choices):
    """A choice among actions; outputs are the logits, and there are no extra parameters.

    Args:
        num_actions: Number of choices.
    """

    def __init__(self, num_actions: int) -> None:
        self.num_outputs = num_actions

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(-1)

    def log_prob(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> Tensor:
        return outputs.log_softmax(-1).gather(-1, actions[..., None])[..., 0]

    def score(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return self.features(actions).to(outputs.dtype) - outputs.softmax(-1), self._nothing(outputs)

    def fisher(self, outputs: Tensor, extra: Tensor, d_outputs: Tensor, d_extra: Tensor) -> tuple[Tensor, Tensor]:
        # The Fisher information of the logits is diag(p) - p p^T.
        p = outputs.softmax(-1)
        return p * (d_outputs - (p * d_outputs).sum(-1, keepdim=True)), self._nothing(outputs)

    def kl(self, old_outputs: Tensor, old_extra: Tensor, outputs: Tensor, extra: Tensor) -> Tensor:
        old, new = old_outputs.log_softmax(-1), outputs.log_softmax(-1)
        return (old.exp() * (old - new)).sum(-1)

    def entropy(self, outputs: Tensor, extra: Tensor) -> Tensor:
        log_p = outputs.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    def features(self, actions: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(actions, self.num_outputs)


class Categoricals(_Choices):
    """Independent choices, one per component of an action, [task, row, component]; there are no extra parameters.

    The outputs are the logits of the first choice, then those of the second, ... Log-probabilities and divergences are
    sums over the components; score and Fisher information are theirs side by side, so the information is
    block-diagonal. With one component this is `Categorical`.

    Args:
        sizes: Number of options of each choice.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)
        self.num_outputs = sum(self.sizes)
        self._parts = [Categorical(size) for size in self.sizes]

    def mode(self, outputs: Tensor) -> Tensor:
        return torch.stack([logits.argmax(-1) for logits in self._split(outputs)], dim=-1)

    def log_prob(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> Tensor:
        of_parts = zip(self._parts, self._split(outputs), actions.unbind(-1), strict=True)
        return torch.stack([part.log_prob(logits, extra, chosen) for part, logits, chosen in of_parts]).sum(0)

    def score(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = torch.cat([logits.softmax(-1) for logits in self._split(outputs)], dim=-1)
        return self.features(actions).to(outputs.dtype) - probabilities, self._nothing(outputs)

    def fisher(self, outputs: Tensor, extra: Tensor, d_outputs: Tensor, d_extra: Tensor) -> tuple[Tensor, Tensor]:
        of_parts = zip(self._parts, self._split(outputs), self._split(d_outputs), strict=True)
        blocks = [part.fisher(logits, extra, d_logits, d_extra)[0] for part, logits, d_logits in of_parts]
        return torch.cat(blocks, dim=-1), self._nothing(outputs)

    def kl(self, old_outputs: Tensor, old_extra: Tensor, outputs: Tensor, extra: Tensor) -> Tensor:
        of_parts = zip(self._parts, self._split(old_outputs), self._split(outputs), strict=True)
        return torch.stack([part.kl(old, old_extra, new, extra) for part, old, new in of_parts]).sum(0)

    def entropy(self, outputs: Tensor, extra: Tensor) -> Tensor:
        of_parts = zip(self._parts, self._split(outputs), strict=True)
        return torch.stack([part.entropy(logits, extra) for part, logits in of_parts]).sum(0)

    def features(self, actions: Tensor) -> Tensor:
        of_parts = zip(self._parts, actions.unbind(-1), strict=True)
        return torch.cat([part.features(chosen) for part, chosen in of_parts], dim=-1)

    def _split(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """The logits of each choice, [..., option]."""
        return outputs.split(self.sizes, dim=-1)


def normal_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Divergence KL(first || second) of normal distributions with diagonal covariance, in nats.

    Args:
        mean: [..., entry].
        log_variance: [..., entry].
        other_mean: Of the second, [..., entry].
        other_log_variance: Of the second, [..., entry].

    Returns:
        [...].
    """
    difference = log_variance - other_log_variance
    distance = (mean - other_mean) ** 2 * (-other_log_variance).exp()
    return (difference.exp() - 1 - difference + distance).sum(-1) / 2
