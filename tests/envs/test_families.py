"""Families: their tasks, their splits, the registry, and episodes through Gymnasium's vector environments."""

import warnings
from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from machines import Machine, MachineFamily, SwitchesFamily
from quick import quick
from tiny_runs import tiny

import metarl
from examples.cartpole_family import CartPoleFamily
from examples.control_family import ControlFamily
from metarl.common.errors import UserError
from metarl.common.strict_json import one_line
from metarl.envs import (
    OracleFamily,
    TaskFamily,
    check_task_family,
    family_names,
    get_family,
    mujoco_core,
    register,
    registry,
)
from metarl.envs.family import SPLITS, _split_of
from metarl.envs.looped import LoopedEpisodes
from metarl.envs.spaces import all_elements, stacked


class Counting(gym.Env):
    """Counts its steps; ends terminally after as many as the task says."""

    observation_space = spaces.Box(-np.inf, np.inf, (2, 1), np.float64)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length = (options or {}).get("task", 3)
        self.steps = 0
        return np.array([[0.0], [self.length]]), {}

    def step(self, action):
        self.steps += 1
        return np.array([[self.steps], [self.length]]), 10.0 + action, bool(self.steps >= self.length), False, {}


def rng(seed):
    return np.random.default_rng(seed)


class CountingFamily(TaskFamily):
    task_space = spaces.Discrete(9, start=1)

    def make_env(self):
        return Counting()


@pytest.fixture
def registered():
    """Undoes a test's registrations."""
    before = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)


# Few-shot classification needs a folder of images, Meta-World a package; their own tests check them.
@pytest.mark.parametrize(
    "name",
    quick(
        [name for name in family_names() if not name.startswith(("few-shot", "metaworld"))],
        "navigation",
        "cheetah-dir",
        "ant-goal",
        "bandit",
        "tabular-mdp",
        "sinusoid",
    ),
)
def test_every_built_in_family_passes_its_own_check(name):
    check_task_family(get_family(name))


@pytest.mark.parametrize("family", [CartPoleFamily, ControlFamily])
def test_the_worked_examples_pass_the_check(family):
    check_task_family(family())


# Lists of tasks, and several kinds of environments


@pytest.mark.parametrize("wrap", [lambda family: family, OracleFamily], ids=["plain", "oracle"])
def test_a_split_with_a_list_draws_each_mode_and_each_of_its_tasks_equally_often(wrap):
    family = wrap(ControlFamily())
    for split, loads in ControlFamily.loads.items():
        tasks = family.sample_tasks(2 * len(loads) + 4 * len(loads), rng(0), split)
        assert Counter(map(tuple, tasks)) == {(number, load): 3 for number in range(2) for load in loads}
        few = [number for number, _ in family.sample_tasks(5, rng(1), split)]
        assert few == sorted(few)  # Slots keep their kind of environment.
        assert sorted(Counter(few).values()) == [2, 3]


def test_tasks_of_a_list_are_independent_until_they_repeat():
    family = ControlFamily()
    assert family.independent(family.sample_tasks(6, rng(0), "test"))
    assert not family.independent(family.sample_tasks(7, rng(0), "test"))
    navigation = get_family("navigation")
    assert navigation.independent(navigation.sample_tasks(1000, rng(0), "test"))
    assert not get_family("cheetah-dir").independent([1.0, -1.0])
    sinusoid = get_family("sinusoid")
    assert sinusoid.independent(2 * [*sinusoid.sample_tasks(1, rng(0), "test")])  # With other examples.


def test_tasks_that_are_drawn_twice_have_no_interval():
    """Of 101 elements few are for tests, so that 40 draws repeat them."""

    class Wide(CountingFamily):
        task_space = spaces.Discrete(101)
        finite_tasks = None

    family = Wide()
    assert not family.independent(family.sample_tasks(40, rng(0), "test"))


class Uneven(CartPoleFamily):
    """One task of one mode, and nine of the other, which are drawn equally often."""

    num_modes = 2

    def split_tasks(self, split):
        return np.linspace(0.5, 1.5, 10)

    def modes(self, tasks):
        return (tasks > 0.5).astype(int)


def test_tasks_of_modes_of_unequal_size_repeat_sooner():
    family = Uneven()
    for number, independent in ((2, True), (3, False), (10, False)):
        drawn = [family.sample_tasks(number, rng(seed), "test") for seed in range(10)]
        assert all(map(family.independent, drawn)) is independent


