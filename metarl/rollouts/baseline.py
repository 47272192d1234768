"""The linear feature baseline, fitted to each task's batch of rollouts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.rollouts.returns import discounted_sum

# With fewer steps for each feature, a fit takes too much of the noise of the steps that it predicts.
_STEPS_PER_FEATURE = 8
# Choosing a penalty solves 30 systems of this size.
_MOST_CHOSEN_FEATURES = 1000
_FOLDS = 5
_TIME_FEATURES = 4
# Penalties of the observation's features and of time, from light to heavy. The last two leave time alone, and the mean.
_PENALTIES = ((0.0, 0.0), (0.01, 0.0), (0.1, 0.0), (1.0, 0.0), (1e6, 0.0), (1e6, 1e6))


def linear_baseline(
    observations: Tensor,
    rewards: Tensor,
    mask: Tensor,
    discount: float,
    truncated: Tensor | None = None,
    ridge: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Predicts discounted returns by ridge regression on features of observation and time; each task has its own fit.

    Features: observation o (clipped to +-10), o^2, t / 100, its square and cube, 1. The number of steps decides how a
    task is fitted:

    - 8 steps or more for each feature, as in the papers: one fit, to the same rollouts that it predicts.
    - Fewer: each fifth of the rollouts is predicted by a fit to the others, with a penalty on top of the ridge. Of
      several penalties, in units of the features' variances, it is the heaviest whose squared error on the rollouts
      left out is within one standard error of the least. The heaviest leave only time, or only the mean.
    - Fewer steps than features, more than 1000 features, or a single rollout with fewer than 8 steps for each feature:
      the same, but with the features of time alone. A linear function of an image cannot be found from fewer steps than
      pixels. Where there are no other rollouts to fit, the prediction is 0.

    An episode that the environment cut off before the horizon would have gone on. The value V(s_T) of the observation
    that followed completes its returns: y_t = sum of discounted rewards + discount^(T - t) V(s_T). With n(t) the
    discounted number of steps from t to the horizon, V(s_t) = n(t) (w_1 o + w_2 o^2 + w_3), fitted to the completed
    returns themselves: the reward of a step goes on, as far as the observation tells it.

    Args:
        observations: [task, rollout, time, observation].
        rewards: [task, rollout, time]; 0 after an episode's end.
        mask: 1 while the episode ran, [task, rollout, time].
        discount: Discount of one step.
        truncated: Whether each episode was cut off, [task, rollout]. If it was before the horizon, the length of the
            time axis, the first observation after its end must be the one that followed. None if no episode was.
        ridge: Regularisation added to the diagonal of the normal equations.

    Returns:
        Predicted returns, and the (completed) returns that were to be predicted, [task, rollout, time], float64. After
        an episode's end both are 0, but for the prediction V(s_T) at step T.

    Source: Duan, Chen et al. 2016, section 3 ("linear feature baseline"); used by Finn et al. 2017. One standard error:
    Breiman et al. 1984, section 3.4.3.
    """
    rewards, alive = rewards.double(), mask > 0
    returns = discounted_sum(rewards, discount)
    seen = [
        of_task if _can_be_fitted(of_task.shape[2], num_steps, len(of_task)) else of_task[..., :0]
        for of_task, num_steps in zip(observations, alive.sum((1, 2)).tolist(), strict=True)
    ]
    after = [None] * len(alive) if truncated is None else _steps_after(alive, truncated)
    # One task at a time, so that its features stay in the core's cache.
    tasks = zip(seen, rewards, returns, alive, after, strict=True)
    values, completed = zip(*(_of_task(*task, discount, ridge) for task in tasks), strict=True)
    return torch.stack(values), torch.stack(completed)


def _can_be_fitted(num_observed: int, num_steps: int, num_rollouts: int) -> bool:
    """Whether a task's steps suffice for the features of its observations."""
    num_features = 2 * num_observed + _TIME_FEATURES
    if num_steps >= _STEPS_PER_FEATURE * num_features:
        return True
    return num_rollouts > 1 and num_features <= min(num_steps, _MOST_CHOSEN_FEATURES)


def _steps_after(alive: Tensor, truncated: Tensor) -> Sequence[Tensor | None]:
    """Marks of each task the step after every episode that was cut off before the horizon, [rollout, time].

    None for a task without any.
    """
    cut_off = truncated & ~alive[..., -1]
    if not cut_off.any():
        return [None] * len(alive)
    after = torch.zeros_like(alive)
    after[..., 1:] = alive[..., :-1] & ~alive[..., 1:] & cut_off[..., None]
    return [steps if some else None for steps, some in zip(after, cut_off.any(1).tolist(), strict=True)]


@dataclass(frozen=True)
class _Rows:
    """Some steps of one task as rows.

    Attributes:
        features: [row, feature]; those of the observation come first, the last one is a constant or stands for it.
        num_observed: How many are of the observation.
        steps: Which steps, [rollout, time].
    """

    features: Tensor
    num_observed: int
    steps: Tensor

    @property
    def rollouts(self) -> Tensor:
        """Rollout of each row, [row]."""
        return self.steps.nonzero()[:, 0]


def _of_task(
    observations: Tensor,
    rewards: Tensor,
    returns: Tensor,
    alive: Tensor,
    after: Tensor | None,
    discount: float,
    ridge: float,
) -> tuple[Tensor, Tensor]:
    """Predicted and completed returns of one task, [rollout, time]."""
    values = torch.zeros_like(returns)
    if after is not None:
        values = _values_after(observations, rewards, returns, alive, after, discount, ridge)
        # At step T, V(s_T) takes the place of the rewards that were to come.
        returns = discounted_sum(rewards + values, discount) * alive
    rows = _rows(observations, alive)
    coefficients = _fit(rows, rows.features, returns[alive], ridge)
    return values.masked_scatter_(alive, _predict(rows, coefficients)), returns


