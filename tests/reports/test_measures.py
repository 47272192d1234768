"""What an analysis measures, against answers that are known."""

import math

import numpy as np
import pytest

from metarl.common.statistics import mean_and_interval
from metarl.reports.measures import (
    RIDGES,
    along_step,
    angles_to_sum,
    best_on_the_other_half,
    leave_one_out_r2,
    linear_cka,
    mean_cca,
    mean_of_finite,
    over_tasks,
    principal_components,
    returns_over_tasks,
    unrelated_angle,
    with_interval,
)

ROWS = 4000
SUMMARIES = ("mean", "median", "std", "min", "max")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def representation(rng):
    """Six correlated features that are not centred, [row, feature]."""
    return rng.normal(size=(ROWS, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=6)


def orthogonal(rng, size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def test_angles_of_equal_directions_are_zero_whatever_their_lengths():
    np.testing.assert_allclose(angles_to_sum([[1.0, 2.0], [2.0, 4.0], [0.5, 1.0]]), 0, atol=1e-15)


def test_angles_of_two_orthogonal_vectors_are_those_of_a_triangle():
    np.testing.assert_allclose(angles_to_sum([[3.0, 0.0], [0.0, 4.0]]), [math.atan2(4, 3), math.atan2(3, 4)])


@pytest.mark.parametrize("count", [2, 5, 20])
def test_unrelated_angle_is_that_of_orthogonal_vectors_of_one_length(rng, count):
    np.testing.assert_allclose(angles_to_sum(orthogonal(rng, count)), unrelated_angle(count))
    random = angles_to_sum(rng.normal(size=(count, 100_000)))
    np.testing.assert_allclose(random, unrelated_angle(count), atol=0.02)


def test_an_angle_can_be_right_or_obtuse():
    angles = angles_to_sum([[2.0, 0.0], [0.0, 1.0], [0.0, -1.0], [-1.0, 0.0]])
    np.testing.assert_allclose(angles, [0, math.pi / 2, math.pi / 2, math.pi])


def test_small_angles_are_precise():
    small = 1e-9
    np.testing.assert_allclose(angles_to_sum([[1, small], [1, -small]]), small, rtol=1e-6)


def test_angles_that_are_not_defined_are_nan():
    np.testing.assert_array_equal(np.isnan(angles_to_sum([[0.0, 0.0], [1.0, 1.0]])), [True, False])
    assert np.isnan(angles_to_sum([[1.0, 0.1], [-1.0, -0.1]])).all()
    assert np.isnan(angles_to_sum([[1.0, 0.0]])).all()


@pytest.mark.parametrize("similarity", [linear_cka, mean_cca])
def test_a_representation_is_similar_to_itself(representation, similarity):
    assert similarity(representation, representation) == pytest.approx(1, abs=1e-12)


def test_cka_does_not_change_under_orthogonal_maps_scaling_and_shifts(rng, representation):
    other = np.tanh(representation[:, :4])
    mapped = 3 * representation @ orthogonal(rng, 6) + 5
    assert linear_cka(mapped, other) == pytest.approx(linear_cka(representation, other), abs=1e-12)
    assert linear_cka(representation @ rng.normal(size=(6, 6)), representation) < 0.9


def test_cca_of_all_directions_does_not_change_under_invertible_maps(rng, representation):
    other = np.tanh(representation)
    mapped = representation @ (rng.normal(size=(6, 6)) + 2 * np.eye(6)) + 5
    expected = mean_cca(representation, other, variance=1)
    assert 0.5 < expected < 0.999
    assert mean_cca(mapped, other, variance=1) == pytest.approx(expected, abs=1e-9)
    assert linear_cka(mapped, other) != pytest.approx(linear_cka(representation, other), abs=1e-3)


def test_cka_is_the_ratio_of_kernel_alignments(rng):
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 5))
    centre = np.eye(30) - 1 / 30
    kernels = [centre @ values @ values.T @ centre for values in (x, y)]
    expected = (kernels[0] * kernels[1]).sum() / math.prod(np.linalg.norm(kernel) for kernel in kernels)
    assert linear_cka(x, y) == pytest.approx(expected)


def test_cca_of_one_feature_each_is_the_absolute_correlation(rng):
    x = rng.normal(size=200)
    y = rng.normal(size=200) - 0.5 * x
    assert mean_cca(x[:, None], y[:, None]) == pytest.approx(abs(np.corrcoef(x, y)[0, 1]))


@pytest.mark.parametrize("similarity", [linear_cka, mean_cca])
def test_independent_representations_are_not_similar(rng, similarity):
    assert similarity(rng.normal(size=(ROWS, 6)), rng.normal(size=(ROWS, 4))) < 0.05


def test_cca_ignores_directions_of_hardly_any_variance(rng, representation):
    noisy = [np.hstack([representation, 1e-3 * rng.normal(size=(ROWS, 20))]) for _ in range(2)]
    assert mean_cca(*noisy) > 0.999
    assert mean_cca(*noisy, variance=1) < 0.5