def test_a_list_without_tasks_and_a_method_for_a_property_are_told():
    class Empty(CartPoleFamily):
        def split_tasks(self, split):
            return []

    with pytest.raises(
        UserError, match=r"Empty\.split_tasks lists no task for 'validation'; return None to draw tasks"
    ):
        Empty().sample_tasks(2, rng(0), "validation")
    with pytest.raises(UserError, match=r"Method\.finite_tasks must be a property; write @property above it"):

        class Method(CartPoleFamily):
            def finite_tasks(self):
                return np.zeros(1)


def test_a_slot_gets_another_environment_only_for_a_task_of_another_kind():
    family = ControlFamily()
    batch, observations = family.make_episodes(3, 5), np.zeros((3, 3))
    pendulum, car = (0, 1.1), (1, 0.9)
    batch.reset(stacked([pendulum, car, pendulum]), [0, 1, 2], observations)
    before = dict(batch._envs)
    batch.reset(stacked([(0, 0.7), (0, 0.7), car]), [0, 1, 2], observations)
    assert [batch._envs[slot] is before[slot] for slot in range(3)] == [True, False, False]
    assert [batch._envs[slot].unwrapped.spec.id[:8] for slot in range(3)] == ["Pendulum", "Pendulum", "Mountain"]
    batch.close()


def test_a_task_of_no_kind_is_told():
    class Kindless(ControlFamily):
        kind = metarl.TaskFamily.kind

    batch = Kindless().make_episodes(1, 5)
    with pytest.raises(UserError, match="gives None, which is none of its kinds"):
        batch.reset(stacked([(0, 1.1)]), [0], np.zeros((1, 3)))
    batch.close()


def test_a_family_of_two_kinds_trains_on_one_and_both(tmp_path):
    run = metarl.train(tiny(tmp_path, env=ControlFamily, horizon=5, meta_batch_size=3))
    result = metarl.evaluate(run.path, metarl.EvaluationConfig(tasks=12, rollouts=2, gradient_steps=1))
    assert result.interval is None  # Six tasks, twice each.
    assert not result.finite


@pytest.mark.parametrize(
    "name", ["navigation", "navigation-d", "navigation-modes", "bandit", "tabular-mdp", "ant-goal"]
)
def test_splits_of_a_continuous_family_share_no_task(name):
    family = get_family(name)
    tasks = [family.sample_tasks(100, np.random.default_rng(0), split) for split in ("train", "validation", "test")]
    assert all(np.asarray(task) in family.task_space for split in tasks for task in split)
    assert len(np.unique(np.concatenate(tasks), axis=0)) == 300


def test_tasks_come_from_the_generator_alone():
    family = get_family("navigation")
    rng = np.random.default_rng(0)
    first, second = family.sample_tasks(5, rng), family.sample_tasks(5, rng)
    np.testing.assert_array_equal(first, family.sample_tasks(5, np.random.default_rng(0)))
    assert not np.array_equal(first, second)


class WindFamily(CountingFamily):
    """Training tasks are below 0.5, test tasks above."""

    task_space = spaces.Box(0, 1, (), np.float64)

    def draw_tasks(self, n, rng, split):
        return rng.uniform(*((0.5, 1) if split == "test" else (0, 0.5)), n)


@pytest.mark.parametrize("wrap", [lambda family: family, OracleFamily], ids=["plain", "oracle"])
def test_a_family_may_draw_other_tasks_for_its_tests(wrap):
    family = wrap(WindFamily())
    drawn = {split: family.sample_tasks(50, np.random.default_rng(0), split) for split in SPLITS}
    assert drawn["test"].min() >= 0.5 > max(drawn["train"].max(), drawn["validation"].max())
    assert not set(drawn["train"]) & set(drawn["validation"])


class ShortThenLong(CountingFamily):
    """Finitely many tasks, and others in the tests than in training."""

    def draw_tasks(self, n, rng, split):
        return rng.integers(*((6, 10) if split == "test" else (1, 6)), n)


def test_finitely_many_tasks_may_be_split():
    family = ShortThenLong()
    assert family.finite_tasks is None
    drawn = {split: set(family.sample_tasks(50, np.random.default_rng(0), split)) for split in SPLITS}
    assert drawn == {"train": {1, 2, 3, 4, 5}, "validation": {1, 2, 3, 4, 5}, "test": {6, 7, 8, 9}}


