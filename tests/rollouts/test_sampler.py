"""Rollout collection from a small imaginary environment."""

import dataclasses
from collections.abc import Sequence
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.common.parallel import Workers
from metarl.common.streams import Purpose, stream
from metarl.data import Rollouts
from metarl.envs import EpisodeBatch, TaskFamily
from metarl.policies.action_map import ActionMap
from metarl.policies.mlp import MLPPolicy
from metarl.rollouts.baseline import linear_baseline
from metarl.rollouts.sampler import Sampler, Stopped, with_advantages

TASKS, ROLLOUTS, HORIZON, OBSERVATION = 4, 5, 8, 3
BOX = spaces.Box(-2, 2, (2,), np.float32)
FIELDS = ("observations", "actions", "log_probs", "rewards", "mask", "advantages")
GOALS = np.array([[0.0], [1.0], [2.0], [3.0]])


class Drift(EpisodeBatch):
    """Observation: (goal, steps taken, position). The position starts at random, moves by the action's sum and pays.
    It reports the action's sum as the effort.

    An episode ends after 2 + (rollout + goal) % 6 steps: in a terminal state in even rollouts, cut off in odd ones.
    """

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs, OBSERVATION, ("effort",))
        self.closed = False
        self.actions: list[np.ndarray] = []

    def reset(self, tasks: np.ndarray, seeds: Sequence[int], observations: np.ndarray) -> None:
        self.goals, self.steps = tasks[:, 0], np.zeros(self.num_envs, int)
        self.positions = np.array([np.random.default_rng(seed).normal() for seed in seeds])
        self.lengths = 2 + (np.arange(self.num_envs) % ROLLOUTS + self.goals.astype(int)) % 6
        self._write(observations)

    def step(self, actions, observations, rewards, terminated, truncated) -> None:
        running = ~(terminated | truncated)
        self.actions.append(actions.copy())
        effort = np.where(running, actions.reshape(self.num_envs, -1).sum(1), 0)
        self.terms = {"effort": effort}
        self.positions += effort
        self.steps += running
        rewards[:] = np.where(running, self.positions - self.goals, 0)
        ended, even = self.steps >= self.lengths, np.arange(self.num_envs) % ROLLOUTS % 2 == 0
        terminated[:], truncated[:] = ended & even, ended & ~even
        self._write(observations)

    def close(self) -> None:
        self.closed = True

    def _write(self, observations: np.ndarray) -> None:
        observations[:] = np.stack([self.goals, self.steps, self.positions], axis=1)


def streams_of(tasks: Sequence[int]) -> list[np.random.Generator]:
    return [stream(0, Purpose.TRAIN_ROLLOUTS, 0, task) for task in tasks]


def make(space: spaces.Space = BOX, num_tasks: int = TASKS, **options: object) -> tuple[Sampler, MLPPolicy, Drift]:
    action_map, episodes = ActionMap(space), Drift(num_tasks * ROLLOUTS)
    policy = MLPPolicy(OBSERVATION, action_map.distribution, (16, 100))
    return Sampler(episodes, action_map, num_tasks, HORIZON, **options), policy, episodes


def parameters_of(policy: MLPPolicy) -> torch.Tensor:
    return torch.stack([policy.initial(np.random.default_rng(task)) for task in range(TASKS)])


def collect(tasks: Sequence[int] = range(TASKS), space: spaces.Space = BOX) -> tuple[Rollouts, MLPPolicy, Drift]:
    tasks = list(tasks)
    sampler, policy, episodes = make(space, len(tasks))
    return (
        sampler.collect(policy.begin, parameters_of(policy)[tasks], GOALS[tasks], streams_of(tasks)),
        policy,
        episodes,
    )


