"""MuMoMAML: modulates the initialisation by an embedding of one trajectory (Vuorio et al. 2019)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from metarl.common.errors import UserError
from metarl.common.lazy import lazy
from metarl.config.algorithms import MuMoMAMLConfig
from metarl.config.settings import InnerSettings
from metarl.inner.differentiable import Jacobian, differentiable
from metarl.inner.loop import InnerLoop
from metarl.inner.rule import Adaptation, Stage, StageKind
from metarl.inner.support import Support
from metarl.policies.base import DifferentiablePolicy
from metarl.policies.layout import Layout
from metarl.policies.mlp import MLPPolicy


class MuMoMAML(Adaptation):
    """MAML from an initialisation whose hidden units are scaled and shifted for each task.

    A GRU reads one trajectory of the unadapted policy (observation, action and reward at each step); an MLP maps its
    last state to the modulation tau. The preactivation w_u x + b_u of unit u becomes s_u (w_u x + b_u) + t_u:

    - ``film``: s = 1 + tau_s and t = tau_t.
    - ``sigmoid``: s = sigmoid(tau) and t = 0.
    - ``softmax``: s = the layer's width times softmax(tau) over the layer, and t = 0; equal attention gives s = 1.

    The inner loop keeps tau fixed and adapts the unmodulated parameters w. Task parameters are the modulated network's,
    w' = s w, followed by s. As dL/dw = s dL/dw', a step of size lr on w is a step of size s^2 lr on w'.

    Meta-parameters are (theta, GRU, MLP). With s = 1 and t = 0 this is MAML.

    Args:
        policy: The policy to adapt.
        inner: The inner loop's settings.
        options: Settings of MuMoMAML.

    Raises:
        UserError: If the policy is not a multilayer perceptron with a hidden layer.

    Source: Vuorio et al. 2019, algorithm 1, sections 3 and A.3.
    """

    def __init__(self, policy: DifferentiablePolicy, inner: InnerSettings, options: MuMoMAMLConfig) -> None:
        if not isinstance(policy, MLPPolicy) or len(policy.layout.names) < 4:
            raise UserError("mumomaml modulates hidden units: it needs the built-in network with a hidden layer.")
        self._inner, self._modulation, self._size = inner, options.modulation, options.embedding_size
        biases = zip(policy.layout.names, policy.layout.shapes, strict=True)
        self._widths = [shape[0] for name, shape in biases if name.startswith("bias")][:-1]
        num_units, size = sum(self._widths), options.embedding_size
        num_actions = policy.distribution.num_outputs
        inputs, outputs = (
            policy.observation_size + num_actions + 1,
            num_units * (2 if self._modulation == "film" else 1),
        )
        self._gru = Layout(
            [("w_input", (3 * size, inputs)), ("w_hidden", (3 * size, size)), ("b_input", (3 * size,)),
             ("b_hidden", (3 * size,))]
        )  # fmt: skip
        self._mlp = Layout([("w1", (size, size)), ("b1", (size,)), ("w2", (outputs, size)), ("b2", (outputs,))])
        super().__init__(policy, policy.layout.size + self._gru.size + self._mlp.size)
        self._unit, self._shift = _units(policy.layout, self._widths)

    def initial(self, generator: np.random.Generator) -> Tensor:
        limit = 1 / math.sqrt(self._size)
        network = generator.uniform(-limit, limit, self._gru.size + self._mlp.size)
        # The MLP's last layer starts at 0, so tau = 0 for every task: s = 1 for FiLM and softmax, 1/2 for the sigmoid.
        network[-self._mlp.sizes[3] - self._mlp.sizes[2] :] = 0
        return torch.cat([self.policy.initial(generator), torch.from_numpy(network.astype(np.float32))])

    def start(self, meta: Tensor, modes: Tensor) -> Tensor:
        theta = meta[: self.policy.layout.size].expand(len(modes), -1)
        return torch.cat([theta, theta.new_ones(len(modes), sum(self._widths))], dim=1)

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        steps = [self._step(scale * self._inner.inner_lr) for scale in step_scales]
        return [Stage(self._modulate, rollouts=1, kind=StageKind.PREPARATION), *steps] if steps else []

    def observe(self, loop: InnerLoop) -> Tensor:
        """Each task's embedding, [task, embedding]."""
        return self.embedding(loop.meta, loop.supports[0])

    @property
    def observed(self) -> Mapping[str, slice]:
        """The embedding, as ``modulation``."""
        return {"modulation": slice(self._size)}

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        """Mean of the scales, and the standard deviation over tasks of scales and embedding."""
        scales, _ = self.scales_and_shifts(meta, observed)
        spread = {"scale": scales, "embedding": observed}
        report = {f"modulation_spread/{name}": float(x.std(0, correction=0).mean()) for name, x in spread.items()}
        return {"modulation_mean/scale": float(scales.mean()), **report}

    def embedding(self, meta: Tensor, support: Support) -> Tensor:
        """The GRU's state at the end of each task's trajectory, [task, embedding]."""
        trajectory, lengths = support.trajectory()
        start = self.policy.layout.size
        parameters = meta[start : start + self._gru.size]
        return differentiable(parameters, _LastState(parameters, self._gru, trajectory, lengths - 1))

    def scales_and_shifts(self, meta: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of every hidden unit, both [task, unit]."""
        w1, b1, w2, b2 = (view[0] for view in self._mlp.views(meta[None, -self._mlp.size :]))
        tau = torch.nn.functional.linear(torch.nn.functional.linear(embedding, w1, b1).relu(), w2, b2)
        if self._modulation == "film":
            scale, shift = tau.chunk(2, dim=1)
            return 1 + scale, shift
        if self._modulation == "sigmoid":
            return tau.sigmoid(), torch.zeros_like(tau)
        attention = [
            width * part.softmax(1) for width, part in zip(self._widths, tau.split(self._widths, 1), strict=True)
        ]
        return torch.cat(attention, dim=1), torch.zeros_like(tau)

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
        return padded[:, index.to(units.device)]


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


class _LastState:
    """A GRU's state [task, state] after step ``last`` [task] of ``sequence`` [task, time, input], from a zero state.

    Its Jacobian has few rows. Storing them is cheaper than running the recurrence for every product.
    """

    def __init__(self, parameters: Tensor, layout: Layout, sequence: Tensor, last: Tensor) -> None:
        self._parameters, self._layout, self._sequence, self._last = parameters.detach(), layout, sequence, last

    def value(self) -> Tensor:
        return self._state(self._parameters)

    def pullback(self, direction: Tensor) -> Tensor:
        return torch.einsum("ij,ijk->k", direction, self._rows)

    def pushforward(self, direction: Tensor) -> Tensor:
        return self._rows @ direction

    def jacobian(self) -> Jacobian:
        return self

    @lazy
    def _rows(self) -> Tensor:
        """The Jacobian, [task, state, parameter]."""
        # All rows at once are several times faster, but cuDNN's GRU has no batching rule for it.
        at_once = not self._parameters.is_cuda
        rows: Tensor = torch.autograd.functional.jacobian(self._state, self._parameters, vectorize=at_once)
        return rows

    def _state(self, parameters: Tensor) -> Tensor:
        sequence, weights = self._sequence, [view[0] for view in self._layout.views(parameters[None])]
        start = sequence.new_zeros(1, len(sequence), self._layout.shapes[1][1])
        # In training mode, because cuDNN cannot differentiate otherwise. There is no dropout.
        states = torch.ops.aten.gru.input(sequence, start, weights, True, 1, 0.0, True, False, True)[0]
        return states[torch.arange(len(sequence), device=sequence.device), self._last]