class OneForTests(CountingFamily):
    """Finitely many tasks, of which the last is for tests only."""

    def split_tasks(self, split):
        return [9] if split == "test" else [*range(1, 9)]


def test_a_family_with_a_list_for_each_split_has_held_out_tasks():
    family = OneForTests()
    assert family.finite_tasks is None
    assert family.independent(family.sample_tasks(1, rng(0), "test"))
    assert not family.independent(family.sample_tasks(2, rng(0), "test"))


def test_a_family_that_draws_without_a_split_is_refused_when_its_class_is_made():
    with pytest.raises(UserError, match=r"Old.draw_tasks must take the split .* draw_tasks\(self, n, rng, split\)"):

        class Old(CountingFamily):
            def draw_tasks(self, n, rng):
                return rng.integers(9, size=n)


SAMPLED = {"trpo": {"fisher_fraction": 0.1, "hessian_fraction": 0.5}}
NEAR_ZERO = {"activation": "tanh", "output_gain": 0.1}


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("navigation", {**SAMPLED, "meta_batch_size": 20}),
        ("navigation-d", {**SAMPLED, "meta_batch_size": 20}),
        ("bandit", {}),
        ("tabular-mdp", {}),
        ("cheetah-dir", {**SAMPLED, **NEAR_ZERO, "discount": 0.95, "action_scale": 0.2}),
        ("cheetah-vel", {**SAMPLED, **NEAR_ZERO, "discount": 0.95, "action_scale": 0.2}),
        ("cheetah-vel-signed", {**SAMPLED, **NEAR_ZERO, "discount": 0.95, "action_scale": 0.2}),
        ("cheetah-dir-rllab", {**SAMPLED, **NEAR_ZERO, "initial_std": 0.5, "l2f": {"initial_gamma": 0.95}}),
        ("cheetah-vel-rllab", {**SAMPLED, **NEAR_ZERO, "initial_std": 0.5, "l2f": {"initial_gamma": 0.95}}),
        ("ant-dir", {**SAMPLED, **NEAR_ZERO, "discount": 0.95, "action_scale": 0.2}),
        ("ant-vel", {**SAMPLED, **NEAR_ZERO, "discount": 0.95, "action_scale": 0.2}),
        ("ant-goal", {**SAMPLED, **NEAR_ZERO, "discount": 0.95, "action_scale": 0.2, "inner_lr": 1.0}),
        ("walker-params", {**SAMPLED, **NEAR_ZERO}),
        ("cheetah-crippled", {**SAMPLED, **NEAR_ZERO, "discount": 0.95, "action_scale": 0.2}),
        ("tests.envs.test_families:CountingFamily", {}),
    ],
)
def test_families_know_their_training_defaults(name, defaults):
    assert get_family(name).defaults == defaults


@pytest.mark.parametrize("n", [2, 40])
def test_two_directions_are_drawn_equally_often(n):
    tasks = get_family("cheetah-dir").sample_tasks(n, np.random.default_rng(0))
    assert (tasks == 1).sum() == (tasks == -1).sum() == n // 2


