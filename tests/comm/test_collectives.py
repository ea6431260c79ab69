"""Every collective against NumPy, which computes on one rank what all ranks hold together: the same bits.

On the CPU and on the double of a device, for every dtype, for 0-d, empty and transposed arrays, uneven pieces and every
root; and once more where one call of MPI may count no more than 7 bytes ("in parts"), as for arrays of 2 GiB. A failure
shows the shape and the dim; where ranks differ among themselves, the report names them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from rank_data import DTYPES, cut, folded, of_rank, operations

from mpipar.blocks import balanced
from mpipar.comm import Comm, large
from mpipar.errors import CommError
from mpipar.job import world
from mpipar.mesh import Mesh

SIZE, RANK = world().size, world().rank
RANKS = range(SIZE)
SHAPES: list[tuple[int, ...]] = [(), (0,), (5,), (3, 4), (2, 0, 3), (2, 3, 2)]
DIMS = (0, -1, 1)
LARGE = (300, 101)  # above comm.SMALL in every dtype on more than one rank
LENGTHS = [(2 * rank + 1) % 4 for rank in RANKS]  # 1, 3, 1, 3
HOLES = [3 * (rank % 2) for rank in RANKS]  # 0, 3, 0, 3


@pytest.fixture(params=[large.LIMIT, 7], ids=["whole", "in parts"])
def comm(
    request: pytest.FixtureRequest, make_mesh: Callable[..., Mesh], monkeypatch: pytest.MonkeyPatch
) -> Comm:
    monkeypatch.setattr(large, "LIMIT", request.param)
    return make_mesh(tp=SIZE)["tp"]


def check(comm: Comm, found: Any, wanted: Any, what: object = "") -> None:
    """The same dtype, shape and bits."""
    assert not isinstance(found, np.ndarray) or comm.xp.name == "cpu"
    here = comm.xp.to_host(found)
    assert (here.shape, here.dtype) == (wanted.shape, wanted.dtype), what
    assert here.tobytes() == wanted.tobytes(), f"{what}: {here} is not {wanted}"


def placed(comm: Comm, x: Any) -> Any:
    """The array on the communicator's device, in the same order of memory."""
    if x.ndim < 2:
        return comm.xp.from_host(x)
    there = comm.xp.from_host(np.ascontiguousarray(x.T) if not x.flags.c_contiguous else x)
    return there if x.flags.c_contiguous else there.T


class Case(NamedTuple):
    """What to run a collective on."""

    shape: tuple[int, ...]
    dim: int  # from the front, and -1
    turned: bool  # the memory in the order of the last dim first
    root: int


def cases(least: int = 0, *, dims: bool = True) -> list[Case]:
    """Every shape of at least so many dims with each of its dims; orders of memory and roots take turns."""
    along = [
        (shape, dim) for shape in SHAPES if len(shape) >= least for dim in DIMS[: len(shape) if dims else 1]
    ]
    return [Case(shape, dim, number % 2 == 1, number % SIZE) for number, (shape, dim) in enumerate(along)]


def with_length(shape: tuple[int, ...], dim: int, length: int) -> tuple[int, ...]:
    dim %= len(shape)
    return (*shape[:dim], length, *shape[dim + 1 :])


def check_at(root: int, comm: Comm, found: Any, wanted: Any, what: object) -> None:
    """As `check` on the root; None elsewhere."""
    if root == RANK:
        check(comm, found, wanted, what)
    else:
        assert found is None


