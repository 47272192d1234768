"""Convolutional bodies: shapes, normalisation by the batch, and the meta-gradient through them."""

import numpy as np
import pytest
import torch
from problems import initial, make_rule
from torch.nn import functional

from metarl import UserError
from metarl.common.parallel import Workers
from metarl.data import ExampleBatch
from metarl.inner.supervised import fit
from metarl.outer.objective import MetaObjective
from metarl.policies.convolution import BatchStatistics, conv4, conv4_pool
from metarl.policies.distributions import Categorical
from metarl.policies.module import ModulePolicy

WAYS, STEP = 3, 0.4
BODIES = [(conv4, 64), (conv4_pool, 3 * 16 * 16)]


def examples(size, seed, num_tasks=1, num=6):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(num_tasks, num, size, dtype=torch.float64, generator=generator)
    return ExampleBatch(inputs, torch.arange(num).remainder(WAYS).expand(num_tasks, num))


@pytest.mark.parametrize(
    ("body", "inputs", "features"),
    [(conv4, 28 * 28, 64), (conv4, 3 * 8 * 8, 64), (conv4_pool, 3 * 84 * 84, 800), (conv4_pool, 16 * 16, 32)],
)
def test_bodies_have_four_convolutions_and_a_linear_head(body, inputs, features):
    module = body(inputs, 5)
    shapes = {name: tuple(part.shape) for name, part in module.named_parameters()}
    filters = 64 if body is conv4 else 32
    assert sum(len(shape) == 4 for shape in shapes.values()) == 4
    assert all(shape[0] == filters and shape[2:] == (3, 3) for shape in shapes.values() if len(shape) == 4)
    assert shapes["head.weight"] == (5, features)
    assert ModulePolicy(inputs, Categorical(5), body).head == ["head.weight", "head.bias"]


def test_images_keep_their_places():
    module = conv4(3 * 8 * 8, 5)
    rows = torch.rand(4, 3 * 8 * 8)
    images = rows.reshape(4, 3, 8, 8)
    outputs = module(rows)
    assert torch.equal(outputs, module.head(module.summary(module.blocks(images))))
    for other in (images.flip(1), images.mT):
        assert not torch.allclose(module(other.reshape(4, -1)), outputs, atol=1e-3)


def test_batch_statistics_are_those_of_batch_normalisation():
    ours, theirs = BatchStatistics(3).double(), torch.nn.BatchNorm2d(3, BatchStatistics.epsilon).double()
    with torch.no_grad():
        for part in (ours, theirs):
            part.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
            part.bias.copy_(torch.tensor([0.1, 0.0, -0.3]))
    values = 3 + torch.randn(4, 3, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(values), theirs(values))
    assert not list(ours.buffers())
    # Transductive: a row's output depends on the others.
    assert not torch.allclose(ours(values)[:2], ours(values[:2]))


@pytest.mark.parametrize(("body", "size"), BODIES)
def test_meta_gradient_is_that_of_plain_autograd(body, size):
    policy = ModulePolicy(size, Categorical(WAYS), body)
    rule = make_rule("maml", policy, STEP)
    meta, support, query = initial(rule), examples(size, 1), examples(size, 2)
    loop = fit(rule, meta, rule.stages((1.0,)), torch.zeros(1, dtype=torch.long), support, query).loop
    with Workers(1) as workers:
        value, gradient = MetaObjective(loop, workers).loss_and_gradient()
    module = body(size, WAYS).double()
    shapes = [(name, part.shape) for name, part in module.named_parameters()]
    leaf = meta.clone().requires_grad_()

    def loss(parameters, batch):
        parts = parameters.split([shape.numel() for _, shape in shapes])
        tensors = {name: part.view(shape) for part, (name, shape) in zip(parts, shapes, strict=True)}
        outputs = torch.func.functional_call(module, tensors, (batch.inputs[0],))
        return functional.cross_entropy(outputs, batch.targets[0])

    (inner,) = torch.autograd.grad(loss(leaf, support), leaf, create_graph=True)
    expected = loss(leaf - STEP * inner, query)
    (of_plain,) = torch.autograd.grad(expected, leaf, retain_graph=True)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradient, of_plain, rtol=1e-8, atol=1e-11)
    # First-order gradients differ: the second derivatives are really there.
    (first_order,) = torch.autograd.grad(loss(leaf - STEP * inner.detach(), query), leaf)
    assert float((first_order - of_plain).norm()) > 0.01 * float(of_plain.norm())


def test_tasks_do_not_change_each_others_bits():
    policy = ModulePolicy(28 * 28, Categorical(WAYS), conv4)
    batch = examples(28 * 28, 1, num_tasks=3)
    parameters = torch.stack([policy.initial(np.random.default_rng(seed)).double() for seed in range(3)])
    together = policy.outputs(parameters, batch.inputs)
    for i in range(3):
        alone = policy.outputs(parameters[i : i + 1], batch.inputs[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)


@pytest.mark.parametrize(
    ("body", "inputs", "message"),
    [
        (conv4, 10, "a convolutional body needs square images of 1 or 3 channels, and 10 numbers are none"),
        (conv4_pool, 64, "conv4_pool halves images four times: they need 16 x 16 pixels, got 8 x 8"),
    ],
)
def test_what_is_no_image_is_refused(body, inputs, message):
    with pytest.raises(UserError, match=message):
        ModulePolicy(inputs, Categorical(2), body)
