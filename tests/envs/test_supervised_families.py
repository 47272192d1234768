"""Supervised families: their functions, splits and examples."""

import numpy as np
import pytest
from thirds import Thirds

import metarl
from examples.line_family import LineFamily
from metarl import UserError, check_task_family, get_family
from metarl.envs.supervised import Examples


def draw(name, split="train", n=2000, **arguments):
    family = get_family(name, **arguments)
    return family, family.sample_tasks(n, np.random.default_rng(0), split)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("sinusoid", (0.1, 1, 0), (5, 1, np.pi)), ("sinusoid-l2f", (0.1, 0.8, 0), (5, 1.2, np.pi))],
)
def test_sinusoids_have_the_papers_ranges(name, low, high):
    family, tasks = draw(name)
    assert (tasks >= low).all()
    assert (tasks <= high).all()
    spread = np.ptp(tasks, axis=0)
    assert (spread >= 0.98 * np.subtract(high, low)).all()
    support, query = family.draw_sets(tasks[0], 5, 7, np.random.default_rng(1))
    amplitude, frequency, phase = tasks[0]
    for examples, count in ((support, 5), (query, 7)):
        assert examples.inputs.shape == examples.targets.shape == (count, 1)
        np.testing.assert_allclose(
            examples.targets, amplitude * np.sin(frequency * examples.inputs + phase), rtol=1e-4, atol=1e-5
        )


def test_shifted_sinusoids_are_tested_where_training_never_was():
    family, test = draw("sinusoid-l2f", "test", shifted=True)
    assert (test.min(0) >= [3, 1, np.pi / 2]).all()
    assert all(map(family.task_space.contains, test))
    for split in ("train", "validation"):  # What chooses the best agent must not know of the tests either.
        assert (draw("sinusoid-l2f", split, shifted=True)[1].max(0) <= [3, 1, np.pi / 2]).all()


@pytest.mark.parametrize("kinds", [2, 3, 5])
def test_multimodal_functions_are_equally_likely_and_told_apart(kinds):
    family, tasks = draw(f"regression-{kinds}")
    modes = family.modes(tasks)
    assert family.num_modes == kinds
    assert (np.bincount(modes, minlength=kinds) > 0.8 * len(tasks) / kinds).all()
    assert all(map(family.task_space.contains, tasks))
    x = np.array([[-1.0], [2.0]])
    expected = {
        0: lambda a, w, b: a * np.sin(w * x + b),
        1: lambda a, b, _: a * x + b,
        2: lambda a, c, b: a * (x - c) ** 2 + b,
        3: lambda a, c, b: a * np.tanh(x - c) + b,
        4: lambda a, c, b: a * abs(x - c) + b,
    }
    for mode in range(kinds):
        task = tasks[modes == mode][0]
        np.testing.assert_allclose(family.function(task, x), expected[mode](*task[1:]))
    if kinds > 2:
        curvatures = tasks[modes == 2][:, 1]
        assert ((abs(curvatures) >= 0.02) & (abs(curvatures) <= 0.15)).all()
        assert 0.4 < (curvatures > 0).mean() < 0.6


def test_multimodal_targets_have_noise():
    family, tasks = draw("regression-2")
    _, query = family.draw_sets(tasks[0], 5, 5000, np.random.default_rng(1))
    errors = query.targets - family.function(tasks[0], query.inputs)
    assert errors.std() == pytest.approx(0.3, rel=0.05)
    assert abs(errors.mean()) < 0.02


