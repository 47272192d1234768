"""Measures of an analysis, as functions of arrays: angles, similarities, smoothness along a line, projections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metarl.common.arrays import Floats, rows_of_numbers
from metarl.common.statistics import mean_and_interval

RIDGES = tuple(np.logspace(-4, 2, 13).tolist())
"""Choices of `leave_one_out_r2` for the ridge, per row."""

# Variation below this, relative to the largest, is rounding error of single precision.
_RESOLUTION = 1e-6
# Those of a `Summary`.
_STATISTICS: dict[str, Callable[..., Any]] = {
    "mean": np.mean, "median": np.median, "std": np.std, "min": np.min, "max": np.max,
}  # fmt: skip


def angles_to_sum(vectors: ArrayLike) -> Floats:
    """Angle between each vector and the sum of all: the degree of conflict of gradients.

    Identical directions give 0; N orthogonal vectors of equal length give `unrelated_angle` (N). Two opposite vectors
    of equal length sum to zero, so their angles are undefined.

    The angle depends on N. Let g_j be unit vectors with the same inner product c between any two. Then
    g_i . sum_j g_j = 1 + (N-1) c and |sum_j g_j|^2 = N (1 + (N-1) c), so the cosine is sqrt((1 + (N-1) c) / N). It
    falls with N, from 1 to sqrt(c), and noise in the vectors lowers c. So compare angles only between equal numbers of
    equally noisy vectors.

    Args:
        vectors: [vector, parameter].

    Returns:
        Radians from 0 to pi, [vector]; NaN if the vector or the sum is zero, or if there is only one vector.

    Source: Baik et al. 2020, section 3.3, which takes the mean over tasks.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    total = rows.sum(axis=0)
    length = np.linalg.norm(total)
    angles = np.full(len(rows), np.nan)
    if len(rows) > 1 and length > _RESOLUTION * lengths.sum():
        defined = lengths > 0
        units, direction = rows[defined] / lengths[defined, None], total / length
        # Unit vectors at angle a have |u - v| = 2 sin(a/2) and |u + v| = 2 cos(a/2) (Kahan's formula). This is precise
        # at small angles too, where the cosine is so flat that an arccosine loses half of the digits.
        apart, together = np.linalg.norm(units - direction, axis=1), np.linalg.norm(units + direction, axis=1)
        angles[defined] = 2 * np.arctan2(apart, together)
    return angles


def unrelated_angle(num_vectors: int) -> float:
    """`angles_to_sum` of orthogonal vectors of equal length, radians: the angle of unrelated, long gradients."""
    # Orthogonal unit vectors have g_i . sum_j g_j = |g_i|^2 = 1 and |sum_j g_j| = sqrt(N). Independent directions in
    # many dimensions d are nearly orthogonal: their cosines have mean 0 and standard deviation 1 / sqrt(d).
    return math.acos(1 / math.sqrt(num_vectors))


def linear_cka(first: ArrayLike, second: ArrayLike) -> float:
    """Linear centred kernel alignment: ||Y^T X||^2 / (||X^T X|| ||Y^T Y||), Frobenius norms of centred columns.

    It is 1 for equal representations, and invariant to orthogonal maps, isotropic scaling and shifts of either.

    Args:
        first: X, [row, feature].
        second: Y on the same rows, [row, feature]; the features may differ.

    Returns:
        Between 0 and 1; NaN if a representation is constant.

    Raises:
        ValueError: If the rows do not match.

    Source: Kornblith et al. 2019, equation 4 and section 3; used by Raghu et al. 2020, figure 2.
    """
    x, y = _centred_pair(first, second)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / scale) if scale > 0 else float("nan")


