"""The linear feature baseline, fitted to each task's batch of rollouts."""

import torch
from torch import Tensor

from metarl.rollouts.returns import discounted_sum


def linear_baseline(
    observations: Tensor, rewards: Tensor, mask: Tensor, discount: float, ridge: float = 1e-5
) -> Tensor:
    """Predicts discounted returns by ridge regression on features of observation and time.

    Features: observation o (clipped to +-10), o^2, t / 100, its square and cube, 1. One fit for each task, over the
    rollouts that are then predicted.

    Args:
        observations: [task, rollout, time, observation].
        rewards: [task, rollout, time].
        mask: 1 while the episode ran, [task, rollout, time].
        discount: Discount of one step.
        ridge: Regularisation added to the normal equations' diagonal.

    Returns:
        Predicted returns [task, rollout, time], float64.

    Source: Duan et al. 2016, section 3 ("linear feature baseline"); used by Finn et al. 2017.
    """
    targets = discounted_sum(rewards.double(), discount)
    # Task by task, so that a task's features stay in the core's cache.
    return torch.stack([_fit_and_predict(*of_task, ridge) for of_task in zip(observations, targets, mask, strict=True)])


def _fit_and_predict(observations: Tensor, targets: Tensor, mask: Tensor, ridge: float) -> Tensor:
    """One task's predictions, [rollout, time]."""
    features = _features(observations.double()).flatten(0, 1)
    rows = features * mask.flatten()[:, None]
    gram = rows.mT @ rows + ridge * torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)
    # Not `lstsq`, whose last bits depend on where memory lies; the ridge keeps collinear features solvable.
    coefficients = torch.linalg.solve(gram, rows.mT @ (targets * mask).flatten())
    return (features @ coefficients).view_as(targets)


def _features(observations: Tensor) -> Tensor:
    """One task's features, [rollout, time, feature]."""
    clipped = observations.clamp(-10, 10)
    time = torch.arange(observations.shape[1], dtype=observations.dtype, device=observations.device) / 100
    time = time[:, None].expand(*observations.shape[:2], 1)
    return torch.cat([clipped, clipped**2, time, time**2, time**3, torch.ones_like(time)], dim=-1)
