"""The rows of a step are the same, in the same order, on every mesh and in every cut into micro-batches.

A failure shows rows that are missing, twice, or elsewhere.
"""

from __future__ import annotations

import pytest
from grids import TWO_AXES, grid_name

from mpipar import Mesh, Replicate, Shard
from mpipar.data import Batches, Corpus, TextBatches
from mpipar.data.batches import MicroBatch
from mpipar.job import world

BATCH, CONTEXT = 7, 5
TEXT = memoryview(bytes(7 * i * i % 251 for i in range(400)))
meshes = pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
micro_batches = pytest.mark.parametrize("micro_batch", [0, 1, 2, 3, 100])


def batches_on(mesh: Mesh, micro_batch: int) -> Batches:
    return Batches(TextBatches(Corpus(TEXT, TEXT[:200], 1), 4, BATCH, CONTEXT), mesh, micro_batch)


def joined(parts: list[MicroBatch]) -> list[bytes]:
    """All rows with their target, as the text that they were cut from."""
    rows = []
    for part in parts:
        for tokens, targets in zip(part.tokens.numpy(), part.targets.numpy(), strict=True):
            assert (tokens[1:] == targets[:-1]).all()
            rows.append(bytes([*tokens.tolist(), int(targets[-1])]))
    return rows


@meshes
@micro_batches
@pytest.mark.parametrize("step", [0, 3])
def test_a_step_is_its_rows_in_order(axes, micro_batch, step, make_mesh):
    batches = batches_on(make_mesh(**axes), micro_batch)
    rows = [batches.text.row(step, row) for row in range(BATCH)]
    assert joined(list(batches.training(step))) == rows


@meshes
@micro_batches
def test_first_row_tells_where_a_micro_batch_stands(axes, micro_batch, make_mesh):
    """Its rows are consecutive; the last micro-batch may be smaller, and no rank has more than it was told."""
    mesh = make_mesh(**axes)
    parts = list(batches_on(mesh, micro_batch).training(0))
    sizes = [part.tokens.shape[0] for part in parts]
    assert [part.first_row for part in parts] == [sum(sizes[:k]) for k in range(len(parts))]
    assert sum(sizes) == BATCH
    assert len(set(sizes[:-1])) <= 1
    assert sizes[-1] <= sizes[0]
    if micro_batch:
        assert max(part.tokens.local.shape[0] for part in parts) <= micro_batch
    assert len(set(world().allgather_object(len(parts)))) == 1


@meshes
def test_rows_are_cut_over_dp_and_alike_on_tp(axes, make_mesh):
    mesh = make_mesh(**axes)
    for part in batches_on(mesh, 2).training(0):
        for x in (part.tokens, part.targets):
            assert (x.placements["dp"], x.placements["tp"]) == (Shard(0), Replicate())
            assert x.dtype == "int64"
            assert x.shape == (part.count // CONTEXT, CONTEXT)


@meshes
@micro_batches
def test_tokens_are_counted_over_all_ranks(axes, micro_batch, make_mesh):
    batches = batches_on(make_mesh(**axes), micro_batch)
    assert batches.tokens == BATCH * CONTEXT
    assert sum(part.count for part in batches.training(0)) == batches.tokens


@meshes
@micro_batches
def test_validation_is_the_same_whole_batches_each_time(axes, micro_batch, make_mesh):
    batches = batches_on(make_mesh(**axes), micro_batch)
    for count in (1, 3, 100):
        rows = batches.text.validation_rows(count * BATCH)
        assert len(rows) % BATCH == 0
        parts = list(batches.validation(count))
        assert joined(parts) == joined(list(batches.validation(count))) == rows
        assert sum(part.count for part in parts) == len(rows) * CONTEXT
