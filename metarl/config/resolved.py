"""Settings by consumer, to which a configuration resolves, and the rules for which of them a run uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl.common.errors import shown
from metarl.config.algorithms import (
    ALGORITHMS,
    Algorithm,
    BaselineConfig,
    L2FConfig,
    get_algorithm,
    stored_trainer,
)
from metarl.config.checked import Checked, hints
from metarl.config.optimisers import META_OPTIMISERS, get_meta_optimiser
from metarl.config.settings import (
    ExampleSettings,
    Experiment,
    InnerSettings,
    MetaSettings,
    PolicySettings,
    RolloutSettings,
    RunSettings,
)

GROUPS: dict[str, type[Checked]] = {
    "experiment": Experiment,
    "run": RunSettings,
    "meta": MetaSettings,
    "rollouts": RolloutSettings,
    "inner": InnerSettings,
    "policy": PolicySettings,
}
"""Classes of the settings that every run has, by their name in `Settings`."""

REINFORCEMENT = (
    "inner_loss",
    "initial_std",
    "min_std",
    "normalise_observations",
    "envs_per_process",
    *hints(RolloutSettings),
)
"""Fields of the configuration that supervised families do not use."""

GRADIENT_STEPS = ("inner_lr", "inner_loss", "policy_body")
"""Fields of the configuration that agents with memory do not use."""

BUILT_IN_NETWORK = ("hidden_sizes", "activation", "output_gain")
"""Fields of the configuration that do nothing beside ``policy_body``."""

OWN_OPTIONS = {"rule": "an algorithm", "optimiser": "a meta-optimiser"}
"""The configuration's fields that hold the settings of a user's own algorithm or meta-optimiser."""


@dataclass(frozen=True)
class Settings:
    """The settings of a run, by consumer; every value is known.

    Attributes:
        experiment: Task family and algorithm.
        run: Folder, length and execution of the run.
        meta: The meta-iteration.
        rollouts: Episodes and advantages; without effect for supervised families.
        examples: Examples of supervised tasks; None for reinforcement learning.
        inner: The inner loop.
        policy: Network and exploration.
        optimiser: The meta-optimiser's own settings; None without a meta-step.
        l2f: Settings of Learn-to-Forget; None without attenuation.
        baseline: Training of a baseline; None for other algorithms.
        own: The algorithm's own settings; None if it has none.
    """

    experiment: Experiment
    run: RunSettings
    meta: MetaSettings
    rollouts: RolloutSettings
    examples: ExampleSettings | None
    inner: InnerSettings
    policy: PolicySettings
    optimiser: Checked | None
    l2f: L2FConfig | None
    baseline: BaselineConfig | None
    own: Checked | None

    @property
    def algorithm(self) -> Algorithm:
        """The chosen algorithm."""
        return get_algorithm(self.experiment.algo)

    @property
    def trained_steps(self) -> int:
        """Inner steps in training; baselines take theirs at test time only."""
        return 0 if self.baseline else self.inner.num_inner_steps

    @property
    def algorithm_name(self) -> str:
        """Name of the algorithm, with a suffix if L2F is added on top."""
        on_top = self.l2f is not None and not self.algorithm.attenuated
        return f"{self.experiment.algo}-attenuated" if on_top else self.experiment.algo

    @property
    def folder(self) -> Path:
        """The run's folder."""
        name = f"{self.experiment.env}-{self.algorithm_name}-seed{self.run.seed}"
        return self.run.run_dir or Path("runs") / name.replace(":", ".")

    def measured_on(self, size: int, shots: int | None = None) -> Settings:
        """The same settings with other data: ``size`` episodes of each task, or ``size`` query examples.

        An agent with memory reads one episode at a time: it keeps one, and has as many `trials` instead.

        Args:
            size: Episodes, or examples.
            shots: Examples to adapt to; None keeps their number.
        """
        examples = self.examples and dataclasses.replace(
            self.examples, queries=size, shots=self.examples.shots if shots is None else shots
        )
        rollouts = dataclasses.replace(self.rollouts, rollouts_per_task=size // self.trials(size))
        # One task at a time is the least that can work.
        most = self.run.envs_per_process and max(self.run.envs_per_process, rollouts.rollouts_per_task)
        run = dataclasses.replace(self.run, envs_per_process=most)
        return dataclasses.replace(self, rollouts=rollouts, examples=examples, run=run)

    def trials(self, size: int) -> int:
        """How often each task is adapted to, to measure ``size`` episodes of it."""
        return size if self.algorithm.remembers else 1

    @property
    def idle(self) -> tuple[str, ...]:
        """Fields of the configuration without effect, beside those of components that are not in use."""
        of_others = REINFORCEMENT if self.examples is not None else tuple(hints(ExampleSettings))
        steps = GRADIENT_STEPS if self.algorithm.remembers else ()
        best = () if self.run.validate_every else ("best_by",)
        network = BUILT_IN_NETWORK if self.policy.policy_body and not self.algorithm.remembers else ()
        return (*of_others, *steps, *best, *network, *get_meta_optimiser(self.meta.meta_optimiser).unused)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON values, by the names of `Config`'s fields; None for settings without effect."""
        known = components(self.experiment.algo, self.experiment.attenuate, self.meta.meta_optimiser, "trpo")
        values: dict[str, Any] = dict.fromkeys([*OWN_OPTIONS, *(name for part in known for name in part.fields)])
        for group in GROUPS:
            values |= dataclasses.asdict(getattr(self, group))
        if self.examples is not None:
            values |= dataclasses.asdict(self.examples)
        values |= dict.fromkeys(self.idle)
        optimiser = get_meta_optimiser(self.meta.meta_optimiser)
        parts = {
            optimiser.option: self.optimiser,
            "l2f": self.l2f,
            "baseline": self.baseline,
            self.algorithm.option: self.own,
        }
        for option, part in parts.items():
            if part is not None:
                of_part = dataclasses.asdict(part)
                values |= of_part if option is None else {option: of_part}
        if self.optimiser is None:
            values["meta_optimiser"] = None
        init_from = None if self.run.init_from is None else str(self.run.init_from)
        return {**values, "run_dir": str(self.folder), "init_from": init_from, "attenuate": self.l2f is not None}


@dataclass(frozen=True)
class Component:
    """Settings that only some runs use.

    Attributes:
        name: Name of the algorithm or meta-optimiser that they belong to.
        part: Their name in `Settings`.
        settings: Their class.
        option: The configuration's field that holds them; None if their fields are fields of the configuration.
        idle_because: Why they would do nothing in another run than one that uses them, in words for a message.
        in_use: Whether the run uses them.
    """

    name: str
    part: str
    settings: type[Checked]
    option: str | None
    idle_because: str
    in_use: bool

    @property
    def fields(self) -> list[str]:
        """The configuration's fields that set them."""
        return list(hints(self.settings)) if self.option is None else [self.option]


def baseline_component(algo: str) -> Component:
    """How to train a baseline."""
    in_use = get_algorithm(algo).training == "baseline"
    return Component("baseline", "baseline", BaselineConfig, "baseline", "it is for algo pretrain or oracle", in_use)


def components(algo: str, attenuate: bool, meta_optimiser: str, trainer: str) -> list[Component]:
    """Returns all settings that only some runs use: of meta-optimisers, Learn-to-Forget, baselines and algorithms.

    Args:
        algo: The chosen algorithm, which may be a user's own.
        attenuate: Whether Learn-to-Forget is added on top of it.
        meta_optimiser: The meta-optimiser.
        trainer: The trainer, if the algorithm is a baseline.
    """
    algorithm = get_algorithm(algo)
    without = without_meta_step(algo, trainer)
    optimisers = [
        Component(
            name,
            "optimiser",
            row.settings,
            row.option,
            without or f"it is for meta_optimiser {name}",
            not without and name == meta_optimiser,
        )
        for name, row in {**META_OPTIMISERS, meta_optimiser: get_meta_optimiser(meta_optimiser)}.items()
    ]
    attenuates = attenuate or algorithm.attenuated
    l2f = Component("l2f", "l2f", L2FConfig, "l2f", "it is for algo l2f, or attenuate with another one", attenuates)
    own = [
        Component(name, "own", row.settings, row.option, f"it is for algo {name}", name == algo)
        for name, row in {**ALGORITHMS, algo: algorithm}.items()
        if row.settings
    ]
    return [*optimisers, l2f, baseline_component(algo), *own]


def difference(before: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first setting that two runs have with other values, as "trpo.max_kl 0.01, not 0.02"; None if there is none.

    Args:
        before: The settings of one run by name; components and ``env_kwargs`` are dictionaries.
        now: Those of the other.
        names: The settings to compare.
    """
    for name in names:
        theirs, ours = before.get(name), now.get(name)
        if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
            inner = difference(theirs, ours, dict.fromkeys([*theirs, *ours]))
            if inner is not None:
                return f"{name}.{inner}"
        elif theirs != ours:
            return f"{name} {shown(theirs)}, not {shown(ours)}"
    return None


def without_meta_step(algo: str, trainer: str) -> str | None:
    """Why a run takes no meta-steps, in words for a message; None if it takes some.

    Args:
        algo: The algorithm.
        trainer: The trainer, if the algorithm is a baseline.
    """
    training = get_algorithm(algo).training
    if training == "none":
        return f"{algo} is not trained"
    if training == "baseline" and trainer == "ppo":
        return "baseline.trainer ppo has settings of its own, the defaults of Stable-Baselines3"
    return None


def idle_fields(values: Mapping[str, Any]) -> list[str]:
    """Returns the fields of a configuration that have no effect with its algorithm.

    Args:
        values: The run's settings, as in its config.json.

    Raises:
        UserError: If the algorithm is unknown.
    """
    algo, optimiser = values["algo"], values.get("meta_optimiser") or MetaSettings.meta_optimiser
    trainer = stored_trainer(values)
    parts = components(algo, bool(values.get("attenuate")), optimiser, trainer)
    idle = [name for part in parts if not part.in_use for name in part.fields]
    return ["meta_optimiser", *idle] if without_meta_step(algo, trainer) else idle
