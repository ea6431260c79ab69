"""The ledger: every call once, with its label, the line that wrote it, and the bytes that other ranks need.

The definition of `bytes` is in mpipar/comm/ledger.py; here each collective states it for pieces of uneven lengths.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpipar import Partial, Shard
from mpipar import tensor as make_tensor
from mpipar.blocks import balanced
from mpipar.comm import Call, Comm, Ledger
from mpipar.job import world
from mpipar.mesh import Mesh
from mpipar.nn import RowParallelLinear
from mpipar.testing import count_collectives

SIZE, RANK = world().size, world().rank
MANY = SIZE > 1
LENGTHS = [3 * rank % 4 for rank in range(SIZE)]  # 0, 3, 2, 1
BALANCED = balanced(10, SIZE)
HERE = Path(__file__)


@pytest.fixture
def comm(make_mesh: Callable[..., Mesh]) -> Comm:
    return make_mesh(tp=SIZE)["tp"]


def one(comm: Comm, run: Callable[[], Any]) -> Call:
    """The one call that is written down while `run` runs."""
    with comm.ledger.record() as calls:
        run()
    (call,) = calls
    return call


def all_but_mine(sizes: tuple[int, ...] | list[int], row: int) -> int:
    return (sum(sizes) - sizes[RANK]) * row


def table(comm: Comm) -> dict[str, tuple[Callable[[], Any], str, int]]:
    """What is run, the operation, and the bytes on this rank: int16 rows of 3 numbers, 6 bytes a row."""
    xp = comm.xp
    x, mine = xp.zeros((10, 3), "int16"), xp.zeros((LENGTHS[RANK], 3), "int16")
    columns = xp.zeros((3, LENGTHS[RANK]), "int16")
    root, at_root = SIZE - 1, RANK == SIZE - 1
    after, before = (RANK + 1) % SIZE, (RANK - 1) % SIZE
    return {
        "allreduce": (lambda: comm.allreduce(x), "allreduce", 60),
        "large allreduce": (lambda: comm.allreduce(xp.zeros((40_000,), "int16")), "allreduce", 80_000),
        "allreduce of one number": (lambda: comm.allreduce(xp.zeros((), "float64")), "allreduce", 8),
        "iallreduce": (lambda: comm.iallreduce(x).wait(), "allreduce", 60),
        "reduce": (lambda: comm.reduce(x, root), "reduce", 0 if at_root else 60),
        "reduce_scatter": (lambda: comm.reduce_scatter(x), "reduce_scatter", all_but_mine(BALANCED, 6)),
        "reduce_scatter of columns": (
            lambda: comm.reduce_scatter(x, -1, LENGTHS_OF_3),
            "reduce_scatter",
            all_but_mine(LENGTHS_OF_3, 20),
        ),
        "ireduce_scatter": (
            lambda: comm.ireduce_scatter(x).wait(),
            "reduce_scatter",
            all_but_mine(BALANCED, 6),
        ),
        "allgather": (lambda: comm.allgather(mine), "allgather", 6 * LENGTHS[RANK]),
        "allgather with sizes": (lambda: comm.allgather(columns, 1, LENGTHS), "allgather", 6 * LENGTHS[RANK]),
        "iallgather": (lambda: comm.iallgather(mine).wait(), "allgather", 6 * LENGTHS[RANK]),
        "gather": (lambda: comm.gather(mine, root), "gather", 0 if at_root else 6 * LENGTHS[RANK]),
        "scatter": (
            lambda: comm.scatter(x if at_root else None, root),
            "scatter",
            all_but_mine(BALANCED, 6) if at_root else 0,
        ),
        "alltoall": (lambda: comm.alltoall(x, 0, 1), "alltoall", all_but_mine(BALANCED, 6)),
        "broadcast": (lambda: comm.broadcast(x, root), "broadcast", 60 if at_root else 0),
        "ibroadcast": (lambda: comm.ibroadcast(x, root).wait(), "broadcast", 60 if at_root else 0),
        "sendrecv": (lambda: comm.sendrecv(x, after, before), "sendrecv", 60),
        "alltoallv": (lambda: comm.alltoallv(x, BALANCED), "alltoallv", all_but_mine(BALANCED, 6)),
        "exchange": (
            lambda: comm.exchange({after: x, RANK: x}, {before: (10, 3), RANK: (10, 3)}),
            "exchange",
            60,
        ),
        "shift": (lambda: comm.shift(x), "shift", 0 if at_root else 60),
        "shift round a ring": (lambda: comm.shift(x, -1, periodic=True), "shift", 60),
        "ireduce": (lambda: comm.ireduce(x, root).wait(), "reduce", 0 if at_root else 60),
        "igather": (
            lambda: comm.igather(mine, root).wait(),
            "gather",
            0 if at_root else 6 * LENGTHS[RANK],
        ),
        "iscatter": (
            lambda: comm.iscatter(x if at_root else None, root).wait(),
            "scatter",
            all_but_mine(BALANCED, 6) if at_root else 0,
        ),
        "ialltoall": (lambda: comm.ialltoall(x, 0, 1).wait(), "alltoall", all_but_mine(BALANCED, 6)),
        "ialltoallv": (lambda: comm.ialltoallv(x, BALANCED).wait(), "alltoallv", all_but_mine(BALANCED, 6)),
        "isendrecv": (lambda: comm.isendrecv(x, after, before).wait(), "sendrecv", 60),
        "sendrecv with oneself": (lambda: comm.sendrecv(x, RANK, RANK), "sendrecv", 0),
        "iexchange": (lambda: comm.iexchange({after: x}, {before: (10, 3)}).wait(), "exchange", 60),
        "ishift": (lambda: comm.ishift(x, periodic=True).wait(), "shift", 60),
        "barrier": (comm.barrier, "barrier", 0),
        "ibarrier": (lambda: comm.ibarrier().wait(), "barrier", 0),
    }


LENGTHS_OF_3 = [*[0] * (SIZE - 1), 3]
NAMES = list(table(world()))


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_that_other_ranks_need(comm: Comm, name: str) -> None:
    run, operation, n_bytes = table(comm)[name]
    before = (comm.ledger.calls, comm.ledger.bytes, comm.ledger.seconds)
    call = one(comm, run)
    assert (call.label, call.operation, call.bytes) == ("tp", operation, n_bytes if MANY else 0)
    assert (comm.ledger.calls, comm.ledger.bytes) == (before[0] + 1, before[1] + call.bytes)
    assert comm.ledger.seconds == before[2] + call.seconds
    assert call.seconds > 0
    assert comm.ledger.last[-1] == call


@pytest.mark.skipif(not MANY, reason="a message needs two ranks")
def test_messages_count_where_they_are_sent(comm: Comm) -> None:
    x = comm.xp.zeros((2, 2), "float32")
    with comm.ledger.record() as calls:
        if RANK == 0:
            comm.send(x, 1)
            comm.isend(x, 1).wait()
        elif RANK == 1:
            comm.recv((2, 2), "float32", 0)
            comm.irecv((2, 2), "float32", 0).wait()
    wanted = {0: [("send", 16)] * 2, 1: [("recv", 0)] * 2}
    assert [(call.operation, call.bytes) for call in calls] == wanted.get(RANK, [])


def test_a_fetch_counts_where_the_rows_arrive(comm: Comm) -> None:
    """Its owner takes no part in it. Rows of one's own are free."""
    with comm.ledger.record() as calls, comm.expose(comm.xp.zeros((10, 3), "int16")) as window:
        window.fetch((RANK + 1) % SIZE, 2, 5)
        window.ifetch((RANK + 1) % SIZE).wait()
        window.fetch(RANK)
    wanted = [18, 60, 0] if MANY else [0, 0, 0]
    assert [(call.operation, call.bytes) for call in calls] == [("fetch", n_bytes) for n_bytes in wanted]


