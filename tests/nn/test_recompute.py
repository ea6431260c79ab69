"""Recomputation changes memory and communication, and no bit of a gradient.

A failure of the first test names the parameter: a collective or a mask of the second forward pass was another one. One
of the counts shows them by axis and operation; one of the bytes, the formula against what the tape keeps.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from grids import ONE_AXIS, TWO_AXES, all_grids, cpu_alone, grid_name
from tape_memory import kept_bytes
from weights import local_bytes

from mpipar import GraphError, Mesh, Replicate, Shard, Tensor, UsageError, no_grad, parameter, randn
from mpipar.blocks import balanced
from mpipar.models import GPT, GPTConfig
from mpipar.models.gpt import Block
from mpipar.nn import checkpoint
from mpipar.nn.recompute import product
from mpipar.random import Noise
from mpipar.tensor import tensor
from mpipar.testing import Tally, check_grads, count_collectives
from mpipar.testing.collectives import Counts

B, T, C, V = 3, 5, 8, 11
ITEM = 8  # bytes of a float64
HIDDEN = {"gpt2": 4 * C, "llama": 32}
HOW = pytest.mark.parametrize("how", ["selective", "full"])
STYLE = pytest.mark.parametrize("style", ["gpt2", "llama"])
SEQUENCE = pytest.mark.parametrize("sequence", [False, True], ids=["whole", "sequence"])


def config(how: str = "none", sequence: bool = False, style: str = "gpt2", layers: int = 2) -> GPTConfig:
    return GPTConfig(V, T, layers, 4, C, 0.3, sequence, dtype="float64", style=style, recompute=how)


def stream(mesh: Mesh, sequence: bool) -> Tensor:
    cut: dict[str, Any] = {"tp": Shard(1)} if sequence else {}
    return randn("x", (B, T, C), mesh, dtype="float64", requires_grad=True, dp=Shard(0), **cut)


def through_a_block(mesh: Mesh, how: str, sequence: bool, style: str) -> tuple[Tensor, Block]:
    model = GPT(config(how, sequence, style), mesh)
    return model.through(model.blocks[0], stream(mesh, sequence), Noise(1, 2)), model.blocks[0]


def rows_here(mesh: Mesh) -> int:
    return balanced(B, mesh.shape["dp"])[mesh["dp"].rank]


def positions_here(mesh: Mesh, sequence: bool) -> int:
    return balanced(T, mesh.shape["tp"])[mesh["tp"].rank] if sequence else T


# ---- the same numbers -------------------------------------------------------------------------------------------


def gradients(mesh: Mesh, config: GPTConfig) -> dict[str, list[bytes]]:
    """Of two micro-batches, dropout on; and the losses."""
    model, losses = GPT(config, mesh), []
    for first in (0, B):
        tokens = tensor((np.arange(first, first + B * T) % V).reshape(B, T), mesh, dp=Shard(0))
        loss = model.loss(tokens, tokens, Noise(1, 2, first))
        loss.backward()
        losses.append(loss)
    names = model.named_parameters()
    return {"losses": local_bytes(losses)} | {name: local_bytes([p.grad]) for name, p in names.items()}


@HOW
@SEQUENCE
@STYLE
@all_grids
def test_gradients_have_the_same_bits(axes, style, sequence, how, make_mesh):
    mesh = make_mesh(**axes)
    expected = gradients(mesh, config("none", sequence, style))
    found = gradients(mesh, config(how, sequence, style))
    assert [name for name in expected if found[name] != expected[name]] == []


def test_another_mask_in_the_second_pass_would_show(make_mesh):
    """The masks are those of the step: with those of another one gradients differ."""
    mesh = make_mesh(**ONE_AXIS)
    block = Block("block", config(), mesh)

    def gradient(again: Noise) -> bytes:
        x = stream(mesh, False)
        checkpoint(partial(block, noise=Noise(1, 2)), x, again=partial(block, noise=again)).sum().backward()
        return local_bytes([x.grad])[0]

    x = stream(mesh, False)
    block(x, Noise(1, 2)).sum().backward()
    assert gradient(Noise(1, 2)) == local_bytes([x.grad])[0] != gradient(Noise(1, 3))


@cpu_alone
@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_it_passes_the_dot_test(axes, make_mesh):
    mesh = make_mesh(**axes)
    x = randn("x", (3, 4), mesh, dtype="float64", dp=Shard(0), requires_grad=True)
    w = randn("w", (4, 5), mesh, dtype="float64", tp=Shard(1), requires_grad=True)
    check_grads(lambda x, w: checkpoint(lambda x, w: (x @ w).tanh(), x, w), x, w)
    check_grads(lambda x, w: product(x, w, lambda x: x.tanh()), x, w)


# ---- collectives ------------------------------------------------------------------------------------------------


def counted(mesh: Mesh, how: str, sequence: bool, style: str) -> Counts:
    """What the way back through a block communicates."""
    y, _ = through_a_block(mesh, how, sequence, style)
    with count_collectives(mesh) as counts:
        y.sum().backward()
    return counts


@HOW
@SEQUENCE
@STYLE
@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_what_is_done_again_is_in_the_ledger(axes, style, sequence, how, make_mesh):
    """Full: the collectives of the forward pass. Selective: under sequence parallelism one allgather."""
    mesh = make_mesh(**axes)
    expected = counted(mesh, "none", sequence, style)
    if mesh.shape["tp"] > 1:
        here = rows_here(mesh) * positions_here(mesh, sequence) * C * ITEM
        others = rows_here(mesh) * T * C * ITEM - here
        extra = {"allreduce": Tally(2, 2 * here)} if how == "full" else {}
        if sequence:
            gathers = 2 if how == "full" else 1
            extra = {"allgather": Tally(gathers, gathers * here)}
            extra |= {"reduce_scatter": Tally(2, 2 * others)} if how == "full" else {}
        for operation, more in extra.items():
            before = expected["tp", operation]
            expected["tp", operation] = Tally(before.calls + more.calls, before.bytes + more.bytes)
    assert counted(mesh, how, sequence, style) == expected


# ---- memory -----------------------------------------------------------------------------------------------------


def kept(mesh: Mesh, how: str, sequence: bool, style: str) -> int:
    """The bytes that backward through a block needs, its weights not counted."""
    y, block = through_a_block(mesh, how, sequence, style)
    return kept_bytes(y, *block.parameters())


@cpu_alone
@SEQUENCE
@STYLE
@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_what_is_kept_is_the_formula(axes, style, sequence, make_mesh):
    """Full: the stream. Selective: all but the second norm with its statistics, the gather and the activation."""
    mesh = make_mesh(**axes)
    tp, rows, here = mesh["tp"], rows_here(mesh), positions_here(mesh, sequence)
    assert kept(mesh, "full", sequence, style) == rows * here * C * ITEM
    hidden = balanced(HIDDEN[style], tp.size)[tp.rank]
    norm = rows * here * (2 if style == "gpt2" else 1)  # mean and scale of a row
    saved = (
        rows * T * (C + hidden) + norm
    ) * ITEM  # what is gathered is whole, and the norm itself nobody keeps
    assert kept(mesh, "none", sequence, style) - kept(mesh, "selective", sequence, style) == saved


@cpu_alone
@HOW
def test_the_peak_falls_by_what_is_not_kept(how, make_mesh):
    """Live bytes at the peak of a step: all blocks but the one that is worked on do without what is made again."""
    mesh = make_mesh(dp=make_mesh(**ONE_AXIS).size)
    layers, rows, length, width = 8, mesh.size, 64, 64

    def peak(how: str) -> int:
        shape = GPTConfig(V, length, layers, 4, width, dtype="float32", recompute=how)
        model = GPT(shape, mesh)
        tokens = tensor(np.zeros((rows, length), int), mesh, dp=Shard(0))
        model.loss(tokens, tokens).backward()  # buffers of gradients are there from now on
        tracemalloc.start()
        try:
            model.loss(tokens, tokens).backward()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    stream = length * width * 4
    less = {"selective": (1 + 4) * stream, "full": (16 - 1) * stream}[how]
    fell = peak("none") - peak(how)
    assert (layers - 1) * less * 0.98 <= fell <= (layers + 1) * less * 1.02, fell / stream


# ---- what a function may use ------------------------------------------------------------------------------------


@pytest.fixture
def two(make_mesh: Callable[..., Mesh]) -> tuple[Tensor, Tensor]:
    mesh = make_mesh(**ONE_AXIS)
    x = randn("x", (5, 3), mesh, dtype="float64", tp=Shard(0), requires_grad=True)
    return x, parameter("w", (3, 3), mesh, dtype="float64")


def test_a_weight_may_be_used_from_outside_and_another_tensor_may_not(two):
    x, w = two
    checkpoint(lambda x: x @ w, x).sum().backward()
    assert w.grad is not None
    hidden = x @ w
    with pytest.raises(GraphError, match=r"checkpoint: 'add' in the function uses a tensor \(5, 3; tp="):
        checkpoint(lambda x: x + hidden, x)
    checkpoint(lambda x, h: x + h, x, hidden).sum().backward()
    with no_grad():
        checkpoint(lambda x: x + hidden, x)  # nothing is recorded: no mistake


def test_a_change_between_the_passes_is_refused(two):
    for changed in two:
        x, w = two
        y = checkpoint(lambda x, w=w: x @ w, x)
        with no_grad():
            changed.mul_(2.0)
        with pytest.raises(GraphError, match="backward through 'checkpoint': a value"):
            y.sum().backward()


def test_nothing_is_recorded_where_nothing_asks_for_it(two):
    x, w = two
    assert not checkpoint(lambda x: x.tanh(), x.detach()).requires_grad
    assert checkpoint(lambda x: x @ w, x.detach()).requires_grad
    with no_grad():
        assert not checkpoint(lambda x: x @ w, x).requires_grad


def test_a_function_that_gives_back_its_argument(two):
    x, _ = two
    checkpoint(lambda x: x, x).sum().backward()
    assert (x.grad.numpy() == 1).all()


def test_one_inside_another_and_backward_twice(two):
    x, w = two

    def f(x: Tensor) -> Tensor:
        return (x @ w).tanh()

    f(f(f(x))).sum().backward()
    expected = local_bytes([x.grad, w.grad])
    x.clear_grad(), w.clear_grad()
    y = checkpoint(lambda x: f(checkpoint(lambda x: f(checkpoint(f, x)), x)), x).sum()
    y.backward(keep=True)
    assert local_bytes([x.grad, w.grad]) == expected
    x.clear_grad(), w.clear_grad()
    with no_grad():
        y.backward()
    assert local_bytes([x.grad, w.grad]) == expected
    with pytest.raises(GraphError, match="its graph was freed"):
        y.backward()


def test_a_weight_that_is_gathered_inside_is_gathered_again(make_mesh):
    """As under ZeRO-3: the whole weight lives in the function alone, its gradient is scattered by the gather's vjp."""
    mesh = make_mesh(**ONE_AXIS)
    n = mesh.shape["tp"]
    x = randn("x", (5, 4), mesh, dtype="float64", tp=Shard(0), requires_grad=True)
    w = parameter("w", (4, 4), mesh, dtype="float64", tp=Shard(0))

    def f(x: Tensor) -> Tensor:
        return (x @ w.redistribute(tp=Replicate())).tanh()

    f(f(x)).sum().backward()
    expected = local_bytes([x.grad, w.grad])
    x.clear_grad(), w.clear_grad()
    with count_collectives(mesh) as forward:
        y = checkpoint(f, checkpoint(f, x)).sum()
    with count_collectives(mesh) as backward:
        y.backward()
    assert local_bytes([x.grad, w.grad]) == expected
    gathers = Tally(2, 2 * w.local.nbytes)
    scatters = Tally(2, 2 * (4 * 4 * ITEM - w.local.nbytes))
    assert forward == ({("tp", "allgather"): gathers} if n > 1 else {})
    assert backward == ({("tp", "allgather"): gathers, ("tp", "reduce_scatter"): scatters} if n > 1 else {})


def test_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match=r"recompute='half' is unknown\. Known: none, selective, full"):
        GPTConfig(recompute="half")