def test_directions_come_in_random_order():
    orders = {get_family("ant-dir").sample_tasks(4, np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert len(orders) > 1


def test_discrete_task_spaces_are_finite():
    np.testing.assert_array_equal(CountingFamily().finite_tasks, np.arange(1, 10))
    tasks = CountingFamily().sample_tasks(11, np.random.default_rng(0))
    assert sorted(np.unique(tasks, return_counts=True)[1]) == [1] * 7 + [2] * 2


class Parts(CountingFamily):
    """Twelve tasks of two parts."""

    task_space = spaces.Dict({"size": spaces.Box(1, 3, (), np.int64), "kinds": spaces.MultiBinary(2)})


def test_small_spaces_of_whole_numbers_are_finite():
    family = Parts()
    assert len(family.finite_tasks) == 12
    tasks = family.sample_tasks(24, np.random.default_rng(0), "test")
    assert tasks.shape == (24,)
    assert set(Counter(map(one_line, tasks)).values()) == {2}


class Hundred(CountingFamily):
    task_space = spaces.Discrete(100)


class Integers(CountingFamily):
    task_space = spaces.Box(-40, 40, (2,), np.int32)


class Pairs(CountingFamily):
    task_space = spaces.Tuple([spaces.Discrete(11), spaces.MultiDiscrete([10])])


class Images(CountingFamily):
    """More tasks than a float can count."""

    task_space = spaces.Box(0, 255, (20, 20), np.uint8)


class Unbounded(CountingFamily):
    task_space = spaces.Box(-np.inf, np.inf, (1,), np.int64)


def test_finite_means_at_most_a_hundred_tasks():
    assert len(Hundred().finite_tasks) == 100
    assert [family().finite_tasks for family in (SwitchesFamily, Integers, Pairs, Unbounded)] == [None] * 4


@pytest.mark.parametrize("family", [SwitchesFamily(), Integers(), Pairs(), Images()], ids=lambda family: family.name)
@pytest.mark.parametrize("wrap", [lambda family: family, OracleFamily], ids=["plain", "oracle"])
def test_splits_of_many_whole_numbers_share_no_task(family, wrap):
    # Not only of one generator: a task never changes its split.
    drawn = {
        split: {one_line(task) for seed in range(2) for task in wrap(family).sample_tasks(60, rng(seed), split)}
        for split in SPLITS
    }
    assert (
        not drawn["train"] & drawn["validation"] | drawn["train"] & drawn["test"] | drawn["validation"] & drawn["test"]
    )
    assert min(map(len, drawn.values())) > 5


def test_every_split_has_its_share_of_the_switches():
    splits = [_split_of(task) for task in all_elements(spaces.MultiDiscrete([10, 10]))]
    np.testing.assert_allclose([splits.count(split) for split in SPLITS], [60, 20, 20], atol=10)


def test_integers_without_bounds_are_refused():
    with pytest.raises(
        UserError, match=r"the tasks of Unbounded are integers without bounds, .*; give task_space bounds"
    ):
        Unbounded().sample_tasks(2, rng(0))


def test_tasks_that_hold_real_numbers_have_one_distribution():
    tasks = [MachineFamily().sample_tasks(3, rng(0), split) for split in SPLITS]
    assert len({one_line(task) for split in tasks for task in split}) == 9
    assert all(task in MachineFamily.task_space for split in tasks for task in split)


def test_an_environment_may_change_its_own_task():
    class Wearing(Machine):
        def step(self, action):
            self.task["target"][:] = 0
            return super().step(action)

    class WearingFamily(MachineFamily):
        def make_env(self):
            return Wearing()

    tasks, batch = MachineFamily().sample_tasks(2, rng(0)), WearingFamily().make_episodes(2, 3)
    before, observations = one_line(tasks), np.zeros((2, 7))
    batch.reset(tasks, [0, 1], observations)
    batch.step(np.ones((2, 2), int), observations, np.zeros(2), *np.zeros((2, 2), bool))
    assert one_line(tasks) == before


def test_tasks_of_other_spaces_are_refused():
    class Words(CountingFamily):
        task_space = spaces.Tuple([spaces.Discrete(2), spaces.Text(3)])

    with pytest.raises(
        UserError, match=r"the tasks of Words are Tuple.*, and Text.* is not supported: use Box, Discrete"
    ):
        Words().sample_tasks(2, rng(0))


def test_tasks_of_several_parts_are_described_part_by_part():
    task = {"target": np.array([3, 1]), "weights": (np.array(0.75), np.array(0.25))}
    assert MachineFamily().describe_task(task) == "task target [3 1], weights (0.75, 0.25)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, np.random.default_rng(0), "tests"), "no split 'tests'.* Did you mean 'test'"),
        ((0, np.random.default_rng(0), "train"), "n, the number of tasks, must be a positive whole number, got 0"),
        ((1.5, np.random.default_rng(0), "train"), "n, the number of tasks, must be a positive whole number, got 1.5"),
        ((2, 0, "train"), r"rng must be a generator, numpy.random.default_rng\(seed\), got 0"),
    ],
)
def test_wrong_draws_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        get_family("navigation").sample_tasks(*arguments)


