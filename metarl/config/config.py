"""A configuration holds the user's choices. It resolves to settings by consumer, in which every value is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from metarl.common.errors import UserError, nearest, shown
from metarl.common.importing import importable_name
from metarl.config.algorithms import (
    Algorithm,
    BaselineConfig,
    CAVIAConfig,
    L2FConfig,
    MAMLppConfig,
    MuMoMAMLConfig,
    PEARLConfig,
    RL2Config,
    VariBADConfig,
    get_algorithm,
)
from metarl.config.checked import BoolOrAuto, Checked, convert, convert_some, hints
from metarl.config.optimisers import META_OPTIMISERS, AdamConfig, PPOConfig, ProMPConfig, SACConfig, TRPOConfig
from metarl.config.resolved import (
    BUILT_IN_NETWORK,
    GRADIENT_STEPS,
    GROUPS,
    OWN_OPTIONS,
    REINFORCEMENT,
    Component,
    Settings,
    baseline_component,
    components,
    without_meta_step,
)
from metarl.config.settings import ExampleSettings, MetaSettings
from metarl.envs import Family, SupervisedFamily, TaskFamily, family_spec, get_family


@dataclass(frozen=True)
class Config:
    """The user's choices for a training run; None means not chosen.

    A setting that is not chosen takes the task family's default, if it has one, else the algorithm's, else the general
    one; settings of papers are in `metarl.preset`. ``resolve`` returns the settings in force. A copy with another
    ``env`` or ``algo`` (``dataclasses.replace``) keeps only the choices, not the defaults.

    Scalars of NumPy and PyTorch are accepted as Python's, lists as tuples, texts as paths. ``env`` may be a subclass of
    `metarl.TaskFamily`, ``algo`` a subclass of `metarl.Adaptation`. Settings of a component are an object, which
    chooses all of them, or a dictionary, which chooses some: ``trpo={"max_kl": 0.02}``. `metarl.config.settings`,
    `metarl.config.algorithms`, `metarl.config.optimisers` and ``python -m metarl.train --help`` describe each setting.

    Raises:
        UserError: At construction, if a setting is impossible.
    """

    env: str | type[Family] | Family = "navigation"
    algo: str | type = "maml"
    attenuate: bool = False
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    run_dir: Path | str | None = None
    resume: BoolOrAuto = False
    init_from: Path | str | None = None
    take_over: bool = False
    seed: int = 0
    iterations: int | None = None

    meta_batch_size: int | None = None
    rollouts_per_task: int | None = None
    horizon: int | None = None
    on_bad_episode: Literal["stop", "drop"] | None = None
    step_timeout: float | None = None
    shots: int | None = None
    queries: int | None = None
    num_inner_steps: int | None = None
    inner_lr: float | None = None
    inner_loss: Literal["ratio", "score", "dice"] | None = None

    hidden_sizes: tuple[int, ...] | None = None
    activation: Literal["relu", "tanh"] | None = None
    output_gain: float | None = None
    initial_std: float | None = None
    min_std: float | None = None
    normalise_observations: bool | None = None
    action_scale: float | None = None
    policy_body: str | None = None

    discount: float | None = None
    gae_lambda: float | None = None
    meta_optimiser: str | None = None
    trpo: TRPOConfig | Mapping[str, Any] | None = None
    promp: ProMPConfig | Mapping[str, Any] | None = None
    adam: AdamConfig | Mapping[str, Any] | None = None
    ppo: PPOConfig | Mapping[str, Any] | None = None
    sac: SACConfig | Mapping[str, Any] | None = None
    l2f: L2FConfig | Mapping[str, Any] | None = None
    adapted_layers: tuple[str, ...] | None = None
    mamlpp: MAMLppConfig | Mapping[str, Any] | None = None
    mumomaml: MuMoMAMLConfig | Mapping[str, Any] | None = None
    context_size: int | None = None
    cavia: CAVIAConfig | Mapping[str, Any] | None = None
    rl2: RL2Config | Mapping[str, Any] | None = None
    varibad: VariBADConfig | Mapping[str, Any] | None = None
    pearl: PEARLConfig | Mapping[str, Any] | None = None
    baseline: BaselineConfig | Mapping[str, Any] | None = None
    rule: Checked | Mapping[str, Any] | None = None
    """Settings of a user's own algorithm."""
    optimiser: Checked | Mapping[str, Any] | None = None
    """Settings of a user's own meta-optimiser."""

    log_every: int | None = None
    validate_every: int | None = None
    validation_tasks: int | None = None
    best_by: str | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    processes: int | None = None
    envs_per_process: int | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        env, parameters = family_spec(self.env)
        object.__setattr__(self, "env", env)
        algo = importable_name(self.algo) if isinstance(self.algo, type) else convert("algo", self.algo, str)
        object.__setattr__(self, "algo", algo)
        object.__setattr__(
            self, "env_kwargs", {**parameters, **convert("env_kwargs", self.env_kwargs, Mapping[str, Any])}
        )
        for name, kind in hints(Config).items():
            if name not in ("env", "env_kwargs", "algo", "run_dir", "init_from", "rule", "optimiser"):
                object.__setattr__(self, name, convert(name, getattr(self, name), kind))
        for name in ("run_dir", "init_from"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, convert(name, getattr(self, name), Path))
        self.resolve()

    @property
    def chosen(self) -> dict[str, Any]:
        """The choices by name; ``env``, ``algo`` and ``seed`` are always among them."""
        values = {part.name: (getattr(self, part.name), part.default) for part in dataclasses.fields(self)}
        always = ("env", "algo", "seed")
        return {
            name: value for name, (value, default) in values.items() if name in always or value not in (default, {})
        }

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.resolve().folder

    def resolve(self) -> Settings:
        """Returns the settings in force: choices, then the task family's defaults, the algorithm's, the general ones.

        Raises:
            UserError: If a setting is impossible, or has no effect with the chosen algorithm.
        """
        return _Resolution(self).settings()

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings in force as JSON values, by field of this class; None for settings without effect."""
        values = self.resolve().to_dict()
        return {part.name: values[part.name] for part in dataclasses.fields(self)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Config:
        """Returns the configuration that chooses all of ``values`` except None.

        Raises:
            UserError: If a setting is unknown or impossible.
        """
        if not isinstance(values, Mapping):
            raise UserError(f"a configuration must be a dictionary of settings, got {shown(values)}.")
        names = [part.name for part in dataclasses.fields(Config)]
        for name in values:
            if name not in names:
                raise UserError(f"unknown setting {name!r} in the configuration.{nearest(name, names)}")
        chosen = {name: value for name, value in values.items() if value is not None}
        if get_algorithm(chosen.get("algo", Config.algo)).attenuated:
            # The algorithm implies attenuation; as a choice it would survive a change of the algorithm.
            chosen.pop("attenuate", None)
        return Config(**chosen)


class WithoutEffect(UserError):
    """A choice that would do nothing beside the others.

    Args:
        name: Name of the choice.
        message: The message.

    Attributes:
        name: As given.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


