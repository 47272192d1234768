"""Learn-to-Forget: attenuates the initialisation of another rule, task by task, before its inner loop."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from metarl.agents.encoder import TrajectoryEncoder
from metarl.config.algorithms import L2FConfig
from metarl.inner.loop import InnerLoop
from metarl.inner.rule import Adaptation, Stage, StageKind, WrappedAdaptation, before_others
from metarl.inner.support import Support, projected
from metarl.policies.layout import Layout
from metarl.policies.perceptron import Perceptron

# Weight of the old running statistics at a meta-iteration.
_MOMENTUM = 0.9
# Added to mean squares before their logarithm: a layer without a gradient counts as one with a tiny gradient.
_TINY = 1e-20


class L2F(WrappedAdaptation):
    """Another rule, started from an attenuated initialisation theta_bar_i = gamma_i[layer] * theta.

    The embedding m_i of task i is the gradient of its inner loss at theta, averaged over each layer. The attenuator is
    an MLP: gamma_i = sigmoid(MLP_phi(m_i)) in (0, 1) has one entry per layer; a weight and its bias count as two
    layers. The MLP has three linear layers with ReLU in between; its width is the number of layers of the policy.

    By default the meta-gradient takes m_i as a constant, as the authors' code does. It is then a partial gradient:
    exact for phi, and without the part of theta that acts through m_i. docs/l2f.md compares paper, code and package.

    The first step reuses the unattenuated policies' rollouts, and the KL divergence between these policies and the
    attenuated ones is part of the meta-loss, so that the rollouts stay valid; the unattenuated policies count in the
    trust region, which would else be blind to a step that scales theta up and gamma down.

    Meta-parameters are the rule's, then phi, then the running mean and variance of m if the embedding is normalised.
    The running statistics follow the data, not the meta-gradient.

    Variants: fresh rollouts for the first step; an embedding that also holds the logarithm of each layer's root mean
    square gradient and the mean return; or, instead of gradients, a GRU's embedding of trajectories
    (`TrajectoryEncoder`), with as many numbers as layers. The GRU's parameters are then the last part of phi, and the
    meta-gradient is exact.

    Ablations: one gamma for the network, per unit (its incoming weights) or per parameter; gamma as a learned constant,
    which costs no rollouts; gamma without the sigmoid; the affine map gamma * theta + delta. With gamma fixed at 1 this
    is the rule itself.

    Args:
        rule: The rule that starts from the attenuated initialisation.
        options: Settings of Learn-to-Forget.

    Source: Baik et al. 2020, equations 3 and 4, algorithm 1; ablations tables 4 and 6.
    """

    def __init__(self, rule: Adaptation, options: L2FConfig) -> None:
        layout = rule.policy.layout
        self._options, self._moments = options, options.embedding == "moments"
        self._constant = options.conditioning == "constant"
        self.layer_names = layout.names
        layer, width = layout.tensor_index(), len(layout.names)
        # Row j times a gradient is the mean of the gradient over layer j, [layer, parameter].
        self._means = torch.nn.functional.one_hot(layer, width).T / torch.tensor(layout.sizes).double()[:, None]
        self._group = {
            "network": torch.zeros_like(layer),
            "layer": layer,
            "filter": layout.row_index(),
            "parameter": torch.arange(layout.size),
        }[options.scope]
        self._num_groups = int(self._group.max()) + 1
        self._embedding_size = 2 * width + 1 if self._moments else width
        gru = options.embedding == "gru"
        self._encoder = TrajectoryEncoder(rule.policy, self._embedding_size, options.trajectories) if gru else None
        num_outputs = self._num_groups * (2 if options.transform == "affine" else 1)
        self._network = Perceptron("attenuator", [self._embedding_size, width, width, num_outputs], "relu")
        self._attenuator = Layout([("constant", (num_outputs,))] if self._constant else self._network.shapes)
        # The log-std is not attenuated by default: scaling it would pull the standard deviation to 1.
        self._kept = layout.members(() if options.attenuate_log_std else ("log_std",))
        statistics = 2 * self._embedding_size if options.normalised else 0
        of_encoder = self._encoder.num_parameters if self._encoder else 0
        super().__init__(rule, rule.num_meta + self._attenuator.size + of_encoder + statistics)
        self.exact = rule.exact and (self._constant or gru or options.embedding_gradient == "through")

    def initial(self, generator: np.random.Generator) -> Tensor:
        gamma, width = self._options.initial_gamma, len(self.layer_names)
        limit = 1 / math.sqrt(width)
        phi = torch.from_numpy(generator.uniform(-limit, limit, self._attenuator.size).astype(np.float32))
        *layers, constants = self._attenuator.views(phi)
        # ``constants`` are the last layer's bias, or the learned constants themselves.
        constants[:] = math.log(gamma / (1 - gamma)) if self._options.transform == "sigmoid" else gamma
        for part in [constants, *layers[-1:]]:
            part[self._num_groups :] = 0  # The offsets delta start at 0.
        parts = [self._rule.initial(generator), phi]
        if self._encoder:
            parts.append(self._encoder.initial(generator))
        if self._options.normalised:
            # Mean and variance; variance 0 marks that there are no data yet.
            parts.append(torch.zeros(2 * self._embedding_size))
        return torch.cat(parts)

    def start(self, meta: Tensor, modes: Tensor) -> Tensor:
        """Task parameters before adaptation; already attenuated if gamma is a learned constant."""
        parameters = super().start(meta, modes)
        return (
            self._attenuated(meta, parameters, self._no_embedding(meta, len(modes))) if self._constant else parameters
        )

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        stages = super().stages(step_scales, iteration)
        if not stages or self._constant:
            return stages
        if self._options.attenuation_rollouts == "reuse":
            stages[0] = replace(stages[0], rollouts=0)
        # Fresh rollouts follow: the encoder then needs no more than it reads.
        alone = self._encoder is not None and self._options.attenuation_rollouts == "fresh"
        rollouts = self._options.trajectories if alone else None
        attenuate = Stage(
            self._attenuate,
            rollouts,
            StageKind.PREPARATION,
            kl_weight=self._options.start_kl or 0.0,
            kl_penalty=self._options.reuse_kl or 0.0,
            reads=self._options.trajectories,
        )
        return [attenuate, *stages]

    def observe(self, loop: InnerLoop) -> Tensor:
        """Features of the attenuated rule, then the embedding; the latter is 0 for a constant gamma."""
        meta, first = self._of_rule(loop.meta), 0 if self._constant else 1
        of_rule = replace(loop, rule=self._rule, stages=loop.stages[first:], meta=meta, supports=loop.supports[first:])
        embedding = self._no_embedding(loop.meta, loop.num_tasks)
        if not self._constant and loop.supports:
            policies = self._rule.start(meta, loop.modes)[:, : self.policy.layout.size]
            embedding = self.embedding(loop.meta, policies, loop.supports[0])
        return torch.cat([self._rule.observe(of_rule), embedding], dim=1)

    @property
    def observed(self) -> Mapping[str, slice]:
        """Columns of the attenuated rule, then the embedding as ``attenuation``."""
        inner = before_others(self._rule.observed, self._embedding_size)
        return {**inner, "attenuation": slice(-self._embedding_size, None)}

    def attenuation(self, meta: Tensor, observed: Tensor) -> Tensor:
        """Mean of gamma over each layer, [task, layer]."""
        return self.layer_gamma(meta, self._split(observed)[1])

    def describe(self, meta: Tensor, observed: Tensor) -> dict[str, float]:
        """Numbers of the attenuated rule, then mean and standard deviation over tasks of each layer's gamma."""
        inner, embedding = self._split(observed)
        spread, mean = torch.std_mean(self.layer_gamma(meta, embedding).double(), dim=0, correction=0)
        report = super().describe(meta, inner)
        report |= {f"gamma_mean/{name}": value for name, value in zip(self.layer_names, mean.tolist(), strict=True)}
        spreads = zip(self.layer_names, spread.tolist(), strict=True)
        return report | {f"gamma_spread/{name}": value for name, value in spreads}

    def after_meta_step(self, meta: Tensor, observed: Tensor) -> Tensor:
        """Updates the running statistics of the embedding from the latest tasks."""
        inner, embedding = self._split(observed)
        meta = super().after_meta_step(meta, inner)
        if not self._options.normalised:
            return meta
        mean, variance = self._statistics(meta)
        new_mean, spread = embedding.mean(0), embedding.var(0, correction=0)
        # lerp(new, old, momentum) = (1 - momentum) * new + momentum * old. The first update has no old statistics.
        # Later ones measure squared distances from the old mean, so that a shift of the mean counts as variance.
        if bool((variance > 0).any()):
            spread = torch.lerp(((embedding - mean) ** 2).mean(0), variance, _MOMENTUM)
            new_mean = torch.lerp(new_mean, mean, _MOMENTUM)
        return torch.cat([meta[: -2 * len(mean)], new_mean, spread])

    def embedding(self, meta: Tensor, policies: Tensor, support: Support) -> Tensor:
        """What the attenuator sees, [task, feature].

        Either the GRU's embedding, or each layer's mean gradient, perhaps with log RMS and mean return.

        Args:
            meta: Meta-parameters, [meta parameter].
            policies: The unattenuated policies, [task, parameter].
            support: Their rollouts.
        """
        if self._encoder:
            start = self._rule.num_meta + self._attenuator.size
            return self._encoder.embedding(meta[start : start + self._encoder.num_parameters], support)
        means = self._means.to(policies)
        if not self._moments:
            embedding = support.projected_gradient(policies, means)
        else:
            gradient = support.gradient(policies)
            log_rms = 0.5 * torch.log(projected(gradient**2, means) + _TINY)
            embedding = torch.cat([projected(gradient, means), log_rms, support.performance()[:, None]], dim=1)
        return embedding.detach() if self._options.embedding_gradient == "stop" else embedding

    def gamma(self, meta: Tensor, embedding: Tensor) -> Tensor:
        """Factor on each parameter, [task, parameter]; 1 where a parameter is not attenuated."""
        return self._transformation(meta, embedding)[0]

    def layer_gamma(self, meta: Tensor, embedding: Tensor) -> Tensor:
        """Mean of gamma over each layer, [task, layer]."""
        return projected(self.gamma(meta, embedding), self._means.to(meta))

    def _attenuate(self, meta: Tensor, parameters: Tensor, support: Support) -> Tensor:
        policies = parameters[:, : self.policy.layout.size]
        return self._attenuated(meta, parameters, self.embedding(meta, policies, support))

    def _attenuated(self, meta: Tensor, parameters: Tensor, embedding: Tensor) -> Tensor:
        policies, rest = parameters.split([len(self._kept), parameters.shape[1] - len(self._kept)], dim=1)
        gamma, delta = self._transformation(meta, embedding)
        attenuated = gamma * policies if delta is None else gamma * policies + delta
        return torch.cat([attenuated, rest], dim=1) if rest.shape[1] else attenuated

    def _no_embedding(self, meta: Tensor, num_tasks: int) -> Tensor:
        return meta.new_zeros(num_tasks, self._embedding_size)

    def _transformation(self, meta: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gamma and delta, both [task, parameter]; delta is None unless the transform is affine."""
        phi = meta[self._rule.num_meta : self._rule.num_meta + self._attenuator.size]
        if self._constant:
            outputs = phi.expand(len(embedding), -1)
        else:
            outputs = self._network(self._attenuator.views(phi), self._normalised(meta, embedding))
        if self._options.transform == "sigmoid":
            outputs = outputs.sigmoid()
        group, kept = self._group.to(meta.device), self._kept.to(meta.device)
        gamma = torch.where(kept, 1, outputs[:, group])
        if self._options.transform != "affine":
            return gamma, None
        return gamma, torch.where(kept, 0, outputs[:, self._num_groups + group])

    def _normalised(self, meta: Tensor, embedding: Tensor) -> Tensor:
        if not self._options.normalised:
            return embedding
        mean, variance = self._statistics(meta)
        # Before the first meta-step, and for a layer whose gradient never varies, the attenuator sees zeros.
        scale = torch.where(variance > 0, variance.rsqrt(), torch.zeros_like(variance))
        return (embedding - mean) * scale

    def _statistics(self, meta: Tensor) -> tuple[Tensor, Tensor]:
        # Detached: the meta-gradient must not move the running statistics.
        size = self._embedding_size
        mean, variance = meta[-2 * size :].detach().split(size)
        return mean, variance

    def _split(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        return observed[:, : -self._embedding_size], observed[:, -self._embedding_size :]
