"""Messages between neighbours: `exchange`, `shift`, and `alltoallv`, in which everybody may be everybody's neighbour.

What comes is what was sent, bit by bit, whatever the number of ranks. A run that stands still here has a message
that waits for a receiver who sends first.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from rank_data import DTYPES, of_rank

from mpipar.comm import Comm, large
from mpipar.errors import CommError
from mpipar.job import world
from mpipar.mesh import Mesh

SIZE, RANK = world().size, world().rank
RANKS = range(SIZE)
MANY = pytest.mark.skipif(SIZE == 1, reason="a neighbour needs two ranks")


@pytest.fixture(params=[large.LIMIT, 1000], ids=["whole", "in parts"])
def comm(
    request: pytest.FixtureRequest, make_mesh: Callable[..., Mesh], monkeypatch: pytest.MonkeyPatch
) -> Comm:
    monkeypatch.setattr(large, "LIMIT", request.param)
    return make_mesh(tp=SIZE)["tp"]


def check(comm: Comm, found: Any, wanted: Any) -> None:
    here = comm.xp.to_host(found)
    assert (here.dtype, here.shape, here.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())


def shape_between(source: int, to: int) -> tuple[int, ...]:
    return (source + 1, 3 * to) if (source + to) % 2 else (2, source, 5)


def sent(source: int, to: int, dtype: str) -> Any:
    return of_rank(10 * source + to, shape_between(source, to), dtype)


# ---- exchange ---------------------------------------------------------------------------------------------


def neighbours(rank: int, kind: str) -> list[int]:
    """Whom a rank sends to."""
    line = [other for other in (rank - 1, rank + 1) if 0 <= other < SIZE]
    return {"line": line, "everybody": list(RANKS), "to the first": [0], "nobody": []}[kind]


@pytest.mark.parametrize("told", [False, True], ids=["given", "told"])
@pytest.mark.parametrize("kind", ["line", "everybody", "to the first", "nobody"])
def test_exchange(comm: Comm, kind: str, told: bool) -> None:
    for dtype in DTYPES:
        check_exchange(comm, dtype, kind, told)


def check_exchange(comm: Comm, dtype: str, kind: str, told: bool) -> None:
    sources = [rank for rank in RANKS if RANK in neighbours(rank, kind)]
    sends = {to: comm.xp.from_host(sent(RANK, to, dtype)) for to in neighbours(RANK, kind)}
    shapes = None if told else {source: shape_between(source, RANK) for source in sources}
    for came in (comm.exchange(sends, shapes, dtype), comm.iexchange(sends, shapes, dtype).wait()):
        assert list(came) == sources
        for source in sources:
            check(comm, came[source], sent(source, RANK, dtype))


def test_only_the_neighbours_take_part(comm: Comm) -> None:
    """The others of a line of ranks do not even call."""
    x = comm.xp.from_host(of_rank(RANK, (500,), "float64"))
    if RANK < 2 <= SIZE:
        other = 1 - RANK
        check(comm, comm.exchange({other: x}, {other: (500,)})[other], of_rank(other, (500,), "float64"))


def test_long_messages_do_not_wait_for_each_other(comm: Comm) -> None:
    """8 MB each, which every MPI sends only when the receiver is there; slices that are not contiguous."""
    every = [of_rank(rank, (1000, 2000), "float32") for rank in RANKS]
    x = comm.xp.from_host(every[RANK])
    came = comm.exchange({to: x[:, to::2] for to in RANKS}, dict.fromkeys(RANKS, x[:, RANK::2].shape))
    for source in RANKS:
        check(comm, came[source], np.ascontiguousarray(every[source][:, RANK::2]))


@MANY
@pytest.mark.parametrize("length", [0, 1, 4])
def test_a_message_of_another_length(comm: Comm, length: int) -> None:
    after, before = (RANK + 1) % SIZE, (RANK - 1) % SIZE
    x = comm.xp.zeros((2,), "float32")
    with pytest.raises(CommError, match=f"recv from rank {before}: .*bytes came, {4 * length} were expected"):
        comm.exchange({after: x}, {before: (length,)})
    check(comm, comm.exchange({after: x}, {before: (2,)})[before], np.zeros(2, "float32"))


def test_an_exchange_has_one_dtype(comm: Comm) -> None:
    x, y = comm.xp.zeros((2,), "float32"), comm.xp.zeros((2,), "int8")
    with pytest.raises(TypeError, match="exchange on 'tp': one dtype a call, not float32 and int8"):
        comm.exchange({RANK: x}, {RANK: (2,)}, "int8")
    with pytest.raises(TypeError, match="nothing is sent from here; name the dtype of what comes"):
        comm.exchange({}, {RANK: (2,)})
    if SIZE > 1:
        with pytest.raises(CommError, match="one dtype a call; the ranks send float32 and int8"):
            comm.exchange({0: x if RANK == 0 else y})


def test_a_neighbour_that_there_is_not(comm: Comm) -> None:
    x, message = comm.xp.zeros((2,), "float32"), f"a neighbour={SIZE} on 'tp': the ranks are 0 to {SIZE - 1}"
    with pytest.raises(ValueError, match=message):
        comm.exchange({SIZE: x}, {})
    with pytest.raises(ValueError, match=message):
        comm.exchange({}, {SIZE: (2,)}, "float32")
    with pytest.raises(ValueError, match=message):  # all ranks see what one of them asked for
        comm.exchange({SIZE: x} if RANK == 0 else {})


# ---- shift ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [1, -1, 2, 0, -5])
def test_shift(comm: Comm, by: int) -> None:
    for dtype in ("float32", "bfloat16", "complex64"):
        every = [of_rank(rank, (rank + 1, 300), dtype) for rank in RANKS]
        x, source = comm.xp.from_host(every[RANK]), RANK - by
        round_ = comm.shift(x, by, periodic=True, shape=every[source % SIZE].shape)
        check(comm, round_, every[source % SIZE])
        shape = every[source].shape if 0 <= source < SIZE else None
        for came in (comm.shift(x, by, shape=shape), comm.ishift(x, by, shape=shape).wait()):
            if 0 <= source < SIZE:
                check(comm, came, every[source])
            else:
                assert came is None


def test_both_halos_at_once_round_a_ring(comm: Comm) -> None:
    """On two ranks both neighbours are the same rank, on one they are oneself: up is not mistaken for down."""
    every = [of_rank(rank, (6, 400), "float32") for rank in RANKS]
    x = comm.xp.from_host(every[RANK])
    below, above = comm.ishift(x[-1:], 1, periodic=True), comm.ishift(x[:1], -1, periodic=True)
    check(comm, above.wait(), every[(RANK + 1) % SIZE][:1])
    check(comm, below.wait(), every[(RANK - 1) % SIZE][-1:])


# ---- alltoallv --------------------------------------------------------------------------------------------


def matrices() -> dict[str, list[list[int]]]:
    """Rows from rank i to rank j."""
    draw = np.random.default_rng(0)
    return {
        "any": draw.integers(0, 5, (SIZE, SIZE)).tolist(),
        "all to one": [[4 if to == SIZE - 1 else 0 for to in RANKS] for _ in RANKS],
        "one to all": [[3 if rank == 0 else 0 for _ in RANKS] for rank in RANKS],
        "nothing": [[0] * SIZE for _ in RANKS],
        "many": draw.integers(100, 400, (SIZE, SIZE)).tolist(),
    }


@pytest.mark.parametrize("told", [False, True], ids=["given", "told"])
@pytest.mark.parametrize("name", matrices())
def test_alltoallv(comm: Comm, name: str, told: bool) -> None:
    rows = matrices()[name]
    for dtype, trailing in product(DTYPES, ((), (3,), (2, 0))):
        every = [of_rank(rank, (sum(rows[rank]), *trailing), dtype) for rank in RANKS]
        starts = [sum(rows[rank][:RANK]) for rank in RANKS]
        mine = [x[start : start + its[RANK]] for x, start, its in zip(every, starts, rows, strict=True)]
        x, recv_sizes = comm.xp.from_host(every[RANK]), [its[RANK] for its in rows]
        assert comm.alltoall_sizes(rows[RANK]) == tuple(recv_sizes)
        there = comm.alltoallv(x, rows[RANK], None if told else recv_sizes)
        check(comm, there, np.concatenate(mine))
        check(comm, comm.alltoallv(there, recv_sizes, rows[RANK]), every[RANK])  # and home again


@MANY
def test_other_numbers_of_rows_than_were_sent(comm: Comm) -> None:
    x = comm.xp.zeros((SIZE, 2), "float32")
    with pytest.raises(CommError, match=r"recv from rank \d: .*bytes came, 16 were expected"):
        comm.alltoallv(x, [1] * SIZE, [2] * SIZE)
    assert comm.alltoallv(x, [1] * SIZE, [1] * SIZE).shape == (SIZE, 2)


def test_sizes_that_do_not_fit(comm: Comm) -> None:
    x = comm.xp.zeros((3, 2), "float32")
    for sizes in ([3] * (SIZE + 1), [2] * SIZE, [4, -1, *[0] * (SIZE - 2)] if SIZE > 1 else [-3]):
        wanted = rf"send_sizes .* on 'tp': {SIZE} numbers of rows that sum to 3 are wanted"
        with pytest.raises(ValueError, match=wanted):
            comm.alltoallv(x, sizes)
    fit = [3, *[0] * (SIZE - 1)]
    for sizes in ([1] * (SIZE + 1), [-1] * SIZE):
        with pytest.raises(ValueError, match=rf"recv_sizes .* on 'tp': {SIZE} numbers of rows are wanted"):
            comm.alltoallv(x, fit, sizes)
    with pytest.raises(ValueError, match="dim 0 of an array of 0 dims"):
        comm.alltoallv(comm.xp.zeros((), "float32"), fit)


@MANY
def test_rows_of_other_lengths_are_seen_by_all_ranks(comm: Comm) -> None:
    x = comm.xp.zeros((SIZE, 3 if RANK else 2), "float32")
    with pytest.raises(CommError, match=r"arrays on 'tp' do not fit: rank 0 has float32 \(\d, 2\), rank 1"):
        comm.alltoallv(x, [1] * SIZE)
