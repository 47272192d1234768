"""Checks an adaptation rule and reports every problem to its author."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.agents import build_rule
from metarl.common.errors import UserError, shown
from metarl.common.importing import import_named, importable_name
from metarl.config.algorithms import get_algorithm
from metarl.config.checked import Checked, Seed, convert, convert_some
from metarl.config.settings import InnerSettings, PolicySettings
from metarl.data import Rollouts
from metarl.inner.differentiable import GraphJacobian
from metarl.inner.loop import InnerLoop, adapt
from metarl.inner.rule import Adaptation, Stage, StageKind, report_of, updated_meta
from metarl.inner.support import Support
from metarl.policies.base import DifferentiablePolicy, Policy
from metarl.policies.distributions import Gaussian
from metarl.policies.mlp import MLPPolicy

_TASKS, _EPISODES, _TIME = 3, 4, 5
_OBSERVATION, _ACTIONS, _HIDDEN = 3, 2, (5, 4)
_MODES = torch.tensor([1, 0, 1])
_STEPS, _SCALES = 2, (1.0, 0.5)
_DIRECTIONS = 3
_DIFFERENCE = 1e-5  # step of central differences, whose error is of second order

Problems = Iterator[str]
_Update = Callable[[Tensor, Tensor, Support], Tensor]


def check_rule(
    rule: str | type[Adaptation], settings: Checked | Mapping[str, Any] | None = None, seed: int = 0
) -> None:
    """Checks an adaptation rule and raises one error that lists all its problems.

    The checks use a small policy and random rollouts in float64:

    - Settings can be stored as JSON.
    - Initial meta-parameters depend on the generator alone.
    - Updates leave their inputs unchanged, keep the shapes and treat every task independently.
    - A gradient step is proportional to its factor in ``step_scales``.
    - What it reports of itself has the right form.
    - Derivatives equal finite differences (unless the rule sets ``exact`` to False).
    - The rule can be pickled.

    Args:
        rule: The rule's class, its name, or "package.module:Rule".
        settings: Settings of the rule; by default their defaults. A dictionary sets some of them.
        seed: Seed of all random numbers.

    Raises:
        UserError: If there is a problem; the message lists every problem with its remedy.
    """
    if not isinstance(rule, str | type):
        raise UserError(f"rule must be a rule's class, its name, or package.module:Rule, got {shown(rule)}.")
    name = rule if isinstance(rule, str) else importable_name(rule)
    seed = convert("seed", seed, Seed)
    kind = get_algorithm(name).settings
    if kind is not None and not isinstance(settings, kind):
        settings = kind(**convert_some("settings", {} if settings is None else settings, kind))
    trial = _Trial(name, settings if isinstance(settings, Checked) else None, seed)
    problems = _problems_of(trial.settings, trial.initial, trial.updates, trial.reports, trial.pickling)
    # Where an update is wrong, these would only say so again.
    if problems := problems or _problems_of(trial.factors, trial.independence, trial.derivatives):
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise UserError(f"the rule {name} has {len(problems)} problem(s):{listed}")


def _problems_of(*checks: Callable[[], Problems]) -> list[str]:
    """What some checks find, each once."""
    problems = []
    for check in checks:
        try:
            for problem in check():
                problems.append(problem)
        except UserError as error:
            problems.append(str(error))
        except Exception as error:  # Any error in the rule is one more problem to report.
            problems.append(f"{check.__name__} could not be checked: {type(error).__name__}: {error}.")
    return list(dict.fromkeys(problems))


class _Trial:
    """A rule with a small policy and an inner loop of random rollouts.

    Args:
        name: The rule's name or "package.module:Rule".
        own: Settings of the rule; None if it has none.
        seed: Seed of all random numbers.
    """

    def __init__(self, name: str, own: Checked | None, seed: int) -> None:
        self._own, self._seed = own, seed
        policy: Policy = MLPPolicy(_OBSERVATION, Gaussian(_ACTIONS), _HIDDEN, "tanh")
        if (kind := get_algorithm(name).policy) is not None:
            network = PolicySettings(hidden_sizes=_HIDDEN)
            policy = import_named(kind, "policy")(_OBSERVATION, Gaussian(_ACTIONS), own, network)
        inner, zero = InnerSettings(num_inner_steps=_STEPS), np.zeros(_ACTIONS)
        self._rule = build_rule(name, policy, inner, own, num_modes=2, zero_outputs=zero)

    def settings(self) -> Problems:
        if self._own is None:
            return
        values = dataclasses.asdict(self._own)
        try:
            again = type(self._own)(**json.loads(json.dumps(values, allow_nan=False)))
        except (TypeError, ValueError) as error:
            yield f"its settings cannot be stored as JSON ({error}); use numbers, texts, and tuples of them."
            return
        if again != self._own:
            yield f"its settings come back from JSON as {again}; give each field the type of its values."

    def initial(self) -> Problems:
        rule = self._rule
        meta = self._initial()
        if meta.dtype != torch.float32 or meta.shape != (rule.num_meta,):
            yield (
                f"initial must return num_meta = {rule.num_meta} numbers of torch.float32, got shape "
                f"{tuple(meta.shape)} of {meta.dtype}."
            )
        if not torch.isfinite(meta).all():
            yield "initial returns numbers that are not finite."
        if not torch.equal(meta, self._initial()):
            yield "initial is not reproducible: draw from the generator that is passed in only."

    def updates(self) -> Problems:
        rule, loop = self._rule, self._loop()
        size = rule.policy.layout.size
        if loop.stages and len([stage for stage in loop.stages if stage.is_step]) != _STEPS:
            yield f"stages gives other than {_STEPS} steps for {_STEPS} factors; give one for each factor."
        parameters = rule.start(loop.meta, loop.modes).contiguous()
        if parameters.ndim != 2 or len(parameters) != _TASKS or parameters.shape[1] < size:
            yield f"start must return [task, at least {size} parameters], got shape {tuple(parameters.shape)}."
            return
        for number, (stage, support) in enumerate(zip(loop.stages, loop.supports, strict=True)):
            inputs = (loop.meta, parameters, *support.data.tensors().values())
            before = copy.deepcopy(inputs)
            updated = stage.update(loop.meta, parameters, support)
            if any(not torch.equal(*pair) for pair in zip(inputs, before, strict=True)):
                yield f"stage {number} changes its inputs; return a new tensor instead of changing one in place."
            if not torch.isfinite(updated).all():
                yield f"stage {number} returns numbers that are not finite."
                return
            parameters = updated

    def reports(self) -> Problems:
        rule, loop = self._rule, self._loop()
        observed = rule.observe(loop)
        if observed.ndim != 2 or len(observed) != _TASKS:
            yield f"observe must return [task, feature] for {_TASKS} tasks, got shape {tuple(observed.shape)}."
            return
        report_of(rule, loop.meta, observed)
        updated_meta(rule, loop.meta, observed)

    def factors(self) -> Problems:
        loop = self._loop()
        parameters = self._rule.start(loop.meta, _MODES)
        halves = self._rule.stages([0.5 * scale for scale in _SCALES])
        # `updates` reports a wrong number of stages.
        for number, (stage, half, support) in enumerate(zip(loop.stages, halves, loop.supports, strict=False)):
            updated = stage.update(loop.meta, parameters, support)
            shorter = half.update(loop.meta, parameters, support)
            half_as_long = _close(shorter - parameters, 0.5 * (updated - parameters))
            if stage.kind is StageKind.GRADIENT_STEP and not half_as_long:
                yield (
                    f"stage {number} is not half as long with half its factor in step_scales; multiply its step size "
                    "by the factor, a learned one too, or make it a StageKind.STEP."
                )
            parameters = updated

    def independence(self) -> Problems:
        loop = self._loop()
        together = loop.replay(loop.meta)[-1]
        alone = torch.cat([loop.tasks(task, task + 1).replay(loop.meta)[-1] for task in range(_TASKS)])
        if not _close(alone, together):
            yield "a task's result depends on the other tasks; compute each row of [task, ...] from its own row alone."
        order = [2, 0, 1]
        supports = [
            dataclasses.replace(
                support, data=Rollouts.concatenate([support.data.tasks(task, task + 1) for task in order])
            )
            for support in loop.supports
        ]
        permuted = dataclasses.replace(loop, modes=loop.modes[order], supports=supports).replay(loop.meta)[-1]
        if not _close(permuted, together[order]):
            yield "the order of the tasks changes the results; treat all rows of [task, ...] alike."

    def derivatives(self) -> Problems:
        """Checks the Jacobian J of the queried policies by the meta-parameters, along random directions v and w."""
        rule, loop = self._rule, self._loop()
        generator = torch.Generator().manual_seed(self._seed)
        leaf = loop.meta.clone().requires_grad_()
        with torch.enable_grad():
            jacobian = GraphJacobian(leaf, loop.queried(loop.replay(leaf)))
        for _ in range(_DIRECTIONS):
            v = torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator)
            w = torch.randn(jacobian.outputs.shape, dtype=leaf.dtype, generator=generator)
            # With exact products, <w, J v> = <J^T w, v>, and J v is the limit of (f(meta + e v) - f(meta - e v)) / 2 e.
            gradient, along, back = jacobian.gradient(w), jacobian.pushforward(v), jacobian.pullback(w)
            if not _close((w * along).sum(), (back * v).sum()):
                yield "its Jacobian and the transposed one do not fit together: <w, J v> differs from <J^T w, v>."
            if not rule.exact:
                continue
            ahead, behind = (loop.queried(loop.replay(loop.meta + sign * _DIFFERENCE * v)) for sign in (1, -1))
            expected = (ahead - behind) / (2 * _DIFFERENCE)
            if not _close(along, expected, 1e-5) or not _close((gradient * v).sum(), (w * expected).sum(), 1e-5):
                yield (
                    "its derivatives differ from finite differences; detach nothing, or say exact = False if the "
                    "gradient leaves something out on purpose."
                )
                return

    def pickling(self) -> Problems:
        try:
            again = pickle.loads(pickle.dumps(self._rule))
        except Exception as error:
            yield (
                f"it cannot be pickled ({type(error).__name__}: {error}); define the class at the top level of a "
                "module, and keep functions and open files out of its attributes."
            )
            return
        if not torch.equal(again.initial(np.random.default_rng(self._seed)), self._initial()):
            yield "its copy by pickle starts from other meta-parameters."

    def _initial(self) -> Tensor:
        return self._rule.initial(np.random.default_rng(self._seed))

    def _loop(self) -> InnerLoop:
        """An inner loop; meta-parameters that start at 0 are random, as if training had already moved them."""
        generator = torch.Generator().manual_seed(self._seed)
        meta = self._initial().double()
        meta = torch.where(meta == 0, 0.1 * torch.rand(meta.shape, dtype=meta.dtype, generator=generator), meta)

        def collect(policies: Tensor, phase: int, episodes: int | None) -> Rollouts:
            fallback = 1 if self._rule.remembers else _EPISODES
            return _imaginary(self._rule.policy, policies, self._seed + phase, episodes or fallback)

        stages = list(self._rule.stages(_SCALES))
        if wrong := [stage for stage in stages if not isinstance(stage, Stage)]:
            raise UserError(f"stages must give metarl.Stage objects, such as Stage(update), got {shown(wrong[0])}.")
        stages = [
            dataclasses.replace(stage, update=_keeping_shape(number, stage.update, self._rule.policy.layout.size))
            for number, stage in enumerate(stages)
        ]
        return adapt(self._rule, meta, stages, _MODES, collect, "ratio", each_task=False).loop


def _keeping_shape(number: int, update: _Update, size: int) -> _Update:
    """Wraps an update, so that it raises UserError if its result does not have the shape of task parameters."""

    def checked(meta: Tensor, parameters: Tensor, support: Support) -> Tensor:
        updated = update(meta, parameters, support)
        if not isinstance(updated, Tensor):
            raise UserError(f"stage {number} must return a tensor, got {shown(updated)}.")
        if updated.ndim != 2 or len(updated) != len(parameters) or updated.shape[1] < size:
            raise UserError(
                f"stage {number} must return [{len(parameters)} tasks, at least {size} parameters], got shape "
                f"{tuple(updated.shape)}."
            )
        return updated

    return checked


def _imaginary(policy: Policy, parameters: Tensor, seed: int, episodes: int) -> Rollouts:
    """Random rollouts; some episodes end early."""
    rng = np.random.default_rng(seed)
    shape = (len(parameters), episodes, _TIME)

    def draw(*size: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(size))

    observations = draw(*shape, _OBSERVATION)
    rows = observations.flatten(1, 2)
    noise = torch.from_numpy(policy.distribution.noise(rng, tuple(rows.shape[:2]))).double()
    if isinstance(policy, DifferentiablePolicy):
        outputs, extra = policy.outputs(parameters, rows), policy.extra(parameters)
    else:  # A memory may have made any outputs.
        distribution = policy.distribution
        outputs, extra = draw(*rows.shape[:2], distribution.num_outputs), draw(len(rows), distribution.num_extra)
    actions = policy.distribution.sample(outputs, extra, noise)
    log_probs = policy.distribution.log_prob(outputs, extra, actions).view(shape)
    lengths = torch.from_numpy(rng.integers(2, _TIME + 1, shape[:2]))
    mask = (torch.arange(_TIME) < lengths[..., None]).double()
    rewards, advantages = draw(*shape) * mask, draw(*shape) * mask
    return Rollouts(observations, actions.unflatten(1, shape[1:]), log_probs, rewards, mask, advantages)


def _close(first: Tensor, second: Tensor, tolerance: float = 1e-9) -> bool:
    return bool((first - second).norm() <= tolerance * (second.norm() + 1e-6))
