"""Training of an agent's belief about its tasks, beside its policy: Adam on the evidence lower bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.agents.varibad import VariBAD
from metarl.common.profiling import timed
from metarl.data import LearnerState
from metarl.inner.loop import InnerLoop
from metarl.inner.memory import trials_of
from metarl.outer.adam import adam_of, limited
from metarl.outer.replay import as_rollouts, latest_trials, named
from metarl.policies.normaliser import RunningStatistics

_ADAM, _BUFFER, _TASKS = "belief.", "buffer.", "tasks"

BELIEF_NUMBERS = ("reconstruction_error", "belief_kl")
"""What `train_belief` reports."""


def train_belief(
    rule: VariBAD, state: LearnerState, loop: InnerLoop, generator: np.random.Generator
) -> tuple[LearnerState | None, dict[str, float]]:
    """Several steps of Adam on the evidence lower bound of trials from a buffer, which first takes in the latest ones.

    Adam's moments and the buffer are in the state's memory, with names that begin with ``belief.`` and ``buffer.``.

    Args:
        rule: The rule.
        state: Meta-parameters and memory.
        loop: The inner loop of all tasks.
        generator: Source of randomness.

    Returns:
        The new state, or None if a gradient is not finite. Numbers are ``reconstruction_error``, the mean squared error
        of a decoded number, in its standard deviations; and ``belief_kl``, the divergences of a trial's beliefs from
        those before them, in nats per trial.

    Source: Zintgraf et al. 2020, section 3 and appendix.
    """
    options = rule.options
    buffer = latest_trials(named(_BUFFER, state.memory), loop, options.buffer)
    parameter, adam = adam_of(LearnerState(state.meta, named(_ADAM, state.memory)), options.lr)
    reports = []
    for _ in range(options.updates):
        with timed("evidence lower bound"):
            gradient, report = _gradient(rule, parameter.detach(), loop, buffer, generator)
        reports.append(report)
        norm = float(gradient.norm())
        if not np.isfinite(norm):
            return None, _numbers(reports)
        parameter.grad = limited(gradient, norm, options.max_gradient_norm)
        adam.step()
    memory = {
        **state.memory,
        **{_ADAM + name: part for name, part in adam.state[parameter].items()},
        **{_BUFFER + name: part for name, part in buffer.items()},
    }
    return LearnerState(parameter.detach(), memory), _numbers(reports)


def _gradient(
    rule: VariBAD,
    meta: Tensor,
    loop: InnerLoop,
    buffer: Mapping[str, Tensor],
    generator: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Gradient of minus the bound [meta parameter], and means of what it reports, for some trials of the buffer."""
    chosen = generator.permutation(len(buffer["rewards"]))[: rule.options.batch]
    kept: dict[str, Any] = {name: part[torch.from_numpy(chosen).to(part.device)] for name, part in buffer.items()}
    tasks = kept.pop(_TASKS, None)
    if tasks is not None:
        statistics = RunningStatistics(tasks.shape[1])
        every = statistics.of(buffer[_TASKS][None], torch.ones_like(buffer[_TASKS][None, :, 0]))[0]
        tasks = statistics.normaliser(every.to(tasks))(tasks)
    trials = trials_of([as_rollouts(kept, loop)])
    draws = rule.draws(generator, trials)
    # All trials at once: time goes by the steps of a trial, not by how many trials there are side by side.
    with torch.enable_grad():
        leaf = meta.clone().requires_grad_()
        bound, report = rule.bound(leaf, trials, tasks, draws)
        (gradient,) = torch.autograd.grad(bound.mean(), leaf)
    return gradient, report.mean(0)


def _numbers(reports: list[Tensor]) -> dict[str, float]:
    error, divergence = torch.stack(reports).mean(0).tolist()
    return dict(zip(BELIEF_NUMBERS, (error, divergence), strict=True))
