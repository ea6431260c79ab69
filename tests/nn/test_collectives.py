"""What a transformer block and a GPT communicate: exactly these collectives, and exactly these bytes.

A failure shows the counts by axis and operation on this rank. One more allreduce than expected is a gradient or an
activation that is summed twice, or a move that nobody wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from grids import ONE_AXIS, all_grids
from op_cases import IDS, TARGETS

from mpipar import Mesh, Partial, Shard, Tensor, randn
from mpipar.blocks import balanced
from mpipar.models import GPT, GPTConfig
from mpipar.models.gpt import Block
from mpipar.testing import Tally, count_collectives
from mpipar.testing.collectives import Counts

B, T, C, V = 2, 5, 8, 7
ITEM = 8  # bytes of a float64


STYLES = pytest.mark.parametrize(
    "style",
    [
        {},
        {"style": "llama", "kv_heads": 4},
        {"style": "llama", "kv_heads": 2},
        {"style": "llama", "kv_heads": 1},
    ],
    ids=["gpt2", "llama", "llama-2-of-4", "llama-1-of-4"],
)


def config(sequence: bool, style: dict[str, Any]) -> GPTConfig:
    return GPTConfig(V, T, 3, 4, C, 0.0, sequence, dtype="float64", **style)


def counted(mesh: Mesh, f: Callable[[], Tensor]) -> tuple[Counts, Counts]:
    """What f and the way back communicate."""
    with count_collectives(mesh) as forward:
        y = f()
    with count_collectives(mesh) as backward:
        y.sum().backward()
    return forward, backward


def block_counts(mesh: Mesh, sequence: bool, blocks: int = 1) -> Counts:
    """What blocks cost, either way: the residual stream is (B, T, C)."""
    if mesh.shape["tp"] == 1:
        return {}
    rows = B if mesh.shape["dp"] == 1 else balanced(B, mesh.shape["dp"])[mesh["dp"].rank]
    row = 2 * blocks * rows * C * ITEM
    if not sequence:
        return {("tp", "allreduce"): Tally(2 * blocks, row * T)}
    here = balanced(T, mesh.shape["tp"])[mesh["tp"].rank]
    return {
        ("tp", "allgather"): Tally(2 * blocks, row * here),
        ("tp", "reduce_scatter"): Tally(2 * blocks, row * (T - here)),
    }


def stream(mesh: Mesh, sequence: bool) -> Tensor:
    placements = {"tp": Shard(1)} if sequence else {}
    return randn("x", (B, T, C), mesh, dtype="float64", requires_grad=True, dp=Shard(0), **placements)


@STYLES
@pytest.mark.parametrize("sequence", [False, True])
@all_grids
def test_a_block_communicates_exactly_this(axes, sequence, style, make_mesh):
    """The same in both styles: fewer heads of keys cost no collective, repeated or cut."""
    mesh = make_mesh(**axes)
    block, x = Block("block", config(sequence, style), mesh), stream(mesh, sequence)
    forward, backward = counted(mesh, lambda: block(x))
    assert forward == backward == block_counts(mesh, sequence)


@pytest.mark.parametrize("sequence", [False, True])
def test_one_allreduce_more_is_seen(sequence, make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    block, x = Block("block", config(sequence, {}), mesh), stream(mesh, sequence)
    forward, backward = counted(mesh, lambda: block(x).redistribute(tp=Partial()).allreduce("tp"))
    if mesh.size > 1:
        assert forward != block_counts(mesh, sequence)
        assert backward != block_counts(mesh, sequence)


@STYLES
def test_a_gpt_communicates_exactly_this(style, make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    model = GPT(config(False, style), mesh)
    tokens, targets = IDS.make("tokens", mesh, "int64"), TARGETS.make("targets", mesh, "int64")
    with count_collectives(mesh) as forward:
        loss = model.loss(tokens, targets)
    with count_collectives(mesh) as backward:
        loss.backward()  # Partial over tp: nothing more to sum
    if mesh.size == 1:
        assert forward == backward == {}
        return
    blocks = block_counts(mesh, False, model.config.layers)["tp", "allreduce"]
    embedding = B * T * C * ITEM  # the looked-up rows
    softmax = 2 * B * T * ITEM  # of each token a maximum and a sum, all tokens in one block of the head
    assert forward == {
        ("tp", "allreduce"): Tally(blocks.calls + 1, blocks.bytes + embedding),
        ("tp", "allgather"): Tally(1, softmax),
    }
    assert backward == {("tp", "allreduce"): Tally(blocks.calls + 1, blocks.bytes + embedding)}
