"""Proximal policy optimisation over whole trials, for agents with memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.agents.varibad import VariBAD
from metarl.common.errors import UserError
from metarl.common.parallel import Workers
from metarl.common.profiling import timed
from metarl.config.optimisers import PPOConfig
from metarl.config.settings import RolloutSettings
from metarl.data import LearnerState
from metarl.inner.loop import InnerLoop, added, over_pieces
from metarl.inner.memory import ActorCriticOutputs, RecurrentRule, episodes, of_all_processes, trials_of
from metarl.outer.adam import adam_of, limited
from metarl.outer.belief import BELIEF_NUMBERS, train_belief
from metarl.outer.optimiser import StepReport
from metarl.policies.memory import Trials
from metarl.policies.normaliser import RunningStatistics
from metarl.rollouts.returns import gae, standardise

# Most tasks whose trials are computed at once: a recurrent layer takes most of its time per step, not per task. This
# must not depend on the number of threads: otherwise the last bits of the results would.
_TASKS_AT_ONCE = 32
_ADAM = ("step", "exp_avg", "exp_avg_sq")


class PPO:
    """The meta-optimiser of agents with memory.

    Its memory holds Adam's moments, and the number, mean and variance of all value targets so far (``values``): the
    critic's units are their standard deviation.

    Args:
        config: Settings.
        rollouts: Say how rewards and temporal differences are discounted.
    """

    def __init__(self, config: PPOConfig, rollouts: RolloutSettings) -> None:
        self._config, self._rollouts, self._targets = config, rollouts, RunningStatistics(1)

    def step(
        self, state: LearnerState, loop: InnerLoop, workers: Workers, generator: np.random.Generator
    ) -> tuple[LearnerState, StepReport]:
        """Several epochs of Adam on the clipped surrogate, with whole tasks as minibatches.

        The episodes of a task are one trial: the discount does not begin anew with an episode, so that an early episode
        also earns what its knowledge is worth later. The value after a trial is 0.

        Outcomes are ``k epochs``, ``KL limit after k epochs`` and ``non-finite`` (a gradient; the state stays). Numbers
        are ``updates``, the steps of Adam; ``surrogate_gain``, the increase of the surrogate, in standardised
        advantages per step, on the last minibatch that was looked at, the one that stopped it included; ``kl``, the
        largest divergence on such a minibatch, in nats per step;
        ``entropy``, in nats; ``explained_variance`` of the value targets, before the updates; and the first
        ``meta_gradient_norm``. If the agent acts on a belief, `train_belief` follows.

        Raises:
            UserError: If the rule has no memory.

        Source: Schulman et al. 2017; over trials, Duan et al. 2016, section 2.2.
        """
        config, rule = self._config, loop.rule.core
        if not isinstance(rule, RecurrentRule):
            raise UserError("the meta-optimiser ppo is for agents with a recurrent memory; take trpo or promp.")
        # Every process has the trials of all, which are small, and computes some of the pieces.
        loop = of_all_processes(loop, workers.group)
        trials = rule.with_states(state.meta, trials_of(episodes(loop)))
        num_tasks, data = loop.num_tasks, self._data(rule, state, trials, workers)
        fresh = LearnerState(state.meta, {name: state.memory[name] for name in _ADAM if name in state.memory})
        parameter, adam = adam_of(fresh, self._learning_rate(state))
        done, stopped, reports, norms = 0, False, list[Tensor](), list[float]()
        for epoch in range(config.epochs):
            for tasks in np.array_split(generator.permutation(num_tasks), min(config.minibatches, num_tasks)):
                with timed("proximal gradient"):
                    gradient, report = self._gradient(rule, parameter.detach(), data, tasks, workers)
                if stopped := float(report[1]) > config.max_kl:
                    break
                norm = float(gradient.norm())
                norms.append(norm)
                if not np.isfinite(norm):
                    of_belief = dict.fromkeys(BELIEF_NUMBERS if isinstance(rule, VariBAD) else (), math.nan)
                    return state, StepReport(
                        "non-finite", {**self._numbers(len(reports), reports, norms, data), **of_belief}
                    )
                reports.append(report)
                parameter.grad = limited(gradient, norm, config.max_gradient_norm)
                adam.step()
            if stopped:
                break
            done = epoch + 1
        new = LearnerState(parameter.detach(), {**state.memory, **adam.state[parameter], "values": data.statistics})
        outcome = f"KL limit after {done} epochs" if stopped else f"{done} epochs"
        # What has stopped it tells what the last update has done.
        numbers = self._numbers(len(reports), [*reports, report] if stopped else reports, norms, data)
        if isinstance(rule, VariBAD):
            learned, of_belief = train_belief(rule, new, loop, generator)
            numbers |= of_belief
            if learned is None:
                return state, StepReport("non-finite", numbers)
            new = learned
        return new, StepReport(outcome, numbers)

    def _learning_rate(self, state: LearnerState) -> float:
        """The step size, which may fall linearly to 0 over the updates."""
        config = self._config
        if not config.anneal_updates:
            return config.lr
        done = float(state.memory["step"]) if "step" in state.memory else 0.0
        return config.lr * max(0.0, 1 - done / config.anneal_updates)

    @torch.no_grad()
    def _data(self, rule: RecurrentRule, state: LearnerState, trials: Trials, workers: Workers) -> _Data:
        """The trials with what the updates need to know of the policy that lived through them."""
        pieces = _pieces(np.arange(len(trials.mask)), workers)
        before = _joined(over_pieces(workers, lambda rows: rule.forward(state.meta, trials.tasks(rows)), pieces))
        statistics = state.memory.get("values", self._targets.initial()).to(state.meta)
        units = self._targets.normaliser(statistics)
        values = (before.values * units.std + units.mean).double() * trials.mask
        rewards, mask = trials.rewards.double()[:, None], trials.mask.double()[:, None]
        discount, gae_lambda = self._rollouts.discount, self._rollouts.gae_lambda
        advantages = gae(rewards, values[:, None], mask, discount, gae_lambda)[:, 0]
        targets = values + advantages
        statistics = self._targets.pooled(statistics, self._targets.of(targets[..., None], trials.mask))
        # All tasks together: what one task's steps are worth beside another's is what the trial teaches.
        advantages = standardise(advantages[None], trials.mask.double()[None])[0]
        left = _variance(targets - values, trials.mask) / _variance(targets, trials.mask).clamp(min=1e-12)
        return _Data(
            trials,
            before,
            rule.policy.distribution.log_prob(before.outputs, before.extra, trials.actions),
            advantages.to(trials.rewards),
            self._targets.normaliser(statistics)(targets.to(trials.rewards)[..., None])[..., 0],
            statistics,
            float(1 - left),
        )

    def _gradient(
        self, rule: RecurrentRule, meta: Tensor, data: _Data, tasks: np.ndarray, workers: Workers
    ) -> tuple[Tensor, Tensor]:
        """The loss's gradient [meta parameter] on some tasks; and their surrogate gain, divergence and entropy."""
        steps = data.trials.mask[torch.from_numpy(tasks)].sum()

        def of_piece(rows: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                leaf = meta.clone().requires_grad_()
                loss, report = self._loss(rule, leaf, data, rows)
                (gradient,) = torch.autograd.grad(loss / steps, leaf)
            return gradient, report.detach() / steps

        gradients, reports = zip(*over_pieces(workers, of_piece, _pieces(tasks, workers)), strict=True)
        return added(gradients), added(reports)

    def _loss(self, rule: RecurrentRule, meta: Tensor, data: _Data, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The loss summed over the steps of some tasks; and summed surrogate gain, divergence and entropy."""
        config, distribution, trials = self._config, rule.policy.distribution, data.trials.tasks(rows)
        now, before, advantages = rule.forward(meta, trials), data.before, data.advantages[rows]
        took_place = trials.mask > 0

        def total(values: Tensor) -> Tensor:
            # Not a product with the mask: padding can hold anything, and what has overflowed would stay.
            return torch.where(took_place, values, 0.0).sum()

        log_ratio = distribution.log_prob(now.outputs, now.extra, trials.actions) - data.log_probs[rows]
        ratio = torch.exp(torch.where(took_place, log_ratio, 0.0))
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        surrogate = total(torch.minimum(ratio * advantages, clipped * advantages))
        error = total((now.values - data.targets[rows]) ** 2)
        entropy = total(distribution.entropy(now.outputs, now.extra))
        kl = total(distribution.kl(before.outputs[rows], before.extra, now.outputs, now.extra))
        loss = config.value_weight * error - surrogate - config.entropy_weight * entropy
        return loss, torch.stack([surrogate - total(advantages), kl, entropy])

    def _numbers(
        self, updates: int, reports: Sequence[Tensor], norms: Sequence[float], data: _Data
    ) -> dict[str, float | int]:
        every = torch.stack([*reports]) if reports else torch.zeros(1, 3)
        return {
            "updates": updates,
            "surrogate_gain": float(every[-1, 0]),
            "kl": float(every[:, 1].max()),
            "entropy": float(every[0, 2]),
            "explained_variance": data.explained_variance,
            "meta_gradient_norm": norms[0] if norms else 0.0,
        }


@dataclass(frozen=True)
class _Data:
    """Trials, and what the updates need to know of the policy that lived through them.

    Attributes:
        trials: The trials.
        before: What that policy made of them.
        log_probs: Log-probability of each action, [task, step].
        advantages: Standardised over all steps, [task, step].
        targets: What the critic should say, in its units, [task, step].
        statistics: Number, mean and variance of all value targets so far.
        explained_variance: Share of the targets' variance that the critic explained.
    """

    trials: Trials
    before: ActorCriticOutputs
    log_probs: Tensor
    advantages: Tensor
    targets: Tensor
    statistics: Tensor
    explained_variance: float


def _pieces(tasks: np.ndarray, workers: Workers) -> list[Tensor]:
    """Tasks in pieces that are computed at once: those of this process."""
    pieces = torch.from_numpy(tasks).tensor_split(-(-len(tasks) // _TASKS_AT_ONCE))
    return list(pieces[workers.group.share(len(pieces))])


def _joined(parts: Sequence[ActorCriticOutputs]) -> ActorCriticOutputs:
    outputs, values = (torch.cat([getattr(part, name) for part in parts]) for name in ("outputs", "values"))
    return ActorCriticOutputs(outputs, parts[0].extra, values)


def _variance(values: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum()
    mean = (values * mask).sum() / count
    return ((values - mean) ** 2 * mask).sum() / count
