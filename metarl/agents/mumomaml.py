"""MuMoMAML: modulates the initialisation by an embedding of trajectories (Vuorio et al. 2019)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from metarl.agents.encoder import TrajectoryEncoder
from metarl.common.errors import UserError
from metarl.config.algorithms import MuMoMAMLConfig
from metarl.config.settings import InnerSettings
from metarl.inner.loop import InnerLoop
from metarl.inner.rule import Adaptation, Stage, StageKind
from metarl.inner.support import Support
from metarl.policies.base import DifferentiablePolicy
from metarl.policies.layout import Layout
from metarl.policies.mlp import MLPPolicy
from metarl.policies.perceptron import Perceptron


class MuMoMAML(Adaptation):
    """MAML from an initialisation whose hidden units are scaled and shifted for each task.

    A GRU reads trajectories of the unadapted policy, by default one (`TrajectoryEncoder`). For each hidden layer an MLP
    of its own, with one hidden layer, maps the embedding to that layer's part of the modulation tau. The preactivation
    w_u x + b_u of unit u becomes s_u (w_u x + b_u) + t_u:

    - ``film``: s = 1 + tau_s and t = tau_t.
    - ``sigmoid``: s = sigmoid(tau) and t = 0.
    - ``softmax``: s = the layer's width times softmax(tau) over the layer, and t = 0; equal attention gives s = 1.

    The inner loop keeps tau fixed and adapts the unmodulated parameters w. Task parameters are the modulated network's,
    w' = s w, followed by s. As dL/dw = s dL/dw', a step of size lr on w is a step of size s^2 lr on w'.

    Meta-parameters are (theta, GRU, the layers' MLPs). With s = 1 and t = 0 this is MAML.

    Unlike the paper's, the scale of ``film`` is 1 + tau and the softmax is multiplied by the width, so that training
    starts near MAML; the output layer is not modulated; and the GRU reads forwards alone, where the paper's reads
    supervised examples in both directions (section A.1).

    Args:
        policy: The policy to adapt.
        inner: The inner loop's settings.
        options: Settings of MuMoMAML.

    Raises:
        UserError: If the policy is not a multilayer perceptron with a hidden layer.

    Source: Vuorio et al. 2019, algorithm 1, sections 4 and A.3.
    """

    policy: DifferentiablePolicy

    def __init__(self, policy: DifferentiablePolicy, inner: InnerSettings, options: MuMoMAMLConfig) -> None:
        if not isinstance(policy, MLPPolicy) or len(policy.layout.names) < 4:
            raise UserError("mumomaml modulates hidden units: it needs the built-in network with a hidden layer.")
        self._inner, self._modulation, size = inner, options.modulation, options.embedding_size
        self._encoder = TrajectoryEncoder(policy, size, options.trajectories)
        biases = zip(policy.layout.names, policy.layout.shapes, strict=True)
        self._widths = [shape[0] for name, shape in biases if name.startswith("bias")][:-1]
        outputs = [width * (2 if self._modulation == "film" else 1) for width in self._widths]
        self._networks = [
            Perceptron(f"modulation{i}_", [size, size, number], "relu") for i, number in enumerate(outputs, start=1)
        ]
        self._mlps = Layout([shape for network in self._networks for shape in network.shapes])
        super().__init__(policy, policy.layout.size + self._encoder.num_parameters + self._mlps.size)
        self._unit, self._shift = _units(policy.layout, self._widths)

    def initial(self, generator: np.random.Generator) -> Tensor:
        theta, encoder = self.policy.initial(generator), self._encoder.initial(generator)
        limit = 1 / math.sqrt(self._encoder.size)
        mlps = torch.from_numpy(generator.uniform(-limit, limit, self._mlps.size).astype(np.float32))
        views = self._mlps.views(mlps)
        # Last layers start at 0, so tau = 0 for every task: s = 1 for FiLM and softmax, 1/2 for the sigmoid.
        for last in [*views[2::4], *views[3::4]]:
            last.zero_()
        return torch.cat([theta, encoder, mlps])

    def start(self, meta: Tensor, modes: Tensor) -> Tensor:
        theta = meta[: self.policy.layout.size].expand(len(modes), -1)
        return torch.cat([theta, theta.new_ones(len(modes), sum(self._widths))], dim=1)

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        steps = [self._step(scale * self._inner.inner_lr) for scale in step_scales]
        wanted = self._encoder.trajectories
        modulate = Stage(self._modulate, rollouts=wanted, kind=StageKind.PREPARATION, reads=wanted)
        return [modulate, *steps] if steps else []

    def observe(self, loop: InnerLoop) -> Tensor:
        """Each task's embedding, [task, embedding]."""
        if not loop.supports:  # No steps, and so no modulation.
            return super().observe(loop)
        return self.embedding(loop.meta, loop.supports[0])

    @property
    def observed(self) -> Mapping[str, slice]:
        """The embedding, as ``modulation``."""
        return {"modulation": slice(self._encoder.size)}

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        """Mean of the scales, and the standard deviation over tasks of scales and embedding; nothing without steps."""
        if not observed.shape[1]:
            return {}
        scales, _ = self.scales_and_shifts(meta, observed)
        spread = {"scale": scales, "embedding": observed}
        report = {f"modulation_spread/{name}": float(x.std(0, correction=0).mean()) for name, x in spread.items()}
        return {"modulation_mean/scale": float(scales.mean()), **report}

    def embedding(self, meta: Tensor, support: Support) -> Tensor:
        """Each task's embedding by the GRU, [task, embedding]."""
        start = self.policy.layout.size
        return self._encoder.embedding(meta[start : start + self._encoder.num_parameters], support)

    def scales_and_shifts(self, meta: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of every hidden unit, both [task, unit]."""
        views = self._mlps.views(meta[-self._mlps.size :])
        layers = [
            self._of_layer(network(views[4 * i : 4 * i + 4], embedding)) for i, network in enumerate(self._networks)
        ]
        scales, shifts = zip(*layers, strict=True)
        return torch.cat(scales, dim=1), torch.cat(shifts, dim=1)

    def _of_layer(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of the units of one layer, both [task, unit], from its network's outputs [task, output]."""
        if self._modulation == "film":
            scale, shift = tau.chunk(2, dim=1)
            return 1 + scale, shift
        scale = tau.sigmoid() if self._modulation == "sigmoid" else tau.shape[1] * tau.softmax(1)
        return scale, torch.zeros_like(tau)

    def _modulate(self, meta: Tensor, parameters: Tensor, support: Support) -> Tensor:
        scales, shifts = self.scales_and_shifts(meta, self.embedding(meta, support))
        policies = parameters[:, : self.policy.layout.size] * self._of_parameters(scales, 1, self._unit)
        return torch.cat([policies + self._of_parameters(shifts, 0, self._shift), scales], dim=1)

    def _step(self, step_size: float) -> Stage:
        def update(meta: Tensor, parameters: Tensor, support: Support) -> Tensor:
            policies, scales = parameters[:, : len(self._unit)], parameters[:, len(self._unit) :]
            gradient = support.gradient(policies)
            policies = policies - step_size * self._of_parameters(scales, 1, self._unit) ** 2 * gradient
            return torch.cat([policies, scales], dim=1)

        return Stage(update)

    def _of_parameters(self, units: Tensor, otherwise: float, index: Tensor) -> Tensor:
        """Copies values of units [task, unit] to their parameters [task, parameter]; all others get ``otherwise``."""
        padded = torch.nn.functional.pad(units, (0, 1), value=otherwise)
        return padded.index_select(1, index.to(units.device))


def _units(layout: Layout, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Index of the hidden unit that scales each parameter, and of the unit that shifts it, [parameter].

    The total number of units marks parameters that no unit scales or shifts.
    """
    total, first = sum(widths), 0
    scaled = [torch.full((size,), total) for size in layout.sizes]
    shifted = [index.clone() for index in scaled]
    for layer, width in enumerate(widths):
        units = torch.arange(first, first + width)
        weight, bias = 2 * layer, 2 * layer + 1
        scaled[weight] = torch.repeat_interleave(units, layout.shapes[weight][1])
        scaled[bias] = shifted[bias] = units
        first += width
    return torch.cat(scaled), torch.cat(shifted)
