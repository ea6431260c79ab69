"""Micro-batches add up to the gradient of the whole batch, dropout on, to 1e-14.

Masks are keyed by the row in the whole batch, and the loss is divided by the tokens of the whole step: nothing depends
on the cut. A failure names the parameter.
"""

from __future__ import annotations

import numpy as np
import pytest
from grids import TWO_AXES, grid_name

from mpipar.data import Batches, Corpus, TextBatches
from mpipar.models import GPT, GPTConfig
from mpipar.parallel import sync_gradients
from mpipar.random import Noise

BATCH, CONTEXT = 7, 5
TEXT = memoryview(bytes(7 * i * i % 251 for i in range(400)))


def step(mesh, micro_batch):
    """The loss, the gradients of a step, and the number of forward passes."""
    config = GPTConfig(256, CONTEXT, 1, 4, 8, 0.2, dtype="float64")
    model = GPT(config, mesh)
    batches = Batches(TextBatches(Corpus(TEXT, TEXT, 1), 0, BATCH, CONTEXT), mesh, micro_batch)
    total, passes = 0.0, 0
    for part in batches.training(3):
        loss = model.loss(part.tokens, part.targets, Noise(0, 3, part.first_row)) / batches.tokens
        loss.backward()
        total += loss.detach().allreduce("dp", "tp").item()
        passes += 1
    sync_gradients(model)
    return total, {name: p.grad.numpy() for name, p in model.named_parameters().items()}, passes


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_micro_batches_equal_one_batch(axes, micro_batch, make_mesh):
    mesh = make_mesh(**axes)
    loss, gradients, one = step(mesh, 0)
    same_loss, same_gradients, passes = step(mesh, micro_batch)
    assert (one, passes) == (1, -(-BATCH // (micro_batch * axes["dp"])))
    assert same_loss == pytest.approx(loss, rel=1e-14)
    for name, whole in gradients.items():
        np.testing.assert_allclose(same_gradients[name], whole, rtol=0, atol=1e-14, err_msg=name)
