"""A buffer of the latest trials, from which off-policy updates learn; it is part of the learner's memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metarl.data import Rollouts
from metarl.inner.loop import InnerLoop
from metarl.inner.memory import episodes

_TENSORS = ("observations", "last_observations", "actions", "rewards", "mask")


def latest_trials(before: Mapping[str, Tensor], loop: InnerLoop, size: int, also: Iterable[str] = ()) -> dict[str, Any]:
    """The latest trials, [trial, episode, ...] each.

    Observations are as before their normalisation, because its statistics change.

    Args:
        before: The trials so far, by name; empty at first.
        loop: The inner loop of all tasks, whose trials are added.
        size: Most trials that are kept.
        also: Tensors of `Rollouts` that are kept beside observations, actions, rewards and mask.
    """
    trials, normaliser = Rollouts.concatenate(episodes(loop), axis=1), loop.rule.normaliser(loop.meta)
    latest: dict[str, Tensor] = {name: getattr(trials, name) for name in (*_TENSORS, *also)}
    if normaliser is not None:
        for name in ("observations", "last_observations"):
            latest[name] = latest[name] * normaliser.std + normaliser.mean
    if loop.identities is not None:
        latest["tasks"] = loop.identities
    return {
        name: torch.cat([before[name].to(part.device), part])[-size:] if before else part[-size:]
        for name, part in latest.items()
    }


def as_rollouts(kept: Mapping[str, Any], loop: InnerLoop) -> Rollouts:
    """Trials of the buffer as the agent sees them now.

    Args:
        kept: Some of `latest_trials`, without the tasks.
        loop: The inner loop, whose rule normalises observations.
    """
    nothing = torch.zeros_like(kept["rewards"])
    rollouts = Rollouts(**kept, log_probs=nothing, advantages=nothing)
    if (normaliser := loop.rule.normaliser(loop.meta)) is None:
        return rollouts
    seen, last = (normaliser(kept[name]) for name in ("observations", "last_observations"))
    return replace(rollouts, observations=seen, last_observations=last)


def named(prefix: str, memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a learner's memory whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): part for name, part in memory.items() if name.startswith(prefix)}
