"""Reference agents on random tabular Markov decision processes: they know the prior and plan by their experience.

Mean rewards are drawn from N(1, 1) and seen with noise of deviation 1; next-state probabilities are drawn from a flat
Dirichlet distribution (`metarl.envs.tabular.RandomMDPs`). The belief is the exact posterior.

Source: Duan et al. 2016 (RL^2), section 3.2, compares with agents of these kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np
from gymnasium.spaces import Discrete

from metarl.common.arrays import FloatArray, IntArray
from metarl.common.streams import Purpose, stream
from metarl.envs.tabular import RandomMDPs, TabularMDPFamily

Models = tuple[FloatArray, FloatArray]
"""Mean rewards, [model, task, state, action], and probabilities of next states, [model, task, state, action, state]."""

_SAMPLES = 5  # models that optimistic posterior sampling draws
_BONUS = 0.5  # of an untried action, in rewards: the best of 0.2, 0.35, 0.5, 1, 2, 3 and 5 on 1000 other tasks


class Belief:
    """The posterior of several processes, each with experience of its own.

    Args:
        num_tasks: Number of processes.
        num_states: Number of states.
        num_actions: Number of actions.

    Attributes:
        rewards: Sum of the rewards of each state and action, [task, state, action].
        counts: How often each next state followed, [task, state, action, state].
    """

    def __init__(self, num_tasks: int, num_states: int, num_actions: int) -> None:
        self.rewards = np.zeros((num_tasks, num_states, num_actions))
        self.counts = np.zeros((num_tasks, num_states, num_actions, num_states))

    def observe(self, states: IntArray, actions: IntArray, rewards: FloatArray, next_states: IntArray) -> None:
        """Learns from one step of each process; all arguments are [task]."""
        tasks = np.arange(len(states))
        self.rewards[tasks, states, actions] += rewards
        self.counts[tasks, states, actions, next_states] += 1

    @property
    def precision(self) -> FloatArray:
        """Inverse variance of the mean rewards: 1 of the prior, and 1 for each visit, [task, state, action]."""
        return 1 + self.counts.sum(-1)

    def mean(self) -> Models:
        """The posterior mean, one model."""
        transitions = 1 + self.counts
        return ((1 + self.rewards) / self.precision)[None], (transitions / transitions.sum(-1, keepdims=True))[None]

    def sample(self, rng: np.random.Generator, num: int) -> Models:
        """``num`` models from the posterior."""
        means = self.mean()[0] + rng.standard_normal((num, *self.rewards.shape)) / np.sqrt(self.precision)
        # Gamma variates, scaled to sum to 1, have a Dirichlet distribution.
        transitions = rng.standard_gamma(1 + self.counts, (num, *self.counts.shape))
        return means, transitions / transitions.sum(-1, keepdims=True)


Agent = Callable[[Belief, np.random.Generator], Models]
"""The models by which an agent plans; with several, it believes the best of them in each state and action."""


def greedy(belief: Belief, rng: np.random.Generator) -> Models:
    """Plans by the posterior mean."""
    return belief.mean()


def psrl(belief: Belief, rng: np.random.Generator) -> Models:
    """Posterior sampling: plans by one model from the posterior.

    Source: Strens 2000; Osband et al. 2013, algorithm 1.
    """
    return belief.sample(rng, 1)


def optimistic_psrl(belief: Belief, rng: np.random.Generator) -> Models:
    """Plans by the best of several models from the posterior, in each state and action anew.

    Source: Asmuth et al. 2009 (BOSS), with new models in each episode.
    """
    return belief.sample(rng, _SAMPLES)


def exploration_bonus(belief: Belief, rng: np.random.Generator) -> Models:
    """Plans by the posterior mean with a bonus on rewards that falls with the number of visits (BEB).

    Source: Kolter and Ng 2009, equation 4.
    """
    means, transitions = belief.mean()
    return means + _BONUS / belief.precision, transitions


def plan(models: Models, horizon: int) -> tuple[IntArray, FloatArray]:
    """The best policy of an episode by value iteration.

    Args:
        models: The models; with several, the best of them in each state and action is believed.
        horizon: Steps of an episode.

    Returns:
        Actions, [time, task, state], and the values of the states at the start, [task, state].
    """
    means, transitions = models
    values, actions = np.zeros(means.shape[1:3]), []
    for _ in range(horizon):
        by_model = means + (transitions @ values[None, :, None, :, None])[..., 0]
        by_action = by_model.max(axis=0)
        actions.append(by_action.argmax(-1))
        values = by_action.max(-1)
    return np.array(actions[::-1]), values


def optimum(family: TabularMDPFamily, tasks: FloatArray, horizon: int) -> FloatArray:
    """Expected return of an episode of who knows the process, [task]."""
    return plan(_known(family, tasks), horizon)[1][:, 0]


def random(family: TabularMDPFamily, tasks: FloatArray, horizon: int) -> FloatArray:
    """Expected return of an episode of random actions, [task]."""
    means, transitions = _known(family, tasks)
    # A single action: what the random one gives on average.
    mixed = means.mean(-1, keepdims=True), transitions.mean(-2, keepdims=True)
    return plan(mixed, horizon)[1][:, 0]


def play(
    agent: Agent,
    family: TabularMDPFamily,
    tasks: FloatArray,
    num_episodes: int,
    horizon: int,
    seed: int,
    each_step: bool = False,
) -> FloatArray:
    """Returns of an agent's first episodes on each task, [task, episode].

    Args:
        agent: The agent.
        family: The family of the tasks.
        tasks: [task, number].
        num_episodes: Episodes, through which the agent remembers.
        horizon: Steps of an episode.
        seed: Seed of rewards, transitions and the agent's own draws.
        each_step: Whether the agent plans anew before each step; otherwise before each episode.
    """
    num_tasks, (num_states, num_actions) = len(tasks), _sizes(family)
    everyone, belief = np.arange(num_tasks), Belief(num_tasks, num_states, num_actions)
    rng, returns = stream(seed, Purpose.DEPLOYMENT), np.zeros((num_tasks, num_episodes))
    observations = np.zeros((num_tasks, num_states), np.float32)
    rewards, terminated, truncated = np.zeros(num_tasks), np.zeros(num_tasks, bool), np.zeros(num_tasks, bool)
    with closing(family.make_episodes(num_tasks, horizon)) as episodes:
        for episode in range(num_episodes):
            seeds = stream(seed, Purpose.TEST_ROLLOUTS, episode).integers(2**31, size=num_tasks)
            episodes.reset(tasks, seeds.tolist(), observations)
            for left in range(horizon, 0, -1):
                if each_step or left == horizon:
                    policies = iter(plan(agent(belief, rng), left)[0])
                states = observations.argmax(-1)
                actions = next(policies)[everyone, states]
                episodes.step(actions, observations, rewards, terminated, truncated)
                belief.observe(states, actions, rewards, observations.argmax(-1))
                returns[:, episode] += rewards
    return returns


def _known(family: TabularMDPFamily, tasks: FloatArray) -> Models:
    """The processes themselves, as one model."""
    distribution = RandomMDPs(*_sizes(family))
    return distribution.means(tasks)[None], distribution.transitions(tasks)[None]


def _sizes(family: TabularMDPFamily) -> tuple[int, int]:
    """Numbers of states and actions."""
    assert isinstance(family.action_space, Discrete)
    return family.observation_space.shape[0], int(family.action_space.n)