def test_variants_differ_in_their_task_spaces():
    assert [get_family(f"navigation{variant}").task_space.shape for variant in ("", "-b", "-c", "-d")] == [
        (2,),
        (4,),
        (2,),
        (4,),
    ]
    np.testing.assert_array_equal(get_family("navigation-c").task_space.high, [2, 2])
    np.testing.assert_array_equal(get_family("navigation-b").task_space.high, [0.5] * 4)
    assert get_family("navigation", action_bound=0.2).action_space.high[0] == np.float32(0.2)


@pytest.mark.parametrize(
    ("name", "task", "words"),
    [
        ("navigation", [0.25, -0.5], "goal (+0.25, -0.50)"),
        ("navigation-b", [0.25, -0.5, 0.0, 0.1], "goal (+0.25, -0.50), start (+0.00, +0.10)"),
        ("navigation-bimodal", [0.25, -0.5, 1.0], "goal (+0.25, -0.50)"),
        ("navigation-modes", [0.25, -0.5, 3.0], "goal (+0.25, -0.50)"),
        ("cheetah-vel-signed", -1.5, "velocity -1.50 m/s"),
        ("bandit", [0.25, 0.5, 0.75, 0.5, 0.0], "best of 5 arms: number 2 with mean 0.75"),
        ("cheetah-dir", -1.0, "backward"),
        ("ant-vel", 1.5, "velocity 1.50 m/s"),
        ("hopper-params", np.zeros(34), "15.8 kg, damping x 1.00, friction x 1.00"),
        ("cheetah-crippled", 0, "bthigh disabled"),
        ("ant-crippled", 2, "back left leg disabled"),
        ("humanoid-dir", np.pi / 2, "direction 90 degrees"),
    ],
)
def test_tasks_are_described_in_words(name, task, words):
    assert get_family(name).describe_task(np.asarray(task)) == words


def test_only_goals_around_centres_have_modes():
    rng = np.random.default_rng(0)
    for family in (get_family("navigation"), get_family("cheetah-dir"), get_family("bandit"), CountingFamily()):
        assert family.num_modes == 1
        np.testing.assert_array_equal(family.modes(family.sample_tasks(5, rng)), np.zeros(5))
    bimodal = get_family("navigation-bimodal")
    assert bimodal.num_modes == 2
    np.testing.assert_array_equal(bimodal.modes(np.array([[0.1, 0.2, 1.0], [0.1, 0.2, 0.0]])), [1, 0])


def test_a_registered_family_is_found_by_its_name_and_arguments_reach_it(registered):
    class Mine(CountingFamily):
        def __init__(self, horizon=7):
            self.horizon = horizon

    register(Mine)
    register(Mine, "long", horizon=70)
    assert (get_family("Mine").name, get_family("Mine").horizon) == ("Mine", 7)
    assert (get_family("long").name, get_family("long").horizon) == ("long", 70)
    assert get_family("long", horizon=5).horizon == 5
    with pytest.raises(UserError, match=r"'long' is registered already; replace it \(replace=True\)"):
        register(Mine, "long")


def test_a_name_may_be_replaced_and_forgotten(registered):
    register(CountingFamily, "mine")
    register(CartPoleFamily, "mine", "Poles.", replace=True)
    assert isinstance(get_family("mine"), CartPoleFamily)
    assert metarl.family_summaries()["mine"] == "Poles."
    metarl.unregister("mine")
    with pytest.raises(UserError, match="there is no task family named 'mine'"):
        get_family("mine")
    for name in ("mine", "navigation", ["mine"]):
        with pytest.raises(UserError, match=r"a family that you have registered \(none so far\), got"):
            metarl.unregister(name)
    with pytest.raises(UserError, match="'navigation' is registered already; register yours under another name"):
        register(CountingFamily, "navigation", replace=True)


def test_a_family_is_imported_from_the_working_directory(tmp_path, monkeypatch):
    source = "from tests.envs.test_families import CountingFamily\nclass Mine(CountingFamily): pass\n"
    (tmp_path / "my_own_family.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    assert get_family("my_own_family:Mine").name == "my_own_family:Mine"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("navigaton", "no task family named 'navigaton'. Did you mean 'navigation'.*Registered are navigation,"),
        ("envs.navigation:NavigationFamily", "write metarl.envs.navigation:NavigationFamily"),
        ("envs", "write metarl.envs"),
        ("no_such_module:Family", "there is no module 'no_such_module'"),
        ("metarl.no_such:Family", "there is no module 'metarl.no_such'"),
        ("metarl.envs.navigation:NavigationFamly", "has no 'NavigationFamly'. Did you mean 'NavigationFamily'"),
        ("metarl.envs.navigation:NavigationEnv", "must be a subclass of metarl.TaskFamily"),
        (
            "metarl.envs.drawing:PIXELS",
            "is a int, and a subclass of metarl.TaskFamily or metarl.SupervisedFamily is expected",
        ),
    ],
)
def test_families_that_are_not_there_are_told(spec, message):
    with pytest.raises(UserError, match=message):
        get_family(spec)


