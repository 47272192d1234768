"""The parts of the meta-step, compared with plain automatic differentiation and an arithmetic bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Cell, Table, interleaved, median_ratio
from benchmarks.problem import Problem, make_problem
from metarl.common.cores import available_cores
from metarl.common.group import Group
from metarl.common.parallel import Workers
from metarl.config.config import Config
from metarl.config.optimisers import TRPOConfig
from metarl.config.resolved import Settings
from metarl.outer.objective import MetaObjective
from metarl.outer.optimiser import StepReport
from metarl.outer.trpo import Objective, trpo_step

ENVS = ("navigation", "cheetah-dir", "ant-dir")
ALGOS = ("maml", "l2f", "fomaml", "anil")
BESIDE: dict[str, dict[str, Any]] = {
    "maml": {"algo": "maml"},
    "l2f": {"algo": "l2f"},
    "l2f, reuse_kl 0": {"algo": "l2f", "l2f": {"reuse_kl": 0}},
}
"""Choices of the rules that are timed beside one another, MAML first."""
_SQUARE = 2048
_TRIALS = 2
Shape = tuple[int, ...]
Item = TypeVar("Item")
Result = TypeVar("Result")


def measure(quick: bool, device: torch.device) -> list[Table]:
    """Three tables: parts on one thread; on all cores whole meta-steps, and L2F's beside MAML's."""
    small = {"meta_batch_size": 3, "rollouts_per_task": 3, "horizon": 20} if quick else {}
    rounds = 1 if quick else 3
    parts, whole, beside = [], [], []
    for env in ENVS:
        for algo in ALGOS:
            problem = make_problem(Config(env=env, algo=algo, **small), device)
            parts.append(_parts(problem, rounds))
            if env != "ant-dir" and algo != "fomaml":
                whole += _whole(problem, 1 if quick else 2)
        if env != "ant-dir":
            beside += _beside_maml(env, small, 1 if quick else 7, device)
    return [
        Table(
            "Parts of the meta-step, one thread",
            parts,
            "Seconds of warm calls on all data, exact float32 curvature; the gradient is from the rollouts, graph "
            "included. The reference differentiates three times, in a loop over tasks or with all tasks in one batch. "
            "Share of the bound: counted floating-point operations of the Fisher-vector product over the rate of a "
            f"{_SQUARE} x {_SQUARE} matrix product in the same rounds.",
        ),
        Table(
            "Whole meta-step",
            whole,
            f"Surrogate gradient, conjugate gradients and line search on {available_cores()} threads. Ratio: the "
            "looped reference's seconds over these, median of the rounds.",
        ),
        Table(
            "L2F's meta-step beside MAML's",
            beside,
            f"On {available_cores()} threads with default curvature and {_TRIALS} line-search trials for each. "
            "By turns; the ratio is over MAML's, median of the rounds.",
        ),
    ]


def _parts(problem: Problem, rounds: int) -> dict[str, Cell]:
    """One row: seconds of every part; the Fisher-vector product is compared with reference and bound."""
    generator, device, tasks = torch.Generator().manual_seed(0), problem.loop.meta.device, problem.loop.num_tasks
    direction = torch.randn(problem.loop.meta.shape, generator=generator).to(device)
    left, right = torch.randn(2, _SQUARE, _SQUARE, generator=generator).to(device)
    with Workers(1) as workers:
        ours, looped = problem.objective(workers), problem.reference(1)
        _require_agreement(ours.fisher_product(direction), looped.fisher_product(direction))
        candidates: dict[str, Callable[[], object]] = {
            "product": partial(ours.fisher_product, direction),
            "looped": partial(looped.fisher_product, direction),
            "matrix product": partial(torch.mm, left, right),
            "gradient": lambda: problem.objective(workers).loss_and_gradient(),
            "trial": partial(ours.evaluate, problem.loop.meta),
            "looped gradient": lambda: problem.reference(1).loss_and_gradient(),
            "looped trial": partial(looped.evaluate, problem.loop.meta),
        }
        times = interleaved(_waiting(candidates, problem), rounds)
        del looped, candidates
        batched = None
        if (
            problem.settings.experiment.algo == "maml" and problem.settings.experiment.env != "ant-dir"
        ):  # Only these graphs fit into memory.
            whole = problem.reference(tasks)
            pair = {
                "product": partial(ours.fisher_product, direction),
                "batched": partial(whole.fisher_product, direction),
            }
            both = interleaved(_waiting(pair, problem), rounds)
            batched = median_ratio(both["batched"], both["product"])
    # An n x n matrix product takes 2 n^3 operations: n^2 entries with n multiplications and n additions each.
    rate = 2 * _SQUARE**3 / times["matrix product"]
    operations = _operations(problem, direction)
    return {
        "size": _size(problem.settings),
        "algorithm": problem.settings.experiment.algo,
        "gradient": _median(times["gradient"]),
        "line-search trial": _median(times["trial"]),
        "Fisher-vector product": _median(times["product"]),
        "GFLOP": operations / 1e9,
        "share of the bound": float(np.median(operations / rate / times["product"])),
        "looped / ours": median_ratio(times["looped"], times["product"]),
        "batched / ours": batched,
        "looped / ours, gradient": median_ratio(times["looped gradient"], times["gradient"]),
        "looped / ours, trial": median_ratio(times["looped trial"], times["trial"]),
    }


def _whole(problem: Problem, rounds: int) -> list[dict[str, Cell]]:
    """Rows of whole meta-steps: exact curvature, the family's default curvature, and the looped reference."""
    settings, cores = problem.settings, available_cores()
    trpo = settings.optimiser
    assert isinstance(trpo, TRPOConfig)
    reports: dict[str, StepReport] = {}

    def step(subject: str, make: Callable[[], Objective]) -> None:
        reports[subject] = trpo_step(problem.loop.meta, make(), trpo)[1]

    def reference() -> None:
        torch.set_num_threads(cores)
        step("triple derivative, looped", lambda: problem.reference(1))
        torch.set_num_threads(1)

    with Workers(cores) as workers:
        candidates: dict[str, Callable[[], object]] = {
            "metarl, exact": lambda: step("metarl, exact", lambda: problem.objective(workers)),
            "triple derivative, looped": reference,
        }
        if trpo.fisher_fraction < 1 or trpo.hessian_fraction < 1:
            sampled = partial(problem.objective, workers, trpo.fisher_fraction, trpo.hessian_fraction)
            candidates["metarl, default"] = lambda: step("metarl, default", sampled)
        times = interleaved(_waiting(candidates, problem), rounds)
    looped = times["triple derivative, looped"]
    return [
        {
            "subject": subject,
            "size": _size(settings),
            "algorithm": settings.experiment.algo,
            "seconds": _median(times[subject]),
            "ratio": median_ratio(looped, times[subject]),
            "line search": reports[subject].outcome,
            "surrogate gain": reports[subject].numbers["surrogate_gain"],
        }
        for subject in candidates
    ]