@pytest.mark.parametrize("similarity", [linear_cka, mean_cca])
def test_a_constant_representation_has_no_similarity(representation, similarity):
    assert math.isnan(similarity(representation, np.full((ROWS, 2), 0.1)))


def test_similarities_refuse_other_rows_and_impossible_shares(representation):
    for similarity in (linear_cka, mean_cca):
        with pytest.raises(ValueError, match=r"equal rows, got \(4000, 6\) and \(10, 6\)"):
            similarity(representation, representation[:10])
    with pytest.raises(ValueError, match="variance must lie"):
        mean_cca(representation, representation, variance=0)


def quadratic(hessian, slope):
    return lambda x: float(0.5 * x @ hessian @ x + slope @ x), lambda x: hessian @ x + slope


def test_smoothness_of_a_quadratic_along_an_eigenvector_is_its_curvature(rng):
    axes, curvatures, slope = orthogonal(rng, 3), np.array([0.5, 2.0, 7.0]), rng.normal(size=3)
    loss, gradient = quadratic(axes @ np.diag(curvatures) @ axes.T, slope)
    start, fractions = rng.normal(size=3), (0.5, 1.0, 3.0)
    for axis, curvature in zip(axes.T, curvatures, strict=True):
        line = along_step(loss, gradient, start, 0.1 * axis, fractions)
        assert line.smoothness == pytest.approx(curvature)
        np.testing.assert_allclose(line.gradient_change, [0.1 * t * curvature for t in fractions])
        expected = [0.1 * t * gradient(start) @ axis + 0.5 * curvature * (0.1 * t) ** 2 for t in fractions]
        np.testing.assert_allclose(line.loss_change, expected)
    mixed = along_step(loss, gradient, start, axes.sum(1), fractions).smoothness
    assert mixed == pytest.approx(np.linalg.norm(curvatures) / math.sqrt(3))


def test_smoothness_is_that_of_the_least_smooth_point():
    def gradient(x):
        return np.maximum(x - 1, 0) * 10

    line = along_step(lambda x: 0.0, gradient, np.zeros(1), np.ones(1), (0.5, 1.0, 2.0))
    np.testing.assert_allclose(line.gradient_change, [0, 0, 10])
    assert line.smoothness == pytest.approx(5)


def test_a_step_of_no_length_has_no_smoothness():
    line = along_step(*quadratic(np.eye(2), np.ones(2)), np.ones(2), np.zeros(2), (1.0, 2.0))
    np.testing.assert_array_equal(line.loss_change, [0, 0])
    assert math.isnan(line.smoothness)


def test_principal_components_find_the_directions_of_variance(rng):
    hidden = rng.normal(size=(500, 2)) * [5, 1]
    hidden -= hidden.mean(0)
    axes = orthogonal(rng, 4)[:2]
    coordinates, shares = principal_components(hidden @ axes + 3)
    sizes, expected = np.linalg.svd(hidden, full_matrices=False)[1:]
    np.testing.assert_allclose(np.abs(coordinates), np.abs(hidden @ expected.T), atol=1e-9)
    np.testing.assert_allclose(shares, sizes**2 / (sizes**2).sum())
    assert (coordinates.max(0) >= -coordinates.min(0)).all()


def test_directions_that_there_are_not_have_no_extent(rng):
    coordinates, shares = principal_components(rng.normal(size=(5, 1)))
    np.testing.assert_array_equal(coordinates[:, 1], 0)
    np.testing.assert_allclose(shares, [1, 0])
    np.testing.assert_array_equal(principal_components(np.ones((5, 3)))[1], 0)


def test_summaries_leave_out_what_is_not_defined():
    found = over_tasks([[1.0, np.nan], [3.0, np.nan], [np.inf, np.nan]])
    first = {name: getattr(found, name)[0] for name in SUMMARIES}
    assert first == {"mean": 2, "median": 2, "std": 1, "min": 1, "max": 3}
    assert all(np.isnan(getattr(found, name)[1]) for name in SUMMARIES)
    np.testing.assert_array_equal(found.per_task[:, 0], [1, 3, np.nan])
    assert found.per_task.shape == (3, 2)
    assert over_tasks([1.0, 2.0]).mean.shape == ()
    assert over_tasks([1.0, 2.0, 600.0]).median == 2
    assert mean_of_finite([np.nan, 4.0]) == 4
    assert math.isnan(mean_of_finite([np.nan]))


def test_differences_have_a_t_interval_only_over_independent_tasks():
    values = np.array([[1.0, np.nan, 2.0], [2.0, np.nan, np.nan], [6.0, 3.0, 5.0]])
    found = with_interval(over_tasks(values), independent=True)
    np.testing.assert_allclose(found.mean, [3, 3, 3.5])
    expected = [mean_and_interval([1.0, 2.0, 6.0]).half_width, np.nan, mean_and_interval([2.0, 5.0]).half_width]
    np.testing.assert_allclose(found.interval, expected)
    assert with_interval(over_tasks(values), independent=False).interval is None


