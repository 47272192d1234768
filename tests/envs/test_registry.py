"""Families by name: the built-in table, a user's own, and how a family is named again."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from tiny_runs import tiny

from examples.cartpole_family import CartPoleFamily
from metarl import Config, SupervisedFamily, load, train
from metarl.common.errors import UserError
from metarl.common.importing import import_named
from metarl.envs import (
    OracleFamily,
    TaskFamily,
    built_in,
    family_names,
    family_spec,
    family_summaries,
    get_family,
    register,
    registry,
)
from metarl.envs.navigation import NavigationFamily

IDS = [row for row in built_in.BUILT_IN if row.environment is not None]
CARTPOLE = "examples.cartpole_family:CartPoleFamily"


class Outer:
    class Length(CartPoleFamily):
        """Cart-poles in a class.

        What comes after the first line is no summary.
        """

        def __init__(self, longest=1.5):
            self.task_space = spaces.Box(0.25, longest, (), np.float64)


@pytest.fixture
def registered():
    """Undoes a test's registrations."""
    before = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)


def test_every_row_is_a_family_with_a_sentence():
    assert [row.name for row in built_in.BUILT_IN] == family_names()
    summaries = family_summaries()
    for row in built_in.BUILT_IN:
        assert summaries[row.name] == row.summary
        assert row.summary.endswith(".")
        assert isinstance(get_family(row.name), import_named(row.family, "family"))
    assert len(set(summaries.values())) == len(summaries)


@pytest.mark.parametrize("row", IDS, ids=lambda row: row.name)
def test_a_rows_environment_is_its_familys(row):
    spec = gym.spec(f"metarl/{row.environment.name}-v0")
    family = import_named(row.family, "family")
    if row.environment.spec is None:
        assert type(gym.make(spec).unwrapped.family) is family
    else:
        assert import_named(spec.entry_point, "entry point") is family.env_class
    assert spec.max_episode_steps == get_family(row.name).horizon


@pytest.mark.parametrize("row", IDS, ids=lambda row: row.name)
def test_specs_can_be_saved_as_json(row):
    spec = gym.spec(f"metarl/{row.environment.name}-v0")
    assert gym.envs.registration.EnvSpec.from_json(spec.to_json()) == spec


def test_parameters_reach_a_vector_environment():
    envs = gym.make_vec("metarl/Navigation-v0", 2, max_episode_steps=3, goal_bound=2.0)
    envs.reset(seed=0)
    truncated = [envs.step(np.zeros((2, 2)))[3].tolist() for _ in range(3)]
    assert truncated == [[False, False], [False, False], [True, True]]
    with pytest.raises(UserError, match=r"goal_bound must be a positive number, got -1\."):
        gym.make_vec("metarl/Navigation-v0", 2, goal_bound=-1)


def test_there_are_no_other_vector_entry_points():
    with pytest.raises(UserError, match="has no 'NavigationB'"):
        import_named("metarl.envs.vector:NavigationB", "entry point")


def test_a_summary_is_given_or_else_the_docstrings_first_line(registered):
    register(Outer.Length, "poles")
    register(Outer.Length, "short", "Short cart-poles.", longest=0.5)
    register(CARTPOLE, "imported")
    register("no_such_module:Family", "absent")
    register(lambda: CartPoleFamily(), "silent")
    summaries = family_summaries()
    assert summaries["poles"] == "Cart-poles in a class."
    assert summaries["short"] == "Short cart-poles."
    assert summaries["imported"] == CartPoleFamily.__doc__.partition("\n")[0]
    assert summaries["absent"].startswith("there is no module 'no_such_module'")
    assert summaries["silent"] == ""


@pytest.mark.parametrize(
    ("family", "spec"),
    [
        ("navigation-b", ("navigation-b", {})),
        (CARTPOLE, (CARTPOLE, {})),
        (CartPoleFamily, (CARTPOLE, {})),
        (Outer.Length, (f"{__name__}:Outer.Length", {})),
        (NavigationFamily, ("navigation", {})),
        (get_family("navigation-c", horizon=7), ("navigation-c", {"horizon": 7})),
        (get_family(CartPoleFamily), (CARTPOLE, {})),
        (get_family(Outer.Length, longest=0.5), (f"{__name__}:Outer.Length", {"longest": 0.5})),
        (pickle.loads(pickle.dumps(get_family("bandit", num_arms=3))), ("bandit", {"num_arms": 3})),
    ],
)
def test_a_family_is_named_so_that_it_can_be_made_again(family, spec):
    assert family_spec(family) == spec
    name, kwargs = spec
    again = get_family(name, **kwargs)
    assert again.name == name
    assert family_spec(again) == spec
    assert again.task_space == get_family(family).task_space


def test_a_class_that_is_registered_with_arguments_is_not_that_name(registered):
    register(CartPoleFamily, "short poles", longest=0.5)
    assert family_spec(CartPoleFamily).name == CARTPOLE
    register(CartPoleFamily, "poles")
    assert family_spec(CartPoleFamily).name == "poles"