def _beside_maml(env: str, small: dict[str, Any], rounds: int, device: torch.device) -> list[dict[str, Cell]]:
    """Rows of a meta-step of MAML, L2F, and L2F without its penalty, with the same number of line-search trials."""
    problems = {name: make_problem(Config(env=env, **choices, **small), device) for name, choices in BESIDE.items()}

    def step(problem: Problem, workers: Workers) -> None:
        trpo = problem.settings.optimiser
        assert isinstance(trpo, TRPOConfig)
        objective = problem.objective(workers, trpo.fisher_fraction, trpo.hessian_fraction)
        direction = objective.loss_and_gradient()[1]
        for _ in range(trpo.cg_iterations):
            objective.fisher_product(direction)
        for _ in range(_TRIALS):
            objective.evaluate(problem.loop.meta)

    with Workers(available_cores()) as workers:
        candidates: dict[str, Callable[[], object]] = {
            name: partial(step, problem, workers) for name, problem in problems.items()
        }
        times = interleaved(_waiting(candidates, problems["maml"]), rounds)
    return [
        {
            "size": _size(problem.settings),
            "rule": name,
            "seconds": _median(times[name]),
            "ratio": median_ratio(times[name], times["maml"]),
        }
        for name, problem in problems.items()
    ]


class InlineWorkers:
    """Works in the calling thread, because PyTorch's dispatch modes see only that thread."""

    def __init__(self) -> None:
        self.group = Group()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Results of ``function`` in the order of ``items``."""
        return [function(item) for item in items]


def _operations(problem: Problem, direction: Tensor) -> int:
    """Floating-point operations of the matrix products in one exact Fisher-vector product."""
    objective = MetaObjective(problem.loop.tasks(0, 1), InlineWorkers())  # type: ignore[arg-type]
    objective.fisher_product(direction)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: _in_place_product})
    with counter:
        objective.fisher_product(direction)
    return counter.get_total_flops() * problem.loop.num_tasks


def _in_place_product(total: Shape, left: Shape, right: Shape, **options: object) -> int:
    """Operations of ``total.baddbmm_(left, right)``, for which PyTorch's counter has no formula."""
    return 2 * math.prod(left) * right[-1]


def _waiting(candidates: dict[str, Callable[[], object]], problem: Problem) -> dict[str, Callable[[], object]]:
    """Makes candidates wait for the GPU, where calls return before their work is done."""
    if problem.loop.meta.device.type == "cpu":
        return candidates

    def wait_for(work: Callable[[], object]) -> None:
        work()
        torch.cuda.synchronize()

    return {name: partial(wait_for, work) for name, work in candidates.items()}


def _require_agreement(ours: Tensor, reference: Tensor) -> None:
    """Raises unless both products agree, so that the timings compare the same computation."""
    error = float((ours - reference).norm() / reference.norm())
    if not error < 1e-3:
        raise RuntimeError(f"the Fisher-vector product differs from the reference by {error:.1e}")


def _median(seconds: np.ndarray) -> float:
    return float(np.median(seconds))


def _size(settings: Settings) -> str:
    rollouts, hidden = settings.rollouts, " x ".join(map(str, settings.policy.hidden_sizes))
    shape = f"{settings.meta.meta_batch_size} x {rollouts.rollouts_per_task} x {rollouts.horizon}"
    return f"{settings.experiment.env}, {shape}, network {hidden}"
