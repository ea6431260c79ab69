"""Every layer: on every placement of its input that it takes, it equals the same layer on one rank.

Output, gradients of inputs and of all weights, to 1e-12, on each mesh; heads, hidden channels, sequence and vocabulary
do not divide. A failure names the mesh, the placements of the inputs, and the weight whose gradient is apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import pytest
from grids import ONE_AXIS, devices_and_grids, grid_name
from op_cases import IDS, TARGETS, Integers, Numbers

from mpipar import Mesh, Shard, Tensor, models, nn
from mpipar.job import world
from mpipar.models import GPT, GPTConfig
from mpipar.models.gpt import Block
from mpipar.nn import (
    ColumnParallelLinear,
    Dropout,
    LayerNorm,
    LearnedPositions,
    Linear,
    Module,
    ParallelGroupedAttention,
    ParallelMLP,
    ParallelSelfAttention,
    ParallelSwiGLU,
    RMSNorm,
    RowParallelLinear,
    VocabParallelEmbedding,
)
from mpipar.random import Noise
from mpipar.testing import check_every_placement

X = Numbers((2, 5, 8))
NOISE = Noise(1, 2, 3)


def shape(
    *, sequence: bool = False, dropout: float = 0.0, dtype: str = "float64", **style: str | int
) -> GPTConfig:
    """4 heads, which do not divide over 3 ranks; 7 words, which divide over none."""
    return GPTConfig(7, 6, 2, 4, 8, dropout, sequence, seed=1, dtype=dtype, **style)


LLAMA = {"style": "llama", "kv_heads": 2}  # whose pieces fit those of 4 heads over 2 ranks, not over 3 or 4


class Layer(NamedTuple):
    make: Callable[[Mesh], Module]
    inputs: tuple[Numbers | Integers, ...] = (X,)
    f: Callable[..., Tensor] = lambda layer, *inputs: layer(*inputs)


F64 = {"dtype": "float64"}


def grouped(kv_heads: int, heads: int = 4, **options: bool) -> Layer:
    """Over any number of ranks: with 4 heads of keys cut, with 1 repeated; with 3 of 6 cut on 3 ranks alone."""
    width = 2 * heads
    return Layer(
        lambda mesh: ParallelGroupedAttention("layer", width, heads, kv_heads, mesh, **options, **F64),
        (Numbers((2, 5, width)),),
    )


LAYERS = {
    "Linear": Layer(lambda mesh: Linear("layer", 8, 5, mesh, **F64)),
    "Linear without bias": Layer(lambda mesh: Linear("layer", 8, 5, mesh, bias=False, **F64)),
    "LayerNorm": Layer(lambda mesh: LayerNorm("layer", 8, mesh, **F64)),
    "Dropout": Layer(lambda mesh: Dropout("layer", 0.4), f=lambda layer, x: layer(x, NOISE)),
    "ColumnParallelLinear": Layer(lambda mesh: ColumnParallelLinear("layer", 8, 5, mesh, **F64)),
    "ColumnParallelLinear without bias": Layer(
        lambda mesh: ColumnParallelLinear("layer", 8, 5, mesh, bias=False, **F64)
    ),
    "RowParallelLinear": Layer(lambda mesh: RowParallelLinear("layer", 8, 5, mesh, **F64)),
    "RowParallelLinear that scatters": Layer(
        lambda mesh: RowParallelLinear("layer", 8, 5, mesh, scatter=1, **F64)
    ),
    "RowParallelLinear without bias": Layer(
        lambda mesh: RowParallelLinear("layer", 8, 5, mesh, bias=False, **F64)
    ),
    "RowParallelLinear over dp": Layer(
        lambda mesh: RowParallelLinear("layer", 8, 5, mesh, axis="dp", **F64),
        f=lambda layer, x: layer(x.redistribute(dp=Shard(2))),
    ),
    "VocabParallelEmbedding": Layer(lambda mesh: VocabParallelEmbedding("layer", 7, 8, mesh, **F64), (IDS,)),
    "VocabParallelEmbedding that scatters": Layer(
        lambda mesh: VocabParallelEmbedding("layer", 7, 8, mesh, scatter=1, **F64), (IDS,)
    ),
    "tied head": Layer(
        lambda mesh: VocabParallelEmbedding("layer", 7, 8, mesh, **F64), f=VocabParallelEmbedding.logits
    ),
    "tied head and its loss": Layer(
        lambda mesh: VocabParallelEmbedding("layer", 7, 8, mesh, **F64),
        (X, TARGETS),
        VocabParallelEmbedding.cross_entropy,
    ),
    "head and its loss": Layer(
        lambda mesh: ColumnParallelLinear("layer", 8, 7, mesh, bias=False, **F64),
        (X, TARGETS),
        ColumnParallelLinear.cross_entropy,
    ),
    "LearnedPositions": Layer(lambda mesh: LearnedPositions("layer", 9, 8, mesh, **F64)),
    "LearnedPositions, sequence": Layer(
        lambda mesh: LearnedPositions("layer", 9, 8, mesh, axis="tp", **F64),
        f=lambda layer, x: layer(x.redistribute(tp=Shard(1))),
    ),
    "ParallelMLP": Layer(lambda mesh: ParallelMLP("layer", 8, 13, mesh, **F64)),
    "ParallelMLP, sequence": Layer(
        lambda mesh: ParallelMLP("layer", 8, 13, mesh, sequence_parallel=True, **F64)
    ),
    "ParallelSelfAttention": Layer(lambda mesh: ParallelSelfAttention("layer", 8, 4, mesh, **F64)),
    "ParallelSelfAttention, all to all": Layer(
        lambda mesh: ParallelSelfAttention("layer", 8, 4, mesh, causal=False, **F64)
    ),
    "ParallelSelfAttention, sequence": Layer(
        lambda mesh: ParallelSelfAttention("layer", 8, 4, mesh, sequence_parallel=True, **F64)
    ),
    "RMSNorm": Layer(lambda mesh: RMSNorm("layer", 8, mesh, **F64)),
    "ParallelSwiGLU": Layer(lambda mesh: ParallelSwiGLU("layer", 8, 13, mesh, **F64)),
    "ParallelSwiGLU, sequence": Layer(
        lambda mesh: ParallelSwiGLU("layer", 8, 13, mesh, sequence_parallel=True, **F64)
    ),
    "ParallelGroupedAttention": grouped(4),
    "ParallelGroupedAttention, 2 of 4": grouped(2),
    "ParallelGroupedAttention, 1 of 4, all to all": grouped(1, causal=False),
    "ParallelGroupedAttention, 3 of 6": grouped(3, 6),
    "ParallelGroupedAttention, 2 of 4, sequence": grouped(2, sequence_parallel=True),
    "Block": Layer(lambda mesh: Block("block", shape(), mesh)),
    "Block, sequence": Layer(lambda mesh: Block("block", shape(sequence=True), mesh)),
    "Block, dropout": Layer(
        lambda mesh: Block("block", shape(dropout=0.3), mesh), f=lambda block, x: block(x, NOISE)
    ),
    "GPT": Layer(lambda mesh: GPT(shape(), mesh), (IDS,)),
    "GPT, sequence": Layer(lambda mesh: GPT(shape(sequence=True), mesh), (IDS,)),
    "Llama block, sequence and dropout": Layer(
        lambda mesh: Block("block", shape(sequence=True, dropout=0.3, **LLAMA), mesh),
        f=lambda block, x: block(x, NOISE),
    ),
    "Llama": Layer(lambda mesh: GPT(shape(**LLAMA), mesh), (IDS,)),
    "Llama, sequence": Layer(lambda mesh: GPT(shape(sequence=True, **LLAMA), mesh), (IDS,)),
    "loss of Llama, sequence and dropout": Layer(
        lambda mesh: GPT(shape(sequence=True, dropout=0.3, **LLAMA), mesh),
        (IDS, TARGETS),
        lambda model, *inputs: model.loss(*inputs, NOISE),
    ),
    "loss of GPT": Layer(lambda mesh: GPT(shape(), mesh), (IDS, TARGETS), GPT.loss),
    "loss of GPT, sequence and dropout": Layer(
        lambda mesh: GPT(shape(sequence=True, dropout=0.3), mesh),
        (IDS, TARGETS),
        lambda model, *inputs: model.loss(*inputs, NOISE),
    ),
}
TRIED: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)  # by device and mesh: how many, by layer
FLOOR = {1: 40, 2: 140}  # by the number of axes


def inputs_on(mesh: Mesh, layer: Layer, dtype: str = "float64") -> list[Tensor]:
    return [given.make(f"x{k}", mesh, dtype) for k, given in enumerate(layer.inputs)]


@pytest.mark.parametrize("name", LAYERS)
@devices_and_grids
def test_every_placement_equals_one_rank(name, axes, make_mesh, device, count_cases):
    layer, mesh = LAYERS[name], make_mesh(**axes)
    count = check_every_placement(layer.f, *inputs_on(mesh, layer), make=layer.make)
    assert count > 0
    count_cases["placements of layers"] += count
    TRIED[device, grid_name(axes)][name] = count


@devices_and_grids
def test_the_number_of_placements_has_a_floor(axes, device):
    tried = TRIED[device, grid_name(axes)]
    if tried.keys() != LAYERS.keys():
        pytest.skip("not all layers were run")
    assert sum(tried.values()) >= FLOOR[len(axes)]


@pytest.mark.parametrize("style", [{}, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("sequence", [False, True])
def test_float32_equals_one_rank_to_its_precision(sequence, style, make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    inputs = inputs_on(mesh, LAYERS["loss of GPT"])
    config = shape(sequence=sequence, dtype="float32", **style)
    check_every_placement(GPT.loss, *inputs, make=lambda mesh: GPT(config, mesh), rtol=1e-5)


def test_every_layer_is_in_the_table():
    mesh = Mesh(ranks=[world().rank])
    made = {type(layer.make(mesh)) for layer in LAYERS.values()}
    for room in (nn, models):
        public = {vars(room)[name] for name in room.__all__}
        assert {x for x in public if isinstance(x, type) and issubclass(x, Module)} - {Module} <= made