def test_a_module_that_fails_is_told(tmp_path, monkeypatch):
    (tmp_path / "fails_on_import.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"importing 'fails_on_import' failed with ModuleNotFoundError: .*no_such_module"
    ):
        get_family("fails_on_import:Family")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("navigation", "has no parameter 'goal_bond'; it accepts horizon, goal_bound, .* Did you mean 'goal_bound'"),
        ("tests.envs.test_families:CountingFamily", "unexpected keyword argument 'goal_bond'; it accepts: "),
    ],
)
def test_wrong_arguments_are_told_with_those_accepted(spec, message):
    with pytest.raises(UserError, match=message):
        get_family(spec, goal_bond=2)


def test_a_family_without_a_native_batch_runs_one_episode_per_slot():
    batch = CountingFamily().make_episodes(3, 4)
    assert isinstance(batch, LoopedEpisodes)
    observations, rewards = np.zeros((3, 2), np.float32), np.zeros(3)
    terminated, truncated = np.zeros(3, bool), np.zeros(3, bool)
    for _ in range(2):  # the second time as the first
        batch.reset(np.array([2, 4, 9]), [0, 1, 2], observations)
        seen = []
        for _ in range(6):
            batch.step(np.array([0, 1, 2]), observations, rewards, terminated, truncated)
            seen.append((observations[:, 0].tolist(), rewards.tolist(), terminated.tolist(), truncated.tolist()))
        alive = [False, False, False]
        assert seen == [
            ([1, 1, 1], [10, 11, 12], alive, alive),
            ([2, 2, 2], [10, 11, 12], [True, False, False], alive),
            ([2, 3, 3], [0, 11, 12], [True, False, False], alive),
            ([2, 4, 4], [0, 11, 12], [True, True, False], [False, True, True]),
            ([2, 4, 4], [0, 0, 0], [True, True, False], [False, True, True]),
            ([2, 4, 4], [0, 0, 0], [True, True, False], [False, True, True]),
        ]
    batch.close()


def test_observations_are_flattened_and_others_refused():
    assert CountingFamily().observation_space.shape == (2,)

    class Wordy(CountingFamily):
        def make_env(self):
            env = Counting()
            env.observation_space = spaces.Text(5)
            return env

    with pytest.raises(UserError, match=r"observations of Wordy are Text.*, and Text.* is not supported: use Box"):
        _ = Wordy().observation_space


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1)])
def test_observations_of_another_shape_than_the_spaces_are_refused(sizes):
    class Shortened(Counting):
        def reset(self, **options):
            observation, *rest = super().reset(**options)
            return observation[: sizes[0]], *rest

        def step(self, action):
            observation, *rest = super().step(action)
            return observation[: sizes[1]], *rest

    class Odd(CountingFamily):
        def make_env(self):
            return Shortened()

    def one_step():
        batch, observations = Odd().make_episodes(1, 4), np.zeros((1, 2))
        batch.reset(np.array([2]), [0], observations)
        batch.step(np.array([0]), observations, np.zeros(1), *np.zeros((2, 1), bool))

    with pytest.raises(UserError, match=r"an observation of Odd must have shape \(2, 1\), got \(1, 1\)"):
        one_step()


@pytest.mark.parametrize("half_length", [0.25, 1.5])
def test_the_example_changes_the_pole(half_length):
    batch, env = CartPoleFamily().make_episodes(1, 200), gym.make("CartPole-v1").unwrapped
    env.length, env.polemass_length = half_length, 0.1 * half_length  # The pole weighs 0.1 kg.
    observations, flags = np.zeros((1, 4), np.float32), np.zeros((2, 1), bool)
    batch.reset(np.array([half_length]), [0], observations)
    np.testing.assert_array_equal(observations[0], env.reset(seed=0)[0])
    for _ in range(5):
        batch.step(np.array([1]), observations, np.zeros(1), *flags)
        np.testing.assert_array_equal(observations[0], env.step(1)[0])


