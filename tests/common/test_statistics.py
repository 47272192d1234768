import numpy as np
import pytest

from metarl.common.statistics import aggregate, mean_and_interval, paired_difference, share_made_worse, tasks_in_words


def test_interval_of_five_seeds_is_the_textbook_t_interval():
    # Mean 3, standard deviation sqrt(2.5); the 97.5 % quantile of t with 4 degrees of freedom is 2.776445105.
    estimate = mean_and_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert estimate.mean == pytest.approx(3.0)
    assert estimate.half_width == pytest.approx(2.776445105 * np.sqrt(2.5 / 5), rel=1e-9)
    assert estimate.low == pytest.approx(3.0 - estimate.half_width)
    assert estimate.high == pytest.approx(3.0 + estimate.half_width)


def test_interval_widens_with_confidence():
    values = [1.0, 2.0, 4.0]
    # One-sided 95 % and 97.5 % quantiles of t with 2 degrees of freedom: 2.919985580, 4.302652730.
    ratio = mean_and_interval(values, 0.95).half_width / mean_and_interval(values, 0.9).half_width
    assert ratio == pytest.approx(4.302652730 / 2.919985580, rel=1e-9)


def test_one_seed_has_a_mean_and_no_interval():
    estimate = mean_and_interval([[1.0, 7.0]])
    np.testing.assert_array_equal(estimate.mean, [1.0, 7.0])
    assert estimate.half_width is None
    assert estimate.low is None
    assert estimate.high is None


def test_t_interval_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(size=(5, 20_000))
    estimate = mean_and_interval(draws)
    coverage = np.mean((estimate.low < 0) & (estimate.high > 0))
    assert coverage == pytest.approx(0.95, abs=0.01)
    normal = np.mean(np.abs(estimate.mean) < 1.96 * draws.std(axis=0, ddof=1) / np.sqrt(5))
    assert normal < 0.9  # negative control: the normal quantile covers too seldom


def test_aggregate_takes_the_seed_as_unit_and_not_the_task():
    returns = np.array([[[0.0, 10.0], [2.0, 30.0]], [[4.0, 10.0], [6.0, 30.0]]])
    estimate = aggregate(returns)
    np.testing.assert_allclose(estimate.mean, [3.0, 20.0])
    # Seeds score 1 and 5 at step 0: t_1 = 12.706204736, s = sqrt(8). They agree at step 1, though tasks do not.
    np.testing.assert_allclose(estimate.half_width, [12.706204736 * np.sqrt(8) / np.sqrt(2), 0.0], rtol=1e-9)
    assert estimate.num_seeds == 2


def test_paired_difference_ignores_spread_that_both_share():
    rng = np.random.default_rng(1)
    shared = rng.normal(scale=100.0, size=(5, 40, 3))
    estimate = paired_difference(shared + 2.0, shared)
    np.testing.assert_allclose(estimate.mean, 2.0, atol=1e-9)
    np.testing.assert_allclose(estimate.half_width, 0.0, atol=1e-9)
    assert np.all(aggregate(shared).half_width > 1.0)


def test_share_made_worse_counts_tasks_below_their_own_start():
    returns = [[0.0, 1.0, -1.0], [0.0, 0.0, 5.0], [3.0, 2.0, 4.0], [0.0, 9.0, 9.0]]
    np.testing.assert_array_equal(share_made_worse(returns), [0.0, 0.25, 0.25])


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_and_interval([]), r"at least one seed, got \(0,\)"),
        (lambda: mean_and_interval([1.0], 95), "confidence must lie between 0 and 1, got 95"),
        (lambda: aggregate([[1.0]]), r"shape \(seeds, tasks, steps\), none of them empty, got \(1, 1\)"),
        (lambda: paired_difference(np.ones((2, 3, 4)), np.ones((2, 2, 4))), r"got \(2, 3, 4\) and \(2, 2, 4\)"),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