def test_a_made_family_is_made_again_with_other_arguments():
    family = get_family("navigation-d", horizon=7, goal_bound=3.0)
    again = get_family(family, horizon=8)
    assert (again.name, again.horizon, again.spec.kwargs) == ("navigation-d", 8, {"horizon": 8, "goal_bound": 3.0})
    assert again.task_space == family.task_space
    assert family.spec.kwargs["horizon"] == 7


def _local():
    class Local(CartPoleFamily):
        pass

    return Local


def _main():
    return type("Main", (CartPoleFamily,), {"__module__": "__main__"})


def _shadowed():
    return type("CartPoleFamily", (CartPoleFamily,), {"__module__": CartPoleFamily.__module__})


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (_local(), r"class _local.<locals>.Local is defined in a function .* save it at the top level of a module\.$"),
        (_main(), r"class Main is defined in the program that is running .* save it at the top level of a module\.$"),
        (_shadowed(), r"importing .*:CartPoleFamily gives another object than this class"),
        (CartPoleFamily(), r"this CartPoleFamily was not made by get_family, .* its class and, as env_kwargs, its arg"),
        (OracleFamily(get_family("navigation")), r"this OracleFamily was not made by get_family"),
        (7, r"give a task family as a name, a subclass of metarl.TaskFamily or a family, got 7\.$"),
        (gym.Env, r"give a task family as a name, a subclass of metarl.TaskFamily or a family, got <class"),
    ],
)
def test_what_cannot_be_named_again_is_refused(family, message):
    for use in (family_spec, get_family):
        with pytest.raises(UserError, match=message):
            use(family)


def test_a_class_in_a_function_may_be_named_by_registering_it(registered):
    local = _local()
    register(local, "local")
    assert family_spec(local) == ("local", {})
    assert isinstance(get_family(local), local)


def test_an_abstract_family_is_refused():
    with pytest.raises(UserError, match=r"TaskFamily cannot be made with these arguments: TypeError: .*abstract"):
        get_family(TaskFamily)


class Named(CartPoleFamily):
    """A family with a parameter that metarl's own attribute would hide."""

    def __init__(self, name="easy"):
        self.name = name


class Popping(CartPoleFamily):
    """A family that changes its arguments."""

    def __init__(self, options=None, names=()):
        self.noise = (options or {}).pop("noise", 0.0)
        self.last = names.pop() if names else None


def test_an_attribute_that_would_be_overwritten_is_told():
    with pytest.raises(UserError, match=r"the constructor of .*:Named sets self.name, which metarl sets"):
        get_family(Named, name="hard")


def test_a_family_cannot_change_what_the_next_one_is_made_with():
    given = {"options": {"noise": 5.0}, "names": ["a", "b"]}
    config = Config(env=Popping, env_kwargs=given, algo="maml")
    for _ in range(2):
        made = get_family(Popping, **config.env_kwargs)
        assert (made.noise, made.last) == (5.0, "b")
    assert config.to_dict()["env_kwargs"] == given == {"options": {"noise": 5.0}, "names": ["a", "b"]}


def test_a_run_keeps_the_arguments_that_its_name_was_registered_with(registered, tmp_path):
    register(Outer.Length, "lengths", longest=1.0)
    config = tiny(tmp_path / "run", env="lengths", iterations=1, validate_every=0)
    assert train(config).agent.family.task_space.high == 1.0
    register(Outer.Length, "lengths", replace=True, longest=2.0)
    assert load(tmp_path / "run").family.task_space.high == 1.0
    with pytest.raises(UserError, match=r"was run with env_kwargs.longest 1.0, not 2.0; resume"):
        train(tiny(tmp_path / "run", env="lengths", iterations=2, validate_every=0, resume=True))
    # What JSON cannot hold applies when the family is made.
    register(lambda longest: Outer.Length(longest()), "called", longest=lambda: 3.0)
    assert Config(env="called", algo="maml").env_kwargs == {}
    assert get_family("called").task_space.high == 3.0


def test_a_family_that_was_changed_after_it_was_made_is_told():
    family = get_family(CARTPOLE)
    assert family.observation_space.shape == (4,)  # Remembered by the family, which is no change.
    assert Config(env=family, algo="maml").env == CARTPOLE
    navigation = get_family("navigation")
    for changed, name in ((family, ".*CartPoleFamily"), (navigation, "navigation")):
        changed.horizon = 7
        with pytest.raises(UserError, match=rf"horizon of this {name} was changed after it was made"):
            Config(env=changed, algo="maml")


def test_what_a_family_lacks_is_told_when_it_is_made():
    class Spaceless(NavigationFamily):
        task_space = None

    class Inputless(SupervisedFamily):
        task_space = spaces.Box(0.0, 1.0)

        def draw(self, task, n, rng):
            return np.zeros((n, 1)), np.zeros((n, 1))

    for family, lacking in ((Spaceless, "task_space"), (Inputless, "num_inputs")):
        register(family, "lacking", replace=True)
        try:
            with pytest.raises(UserError, match=f"lacking has no {lacking}; set it, such as {lacking} = "):
                get_family("lacking")
        finally:
            registry.unregister("lacking")
