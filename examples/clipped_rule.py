"""A custom adaptation rule with an inner loss of its own: MAML whose inner loss clips likelihood ratios, as PPO's does.

    python -m examples.clipped_rule                # checks it
    python -m metarl.train --env navigation --algo examples.clipped_rule:ClippedMAML --rule.clip 0.1

The loss is the clipped surrogate, equation 7 of Schulman et al. 2017 (PPO), whatever --inner-loss says. An inner step
is several steps with the same episodes (--rule.epochs). The first of them has likelihood ratios of 1 and is MAML's; in
the others, clipping leaves out what would move a ratio further from 1 than --rule.clip.
"""

from dataclasses import dataclass
from typing import Annotated

import torch

import metarl


class ClippedMAML(metarl.Adaptation):
    """MAML whose inner steps are several steps of PPO's clipped surrogate, with the same episodes."""

    @dataclass(frozen=True)
    class Settings(metarl.RuleSettings):
        """Settings of the rule; on the command line, --rule.NAME."""

        prefix = "rule."

        clip: Annotated[float, metarl.Range(above=0)] = 0.2
        """Likelihood ratios are clipped to 1 +- this."""
        epochs: Annotated[int, metarl.Range(least=1)] = 2
        """Steps that are taken with the same episodes."""

    def __init__(self, policy, inner, settings):
        super().__init__(policy, num_meta=policy.layout.size)
        self.step_size, self.clip, self.epochs = inner.inner_lr, settings.clip, settings.epochs

    def initial(self, generator):
        return self.policy.initial(generator)

    def stages(self, step_scales, iteration=None):
        return [self.step(scale * self.step_size) for scale in step_scales]

    def step(self, step_size):
        def update(meta, parameters, support):
            for _ in range(self.epochs):
                parameters = parameters - step_size * self.gradient(parameters, support.samples)
            return parameters

        # Each step depends on the one before, so half the step size is not half the way: this is no GRADIENT_STEP.
        return metarl.Stage(update, kind=metarl.StageKind.STEP)

    def gradient(self, parameters, samples):
        """Gradient of each task's loss, [task, parameter]; differentiable where ``parameters`` are."""
        # Rollouts are collected without a graph: there, one is needed for this gradient alone.
        differentiable = parameters.requires_grad
        with torch.enable_grad():
            at = parameters if differentiable else parameters.detach().requires_grad_()
            log_probs = self.policy.log_prob(at, samples.observations, samples.actions)  # [task, row]
            ratio = torch.exp(log_probs - samples.log_probs)
            clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
            surrogate = torch.minimum(ratio * samples.advantages, clipped * samples.advantages)
            # A task's row depends on its own parameters alone, so one sum gives the gradient of each.
            loss = -(samples.weights * surrogate).sum()
            return torch.autograd.grad(loss, at, create_graph=differentiable)[0]


if __name__ == "__main__":
    metarl.check_rule("examples.clipped_rule:ClippedMAML")
    print("ClippedMAML passes every check")