def test_control_traffic_is_not_written_down(comm: Comm) -> None:
    with comm.ledger.record() as calls:
        comm.allgather_object([1, 2])
        comm.broadcast_object("x")
        comm.alltoall_sizes([1] * SIZE)
        comm.duplicate("other").barrier()
    assert calls == []


def test_a_refused_call_is_not_written_down(comm: Comm) -> None:
    with comm.ledger.record() as calls, pytest.raises(TypeError):
        comm.allreduce(comm.xp.zeros((2,), "bool"))
    assert calls == []


# ---- where it was written ---------------------------------------------------------------------------------


def line() -> int:
    """The line of the caller."""
    return sys._getframe(1).f_lineno


def test_the_site_is_the_line_that_called(comm: Comm) -> None:
    x = comm.xp.zeros((2,), "float32")
    with comm.ledger.record() as calls:
        comm.allreduce(x); first = line()  # fmt: skip # noqa: E702
        comm.barrier(); second = line()  # fmt: skip # noqa: E702
    assert [call.site for call in calls] == [f"{HERE}:{first}", f"{HERE}:{second}"]


def test_in_the_background_it_is_the_line_that_started_it(comm: Comm) -> None:
    with comm.ledger.record() as calls:
        handle = comm.iallreduce(comm.xp.zeros((40_000,), "float32")); started = line()  # fmt: skip # noqa: E702
        assert not calls
        while not handle.test():
            pass
        handle.wait()
    assert [call.site for call in calls] == [f"{HERE}:{started}"]