Part = TypeVar("Part", bound=Checked)


class _Resolution:
    """Finds the settings in force: choices first, then the task family's defaults, the algorithm's, the general ones.

    Args:
        config: The choices.
    """

    def __init__(self, config: Config) -> None:
        self._config, self._algo = config, str(config.algo)
        self._algorithm = get_algorithm(self._algo)
        family = get_family(str(config.env), **config.env_kwargs)
        self._family, self._supervised = family, isinstance(family, SupervisedFamily)
        self._defaults = _joined(self._algorithm.defaults, _checked_defaults(family, self._algorithm))
        if isinstance(family, TaskFamily):
            self._defaults = {"horizon": family.horizon, **self._defaults}
        if self._algorithm.training == "none":
            self._defaults["iterations"] = 0
        if self._algorithm.training == "baseline" and not self._supervised:
            self._defaults["meta_optimiser"] = "trpo"

    def settings(self) -> Settings:
        config = self._config
        groups: dict[str, Any] = {name: self.fields_of(kind) for name, kind in GROUPS.items()}
        optimiser = groups["meta"].meta_optimiser
        parts: dict[str, Any] = {"optimiser": None, "l2f": None, "baseline": None, "own": None}
        known = components(self._algo, config.attenuate, optimiser, self.trainer)
        for part in known:
            value = self.component(part)
            # Choices for an idle component would have no effect: refuse them unless they equal the defaults.
            if part.in_use:
                parts[part.part] = value
            elif value != self.component(part, chosen=False):
                self._refuse(part.option or self._first_chosen(part), part.idle_because)
        l2f = parts["l2f"]
        if l2f is not None and l2f.reuses and optimiser == "trpo":
            parts["l2f"] = l2f.with_weights()
        for option, purpose in OWN_OPTIONS.items():
            if getattr(config, option) is not None and not any(part.option == option for part in known):
                self._refuse(option, f"it is for {purpose} of your own with Settings")
        default = self._defaults.get("meta_optimiser", MetaSettings.meta_optimiser)
        if self._algorithm.training != "meta" and optimiser != default:
            self._refuse_meta_optimiser(default)
        examples = self.fields_of(ExampleSettings) if self._supervised else None
        settings = Settings(**groups, **parts, examples=examples)
        self._check(settings)
        return settings

    @property
    def trainer(self) -> str:
        """The trainer of a baseline."""
        baseline: Any = self.component(baseline_component(self._algo))
        return str(baseline.trainer)

    def fields_of(self, kind: type[Part], chosen: bool = True) -> Part:
        """Settings whose fields are fields of the configuration; only their defaults if ``chosen`` is false."""
        values = {**self._defaults, **(self._config.chosen if chosen else {})}
        return kind(**{name: values[name] for name in hints(kind) if name in values})

    def component(self, part: Component, chosen: bool = True) -> Checked:
        """Settings of a component; only their defaults if ``chosen`` is false."""
        if part.option is None:
            return self.fields_of(part.settings, chosen)
        choice = getattr(self._config, part.option) if chosen else None
        if isinstance(choice, Checked):
            return convert(part.option, choice, part.settings)
        given = convert_some(part.option, self._defaults.get(part.option, {}), part.settings)
        chosen_parts = {} if choice is None else convert_some(part.option, choice, part.settings)
        return part.settings(**{**given, **chosen_parts})

    def _first_chosen(self, part: Component) -> str:
        return next(name for name in part.fields if name in self._config.chosen)

    def _refuse(self, name: str, because: str) -> NoReturn:
        raise WithoutEffect(name, f"{name} would do nothing: {because}.")

    def _refuse_meta_optimiser(self, default: str) -> NoReturn:
        """Refuses another meta-optimiser than the default, of an algorithm that is not meta-trained."""
        if without := without_meta_step(self._algo, self.trainer):
            self._refuse("meta_optimiser", without)
        other = "" if self._supervised else ", or choose baseline.trainer ppo"
        raise WithoutEffect("meta_optimiser", f"{self._algo} is trained by {default}: leave out meta_optimiser{other}.")

    def _check_supervised(self, settings: Settings) -> None:
        acts = not self._algorithm.adapts or self._algorithm.remembers
        if acts:
            raise UserError(f"{self._algo} acts in environments, and {self._config.env} is supervised.")
        if settings.baseline and settings.baseline.trainer == "ppo":
            raise UserError(
                f"baseline.trainer ppo acts in environments, and {self._config.env} is supervised; leave it out."
            )
        optimiser = settings.meta.meta_optimiser
        if optimiser in META_OPTIMISERS and optimiser != "adam":
            raise UserError(
                f"{self._config.env} is supervised, and {optimiser} needs rollouts; take meta_optimiser adam."
            )
        for name in ("start_kl", "reuse_kl"):
            if settings.l2f is not None and getattr(settings.l2f, name):
                raise UserError(f"l2f.{name} is a part of TRPO's meta-step: supervised families have none.")
        if settings.l2f is not None and settings.l2f.attenuation_rollouts == "fresh":
            raise UserError("l2f.attenuation_rollouts fresh needs rollouts: supervised tasks have one support set.")

    def _check_memory(self, settings: Settings) -> None:
        """Raises UserError if an agent with memory, or any other one, has settings of the other kind."""
        algo, remembers, optimiser = self._algo, self._algorithm.remembers, settings.meta.meta_optimiser
        row = META_OPTIMISERS.get(optimiser)
        if row is not None and (row.algorithms or remembers) and algo not in row.algorithms:
            own = [name for name, other in META_OPTIMISERS.items() if algo in other.algorithms]
            others = [name for name, other in META_OPTIMISERS.items() if not other.algorithms]
            kind, fitting = ("with", own) if remembers else ("without", others)
            raise UserError(
                f"{algo} is an agent {kind} memory: meta_optimiser must be {' or '.join(fitting)}, got {optimiser}."
            )
        if not remembers:
            return
        for name in row.unused if row else ():
            if name in self._config.chosen:
                self._refuse(name, f"it is for meta-optimisers other than {optimiser}")
        for name in GRADIENT_STEPS:
            if name in self._config.chosen:
                self._refuse(name, "it is for agents that take gradient steps, and not for an agent with memory")
        if settings.l2f is not None:
            raise UserError(f"attenuate needs gradient steps, and {algo} is an agent with memory.")
        if settings.rollouts.rollouts_per_task != 1:
            raise UserError(
                f"rollouts_per_task must be 1 with {algo}, whose memory reads one episode at a time, got "
                f"{settings.rollouts.rollouts_per_task}; num_inner_steps is the number of episodes before the last."
            )
        if settings.rollouts.on_bad_episode == "drop":
            raise UserError(f"on_bad_episode drop would leave gaps in what {algo} remembers; take stop.")

    def _check_best_by(self, best_by: str | None, validate_every: int) -> None:
        """Raises UserError unless validation measures what chooses the best checkpoint."""
        if "best_by" in self._config.chosen and not validate_every:
            self._refuse("best_by", "it is for runs with validation, and validate_every is 0")
        measured = (self._family.measure, *self._family.metrics)
        if best_by is not None and best_by not in measured:
            raise UserError(
                f"best_by must be one of what is measured on {self._config.env}, {', '.join(measured)}; got "
                f"{best_by!r}.{nearest(best_by, measured)}"
            )

    def _check(self, settings: Settings) -> None:
        """Raises UserError if the settings contradict the algorithm."""
        algo, algorithm, l2f = self._algo, self._algorithm, settings.l2f
        check_processes(settings, settings.run.processes)
        self._check_best_by(settings.run.best_by, settings.run.validate_every)
        unused = REINFORCEMENT if self._supervised else hints(ExampleSettings)
        for name in unused:
            if name in self._config.chosen:
                self._refuse(
                    name, f"it is for {'reinforcement learning' if self._supervised else 'supervised families'}"
                )
        for name in BUILT_IN_NETWORK:
            if name in settings.idle and name in self._config.chosen:
                self._refuse(name, "it is for metarl's own networks, and policy_body is another")
        if algorithm.training == "none" and settings.run.iterations:
            message = (
                f"{algo} is not trained: iterations must be 0 with it, got {settings.run.iterations}; leave it out."
            )
            raise WithoutEffect("iterations", message)
        if algorithm.training == "none" and settings.run.init_from is not None:
            self._refuse("init_from", f"{algo} is not trained")
        if algorithm.training != "meta" and l2f is not None:
            raise UserError(f"attenuate needs an algorithm that is meta-trained; {algo} is a baseline.")
        by_task = l2f is not None and l2f.conditioning == "task"
        if (by_task or algo == "mumomaml") and not settings.inner.num_inner_steps:
            raise UserError(
                f"num_inner_steps must be at least 1 with {settings.algorithm_name}, got 0: without a gradient step "
                f"nothing would train the {'attenuation' if by_task else 'modulation'}."
            )
        if self._supervised:
            self._check_supervised(settings)
            return
        self._check_memory(settings)
        if settings.baseline and settings.baseline.trainer == "ppo":
            rollouts, normalises = settings.rollouts, settings.policy.normalise_observations
            for name, is_on in (
                ("init_from", settings.run.init_from),
                ("normalise_observations", normalises),
                ("on_bad_episode", rollouts.on_bad_episode != "stop"),
                ("step_timeout", rollouts.step_timeout),
                ("envs_per_process", settings.run.envs_per_process),
            ):
                if is_on:
                    raise UserError(f"{name} is not for Stable-Baselines3's ppo; take baseline.trainer trpo.")
        for name in ("start_kl", "reuse_kl"):
            if l2f is not None and getattr(l2f, name) and settings.meta.meta_optimiser != "trpo":
                raise UserError(f"l2f.{name} is a part of TRPO's meta-step: it needs meta_optimiser trpo.")
        if settings.inner.inner_loss == "score":
            if l2f is not None and l2f.reuses:
                raise UserError(
                    "the score loss is wrong for the unattenuated policy's rollouts, which L2F reuses; take inner_loss "
                    "ratio or l2f.attenuation_rollouts fresh."
                )
            if settings.meta.meta_optimiser == "promp":
                raise UserError(
                    "the score loss is wrong from ProMP's second epoch on, which adapts other policies than those that "
                    "collected the rollouts; take inner_loss ratio."
                )