@pytest.fixture
def no_mujoco_batch(monkeypatch):
    """MuJoCo as it was before it had batches."""
    monkeypatch.setattr(mujoco_core, "batch_module", lambda: None)
    mujoco_core.say_fallback_once.cache_clear()


def test_without_a_mujoco_batch_families_fall_back_and_say_so_once(no_mujoco_batch):
    with pytest.warns(UserWarning, match=r"has no mujoco.batch \(new in 3.17\)"):
        looped = get_family("cheetah-dir").make_episodes(2, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_family("ant-dir").make_episodes(1, 5)
    assert isinstance(looped, LoopedEpisodes)


@pytest.mark.filterwarnings("ignore:.*has no mujoco.batch")
def test_the_fallback_equals_single_environments(no_mujoco_batch):
    family, tasks, seeds = get_family("cheetah-dir"), np.array([-1.0, 1.0]), [3, 4]
    batch, envs = family.make_episodes(2, 5), [family.make_env() for _ in tasks]
    observations, rewards, flags = np.zeros((2, 17)), np.zeros(2), np.zeros((2, 2), bool)
    batch.reset(tasks, seeds, observations)
    last = [env.reset(seed=s, options={"task": t})[0] for env, s, t in zip(envs, seeds, tasks, strict=True)]
    np.testing.assert_array_equal(observations, last)
    for _ in range(5):
        batch.step(np.full((2, 6), 0.3, np.float32), observations, rewards, *flags)
        steps = [env.step(np.full(6, 0.3, np.float32)) for env in envs]
        np.testing.assert_array_equal(observations, [step[0] for step in steps])
        np.testing.assert_array_equal(rewards, [step[1] for step in steps])
    np.testing.assert_array_equal(flags, [[False, False], [True, True]])


def test_without_a_mujoco_batch_a_native_vector_environment_is_refused(no_mujoco_batch):
    with pytest.raises(UserError, match=r"no mujoco.batch .* or use vectorization_mode='sync'"):
        gym.make_vec("metarl/CheetahDir-v0", 2)


def test_ant_goals_are_uniform_in_a_disc():
    goals = get_family("ant-goal").sample_tasks(4000, np.random.default_rng(0))
    distance = np.hypot(*goals.T)
    assert distance.max() <= 3
    assert np.mean(distance < 1.5) == pytest.approx(1 / 4, abs=0.03)  # a quarter of the area
    np.testing.assert_allclose(goals.mean(0), 0, atol=0.1)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("navigation", {"action_bound": -0.1}, "action_bound must be a positive number, got -0.1"),
        ("navigation", {"action_bound": True}, "action_bound must be a positive number, got True"),
        ("navigation", {"goal_bound": "wide"}, "goal_bound must be a positive number, got 'wide'"),
        ("navigation-b", {"start_bound": -1}, "start_bound must be a number, 0 or greater, got -1"),
        ("navigation", {"goal_modes": 1}, "goal_modes must be a whole number from 2 to 6, got 1"),
        ("navigation-modes", {"goal_modes": 7}, "goal_modes must be a whole number from 2 to 6, got 7"),
        ("navigation-modes", {"goal_modes": 2.5}, r"goal_modes must be a whole number from 2 to 6, got 2\.5"),
        ("navigation-modes", {"goal_distance": 4.5}, r"goal_distance must be a number from 0 to 4, got 4\.5"),
        ("navigation-modes", {"goal_distance": float("nan")}, "goal_distance must be a number from 0 to 4, got nan"),
        ("navigation-modes", {"goal_deviation": -1}, "goal_deviation must be a number, 0 or greater, got -1"),
        ("navigation-modes", {"start_bound": 1}, "goal_modes and start_bound cannot be combined"),
        ("cheetah-vel-signed", {"lowest": 3}, r"highest must be greater than lowest, got lowest=3\.0 and highest=3\.0"),
        (
            "navigation",
            {"squared_distance": "False"},
            r"squared_distance must be True or False .*, got 'False'",
        ),
        ("bandit", {"num_arms": 0}, "num_arms must be a positive whole number, got 0"),
        ("bandit", {"num_states": 3}, "bandit has no parameter 'num_states'; it accepts horizon, num_arms"),
        ("tabular-mdp", {"num_states": 2.5}, r"num_states must be a positive whole number, got 2\.5"),
        ("tabular-mdp", {"num_actions": "many"}, "num_actions must be a positive whole number, got 'many'"),
        ("navigation", {"end_norm": 2}, "end_norm must be 'max' or 'euclidean', got 2"),
        ("navigation", {"horizon": 50.5}, "horizon must be a positive whole number, got 50.5"),
        ("cheetah-vel-rllab", {"horizon": "long"}, "horizon must be a positive whole number, got 'long'"),
        ("cheetah-dir", {"frame_skip": "abc"}, "frame_skip must be a positive whole number, got 'abc'"),
        ("cheetah-dir-rllab", {"normal_qpos_noise": 2}, r"normal_qpos_noise must be True or False \(1 or 0\), got 2"),
        ("cheetah-dir", {"velocity_of": "head"}, "velocity_of must be 'torso' or 'centre-of-mass', got 'head'"),
        ("cheetah-vel", {"highest": 0}, "highest must be greater than lowest, got lowest=0.0 and highest=0.0"),
        ("ant-dir", {"survive_bonus": "yes"}, "survive_bonus must be a finite number, got 'yes'"),
        ("ant-goal", {"goal_radius": float("inf")}, "goal_radius must be a positive number, got inf"),
        ("walker-params", {"log_scale": 0}, "log_scale must be a positive number, got 0"),
        ("humanoid-dir", {"horizon": 0}, "horizon must be a positive whole number, got 0"),
        ("ant-goal", {"render_mode": "human"}, "ant-goal has no parameter 'render_mode'"),
    ],
)
def test_wrong_values_are_told_by_name_as_soon_as_they_are_given(name, parameters, message):
    with pytest.raises(UserError, match=message):
        get_family(name, **parameters)


