"""A run that is saved on one mesh and goes on on another has the curve of the run that was never interrupted.

Bit for bit on the same mesh, weights and moments too; to 1e-9 in float64 on another. A failure names the two meshes:
where the losses differ from the first step on, a slice was read to a wrong place; where they drift apart later, it is
in the moments, in the number of steps, or in what a step draws.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from double import DoubleBackend
from trained import STEPS, Trained

from mpipar import Mesh
from mpipar.checkpoint import load, save
from mpipar.job import world

SAVED = 2  # in the middle of the warm-up
# axes, and whether the sequence is cut; each on the first ranks of the job
MESHES = {
    "one rank": ({}, False),
    "dp=2": ({"dp": 2}, False),
    "tp=2": ({"tp": 2}, True),
    "dp=3": ({"dp": 3}, False),
    "tp=3": ({"tp": 3}, False),
    "dp=4": ({"dp": 4}, False),
    "tp=4": ({"tp": 4}, True),
    "dp=2,tp=2": ({"dp": 2, "tp": 2}, True),
    "tp=2,dp=2": ({"tp": 2, "dp": 2}, False),
}
SIZES = {name: int(np.prod([1, *axes.values()])) for name, (axes, _) in MESHES.items()}
HERE = [name for name in MESHES if SIZES[name] <= world().size]
# each with itself, the next and the fourth after it
PAIRS = sorted({(a, HERE[(i + by) % len(HERE)]) for i, a in enumerate(HERE) for by in (0, 1, 4)})


@cache
def mesh_of(name: str) -> Mesh:
    return Mesh(ranks=range(SIZES[name]), **MESHES[name][0])


def takes_part(name: str) -> bool:
    return world().rank < SIZES[name]


def trained(name: str) -> Trained:
    return Trained(mesh_of(name), MESHES[name][1])


@cache
def uninterrupted() -> list[float]:
    """On one rank alone, on each."""
    return Trained(Mesh(ranks=[world().rank])).train(0)


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_the_curve_goes_on(before: str, after: str, directory: Path, count_cases: Counter[str]) -> None:
    bits: dict[str, bytes] = {}
    rest: list[float] = []
    if takes_part(before):
        run = trained(before)
        run.train(0, SAVED)
        save(directory, SAVED, run.model, run.optimizer)
        bits, rest = run.bits(), run.train(SAVED)
    world().barrier()
    if takes_part(after):
        run = trained(after)
        found = load(directory, run.model, run.optimizer)
        assert found is not None
        assert (found.step, found.refused) == (SAVED, ())
        assert before != after or run.bits() == bits
        losses = run.train(SAVED)
        np.testing.assert_allclose(losses, uninterrupted()[SAVED:], rtol=0, atol=1e-9)
        assert before != after or losses == rest
    count_cases["pairs of meshes"] += 1


def test_a_curve_without_the_moments_is_another(directory: Path) -> None:
    """Or the test above could not fail."""
    run = Trained(mesh_of("one rank")) if world().rank == 0 else None
    if run is not None:
        run.train(0, SAVED)
        save(directory, SAVED, run.model)
        other = Trained(mesh_of("one rank"))
        load(directory, other.model)
        losses = other.train(SAVED)
        assert abs(losses[0] - uninterrupted()[SAVED]) < 1e-9
        assert abs(losses[-1] - uninterrupted()[-1]) > 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_comes_back_bit_for_bit_on_a_device(dtype: str, directory: Path) -> None:
    mesh = Mesh(device=DoubleBackend(), tp=world().size)
    run, other = Trained(mesh, dtype=dtype), Trained(mesh, dtype=dtype, seed=4)
    run.train(0, 1)
    save(directory, 1, run.model, run.optimizer)
    assert other.bits() != run.bits()
    load(directory, other.model, other.optimizer)
    assert other.bits() == run.bits()
    assert other.train(1, STEPS) == run.train(1, STEPS)