def assert_identical(one: Rollouts, other: Rollouts) -> None:
    """Equal to the last bit wherever an episode ran; what fills the steps after its end is nobody's business."""
    assert torch.equal(one.mask, other.mask)
    for name in FIELDS:
        got, want = getattr(one, name)[one.mask > 0], getattr(other, name)[one.mask > 0]
        torch.testing.assert_close(got, want, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")
    assert torch.equal(one.terms["effort"], other.terms["effort"])
    assert torch.equal(one.truncated, other.truncated)


@pytest.mark.parametrize(("space", "action"), [(BOX, (2,)), (spaces.Discrete(3), ())])
def test_axes_are_task_rollout_time_feature_up_to_the_horizon(space, action):
    rollouts, *_ = collect(space=space)
    shape = (TASKS, ROLLOUTS, HORIZON)
    assert rollouts.observations.shape == (*shape, OBSERVATION)
    assert rollouts.actions.shape == (*shape, *action)
    for name in ("log_probs", "rewards", "mask", "advantages"):
        assert getattr(rollouts, name).shape == shape
    assert all(getattr(rollouts, name).is_contiguous() for name in FIELDS)


def test_next_observations_are_those_that_followed_the_last_step_of_an_episode_too():
    rollouts, *_ = collect()
    moved = (rollouts.next_observations - rollouts.observations)[rollouts.mask > 0]
    effort = rollouts.terms["effort"][rollouts.mask > 0]
    torch.testing.assert_close(moved, torch.stack([0 * effort, 1 + 0 * effort, effort], dim=1), rtol=0, atol=1e-5)
    assert dataclasses.replace(rollouts, last_observations=None).next_observations is None


def test_an_episode_as_long_as_the_horizon_has_a_last_observation():
    action_map, episodes = ActionMap(BOX), Drift(TASKS * ROLLOUTS)
    policy = MLPPolicy(OBSERVATION, action_map.distribution, (16, 100))
    sampler = Sampler(episodes, action_map, TASKS, 2)
    rollouts = sampler.collect(policy.begin, parameters_of(policy), GOALS, streams_of(range(TASKS)))
    assert (rollouts.next_observations[..., 1] == torch.tensor([1.0, 2.0])).all()


def test_mask_covers_every_step_up_to_and_including_the_last():
    rollouts, *_ = collect()
    task, rollout = np.meshgrid(range(TASKS), range(ROLLOUTS), indexing="ij")
    lengths = torch.from_numpy(2 + (rollout + task) % 6)
    assert torch.equal(rollouts.mask, (torch.arange(HORIZON) < lengths[..., None]).float())
    assert rollouts.env_steps == int(lengths.sum())
    assert not (rollouts.rewards * (1 - rollouts.mask)).any()


def test_each_step_holds_what_was_seen_done_and_paid():
    rollouts, _, episodes = collect()
    goal, steps, position = rollouts.observations.unbind(-1)
    alive = rollouts.mask > 0
    assert torch.equal(goal[alive], torch.from_numpy(GOALS).float()[:, :, None].expand_as(goal)[alive])
    assert torch.equal(steps[alive], torch.arange(HORIZON).float().expand_as(steps)[alive])
    moved = (2 * rollouts.actions).clamp(-2, 2).sum(-1)  # scaled to the bounds and clipped
    after = position + moved
    torch.testing.assert_close(rollouts.rewards[alive], (after - goal)[alive], rtol=1e-5, atol=1e-5)
    both = alive[..., 1:]
    torch.testing.assert_close(position[..., 1:][both], after[..., :-1][both], rtol=1e-5, atol=1e-5)
    assert all(np.abs(actions).max() <= 2 for actions in episodes.actions)
    assert (rollouts.actions.abs() > 1).any()


def test_an_episode_that_is_cut_off_keeps_the_observation_that_followed():
    rollouts, *_ = collect()
    odd = (torch.arange(ROLLOUTS) % 2 == 1).expand(TASKS, -1)
    assert torch.equal(rollouts.truncated, odd)  # even ones end in a terminal state
    lengths = rollouts.mask.sum(2).long()
    task, rollout = torch.where(odd)
    after = rollouts.observations[task, rollout, lengths[odd]]
    assert torch.equal(after[:, 1], lengths[odd].float())
    last = rollouts.observations[task, rollout, lengths[odd] - 1, 2]
    moved = (2 * rollouts.actions[task, rollout, lengths[odd] - 1]).clamp(-2, 2).sum(-1)
    torch.testing.assert_close(after[:, 2], last + moved, rtol=1e-5, atol=1e-5)


def test_a_limit_equal_to_the_horizon_is_the_horizon():
    # Rollout 3 of task 2 is cut off after 7 steps.
    action_map, episodes = ActionMap(BOX), Drift(TASKS * ROLLOUTS)
    policy = MLPPolicy(OBSERVATION, action_map.distribution, (16, 100))
    sampler = Sampler(episodes, action_map, TASKS, 7)
    rollouts = sampler.collect(policy.begin, parameters_of(policy), GOALS, streams_of(range(TASKS)))
    assert rollouts.truncated[2, 3]
    assert rollouts.mask[2, 3].all()

    def returns(truncated: torch.Tensor) -> torch.Tensor:
        return linear_baseline(rollouts.observations, rollouts.rewards, rollouts.mask, 0.99, truncated)[1]

    only = torch.zeros_like(rollouts.truncated)
    only[2, 3] = True
    assert torch.equal(returns(only), returns(torch.zeros_like(only)))
    assert not torch.equal(returns(rollouts.truncated), returns(only))


class Limited(TaskFamily):
    """Nothing happens, and Gymnasium's TimeLimit cuts it off after as many steps as given."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def make_env(self) -> gymnasium.Env:
        return gymnasium.wrappers.TimeLimit(Still(), self.limit)


class Still(gymnasium.Env):
    observation_space, action_space = spaces.Box(-1, 1, (OBSERVATION,)), BOX

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(OBSERVATION, np.float32), {}

    def step(self, action):
        return np.zeros(OBSERVATION, np.float32), -1.0, False, False, {}


def test_a_shorter_time_limit_of_gymnasium_is_completed_up_to_the_horizon():
    policy = MLPPolicy(OBSERVATION, ActionMap(BOX).distribution, (16, 100))

    def first_return(limit: int) -> float:
        sampler = Sampler(Limited(limit).make_episodes(4, HORIZON), ActionMap(BOX), 1, HORIZON)
        rollouts = sampler.collect(policy.begin, parameters_of(policy)[:1], GOALS[:1], streams_of([0]))
        assert rollouts.env_steps == 4 * limit
        _, returns = linear_baseline(rollouts.observations, rollouts.rewards, rollouts.mask, 0.9, rollouts.truncated)
        return float(returns[0, 0, 0])

    expected = -(1 - 0.9**HORIZON) / (1 - 0.9)
    assert first_return(HORIZON) == pytest.approx(expected)
    assert first_return(3) == pytest.approx(expected)


class Escape(EpisodeBatch):
    """Every step costs 1 (and up to a tenth more, at random), until action 1 has the episode cut off."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs, OBSERVATION)

    def reset(self, tasks: np.ndarray, seeds: Sequence[int], observations: np.ndarray) -> None:
        self.rng = np.random.default_rng(seeds[0])
        self._write(observations)

    def step(self, actions, observations, rewards, terminated, truncated) -> None:
        running = ~truncated
        rewards[:] = np.where(running, -1 - 0.1 * self.rng.random(self.num_envs), 0)
        truncated |= actions == 1
        self._write(observations)

    def close(self) -> None:
        pass

    def _write(self, observations: np.ndarray) -> None:
        observations[:] = self.rng.normal(size=observations.shape)


def test_advantages_do_not_favour_an_escape_from_bad_rewards():
    horizon, episodes, action_map = 20, Escape(200), ActionMap(spaces.Discrete(2))
    policy = MLPPolicy(OBSERVATION, action_map.distribution, (8,))
    parameters = torch.zeros(1, policy.layout.size)  # escapes at half of the steps
    rollouts = Sampler(episodes, action_map, 1, horizon).collect(policy.begin, parameters, GOALS[:1], streams_of([0]))
    escapes = (rollouts.actions == 1) & (rollouts.mask > 0)

    def mean_advantage(rollouts: Rollouts) -> float:
        return float(with_advantages(rollouts, 0.99, 1.0).advantages[escapes].mean())

    assert int(escapes.sum()) > 150
    assert abs(mean_advantage(rollouts)) < 0.1
    # If the cut is the end of all reward, the escape is the best action.
    assert mean_advantage(replace(rollouts, truncated=None)) > 0.3


def test_terms_are_kept_beside_the_rewards():
    rollouts, *_ = collect()
    effort = (2 * rollouts.actions).clamp(-2, 2).sum(-1)
    torch.testing.assert_close(rollouts.terms["effort"], effort * rollouts.mask, rtol=1e-5, atol=1e-5)
    assert rollouts.terms["effort"].is_contiguous()


def test_terms_and_cuts_go_wherever_their_rollouts_go():
    rollouts, *_ = collect()
    parts = [rollouts.tasks(0, 1), rollouts.tasks(1, TASKS)]
    assert_identical(Rollouts.concatenate(parts), rollouts)
    episodes = [rollouts.part(index) for index in range(ROLLOUTS)]
    assert_identical(Rollouts.concatenate(episodes, axis=1), rollouts)
    assert_identical(rollouts.to(torch.device("cpu")), rollouts)
    assert rollouts.to(torch.device("meta")).terms["effort"].is_meta


def test_steps_that_no_episode_reached_are_zero():
    rollouts, _, episodes = collect()
    assert len(episodes.actions) == 7 < HORIZON
    for name in ("actions", "rewards", "mask"):
        assert not getattr(rollouts, name)[:, :, 7:].any()


@pytest.mark.parametrize("space", [BOX, spaces.Discrete(3)])
def test_log_probs_are_those_of_the_stored_actions(space):
    rollouts, policy, _ = collect(space=space)
    parameters, samples = parameters_of(policy), rollouts.samples
    outputs = policy.outputs(parameters, samples.observations)
    expected = policy.distribution.log_prob(outputs, policy.extra(parameters), samples.actions)
    alive = samples.weights > 0
    torch.testing.assert_close(samples.log_probs[alive], expected[alive], rtol=1e-5, atol=1e-5)


def test_same_streams_give_the_same_rollouts_and_others_do_not():
    assert_identical(collect()[0], collect()[0])
    sampler, policy, _ = make()
    other = sampler.collect(policy.begin, parameters_of(policy), GOALS, streams_of(range(10, 10 + TASKS)))
    assert not torch.equal(other.actions, collect()[0].actions)


def test_sampler_can_be_used_again():
    sampler, policy, _ = make()
    first, second = (
        sampler.collect(policy.begin, parameters_of(policy), GOALS, streams_of(range(TASKS))) for _ in range(2)
    )
    assert_identical(first, second)


def test_every_rollout_has_noise_of_its_own():
    rollouts, *_ = collect()
    starts = rollouts.observations[:, :, 0, 2].flatten()
    assert len(starts.unique()) == TASKS * ROLLOUTS


def test_permuting_tasks_with_their_streams_permutes_rollouts():
    order = [2, 0, 3, 1]
    whole = collect()[0]
    assert_identical(collect(order)[0], Rollouts.concatenate([whole.tasks(i, i + 1) for i in order]))


@pytest.mark.parametrize("space", [BOX, spaces.Box(-2, 2, (1,), np.float32), spaces.Discrete(3)])
@pytest.mark.parametrize("shards", [[(0, 1), (2, 3)], [(0,), (1, 2, 3)], [(0,), (1,), (2,), (3,)]])
def test_several_samplers_equal_one_bit_for_bit_advantages_included(shards, space):
    def shard(tasks):
        return with_advantages(collect(tasks, space)[0], 0.99, 0.95)

    with Workers(2) as workers:
        (whole,) = workers.map(shard, [range(TASKS)])
        parts = Rollouts.concatenate(workers.map(shard, shards))
    assert_identical(whole, parts)
    assert whole.advantages.any()


def test_advantages_are_standardised_for_each_task_and_nothing_else_changes():
    rollouts, *_ = collect()
    assert not rollouts.advantages.any()
    result = with_advantages(rollouts, 0.99, 1.0)
    count = result.mask.sum((1, 2))
    torch.testing.assert_close(result.advantages.sum((1, 2)) / count, torch.zeros(TASKS), rtol=0, atol=1e-5)
    torch.testing.assert_close((result.advantages**2).sum((1, 2)) / count, torch.ones(TASKS), rtol=1e-4, atol=0)
    assert all(getattr(result, name) is getattr(rollouts, name) for name in FIELDS[:-1])


def test_collection_is_given_up_when_asked_to_stop():
    sampler, policy, episodes = make(stopped=lambda: len(episodes.actions) == 3)
    with pytest.raises(Stopped):
        sampler.collect(policy.begin, parameters_of(policy), GOALS, streams_of(range(TASKS)))
    assert len(episodes.actions) == 3