def _values_after(
    observations: Tensor,
    rewards: Tensor,
    returns: Tensor,
    alive: Tensor,
    after: Tensor,
    discount: float,
    ridge: float,
) -> Tensor:
    """V(s_T) at the steps ``after`` episodes that were cut off, else 0; [rollout, time]."""
    # Features of time would not do: V(s_t) + c discount^-t completes the returns as consistently for any c, and only
    # episodes that reach the horizon say that c is 0.
    to_come = discounted_sum(torch.ones_like(returns), discount)
    rows, last = _rows_to_come(observations, alive, to_come), _rows_to_come(observations, after, to_come)
    # The completed targets y + D w, with D = discount^(T - t) features(s_T), depend on the coefficients w. With X the
    # features, X^T X w + penalty w = X^T (y + D w), hence X^T (X - D) w + penalty w = X^T y.
    of_rollouts = last.features.new_zeros(len(after), last.features.shape[1])
    of_rollouts[after.any(1)] = last.features
    discounts = discounted_sum(after.to(returns.dtype), discount)[alive]
    differences = rows.features - discounts[:, None] * of_rollouts[rows.rollouts]
    values = _predict(last, _fit(rows, differences, returns[alive], ridge))
    # Even where s_T is unlike what was seen before, V(s_T) is a sum of rewards up to the horizon.
    values = values.clamp(rewards[alive].min() * to_come[after], rewards[alive].max() * to_come[after])
    return torch.zeros_like(returns).masked_scatter_(after, values)


def _rows(observations: Tensor, steps: Tensor) -> _Rows:
    """The baseline's features of some ``steps`` [rollout, time]."""
    clipped = observations[steps].double().clamp(-10, 10)
    numbers = torch.arange(steps.shape[1], dtype=clipped.dtype, device=clipped.device)
    time = numbers.expand_as(steps)[steps][:, None] / 100
    features = torch.cat([clipped, clipped**2, time, time**2, time**3, torch.ones_like(time)], dim=1)
    return _Rows(features, 2 * clipped.shape[1], steps)


def _rows_to_come(observations: Tensor, steps: Tensor, to_come: Tensor) -> _Rows:
    """Features of rewards that go on to the horizon: n(t) times o, o^2 and 1, with n = ``to_come``, [rollout, time]."""
    clipped = observations[steps].double().clamp(-10, 10)
    features = torch.cat([clipped, clipped**2, torch.ones_like(clipped[:, :1])], dim=1)
    return _Rows(to_come[steps][:, None] * features, 2 * clipped.shape[1], steps)


def _fit(rows: _Rows, differences: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Solves X^T Q w + penalty w = X^T y for w, [feature]; or for each rollout from others, [rollout, feature].

    Args:
        rows: X.
        differences: Q, [row, feature]: the features, less what the targets have of them.
        targets: y, [row].
        ridge: The least penalty.
    """
    x, (num_rows, size) = rows.features, rows.features.shape
    if num_rows < _STEPS_PER_FEATURE * size:
        return _fit_to_others(rows, differences, targets, ridge)
    gram = x.mT @ differences + ridge * torch.eye(size, dtype=x.dtype, device=x.device)
    # The last bits of `lstsq` would depend on memory addresses. The ridge keeps collinear features solvable.
    return torch.linalg.solve(gram, x.mT @ targets)


def _fit_to_others(rows: _Rows, differences: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """The same for each rollout from those of other folds, [rollout, feature]; 0 if there are none."""
    folds = torch.arange(len(rows.steps), device=targets.device) % _FOLDS
    of_rows = folds[rows.rollouts]
    parts = [[of_all[of_rows == fold] for of_all in (rows.features, differences, targets)] for fold in folds.unique()]
    grams, moments = torch.stack([x.mT @ q for x, q, _ in parts]), torch.stack([x.mT @ y for x, _, y in parts])
    others, wanted = grams.sum(0) - grams, moments.sum(0) - moments
    fits = [torch.linalg.solve(others + penalty.diag(), wanted) for penalty in _penalties(rows, ridge)]
    errors = [[(y - q @ w).square().sum() for (_, q, y), w in zip(parts, fit, strict=True)] for fit in fits]
    return fits[_heaviest_allowed(torch.tensor(errors))][folds]


def _penalties(rows: _Rows, ridge: float) -> Tensor:
    """The ridge, and on top of it each pair of `_PENALTIES`, [penalty, feature]."""
    of_observation, of_time = rows.features.new_tensor(_PENALTIES).mT[..., None]
    num_rows, size = rows.features.shape
    num_of_time = size - rows.num_observed - 1
    parts = [of_observation.expand(-1, rows.num_observed), of_time.expand(-1, num_of_time), torch.zeros_like(of_time)]
    return ridge + torch.cat(parts, dim=1) * num_rows * rows.features.var(0, correction=0)


def _heaviest_allowed(errors: Tensor) -> int:
    """Index of the last penalty whose error is within one standard error of the least; ``errors``: [penalty, fold]."""
    excess = errors - errors[errors.sum(1).argmin()]
    allowed = excess.mean(1) <= excess.std(1, correction=0) / errors.shape[1] ** 0.5
    # Not the maximum of its indices, which numbers that are not finite would leave empty.
    return len(allowed) - 1 - int(allowed.flip(0).byte().argmax())


def _predict(rows: _Rows, coefficients: Tensor) -> Tensor:
    """Predictions [row] by coefficients for all rollouts, [feature], or for each, [rollout, feature]."""
    if coefficients.ndim == 1:
        return rows.features @ coefficients
    return (rows.features * coefficients[rows.rollouts]).sum(1)
