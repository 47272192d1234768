"""Tabular Markov decision processes: finitely many states; only acting reveals rewards and transitions."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.common.arrays import BoolArray, FloatArray, IntArray
from metarl.common.errors import UserError
from metarl.envs.native import NativeCore, NativeFamily, SlotGenerators, Slots, rows, whole_actions
from metarl.envs.parameters import Check, positive_whole
from metarl.envs.tasks import TaskDistribution, TaskEnvironment

_SUM_TOLERANCE = 1e-8


class RandomMDPs(TaskDistribution):
    """Random processes: mean rewards from N(1, 1), next-state probabilities from a flat Dirichlet distribution.

    A task is one vector, [S * A + S * A * S]: the mean rewards [S, A], then the transition probabilities [S, A, S],
    both with the last axis fastest.

    Args:
        num_states: S.
        num_actions: A.

    Source: Duan et al. 2016 (RL^2), section 3.2.
    """

    def __init__(self, num_states: int, num_actions: int) -> None:
        self._num_states, self._num_actions = num_states, num_actions
        pairs = num_states * num_actions
        low = np.concatenate([np.full(pairs, -np.inf), np.zeros(pairs * num_states)])
        high = np.concatenate([np.full(pairs, np.inf), np.ones(pairs * num_states)])
        self.space = spaces.Box(low, high, dtype=np.float64)

    def draw(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draws n processes, [n, S * A + S * A * S]."""
        pairs = self._num_states * self._num_actions
        means = rng.normal(1.0, 1.0, (n, pairs))
        transitions = rng.dirichlet(np.ones(self._num_states), (n, pairs))
        return np.concatenate([means, transitions.reshape(n, -1)], axis=1)

    def check(self, task: Any) -> FloatArray:
        """Returns a copy of a task that a user gave, as float64.

        Raises:
            UserError: If it has another shape, is not finite, or if its transitions are not probabilities.
        """
        checked = super().check(task)
        transitions = self.transitions(checked)
        _refuse(transitions, transitions.min(-1) < 0, "must not be negative")
        _refuse(transitions, np.abs(transitions.sum(-1) - 1) > _SUM_TOLERANCE, "must sum to 1")
        return checked

    def means(self, tasks: FloatArray) -> FloatArray:
        """Mean rewards, a view, [..., S, A], of tasks, [..., S * A + S * A * S]."""
        states, actions = self._num_states, self._num_actions
        return tasks[..., : states * actions].reshape(*tasks.shape[:-1], states, actions)

    def transitions(self, tasks: FloatArray) -> FloatArray:
        """Transition probabilities, a view, [..., S, A, S], of tasks, [..., S * A + S * A * S]."""
        states, actions = self._num_states, self._num_actions
        return tasks[..., states * actions :].reshape(*tasks.shape[:-1], states, actions, states)


