"""The GPU's code path: on the CPU as far as that goes, and on a GPU where there is one."""

from dataclasses import replace

import numpy as np
import problems
import pytest
import torch
from problems import initial, make_policy, make_rule
from tiny_runs import numbers, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.meta_step import InlineWorkers
from benchmarks.problem import on_device
from metarl import Config
from metarl.common.parallel import Workers
from metarl.outer.objective import MetaObjective, _Chunk
from metarl.outer.ppo import PPO
from metarl.outer.trpo import TRPO, conjugate_gradients
from metarl.runs.training import Trainer, train

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select", "aten::unique")


class NoWaiting(TorchDispatchMode):
    """Fails when the host would have to wait for what a GPU computes."""

    def __enter__(self):
        self._tolist, torch.Tensor.tolist = torch.Tensor.tolist, self._refuse  # Reads memory, past any dispatch.
        return super().__enter__()

    def __exit__(self, *error):
        torch.Tensor.tolist = self._tolist
        super().__exit__(*error)

    def _refuse(self, *args):
        raise AssertionError("reading values waits for the device")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        assert name not in WAITS, f"{name} waits for the device"
        return function(*args, **kwargs or {})


ALGORITHMS = ["maml", "fomaml", "l2f", "anil", "meta-sgd", "mamlpp", "mumomaml", "context"]


def problem(algo):
    rule = make_rule(algo, make_policy())
    return problems.run(rule, initial(rule))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_conjugate_gradients_never_wait_for_the_device(algo):
    loop = problem(algo)
    objective = MetaObjective(loop, InlineWorkers(), hessian_fraction=0.5, fisher_rows=torch.arange(0, 20, 2))
    _, gradient = objective.loss_and_gradient()
    with NoWaiting():
        direction, _ = conjugate_gradients(objective.fisher_product, gradient, 5)
    assert direction.isfinite().all()
    norm, sign = (lambda: float(gradient.norm())), (lambda: bool(gradient[0] > 0))
    for waiting in (lambda: objective.evaluate(loop.meta), norm, sign):
        with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
            waiting()


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_all_tasks_in_one_chunk_as_on_a_gpu_equal_a_chunk_for_each(algo):
    loop = problem(algo)
    objective = MetaObjective(loop, InlineWorkers(), 0.5)
    chunk, tasks, meta = _Chunk(loop.with_curvature(0.5), None), loop.num_tasks, loop.meta
    direction = torch.ones_like(meta)
    pairs = (
        (chunk.loss_and_gradient()[1], objective.loss_and_gradient()[1]),
        (chunk.fisher_product(direction), objective.fisher_product(direction)),
        (chunk.evaluate(meta + 0.01), torch.tensor(objective.evaluate(meta + 0.01), dtype=torch.float64)),
    )
    for together, one_by_one in pairs:
        torch.testing.assert_close(together / tasks, one_by_one, rtol=1e-12, atol=1e-14)


@needs_gpu
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_meta_step_on_a_gpu_equals_the_cpus_on_the_same_rollouts(algo):
    config = Config(env="cheetah-dir", algo=algo, meta_batch_size=4, horizon=50, validate_every=0)
    trpo = config.resolve().optimiser
    with Trainer(config, torch.device("cpu")) as trainer:
        state, gpu = trainer.learner.initial(), torch.device("cuda")
        adapted, _ = trainer.learner.inner_loops(state.meta, 0)
        reports = []
        for device in (torch.device("cpu"), gpu):
            moved, loop = replace(state, meta=state.meta.to(device)), on_device(adapted.loop, device)
            reports.append(TRPO(trpo).step(moved, loop, InlineWorkers(), np.random.default_rng(0))[1])
    expected, report = reports
    assert report.outcome == expected.outcome
    for name in ("surrogate_gain", "kl", "meta_gradient_norm"):
        np.testing.assert_allclose(report.numbers[name], expected.numbers[name], rtol=1e-3)


@needs_gpu
def test_first_update_of_an_agent_with_memory_on_a_gpu_equals_the_cpus_on_the_same_trials():
    once = {"epochs": 1, "minibatches": 1}
    config = Config(env="cheetah-dir", algo="rl2", meta_batch_size=8, horizon=20, validate_every=0, ppo=once)
    settings, found = config.resolve(), []
    with Trainer(config, torch.device("cpu")) as trainer, Workers(1) as workers:
        state = trainer.learner.initial()
        adapted, _ = trainer.learner.inner_loops(state.meta, 0)
        for device in (torch.device("cpu"), torch.device("cuda")):
            moved, loop = replace(state, meta=state.meta.to(device)), on_device(adapted.loop, device)
            optimiser = PPO(settings.optimiser, settings.rollouts)
            found.append(optimiser.step(moved, loop, workers, np.random.default_rng(0)))
    (expected, of_cpu), (after, report) = found
    assert report.outcome == of_cpu.outcome == "1 epochs"
    for name in ("entropy", "explained_variance", "meta_gradient_norm"):
        np.testing.assert_allclose(report.numbers[name], of_cpu.numbers[name], rtol=1e-3, atol=1e-5)
    # Adam's first step is as long for any gradient: compare the gradient, which its first moment is a share of.
    scale = float(expected.memory["exp_avg"].abs().max())
    torch.testing.assert_close(after.memory["exp_avg"].cpu(), expected.memory["exp_avg"], rtol=1e-2, atol=1e-4 * scale)
    torch.testing.assert_close(after.memory["values"].cpu(), expected.memory["values"], rtol=1e-3, atol=1e-5)


@needs_gpu
@pytest.mark.parametrize("algo", [*ALGORITHMS, "rl2"])
def test_run_on_a_gpu_starts_like_the_cpus(algo, tmp_path):
    for device in ("cpu", "cuda"):
        train(tiny(tmp_path / device, algo=algo, device=device))
    first, other = (numbers(tmp_path / device)[0] for device in ("cpu", "cuda"))
    for name in ("pre_adaptation_return", "post_adaptation_return", "kl"):
        np.testing.assert_allclose(float(first[name]), float(other[name]), rtol=1e-2)
