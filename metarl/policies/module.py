"""Uses any stateless ``torch.nn.Module`` as a policy's network."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from metarl.common.errors import UserError
from metarl.common.global_seed import globally_seeded
from metarl.common.lazy import lazy
from metarl.data import Samples
from metarl.policies.base import Curvature, DifferentiablePolicy, Linearised
from metarl.policies.distributions import DifferentiableDistribution
from metarl.policies.losses import InnerLoss, inner_loss

# Numbers in a task's observations from which on tasks are computed one by one on a CPU.
_MANY_NUMBERS = 1024


class ModulePolicy(DifferentiablePolicy):
    """A policy whose network is any stateless feed-forward ``torch.nn.Module``; derivatives come from autograd.

    Args:
        observation_size: Length of an observation.
        distribution: The action distribution.
        make_body: Called with (observation_size, outputs), and with ``shape``, the observation's shape, if it has a
            parameter of this name; returns a module that maps [row, observation] to [row, output]. The module draws its
            own initial parameters.
        initial_std: Gaussian only: initial standard deviation.
        min_std: Gaussian only: floor of the standard deviation.
        input_shape: Shape of an observation before it is flattened, such as an image's; by default it is flat.

    Buffers, and parameters with ``requires_grad=False``, are constants: they are neither adapted nor stored, so
    ``make_body`` must give them the same values each time.

    Raises:
        UserError: If the module is not a function of parameters and observation alone: if it has recurrent layers,
            batch normalisation, dropout, or buffers that change or are drawn at random.
    """

    def __init__(
        self,
        observation_size: int,
        distribution: DifferentiableDistribution,
        make_body: Callable[..., nn.Module],
        initial_std: float = 1.0,
        min_std: float = 1e-6,
        input_shape: tuple[int, ...] | None = None,
    ) -> None:
        self._make_body = _with_shape(make_body, input_shape or (observation_size,))
        self._module = self._build(observation_size, distribution.num_outputs)
        self._constants = _constants(self._module)
        trained = _trained(self._module)
        self._names = list(trained)
        shapes = [(name, tuple(parameter.shape)) for name, parameter in trained.items()]
        super().__init__(observation_size, distribution, shapes, initial_std, min_std)
        # functional_call swaps parameters in and out of the module, so every thread needs its own copy.
        self._copies = threading.local()

    def require_separate_rows(self) -> None:
        """Raises UserError if the output of an observation depends on the others that are computed with it.

        It then says nothing of a single observation, as an acting agent has.
        """
        inputs = torch.zeros(2, self.observation_size)
        inputs[1] = 1.0
        with torch.no_grad():
            together, alone = self._module(inputs), torch.cat([self._module(row[None]) for row in inputs])
        if not torch.allclose(together, alone, rtol=1e-3, atol=1e-5):
            raise UserError(
                "the policy body gives an observation other outputs beside others than alone, as normalisation over "
                "the batch does; take one that treats each by itself, such as with LayerNorm."
            )

    def _build(self, inputs: int, outputs: int) -> nn.Module:
        with globally_seeded(0, 0):
            module = self._made(inputs, outputs)
        # Check before the call below, because a recurrent layer returns a tuple.
        _require_stateless(module)
        before = {name: value.clone() for name, value in _constants(module).items()}
        with torch.no_grad():
            values = module(torch.zeros(3, inputs))
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        if got != f"shape {(3, outputs)}":
            raise UserError(
                f"the policy body must map observations (3, {inputs}) to outputs (3, {outputs}), got {got}."
            )
        if not _trained(module):
            raise UserError("a policy body needs parameters to train, and none of its parameters requires a gradient.")
        if changed := _different(before, _constants(module)):
            raise UserError(f"a policy body's buffers must not change, and its forward pass changes {changed}.")
        if before:
            self._check_same_again(before, inputs, outputs)
        return module

    def _made(self, inputs: int, outputs: int) -> nn.Module:
        """A new body. Its lazy layers have their parameters, which they draw at the first input."""
        module: object = self._make_body(inputs, outputs)
        if not isinstance(module, nn.Module):
            raise UserError(f"a policy body must be a torch.nn.Module, got {type(module).__name__}.")
        if any(is_lazy(parameter) for parameter in module.parameters()):
            with torch.no_grad():
                module(torch.zeros(3, inputs))
        return module

    def _check_same_again(self, constants: Mapping[str, Tensor], inputs: int, outputs: int) -> None:
        """Raises UserError if another module has other constants than these."""
        with globally_seeded(1, 1):
            again = self._made(inputs, outputs)
        if changed := _different(constants, _constants(again)):
            raise UserError(
                f"a policy body's buffers and frozen parameters must be the same whenever it is made, and {changed} "
                "is not; make it from constants, or train it (requires_grad=True)."
            )

    def activations(self, parameters: Tensor, observations: Tensor) -> dict[str, Tensor]:
        """Returns the outputs of all submodules without children, and the network's output."""
        values: dict[str, Tensor] = {}

        def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and len(output) == len(observations):
                values[name] = output.flatten(1).clone()

        module = copy.deepcopy(self._module)
        for name, part in module.named_modules():
            if name and not list(part.children()):
                part.register_forward_hook(partial(keep, name))
        views = self.layout.views(parameters)[: len(self._names)]
        tensors = dict(zip(self._names, views, strict=True))
        output = torch.func.functional_call(module, {**self._constants_like(parameters), **tensors}, (observations,))
        # If the last submodule returns the network's output, list it only once.
        if values and torch.equal(values[last := next(reversed(values))], output):
            del values[last]
        return {**values, "output": output}

    @property
    def head(self) -> list[str]:
        """The module that holds the body's last tensor counts as the last layer."""
        module = self._names[-1].rpartition(".")[0]
        return [name for name in self._names if name.rpartition(".")[0] == module] + self.layout.names[
            len(self._names) :
        ]

    def initial_body(self, generator: np.random.Generator) -> Tensor:
        seed = int(generator.integers(2**63))
        with globally_seeded(seed, seed % 2**32):
            module = self._made(self.observation_size, self.distribution.num_outputs)
        return torch.cat([parameter.detach().float().flatten() for parameter in _trained(module).values()])

    def outputs(self, parameters: Tensor, observations: Tensor) -> Tensor:
        def single(tensors: dict[str, Tensor], rows: Tensor) -> Tensor:
            return torch.func.functional_call(module, {**constants, **tensors}, (rows,))

        if not hasattr(self._copies, "module"):
            self._copies.module = copy.deepcopy(self._module)
        module, constants = self._copies.module, self._constants_like(parameters)
        views = self.layout.views(parameters)[: len(self._names)]
        # One task at a time is as fast for images, needs less memory, and gives bits that other tasks do not change.
        one_by_one = observations.device.type == "cpu" and observations[0].numel() >= _MANY_NUMBERS
        run = torch.func.vmap(single, chunk_size=1 if one_by_one else None)
        return run(dict(zip(self._names, views, strict=True)), observations)

    def _constants_like(self, parameters: Tensor) -> dict[str, Tensor]:
        """The module's constants on the device, and in the precision, of some parameters."""
        return {
            name: value.to(parameters) if value.is_floating_point() else value.to(parameters.device)
            for name, value in self._constants.items()
        }

    def inner_gradient(
        self, parameters: Tensor, samples: Samples, loss: InnerLoss, adapted: Collection[str] | None = None
    ) -> Tensor:
        gradient = self._gradient(parameters, samples, loss, create_graph=False)[1]
        return self._only(adapted, gradient.device)(gradient)

    def inner_curvature(
        self, parameters: Tensor, samples: Samples, loss: InnerLoss, adapted: Collection[str] | None = None
    ) -> Curvature:
        gradient = self._gradient(parameters, samples, loss, create_graph=True)
        return _AutogradCurvature(*gradient, self._only(adapted, parameters.device))

    def linearise(self, parameters: Tensor, samples: Samples) -> Linearised:
        return _AutogradLinearised(self, parameters, samples)

    @torch.enable_grad()
    def _gradient(
        self, parameters: Tensor, samples: Samples, loss: InnerLoss, create_graph: bool
    ) -> tuple[Tensor, Tensor]:
        leaf = parameters.detach().requires_grad_()
        outputs = self.outputs(leaf, samples.observations)
        total = inner_loss(self.distribution, outputs, self.extra(leaf), samples, loss).sum()
        return leaf, torch.autograd.grad(total, leaf, create_graph=create_graph)[0]


