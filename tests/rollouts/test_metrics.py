"""Metrics: one number of an episode from a number of each of its steps."""

import math
from dataclasses import replace

import pytest
import torch

from metarl.data import Rollouts, over_episodes

VALUES = torch.tensor([[-3.0, 0.0, -1.0, -2.0], [0.0, 0.0, 7.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
MASK = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("any", [1, 0, 0]),
        ("last", [-2, 0, 0]),
        ("mean", [-1.5, 0, 0]),
        ("sum", [-6, 0, 0]),
        ("max", [0, 0, 0]),
    ],
)
def test_aggregates_of_steps_before_the_end_of_the_episode(how, expected):
    result = over_episodes(how, VALUES, MASK)
    assert result.dtype == torch.float64
    assert result.tolist() == expected


def test_the_greatest_number_may_be_negative():
    assert over_episodes("max", VALUES[:1] - 10, MASK[:1]).tolist() == [-10]
    assert over_episodes("max", torch.tensor([[-4.0, 0.0]]), torch.tensor([[1.0, 0.0]])).tolist() == [-4]


def rollouts(values, mask):
    shape = values.shape
    zero = torch.zeros(shape)
    return Rollouts(zero[..., None], zero[..., None], zero, zero, mask, zero, terms={"effort": values})


@pytest.mark.parametrize("how", ["any", "last", "mean", "sum", "max"])
def test_metrics_are_means_over_the_episodes_of_a_task_without_dropped_ones(how):
    values = torch.randn(2, 3, 4)
    mask = torch.ones(2, 3, 4)
    mask[0, 1, 2:] = 0
    mask[1, 2] = 0  # Dropped.
    data = rollouts(values * mask, mask)
    measured = data.mean_metrics({"effort": how})["effort"]
    of = over_episodes(how, values, mask)
    assert measured.tolist() == pytest.approx([float(of[0].mean()), float(of[1, :2].mean())])
    # Like the return, the metric of tasks computed together is that of each alone.
    parts = [data.tasks(task, task + 1).mean_metrics({"effort": how})["effort"] for task in range(2)]
    assert torch.equal(torch.cat(parts), measured)


def test_only_terms_with_a_metric_are_measured():
    data = rollouts(torch.ones(1, 2, 3), torch.ones(1, 2, 3))
    assert data.mean_metrics({}) == {}
    twice = replace(data, terms={"effort": torch.ones(1, 2, 3), "other": torch.full((1, 2, 3), math.nan)})
    assert twice.mean_metrics({"effort": "sum"})["effort"].tolist() == [3]
