"""Training of an agent's belief about its tasks, beside its policy: Adam on the evidence lower bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.agents.varibad import VariBAD
from metarl.common.profiling import timed
from metarl.data import LearnerState, Rollouts
from metarl.inner.loop import InnerLoop
from metarl.inner.memory import episodes, trials_of
from metarl.outer.adam import adam_of
from metarl.policies.normaliser import RunningStatistics

_ADAM, _BUFFER, _TASKS = "belief.", "buffer.", "tasks"
_KEPT = ("observations", "last_observations", "actions", "rewards", "mask")


def train_belief(
    rule: VariBAD, state: LearnerState, loop: InnerLoop, generator: np.random.Generator
) -> tuple[LearnerState | None, dict[str, float]]:
    """Several steps of Adam on the evidence lower bound of trials from a buffer, which first takes in the latest ones.

    Adam's moments and the buffer are in the state's memory, with names that begin with ``belief.`` and ``buffer.``. The
    buffer holds observations before their normalisation, because its statistics change.

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
    buffer = _buffer(state.memory, loop, options.buffer)
    adam_memory = {name.removeprefix(_ADAM): part for name, part in state.memory.items() if name.startswith(_ADAM)}
    parameter, adam = adam_of(LearnerState(state.meta, adam_memory), options.lr)
    reports = []
    for _ in range(options.updates):
        with timed("evidence lower bound"):
            gradient, report = _gradient(rule, parameter.detach(), loop, buffer, generator)
        reports.append(report)
        norm = float(gradient.norm())
        if not np.isfinite(norm):
            return None, _numbers(reports)
        parameter.grad = gradient * min(1.0, options.max_gradient_norm / max(norm, 1e-12))
        adam.step()
    memory = {
        **state.memory,
        **{_ADAM + name: part for name, part in adam.state[parameter].items()},
        **{_BUFFER + name: part for name, part in buffer.items()},
    }
    return LearnerState(parameter.detach(), memory), _numbers(reports)


def _buffer(memory: Mapping[str, Tensor], loop: InnerLoop, size: int) -> dict[str, Tensor]:
    """The latest trials, [trial, episode, ...] each, and their tasks [trial, number] if the belief learns them."""
    trials, normaliser = Rollouts.concatenate(episodes(loop), axis=1), loop.rule.normaliser(loop.meta)
    latest: dict[str, Tensor] = {name: getattr(trials, name) for name in _KEPT}
    if normaliser is not None:
        for name in ("observations", "last_observations"):
            latest[name] = latest[name] * normaliser.std + normaliser.mean
    if loop.identities is not None:
        latest[_TASKS] = loop.identities
    before = {name: memory[_BUFFER + name].to(part.device) for name, part in latest.items() if _BUFFER + name in memory}
    return {name: torch.cat([before[name], part])[-size:] if before else part[-size:] for name, part in latest.items()}


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
    nothing = torch.zeros_like(kept["rewards"])
    rollouts = Rollouts(**kept, log_probs=nothing, advantages=nothing)
    if (normaliser := loop.rule.normaliser(loop.meta)) is not None:
        seen, last = (normaliser(kept[name]) for name in ("observations", "last_observations"))
        rollouts = replace(rollouts, observations=seen, last_observations=last)
    trials = trials_of([rollouts])
    draws = rule.draws(generator, trials)
    # All trials at once: time goes by the steps of a trial, not by how many trials there are side by side.
    with torch.enable_grad():
        leaf = meta.clone().requires_grad_()
        bound, report = rule.bound(leaf, trials, tasks, draws)
        (gradient,) = torch.autograd.grad(bound.mean(), leaf)
    return gradient, report.mean(0)


def _numbers(reports: list[Tensor]) -> dict[str, float]:
    error, divergence = torch.stack(reports).mean(0).tolist()
    return {"reconstruction_error": error, "belief_kl": divergence}
