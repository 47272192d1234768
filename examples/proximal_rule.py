"""A custom adaptation rule with a setting: MAML whose inner steps stay near the initialisation.

    python -m examples.proximal_rule                # checks it
    python -m metarl.train --env navigation --algo examples.proximal_rule:ProximalMAML --rule.strength 0.5

The inner objective is equation 3 of Rajeswaran et al. 2019 (iMAML): the loss plus strength / 2 times the squared
distance from the initialisation. With strength 0 this is MAML.
"""

from dataclasses import dataclass
from typing import Annotated

import metarl


class ProximalMAML(metarl.Adaptation):
    """MAML whose inner steps are held near the initialisation."""

    @dataclass(frozen=True)
    class Settings(metarl.RuleSettings):
        """Settings of the rule; on the command line, --rule.NAME."""

        prefix = "rule."

        strength: Annotated[float, metarl.Range(least=0)] = 1.0
        """Weight of half the squared distance from the initialisation."""

    def __init__(self, policy, inner, settings):
        super().__init__(policy, num_meta=policy.layout.size)
        self.step_size, self.strength = inner.inner_lr, settings.strength

    def initial(self, generator):
        return self.policy.initial(generator)

    def stages(self, step_scales, iteration=None):
        return [self.step(scale * self.step_size) for scale in step_scales]

    def step(self, step_size):
        def update(meta, parameters, support):
            pull = self.strength * (parameters - meta)
            return parameters - step_size * (support.gradient(parameters) + pull)

        return metarl.Stage(update)


if __name__ == "__main__":
    metarl.check_rule("examples.proximal_rule:ProximalMAML")
    print("ProximalMAML passes every check")