def test_released_sinusoids_have_one_frequency():
    family, tasks = draw("regression-2", released=True)
    sinusoids = tasks[family.modes(tasks) == 0]
    assert (sinusoids[:, 2] == 1).all()
    assert sinusoids[:, 3].max() <= np.pi


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("sinusoid", {"lowest_frequency": 2.0}, "lowest_frequency must be at most highest_frequency, got 2.0 and 1.0"),
        ("sinusoid", {"highest_frequency": np.inf}, "highest_frequency must be a positive number, got inf"),
        ("sinusoid", {"shifted": "False"}, "shifted must be True or False .1 or 0., got 'False'"),
        ("regression-2", {"kinds": 6}, "kinds must be a whole number from 2 to 5, got 6"),
        ("regression-2", {"kinds": 2.5}, "kinds must be a whole number from 2 to 5, got 2.5"),
        ("regression-2", {"noise": -1.0}, "noise must be a number, 0 or greater, got -1.0"),
        ("regression-2", {"released": "no"}, "released must be True or False .1 or 0., got 'no'"),
    ],
)
def test_impossible_arguments_are_refused(name, arguments, message):
    with pytest.raises(UserError, match=message):
        get_family(name, **arguments)


def test_the_worked_example_passes_the_check():
    check_task_family(LineFamily())


class Broken(LineFamily):
    """Does what ``fault`` says."""

    fault = ""

    def draw(self, task, n, rng):
        x, y = super().draw(task, n, rng)
        if self.fault == "shape":
            return x[:, 0], y
        if self.fault == "nan":
            return x, y * np.nan
        if self.fault == "unseeded":
            return super().draw(task, n, np.random.default_rng())
        if self.fault == "constant":
            return super().draw(task, n, np.random.default_rng(0))
        if self.fault == "lost":
            return x, x
        return x, y


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shape", r"inputs of Broken must have shape \(8, 1\), got \(8,\)"),
        ("nan", "targets of Broken must be finite numbers"),
        ("unseeded", "draw is not reproducible"),
        ("constant", "two draws gave the same examples"),
        ("lost", "different tasks gave the same examples"),
    ],
)
def test_a_broken_family_is_told_what_is_wrong(fault, message):
    family = Broken()
    family.fault = fault
    with pytest.raises(UserError, match=message):
        check_task_family(family)


class Unlike(LineFamily):
    """Draws its sets itself, in double precision, and wrongly if ``wrong``."""

    wrong, always = False, None

    def draw_sets(self, task, shots, queries, rng):
        return tuple(Examples(*self._drawn(task, self.always or n, rng)) for n in (shots, queries))

    def _drawn(self, task, n, rng):
        x = rng.uniform(-1, 1, (n, 1))
        return x, (task * x)[:, 0] if self.wrong else task * x


def test_sets_of_ones_own_are_converted_or_refused(tmp_path):
    family = Unlike()
    check_task_family(family)
    run = metarl.train(metarl.Config(env=Unlike, algo="maml", iterations=1, validate_every=0, run_dir=tmp_path))
    assert np.isfinite(run.progress["post_adaptation_error"]).all()
    family.always = 5
    with pytest.raises(UserError, match="draw_sets gives no more examples where it is asked for more"):
        check_task_family(family)
    family.wrong, family.always = True, None
    with pytest.raises(UserError, match=r"targets of Unlike must have shape \(3, 1\), got \(3,\)"):
        check_task_family(family)


def test_classes_are_measured_by_accuracy():
    assert (LineFamily().measure, Thirds().measure) == ("error", "accuracy")
    check_task_family(Thirds())


def test_an_instance_may_say_that_its_targets_are_classes():
    class Chosen(Thirds):
        classes = False

        def __init__(self, classes):
            self.classes = classes

    assert [(family.measure, family.sign) for family in map(Chosen, (False, True))] == [("error", -1), ("accuracy", 1)]


def test_classes_are_whole_numbers():
    with pytest.raises(UserError, match="targets of Thirds must be classes, whole numbers counted from 0"):
        Thirds().checked(np.zeros((2, 1)), [1.0, 0.9], 2)
    assert Thirds().checked(np.zeros((2, 1)), [1.0, 0.0], 2).targets.tolist() == [1, 0]


def test_classes_out_of_range_are_refused():
    class TooMany(Thirds):
        num_outputs = 2

    with pytest.raises(UserError, match="classes of TooMany must lie between 0 and 1"):
        TooMany().draw_sets(0.5, 50, 1, np.random.default_rng(0))
