"""Collectives on examples that hypothesis draws: dtype, shape, dim, pieces and root; blocking and in the background.

All ranks draw the same examples (no randomness, no database, no clock), and a verdict is one of all ranks, so that they
shrink a failure together. The falsifying example says what to call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rank_data import DTYPES, cut, folded, of_rank, operations

from mpipar.blocks import balanced
from mpipar.comm import Comm, large
from mpipar.job import world
from mpipar.mesh import Mesh

SIZE, RANK = world().size, world().rank
alike = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    suppress_health_check=list(HealthCheck),
)
dtypes = st.sampled_from(DTYPES)
lengths = st.integers(0, 4)
shapes = st.lists(lengths, min_size=1, max_size=3).map(tuple)
pieces = st.lists(lengths, min_size=SIZE, max_size=SIZE)
roots = st.integers(0, SIZE - 1)


@pytest.fixture(scope="module", params=[large.LIMIT, 5], ids=["whole", "in parts"])
def comm(request: pytest.FixtureRequest) -> Iterator[Comm]:
    """As it is, and with an MPI that can count no more than 5 bytes."""
    with patch.object(large, "LIMIT", request.param):
        yield Mesh(tp=SIZE, device="cpu")["tp"]


def agree(comm: Comm, found: Any, wanted: Any) -> None:
    """The same dtype, shape and bits, on every rank or on none."""
    mine = (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())
    told = comm.allgather_object(mine)
    assert all(told), f"ranks {[rank for rank in range(SIZE) if not told[rank]]}: {found} is not {wanted}"


def agree_at(root: int, comm: Comm, found: Any, wanted: Any) -> None:
    """On the root; None elsewhere."""
    assert all(comm.allgather_object((found is None) == (root != RANK)))
    agree(comm, wanted if found is None else found, wanted)


def everyone(shape: Callable[[int], tuple[int, ...]], dtype: str, turned: bool) -> list[Any]:
    return [of_rank(rank, shape(rank), dtype, turned=turned) for rank in range(SIZE)]


def with_length(shape: tuple[int, ...], dim: int, length: int) -> tuple[int, ...]:
    return (*shape[:dim], length, *shape[dim + 1 :])


@alike
@given(shape=st.lists(lengths, max_size=3).map(tuple), dtype=dtypes, turned=st.booleans(), data=st.data())
def test_allreduce_and_reduce(
    comm: Comm, shape: tuple[int, ...], dtype: str, turned: bool, data: st.DataObject
) -> None:
    op, root = data.draw(st.sampled_from(operations(dtype))), data.draw(roots)
    arrays = everyone(lambda rank: shape, dtype, turned)
    x, total = arrays[RANK], folded(arrays, op)
    agree(comm, comm.allreduce(x, op), total)
    agree(comm, comm.iallreduce(x, op).wait(), total)
    agree_at(root, comm, comm.reduce(x, root, op), total)
    agree_at(root, comm, comm.ireduce(x, root, op).wait(), total)


@alike
@given(shape=shapes, sizes=st.none() | pieces, dtype=dtypes, turned=st.booleans(), data=st.data())
def test_reduce_scatter_and_scatter(
    comm: Comm, shape: tuple[int, ...], sizes: list[int] | None, dtype: str, turned: bool, data: st.DataObject
) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    front, root = dim % len(shape), data.draw(roots)
    whole = shape if sizes is None else with_length(shape, front, sum(sizes))
    given = list(balanced(whole[front], SIZE)) if sizes is None else sizes
    arrays = everyone(lambda rank: whole, dtype, turned)
    op = data.draw(st.sampled_from(operations(dtype)))
    total = cut(folded(arrays, op), front, given)[RANK]
    agree(comm, comm.reduce_scatter(arrays[RANK], dim, sizes, op), total)
    agree(comm, comm.ireduce_scatter(arrays[RANK], dim, sizes, op).wait(), total)
    at_root, piece = arrays[root] if root == RANK else None, cut(arrays[root], front, given)[RANK]
    agree(comm, comm.scatter(at_root, root, dim, sizes), piece)
    agree(comm, comm.iscatter(at_root, root, dim, sizes).wait(), piece)


@alike
@given(shape=shapes, sizes=pieces, dtype=dtypes, turned=st.booleans(), told=st.booleans(), data=st.data())
def test_allgather_and_gather(
    comm: Comm,
    shape: tuple[int, ...],
    sizes: list[int],
    dtype: str,
    turned: bool,
    told: bool,
    data: st.DataObject,
) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    arrays = everyone(lambda rank: with_length(shape, dim % len(shape), sizes[rank]), dtype, turned)
    wanted = np.concatenate(arrays, dim)
    options = None if told else sizes
    agree(comm, comm.allgather(arrays[RANK], dim, options), wanted)
    agree(comm, comm.iallgather(arrays[RANK], dim, options).wait(), wanted)
    root = data.draw(roots)
    agree_at(root, comm, comm.gather(arrays[RANK], root, dim, options), wanted)
    agree_at(root, comm, comm.igather(arrays[RANK], root, dim, options).wait(), wanted)


@alike
@given(shape=st.lists(lengths, min_size=2, max_size=3).map(tuple), sizes=pieces, dtype=dtypes, data=st.data())
def test_alltoall_and_back(
    comm: Comm, shape: tuple[int, ...], sizes: list[int], dtype: str, data: st.DataObject
) -> None:
    """There as NumPy does it, and back by the same call with split and concat exchanged."""
    split, concat = data.draw(st.permutations(range(len(shape))))[:2]
    arrays = everyone(lambda rank: with_length(shape, concat, sizes[rank]), dtype, False)
    cuts = list(balanced(shape[split], SIZE))
    there = comm.alltoall(arrays[RANK], split, concat)
    agree(comm, there, np.concatenate([cut(x, split, cuts)[RANK] for x in arrays], concat))
    agree(comm, comm.alltoall(there, concat, split, sizes, cuts), arrays[RANK])
    agree(comm, comm.ialltoall(there, concat, split, sizes, cuts).wait(), arrays[RANK])


@alike
@given(
    rows=st.lists(pieces, min_size=SIZE, max_size=SIZE),
    rest=st.lists(lengths, max_size=2).map(tuple),
    dtype=dtypes,
    turned=st.booleans(),
    told=st.booleans(),
)
def test_alltoallv_and_back(
    comm: Comm, rows: list[list[int]], rest: tuple[int, ...], dtype: str, turned: bool, told: bool
) -> None:
    """``rows[i][j]`` rows from rank i to rank j."""
    arrays = everyone(lambda rank: (sum(rows[rank]), *rest), dtype, turned)
    came = [its[RANK] for its in rows]
    there = comm.alltoallv(arrays[RANK], rows[RANK], None if told else came)
    agree(comm, there, np.concatenate([cut(x, 0, its)[RANK] for x, its in zip(arrays, rows, strict=True)]))
    agree(comm, comm.ialltoallv(there, came, None if told else rows[RANK]).wait(), arrays[RANK])


@alike
@given(
    graph=st.lists(st.sets(roots), min_size=SIZE, max_size=SIZE),
    shape=st.lists(lengths, max_size=3).map(tuple),
    dtype=dtypes,
    turned=st.booleans(),
    by=st.integers(-SIZE, SIZE),
)
def test_messages(
    comm: Comm, graph: list[set[int]], shape: tuple[int, ...], dtype: str, turned: bool, by: int
) -> None:
    """Every rank to those that the graph gives it; and round the ring."""
    arrays = everyone(lambda rank: (rank, *shape), dtype, turned)
    x, sources = arrays[RANK], [rank for rank in range(SIZE) if RANK in graph[rank]]
    shapes = {source: arrays[source].shape for source in sources}
    for came in (
        comm.exchange(dict.fromkeys(graph[RANK], x), shapes, dtype),
        comm.exchange(dict.fromkeys(graph[RANK], x)),
    ):
        agree(comm, np.array(list(came)), np.array(sources))
        for rank in range(SIZE):
            agree(comm, came.get(rank, arrays[rank]), arrays[rank])
    to, source = (RANK + by) % SIZE, (RANK - by) % SIZE
    agree(comm, comm.sendrecv(x, to, source, arrays[source].shape), arrays[source])
    agree(comm, comm.shift(x, by, periodic=True, shape=arrays[source].shape), arrays[source])


@alike
@given(shape=st.lists(lengths, max_size=3).map(tuple), dtype=dtypes, turned=st.booleans(), root=roots)
def test_broadcast(comm: Comm, shape: tuple[int, ...], dtype: str, turned: bool, root: int) -> None:
    arrays = everyone(lambda rank: shape, dtype, turned)
    agree(comm, comm.broadcast(arrays[RANK], root), arrays[root])
    agree(comm, comm.ibroadcast(arrays[RANK], root).wait(), arrays[root])


@settings(alike, max_examples=6)  # to open a window takes Open MPI up to a second
@given(shape=st.lists(lengths, max_size=3).map(tuple), dtype=dtypes, turned=st.booleans(), root=roots)
def test_fetch(comm: Comm, shape: tuple[int, ...], dtype: str, turned: bool, root: int) -> None:
    arrays = everyone(lambda rank: shape, dtype, turned)
    with comm.expose(arrays[RANK]) as window:
        agree(comm, window.fetch(root), arrays[root])
        if shape:
            agree(
                comm, window.fetch(root, shape[0] // 2), np.ascontiguousarray(arrays[root][shape[0] // 2 :])
            )