def mean_cca(first: ArrayLike, second: ArrayLike, variance: float = 0.99) -> float:
    """Mean canonical correlation of the directions that hold most of each representation's variance (SVCCA).

    Both are first projected on the fewest principal directions that explain ``variance``. With 1 all directions are
    kept: the result is then invariant to invertible linear maps of either, but directions of hardly any variance count
    as much as the others. With about as many directions as rows, the result is 1 for any representations.

    Args:
        first: [row, feature].
        second: The same rows, [row, feature]; the features may differ.
        variance: Share of the variance to keep, in (0, 1].

    Returns:
        Between 0 and 1: the mean over the correlations, of which there are as many as the smaller number of directions;
        NaN if a representation is constant.

    Raises:
        ValueError: If the rows do not match, or if ``variance`` is not in (0, 1].

    Source: Raghu et al. 2017, section 2, to which Raghu et al. 2020, appendix B.2, refers.
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance must lie in (0, 1], got {variance}")
    x, y = (_principal_basis(values, variance) for values in _centred_pair(first, second))
    if not (x.shape[1] and y.shape[1]):
        return float("nan")
    correlations = np.linalg.svd(x.T @ y, compute_uv=False)
    return float(correlations.clip(0, 1).mean())


@dataclass(frozen=True)
class Line:
    """A function along a step, measured from the step's start.

    Attributes:
        loss_change: Loss at each point minus loss at the start, [point].
        gradient_change: Length of the difference of the gradients, [point].
        smoothness: Effective beta-smoothness: the largest ratio, over all points, of that length to the distance from
            the start; NaN for a step of length 0.
    """

    loss_change: Floats
    gradient_change: Floats
    smoothness: float


def along_step(
    loss: Callable[[Floats], float],
    gradient: Callable[[Floats], Floats],
    start: Floats,
    step: Floats,
    fractions: Sequence[float],
) -> Line:
    """Measures how smooth a function is along a step.

    A function is beta-smooth if ||grad f(y) - grad f(x)|| <= beta ||y - x|| for all x and y. Let x be the start of the
    step and y = x + t d the points along step d. The largest ratio of the two lengths is the smallest beta that these
    points allow: the effective beta-smoothness, a lower bound of beta. The gradient of a quadratic 1/2 x^T H x changes
    by t H d, so the ratio is ||H d|| / ||d|| at every t: the absolute curvature if d is an eigenvector.

    Args:
        loss: The function of the parameters, [parameter].
        gradient: Its gradient, [parameter].
        start: Start of the step, [parameter].
        step: The step, [parameter].
        fractions: Positive multiples of the step, one per point.

    Source: Santurkar et al. 2018, section 3.1 and figure 4, as applied by Baik et al. 2020, figure 2 and appendix A.
    """
    points = [start + fraction * step for fraction in fractions]
    loss_here, gradient_here = loss(start), gradient(start)
    # Far out a likelihood ratio may overflow.
    with np.errstate(invalid="ignore", over="ignore"):
        changes = np.array([np.linalg.norm(gradient(point) - gradient_here) for point in points])
    distances = np.array(fractions) * np.linalg.norm(step)
    smoothness = float((changes / distances).max()) if distances.min() > 0 else float("nan")
    return Line(np.array([loss(point) - loss_here for point in points]), changes, smoothness)


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """The directions of largest variance of some rows.

    Attributes:
        mean: Mean of the rows, [feature].
        directions: Orthonormal, [direction, feature]; 0 for directions that do not exist.
        shares: Each direction's share of the variance, [direction]; 0 for directions that do not exist.
    """

    mean: Floats
    directions: Floats
    shares: Floats

    @staticmethod
    def of(rows: ArrayLike, count: int = 2) -> PrincipalAxes:
        """The first ``count`` directions of rows [row, feature]; the coordinate of largest magnitude is positive."""
        values = np.asarray(rows, dtype=np.float64)
        mean = values.mean(axis=0)
        _, sizes, right = np.linalg.svd(values - mean, full_matrices=False)
        directions, shares = np.zeros((count, values.shape[1])), np.zeros(count)
        existing = min(count, int((sizes > 0).sum()))
        directions[:existing] = right[:existing]
        shares[:existing] = sizes[:existing] ** 2 / (sizes**2).sum()
        coordinates = (values - mean) @ directions.T
        largest = coordinates[np.abs(coordinates).argmax(axis=0), range(count)]
        return PrincipalAxes(mean, directions * np.where(largest < 0, -1, 1)[:, None], shares)

    def coordinates(self, rows: ArrayLike) -> Floats:
        """Coordinates [..., direction] of any rows [..., feature]."""
        return np.asarray((np.asarray(rows, dtype=np.float64) - self.mean) @ self.directions.T)


def principal_components(rows: ArrayLike) -> tuple[Floats, Floats]:
    """Coordinates of rows [row, feature] along their `PrincipalAxes` [row, 2], and the shares of the variance [2]."""
    axes = PrincipalAxes.of(rows)
    return axes.coordinates(rows), axes.shares


def mean_of_finite(values: ArrayLike) -> float:
    """Mean of the finite values; NaN if there are none."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if len(finite) else float("nan")


