"""The linear feature baseline, fitted to each task's batch of rollouts."""

import torch
from torch import Tensor

from metarl.rollouts.returns import discounted_sum


def linear_baseline(
    observations: Tensor, rewards: Tensor, mask: Tensor, discount: float, ridge: float = 1e-5
) -> Tensor:
    """Predicts discounted returns by ridge regression on features of observation and time.

    Features: observation o (clipped to +-10), o^2, t / 100, its square and cube, 1. Each task has its own fit, on the
    same rollouts that are predicted.

    Args:
        observations: [task, rollout, time, observation].
        rewards: [task, rollout, time].
        mask: 1 while the episode ran, [task, rollout, time].
        discount: Discount of one step.
        ridge: Regularisation added to the diagonal of the normal equations.

    Returns:
        Predicted returns [task, rollout, time], float64; 0 after an episode's end.

    Source: Duan et al. 2016, section 3 ("linear feature baseline"); used by Finn et al. 2017.
    """
    targets = discounted_sum(rewards.double(), discount)
    # One task at a time, so that its features stay in the core's cache.
    return torch.stack([_fit_and_predict(*of_task, ridge) for of_task in zip(observations, targets, mask, strict=True)])


def _fit_and_predict(observations: Tensor, targets: Tensor, mask: Tensor, ridge: float) -> Tensor:
    """Predictions for one task, [rollout, time]; 0 after an episode's end."""
    alive = mask > 0
    steps = torch.arange(mask.shape[1], dtype=targets.dtype, device=mask.device).expand_as(mask)
    features = _features(observations[alive].double(), steps[alive])
    # Normal equations (X^T X + ridge I) w = X^T y.
    gram = features.mT @ features + ridge * torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    # The last bits of `lstsq` would depend on memory addresses. The ridge keeps collinear features solvable.
    coefficients = torch.linalg.solve(gram, features.mT @ targets[alive])
    return torch.zeros_like(targets).masked_scatter_(alive, features @ coefficients)


def _features(observations: Tensor, steps: Tensor) -> Tensor:
    """Features [row, feature] of observations [row, observation] at the ``steps`` [row] of their episodes."""
    clipped, time = observations.clamp(-10, 10), steps[:, None] / 100
    return torch.cat([clipped, clipped**2, time, time**2, time**3, torch.ones_like(time)], dim=1)
