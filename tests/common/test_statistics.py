import numpy as np
import pytest
from scipy import stats

from metarl.common import statistics
from metarl.common.statistics import (
    MIN_SEEDS_FOR_BOOTSTRAP,
    aggregate,
    bootstrap_interval,
    holm,
    interquartile_mean,
    made_worse,
    mean_and_interval,
    paired_difference,
    paired_p_values,
    probability_of_improvement,
    share_made_worse,
    share_of_gap,
)


def test_interval_of_five_seeds_is_the_textbook_t_interval():
    # Mean 3, standard deviation sqrt(2.5); the 97.5 % quantile of t with 4 degrees of freedom is 2.776445105.
    estimate = mean_and_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert estimate.mean == pytest.approx(3.0)
    assert estimate.half_width == pytest.approx(2.776445105 * np.sqrt(2.5 / 5), rel=1e-9)
    assert estimate.low == pytest.approx(3.0 - estimate.half_width)
    assert estimate.high == pytest.approx(3.0 + estimate.half_width)


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


def test_paired_difference_ignores_spread_that_both_share():
    rng = np.random.default_rng(1)
    shared = rng.normal(scale=100.0, size=(5, 40, 3))
    estimate = paired_difference(shared + 2.0, shared)
    np.testing.assert_allclose(estimate.mean, 2.0, atol=1e-9)
    np.testing.assert_allclose(estimate.half_width, 0.0, atol=1e-9)
    assert np.all(aggregate(shared).half_width > 1.0)


def test_p_values_are_those_of_the_paired_t_test_over_seeds():
    first, second = np.random.default_rng(2).normal(size=(2, 5, 7, 3))
    expected = stats.ttest_rel(first.mean(1), second.mean(1)).pvalue
    np.testing.assert_allclose(paired_p_values(first, second), expected, rtol=1e-10)
    cells = stats.ttest_rel(first.reshape(-1, 3), second.reshape(-1, 3)).pvalue
    assert np.abs(paired_p_values(first, second) - cells).max() > 0.01  # negative control: tasks are no replications


def test_p_values_without_spread():
    same = np.zeros((5, 2, 1))
    assert paired_p_values(same, same) == [1.0]
    assert paired_p_values(same + 1.0, same) == [0.0]


def test_a_seed_that_has_diverged_leaves_no_p_value():
    first, second = np.random.default_rng(2).normal(size=(2, 5, 7, 3))
    first[1, 2, 1], first[3, 0, 2] = np.nan, -np.inf
    assert np.isfinite(paired_p_values(first, second)).tolist() == [True, False, False]


def test_a_task_that_has_diverged_is_made_worse():
    returns = [[1.0, 2.0, np.nan], [1.0, -np.inf, 0.0], [1.0, 2.0, 3.0], [np.nan, 1.0, np.nan]]
    np.testing.assert_allclose(share_made_worse(returns), [0, 1 / 4, 2 / 4])


def test_p_values_of_chance_are_below_a_level_as_often_as_it_says():
    draws = np.random.default_rng(3).normal(size=(2, 5, 1, 20_000))
    assert np.mean(paired_p_values(*draws) < 0.05) == pytest.approx(0.05, abs=0.005)


def test_holms_adjustment():
    # By hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which is raised to the one before.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.6]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.03]), [0.03])


def test_holm_makes_a_false_finding_in_a_table_as_rare_as_in_one_comparison():
    tables = np.random.default_rng(4).uniform(size=(4000, 6))
    found = np.mean([holm(table).min() < 0.05 for table in tables])
    assert found == pytest.approx(0.05, abs=0.012)
    assert np.mean(tables.min(1) < 0.05) > 0.2  # negative control: without adjustment


@pytest.mark.parametrize("shape", [(5, 40, 3), (3, 7, 2), (1, 2, 1)])
def test_interquartile_mean_is_the_mean_without_the_outer_quarters(shape):
    returns = np.random.default_rng(5).standard_cauchy(shape)
    expected = stats.trim_mean(returns.reshape(-1, shape[2]), 0.25, axis=0)
    np.testing.assert_allclose(interquartile_mean(returns), expected)


def test_probability_of_improvement_is_mann_whitneys_statistic_over_the_pairs():
    rng = np.random.default_rng(6)
    first, second = rng.integers(6, size=(5, 8, 2)), rng.integers(6, size=(4, 8, 2))  # With ties.
    by_task = [
        [stats.mannwhitneyu(first[:, task, step], second[:, task, step]).statistic / 20 for task in range(8)]
        for step in range(2)
    ]
    np.testing.assert_allclose(probability_of_improvement(first, second), np.mean(by_task, axis=1))
    np.testing.assert_allclose(probability_of_improvement(second, first), 1 - np.mean(by_task, axis=1))


