"""Meta-step problems of any size: random observations and advantages, and actions sampled from the policies.

The cost of a meta-step does not depend on the values, and random ones need no simulation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.triple_derivative import PlainMLPPolicy, TripleDerivative
from metarl.agents import build_rule
from metarl.common.parallel import Workers
from metarl.common.streams import Purpose, stream
from metarl.config.config import Config
from metarl.config.resolved import Settings
from metarl.config.settings import RolloutSettings
from metarl.data import Rollouts
from metarl.envs import TaskFamily
from metarl.inner.loop import InnerLoop, adapt
from metarl.outer.objective import MetaObjective
from metarl.policies.base import Policy
from metarl.runs.build import build


@dataclass(frozen=True)
class Problem:
    """An inner loop with its rollouts, ready for a meta-step."""

    settings: Settings
    family: TaskFamily
    loop: InnerLoop

    def objective(self, workers: Workers, fisher_fraction: float = 1, hessian_fraction: float = 1) -> MetaObjective:
        """The package's objective, with curvature from these fractions of the steps."""
        rows = self.loop.queries[-1].num_rows
        fisher_rows = None
        if fisher_fraction < 1:
            fisher_rows = torch.arange(round(fisher_fraction * rows))
        return MetaObjective(self.loop, workers, hessian_fraction, fisher_rows)

    def reference(self, tasks_at_once: int) -> TripleDerivative:
        """The same objective by plain automatic differentiation."""
        settings, sizes = self.settings, self.settings.policy
        policy = PlainMLPPolicy(
            self.loop.rule.policy.observation_size,
            self.loop.rule.policy.distribution,
            sizes.hidden_sizes,
            sizes.activation,
            min_std=sizes.min_std,
        )
        algo, num_modes = settings.experiment.algo, self.family.num_modes
        rule = build_rule(algo, policy, settings.inner, settings.own, settings.l2f, num_modes)
        stages = rule.stages((1.0,) * settings.inner.num_inner_steps)
        return TripleDerivative(replace(self.loop, rule=rule, stages=stages), tasks_at_once)


def make_problem(config: Config, device: torch.device) -> Problem:
    """Makes a problem of the size in ``config``."""
    settings = config.resolve()
    family, rule = build(settings)
    generator = torch.Generator().manual_seed(0)
    meta = rule.initial(stream(0, Purpose.INITIALISATION))
    stages = rule.stages((1.0,) * settings.inner.num_inner_steps)
    modes = torch.zeros(settings.meta.meta_batch_size, dtype=torch.long)

    def collect(policies: Tensor, *_: object) -> Rollouts:
        return _rollouts(rule.policy, policies, settings.rollouts, generator)

    adapted = adapt(rule, meta, stages, modes, collect, settings.inner.inner_loss)
    return Problem(settings, family, on_device(adapted.loop, device))


def on_device(loop: InnerLoop, device: torch.device) -> InnerLoop:
    """The same inner loop with its tensors on ``device``."""
    queries = [query.to(device) for query in loop.queries]
    # Stages that reuse rollouts share one support object; move it only once.
    moved = {id(support): replace(support, data=support.data.to(device)) for support in loop.supports}
    supports = [moved[id(support)] for support in loop.supports]
    identities = None if loop.identities is None else loop.identities.to(device)
    return replace(
        loop, meta=loop.meta.to(device), supports=supports, queries=queries, identities=identities, traced=None
    )


def _rollouts(policy: Policy, parameters: Tensor, settings: RolloutSettings, generator: torch.Generator) -> Rollouts:
    shape = (len(parameters), settings.rollouts_per_task, settings.horizon)
    observations = torch.randn(*shape, policy.observation_size, generator=generator)
    rows = observations.flatten(1, 2)
    outputs, extra = policy.outputs(parameters, rows), policy.extra(parameters)
    noise = policy.distribution.noise(np.random.default_rng(0), tuple(rows.shape[:2]))
    actions = policy.distribution.sample(outputs, extra, torch.from_numpy(noise))
    log_probs = policy.distribution.log_prob(outputs, extra, actions).view(shape)
    advantages = torch.randn(shape, generator=generator)
    return Rollouts(observations, actions.unflatten(1, shape[1:]), log_probs, advantages, torch.ones(shape), advantages)
