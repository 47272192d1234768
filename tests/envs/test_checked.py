"""The environment's door: what must not pass, and whether one is told where it happened."""

import re
from traceback import extract_tb
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from fault_table import fault as row
from faulty import FAULTS, Faulty, FaultyFamily
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation, TimeLimit

from metarl.common.errors import UserError
from metarl.envs import EpisodeBatch, check_task_family
from metarl.envs.checked import CheckedEpisodes, Watch, checked_episodes
from metarl.envs.oracle import OracleFamily
from metarl.envs.spaces import stacked

SLOTS = 4  # Tasks 0, 0, 1, 1: two rollouts each.


def run(family, on_bad_episode="stop", slots=SLOTS, steps=6):
    """The batch, and its observations, rewards and ends after every step."""
    batch = checked_episodes(family, slots, steps, rollouts_per_task=2, on_bad_episode=on_bad_episode)
    observations = np.zeros((slots, batch.observation_size), np.float32)
    rewards, (terminated, truncated) = np.zeros(slots, np.float32), np.zeros((2, slots), bool)
    batch.reset(np.arange(slots) // 2, [70 + slot for slot in range(slots)], observations)
    seen = [(observations.copy(), rewards.copy(), terminated.copy())]
    for _ in range(steps):
        batch.step(np.zeros((slots, 1), np.float32), observations, rewards, terminated, truncated)
        seen.append((observations.copy(), rewards.copy(), terminated | truncated))
    return batch, seen


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("nan observation", r"the observation \(entry 0\) is nan in FaultyFamily, task 1, rollout 0, step 3, seed 72"),
        ("infinite observation", r"the observation \(entry 1\) is -inf, or .* step 3"),
        ("nan reward", "the reward is nan in .* step 3, seed 72"),
        ("reset", r"the observation \(entry 1\) is nan in .* step 0, seed 72"),
        ("huge reward", r"the reward is inf, or does not fit single precision \(at most 3\.4e\+38\), in .* step 3"),
        (
            "term beyond float32",
            r"the steps is 1e\+308, which does not fit single precision \(at most 3\.4e\+38\), in .* 3",
        ),
        ("nan term", "the steps is nan in .* step 3"),
        ("observation beyond float32", r"the observation \(entry 0\) is inf, or does not fit single precision"),
        ("broken", "the arm has left its base in FaultyFamily, task 1, rollout 0, step 3, seed 72"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_number_that_is_not_finite_stops_and_is_named(fault, told):
    with pytest.raises(UserError, match=f"^{told}.*; mend the environment, or leave .* out .on_bad_episode drop"):
        run(FaultyFamily(fault))


@pytest.mark.parametrize("fault", ["nan observation", "nan reward", "reset", "broken"])
def test_a_dropped_episode_ends_and_leaves_nothing_behind(fault):
    batch, seen = run(FaultyFamily(fault), "drop")
    assert list(batch.dropped) == [2, 3]
    assert "rollout 1" in batch.dropped[3]
    for observations, rewards, ended in seen[3:]:
        assert np.isfinite(observations).all()
        assert np.isfinite(rewards).all()
        assert not observations[2:].any()
        assert not rewards[2:].any()
        assert ended[2:].all()
    healthy, expected = run(FaultyFamily(fault, chance=0.0))
    assert healthy.dropped == {}
    for (observations, rewards, _), (others, other_rewards, _) in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(observations[:2], others[:2])
        np.testing.assert_array_equal(rewards[:2], other_rewards[:2])


def test_the_next_reset_begins_without_dropped_episodes():
    batch, _ = run(FaultyFamily(), "drop")
    batch.reset(np.zeros(SLOTS), [0] * SLOTS, np.zeros((SLOTS, 2)))
    assert batch.dropped == {}


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("reward of shape (1,)", r"step returned array\(\[-1.*\]\) as reward; Gymnasium asks for one number\."),
        ("reward of text", "step returned '1' as reward"),
        ("reward of None", "step returned None as reward"),
        ("terminated of None", r"step returned None as terminated; Gymnasium asks for a bool\."),
        ("observation of None", r"the observation that step returned must be numbers of shape \(2,\), got None\."),
        ("observation of text", "the observation that step returned must be numbers of shape .*, got 'left'"),
        (
            "4 values",
            r"step returned 4 values \(ndarray, float, bool, dict\); Gymnasium asks for \(observation, reward",
        ),
        ("info of None", r"step returned 5 values \(.*, NoneType\); .* info a dictionary"),
        ("shape", r"the observation that step returned must have shape \(2,\), got \(3,\)"),
    ],
)
def test_what_gymnasium_does_not_ask_for_is_refused_with_its_place(fault, told):
    with pytest.raises(UserError, match=f"{told}.* It happened in step of FaultyFamily, task 1, rollout 0, step 3, se"):
        run(FaultyFamily(fault))