def test_values_from_the_command_line_become_what_is_meant():
    family = get_family("navigation", horizon=50.0, squared_distance=1.0)
    assert (family.horizon, type(family.horizon)) == (50, int)
    assert family.make_env().reward(np.array([2.0, 0.0])) == -4


@pytest.mark.parametrize("error", [TypeError, ValueError])
def test_an_argument_that_a_users_family_cannot_take_is_told(error, registered):
    def make(length):
        raise error(f"no {length}")

    register(make, "mine")
    with pytest.raises(UserError, match=f"mine cannot be made with these arguments: {error.__name__}: no 3"):
        get_family("mine", length=3)


def test_families_know_whether_threads_pay_for_native_batches_only():
    families = [get_family(name) for name in ("navigation", "ant-dir")] + [CountingFamily()]
    assert [family.min_envs_per_shard for family in families] == [800, 20, None]


@pytest.mark.parametrize("name", ["cheetah-dir", "ant-vel"])
def test_frame_skip_from_the_command_line_is_a_whole_number(name):
    episodes = get_family(name, frame_skip=1.0).make_episodes(2, 3)
    observations = np.zeros((2, *get_family(name).observation_space.shape))
    episodes.reset(np.ones(2), [0, 1], observations)
    rewards, flags = np.zeros(2), np.zeros((2, 2), bool)
    episodes.step(np.zeros((2, *get_family(name).action_space.shape)), observations, rewards, *flags)
    assert rewards.all()
    with pytest.raises(UserError, match=r"frame_skip must be a positive whole number, got 0\.5"):
        get_family(name, frame_skip=0.5).make_env()


class Pictures(TaskFamily):
    """Observes a space that was given."""

    task_space = spaces.Box(0.0, 1.0, (1,))

    def __init__(self, space):
        self.space = space

    def make_env(self, render_mode=None):
        env = gym.Env()
        env.observation_space, env.action_space = self.space, spaces.Discrete(2)
        return env


def test_the_shape_of_an_observation_is_told_if_it_has_one():
    image = spaces.Box(0, 255, (4, 5, 3), np.uint8)
    assert Pictures(image).input_shape == (4, 5, 3)
    assert Pictures(spaces.Dict({"image": image, "speed": spaces.Discrete(2)})).input_shape == (62,)
    assert Pictures(spaces.Discrete(7)).input_shape == (7,)
    assert OracleFamily(Pictures(image)).input_shape == (61,)
