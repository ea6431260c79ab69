"""Gradients that are made where they are to stay: the same numbers as those that are made and then copied.

`w.clone()` stands between an operation and the leaf, so that the gradient has to be made there. A failure of the first
law shows the case; one of a later law only, what was in the buffer before.
"""

from __future__ import annotations

from weakref import ref

import numpy as np
import pytest
from grids import ONE_AXIS, cpu_alone

from mpipar import GraphError, Tensor, embedding, layer_norm, randn, rms_norm, tensor
from mpipar.nn import vocab_parallel_linear_cross_entropy
from mpipar.ops import Context, op
from mpipar.ops.arithmetic import linear_rule
from mpipar.ops.unmade import Product
from mpipar.tensor.apply import apply

IDS, TARGETS = [[3, 0, 6, 3], [1, 3, 0, 9]], [[1, -1, 4, 3], [0, 6, 2, 2]]

CASES = {  # a function of x (2, 4, 3) and a weight, and the weight's shape
    "product": (lambda x, w: x.contract(w), (3, 5)),
    "product to more dims": (lambda x, w: x.contract(w), (3, 2, 5)),
    "product with a transposed weight": (lambda x, w: x.contract(w, transposed=True), (5, 3)),
    "product over two dims": (lambda x, w: x.contract(w, 2), (4, 3, 5)),
    "product over two dims, transposed": (lambda x, w: x.contract(w, 2, transposed=True), (5, 2, 4, 3)),
    "product and bias": (lambda x, w: x.contract(w, bias=randn("b", w.shape[1:], x.mesh, dtype=x.dtype)), (3, 2, 5)),
    "embedding": (lambda x, w: embedding(w, tensor(IDS, x.mesh)) * x, (7, 3)),
    "head": (lambda x, w: head(x, w, False), (3, 7)),
    "tied head": (lambda x, w: head(x, w, True), (7, 3)),
}  # fmt: skip
cases = pytest.mark.parametrize("name", CASES)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def head(x: Tensor, w: Tensor, transposed: bool) -> Tensor:
    return vocab_parallel_linear_cross_entropy(x, w, tensor(TARGETS, x.mesh), transposed=transposed)


@pytest.fixture
def mesh(make_mesh):
    return make_mesh(**ONE_AXIS)


def inputs(mesh, name, dtype):
    f, shape = CASES[name]
    return (
        f,
        randn("x", (2, 4, 3), mesh, dtype=dtype),
        randn("w", shape, mesh, dtype=dtype, requires_grad=True),
    )


def loss(y: Tensor) -> Tensor:
    return y if not y.ndim else (y * randn("g", y.shape, y.mesh, dtype=y.dtype)).sum()


def made(mesh, name, dtype):
    """The gradient by way of an array of its own."""
    f, x, w = inputs(mesh, name, dtype)
    loss(f(x, w.clone())).backward()
    return w.grad.numpy()


def close(found, expected):
    rtol = 1e-6 if expected.dtype == np.float32 else 1e-14
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@cases
@DTYPES
def test_written_over_whatever_was_there(name, dtype, mesh):
    f, x, w = inputs(mesh, name, dtype)
    buffer = mesh.xp.zeros(w.local.shape, dtype)
    w.leaf.adopt(buffer)
    mesh.xp.fill(buffer, float("nan"))
    loss(f(x, w)).backward()
    assert w.grad.local is buffer
    np.testing.assert_array_equal(w.grad.numpy(), made(mesh, name, dtype))


@cases
@DTYPES
def test_in_memory_of_its_own_where_no_buffer_is_given(name, dtype, mesh):
    f, x, w = inputs(mesh, name, dtype)
    loss(f(x, w)).backward()
    np.testing.assert_array_equal(w.grad.numpy(), made(mesh, name, dtype))


