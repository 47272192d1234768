"""The catalogue of meta-optimisers: each row's step on a small problem."""

import numpy as np
import problems
import pytest
import torch
from problems import initial, make_policy, make_rule

from metarl.common.importing import import_named
from metarl.common.parallel import Workers
from metarl.config.optimisers import META_OPTIMISERS, AdamConfig
from metarl.data import LearnerState
from metarl.outer import adam

COLUMNS = {
    "trpo": ["line_search_trials", "surrogate_gain", "kl", "predicted_kl", "meta_gradient_norm"],
    "adam": ["meta_loss", "meta_gradient_norm"],
    "promp": ["epochs", "surrogate_gain", "kl", "meta_gradient_norm"],
}


# Those of agents with memory are in test_trials.py and in tests/agents/test_pearl.py.
@pytest.mark.parametrize("name", sorted(name for name, row in META_OPTIMISERS.items() if not row.algorithms))
def test_every_row_takes_steps_and_describes_them(name):
    row, rule = META_OPTIMISERS[name], make_rule("l2f", make_policy())
    state = LearnerState(initial(rule), {})
    loop, optimiser = problems.run(rule, state.meta), import_named(row.optimiser, "optimiser")(row.settings())
    before = state.meta.clone()
    with Workers(2) as workers:
        new, report = optimiser.step(state, loop, workers, np.random.default_rng(0))
        again, _ = optimiser.step(state, loop, workers, np.random.default_rng(0))
        optimiser.step(new, problems.run(rule, new.meta, seed=9), workers, np.random.default_rng(1))
    assert torch.equal(state.meta, before)
    assert not torch.equal(new.meta, before)
    assert torch.equal(new.meta, again.meta)
    assert list(report.numbers) == COLUMNS[name]
    assert report.numbers.get("surrogate_gain", 1) > 0


def test_one_long_meta_gradient_does_not_stop_adam(monkeypatch):
    """Adam remembers a gradient of 10^7 times the usual length for ten thousand steps, unless it is limited."""
    rule, moved = make_rule("maml", make_policy()), {}
    meta = initial(rule)
    loop, usual = problems.run(rule, meta), torch.ones_like(meta) / len(meta) ** 0.5
    memory = {"step": torch.tensor(1e4), "exp_avg": usual, "exp_avg_sq": usual**2}
    for limit in (None, 100.0):
        at = LearnerState(meta, memory)
        for length in (1e7, *[1.0] * 100):
            monkeypatch.setattr(adam.MetaObjective, "loss_and_gradient", lambda _, length=length: (1.0, length * usual))
            with Workers(1) as workers:
                after, report = adam.Adam(AdamConfig(max_gradient_norm=limit)).step(at, loop, workers, None)
            moved[limit], at = float((after.meta - at.meta).abs().mean()) / AdamConfig.lr, after
            assert report.numbers["meta_gradient_norm"] == pytest.approx(length, rel=1e-5)
    assert moved[100.0] > 0.25
    assert moved[None] < 0.001


def test_trpo_draws_the_rows_of_the_fisher_information_from_the_generator():
    row, rule = META_OPTIMISERS["trpo"], make_rule("maml", make_policy())
    state = LearnerState(initial(rule), {})
    loop = problems.run(rule, state.meta)
    optimiser = import_named(row.optimiser, "optimiser")(row.settings(fisher_fraction=0.3))
    with Workers(1) as workers:
        steps = [optimiser.step(state, loop, workers, np.random.default_rng(seed))[0].meta for seed in (0, 0, 1)]
    assert torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[0], steps[2])