def test_interquartile_mean_by_hand():
    # Agarwal et al. 2021: of the runs of all tasks together, leave out the lowest and the highest quarter, and take the
    # mean of the rest. Two seeds x four tasks are 8 runs, of which the middle 4 count. First step, sorted:
    # -100, 0 | 1, 2, 5, 8 | 9, 1000: (1 + 2 + 5 + 8) / 4 = 4. (Median 3.5, mean 115.625.)
    first = [[5.0, -100.0, 9.0, 2.0], [1000.0, 1.0, 8.0, 0.0]]
    # Second step: 0, 0 | 0, 0, 0, 8 | 8, 8: 8 / 4 = 2. (Median 0, mean 3. The mean over tasks of each task's own
    # middle half, which with two seeds leaves out nothing, would be 3 as well.)
    second = [[8.0, 0.0, 0.0, 8.0], [0.0, 0.0, 8.0, 0.0]]
    np.testing.assert_array_equal(interquartile_mean(np.stack([first, second], axis=-1)), [4.0, 2.0])


def test_probability_of_improvement_by_hand():
    # Agarwal et al. 2021: the mean over tasks of P(X > Y), which is the mean of S(x, y) over all pairs of a run x of
    # one algorithm and a run y of the other, with S = 1 if x > y, 1/2 if x = y, 0 if x < y.
    # Task 1: x = 1, 3, 5 and y = 2, 3: 1 beats none, 3 beats 2 and ties with 3, 5 beats both: (0 + 1.5 + 2) / 6.
    # Task 2: x = 0, 0, 7 and y = 1, 1: only 7 beats both: 2 / 6, though the mean of x, 7 / 3, is the larger one.
    first = [[[1.0], [0.0]], [[3.0], [0.0]], [[5.0], [7.0]]]
    second = [[[2.0], [1.0]], [[3.0], [1.0]]]
    np.testing.assert_allclose(probability_of_improvement(first, second), [(3.5 / 6 + 2 / 6) / 2])


def test_bootstrap_draws_whole_seeds_and_covers_too_seldom_with_five(monkeypatch):
    def coverage(seeds, tasks_per_seed):
        # Columns are independent repetitions; all tasks of a seed share its deviation from 0.
        returns = np.random.default_rng(7).normal(size=(seeds, 1, 1000)).repeat(tasks_per_seed, axis=1)
        low, high = bootstrap_interval(lambda values: values.mean((0, 1)), returns)
        return np.mean((low < 0) & (high > 0))

    monkeypatch.setattr(statistics, "_RESAMPLES", 400)
    assert coverage(MIN_SEEDS_FOR_BOOTSTRAP, 4) == pytest.approx(0.9, abs=0.03)
    assert bootstrap_interval(interquartile_mean, np.zeros((9, 2, 1))) is None
    monkeypatch.setattr(statistics, "MIN_SEEDS_FOR_BOOTSTRAP", 1)
    assert coverage(5, 4) == pytest.approx(0.82, abs=0.03)


def test_bootstrap_draws_the_seeds_of_two_algorithms_together():
    shared = np.random.default_rng(8).normal(scale=100.0, size=(10, 4, 2))
    low, high = bootstrap_interval(lambda one, other: (one - other).mean((0, 1)), shared + 1.0, shared)
    np.testing.assert_allclose([low, high], 1.0)


def test_share_of_the_gap_is_0_at_the_bottom_and_1_at_the_top():
    np.testing.assert_allclose(share_of_gap([-38.0, -0.5, -19.25, -75.5], -38.0, -0.5), [0.0, 1.0, 0.5, -1.0])


def test_a_drop_within_rounding_makes_no_task_worse():
    np.testing.assert_array_equal(made_worse([[-40.0, -40.00001, -40.001], [0.0, 0.0, -1e-9]]), [[0, 0, 1], [0, 0, 1]])


def test_share_made_worse_counts_tasks_below_their_own_start():
    returns = [[0.0, 1.0, -1.0], [0.0, 0.0, 5.0], [3.0, 2.0, 4.0], [0.0, 9.0, 9.0]]
    np.testing.assert_array_equal(share_made_worse(returns), [0.0, 0.25, 0.25])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_and_interval([]), r"at least one seed, got \(0,\)"),
        (lambda: aggregate([[1.0]]), r"shape \(seeds, tasks, steps\), none of them empty, got \(1, 1\)"),
        (lambda: paired_p_values(np.ones((1, 3, 4)), np.ones((1, 3, 4))), "at least two seeds, got 1"),
        (
            lambda: probability_of_improvement(np.ones((2, 3, 4)), np.ones((2, 2, 4))),
            r"same tasks and steps, got \(2, 3, 4\) and \(2, 2, 4\)",
        ),
        (lambda: paired_difference(np.ones((2, 3, 4)), np.ones((2, 2, 4))), r"got \(2, 3, 4\) and \(2, 2, 4\)"),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_has_diverged_is_the_worst():
    finite, diverged = np.zeros((2, 2, 1)), np.zeros((2, 2, 1))
    diverged[0, 0] = np.nan
    np.testing.assert_allclose(probability_of_improvement(finite, diverged), [0.625])
    np.testing.assert_allclose(probability_of_improvement(diverged, finite), [0.375])
    np.testing.assert_allclose(probability_of_improvement(diverged, diverged), [0.5])