class _AutogradCurvature:
    """Hessian products by two reverse passes."""

    def __init__(self, parameters: Tensor, gradient: Tensor, only_adapted: Callable[[Tensor], Tensor]) -> None:
        self._parameters, self._gradient, self._only_adapted = parameters, gradient, only_adapted

    def pushforward(self, direction: Tensor) -> Tensor:
        return self._only_adapted(self._product(direction))

    def pullback(self, direction: Tensor) -> Tensor:
        return self._product(self._only_adapted(direction))

    def _product(self, direction: Tensor) -> Tensor:
        return torch.autograd.grad(
            self._gradient, self._parameters, direction.expand_as(self._gradient), retain_graph=True
        )[0]


class _AutogradLinearised:
    """Products with the Jacobian J by two reverse passes.

    J^T u is linear in u. Differentiating it once more in reverse, with respect to u and with cotangent v, gives J v,
    whatever u is; here u is 0.
    """

    @torch.enable_grad()
    def __init__(self, policy: ModulePolicy, parameters: Tensor, samples: Samples) -> None:
        self._distribution, self._weights = policy.distribution, samples.weights[..., None]
        self._leaf = parameters.detach().requires_grad_()
        self._primal = (policy.outputs(self._leaf, samples.observations), policy.extra(self._leaf))
        self.outputs, self.extra = (value.detach() for value in self._primal)

    def pullback(self, d_outputs: Tensor, d_extra: Tensor) -> Tensor:
        return torch.autograd.grad(self._primal, self._leaf, (d_outputs, d_extra), retain_graph=True)[0]

    def fisher_product(self, direction: Tensor) -> Tensor:
        cotangents, transposed = self._transposed
        d_outputs, d_extra = torch.autograd.grad(
            transposed, cotangents, direction, retain_graph=True, materialize_grads=True
        )
        by_outputs, by_extra = self._distribution.fisher(self.outputs, self.extra, d_outputs, d_extra)
        return self.pullback(by_outputs * self._weights, (by_extra * self._weights).sum(1))

    # Built at the first product, so that a plain gradient never pays for it.
    @lazy
    @torch.enable_grad()
    def _transposed(self) -> tuple[tuple[Tensor, ...], Tensor]:
        """(u, J^T u) with its graph."""
        cotangents = tuple(torch.zeros_like(value, requires_grad=True) for value in self._primal)
        return cotangents, torch.autograd.grad(self._primal, self._leaf, cotangents, create_graph=True)[0]