@pytest.mark.parametrize("on_bad_episode", ["stop", "drop"])
@pytest.mark.parametrize("wrap", [lambda family: family, OracleFamily])
def test_an_exception_keeps_its_traceback_and_gets_its_place(wrap, on_bad_episode):
    with pytest.raises(KeyError, match="lost") as caught:
        run(wrap(FaultyFamily("raises")), on_bad_episode)
    assert caught.value.__notes__ == ["It happened in step of FaultyFamily, task 1, rollout 0, step 3, seed 72."]
    assert "_raises" in [frame.name for frame in caught.traceback]


@pytest.mark.parametrize("fault", ["exits", "breaks"])
def test_what_would_pass_for_our_own_end_does_not(fault):
    with pytest.raises(RuntimeError, match=r"(SystemExit|BrokenPipe).* was raised in step of FaultyFamily, task 1"):
        run(FaultyFamily(fault))


class Old(gym.Env):
    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(-1, 1, (1,))

    def reset(self):
        return np.zeros(1)

    def step(self, action):
        return np.zeros(1), 0.0, False, {}


class NoInfo(Faulty):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)[0]


def family_of(make):
    class Family(FaultyFamily):
        def make_env(self, render_mode=None):
            return make()

    return Family()


class PartsFamily(FaultyFamily):
    """Its tasks have parts of different shapes."""

    task_space = spaces.Tuple([spaces.Discrete(2), spaces.Box(1, 2, (1,))])

    def set_task(self, env, task):
        return {"task": float(task[0])}

    def describe_task(self, task):
        return f"task {int(task[0])} with {len(task[1])} number"


