"""Learn-to-Forget: attenuates the initialisation, layer by layer and task by task, before the inner loop."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metarl.adaptation import Adaptation, GradientStep, Stage
from metarl.flat import Layout
from metarl.gradients import policy_gradient
from metarl.policies import Policy
from metarl.settings import InnerConfig
from metarl.types import Rollouts

# Of the running statistics, for one meta-iteration.
_MOMENTUM = 0.9


class L2F(Adaptation):
    """MAML from an attenuated initialisation theta_bar_i = gamma_i[layer] * theta.

    g_i is the inner loss's gradient at theta, m_i^j its mean over layer j, gamma_i = sigmoid(MLP_phi(m_i)) in (0, 1),
    one number for each layer; a weight and a bias count as two layers. The attenuator has three linear layers of that
    width, ReLU between them. Meta-parameters are (theta, phi), followed by the running mean and variance of m if the
    embedding is normalised; those follow the data and not the meta-gradient.

    With gamma fixed at 1 this is MAML.

    Args:
        policy: The policy to adapt.
        inner: The inner loop's settings, with L2F's own in ``inner.l2f``.

    Source: Baik et al. 2020, equations 5 and 6 and algorithm 1.
    """

    def __init__(self, policy: Policy, inner: InnerConfig) -> None:
        super().__init__(policy)
        self._options = inner.l2f
        self._step = GradientStep(policy, inner.lr, inner.loss)
        self._loss = inner.loss
        layout = policy.layout
        self._index, self._sizes = layout.tensor_index(), torch.tensor(layout.sizes)
        self.layer_names = layout.names
        width = len(layout.names)
        self._attenuator = Layout(
            [(f"{kind}{i}", (width, width) if kind == "weight" else (width,)) for i in (1, 2, 3) for kind in _KINDS]
        )
        # The log-std is not attenuated by default: scaling it would pull the deviation towards 1.
        self._fixed = torch.tensor([name == "log_std" and not self._options.attenuate_log_std for name in layout.names])

    def initial(self, generator: np.random.Generator) -> Tensor:
        width = len(self.layer_names)
        limit = 1 / math.sqrt(width)
        phi = generator.uniform(-limit, limit, self._attenuator.size)
        phi[-width:] = math.log(self._options.initial_gamma / (1 - self._options.initial_gamma))
        parts = [self.policy.initial(generator), torch.from_numpy(phi.astype(np.float32))]
        if self._options.normalise_embedding:
            parts += [torch.zeros(2 * width)]  # Mean, and a variance of 0: nothing is known yet.
        return torch.cat(parts)

    def start(self, meta: Tensor, num_tasks: int) -> Tensor:
        return meta[: self.policy.layout.size].expand(num_tasks, -1)

    def stages(self, step_scales: Sequence[float]) -> list[Stage]:
        attenuation = Stage(self._attenuate, gradient_step=False)
        steps = [self._step.stage(scale) for scale in step_scales]
        if steps and self._options.attenuation_rollouts == "reuse":
            steps[0] = Stage(steps[0].update, reuse=True)
        return [attenuation, *steps] if steps else []

    def observe(self, meta: Tensor, supports: Sequence[Rollouts]) -> Tensor:
        """Each task's embedding, [task, layer]; 0 without an inner loop."""
        if not supports:
            return meta.new_zeros(1, len(self.layer_names))
        return self.embedding(self.start(meta, supports[0].num_tasks), supports[0])

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        """Mean and spread over tasks of each layer's gamma."""
        spread, mean = torch.std_mean(self.gamma(meta, observed).double(), dim=0, correction=0)
        report = {f"gamma_mean/{name}": value for name, value in zip(self.layer_names, mean.tolist(), strict=True)}
        spreads = zip(self.layer_names, spread.tolist(), strict=True)
        return report | {f"gamma_spread/{name}": value for name, value in spreads}

    def after_meta_step(self, meta: Tensor, observed: Tensor) -> Tensor:
        """Moves the running statistics of the embedding towards the latest tasks'."""
        if not self._options.normalise_embedding:
            return meta
        mean, variance = self._statistics(meta)
        new_mean, spread = observed.mean(0), observed.var(0, correction=0)
        if bool((variance > 0).any()):
            spread = torch.lerp(((observed - mean) ** 2).mean(0), variance, _MOMENTUM)
            new_mean = torch.lerp(new_mean, mean, _MOMENTUM)
        return torch.cat([meta[: -2 * len(mean)], new_mean, spread])

    def embedding(self, parameters: Tensor, support: Rollouts) -> Tensor:
        """Mean gradient of each layer, [task, layer]: what the attenuator knows of a task."""
        gradient = policy_gradient(self.policy, parameters, support, self._loss)
        total = gradient.new_zeros(gradient.shape[0], len(self.layer_names))
        total = total.index_add(1, self._index.to(gradient.device), gradient)
        return total / self._sizes.to(gradient)

    def gamma(self, meta: Tensor, embedding: Tensor) -> Tensor:
        """Attenuation of each layer, [task, layer]; 1 where a layer is not attenuated."""
        if self._options.normalise_embedding:
            mean, variance = self._statistics(meta)
            # Before the first meta-step, and for a layer whose gradient never varies, the attenuator sees zeros.
            scale = torch.where(variance > 0, variance.rsqrt(), torch.zeros_like(variance))
            embedding = (embedding - mean) * scale
        start = self.policy.layout.size
        layers = self._attenuator.views(meta[None, start : start + self._attenuator.size])
        hidden = embedding
        for index in range(3):
            weight, bias = layers[2 * index][0], layers[2 * index + 1][0]
            hidden = torch.nn.functional.linear(hidden, weight, bias)
            hidden = hidden.relu() if index < 2 else hidden
        return torch.where(self._fixed.to(meta.device), torch.ones_like(hidden), hidden.sigmoid())

    def _attenuate(self, meta: Tensor, parameters: Tensor, support: Rollouts) -> Tensor:
        gamma = self.gamma(meta, self.embedding(parameters, support))
        return gamma[:, self._index.to(meta.device)] * parameters

    def _statistics(self, meta: Tensor) -> tuple[Tensor, Tensor]:
        # A constant of the meta-gradient, which therefore leaves it alone.
        width = len(self.layer_names)
        mean, variance = meta[-2 * width :].detach().split(width)
        return mean, variance


_KINDS = ("weight", "bias")
