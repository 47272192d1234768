"""What a run says of itself while it lasts if something goes wrong that only its numbers show."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metarl.common.words import alternatives
from metarl.config.algorithms import REUSE_KL
from metarl.config.optimisers import get_meta_optimiser
from metarl.config.resolved import Settings
from metarl.outer.optimiser import NOT_ACCEPTED

# A judgement needs this many of the latest iterations.
_ITERATIONS = 10
_LOW_SAMPLE_SIZE = 0.5


@dataclass(frozen=True)
class NotAccepted:
    """Meta-steps that left the meta-parameters as they were.

    Attributes:
        counts: How many there are of each outcome, most frequent first.
        total: Number of all meta-steps.
    """

    counts: Sequence[tuple[str, int]]
    total: int

    @property
    def count(self) -> int:
        """How many were not accepted."""
        return sum(count for _, count in self.counts)

    @property
    def are_many(self) -> bool:
        """Whether they are more than a fifth."""
        return 5 * self.count > self.total

    @property
    def kinds(self) -> str:
        """The outcomes, in words."""
        return ", ".join(f"{count} {outcome}" for outcome, count in self.counts)

    def remedy(self, settings: Settings) -> str:
        """What to try against the most frequent outcome."""
        outcome, _ = self.counts[0]
        return _REMEDIES[outcome](settings)


def against_large_steps(settings: Settings, validating: bool = False) -> str:
    """What to try if steps were so large that numbers are no longer finite.

    Args:
        settings: The run's settings.
        validating: Whether that was in a validation, in which baselines take gradient steps too.
    """
    steps = settings.inner.num_inner_steps if validating else settings.trained_steps
    of_inner = settings.algorithm.step_size if steps else None
    of_meta = None
    if settings.optimiser is not None:
        of_meta = get_meta_optimiser(settings.meta.meta_optimiser).step_size or "step of the meta-optimiser"
    sizes = " or ".join(filter(None, (of_meta, of_inner)))
    remedies = [f"a smaller {sizes}"] if sizes else []
    if settings.examples is None:
        remedies += [*_normalisation(settings), "smaller rewards"]
    return alternatives(remedies)


def _against_rejection(settings: Settings) -> str:
    if settings.examples is not None:
        data = "meta_batch_size or queries"
    else:
        data = "meta_batch_size" if settings.algorithm.remembers else "meta_batch_size or rollouts_per_task"
    size = settings.algorithm.step_size if settings.trained_steps else None
    steps = [f"a smaller {size}"] if size else []
    return alternatives([f"more data for each step ({data})", *steps, *_normalisation(settings)])


def _against_zero_gradient(settings: Settings) -> str:
    if settings.examples is not None:
        return "fewer iterations if every prediction is right"
    normalisation = [f"if observations are far from 0, {name}" for name in _normalisation(settings)]
    remedies = alternatives(["a reward that depends on the actions", "a longer horizon", *normalisation])
    return f"fewer iterations if every episode earns the most that it can, else {remedies}"


def _normalisation(settings: Settings) -> list[str]:
    """The setting that would normalise observations; none if they are normalised, or cannot be."""
    possible = settings.examples is None and settings.optimiser is not None
    return ["normalise_observations"] if possible and not settings.policy.normalise_observations else []


_REMEDIES: Mapping[str, Callable[[Settings], str]] = {
    "rejected": _against_rejection,
    "zero gradient": _against_zero_gradient,
    "non-finite": against_large_steps,
}


def not_accepted(outcomes: Sequence[str]) -> NotAccepted | None:
    """Those of some meta-steps, by their outcomes, that were not accepted; None if all were."""
    counts = Counter(outcome for outcome in outcomes if outcome in NOT_ACCEPTED).most_common()
    return NotAccepted(counts, len(outcomes)) if counts else None


class Advice:
    """Watches the iterations of a run and says once, each, what is wrong and what to try.

    Args:
        settings: The run's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._latest: deque[Mapping[str, Any]] = deque(maxlen=_ITERATIONS)
        self._said: set[str] = set()

    def after(self, row: Mapping[str, Any]) -> Iterator[str]:
        """What to say after an iteration with these numbers: sentences."""
        self._latest.append(row)
        if len(self._latest) < _ITERATIONS:
            return
        for name, remark in (("steps", self._on_steps()), ("sample size", self._on_sample_size())):
            if remark and name not in self._said:
                self._said.add(name)
                yield remark

    def _on_steps(self) -> str | None:
        found = not_accepted([row["outcome"] for row in self._latest if "outcome" in row])
        if found is None or not found.are_many:
            return None
        return (
            f"{found.count} of the last {found.total} meta-steps were not accepted ({found.kinds}): try "
            f"{found.remedy(self._settings)}."
        )

    def _on_sample_size(self) -> str | None:
        sizes = [float(row["effective_sample_size"]) for row in self._latest if "effective_sample_size" in row]
        mean = sum(sizes) / len(sizes) if sizes else 1.0
        if mean >= _LOW_SAMPLE_SIZE:
            return None
        who, remedy = "the rule", "a smaller change before the step that reuses them, or fresh episodes for it"
        if l2f := self._settings.l2f:
            weight = l2f.reuse_kl
            hold = "meta_optimiser trpo" if weight is None else f"l2f.reuse_kl {max(10 * weight, REUSE_KL):g}"
            who, remedy = "L2F", f"{hold}, or l2f.attenuation_rollouts fresh"
        return (
            f"the effective sample size of the episodes that {who} reuses is {100 * mean:.2g} % of their number, so "
            f"that their gradients say little: try {remedy}."
        )