class TabularMDPEnv(TaskEnvironment, gym.Env[FloatArray, Any]):
    """A Markov decision process whose mean rewards and transition probabilities are the task.

    Observation, ``Box(0, 1, (num_states,), float64)``:

    | index | meaning | minimum | maximum | unit |
    |---|---|---|---|---|
    | i | 1 in state i, else 0 | 0 | 1 | 1 |

    Action, ``Discrete(num_actions)``.

    Reward: normal with the mean of state and action, before the step, and deviation 1 (coefficient 1, no unit).

    Episode: it starts in state 0 and never terminates. It is truncated after 10 steps if made by ``gymnasium.make``.
    A reset draws nothing; a step draws the reward, then the next state.

    Task: mean rewards [num_states, num_actions], normal with mean 1 and deviation 1, then transition probabilities
    [num_states, num_actions, num_states], from a flat Dirichlet distribution, in one vector; see `RandomMDPs`.

    Args:
        num_states: Number of states.
        num_actions: Number of actions.
        render_mode: As in Gymnasium; there is nothing to draw.

    Version history: v0, first version.

    Source: Duan et al. 2016 (RL^2), section 3.2.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as in Gymnasium)
    checks: ClassVar[Mapping[str, Check]] = {"num_states": positive_whole, "num_actions": positive_whole}

    def __init__(self, num_states: int = 10, num_actions: int = 5, render_mode: str | None = None) -> None:
        chosen = self.checked({"num_states": num_states, "num_actions": num_actions})
        self.num_states: int = chosen["num_states"]
        self.num_actions: int = chosen["num_actions"]
        self.render_mode = render_mode
        self.tasks: RandomMDPs = self.distribution(chosen)
        self.observation_space = spaces.Box(0.0, 1.0, (self.num_states,), np.float64)
        self.action_space = spaces.Discrete(self.num_actions)
        self._state = 0

    @staticmethod
    def distribution(parameters: Mapping[str, Any]) -> RandomMDPs:
        return RandomMDPs(parameters["num_states"], parameters["num_actions"])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begins an episode; ``options={"task": task}`` sets the task."""
        info = self.seed_and_choose_task(seed, options)
        self._state = 0
        return self._observation(), info

    def step(self, action: Any) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Takes the action ``action``, a whole number."""
        task, pair = np.asarray(self.task), (self._state, whole_actions(action, self.num_actions))
        reward = self.tasks.means(task)[pair] + self.np_random.standard_normal()
        self._state = int(next_states(self.tasks.transitions(task)[pair], np.asarray(self.np_random.random())))
        return self._observation(), float(reward), False, False, {}

    def _observation(self) -> FloatArray:
        observation = np.zeros(self.num_states)
        observation[self._state] = 1.0
        return observation


class TabularMDPCore(NativeCore):
    """Many tabular Markov decision processes at once.

    Args:
        env: A single environment, whose rules hold for all slots.
        num_envs: Number of slots.
    """

    def __init__(self, env: TabularMDPEnv, num_envs: int) -> None:
        super().__init__(num_envs, env.tasks.space.shape)
        self._num_actions = env.num_actions
        # Views: they change when the owner writes into the tasks.
        self._means, self._transitions = env.tasks.means(self.tasks), env.tasks.transitions(self.tasks)
        self._states = np.zeros(num_envs, int)
        self._all = np.arange(num_envs)
        self._generators = SlotGenerators(num_envs)

    def start(self, slots: IntArray, generators: Sequence[np.random.Generator]) -> None:
        """Puts some slots into state 0 and keeps their generators, for rewards and transitions."""
        self._states[slots] = 0
        self._generators.keep(slots, generators)

    def advance(self, slots: Slots, actions: NDArray[Any], rewards: FloatArray, terminated: BoolArray) -> None:
        """Takes an action in some slots; see `NativeCore.advance`."""
        chosen = whole_actions(rows(actions, slots), self._num_actions)
        index = (self._all[slots], self._states[slots], chosen)
        # Draw the reward, then the next state, in the same order as the single environment.
        generators = self._generators.of(slots)
        noise = np.array([generator.standard_normal() for generator in generators])
        uniform = np.array([generator.random() for generator in generators])
        rewards[slots] = self._means[index] + noise
        self._states[slots] = next_states(self._transitions[index], uniform)
        terminated[slots] = False

    def observe(self, observations: FloatArray) -> None:
        """Writes the states, one-hot, [num_envs, state]."""
        observations[...] = 0.0
        observations[self._all, self._states] = 1.0


class TabularMDPFamily(NativeFamily):
    """Random tabular Markov decision processes.

    Args:
        horizon: Default length of an episode, in environment steps.
        **parameters: Parameters of `TabularMDPEnv`.
    """

    name = "tabular-mdp"
    horizon = 10
    # Trials of ten episodes, as in Duan et al. 2016.
    memory_defaults: Mapping[str, Any] = {
        "num_inner_steps": 9,
        "meta_batch_size": 200,
        "discount": 0.99,
        "gae_lambda": 0.3,
        "rl2": {"units": 128},
        "ppo": {"minibatches": 16, "entropy_weight": 0.01},
    }
    env_class = TabularMDPEnv
    core_class = TabularMDPCore

    def describe_task(self, task: Any) -> str:
        """Says the range of the mean rewards; the whole task would not fit into a few words."""
        assert isinstance(self._distribution, RandomMDPs)
        means = self._distribution.means(np.asarray(task))
        return f"mean rewards from {means.min():.2f} to {means.max():.2f}"


def next_states(probabilities: FloatArray, uniform: FloatArray) -> IntArray:
    """Draws next states by inverting the distribution function.

    Args:
        probabilities: Probability of each next state, [..., S].
        uniform: Uniform in [0, 1), [...].

    Returns:
        Next states, [...]; never one of probability 0.
    """
    cumulative = probabilities.cumsum(axis=-1)
    # Scale by the sum, which is 1 up to rounding: otherwise a last state of probability 0 might be drawn.
    return np.asarray((cumulative <= (uniform * cumulative[..., -1])[..., None]).sum(axis=-1))


def _refuse(transitions: FloatArray, wrong: BoolArray, wanted: str) -> None:
    """Raises UserError for the first row of the transitions, [S, A, S], where ``wrong``, [S, A], is true."""
    if wrong.any():
        state, action = np.argwhere(wrong)[0]
        row = transitions[state, action]
        raise UserError(
            f"the transition probabilities of state {state}, action {action} {wanted}; got {row}, whose sum is "
            f"{row.sum():.6g}."
        )
