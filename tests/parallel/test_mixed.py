"""16-bit runs on meshes agree with the 16-bit run of one rank, and follow the float32 run.

The unit u is the last digit of 1: 2⁻⁷ in bfloat16, 2⁻¹⁰ in float16; a rounding changes a number by u/2 of it at most.
What is rounded are the results of operations, and over tp the products before they are summed (their sums are float32).
A gradient passes about 20 roundings, which add up as a random walk does, to some 2 u. The loss is a mean of 30 terms in
which they cancel: in the first step u/64 bounds it, and u/2 the norm of the gradient; measured u/340 and u/9.

Adam makes the difference of the weights grow: where a gradient is next to nothing its rounding decides which way a
weight goes, and one run in twelve is then ten times as far from another as most are. So over all steps the median of
three runs is bounded, of the root of the mean square: u/16 of the loss, 2 u of the norm; measured u/100 and 0.42 u.
Of the largest difference in any step u/8 and 4 u bound it.

Over dp nothing more is rounded than on one rank; sums in another order turn a rounding here and there: measured 0.1 u
and u/160 at most in any step, bounds u/4 and u/64.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from grids import TWO_AXES, cpu_alone, grid_name
from mixed import BATCH, CONTEXT, Mixed
from tape_memory import kept_bytes
from weights import local_bytes

from mpipar import Mesh, Shard, tensor
from mpipar.job import world
from mpipar.models import GPT, GPTConfig
from mpipar.random import Noise

UNIT = {"bfloat16": 2**-7, "float16": 2**-10}
STEPS, SEEDS = 20, (3, 4, 5)
DTYPE = pytest.mark.parametrize("dtype", UNIT)


Curve = list[tuple[float, float, float]]


@cache
def serial(dtype: str, seed: int) -> Curve:
    """On one rank alone, on each."""
    return Mixed(Mesh(ranks=[world().rank], device="cpu"), dtype, seed=seed).train(0, STEPS)


def apart(run: Mixed, other: Curve) -> np.ndarray:
    """The relative differences of the losses and of the gradient norms, (steps, 2)."""
    mine, theirs = (np.array(curve)[:, :2] for curve in (run.train(0, STEPS), other))
    return np.abs(mine / theirs - 1)


def check_roundings(found: list[np.ndarray], u: float) -> None:
    """Of several runs: see the head of this file."""
    for differences in found:
        assert (differences[0] <= (u / 64, u / 2)).all(), differences[0] / u
    typical = np.median([np.sqrt((differences**2).mean(0)) for differences in found], axis=0)
    assert (typical <= (u / 16, 2 * u)).all(), typical / u
    largest = np.median([differences.max(0) for differences in found], axis=0)
    assert (largest <= (u / 8, 4 * u)).all(), largest / u


@cpu_alone
@DTYPE
@pytest.mark.parametrize("sequence", [False, True], ids=["whole", "sequence"])
@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_a_mesh_agrees_with_one_rank(axes, sequence, dtype, make_mesh):
    mesh, u = make_mesh(**axes), UNIT[dtype]
    if axes["tp"] == 1:
        largest = apart(Mixed(mesh, dtype, sequence), serial(dtype, SEEDS[0])).max(0)
        assert (largest <= (u / 64, u / 4)).all(), largest / u
    else:
        check_roundings(
            [apart(Mixed(mesh, dtype, sequence, seed=seed), serial(dtype, seed)) for seed in SEEDS], u
        )


@cpu_alone
@DTYPE
def test_it_follows_float32(dtype, make_mesh):
    mesh = make_mesh(**TWO_AXES[0])
    check_roundings([
        apart(Mixed(mesh, dtype, seed=seed), Mixed(mesh, "float32", seed=seed).train(0, STEPS)) for seed in SEEDS
    ], UNIT[dtype])  # fmt: skip


@DTYPE
@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_what_is_replicate_has_the_same_bits(axes, dtype, make_mesh):
    mesh = make_mesh(**axes)
    run = Mixed(mesh, dtype)
    run.train(0, 3)
    mine = local_bytes([p for p in run.model.parameters() if not p.layout.cut_dims])
    assert all(other == mine for other in mesh.world.allgather_object(mine))


@cpu_alone
@DTYPE
def test_activations_are_stored_in_16_bits(dtype, make_mesh):
    """The tape keeps half of what it keeps in float32; the logits and the statistics of norms stay as they are."""
    mesh = make_mesh(**TWO_AXES[0])
    kept = {}
    for name in ("float32", dtype):
        model = GPT(GPTConfig(11, CONTEXT, 3, 4, 64, 0.0, dtype=name), mesh)
        tokens = tensor(np.zeros((BATCH, CONTEXT), int), mesh, dp=Shard(0))
        x = model.embedding(tokens)
        for block in model.blocks:
            x = block(x, Noise(0, 0))
        kept[name] = kept_bytes(x, *model.parameters())
    assert kept[dtype] <= 0.51 * kept["float32"], kept
