"""Rules that adapt a memory: a step reads one episode, and all tasks share the network's weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from metarl.common.errors import UserError
from metarl.common.group import Group
from metarl.data import Rollouts
from metarl.inner.loop import InnerLoop
from metarl.inner.rule import Adaptation, Stage, StageKind
from metarl.inner.support import PolicyGradientSupport, Support
from metarl.policies.base import Acting
from metarl.policies.memory import MemoryPolicy, Network, Remembering, Trials
from metarl.policies.normaliser import Normaliser, RunningStatistics
from metarl.policies.recurrent import RecurrentPolicy

_LEAST_SPREAD = 0.3  # The least unit of rewards, as a share of their root mean square.
_TINY = 1e-3  # Of smaller units, what the statistics add to a variance would be a part.


@dataclass(frozen=True)
class ActorCriticOutputs:
    """What the network makes of some trials.

    Attributes:
        outputs: Outputs for the action distributions, [task, step, output].
        extra: Their state-independent parameters, [1, extra].
        values: Values in the critic's units, [task, step].
    """

    outputs: Tensor
    extra: Tensor
    values: Tensor


class MemoryRule(Adaptation):
    """A rule whose task parameters are a memory.

    Meta-parameters are the weights, which a subclass may make more, then statistics of the rewards: their number, mean
    and variance. The statistics are of all rewards of training so far, and fixed during an iteration. The unit of
    rewards is their standard deviation, but at least 0.3 times their root mean square, and 1 before a reward was other
    than 0: else the first reward that differs from a constant one would count ten thousand times.

    Args:
        policy: The policy.
        num_weights: Number of meta-parameters that have a gradient; by default the policy's weights.
    """

    policy: MemoryPolicy
    exact = False  # The statistics have no gradient.
    remembers = True

    def __init__(self, policy: MemoryPolicy, num_weights: int | None = None) -> None:
        self._statistics = RunningStatistics(1)
        self._num_weights = policy.weights.size if num_weights is None else num_weights
        super().__init__(policy, self._num_weights + self._statistics.size)

    @property
    def step_name(self) -> str:
        return "episode"

    def initial(self, generator: np.random.Generator) -> Tensor:
        return torch.cat([self.initial_weights(generator), self._statistics.initial()])

    def initial_weights(self, generator: np.random.Generator) -> Tensor:
        """Fresh weights, [weight]."""
        return self.policy.initial(generator)

    def states(self, meta: Tensor, trials: Trials) -> Tensor:
        """What the memory makes of trials that begin with a blank one, see `MemoryPolicy.states`."""
        memory = self.blank(len(trials.mask), meta)
        return self.policy.states(self.network(meta), self.rewards(meta), memory, trials)

    def initialisation(self, modes: Tensor) -> Tensor:
        raise UserError("an agent with memory has no initial policy of its own to start from: take algo maml.")

    def start(self, meta: Tensor, modes: Tensor) -> Tensor:
        return self.blank(len(modes), meta)

    def blank(self, num_tasks: int, like: Tensor) -> Tensor:
        """The memory before the first episode, all zeros, [task, memory]."""
        return like.new_zeros(num_tasks, self.policy.layout.size)

    def begin(self, meta: Tensor, parameters: Tensor) -> Acting:
        network = self.network(meta.to(parameters.device))
        return Remembering(self.policy, network, self.rewards(meta).to(parameters), parameters)

    def stages(self, step_scales: Sequence[float], iteration: int | None = None) -> list[Stage]:
        return [Stage(self._read, rollouts=1, kind=StageKind.STEP) for _ in step_scales]

    def _read(self, meta: Tensor, parameters: Tensor, support: Support) -> Tensor:
        assert isinstance(support, PolicyGradientSupport)
        return self.policy.read(self.network(meta), self.rewards(meta), parameters, trials_of([support.rollouts]))

    def network(self, meta: Tensor) -> Network:
        """The policy's network, by its weights among the meta-parameters."""
        return self.policy.network(meta[: self.policy.weights.size])

    def rewards(self, meta: Tensor) -> Normaliser:
        """The normalisation of rewards in this iteration."""
        statistics = meta[self._num_weights : self.num_meta].detach()
        shifts, (_, mean, variance) = self._statistics.normaliser(statistics), statistics.split(1)

        def unit(spread: Tensor) -> Tensor:
            return torch.maximum(spread, _LEAST_SPREAD * (spread**2 + mean**2).sqrt())

        tiny = unit(variance.sqrt())
        of_tiny = torch.where(tiny > 0, tiny, 1.0)
        return Normaliser(mean, torch.where(tiny < _TINY, of_tiny, unit(shifts.std)))

    def observe(self, loop: InnerLoop) -> Tensor:
        """Number, mean and variance of each task's rewards."""
        trials = trials_of(episodes(loop))
        return self._statistics.of(trials.rewards[..., None].double(), trials.mask).to(loop.meta)

    def after_meta_step(self, meta: Tensor, observed: Tensor) -> Tensor:
        """Adds the latest rewards to the statistics."""
        weights, statistics = meta[: self._num_weights], meta[self._num_weights :]
        return torch.cat([weights, self._statistics.pooled(statistics, observed)])


