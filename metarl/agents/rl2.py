"""RL^2: an agent that learns a task in its memory (Duan et al. 2016; Wang et al. 2016)."""

from torch import Tensor

from metarl.inner.memory import ActorCriticOutputs, RecurrentRule
from metarl.policies.memory import Trials


class RL2(RecurrentRule):
    """The weights learn, by reinforcement learning over whole trials, how to use the memory.

    A trial is several episodes in one task. The memory is kept from one episode to the next, so whatever the first ones
    show serves the later ones: there is no other adaptation.

    Source: Duan et al. 2016, section 2.2.
    """

    def forward(self, meta: Tensor, trials: Trials) -> ActorCriticOutputs:
        return self.heads(meta, self.states(meta, trials), trials)