def test_of_a_move_it_is_the_line_that_wrote_the_move(make_mesh: Callable[..., Mesh]) -> None:
    mesh = make_mesh(tp=SIZE)
    x = make_tensor([[1.0, 2.0]] * 4, mesh, requires_grad=True, tp=Shard(0))
    with mesh.ledger.record() as calls:
        whole = x.allgather("tp"); forward = line()  # fmt: skip # noqa: E702
        whole.sum().backward(); backward = line()  # fmt: skip # noqa: E702
    wanted = [("allgather", forward), ("reduce_scatter", backward)] if MANY else []
    assert [(call.operation, call.site) for call in calls] == [(op, f"{HERE}:{at}") for op, at in wanted]


def test_inside_a_layer_it_is_the_line_of_the_layer(make_mesh: Callable[..., Mesh]) -> None:
    mesh = make_mesh(tp=SIZE)
    layer = RowParallelLinear("row", 8, 4, mesh)
    x = make_tensor([[1.0] * 8], mesh, dtype="float32", tp=Shard(1))
    with mesh.ledger.record() as calls:
        layer(x)
    assert len(calls) == int(MANY)
    for call in calls:
        assert call.site.rpartition(":")[0].endswith("mpipar/nn/linear.py")


# ---- labels, listeners, totals ----------------------------------------------------------------------------


@pytest.mark.parametrize("dp", [dp for dp in range(1, SIZE + 1) if SIZE % dp == 0])
def test_labels_are_the_axes(make_mesh: Callable[..., Mesh], dp: int) -> None:
    mesh = make_mesh(dp=dp, tp=SIZE // dp)
    with mesh.ledger.record() as calls:
        for axes in (("dp",), ("tp",), ("dp", "tp"), ("tp", "dp")):
            mesh[axes].barrier()
        mesh.world.barrier()
    assert [call.label for call in calls] == ["dp", "tp", "dp,tp", "tp,dp", "mesh"]


def test_every_mesh_has_a_ledger_of_its_own(make_mesh: Callable[..., Mesh]) -> None:
    mesh, alone = make_mesh(tp=SIZE), Mesh(ranks=[RANK])
    x = alone.xp.zeros((4,), "float32")
    with mesh.ledger.record() as calls:
        alone["tp"].allreduce(x)
    assert calls == []
    assert (alone.ledger.calls, alone.ledger.bytes) == (1, 0)


def test_listeners_nest_and_end_with_their_block(comm: Comm) -> None:
    with comm.ledger.record() as outer:
        comm.barrier()
        with comm.ledger.record() as inner:
            comm.barrier()
        with pytest.raises(RuntimeError, match="stop"), comm.ledger.record() as broken:
            raise RuntimeError("stop")
        comm.barrier()
    comm.barrier()
    assert [len(calls) for calls in (outer, inner, broken)] == [3, 1, 0]
    assert inner == outer[1:2]


def test_the_last_calls_are_kept_and_all_are_counted() -> None:
    ledger = Ledger()
    for number in range(10_005):
        ledger.add("tp", "barrier", 1, 0.5, f"here:{number}")
    assert (ledger.calls, ledger.bytes, ledger.seconds) == (10_005, 10_005, 5002.5)
    assert len(ledger.last) == 10_000
    assert ledger.last[0].site == "here:5"


def test_counting_collectives_is_reading_the_ledger(make_mesh: Callable[..., Mesh]) -> None:
    mesh = make_mesh(tp=SIZE)
    x = make_tensor([1.0, 2.0], mesh, tp=Partial())
    with count_collectives(mesh) as counts:
        x.allreduce("tp")
        x.allreduce("tp")
    assert counts == ({("tp", "allreduce"): (2, 32)} if MANY else {})
