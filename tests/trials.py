"""Trials of random numbers, and what an agent with memory makes of them step by step, in float64."""

import numpy as np
import torch

from metarl.policies.memory import Trials
from metarl.policies.normaliser import Normaliser

OBSERVATION, TASKS, STEPS = 3, 4, 7
REWARDS = Normaliser(torch.tensor([0.3], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64))


def some_trials(policy, lengths=(STEPS,) * TASKS):
    """Trials of random numbers; each task's first ``lengths`` steps took place."""
    rng = np.random.default_rng(1)
    distribution, steps = policy.distribution, max(lengths)
    outputs = torch.from_numpy(rng.standard_normal((len(lengths), steps, distribution.num_outputs)))
    noise = torch.from_numpy(distribution.noise(rng, (len(lengths), steps))).double()
    extra = torch.zeros(len(lengths), distribution.num_extra).double()
    mask = (torch.arange(steps) < torch.tensor(lengths)[:, None]).double()
    first = (torch.arange(steps) % 3 == 0).double().expand(len(lengths), -1)
    return Trials(
        torch.from_numpy(rng.standard_normal((len(lengths), steps, OBSERVATION))),
        distribution.sample(outputs, extra, noise),
        torch.from_numpy(rng.standard_normal((len(lengths), steps))) * mask,
        first,
        torch.rand(len(lengths), steps, 2, generator=torch.Generator().manual_seed(0)).double(),
        mask,
    )


def blank(policy, tasks=TASKS):
    return torch.zeros(tasks, policy.layout.size, dtype=torch.float64)


def lived_through(policy, network, trials, task, rewards=REWARDS):
    """Outputs and memory of one task, step by step."""
    memory, outputs = blank(policy, 1), []
    for step in range(int(trials.mask[task].sum())):
        at = (slice(task, task + 1), step)
        output, memory = policy.act(network, memory, trials.observations[at], trials.first[at])
        outputs.append(output[0])
        memory = policy.received(network, rewards, memory, trials.actions[at], trials.rewards[at])
    return torch.stack(outputs), memory[0]
