"""Discounted returns, generalised advantage estimation and standardisation for episodes that may end early."""

import torch
from torch import Tensor


def discounted_sum(values: Tensor, factor: float) -> Tensor:
    """Discounted sum from each step on: y[t] = x[t] + factor * y[t + 1] along the last axis.

    Args:
        values: [..., time].
        factor: Discount of one step.

    Returns:
        [..., time]. Rewards give discounted returns; factor 0 gives the values themselves.
    """
    tail, sums = torch.zeros_like(values[..., 0]), []
    for value in reversed(values.unbind(-1)):
        tail = value + factor * tail
        sums.append(tail)
    return torch.stack(sums[::-1], dim=-1)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, discount: float, gae_lambda: float) -> Tensor:
    """Generalised advantage estimates.

    With delta_t = r_t + discount * V_{t+1} - V_t, the advantage is A_t = sum_k (discount * gae_lambda)^k delta_{t+k}.

    Args:
        rewards: [task, rollout, time].
        values: The baseline's predictions, same shape; after an episode's last step its value there, which is 0 unless
            the environment cut the episode off.
        mask: 1 while the episode ran, same shape.
        discount: Discount of one step.
        gae_lambda: 1 gives the discounted return minus the baseline; 0 gives the one-step temporal difference.

    Returns:
        Advantages [task, rollout, time]; 0 after an episode's end.

    Source: Schulman et al. 2016, equation 16.
    """
    following = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], dim=-1)
    return discounted_sum((rewards + discount * following - values) * mask, discount * gae_lambda) * mask


def above_noise(advantages: Tensor, returns: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
    """Whether each task's advantages say more than rounding and the ridge of the baseline do, [task].

    They do not if the returns of different rollouts are the same at each step, but for rounding in single precision (a
    constant reward), or if the baseline explains all but 1e-4 of the differences. A single rollout has no others: its
    rewards are compared with one another.

    Args:
        advantages: [task, rollout, time].
        returns: Discounted returns, same shape; 0 after an episode's end.
        rewards: Rewards, the same.
        mask: 1 while the episode ran, same shape.
    """
    values, axis = (returns, 1) if mask.shape[1] > 1 else (rewards, 2)
    mean = values.sum(axis, keepdim=True) / mask.sum(axis, keepdim=True).clamp(min=1)
    differences = _norm((values - mean) * mask)
    rounding = torch.finfo(torch.float32).eps * _norm(values)
    return (differences > rounding) & (_norm(advantages) > 1e-4 * differences)


def _norm(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values, dim=(1, 2))


def standardise(advantages: Tensor, mask: Tensor) -> Tensor:
    """Shifts and scales each task's advantages to mean 0 and standard deviation 1 over the steps that took place.

    Args:
        advantages: [task, rollout, time].
        mask: 1 while the episode ran, same shape.

    Returns:
        [task, rollout, time]; 0 after an episode's end, and everywhere for a task whose advantages are all equal.
    """
    count = mask.sum((1, 2), keepdim=True)
    mean = (advantages * mask).sum((1, 2), keepdim=True) / count
    centred = (advantages - mean) * mask
    std = ((centred * centred).sum((1, 2), keepdim=True) / count).sqrt()
    return centred / (std + 1e-8)
