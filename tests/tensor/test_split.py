"""Backward in two parts: the same bits as in one, and the weights' part waits, with the moves in it.

A failure names the weight whose gradient came too early, or is another one.
"""

from __future__ import annotations

import numpy as np
import pytest
from grids import ONE_AXIS, TWO_AXES, grid_name
from weights import local_bytes

from mpipar import GraphError, Replicate, Shard, Tensor, feed_forward, parameter, randn, tensor
from mpipar.models import GPT, GPTConfig
from mpipar.models.gpt import Block
from mpipar.random import Noise
from mpipar.testing.values import leaf, represented

CONFIG = GPTConfig(11, 6, 1, 4, 16, 0.2, dtype="float64")
STYLES = {"gpt2": {}, "llama": {"style": "llama", "kv_heads": 2}}
# a norm gives all its gradients at once, a feed-forward half that of the bias within
EARLY = ("gain", "norm_1.bias", "norm_2.bias", "norm.bias", "up.bias")


def config(style: str, sequence: bool) -> GPTConfig:
    return GPTConfig(11, 6, 2, 4, 16, 0.2, sequence, dtype="float64", **STYLES[style])


def run_block(mesh, style, sequence):
    c = config(style, sequence)
    block = Block("block", c, mesh)
    placements = {"dp": Shard(0), **({"tp": Shard(1)} if sequence else {})}
    x = randn("x", (3, 6, 16), mesh, dtype="float64", requires_grad=True, **placements)
    y = block(x, Noise(0, 0))
    g = Tensor(represented(mesh, y.layout.dual, "g"), mesh, y.layout.dual)
    return block, x, y, g


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_both_parts_are_the_whole(axes, sequence, style, make_mesh):
    mesh = make_mesh(**axes)
    block, x, y, g = run_block(mesh, style, sequence)
    y.backward(g)
    expected = local_bytes([x.grad, *(p.grad for p in block.parameters())])
    block, x, y, g = run_block(mesh, style, sequence)
    later = y.backward_input(x, gradient=g)
    assert local_bytes([x.grad]) == expected[:1]
    early = {name for name, p in block.named_parameters().items() if p.grad is not None}
    assert all(name.endswith(EARLY) for name in early), early
    before = local_bytes([x.grad])
    later.run()
    assert local_bytes([x.grad, *(p.grad for p in block.parameters())]) == expected
    assert local_bytes([x.grad]) == before
    with pytest.raises(GraphError, match="a second time"):
        y.backward(g)


@pytest.mark.parametrize("style", STYLES)
def test_the_first_stage_splits_too_though_tokens_have_no_gradient(style, make_mesh):
    """The gradients of activations are made at once down to the embedding, whose own waits as all weights' do."""
    mesh = make_mesh(**ONE_AXIS)

    def forward():
        model = GPT(config(style, False), mesh)
        return model, model.loss(tensor([[1, 2, 3]], mesh), tensor([[2, 3, 4]], mesh), Noise(0, 0))

    model, loss = forward()
    loss.backward()
    expected = local_bytes([p.grad for p in model.parameters()])
    model, loss = forward()
    with mesh.ledger.record() as first:
        later = loss.backward_input()
    assert {
        n for n, p in model.named_parameters().items() if p.grad is not None and not n.endswith(EARLY)
    } == set()
    with mesh.ledger.record() as second:
        later.run()
    assert local_bytes([p.grad for p in model.parameters()]) == expected
    assert (len(first) > 0) == (mesh.size > 1)
    assert not second  # the moves between activations are all in the first part


def test_what_follows_a_weight_gradient_waits_with_it(make_mesh):
    """A weight that is gathered where it is used: the reduce_scatter of its gradient is in the second part."""
    mesh = make_mesh(**ONE_AXIS)
    w = parameter("w", (8, 3), mesh, dtype="float64", tp=Shard(0))
    x = leaf(represented(mesh, randn("x", (2, 8), mesh).layout, "x"), mesh, randn("x", (2, 8), mesh).layout)
    y = x.contract(w.redistribute(tp=Replicate()).tanh()).square().sum()
    with mesh.ledger.record() as first:
        later = y.backward_input(x)
    assert not first
    assert w.grad is None
    with mesh.ledger.record() as second:
        later.run()
    assert [call.operation for call in second if mesh.size > 1] == (
        ["reduce_scatter"] if mesh.size > 1 else []
    )
    assert w.grad.layout == w.layout
    later.run()  # there is nothing left
    assert x.grad is not None


def test_a_leaf_alone_and_what_no_input_leads_to(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    x = tensor([1.0, 2.0], mesh, requires_grad=True)
    x.backward_input(x, gradient=Tensor(x.local, mesh, x.layout.dual)).run()
    assert x.grad is not None
    w = tensor(3.0, mesh, requires_grad=True, name="w")
    other = tensor(1.0, mesh, requires_grad=True)
    later = w.square().backward_input(other)
    assert (w.grad, other.grad) == (None, None)
    later.run()
    assert w.grad.numpy() == 6.0
    assert other.grad is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_product_waits_where_its_operation_gives_all_gradients_at_once_too(dtype, make_mesh):
    """16-bit operands are widened again in backward, by one function for both gradients."""
    mesh = make_mesh(**ONE_AXIS)

    def run(backward):
        x = randn("x", (4, 8), mesh, dtype=dtype, requires_grad=True)
        w = parameter("w", (8, 16), mesh, dtype=dtype)
        backward(x, w, ((x @ w) @ w.transpose(0, 1)).square().sum())
        return local_bytes([x.grad, w.grad])

    def in_parts(x, w, y):
        later = y.backward_input(x)
        assert x.grad is not None
        assert w.grad is None
        later.run()

    assert run(in_parts) == run(lambda x, w, y: y.backward())


def test_the_products_of_a_feed_forward_wait_and_need_no_weight(make_mesh):
    """The second part needs no weight: under ZeRO 3 others are in their memory by then."""
    mesh = make_mesh(**ONE_AXIS)
    shapes = {"up": (3, 7), "bias": (7,), "down": (7, 4)}
    x, weights = randn("x", (5, 3), mesh), [randn(n, s, mesh, requires_grad=True) for n, s in shapes.items()]
    feed_forward(x, *weights).square().sum().backward()
    expected = local_bytes([w.grad for w in weights])
    for w in weights:
        w.clear_grad()
    later = feed_forward(x, *weights).square().sum().backward_input()
    assert [w.grad is None for w in weights] == [True, False, True]  # all but the bias
    for w in weights:
        mesh.xp.fill(w.local, 0)  # unseen by the tape
    later.run()
    assert local_bytes([w.grad for w in weights]) == expected


def test_a_graph_that_is_kept_gives_gradients_of_what_comes_in_next(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    shapes = [(5, 3), (3, 7), (7,), (7, 4)]
    leaves = [randn(f"x{k}", s, mesh, dtype="float64", requires_grad=True) for k, s in enumerate(shapes)]
    y = feed_forward(*leaves)
    g = mesh.xp.full(y.local.shape, 1.0, "float64")
    y.backward(Tensor(g, mesh, y.layout.dual), keep=True)
    once = [x.grad.numpy() for x in leaves]
    mesh.xp.fill(g, 2.0)  # the same array, with another gradient in it
    y.backward(Tensor(g, mesh, y.layout.dual))
    for x, first in zip(leaves, once, strict=True):
        np.testing.assert_allclose(x.grad.numpy(), 3 * first, rtol=1e-12)