@dataclass(frozen=True, eq=False)
class Summary:
    """Statistics over tasks, see `over_tasks` and `returns_over_tasks`.

    Attributes:
        mean: Mean, [...].
        median: Median, [...].
        std: Standard deviation over these tasks (divisor N, not N - 1), [...].
        min: Smallest, [...].
        max: Largest, [...].
        per_task: The values themselves, [task, ...]; NaN for values that are not finite.
    """

    mean: Floats
    median: Floats
    std: Floats
    min: Floats
    max: Floats
    per_task: Floats


def over_tasks(values: ArrayLike) -> Summary:
    """Summarises values [task, ...] over the tasks where they are defined, such as angles."""
    per_task = np.asarray(values, dtype=np.float64)
    per_task = np.where(np.isfinite(per_task), per_task, np.nan)
    columns = [column[np.isfinite(column)] for column in per_task.reshape(len(per_task), -1).T]
    summary = {}
    for name, function in _STATISTICS.items():
        numbers = np.array([float(function(column)) if len(column) else np.nan for column in columns])
        summary[name] = numbers.reshape(per_task.shape[1:])
    return Summary(**summary, per_task=per_task)


def returns_over_tasks(values: ArrayLike) -> Summary:
    """Summarises returns [task, ...] over all tasks; NaN where one has diverged, without which a mean is too good."""
    per_task = np.asarray(values, dtype=np.float64)
    per_task = np.where(np.isfinite(per_task), per_task, np.nan)
    summary = {name: np.asarray(function(per_task, axis=0)) for name, function in _STATISTICS.items()}
    return Summary(**summary, per_task=per_task)


@dataclass(frozen=True, eq=False)
class Difference(Summary):
    """Statistics of differences over tasks.

    Attributes:
        interval: Half-width of the mean's 95 % t interval over tasks, [...]; NaN where the mean is, and with fewer than
            two finite values. None if the tasks are not independent, as where a finite family repeats its own.
    """

    interval: Floats | None


def with_interval(summary: Summary, independent: bool) -> Difference:
    """A summary of differences over tasks, with an interval if the tasks are independent."""
    if not independent:
        return Difference(**vars(summary), interval=None)
    columns = [column[np.isfinite(column)] for column in summary.per_task.reshape(len(summary.per_task), -1).T]
    halves = [mean_and_interval(column).half_width if len(column) > 1 else np.nan for column in columns]
    interval = np.array(halves, dtype=np.float64).reshape(summary.mean.shape)
    return Difference(**vars(summary), interval=np.where(np.isnan(summary.mean), np.nan, interval))


def best_on_the_other_half(halves: ArrayLike) -> tuple[NDArray[np.intp], Floats]:
    """Chooses the best of several options on one half of the data and scores it on the other, in both directions.

    The best of several noisy means is too good on the data that it was chosen on. On independent data, the mean of the
    chosen option is unbiased; it is below the best option's true mean where the choice is wrong.

    Args:
        halves: Mean of each option in each half, [half (2), ..., option].

    Returns:
        The option chosen on each half (the first of equal ones, never one that is NaN), [half, ...], and the mean of
        both scores, [...].

    Source: cross-validation, Stone 1974, with two parts.
    """
    values = np.asarray(halves, dtype=np.float64)
    chosen = np.where(np.isnan(values), -np.inf, values).argmax(axis=-1)
    scores = np.take_along_axis(values[::-1], chosen[..., None], axis=-1)[..., 0]
    return chosen, scores.mean(axis=0)


