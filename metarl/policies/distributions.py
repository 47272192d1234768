"""Action distributions with the derivatives that the meta-step needs, in closed form.

A distribution has outputs (one row for each step, from the network) and extra parameters (one vector for each task,
independent of the state): the Gaussian's mean and log standard deviation, the categorical's logits and nothing.
Rows are [task, row, ...]; a direction in these parameters is a pair (outputs [task, row, output], extra [task, extra]).
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor


class Distribution(ABC):
    """A family of action distributions."""

    num_outputs: int
    """Network outputs for each step."""
    num_extra: int
    """State-independent parameters of each task."""

    @abstractmethod
    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """What `sample` turns into actions, float32 [*shape, ...]."""

    @abstractmethod
    def sample(self, outputs: Tensor, extra: Tensor, noise: Tensor) -> Tensor:
        """Actions [task, row, ...] drawn with the given noise."""

    @abstractmethod
    def mode(self, outputs: Tensor) -> Tensor:
        """The most likely action of each row."""

    @abstractmethod
    def log_prob(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> Tensor:
        """Log-probability (density) of each action, summed over action dimensions, [task, row]."""

    @abstractmethod
    def score(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of `log_prob`: by the outputs [task, row, output] and by the extra parameters [task, row, extra]."""

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


class Gaussian(Distribution):
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
        precision = torch.exp(-extra)[:, None]
        z = (actions - outputs) * precision
        return z * precision, z * z - 1

    def score_tangent(
        self, outputs: Tensor, extra: Tensor, actions: Tensor, d_outputs: Tensor, d_extra: Tensor
    ) -> tuple[Tensor, Tensor]:
        precision, d_extra = torch.exp(-extra)[:, None], d_extra[:, None]
        z = (actions - outputs) * precision
        # Both partial derivatives share d z = -(d mean) / std - z d(log std).
        d_z = d_outputs * precision + z * d_extra
        return -precision * (d_z + z * d_extra), -2 * z * d_z

    def fisher(self, outputs: Tensor, extra: Tensor, d_outputs: Tensor, d_extra: Tensor) -> tuple[Tensor, Tensor]:
        return d_outputs * torch.exp(-2 * extra)[:, None], (2 * d_extra)[:, None].expand_as(d_outputs)

    def kl(self, old_outputs: Tensor, old_extra: Tensor, outputs: Tensor, extra: Tensor) -> Tensor:
        log_ratio = old_extra - extra
        spread = (0.5 * torch.expm1(2 * log_ratio) - log_ratio).sum(-1)
        shift = (old_outputs - outputs) * torch.exp(-extra)[:, None]
        return spread[:, None] + 0.5 * (shift * shift).sum(-1)


class Categorical(Distribution):
    """A choice among actions; outputs are logits and there is nothing extra.

    Args:
        num_actions: Number of choices.
    """

    num_extra = 0

    def __init__(self, num_actions: int) -> None:
        self.num_outputs = num_actions

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.gumbel(size=(*shape, self.num_outputs)).astype(np.float32)

    def sample(self, outputs: Tensor, extra: Tensor, noise: Tensor) -> Tensor:
        # The Gumbel-max trick: the largest of logits plus Gumbel noise is a draw from the softmax.
        return (outputs + noise).argmax(-1)

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(-1)

    def log_prob(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> Tensor:
        return outputs.log_softmax(-1).gather(-1, actions[..., None])[..., 0]

    def score(self, outputs: Tensor, extra: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        chosen = torch.nn.functional.one_hot(actions, self.num_outputs).to(outputs.dtype)
        return chosen - outputs.softmax(-1), self._nothing(outputs)

    def score_tangent(
        self, outputs: Tensor, extra: Tensor, actions: Tensor, d_outputs: Tensor, d_extra: Tensor
    ) -> tuple[Tensor, Tensor]:
        information, nothing = self.fisher(outputs, extra, d_outputs, d_extra)
        return -information, nothing

    def fisher(self, outputs: Tensor, extra: Tensor, d_outputs: Tensor, d_extra: Tensor) -> tuple[Tensor, Tensor]:
        p = outputs.softmax(-1)
        return p * (d_outputs - (p * d_outputs).sum(-1, keepdim=True)), self._nothing(outputs)

    def kl(self, old_outputs: Tensor, old_extra: Tensor, outputs: Tensor, extra: Tensor) -> Tensor:
        old, new = old_outputs.log_softmax(-1), outputs.log_softmax(-1)
        return (old.exp() * (old - new)).sum(-1)

    def _nothing(self, outputs: Tensor) -> Tensor:
        return outputs.new_zeros(*outputs.shape[:2], 0)
