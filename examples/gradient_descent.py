"""A custom meta-optimiser with a setting: one gradient step on the meta-objective.

    python -m metarl.train --env navigation --algo maml --meta-optimiser examples.gradient_descent:GradientDescent

--optimiser.lr 0.02 sets the step size.
"""

from dataclasses import dataclass
from typing import Annotated

import metarl


class GradientDescent:
    """Gradient descent on the meta-objective."""

    @dataclass(frozen=True)
    class Settings(metarl.RuleSettings):
        """Settings of the command line, as --optimiser.NAME."""

        prefix = "optimiser."

        lr: Annotated[float, metarl.Range(above=0)] = 0.01
        """Step size."""

    def __init__(self, settings):
        self.lr = settings.lr

    def step(self, state, loop, workers, generator):
        objective = metarl.MetaObjective(loop, workers)
        before, gradient = objective.loss_and_gradient()
        meta = state.meta - self.lr * gradient
        after, kl = objective.evaluate(meta)
        numbers = {"surrogate_gain": before - after, "kl": kl, "meta_gradient_norm": float(gradient.norm())}
        return metarl.LearnerState(meta, state.memory), metarl.StepReport("stepped", numbers)
