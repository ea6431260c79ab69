"""Collectives through shared memory: the bits of those over MPI, for arrays that lie there and for those that do not.

Every array is large enough here (`least` is 0), and to go over MPI is a failure, unless the test says otherwise. Wrong
numbers that come and go mean that a rank read or wrote memory before or after its time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from rank_data import DTYPES, cut, folded, of_rank, operations

from mpipar.backend import cpu
from mpipar.blocks import balanced
from mpipar.comm import Comm, Ledger
from mpipar.comm.scheme import Scheme
from mpipar.errors import CommError
from mpipar.job import world
from mpipar.mesh import Mesh

SIZE, RANK = world().size, world().rank
RANKS = range(SIZE)
SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (5,), (3, 4), (2, 0, 3), (2, 3, 2), (3, 9000)]
LENGTHS = [(2 * rank + 1) % 4 for rank in RANKS]  # 1, 3, 1, 3
HOLES = [3 * (rank % 2) for rank in RANKS]  # 0, 3, 0, 3
MEMORY: Any = cpu().arena

pytestmark = pytest.mark.skipif(world().shared is None, reason="needs ranks that share memory")


@pytest.fixture(autouse=True)
def _every_array_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEMORY, "least", 0)


@pytest.fixture
def comm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Comm]:
    for collective in ("allreduce", "reduce_scatter", "allgather"):
        monkeypatch.setattr(Scheme, collective, lambda *_: pytest.fail("it went over MPI"))
    return Mesh(tp=SIZE, device="cpu")["tp"]


def over_mpi() -> Comm:
    comm = Comm(world().transport, "tp", Ledger(), cpu())
    comm.shared = None
    return comm


def check(found: Any, wanted: Any, what: object = "") -> None:
    """The same dtype, shape and bits."""
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), what
    assert found.tobytes() == wanted.tobytes(), f"{what}: {found} is not {wanted}"


def there(x: Any) -> Any:
    """In shared memory."""
    y = MEMORY.empty(x.shape, x.dtype)
    y[...] = x
    return y


def inside(x: Any) -> Any:
    """In shared memory, a view into a larger array."""
    whole = MEMORY.empty((x.size + 7,), x.dtype)
    whole[3 : 3 + x.size] = x.reshape(-1)
    return whole[3 : 3 + x.size].reshape(x.shape)


def turned(x: Any) -> Any:
    """In shared memory, not contiguous."""
    return there(np.asarray(x.T, order="C")).T


HOMES = {"there": there, "inside": inside, "turned": turned, "elsewhere": np.copy}
EVERY_HOME = [
    *HOMES.values(),
    HOMES["there"] if RANK else np.copy,
]  # the last: on some ranks there, not on all


# ---- the numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_allreduce(comm: Comm, dtype: str) -> None:
    for op, shape, home in product(operations(dtype), SHAPES, EVERY_HOME):
        x, wanted = home(of_rank(RANK, shape, dtype)), folded([of_rank(r, shape, dtype) for r in RANKS], op)
        check(comm.allreduce(x, op), wanted, (op, shape, home))
        check(comm.iallreduce(x, op).wait(), wanted, (op, shape, home))
        check(x, of_rank(RANK, shape, dtype), "the argument")


@pytest.mark.parametrize("dtype", DTYPES)
def test_allreduce_into_an_array(comm: Comm, dtype: str) -> None:
    op = operations(dtype)[-1]
    for shape, home in product(SHAPES, EVERY_HOME):
        wanted = folded([of_rank(rank, shape, dtype) for rank in RANKS], op)
        x, out = home(of_rank(RANK, shape, dtype)), home(of_rank(9, shape, dtype))
        assert comm.allreduce(x, op, out=out) is out
        check(out, wanted, (shape, home))
        check(x, of_rank(RANK, shape, dtype), "the argument")
        assert comm.allreduce(x, op, out=x) is x
        check(x, wanted, (shape, home, "in place"))
        y = home(of_rank(RANK, shape, dtype))
        assert comm.iallreduce(y, op, out=y).wait() is y
        check(y, wanted, (shape, home, "in place, in the background"))


@pytest.mark.parametrize("by", [-5, -1, 1, 5])
def test_a_result_that_overlaps_the_argument(comm: Comm, by: int) -> None:
    every = [of_rank(rank, (40_000,), "float32") for rank in RANKS]
    whole = MEMORY.empty((40_010,), "float32")
    x, out = whole[5:40_005], whole[5 + by : 40_005 + by]
    x[...] = every[RANK]
    check(comm.allreduce(x, out=out), folded(every, "sum"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_reduce_scatter(comm: Comm, dtype: str) -> None:
    op = operations(dtype)[0]
    for shape, sizes, home in product(SHAPES[1:], (None, HOLES, LENGTHS), EVERY_HOME):
        for dim in range(len(shape)):
            whole = shape if sizes is None else (*shape[:dim], sum(sizes), *shape[dim + 1 :])
            pieces = list(balanced(whole[dim], SIZE)) if sizes is None else sizes
            x = home(of_rank(RANK, whole, dtype))
            wanted = cut(folded([of_rank(r, whole, dtype) for r in RANKS], op), dim, pieces)[RANK]
            check(comm.reduce_scatter(x, dim, sizes, op), wanted, (whole, dim, home))
            check(comm.ireduce_scatter(x, dim, sizes, op).wait(), wanted, (whole, dim, home))
            check(x, of_rank(RANK, whole, dtype), "the argument")


@pytest.mark.parametrize("dtype", DTYPES)
def test_allgather(comm: Comm, dtype: str) -> None:
    for shape, lengths, home in product(SHAPES[1:], (HOLES, LENGTHS), EVERY_HOME):
        for dim in range(len(shape)):
            every = [of_rank(r, (*shape[:dim], lengths[r], *shape[dim + 1 :]), dtype) for r in RANKS]
            x, wanted = home(every[RANK]), np.concatenate(every, dim)
            check(comm.allgather(x, dim), wanted, (shape, dim, home))
            check(comm.iallgather(x, dim, lengths).wait(), wanted, (shape, dim, home))
            check(x, every[RANK], "the argument")


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_bits_are_those_over_mpi(dtype: str) -> None:
    """Terms of wildly different magnitudes and signs, zeros of both signs, infinities and what is not a number."""
    draw = np.random.default_rng(RANK)
    x = draw.normal(size=(7, 30_001)) * 10.0 ** draw.integers(-30, 30, (7, 30_001))
    x[draw.random(x.shape) < 0.01] = 0
    x[draw.random(x.shape) < 0.01] = -np.inf if RANK % 2 else np.inf
    x[draw.random(x.shape) < 0.001] = np.nan
    x = np.where(draw.random(x.shape) < 0.1, -0.0, x).astype(np.float32).astype(cpu().dtype(dtype))
    shared, plain = world(), over_mpi()
    with np.errstate(all="ignore"):
        for op in ("sum", "max", "min"):
            check(shared.allreduce(there(x), op), plain.allreduce(x, op))  # type: ignore[arg-type]
            for dim in (0, 1):
                check(shared.reduce_scatter(there(x), dim, op=op), plain.reduce_scatter(x, dim, op=op))  # type: ignore[arg-type]
        check(shared.allgather(x, 1), plain.allgather(x, 1))
        y = there(x)
        check(shared.allreduce(y, out=y), plain.allreduce(x))


# ---- time -------------------------------------------------------------------------------------------------


def test_memory_that_is_used_again_while_others_lag_behind(comm: Comm) -> None:
    """What a call has read may be overwritten or freed when it returns, and what it gave stays as it is."""
    alike, mine = random.Random(0), random.Random(RANK)
    kept: list[tuple[Any, Any]] = []
    for turn in range(120):
        shape, kind = (alike.randrange(1, 3 * SIZE), alike.choice([3, 700, 9000])), alike.randrange(4)
        every = [of_rank(10 * turn + rank, shape, "float32") for rank in RANKS]
        x = mine.choice([there, inside, np.copy])(every[RANK])
        total = folded(every, "sum")
        if mine.random() < 0.3:
            time.sleep(mine.random() * 0.004)
        if kind == 0:
            found, wanted = comm.allreduce(x), total
        elif kind == 1:
            found, wanted = comm.allreduce(x, out=x), total
        elif kind == 2:
            found, wanted = comm.reduce_scatter(x), cut(total, 0, list(balanced(shape[0], SIZE)))[RANK]
        else:
            found, wanted = comm.allgather(x, 0), np.concatenate(every, 0)
        if found is not x:
            x.fill(np.nan)
        del x
        kept.append((found, wanted))
        if mine.random() < 0.5:
            check(*kept.pop(mine.randrange(len(kept))), turn)
    for found, wanted in kept:
        check(found, wanted)


def test_several_under_way_driven_in_any_order(comm: Comm) -> None:
    for seed in range(5):
        alike, mine = random.Random(seed), random.Random(f"{seed} {RANK}")
        started = []
        for number in range(8):
            every = [of_rank(100 * seed + 10 * number + rank, (50, 40), "float32") for rank in RANKS]
            x, total = mine.choice([there, np.copy])(every[RANK]), folded(every, "sum")
            started.append(
                [
                    lambda x=x, total=total: (comm.iallreduce(x), total),
                    lambda x=x, total=total: (comm.iallreduce(x, out=x), total),
                    lambda x=x, total=total: (comm.ireduce_scatter(x, 1), cut(total, 1, [*balanced(40, SIZE)])[RANK]),
                    lambda x=x, every=every: (comm.iallgather(x, 1, [40] * SIZE), np.concatenate(every, 1)),
                ][alike.randrange(4)]()
            )  # fmt: skip
        check(comm.allreduce(np.ones(3)), np.full(3, float(SIZE)))
        for handle, wanted in mine.sample(started, len(started)):
            while mine.random() < 0.7 and not handle.test():
                pass
            check(handle.wait(), wanted, seed)


def test_many_communicators(comm: Comm) -> None:
    """Each has the memory of its own ranks: pairs, and all ranks in another order."""
    groups = [[first, last] for last in RANKS for first in range(last)] + [[*RANKS][::-1]]
    for ranks in groups:
        if RANK in ranks:
            some = Mesh(ranks=ranks, tp=len(ranks), device="cpu")["tp"]
            every = [of_rank(rank, (6, 50), "float32") for rank in ranks]
            check(some.allreduce(every[some.rank]), folded(every, "sum"), ranks)
            check(some.allgather(every[some.rank], 1), np.concatenate(every, 1), ranks)
            assert some.shared is not None


def test_a_duplicate_shares_memory_too(comm: Comm) -> None:
    other = comm.duplicate("other")
    here, there_ = comm.iallreduce(np.ones(3)), other.iallreduce(np.ones(3))
    check(there_.wait(), np.full(3, float(SIZE)))
    check(here.wait(), np.full(3, float(SIZE)))


def test_the_ledger_is_that_over_mpi(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    x, sizes = np.zeros((10, 3), np.int16), LENGTHS
    calls = []
    for each in (comm, over_mpi()):
        monkeypatch.setattr(MEMORY, "least", 0)
        with each.ledger.record() as recorded:
            each.allreduce(x)
            each.allreduce(x, out=x)
            each.iallreduce(x).wait()
            each.reduce_scatter(x, 1)
            each.allgather(x[: sizes[RANK]])
            each.iallgather(x[: sizes[RANK]], 0, sizes).wait()
        calls.append([(call.label, call.operation, call.bytes) for call in recorded])
    assert calls[0] == calls[1]


# ---- what does not fit ------------------------------------------------------------------------------------


def test_arrays_that_differ(comm: Comm) -> None:
    """Found on all ranks, before anything is read; the next collective is right again."""
    odd = RANK == SIZE - 1
    for call, what in (
        (lambda: comm.allreduce(np.ones((3, 4 + odd))), r"allreduce \(sum\) of float64 \(3, 4\)"),
        (lambda: comm.allreduce(np.ones(3, "f4" if odd else "i4")), r"allreduce \(sum\) of float32 \(3,\)"),
        (lambda: comm.allreduce(np.ones(3), "max" if odd else "min"), r"allreduce \(max\)"),
        (lambda: comm.reduce_scatter(np.ones((4, 4)), int(odd)), r"reduce_scatter \(sum\).* along dim 1, sizes"),
        (lambda: comm.allgather(np.ones((2 + odd,)), 0, [2 + odd] * SIZE), "allgather of float64"),
        (lambda: comm.allgather(np.ones(2), 0, [2] * SIZE) if odd else comm.allreduce(np.ones(2)), "allgather of"),
    ):  # fmt: skip
        with pytest.raises(CommError, match=rf"the arrays on 'tp' do not fit: .*{what}"):
            call()
        check(comm.allreduce(np.ones(3)), np.full(3, float(SIZE)))
        handle = comm.iallreduce(np.ones((3, 4 + odd)))
        with pytest.raises(CommError, match="do not fit"):
            handle.wait()
        check(comm.iallreduce(np.ones(3)).wait(), np.full(3, float(SIZE)))


def test_an_out_that_does_not_fit(comm: Comm) -> None:
    for out in (np.ones(4), np.ones((3, 1)), np.ones(3, "f4")):
        with pytest.raises(
            ValueError, match=r"out on 'tp' is float\d\d .*, the array float64 \(3,\): they must"
        ):
            comm.allreduce(np.ones(3), out=out)
        with pytest.raises(ValueError, match="must be alike"):
            comm.iallreduce(np.ones(3), out=out)


def test_where_one_rank_has_no_room_all_go_over_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    comm = Mesh(tp=SIZE, device="cpu")["tp"]
    every = [of_rank(rank, (5, 300), "float32") for rank in RANKS]
    total = folded(every, "sum")
    for full in RANKS:
        with monkeypatch.context() as patch:
            if full == RANK:
                patch.setattr(MEMORY, "_grown", lambda top: False)
                patch.setattr(MEMORY, "_free", [])
                patch.setattr(MEMORY, "_returned", type(MEMORY._returned)())
            x = every[RANK].copy()
            check(comm.allreduce(x), total)
            check(comm.allreduce(x, out=x), total)
            check(comm.iallreduce(every[RANK]).wait(), total)
            check(comm.reduce_scatter(every[RANK]), cut(total, 0, list(balanced(5, SIZE)))[RANK])
            check(comm.allgather(every[RANK]), np.concatenate(every))


def test_small_arrays_go_over_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEMORY, "least", 4000)
    comm, ways = Mesh(tp=SIZE, device="cpu")["tp"], []
    monkeypatch.setattr(MEMORY, "fold", lambda outs, terms, op: ways.append(outs[0].dtype))
    enough = 500 * max(1, SIZE // 4)
    comm.allreduce(np.zeros(enough - 1))
    comm.allreduce(np.zeros(enough))
    assert len(ways) == 1
