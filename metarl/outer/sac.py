"""Soft actor-critic from a buffer of trials, for agents that act on a posterior of their task."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from metarl.agents.pearl import PEARL, Transitions
from metarl.common.errors import UserError
from metarl.common.parallel import Workers
from metarl.common.profiling import timed
from metarl.config.optimisers import SACConfig
from metarl.config.settings import RolloutSettings
from metarl.data import LearnerState, Rollouts
from metarl.inner.loop import InnerLoop
from metarl.inner.memory import of_all_processes
from metarl.outer.adam import adam_of
from metarl.outer.optimiser import StepReport
from metarl.outer.replay import as_rollouts, latest_trials, named

_ADAM, _BUFFER, _TARGETS = "adam.", "buffer.", "targets"
_NUMBERS = ("critic_loss", "posterior_kl", "entropy", "temperature")


class SAC:
    """The meta-optimiser of PEARL.

    Its memory holds Adam's moments (``adam.``), the target critics' weights (``targets``) and the latest trials
    (``buffer.``), so that a resumed run goes on as if it had not stopped.

    Args:
        config: Settings.
        rollouts: Say how rewards are discounted.
    """

    def __init__(self, config: SACConfig, rollouts: RolloutSettings) -> None:
        self._config, self._discount = config, rollouts.discount

    def step(
        self, state: LearnerState, loop: InnerLoop, workers: Workers, generator: np.random.Generator
    ) -> tuple[LearnerState, StepReport]:
        """Adds the trials to the buffer, and takes steps of Adam on the losses of trials drawn from it.

        The losses are on transitions of whole trials. The posterior has read others of the same trials: of their first
        k episodes, with a random k, since the last episode of a trial has no later one to serve. Where these have fewer
        transitions than are drawn, none counts more than once; where a trial has one episode, it is the prior. The
        first iteration
        only fills the buffer: it is the first to tell the statistics of observations and rewards. With several
        processes, each repeats the same updates.

        Outcomes are ``first trials``, ``k updates`` and ``non-finite`` (a gradient; the state stays). Numbers are
        means over the updates, NaN without any: ``critic_loss``, ``posterior_kl`` in nats, from the prior, ``entropy``
        in nats, and ``temperature``.

        Raises:
            UserError: If the rule is not PEARL.

        Source: Rakelly et al. 2019, algorithm 1.
        """
        config, rule = self._config, loop.rule.core
        if not isinstance(rule, PEARL):
            raise UserError("the meta-optimiser sac is for algo pearl; take ppo with other agents with memory.")
        loop, before = of_all_processes(loop, workers.group), named(_BUFFER, state.memory)
        buffer = latest_trials(before, loop, config.buffer, ["truncated"])
        kept = {_BUFFER + name: part for name, part in buffer.items()}
        if not before:
            return LearnerState(state.meta, kept), StepReport("first trials", dict.fromkeys(_NUMBERS, math.nan))
        steps = _Steps(as_rollouts(buffer, loop))
        random = torch.Generator().manual_seed(int(generator.integers(2**63)))
        parameter, adam = adam_of(LearnerState(state.meta, named(_ADAM, state.memory)), config.lr)
        targets = state.memory.get(_TARGETS, state.meta[rule.critics]).to(parameter.device, copy=True)
        reports = []
        for _ in range(config.updates):
            with timed("soft actor-critic"):
                parameter.grad, report = self._gradient(rule, parameter.detach(), targets, steps, random)
                adam.step()
                targets.lerp_(parameter.detach()[rule.critics], config.polyak)
            reports.append(report)
        means = torch.stack(reports).mean(0)
        numbers = dict(zip(_NUMBERS, means.tolist(), strict=True))
        # What is not finite once stays so in Adam's moments.
        if not bool(torch.isfinite(parameter).all()):
            return state, StepReport("non-finite", numbers)
        moments = {_ADAM + name: part for name, part in adam.state[parameter].items()}
        memory = {**kept, **moments, _TARGETS: targets}
        return LearnerState(parameter.detach(), memory), StepReport(f"{config.updates} updates", numbers)

    def _gradient(
        self, rule: PEARL, meta: Tensor, targets: Tensor, steps: _Steps, random: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The gradient [meta parameter] of the losses on transitions drawn at random, and what they report."""
        config = self._config
        number, episodes = steps.counts.shape
        trials = torch.randint(number, (config.trials, 1), generator=random)
        # What an episode begins with has read the earlier ones alone, in which the agent knew less.
        earlier = torch.randint(max(1, episodes - 1), (config.trials, 1), generator=random)
        context = steps.drawn(trials, earlier, rule.options.context, random)
        weight = (steps.counts[trials, earlier] / rule.options.context).clamp(max=1) * (episodes > 1)
        batch = steps.drawn(trials, torch.full_like(earlier, episodes - 1), config.transitions, random)
        noise = rule.noise(batch, random)
        with torch.enable_grad():
            leaf = meta.clone().requires_grad_()
            loss, report = rule.loss(leaf, targets, self._discount, context, weight, batch, noise)
            (gradient,) = torch.autograd.grad(loss, leaf)
        return gradient, report


class _Steps:
    """All transitions of the buffer's trials.

    Args:
        rollouts: The trials, [trial, episode, ...].

    Attributes:
        counts: Steps that each trial took until the end of each episode, [trial, episode].
    """

    def __init__(self, rollouts: Rollouts) -> None:
        assert rollouts.truncated is not None
        assert rollouts.next_observations is not None
        mask = rollouts.mask
        last = mask - torch.cat([mask[:, :, 1:], torch.zeros_like(mask[:, :, :1])], dim=2)
        self._all = Transitions(
            rollouts.observations.flatten(1, 2),
            rollouts.actions.flatten(1, 2),
            rollouts.rewards.flatten(1),
            rollouts.next_observations.flatten(1, 2),
            (last * ~rollouts.truncated[..., None]).flatten(1),
        )
        taken = mask.flatten(1)
        self.counts = mask.sum(2).cumsum(1)
        # Positions of the steps that took place, before those of the others.
        self._order = taken.byte().argsort(dim=1, descending=True, stable=True)

    def drawn(self, trials: Tensor, until: Tensor, rows: int, random: torch.Generator) -> Transitions:
        """Transitions drawn evenly among those that took place, [trial, rows] each.

        Args:
            trials: Of which trials, [trial, 1].
            until: The last episode that they are drawn from, counted from 0, [trial, 1].
            rows: How many.
            random: Source of randomness.
        """
        share = torch.rand(len(trials), rows, generator=random).to(self.counts)
        trials, until = trials.to(share.device), until.to(share.device)
        at = trials, self._order[trials, (share * self.counts[trials, until]).long()]
        return Transitions(*(getattr(self._all, part.name)[at] for part in fields(Transitions)))