def _with_shape(make_body: Callable[..., nn.Module], shape: tuple[int, ...]) -> Callable[[int, int], nn.Module]:
    """The same function of (inputs, outputs), told the observation's shape if it asks for it."""
    try:
        asks = "shape" in inspect.signature(make_body).parameters
    except (TypeError, ValueError):  # Something built in, whose parameters nobody knows.
        asks = False
    return partial(make_body, shape=shape) if asks else make_body


def _require_stateless(module: nn.Module) -> None:
    for name, part in module.named_modules():
        kind, where = type(part).__name__, f" ({name})" if name else ""
        if isinstance(part, nn.RNNBase | nn.RNNCellBase):
            raise UserError(f"recurrent policy bodies are not supported: {kind}{where}; use a feed-forward module.")
        if isinstance(part, nn.modules.dropout._DropoutNd):
            raise UserError(f"a policy body must be deterministic: {kind}{where} is not; remove it.")
        # Without running statistics it has no buffers, but it still mixes the rows.
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise UserError(f"policy bodies with batch normalisation are not supported: {kind}{where}; use LayerNorm.")


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _constants(module: nn.Module) -> dict[str, Tensor]:
    """Buffers and frozen parameters."""
    frozen = {name: value.detach() for name, value in module.named_parameters() if not value.requires_grad}
    return {**dict(module.named_buffers()), **frozen}


def _different(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str | None:
    """The first of these tensors that is another one afterwards."""
    return next((n for n, value in before.items() if n not in after or not torch.equal(value, after[n])), None)
