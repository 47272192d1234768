from dataclasses import replace

import numpy as np
import pytest

from metarl.common.words import counted
from metarl.reports.tables import evaluation_table
from metarl.reports.wording import engineering, estimates_text, number_text, tasks_in_words
from metarl.store.reference import reference_names
from metarl.store.runs import read_run


def test_one_thing_alone_is_singular():
    assert [counted(number, "step") for number in range(3)] == ["0 steps", "1 step", "2 steps"]
    mixed = "gradient step or episode"
    assert [counted(number, mixed) for number in (1, 2)] == [f"1 {mixed}", "2 gradient steps or episodes"]


@pytest.mark.parametrize(
    ("changes", "data", "dropped"),
    [
        ({"rollouts": 1, "dropped_episodes": 1}, ", 1 episode, checkpoint", "1 episode was dropped"),
        ({"rollouts": 5, "dropped_episodes": 2}, ", 5 episodes, checkpoint", "2 episodes were dropped"),
        ({"rollouts": 5, "step_name": "episode"}, ", 5 trials, checkpoint", ""),
        ({"rollouts": 1, "shots": 1}, ", 1 shot, measured on 1 example, checkpoint", ""),
    ],
)
def test_a_table_counts_what_the_evaluation_has(changes, data, dropped):
    result = replace(read_run(f"reference:{reference_names()[0]}").evaluated(), **changes)
    assert data in evaluation_table(result).splitlines()[0]
    assert dropped in evaluation_table(result).splitlines()[-1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.12345, "0.123"),
        (999.4, "999"),
        (999.6, "1 k"),
        (-999_600, "-1 M"),
        (32e6, "32 M"),
        (999_999_999, "1 G"),
    ],
)
def test_a_number_is_rounded_before_its_unit_is_chosen(value, text):
    assert engineering(value) == text


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (-33.96, "", "-33.96"),
        (1234.5, "", "1234.50"),
        (0.5, "+", "+0.50"),
        (-0.004, "", "0.00"),
        (-0.004, "+", "+0.00"),
        (float("nan"), "", "-"),
        (float("nan"), "+", "-"),
        (-3.3e27, "", "-3.3e+27"),
    ],
)
def test_a_number_has_its_decimals_and_no_number_is_a_dash(value, sign, text):
    assert number_text(value, 2, sign) == text


def test_an_estimate_has_an_interval_where_there_is_one():
    means, widths = np.array([1.0, np.nan, 2.0]), np.array([0.5, np.nan, np.nan])
    assert estimates_text(means, widths, 1) == ["1.0 +-0.5", "-", "2.0"]
    assert estimates_text(means, None, 1, "+") == ["+1.0", "-", "+2.0"]


@pytest.mark.parametrize(
    ("tasks", "finite", "expected"),
    [
        ([[0.1, 0.2], [0.3, 0.4]], False, "2 held-out tasks"),
        ([[0.1, 0.2]], False, "1 held-out task"),
        ([{"a": 1}, {"a": 2}, {"a": 1}], False, "2 held-out tasks, 1 to 2 repeats each"),
        ([-1.0, 1.0, 1.0, -1.0], True, "2 tasks (none held out), 2 repeats each"),
        ([-1.0, 1.0, 1.0], True, "2 tasks (none held out), 1 to 2 repeats each"),
        ([[0], [1], [2]], True, "3 tasks (none held out), 1 repeat each"),
        ([{"a": 1, "b": [2, 3]}, {"b": [2, 3], "a": 1}], True, "1 task (none held out), 2 repeats each"),
        ([3], True, "1 task (none held out), 1 repeat each"),
    ],
)
def test_tasks_are_called_held_out_only_where_they_are(tasks, finite, expected):
    assert tasks_in_words(tasks, finite) == expected