def _joined(defaults: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults, with others that override them; dictionaries of nested settings are joined."""

    def of(name: str) -> Any:
        mine, other = defaults.get(name), others.get(name, defaults.get(name))
        return {**mine, **other} if isinstance(mine, Mapping) and isinstance(other, Mapping) else other

    return {name: of(name) for name in (*defaults, *others)}


def _checked_defaults(family: Family, algorithm: Algorithm) -> dict[str, Any]:
    """Returns a family's default settings, converted like a user's choices.

    Args:
        family: The family.
        algorithm: The algorithm that they are for.

    Raises:
        UserError: If a default names no setting, or its value is impossible.
    """
    kinds, which = hints(Config), algorithm.family_defaults
    defaults: Mapping[str, Any] = getattr(family, which) if which else {}
    for name in defaults:
        if name not in kinds:
            raise UserError(f"{family.name}.{which}: there is no setting {name!r}.{nearest(name, kinds)}")
    return {name: convert(f"{family.name}.{which}: {name}", value, kinds[name]) for name, value in defaults.items()}


def check_processes(settings: Settings, number: int) -> None:
    """Raises UserError if this number of processes cannot share the tasks of an iteration."""
    tasks = settings.meta.meta_batch_size
    if number == 1:
        return
    if settings.examples is not None:
        raise UserError(f"processes must be 1 with supervised tasks, got {number}: there are no episodes to share.")
    if number > tasks:
        raise UserError(f"processes must be at most meta_batch_size, {tasks}, because they share it, got {number}.")
    if settings.run.device == "cuda":
        raise UserError("processes share tasks on CPUs only; take device cpu, or one process.")


def overridden(start: Config, chosen: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """Returns a configuration with further choices, which come before those of ``start``.

    Args:
        start: The configuration to start from.
        chosen: Choices by name; ``env_kwargs`` are joined with those of ``start``.

    Returns:
        The configuration, and the names of the choices of ``start`` that were left out, because they would do nothing
        beside ``chosen``, or because the new family does not take them.

    Raises:
        UserError: If the choices are impossible together.
    """
    inherited, left_out = {name: value for name, value in start.chosen.items() if name not in chosen}, list[str]()
    parameters, env = start.env_kwargs, chosen.get("env", start.env)
    if env != start.env and parameters and not _takes(env, parameters):
        parameters, left_out = {}, ["env_kwargs"]
    inherited["env_kwargs"] = {**parameters, **chosen.get("env_kwargs", {})}
    while True:
        try:
            return Config(**{**chosen, **inherited}), left_out
        except WithoutEffect as error:
            if error.name not in inherited:
                raise
            del inherited[error.name]
            left_out.append(error.name)


def _takes(env: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a family takes these parameters."""
    try:
        get_family(env, **parameters)
    except UserError:
        return False
    return True


def every_setting(config: Config) -> dict[str, tuple[Checked, str | None]]:
    """Returns all settings that the command line shows, with the choices applied, including settings without effect.

    Returns:
        By the name of their consumer: the settings, and the configuration's field that holds them (None if their fields
        are fields of the configuration).
    """
    resolution = _Resolution(config)
    settings = resolution.settings()
    shown: dict[str, tuple[Checked, str | None]] = {group: (getattr(settings, group), None) for group in GROUPS}
    shown["examples"] = settings.examples or ExampleSettings(), None
    algo, optimiser = settings.experiment.algo, settings.meta.meta_optimiser
    for part in components(algo, config.attenuate, optimiser, resolution.trainer):
        shown[part.name] = resolution.component(part), part.option
    return shown