@cases
@DTYPES
def test_added_to_what_has_arrived(name, dtype, mesh):
    """Uses in one graph, a graph that is kept, and micro-batches."""
    once = made(mesh, name, dtype)
    f, x, w = inputs(mesh, name, dtype)
    y = loss(f(x, w)) + loss(f(x, w))
    y.backward(keep=True)
    close(w.grad.numpy(), 2 * once)
    y.backward()
    close(w.grad.numpy(), 4 * once)
    loss(f(x, w)).backward()
    close(w.grad.numpy(), 5 * once)


@cases
def test_in_the_dtype_of_the_buffer(name, mesh):
    f, x, w = inputs(mesh, name, "float32")
    buffer = mesh.xp.zeros(w.local.shape, "float64")
    w.leaf.adopt(buffer)
    for times in (1, 2):
        loss(f(x, w)).backward()
        np.testing.assert_array_equal(w.grad.numpy(), times * made(mesh, name, "float32").astype("float64"))


def test_an_embedding_and_the_head_that_is_tied_to_it(mesh):
    def step(x, table, weight):
        return head(embedding(table, tensor(IDS, x.mesh)) + x, weight, True)

    _, x, w = inputs(mesh, "tied head", "float64")
    step(x, w, w).backward()
    whole = w.grad.numpy()
    w.clear_grad()
    step(x, w.clone(), w.detach()).backward()
    step(x, w.detach(), w.clone()).backward()
    close(whole, w.grad.numpy())


def test_an_unmade_gradient_of_another_shape_is_refused(mesh):
    @op(linear_rule)
    def wrong(context: Context, x):
        return x * 1, (lambda g: Product(context.xp, g, g, (9,)),)

    w = randn("w", (3, 3), mesh, requires_grad=True)
    with pytest.raises(
        GraphError, match=r"the vjp of 'wrong' gave a gradient of \(9,\) for an operand that is \(3, 3\)"
    ):
        apply(wrong, w).sum().backward()


@cpu_alone
def test_what_it_is_made_of_is_free_before_the_next_vjp_runs(mesh):
    kept: list[ref] = []
    alive: list[bool] = []

    @op(linear_rule)
    def looking(context: Context, x):
        def vjp(g):
            alive.extend(factor() is not None for factor in kept)
            return g

        return x * 1, (vjp,)

    @op(linear_rule)
    def at_once(context: Context, x):
        def vjp(g):
            factor = context.xp.copy(g)
            kept.append(ref(factor))
            return (Product(context.xp, g, factor, x.shape),)

        return x * 1, vjp

    w = randn("w", (3, 3), mesh, requires_grad=True)
    (apply(looking, w * 1) + apply(at_once, w)).sum().backward()
    assert alive == [False]


@pytest.mark.parametrize("norm", [layer_norm, rms_norm], ids=["layer norm", "RMS norm"])
def test_a_residual_sum_is_made_in_the_norms_gradient_and_changes_no_other(norm, mesh):
    """x + norm(x): what comes in is handed on to x as it is, and added to; it stays what it was."""
    x = randn("x", (2, 4, 3), mesh, dtype="float64", requires_grad=True)
    weights = [tensor([1.0, 2.0, 3.0], mesh, dtype="float64") for _ in range(2 if norm is layer_norm else 1)]
    below = x * 2
    y = below + norm(below, *weights)
    g = mesh.xp.full(y.local.shape, 0.5, "float64")
    y.backward(Tensor(g, mesh, y.layout.dual), keep=True)
    once = x.grad.numpy()
    assert np.unique(mesh.xp.to_host(g)) == [0.5]
    y.backward(Tensor(g, mesh, y.layout.dual))
    np.testing.assert_allclose(x.grad.numpy(), 2 * once, rtol=1e-14)
    apart = randn("x", (2, 4, 3), mesh, dtype="float64", requires_grad=True)
    (apart * 2 + norm((apart * 2).clone(), *weights)).backward(Tensor(g, mesh, y.layout.dual))
    np.testing.assert_allclose(once, apart.grad.numpy(), rtol=1e-14)