def leave_one_out_r2(features: ArrayLike, targets: ArrayLike, groups: ArrayLike | None = None) -> Floats:
    """R2 of ridge regression, where every row is predicted from all other rows, or from those of other groups.

    R2 = 1 - sum (y_i - prediction_i)^2 / sum (y_i - mean of the others)^2: 1 if the features determine the target, 0 if
    they predict it no better than the other rows' mean does, and negative if worse.

    With standardised, centred features X = U S V^T of n rows and the ridge n k, the fit is H y with the hat matrix

        H = 1/n + U diag(S^2 / (S^2 + n k)) U^T,    and    (y - prediction)_g = (1 - H_gg)^-1 (y - H y)_g

    for the rows g of a group. So no row needs a fit of its own. Each target takes the k in `RIDGES` with the least
    generalised cross-validation n |y - H y|^2 / (n - trace H)^2.

    Args:
        features: [row, feature].
        targets: [row, target].
        groups: Which rows are left out together, such as repeats of one task, a number for each, [row]; by default each
            alone.

    Returns:
        [target]; NaN for a target that is constant or not finite, and for all targets if no feature varies or if there
        are fewer than three groups.

    Raises:
        ValueError: If the rows do not match.

    Source: leave-one-out residuals Allen 1974; generalised cross-validation Golub, Heath, Wahba 1979.
    """
    x, y = _centred_pair(features, targets)
    count, scale = len(x), x.std(axis=0)
    of_row = np.arange(count) if groups is None else np.asarray(groups)
    members = [np.flatnonzero(of_row == group) for group in np.unique(of_row)]
    if len(members) < 3 or not scale.any():
        return np.full(y.shape[1], np.nan)
    x = x[:, scale > 0] / scale[scale > 0]
    left, sizes, _ = np.linalg.svd(x, full_matrices=False)
    along = left.T @ y
    errors, scores = [], []
    for ridge in RIDGES:
        shrinkage = sizes**2 / (sizes**2 + count * ridge)
        residuals = y - left @ (shrinkage[:, None] * along)
        leverages = 1 / count + left**2 @ shrinkage
        left_out = [_left_out(left[rows], shrinkage, residuals[rows], count) for rows in members]
        errors.append((np.concatenate(left_out) ** 2).sum(axis=0))
        scores.append((residuals**2).sum(axis=0) / (1 - leverages.mean()) ** 2)
    # y is centred, so the mean of the others is minus the sum of the group, over their number.
    differences = [y[rows] + y[rows].sum(axis=0) / (count - len(rows)) for rows in members]
    total = (np.concatenate(differences) ** 2).sum(axis=0)
    chosen = np.argmin(scores, axis=0)
    error: Floats = np.take_along_axis(np.array(errors), chosen[None], axis=0)[0]
    defined = np.isfinite(total) & (total > 0)
    return np.where(defined, 1 - error / np.where(defined, total, 1), np.nan)


def _left_out(left: Floats, shrinkage: Floats, residuals: Floats, count: int) -> Floats:
    """Residuals [row, target] of some rows by a fit to all others; see `leave_one_out_r2`."""
    hat = 1 / count + (left * shrinkage) @ left.T
    return np.asarray(np.linalg.solve(np.eye(len(hat)) - hat, residuals), dtype=np.float64)


def task_r2(features: Floats, tasks: NDArray[Any], *, finite: bool) -> dict[str, float]:
    """R2 of the task's numbers and, if there are several, of its direction and length, by name.

    All rows of a task are left out together, so that the task that is predicted is a new one. If there are finitely
    many tasks, which training has seen, each row is left out alone.
    """
    numbers = rows_of_numbers(tasks)
    groups = None if finite else np.unique(numbers, axis=0, return_inverse=True)[1].ravel()
    size = numbers.shape[1]
    if size == 1:
        return {"task": float(leave_one_out_r2(features, numbers, groups)[0])}
    lengths = np.linalg.norm(numbers, axis=1, keepdims=True)
    # A task of length 0 has no direction; the R2 of directions is then NaN.
    directions = np.divide(numbers, lengths, out=np.full_like(numbers, np.nan), where=lengths > 0)
    names = [f"{what}[{index}]" for what in ("task", "direction") for index in range(size)]
    r2 = leave_one_out_r2(features, np.concatenate([numbers, directions, lengths], axis=1), groups)
    return dict(zip([*names, "length"], r2.tolist(), strict=True))


def _centred_pair(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"representations must have shape (row, feature) with equal rows, got {x.shape} and {y.shape}")
    return _centred(x), _centred(y)


def _centred(values: Floats) -> Floats:
    centred = values - values.mean(axis=0)
    # Rounding errors of a constant column do not count as variation.
    varies = np.abs(centred).max(axis=0) > _RESOLUTION * np.abs(values).max(axis=0)
    return np.where(varies, centred, 0.0)


def _principal_basis(centred: Floats, variance: float) -> Floats:
    """Orthonormal basis of the values along the principal directions, [row, direction]."""
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    kept = sizes > _RESOLUTION * max(sizes[0], np.finfo(np.float32).tiny)
    if variance < 1 and kept.any():
        shares = np.cumsum(sizes**2) / (sizes**2).sum()
        # The fewest directions whose shares sum to at least ``variance``.
        kept &= np.arange(len(sizes)) <= np.searchsorted(shares, variance)
    return np.asarray(left[:, kept])