@pytest.mark.parametrize("diverged", [np.nan, -np.inf, np.inf])
def test_a_return_that_diverged_is_not_left_out(diverged):
    """Without it, the mean would be better than what the agent does."""
    values = [[1.0, 1.0], [3.0, diverged], [8.0, 3.0]]
    found = with_interval(returns_over_tasks(values), independent=True)
    assert {name: getattr(found, name)[0] for name in ("mean", "median", "min", "max")} == {
        "mean": 4, "median": 3, "min": 1, "max": 8,
    }  # fmt: skip
    assert all(np.isnan(getattr(found, name)[1]) for name in (*SUMMARIES, "interval"))
    assert found.interval[0] == mean_and_interval([1.0, 3.0, 8.0]).half_width
    assert np.isnan(found.per_task).tolist() == [[False, False], [False, True], [False, False]]


def test_the_best_option_is_scored_on_data_that_did_not_choose_it():
    halves = [[[1.0, 5.0, 2.0], [0.0, 0.0, 0.0]], [[3.0, -1.0, 4.0], [0.0, 1.0, 0.0]]]
    chosen, score = best_on_the_other_half(halves)
    np.testing.assert_array_equal(chosen, [[1, 0], [2, 1]])
    np.testing.assert_allclose(score, [(-1 + 2) / 2, (0 + 0) / 2])


def test_an_option_that_has_diverged_is_not_the_best():
    chosen, score = best_on_the_other_half([[np.nan, 1.0, 2.0], [0.0, 4.0, np.nan]])
    np.testing.assert_array_equal(chosen, [2, 1])
    assert np.isnan(score)


def test_choosing_among_noise_earns_nothing_on_the_other_half(rng):
    halves = rng.normal(size=(2, 20_000, 9))
    assert best_on_the_other_half(halves)[1].mean() == pytest.approx(0, abs=0.02)
    # Negative control: on the half that chose it, the best of nine is 1.49 standard deviations too good.
    assert halves.max(axis=-1).mean() == pytest.approx(1.485, abs=0.02)
    halves[..., 3] += 10
    assert best_on_the_other_half(halves)[1].mean() == pytest.approx(10, abs=0.02)


def test_leave_one_out_r2_is_that_of_a_fit_without_each_row(rng):
    features = rng.normal(size=(15, 4)) * [1, 10, 0.1, 3] + 5
    targets = features @ rng.normal(size=(4, 2)) * 0.1 + 0.5 * rng.normal(size=(15, 2))
    x = (features - features.mean(0)) / features.std(0)

    def of_ridge(ridge, target):
        def fit(rows):
            ones = np.column_stack([np.ones(len(rows)), x[rows]])
            return np.linalg.solve(ones.T @ ones + 15 * ridge * np.diag([0, 1, 1, 1, 1]), ones.T @ target[rows])

        others = [np.delete(np.arange(15), row) for row in range(15)]
        errors = [target[i] - np.r_[1, x[i]] @ fit(rows) for i, rows in enumerate(others)]
        means = [target[i] - target[rows].mean() for i, rows in enumerate(others)]
        ones = np.column_stack([np.ones(15), x])
        hat = ones @ np.linalg.solve(ones.T @ ones + 15 * ridge * np.diag([0, 1, 1, 1, 1]), ones.T)
        score = ((target - hat @ target) ** 2).sum() / (15 - np.trace(hat)) ** 2
        return score, 1 - np.square(errors).sum() / np.square(means).sum()

    expected = [min(of_ridge(ridge, target) for ridge in RIDGES)[1] for target in targets.T]
    np.testing.assert_allclose(leave_one_out_r2(features, targets), expected, rtol=1e-9)


def test_leave_one_out_r2_of_what_is_known_and_of_noise(rng):
    features = rng.normal(size=(200, 7))
    targets = np.stack([3 * features[:, 0] - features[:, 1] + 2, rng.normal(size=200)], axis=1)
    known, noise = leave_one_out_r2(features, targets)
    assert known > 0.999
    assert -0.1 < noise < 0.05
    more = rng.normal(size=(4000, 7))
    assert leave_one_out_r2(more, more[:, :1] + rng.normal(size=(4000, 1))) == pytest.approx(0.5, abs=0.05)
    # Features as many as rows fit any noise, and predict none of it.
    many = leave_one_out_r2(rng.normal(size=(50, 200)), rng.normal(size=(50, 1)))
    assert many < 0.1
    np.testing.assert_allclose(leave_one_out_r2(1e-9 * features + 1e-12, targets), [known, noise], rtol=1e-6)


def test_leave_one_out_r2_is_nan_where_it_is_not_defined(rng):
    features, targets = rng.normal(size=(9, 2)), rng.normal(size=(9, 3))
    targets[:, 1], targets[4, 2] = 3.0, np.nan
    np.testing.assert_array_equal(np.isnan(leave_one_out_r2(features, targets)), [False, True, True])
    assert np.isnan(leave_one_out_r2(np.ones((9, 2)), targets)).all()
    assert np.isnan(leave_one_out_r2(features[:2], targets[:2])).all()
    with pytest.raises(ValueError, match="equal rows"):
        leave_one_out_r2(features, targets[:-1])
