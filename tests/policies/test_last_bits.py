"""To the last bit, results do not depend on where memory lies, nor on how many tasks are computed together."""

import os
import subprocess
import sys
from dataclasses import fields, replace
from functools import partial
from operator import itemgetter

import pytest
import torch

from metarl.common.parallel import Workers
from metarl.data import Samples
from metarl.policies.distributions import Categorical, Categoricals, Gaussian
from metarl.policies.mlp import MLPPolicy

TASKS = 3
# The networks of navigation and half-cheetah, and one that is smaller than the kernels.
POLICIES = {
    "navigation": MLPPolicy(2, Gaussian(2), (100, 100), "relu"),
    "half-cheetah": MLPPolicy(17, Gaussian(6), (100, 100), "tanh"),
    "small": MLPPolicy(3, Categorical(3), (5, 4), "tanh"),
    "choices": MLPPolicy(3, Categoricals((3, 2)), (5, 4), "tanh"),
}

policies = pytest.mark.parametrize("name", POLICIES)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.fixture(autouse=True)
def _one_thread():
    """As the package computes."""
    with Workers(1):
        yield


def placed(values, offset):
    """A copy that begins ``offset`` elements after a multiple of 64 bytes."""
    memory = torch.empty(values.numel() + 64, dtype=values.dtype)
    start = -memory.data_ptr() // memory.element_size() % (64 // memory.element_size()) + offset
    copy = memory[start : start + values.numel()].view(values.shape)
    return copy.copy_(values)


def make_problem(policy, rows, dtype):
    """Parameters [task, parameter], rows of an imaginary environment and a direction [task, parameter]."""
    generator = torch.Generator().manual_seed(rows)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    parameters = 0.3 * draw(TASKS, policy.layout.size)
    observations = draw(TASKS, rows, policy.observation_size)
    outputs, extra = policy.outputs(parameters, observations), policy.extra(parameters)
    if isinstance(policy.distribution, Gaussian):
        actions = draw(*outputs.shape)
    elif isinstance(policy.distribution, Categoricals):
        actions = torch.randint(2, (*outputs.shape[:2], 2), generator=generator)
    else:
        actions = torch.randint(outputs.shape[-1], outputs.shape[:2], generator=generator)
    log_probs = policy.distribution.log_prob(outputs, extra, actions)
    weights = torch.full((TASKS, rows), 1 / rows, dtype=dtype)
    samples = Samples(observations, actions, log_probs, draw(TASKS, rows), weights, episode_length=rows)
    return parameters, samples, draw(TASKS, policy.layout.size)


def moved(samples, move):
    tensors = {part.name: getattr(samples, part.name) for part in fields(samples) if part.name != "episode_length"}
    return replace(samples, **{name: move(values) for name, values in tensors.items()})


def results(policy, parameters, samples, direction):
    """All that the package computes of a policy, by name, [task, ...]."""
    curvature = policy.inner_curvature(parameters, samples, "ratio")
    linearised = policy.linearise(parameters, samples)
    return {
        "step": policy.network(parameters)(samples.observations),
        "outputs": policy.outputs(parameters, samples.observations),
        "gradient": policy.inner_gradient(parameters, samples, "ratio"),
        "Hessian product": curvature.pushforward(direction),
        "transposed Hessian product": curvature.pullback(direction),
        "pullback": linearised.pullback(linearised.outputs, linearised.extra),
        "Fisher product": linearised.fisher_product(direction),
    }


def differing(some, others):
    return [name for name, values in some.items() if not torch.equal(values, others[name])]


@policies
@dtypes
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9, 13, 40])
def test_results_do_not_depend_on_where_memory_lies(name, dtype, rows):
    policy = POLICIES[name]
    parameters, samples, direction = make_problem(policy, rows, dtype)
    expected = results(policy, parameters, samples, direction)
    for offset in range(1, 8):
        move = partial(placed, offset=offset)
        assert differing(results(policy, move(parameters), moved(samples, move), move(direction)), expected) == []


@policies
@dtypes
@pytest.mark.parametrize("rows", [2, 3, 4, 5, 9, 13, 40])
def test_results_of_a_task_do_not_depend_on_how_many_tasks_are_computed_together(name, dtype, rows):
    policy = POLICIES[name]
    parameters, samples, direction = make_problem(policy, rows, dtype)
    together = results(policy, parameters, samples, direction)
    for task in range(TASKS):
        one = itemgetter(slice(task, task + 1))
        alone = results(policy, one(parameters), moved(samples, one), one(direction))
        assert differing(alone, {name: one(values) for name, values in together.items()}) == []


@pytest.mark.parametrize("name", ["navigation", "half-cheetah"])
def test_an_output_does_not_depend_on_how_many_rows_there_are_from_four_on(name):
    policy = POLICIES[name]
    parameters, samples, _ = make_problem(policy, 100, torch.float32)
    outputs = policy.outputs(parameters, samples.observations)
    for rows in range(4, 100):
        assert torch.equal(policy.outputs(parameters, samples.observations[:, :rows]), outputs[:, :rows])


@pytest.mark.parametrize(("chosen", "in_force"), [(None, "AUTO,STRICT"), ("COMPATIBLE", "COMPATIBLE"), ("", "")])
def test_the_package_chooses_mkls_reproducible_mode_unless_the_user_did(chosen, in_force):
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    if chosen is not None:
        environment["MKL_CBWR"] = chosen
    code = "import os, metarl; print(os.environ['MKL_CBWR'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{in_force}\n"


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="PyTorch was built without MKL")
def test_mkl_takes_the_mode_also_when_pytorch_was_imported_before_the_package():
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    code = "import torch, metarl; torch.ones(64, 64) @ torch.ones(64, 64)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "MKL_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CNR:AUTO,STRICT" in done.stdout
