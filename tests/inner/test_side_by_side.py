"""Whether threads pay is found out by measuring, and changes no number."""

import numpy as np
import pytest
import torch
from tiny_runs import tiny

import metarl
from metarl.common.parallel import Workers
from metarl.common.streams import Purpose
from metarl.inner.runner import make_runner
from metarl.inner.side_by_side import SideBySide
from metarl.runs.build import build


@pytest.mark.parametrize(("seconds", "speed_up", "pays"), [((9, 1, 3), 1.5, True), ((1, 4, 1), 0.125, False)])
def test_the_faster_way_is_kept(seconds, speed_up, pays):
    times = iter([0, seconds[0], 0, seconds[1], 0, seconds[2], *range(9)])
    measured, ways = SideBySide(lambda: next(times)), []

    def work(steps):
        ways.append(measured.in_threads)
        return steps

    # The third round takes twice as many steps.
    decided = [measured.run(lambda steps=steps: work(steps)) for steps in (10, 10, 20, 10, 10)]
    assert ways == [False, True, False, pays, pays]
    assert measured.speed_up == pytest.approx(speed_up)
    assert decided == [False, False, True, False, False]


def _returns(workers, rounds=5):
    """Returns of some inner loops, and how many pieces of work were given to threads in each."""
    settings = tiny("nowhere", env="machines:MachineFamily", algo="maml").resolve()
    family, rule = build(settings)
    runner = make_runner(family, rule, 4, settings, workers, torch.device("cpu"))
    given, pieces = workers.map, []
    workers.map = lambda function, items, *watch: pieces.append(len(list(items))) or given(function, items, *watch)
    meta, stages = rule.initial(np.random.default_rng(0)), rule.stages((1.0,), 0)
    tasks = family.sample_tasks(4, np.random.default_rng(0))
    with workers:
        adapted = [runner.run(meta, tasks, stages, 0, Purpose.TRAIN_ROLLOUTS, 0)[0] for _ in range(rounds)]
    runner.close()
    return [(each.returns, each.parameters) for each in adapted], pieces


def test_a_runner_tries_both_ways_with_the_same_numbers():
    times = iter([0, 9, 9, 11, 11, 16, *range(99)])
    workers = Workers(2, clock=lambda: next(times))
    measured, pieces = _returns(workers)
    assert pieces == [1, 2, 1, 2, 2]
    told = "4 tasks of machines:MachineFamily run 2.50 times as fast in 2 threads as in one, so threads are used"
    assert workers.findings == [told]
    alone, pieces = _returns(Workers(1), 1)
    assert pieces == [1]
    for returns, parameters in measured:
        assert torch.equal(returns, alone[0][0])
        assert torch.equal(parameters, alone[0][1])


def test_a_run_says_once_what_it_found(tmp_path, capsys):
    metarl.train(tiny(tmp_path, env="machines:MachineFamily", threads=2, iterations=5, validate_every=0))
    assert capsys.readouterr().err.count("in 2 threads as in one, so ") == 1
