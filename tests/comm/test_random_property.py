"""Collectives on examples that hypothesis draws: dtype, shape, dim, pieces and root; blocking and in the background.

All ranks draw the same examples (no randomness, no database, no clock), and a verdict is one of all ranks, so that they
shrink a failure together. The falsifying example says what to call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rank_data import COMBINE, DTYPES, cut, folded, of_rank

from mpipar.blocks import balanced
from mpipar.comm import Comm
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


@pytest.fixture(scope="module")
def comm() -> Comm:
    return Mesh(tp=SIZE)["tp"]


def agree(comm: Comm, found: Any, wanted: Any) -> None:
    """The same dtype, shape and bits, on every rank or on none."""
    mine = (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())
    told = comm.allgather_object(mine)
    assert all(told), f"ranks {[rank for rank in range(SIZE) if not told[rank]]}: {found} is not {wanted}"


def everyone(shape: Callable[[int], tuple[int, ...]], dtype: str, turned: bool) -> list[Any]:
    return [of_rank(rank, shape(rank), dtype, turned=turned) for rank in range(SIZE)]


def with_length(shape: tuple[int, ...], dim: int, length: int) -> tuple[int, ...]:
    return (*shape[:dim], length, *shape[dim + 1 :])


@alike
@given(shape=st.lists(lengths, max_size=3).map(tuple), dtype=dtypes, turned=st.booleans(), data=st.data())
def test_allreduce(comm: Comm, shape: tuple[int, ...], dtype: str, turned: bool, data: st.DataObject) -> None:
    op: Any = data.draw(st.sampled_from([op for op in COMBINE if (dtype, op) != ("bool", "sum")]))
    arrays = everyone(lambda rank: shape, dtype, turned)
    agree(comm, comm.allreduce(arrays[RANK], op), folded(arrays, op))
    agree(comm, comm.iallreduce(arrays[RANK], op).wait(), folded(arrays, op))


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
    total = cut(folded(arrays, "max"), front, given)[RANK]
    agree(comm, comm.reduce_scatter(arrays[RANK], dim, sizes, "max"), total)
    agree(comm, comm.ireduce_scatter(arrays[RANK], dim, sizes, "max").wait(), total)
    mine = comm.scatter(arrays[root] if root == RANK else None, root, dim, sizes)
    agree(comm, mine, cut(arrays[root], front, given)[RANK])


@alike
@given(shape=shapes, sizes=pieces, dtype=dtypes, turned=st.booleans(), told=st.booleans(), data=st.data())
def test_allgather(
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