LARGE_CASES = [Case(LARGE, 0, False, 0), Case(LARGE, -1, True, SIZE - 1)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_allreduce_and_reduce(comm: Comm, dtype: str) -> None:
    for op, (shape, _, turned, root) in product(operations(dtype), [*cases(dims=False), *LARGE_CASES]):
        wanted = folded([of_rank(rank, shape, dtype) for rank in RANKS], op)
        x = placed(comm, of_rank(RANK, shape, dtype, turned=turned))
        check(comm, comm.allreduce(x, op), wanted, shape)
        check_at(root, comm, comm.reduce(x, root, op), wanted, shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reduce_scatter(comm: Comm, dtype: str) -> None:
    op = operations(dtype)[0]
    for sizes, (shape, dim, turned, _) in product((None, HOLES, LENGTHS), [*cases(1), *LARGE_CASES]):
        whole = shape if sizes is None else with_length(shape, dim, sum(sizes))
        total = folded([of_rank(rank, whole, dtype) for rank in RANKS], op)
        pieces = list(balanced(whole[dim], SIZE)) if sizes is None else sizes
        x = placed(comm, of_rank(RANK, whole, dtype, turned=turned))
        check(comm, comm.reduce_scatter(x, dim, sizes, op), cut(total, dim, pieces)[RANK], (whole, dim))


@pytest.mark.parametrize("dtype", DTYPES)
def test_allgather_and_gather(comm: Comm, dtype: str) -> None:
    for lengths, given in ((LENGTHS, False), (HOLES, True)):
        for shape, dim, turned, root in cases(1):
            pieces = [of_rank(rank, with_length(shape, dim, lengths[rank]), dtype) for rank in RANKS]
            wanted = np.concatenate(pieces, dim)
            x = placed(comm, np.asfortranarray(pieces[RANK]) if turned else pieces[RANK])
            sizes = lengths if given else None
            check(comm, comm.allgather(x, dim, sizes), wanted, (shape, dim))
            check_at(root, comm, comm.gather(x, root, dim, sizes), wanted, (shape, dim))


@pytest.mark.parametrize("dtype", DTYPES)
def test_scatter(comm: Comm, dtype: str) -> None:
    for sizes, (shape, dim, turned, root) in product((None, HOLES), cases(1)):
        whole = shape if sizes is None else with_length(shape, dim, sum(sizes))
        pieces = list(balanced(whole[dim], SIZE)) if sizes is None else sizes
        x = of_rank(root, whole, dtype, turned=turned)
        found = comm.scatter(placed(comm, x) if root == RANK else None, root, dim, sizes)
        check(comm, found, cut(x, dim, pieces)[RANK], (whole, dim))


@pytest.mark.parametrize("dtype", DTYPES)
def test_alltoall(comm: Comm, dtype: str) -> None:
    """Piece r of my array goes to rank r; the arrays of the ranks differ in length along `concat`."""
    for given in (False, True):
        for split, concat in [(0, 1), (1, 0), (-1, 0), (0, -1), (2, 1)]:
            shapes = [with_length((5, 3, 6), concat, LENGTHS[rank]) for rank in RANKS]
            arrays = [of_rank(rank, shape, dtype) for rank, shape in enumerate(shapes)]
            sizes = list(balanced(shapes[0][split], SIZE))
            wanted = np.concatenate([cut(x, split, sizes)[RANK] for x in arrays], concat)
            x = placed(comm, of_rank(RANK, shapes[RANK], dtype, turned=given))
            options = (sizes, LENGTHS) if given else (None, None)
            check(comm, comm.alltoall(x, split, concat, *options), wanted, (split, concat))


@pytest.mark.parametrize("dtype", DTYPES)
def test_broadcast(comm: Comm, dtype: str) -> None:
    for shape, _, turned, root in cases(dims=False):
        x = placed(comm, of_rank(RANK, shape, dtype, turned=turned))
        check(comm, comm.broadcast(x, root), of_rank(root, shape, dtype), shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sendrecv_round_the_ring(comm: Comm, dtype: str) -> None:
    after, before = (RANK + 1) % SIZE, (RANK - 1) % SIZE
    for shape, _, turned, _ in cases(dims=False):
        x = placed(comm, of_rank(RANK, shape, dtype, turned=turned))
        check(comm, comm.sendrecv(x, after, before), of_rank(before, shape, dtype), shape)
    x = placed(comm, of_rank(RANK, (RANK, 2), dtype))
    check(comm, comm.sendrecv(x, after, before, (before, 2)), of_rank(before, (before, 2), dtype))


@pytest.mark.skipif(SIZE == 1, reason="a message needs two ranks")
@pytest.mark.parametrize("dtype", DTYPES)
def test_send_and_recv_in_the_order_of_their_tags(comm: Comm, dtype: str) -> None:
    for shape, _, turned, _ in [*cases(dims=False), *LARGE_CASES]:
        if RANK == 0:
            for to in RANKS[1:]:
                comm.send(placed(comm, of_rank(to, shape, dtype, turned=turned)), to)
        else:
            check(comm, comm.recv(shape, dtype, 0), of_rank(RANK, shape, dtype), shape)
    if RANK == 0:
        handles = [comm.isend(placed(comm, np.full(3, tag)), 1, tag) for tag in range(3)]
        for handle in handles:
            handle.wait()
    elif RANK == 1:
        for tag in (2, 0, 1):
            check(comm, comm.recv((3,), "int64", 0, tag), np.full(3, tag))


def test_arguments_stay_as_they_are_and_results_are_arrays_of_their_own(comm: Comm) -> None:
    for shape in [(4, 2), LARGE]:
        x = placed(comm, of_rank(RANK, shape, "float32"))
        shared: list[Any] = [comm.allreduce(x), comm.reduce(x, RANK if SIZE == 1 else 0), comm.broadcast(x)]
        shared += [comm.allgather(x), comm.reduce_scatter(x), comm.gather(x), comm.alltoall(x, 0, 1)]
        shared += [
            comm.scatter(x if RANK == 0 else None),
            comm.sendrecv(x, (RANK + 1) % SIZE, (RANK - 1) % SIZE),
        ]
        for result in shared:
            if result is not None:
                comm.xp.fill(result, 0)
        check(comm, x, of_rank(RANK, shape, "float32"))


def test_sums_have_the_same_bits_on_all_ranks_and_in_both_algorithms(comm: Comm) -> None:
    """Terms of wildly different magnitudes, where every other order of adding gives another sum."""
    for dtype in ("float64", "float32", "bfloat16"):
        for count in (7, 30_000):
            draw = [np.random.default_rng([rank, count]) for rank in RANKS]
            terms = [
                (d.normal(size=count) * 10.0 ** d.integers(-8, 9, count)).astype(np.float32) for d in draw
            ]
            terms = [comm.xp.to_host(comm.xp.from_host(x, dtype)) for x in terms]
            total = comm.allreduce(placed(comm, terms[RANK]))
            check(comm, total, folded(terms, "sum"), dtype)
            assert len(set(comm.allgather_object(comm.xp.to_host(total).tobytes()))) == 1
            pieces = cut(folded(terms, "sum"), 0, list(balanced(count, SIZE)))
            check(comm, comm.reduce_scatter(placed(comm, terms[RANK])), pieces[RANK], dtype)


def test_sixteen_bit_sums_are_rounded_once(comm: Comm) -> None:
    """In float32: a bfloat16 sum of 256 and three ones would lose each of them."""
    terms = [256.0, 1.0, 1.0, 2.0][:SIZE]
    found = comm.allreduce(comm.xp.full((3,), terms[RANK], "bfloat16"))
    check(comm, found, np.full(3, sum(terms)).astype(found.dtype))


def test_not_a_number_is_not_lost(comm: Comm) -> None:
    for op in ("sum", "max", "min"):
        x = comm.xp.full((2,), float("nan") if RANK == SIZE - 1 else 1.0, "float32")
        assert np.isnan(comm.xp.to_host(comm.allreduce(x, op))).all()


def test_barrier_and_objects(comm: Comm) -> None:
    comm.barrier()
    assert comm.allgather_object((RANK, "x")) == [(rank, "x") for rank in RANKS]
    for root in RANKS:
        assert comm.broadcast_object({"from": RANK}, root) == {"from": root}


def test_a_duplicate_keeps_its_messages_apart(comm: Comm) -> None:
    other = comm.duplicate("other")
    assert (other.rank, other.size, other.label) == (comm.rank, comm.size, "other")
    x = comm.xp.full((2,), float(RANK), "float32")
    before = comm.ledger.calls
    here, there = comm.iallreduce(x), other.iallreduce(x * 10)
    total = sum(RANKS)
    check(comm, there.wait(), np.full(2, 10.0 * total, np.float32))
    check(comm, here.wait(), np.full(2, total, np.float32))
    assert (comm.ledger.calls, other.ledger.calls) == (before + 1, 1)


def test_the_world_and_solo_agree_on_one_rank() -> None:
    """The same calls through MPI, whatever its size, and through a rank alone."""
    x = of_rank(0, (3, 4), "float32")
    alone = Mesh(ranks=[RANK], device="cpu")["tp"]
    for comm in (world(), alone):
        check(comm, comm.allreduce(x, "max"), x)
        check(comm, comm.broadcast(x), x)
        check(comm, comm.allgather(x, 1), np.concatenate([x] * comm.size, 1))


# ---- errors -----------------------------------------------------------------------------------------------


def test_a_sum_of_bool_is_refused(comm: Comm) -> None:
    x = comm.xp.zeros((2,), "bool")
    for call in (comm.allreduce, comm.reduce_scatter, comm.iallreduce):
        with pytest.raises(TypeError, match=r"bool on .tp.: write op='max' for any, op='min' for all"):
            call(x)


def test_an_unknown_operation(comm: Comm) -> None:
    with pytest.raises(ValueError, match="op='mean' is not known; write 'sum', 'max' or 'min'"):
        comm.allreduce(comm.xp.zeros((2,), "float32"), "mean")  # type: ignore[arg-type]


@pytest.mark.parametrize("dim", [2, -3])
def test_a_dim_that_the_array_has_not(comm: Comm, dim: int) -> None:
    x = comm.xp.zeros((2, 2), "float32")
    for call in (comm.allgather, comm.reduce_scatter, comm.iallgather, comm.ireduce_scatter):
        with pytest.raises(ValueError, match=f"dim {dim} of an array of 2 dims"):
            call(x, dim)
    with pytest.raises(ValueError, match=f"dim {dim} of an array"):
        comm.alltoall(x, 0, dim)
    with pytest.raises(ValueError, match=f"dim {dim} of an array"):
        comm.gather(x, 0, dim)
    with pytest.raises(ValueError, match="dim 0 of an array of 0 dims"):
        comm.allgather(comm.xp.zeros((), "float32"))


def test_an_alltoall_along_one_dim(comm: Comm) -> None:
    """Which rows go where would have to be told first: it reads nothing that nobody sent."""
    with pytest.raises(ValueError, match="alltoall on 'tp': split and concat are both dim 1; name two dims"):
        comm.alltoall(comm.xp.zeros((2, 2), "float32"), 1, -1)


def test_sizes_that_do_not_fit(comm: Comm) -> None:
    x = comm.xp.zeros((4, 2), "float32")
    for sizes in ([1] * SIZE + [3], [5] * SIZE, [-1, 5, *[0] * (SIZE - 2)] if SIZE > 1 else [-1]):
        with pytest.raises(ValueError, match=rf"sizes .* on 'tp': {SIZE} pieces that sum to 4 are wanted"):
            comm.reduce_scatter(x, 0, sizes)
        with pytest.raises(ValueError, match="pieces that sum to 4"):
            comm.alltoall(x, 0, 1, sizes)
    for sizes in ([4] * (SIZE + 1), [3] * SIZE):
        with pytest.raises(CommError, match=f"rank {RANK} of {SIZE} has a piece of 4"):
            comm.allgather(x, 0, sizes)


@pytest.mark.skipif(SIZE == 1, reason="a message needs two ranks")
@pytest.mark.parametrize("sent", [1, 4], ids=["shorter", "longer"])
@pytest.mark.parametrize("background", [False, True], ids=["recv", "irecv"])
def test_a_message_of_another_length_is_an_error(comm: Comm, sent: int, background: bool) -> None:
    if RANK == 0:
        comm.send(comm.xp.zeros((sent,), "float32"), 1)
    elif RANK == 1:
        with pytest.raises(CommError, match=r"recv from rank 0: .* bytes came, 8 were expected"):
            comm.irecv((2,), "float32", 0).wait() if background else comm.recv((2,), "float32", 0)
    comm.barrier()


@pytest.mark.parametrize("shape", [(1,), (4,)])
def test_an_exchange_of_another_length_is_an_error(comm: Comm, shape: tuple[int, ...]) -> None:
    after, before = (RANK + 1) % SIZE, (RANK - 1) % SIZE
    with pytest.raises(
        CommError, match=f"recv from rank {before}: .*bytes came, {shape[0] * 4} were expected"
    ):
        comm.sendrecv(comm.xp.zeros((2,), "float32"), after, before, shape)
    comm.barrier()


@pytest.mark.skipif(SIZE > 1, reason="one rank")
def test_messages_on_one_rank_are_refused(comm: Comm) -> None:
    x = comm.xp.zeros((2,), "float32")
    with pytest.raises(CommError, match="need a second rank"):
        comm.send(x, 0)
    with pytest.raises(CommError, match="need a second rank"):
        comm.recv((2,), "float32", 0)


@pytest.mark.skipif(SIZE == 1, reason="a mesh of one rank has no MPI")
def test_a_message_to_oneself_does_not_wait_for_ever(comm: Comm) -> None:
    x = comm.xp.from_host(of_rank(RANK, LARGE, "float32"))
    with pytest.raises(CommError, match="send to oneself would wait for ever; write isend or sendrecv"):
        comm.send(x, RANK)
    sent = comm.isend(x, RANK)
    check(comm, comm.recv(LARGE, "float32", RANK), of_rank(RANK, LARGE, "float32"))
    sent.wait()


@pytest.mark.parametrize("rank", [-1, SIZE])
def test_a_rank_that_there_is_not(comm: Comm, rank: int) -> None:
    """-1 among them, which is no rank or any rank to one MPI or another."""
    x, there_are = comm.xp.zeros((2,), "float32"), rf"={rank} on 'tp': the ranks are 0 to {SIZE - 1}$"
    for call in (comm.broadcast, comm.reduce, comm.gather, comm.scatter, comm.ibroadcast, comm.iscatter):
        with pytest.raises(ValueError, match="root" + there_are):
            call(x, rank)
    with pytest.raises(ValueError, match="to" + there_are):
        comm.send(x, rank)
    with pytest.raises(ValueError, match="source" + there_are):
        comm.recv((2,), "float32", rank)
    for to, source in ((rank, 0), (0, rank)):
        with pytest.raises(ValueError, match=there_are):
            comm.sendrecv(x, to, source)


@pytest.mark.parametrize("tag", [-1, 32_766, 1 << 40])
def test_a_tag_that_is_not_the_users(comm: Comm, tag: int) -> None:
    x = comm.xp.zeros((2,), "float32")
    for call in (lambda: comm.send(x, 0, tag), lambda: comm.recv((2,), "float32", 0, tag)):
        with pytest.raises(ValueError, match=f"tag={tag}: tags are 0 to 32765"):
            call()


def test_the_root_of_a_scatter_has_an_array(comm: Comm) -> None:
    with pytest.raises(ValueError, match="scatter on 'tp': rank 0 is the root and handed in None"):
        comm.scatter(None)


def test_complex_numbers_have_no_order(comm: Comm) -> None:
    x = comm.xp.zeros((2,), "complex64")
    for call in (comm.allreduce, comm.reduce, comm.reduce_scatter, comm.iallreduce):
        for op in ("max", "min"):
            with pytest.raises(
                TypeError, match=f"op='{op}' of complex64 on 'tp': complex numbers have no order"
            ):
                call(x, op=op)


@pytest.mark.skipif(SIZE == 1, reason="one rank agrees with itself")
def test_arrays_that_do_not_fit_are_seen_by_all_ranks_where_lengths_are_told(comm: Comm) -> None:
    other = comm.xp.zeros((2, 3), "float64" if RANK == SIZE - 1 else "float32")
    last = rf"rank 0 has float32 \(2, 3\), rank {SIZE - 1} has"
    for call in (comm.allgather, comm.gather, comm.iallgather):
        with pytest.raises(CommError, match=rf"do not fit: {last} float64 \(2, 3\)"):
            call(other)
    wider = comm.xp.zeros((2, 4 if RANK == SIZE - 1 else 3), "float32")
    with pytest.raises(CommError, match=rf"do not fit: {last} float32 \(2, 4\)"):
        comm.allgather(wider)
    with pytest.raises(CommError, match="do not fit"):
        comm.alltoall(wider, 1, 0)