def test_a_fault_in_a_task_of_parts_is_told_or_dropped():
    tasks = stacked([(slot // 2, np.ones(1)) for slot in range(SLOTS)])
    observations = np.zeros((SLOTS, 2), np.float32)

    def step(batch):
        rewards, (terminated, truncated) = np.zeros(SLOTS, np.float32), np.zeros((2, SLOTS), bool)
        batch.reset(tasks, [70 + slot for slot in range(SLOTS)], observations)
        for _ in range(3):
            batch.step(np.zeros((SLOTS, 1), np.float32), observations, rewards, terminated, truncated)

    with pytest.raises(
        UserError, match="the reward is nan in PartsFamily, task 1 with 1 number, rollout 0, step 3, se"
    ):
        step(checked_episodes(PartsFamily("nan reward"), SLOTS, 6, 2))
    with pytest.raises(KeyError) as caught:
        step(checked_episodes(PartsFamily("raises"), SLOTS, 6, 2))
    assert "in step of PartsFamily, task 1 with 1 number, rollout 0" in caught.value.__notes__[0]
    dropping = checked_episodes(PartsFamily("nan reward"), SLOTS, 6, 2, "drop")
    step(dropping)
    assert list(dropping.dropped) == [2, 3]


def test_a_reset_that_is_not_gymnasiums_is_refused():
    with pytest.raises(
        UserError, match=r"reset of Old, an environment of Family, cannot be called .*reset\(self, \*, s"
    ):
        run(family_of(Old))
    with pytest.raises(UserError, match=r"reset returned one value \(ndarray\); .* It happened in reset of Family, ta"):
        run(family_of(lambda: NoInfo("raises", 0)))


@pytest.mark.parametrize("method", ["make_env", "set_task"])
def test_an_exception_of_the_family_gets_its_place(method):
    def broken(self, *_, **__):
        raise LookupError("not there")

    family = type("Broken", (FaultyFamily,), {method: broken})()
    with pytest.raises(LookupError) as caught:
        run(family)
    place = {
        "make_env": "while 4 environments of Broken were made",
        "set_task": "in set_task of Broken, task 0, rollout 0",
    }
    assert place[method] in caught.value.__notes__[0]
    with pytest.raises(LookupError) as caught:
        run(OracleFamily(family) if method == "set_task" else family)
    assert place[method] in caught.value.__notes__[0]


@row("Environments", "`make_env` returns None, or another thing than an environment", "refused; the sentence names it")
@pytest.mark.parametrize("made", [None, "an environment"])
def test_what_make_env_must_not_return_is_said(made):
    family = family_of(lambda: made)
    with pytest.raises(
        UserError, match=f"make_env of Family returned {made!r}, and it must return a gymnasium.Env. It"
    ):
        run(family)
    with pytest.raises(
        UserError, match=f"make_env of Family returned {made!r}, and it must return a gymnasium.Env. It"
    ):
        _ = family.observation_space


@pytest.mark.parametrize(
    ("family", "told"),
    [
        (FaultyFamily(), r"a number is not finite: task 1 gave nan in step 3 \(seed 0"),
        (FaultyFamily("nan reward"), "a number is not finite"),
        (FaultyFamily("4 values"), "step returned 4 values"),
        (
            FaultyFamily("exits"),
            r"SystemExit\(0\) was raised in step 3 of FaultyFamily, task 1, seed 0 \(.*faulty.py:\d+",
        ),
        (
            FaultyFamily("observation of None"),
            r"the observation that step returned must be numbers .* in step 3 of Faul",
        ),
        (FaultyFamily("observation beyond float32"), r"a number does not fit single precision: task 1 gave 1e\+308"),
        (family_of(Old), "reset of Old, an environment of Family, cannot be called"),
        (family_of(lambda: NormalizeObservation(Faulty("raises", 0))), "NormalizeObservation, whose statistics differ"),
        (
            family_of(lambda: TimeLimit(Faulty("raises", 0), 5)),
            "make_env limits episodes to 5 steps, and horizon is 6; give max_episode_steps=-1 to gymnasium.make, or ta",
        ),
    ],
)
def test_the_check_finds_them(family, told):
    with pytest.raises(UserError, match=told):
        check_task_family(family)


@row("Environments", "any of these in `metarl.check_task_family`", "told once, with the line of the family's author")
@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "hangs"])
def test_the_check_tells_one_fault_once(fault):
    with pytest.raises(UserError, match=r"has 1 problem\(s\):"):
        check_task_family(FaultyFamily(fault))


def test_the_check_names_the_line_of_the_families_author_and_keeps_the_traceback():
    with pytest.raises(UserError) as caught:
        check_task_family(FaultyFamily("raises"))
    line = (
        r"- KeyError: 'lost' \(.*/faulty\.py:\d+, in _raises: raise KeyError\(\"lost\"\)\)\. "
        r"It happened in step 3 of FaultyFamily, task 1, seed 0"
    )
    assert re.search(line, str(caught.value))
    assert "_raises" in [frame.name for frame in extract_tb(caught.value.__cause__.__traceback__)]


class Wide(Faulty):
    action_space = spaces.Box(-1.7e308, 1.7e308, (1,), np.float64)
    seen: ClassVar = []

    def step(self, action):
        self.seen.append(float(action[0]))
        return super().step(np.sign(action))


class WideFamily(FaultyFamily):
    def make_env(self, render_mode=None):
        return Wide(self.fault, self.chance)


def test_actions_between_the_largest_numbers_are_checked_too():
    check_task_family(WideFamily(chance=0.0))
    assert min(Wide.seen) < -1e307
    assert max(Wide.seen) > 1e307


def test_tasks_between_the_largest_numbers_are_drawn_too():
    class Wide(FaultyFamily):
        task_space = spaces.Box(-1.7e308, 1.7e308, (2,), np.float64)

    tasks = Wide().sample_tasks(100, np.random.default_rng(0))
    assert np.isfinite(tasks).all()
    assert tasks.min() < -1e308
    assert tasks.max() > 1e308


class Silent:
    """A batch whose call does not return."""

    def __init__(self):
        self.place = (1, 0)

    def where(self):
        return "in step of somewhere"


def test_a_watch_names_what_does_not_move_and_nothing_else(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("metarl.envs.checked.monotonic", lambda: now[0])
    still, moving = Silent(), Silent()
    watch = Watch(10)
    assert watch.interval == 1
    assert Watch(0.1).interval == 0.025
    for now[0] in range(0, 11):
        moving.place = (now[0], None)
        watch.check([moving, still])
    now[0] = 10.5
    with pytest.raises(UserError, match=r"nothing has come back for 10 seconds \(step_timeout\) in step of somewhere"):
        watch.check([moving, still])
    still.place = None  # It has returned.
    watch.check([moving, still])


def test_a_batch_that_steps_all_slots_at_once_says_where_too():
    class Diverging(EpisodeBatch):
        def reset(self, tasks, seeds, observations, slots=None):
            observations[...] = 0

        def step(self, actions, observations, rewards, terminated, truncated):
            raise FloatingPointError("diverged")

        def close(self):
            pass

    batch, observations = CheckedEpisodes(Diverging(3, 2), FaultyFamily()), np.zeros((3, 2))
    batch.reset(np.zeros(3), [0, 1, 2], observations)
    with pytest.raises(FloatingPointError) as caught:
        batch.step(np.zeros((3, 1)), observations, np.zeros(3), np.zeros(3, bool), np.zeros(3, bool))
    assert caught.value.__notes__ == ["It happened in step of 3 environments of FaultyFamily, step 1."]


def test_families_without_faults_are_fine():
    check_task_family(FaultyFamily(chance=0.0))


class Closing(Faulty):
    """Counts what was closed, and raises then."""

    closed: ClassVar[list[object]] = []

    def close(self):
        self.closed.append(self)
        raise OSError("the simulator has gone")


def test_environments_that_cannot_be_closed_are_told_of_and_hide_nothing(capsys):
    class Family(FaultyFamily):
        def make_env(self, render_mode=None):
            return Closing(self.fault, self.chance)

    batch = checked_episodes(Family(), SLOTS, 6)
    batch.close()
    assert len(set(Closing.closed)) == SLOTS
    assert "environments of Family could not be closed: OSError: the simulator has gone" in capsys.readouterr().err
