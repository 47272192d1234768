"""`check_task_family` finds each defect, and names no other."""

from traceback import FrameSummary

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from machines import Machine, MachineFamily, SwitchesFamily

from metarl.common.arrays import array_of_objects
from metarl.common.errors import UserError
from metarl.envs import TaskFamily, check_task_family, checks
from metarl.envs.checks import _is_theirs
from metarl.envs.looped import LoopedEpisodes
from metarl.envs.oracle import OracleFamily


class Drift(gym.Env):
    """A point that drifts by the task at each step, with noise; for a task that is lost see the families below."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    task = 0.0
    forgets_without_seed = False
    redraws = False
    ignores_task = False
    own_noise = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = self._next_task(seed, options)
        noise = np.random.default_rng() if self.own_noise else self.np_random
        self.place = noise.normal(size=1)
        return self.place.copy(), {}

    def _next_task(self, seed, options):
        if self.ignores_task or (self.forgets_without_seed and seed is None):
            return 0.0
        if options is None and self.redraws:
            return self.np_random.uniform(-1, 1)
        return float((options or {"task": self.task})["task"])

    def step(self, action):
        self.place = self.place + self.task + 0.1 * action
        return self.place.copy(), float(self.place[0]), False, False, {}


class Sound(TaskFamily):
    horizon = 10
    task_space = spaces.Box(-1, 1, (), np.float64)

    def make_env(self):
        return Drift()


class OutsideTheSpace(Sound):
    def draw_tasks(self, n, rng, split):
        return rng.uniform(1.5, 2, n)


class OtherTestTasks(Sound):
    """Its test tasks lie where no training task does."""

    def draw_tasks(self, n, rng, split):
        return rng.uniform(*((0.5, 1) if split == "test" else (-1, 0.5)), n)


class FewTestTasks(Sound):
    """Few tasks in all: training and validation share theirs."""

    task_space = spaces.Discrete(9)

    def draw_tasks(self, n, rng, split):
        return rng.integers(*((6, 9) if split == "test" else (0, 6)), n)


class TestsOutside(Sound):
    def draw_tasks(self, n, rng, split):
        return rng.uniform(*((1.5, 2) if split == "test" else (-1, 1)), n)


class NoTestTasks(Sound):
    def draw_tasks(self, n, rng, split):
        return rng.uniform(*{"train": (-1, 0), "validation": (0, 1)}[split], n)


class Irreproducible(Sound):
    def draw_tasks(self, n, rng, split):
        return np.random.default_rng().uniform(-1, 1, n)


class TooFew(Sound):
    def draw_tasks(self, n, rng, split):
        return rng.uniform(-1, 1, n - 1)


class FewSampled(Sound):
    def sample_tasks(self, n, rng, split="train"):
        return super().sample_tasks(n, rng, split)[1:]


class OddModes(Sound):
    num_modes = 2

    def modes(self, tasks):
        return tasks > 0


class Leaky(Sound):
    def sample_tasks(self, n, rng, split="train"):
        return rng.uniform(-1, 1, n)


class Monotonous(Sound):
    def draw_tasks(self, n, rng, split):
        return np.full(n, 0.5)


class TwoKinds(Sound):
    """Drifts of two kinds, each as the task says."""

    kinds = ("one", "other")
    task_space = spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (), np.float64)])

    def kind(self, task):
        return self.kinds[task[0]]

    def make_env(self, kind="one"):
        return Drift()

    def set_task(self, env, task):
        return {"task": float(task[1])}


class UnknownKind(TwoKinds):
    def kind(self, task):
        return "third" if task[0] else "one"


class OtherSpaces(TwoKinds):
    def make_env(self, kind="one"):
        env = Drift()
        if kind == "other":
            env.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        return env


class OtherOrder(TwoKinds):
    """As many numbers in each kind, in another order."""

    def make_env(self, kind="one"):
        names = ["a", "b"] if kind == "one" else ["b", "a"]
        env = gym.wrappers.TransformObservation(
            Drift(),
            lambda place: {"a": place, "b": 2 * place},
            spaces.Dict([(name, Drift.observation_space) for name in names]),
        )
        assert list(env.observation_space) == names
        return env


class OtherBounds(TwoKinds):
    def make_env(self, kind="one"):
        env = Drift()
        if kind == "other":
            env.action_space = spaces.Box(-50, 50, (1,), np.float32)
        return env


class SharedElements(Sound):
    """Draws the same few whole numbers for each split."""

    task_space = spaces.Discrete(40)

    def draw_tasks(self, n, rng, split):
        return rng.integers(40, size=n)

    finite_tasks = None


class OneGoalForEachKind(TwoKinds):
    """The kinds differ, but the tasks of one kind do not."""

    def set_task(self, env, task):
        return {"task": float(task[0])}


class LeakyLists(TwoKinds):
    """Two of 40 tasks are in two splits."""

    def split_tasks(self, split):
        first = {"train": 0, "validation": 18, "test": 40}[split]
        return [(number % 2, number / 100) for number in range(first, first + 20)]


class Unpicklable(Sound):
    def __init__(self):
        self.transform = lambda task: task


class Spaceless(Sound):
    task_space = None


class SameEnvironment(Sound):
    env = Drift()

    def make_env(self):
        return self.env


class Unmade(Sound):
    def make_env(self):
        raise OSError("no such simulator")


class TextActions(Sound):
    def make_env(self):
        env = Drift()
        env.action_space = spaces.Text(3)
        return env


class UnboundedActions(Sound):
    def make_env(self):
        env = Drift()
        env.action_space = spaces.Box(-1, np.inf, (1,))
        return env


class TableOfActions(Sound):
    def make_env(self):
        env = Drift()
        env.action_space = spaces.Box(-1, 1, (2, 2))
        return env


class LosesAtReset(Sound):
    def make_env(self):
        env = Drift()
        env.ignores_task = True
        return env


class LosesWithoutSeed(Sound):
    def make_env(self):
        env = Drift()
        env.forgets_without_seed = True
        return env


class RedrawsAtPlainReset(Sound):
    def make_env(self):
        env = Drift()
        env.redraws = True
        return env


class Unseeded(Sound):
    def make_env(self):
        env = Drift()
        env.own_noise = True
        return env


class Gathering(Drift):
    """Its speed grows with every step, and no reset stops it."""

    speed = 0.0

    def step(self, action):
        self.speed += 0.1
        return super().step(action + self.speed)


class Lingering(Sound):
    def make_env(self):
        return Gathering()


class SharedTask(Sound):
    """Keeps the task in the class, where all slots see the last one."""

    class Shared(Drift):
        def reset(self, *, seed=None, options=None):
            result = super().reset(seed=seed, options=options)
            type(self).task = self.task
            self.__dict__.pop("task", None)
            return result

    def make_env(self):
        return self.Shared()


class BeginsElsewhere(Sound):
    """Its batch begins an episode in the first slot, whichever was meant."""

    class Batch(LoopedEpisodes):
        def reset(self, tasks, seeds, observations, slots=None):
            super().reset(tasks, seeds, observations, slots if slots is None else slots * 0)

    def make_episodes(self, num_envs, horizon):
        return self.Batch(self, num_envs, horizon)


class BeginsEverywhere(Sound):
    """Its batch begins an episode in every slot, whichever were meant."""

    class Batch(LoopedEpisodes):
        def reset(self, tasks, seeds, observations, slots=None):
            if slots is not None:
                tasks, seeds = [*tasks] * self.num_envs, [*seeds] * self.num_envs
            super().reset(tasks, seeds, observations)

    def make_episodes(self, num_envs, horizon):
        return self.Batch(self, num_envs, horizon)


class OneFlag(Sound):
    """Its batch says only once that an episode has ended."""

    class Batch(LoopedEpisodes):
        def step(self, actions, observations, rewards, terminated, truncated):
            before = self._terminated | self._truncated
            super().step(actions, observations, rewards, terminated, truncated)
            truncated &= ~before

    def make_episodes(self, num_envs, horizon):
        return self.Batch(self, num_envs, horizon)


class PaysOn(Sound):
    """Its batch rewards slots whose episode has ended."""

    class Batch(LoopedEpisodes):
        def step(self, actions, observations, rewards, terminated, truncated):
            before = self._terminated | self._truncated
            super().step(actions, observations, rewards, terminated, truncated)
            rewards[before] = 1

    def make_episodes(self, num_envs, horizon):
        return self.Batch(self, num_envs, horizon)


class GoesOn(Sound):
    """Its batch does not know the horizon."""

    def make_episodes(self, num_envs, horizon):
        return LoopedEpisodes(self, num_envs, horizon + 5)


class EndsAtOnce(Drift):
    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, bool(observation[0] > 0), truncated, info


class EarlyEnds(Sound):
    def make_env(self):
        return EndsAtOnce()


class Many(Sound):
    """More whole tasks than are called finite."""

    task_space = spaces.Box(-60, 60, (), np.int64)


class ManyRepeated(Many):
    """Draws the same tasks for every split."""

    def draw_tasks(self, n, rng, split):
        return rng.integers(-60, 61, n)


class NotWhole(Many):
    def draw_tasks(self, n, rng, split):
        return rng.uniform(-60, 60, n)


class SharedParts(MachineFamily):
    def draw_tasks(self, n, rng, split):
        return super().draw_tasks(n, np.random.default_rng(0), split)


class ForgetfulMachine(MachineFamily):
    class Machine(Machine):
        def reset(self, *, seed=None, options=None):
            any_task = {"target": np.array([1, 0]), "weights": (1.0, 0.5)}
            return super().reset(seed=seed, options={"task": any_task} if seed is None else options)

    def make_env(self):
        return self.Machine()


class IntegersWithoutEnd(Sound):
    def make_env(self):
        env = Drift()
        env.action_space = spaces.Box(0, 2**40, (1,), np.int64)
        return env


class WrongParts(MachineFamily):
    """Its observations lack what their space has."""

    class Lacking(Machine):
        def _observation(self):
            return {"dial": 1, "panel": (np.zeros(2, int),)}

    def make_env(self):
        return self.Lacking()


def test_episodes_may_end_early():
    assert check_task_family(EarlyEnds()) is None


def test_a_sound_family_passes():
    assert check_task_family(Sound()) is None


@pytest.mark.parametrize("family", [Many, MachineFamily, SwitchesFamily, TwoKinds])
def test_families_of_other_spaces_pass(family):
    assert check_task_family(family()) is None


@pytest.mark.parametrize("family", [OtherTestTasks, FewTestTasks])
def test_test_tasks_may_lie_elsewhere(family):
    assert check_task_family(family()) is None


@pytest.mark.parametrize(
    ("family", "problem"),
    [
        (OutsideTheSpace, r"tasks outside the task space, such as 1\.\d+ in Box"),
        (TestsOutside, r"has 1 problem.*\n- sample_tasks gives tasks outside the task space.* \(split 'test'\)"),
        (
            NoTestTasks,
            r"has 1 problem.*\n- KeyError: 'test' \(.*, in draw_tasks: .*\). It happened while tasks of the split",
        ),
        (Irreproducible, "sample_tasks is not reproducible"),
        (TooFew, "TooFew.draw_tasks must return 16 tasks, as many as asked for, got 15"),
        (FewSampled, r"sample_tasks\(n=16, split='train'\) returned 15 tasks"),
        (OddModes, r"OddModes.modes must return a whole number from 0 to 1 for each of the 16 tasks, got array\(\["),
        (Leaky, "the splits leak: 'train' and 'validation' share 16 of 16 tasks"),
        (Monotonous, "all tasks are the same"),
        (Unpicklable, "it cannot be pickled"),
        (Spaceless, "it has no task_space"),
        (SameEnvironment, "make_env returns the same environment each time"),
        (
            Unmade,
            r"\(.*, in make_env: raise OSError\(.no such simulator.\)\). It happened in make_env of Unmade.",
        ),
        (TextActions, "action space Text.* is not supported: use a bounded one-dimensional Box, Discrete"),
        (UnboundedActions, r"action space Box\(-1.0, inf, \(1,\), float32\) is not supported: use a bounded"),
        (TableOfActions, r"action space Box\(-1.0, 1.0, \(2, 2\), float32\) is not supported: use a bounded"),
        (
            ManyRepeated,
            r"the splits leak: 'train' and 'test' share \d+ of 16 tasks.*if tasks repeat",
        ),
        (NotWhole, r"tasks outside the task space, such as -?\d+\.\d+ in Box\(-60, 60, \(\), int64\)"),
        (SharedParts, "the splits leak: 'train' and 'validation' share 16 of 16 tasks"),
        (ForgetfulMachine, "the task is lost at a reset without a seed"),
        (IntegersWithoutEnd, "has more integers than a policy can tell apart"),
        (WrongParts, r"an observation of WrongParts\['panel'\] must be a tuple of 2 parts, got \(array\(\[0, 0\]\),\)"),
        (LosesAtReset, "the task is lost at reset"),
        (LosesWithoutSeed, "the task is lost at a reset without a seed"),
        (RedrawsAtPlainReset, "the task is lost at a plain reset: after env.reset"),
        (Unseeded, "it is not deterministic under a seed"),
        (Lingering, "has 1 problem.*\n- an episode depends on the one before: .* let reset set everything anew"),
        (SharedTask, "make_episodes differs from a single environment in slot 0"),
        (BeginsElsewhere, "make_episodes differs from a single environment in slot 1"),
        (UnknownKind, "kind gives 'third', and kinds has no such entry"),
        (OtherSpaces, r"environments of the kind 'other' have the observations .*\(2,\), .* by default .*\(1,\)"),
        (OtherBounds, r"the kind 'other' have .* and the actions Box\(-50"),
        (SharedElements, "the splits leak: 'train' and 'test' share"),
        (OneGoalForEachKind, "the task is lost at reset"),
        (LeakyLists, "the splits leak: 'train' and 'validation' share 2 of 20 tasks"),
        (BeginsEverywhere, "make_episodes differs from a single environment in slot 0"),
        (OneFlag, "a slot whose episode has ended does not stand still"),
        (PaysOn, "a slot whose episode has ended does not stand still"),
        (GoesOn, r"an episode of make_episodes goes on after \d+ steps, which were asked for as its horizon"),
    ],
)
def test_each_defect_is_found(family, problem):
    with pytest.raises(UserError, match=problem):
        check_task_family(family())


def test_parts_of_all_kinds_have_the_familys_order():
    family = OtherOrder()
    check_task_family(family)
    batch = family.make_episodes(2, 3)
    observations = np.zeros((2, 2))
    batch.reset(array_of_objects([(0, 0.5), (1, 0.5)]), [0, 0], observations)
    np.testing.assert_array_equal(observations[0], observations[1])
    np.testing.assert_array_equal(observations[:, 1], 2 * observations[:, 0])


def test_the_oracle_shows_parts_of_all_kinds_in_the_familys_order():
    oracle = OracleFamily(OtherOrder())
    check_task_family(oracle)
    shown = []
    for kind in ("one", "other"):
        env = oracle.make_env(kind=kind)
        options = oracle.set_task(env, (0, 0.5))
        for _ in range(2):
            env.reset(seed=0, options=options)
        shown.append(env.step(np.ones(1, np.float32))[0])
    first, second = shown
    np.testing.assert_array_equal(first, second)
    assert first[1] == 2 * first[0] != 0


@pytest.mark.parametrize("family", [Leaky, LosesWithoutSeed, RedrawsAtPlainReset, SharedTask, Unpicklable])
def test_a_lone_defect_is_reported_alone_or_once_per_place(family):
    with pytest.raises(UserError) as raised:
        check_task_family(family())
    topics = {line.split(":")[0] for line in str(raised.value).splitlines()[1:]}
    assert len(topics) == 1


class Rare(gym.Env):
    """A point that is paid near its goal alone, which random steps never reach."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-0.1, 0.1, (2,), np.float32)
    goal = np.zeros(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = np.array((options or {}).get("task", self.goal))
        self.place = np.zeros(2)
        return self.place.copy(), {}

    def step(self, action):
        self.place = self.place + action
        return self.place.copy(), float(np.linalg.norm(self.place - self.goal) < 0.3), False, False, {}


class RareFamily(TaskFamily):
    horizon = 100
    task_space = spaces.Box(-2, 2, (2,), np.float64)

    def make_env(self):
        return Rare()

    def draw_tasks(self, n, rng, split):
        angle = rng.uniform(0, 2 * np.pi, n)
        return 1.8 * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_sparse_rewards_are_met_by_actions_that_are_held():
    check_task_family(RareFamily())


class Counting(Drift):
    """Drift of two actions that ignores its task, and counts all steps."""

    action_space = spaces.Discrete(2)
    ignores_task = True
    steps = 0

    def step(self, action):
        Counting.steps += 1
        return super().step(action)


class Binary(Sound):
    horizon = 200

    def make_env(self):
        return Counting()


def test_a_lost_task_costs_few_steps(monkeypatch):
    monkeypatch.setattr(Counting, "steps", 0)
    with pytest.raises(UserError, match="the task is lost at reset"):
        check_task_family(Binary())
    # Random actions for 50 steps: 16 tasks after a reset, and in 5 more checks. 2 held actions: 8 tasks, 2 resets.
    assert Counting.steps < 16 * 6 * 50 + 2 * 8 * 2 * 200


@pytest.fixture
def tried(monkeypatch):
    """Trajectories that a check takes: the second reset, and the action that is held, if one is."""
    tried, original = [], checks._trajectory

    def remember(family, task, seed, second_reset=None, actions=None):
        tried.append((second_reset, None if actions is None else tuple(actions[0])))
        return original(family, task, seed, second_reset, actions)

    monkeypatch.setattr(checks, "_trajectory", remember)
    return tried


def test_tasks_that_differ_at_once_are_tried_no_further(tried):
    assert list(checks._lost(Sound(), 0)) == []
    assert tried == [(None, None), (None, None), ("given", None), ("given", None)]


def test_the_action_that_told_tasks_apart_is_tried_first_after_a_second_reset(tried):
    assert list(checks._lost(RareFamily(), 0)) == []
    telling = tried[[reset for reset, _ in tried].index("given") - 1][1]
    assert telling is not None
    assert {action for reset, action in tried if reset == "given"} == {telling}


class FailsInNumPy(Sound):
    """Its mistake shows in a line of an installed package."""

    def set_task(self, env, task):
        return {"task": np.zeros(2).reshape(3)}


def test_an_error_inside_a_package_names_the_line_that_called_it():
    with pytest.raises(UserError, match=r"test_check_task_family.py:\d+, in set_task: .*np.zeros\(2\).reshape\(3\)"):
        check_task_family(FailsInNumPy())


def test_a_line_of_an_installed_package_is_nobodys():
    frames = [FrameSummary(f"/home/me/{folder}/mine.py", 1, "step") for folder in ("work", ".local/lib/site-packages")]
    assert list(map(_is_theirs, frames)) == [True, False]


def test_what_is_no_family_is_told():
    with pytest.raises(UserError, match=r"must be an instance of a subclass of .*SupervisedFamily, got <class"):
        check_task_family(Sound)