class RecurrentRule(MemoryRule, ABC):
    """A rule whose memory is the state of a recurrent layer, trained by reinforcement learning over whole trials."""

    policy: RecurrentPolicy

    def with_states(self, meta: Tensor, trials: Trials) -> Trials:
        """The trials, with everything that reinforcement learning does not change, to `forward` them many times."""
        return trials

    @abstractmethod
    def forward(self, meta: Tensor, trials: Trials) -> ActorCriticOutputs:
        """Goes through trials from a blank memory on.

        Args:
            meta: Meta-parameters, [meta parameter], those of rules around this one included; the result is
                differentiable with respect to them.
            trials: The trials.
        """

    def heads(self, meta: Tensor, states: Tensor, trials: Trials) -> ActorCriticOutputs:
        """What policy and critic make of trials with these states, [task, step, unit]."""
        policy, network = self.policy, self.network(meta)
        outputs = policy.outputs(network, states, trials.observations)
        return ActorCriticOutputs(outputs, policy.extra(network), policy.values(network, states, trials))


def episodes(loop: InnerLoop) -> list[Rollouts]:
    """The episodes of an inner loop in order, one of each task in every element."""
    return [data for data in (*(s.data for s in loop.supports), *loop.queries) if isinstance(data, Rollouts)]


def of_all_processes(loop: InnerLoop, group: Group) -> InnerLoop:
    """The inner loop of the tasks of all processes, in their order."""
    if group.size == 1:
        return loop
    supports = [support.data for support in loop.supports]
    gathered = group.gather((loop.modes, supports, loop.queries, loop.identities))
    modes, data, queries, identities = zip(*gathered, strict=True)
    joined = [Rollouts.concatenate(parts) for parts in zip(*data, strict=True)]
    return replace(
        loop,
        modes=torch.cat(modes),
        supports=[replace(support, data=part) for support, part in zip(loop.supports, joined, strict=True)],
        queries=[Rollouts.concatenate(parts) for parts in zip(*queries, strict=True)],
        identities=None if loop.identities is None else torch.cat(identities),
    )


def trials_of(episodes: Sequence[Rollouts]) -> Trials:
    """Joins the episodes of each task to one trial.

    Args:
        episodes: The episodes of each task in the order in which they took place, some of them in every element.
    """

    def joined(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.flatten(1, 2) for part in parts], dim=1)

    like, following = episodes[0].rewards, [part.next_observations for part in episodes]
    horizon = like.shape[2]
    time = torch.arange(sum(part.num_parts for part in episodes) * horizon, device=like.device)
    elapsed = torch.stack([time % horizon / horizon, time / len(time)], dim=1).to(like.dtype)
    trials = Trials(
        joined([part.observations for part in episodes]),
        joined([part.actions for part in episodes]),
        joined([part.rewards for part in episodes]),
        (time % horizon == 0).to(like.dtype).expand(len(like), -1),
        elapsed.expand(len(like), -1, -1),
        joined([part.mask for part in episodes]),
        joined([part for part in following if part is not None]) if None not in following else None,
    )
    return trials if bool(trials.mask.all()) else trials.living()
