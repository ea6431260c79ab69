"""Collectives in the background: what comes is what the blocking call gives, in whatever order the handles are driven.

Each rank drives its handles in an order of its own. A failure with numbers of another handle, or ranks that stand still
in `wait`, mean that the ranks started the steps of two handles in different orders.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rank_data import folded, of_rank

from mpipar.blocks import balanced
from mpipar.comm import Comm, Handle, large
from mpipar.errors import CommError
from mpipar.job import world
from mpipar.mesh import Mesh

SIZE, RANK = world().size, world().rank
SMALL, LARGE = (5, 3), (300, 101)
SENDS: list[Handle] = []  # a message that nobody waits for must be kept until it has gone
Started = tuple[Handle, Any]  # and what it must give


@pytest.fixture(params=[large.LIMIT, 50], ids=["whole", "in parts"])
def comm(
    request: pytest.FixtureRequest, make_mesh: Callable[..., Mesh], monkeypatch: pytest.MonkeyPatch
) -> Comm:
    """And one in which MPI may count 50 bytes: a step is many calls of MPI."""
    monkeypatch.setattr(large, "LIMIT", request.param)
    return make_mesh(tp=SIZE)["tp"]


def terms(shape: tuple[int, ...], salt: int, dtype: str = "float32") -> list[Any]:
    return [of_rank(rank + 10 * salt, shape, dtype) for rank in range(SIZE)]


def start(comm: Comm, what: str, salt: int) -> Started:
    """Starts one; `salt` makes the numbers of every handle its own."""
    every = terms(LARGE if what == "large allreduce" else SMALL, salt)
    return STARTS[what](comm, comm.xp.from_host(every[RANK]), every, salt)


def started_message(comm: Comm, x: Any, every: list[Any], salt: int) -> Started:
    """Round the ring."""
    after, before = (RANK + 1) % SIZE, (RANK - 1) % SIZE
    SENDS.append(comm.isend(x, after, salt))
    return comm.irecv(SMALL, "float32", before, salt), every[before]


def at(root: int, value: Any) -> Any:
    return value if root == RANK else None


AFTER, BEFORE = (RANK + 1) % SIZE, (RANK - 1) % SIZE
MINE = slice(sum(balanced(SMALL[0], SIZE)[:RANK]), sum(balanced(SMALL[0], SIZE)[: RANK + 1]))
FROM_ALL = [balanced(SMALL[0], SIZE)[RANK]] * SIZE
ON_FIRST = [SMALL[0], *[0] * (SIZE - 1)]
STARTS: dict[str, Callable[[Comm, Any, list[Any], int], Started]] = {
    "allreduce": lambda comm, x, every, salt: (comm.iallreduce(x), folded(every, "sum")),
    "large allreduce": lambda comm, x, every, salt: (comm.iallreduce(x), folded(every, "sum")),
    "max": lambda comm, x, every, salt: (comm.iallreduce(x, "max"), folded(every, "max")),
    "reduce_scatter": lambda comm, x, every, salt: (
        comm.ireduce_scatter(x, 0, ON_FIRST),
        folded(every, "sum")[: ON_FIRST[RANK]],
    ),
    "allgather": lambda comm, x, every, salt: (comm.iallgather(x, -1), np.concatenate(every, -1)),
    "broadcast": lambda comm, x, every, salt: (comm.ibroadcast(x, SIZE - 1), every[-1]),
    "reduce": lambda comm, x, every, salt: (comm.ireduce(x, 0, "min"), at(0, folded(every, "min"))),
    "gather": lambda comm, x, every, salt: (
        comm.igather(x, SIZE - 1, 1),
        at(SIZE - 1, np.concatenate(every, 1)),
    ),
    "scatter": lambda comm, x, every, salt: (comm.iscatter(at(0, x)), every[0][MINE]),
    "alltoall": lambda comm, x, every, salt: (
        comm.ialltoall(x, 0, 1),
        np.concatenate([its[MINE] for its in every], 1),
    ),
    "alltoallv": lambda comm, x, every, salt: (
        comm.ialltoallv(x, balanced(SMALL[0], SIZE), FROM_ALL),
        np.concatenate([its[MINE] for its in every]),
    ),
    "sendrecv": lambda comm, x, every, salt: (comm.isendrecv(x, AFTER, BEFORE), every[BEFORE]),
    "shift": lambda comm, x, every, salt: (comm.ishift(x, -1, periodic=True), every[AFTER]),
    "exchange": lambda comm, x, every, salt: (
        comm.iexchange(dict.fromkeys(range(SIZE), x), dict.fromkeys(range(SIZE), SMALL)),
        dict(enumerate(every)),
    ),
    "barrier": lambda comm, x, every, salt: (comm.ibarrier(), None),
    "recv": started_message,
}


def check(comm: Comm, started: Started) -> None:
    handle, wanted = started
    agree(comm, handle.wait(), wanted)


def agree(comm: Comm, found: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, array in wanted.items():
            agree(comm, found[key], array)
    elif wanted is None:
        assert found is None
    else:
        here = comm.xp.to_host(found)
        assert (here.shape, here.tobytes()) == (wanted.shape, wanted.tobytes())


KINDS = [what for what in STARTS if SIZE > 1 or what != "recv"]


@pytest.mark.parametrize("what", KINDS)
def test_wait_gives_the_result_and_gives_it_again(comm: Comm, what: str) -> None:
    started = start(comm, what, 1)
    check(comm, started)
    check(comm, started)
    assert started[0].test()


@pytest.mark.parametrize("what", KINDS)
def test_test_drives_it_to_the_end(comm: Comm, what: str) -> None:
    started = start(comm, what, 2)
    while not started[0].test():
        pass
    check(comm, started)
    comm.barrier()


@pytest.mark.parametrize("seed", range(6))
def test_several_under_way_waited_for_in_any_order(comm: Comm, seed: int) -> None:
    started = start_many(comm, seed)
    for place in my_order(len(started), seed):
        check(comm, started[place])


@pytest.mark.parametrize("seed", range(6))
def test_several_under_way_tested_in_any_order(comm: Comm, seed: int) -> None:
    """And beside them blocking collectives, at a point where ranks have come differently far."""
    started = start_many(comm, seed)
    open_ones = my_order(len(started), seed)
    for place in open_ones[: RANK + seed]:
        started[place][0].test()
    assert comm.allgather_object(RANK) == list(range(SIZE))
    large = terms(LARGE, 99)
    check_blocking = comm.xp.to_host(comm.allreduce(comm.xp.from_host(large[RANK])))
    assert check_blocking.tobytes() == folded(large, "sum").tobytes()
    while open_ones:
        open_ones = [place for place in open_ones if not started[place][0].test()]
    for one in started:
        check(comm, one)


def test_large_ones_waited_for_backwards_on_one_rank_and_forwards_on_the_next(comm: Comm) -> None:
    """Each takes two steps. If the second steps started as each rank comes to them, they would be mixed up."""
    started = [start(comm, "large allreduce", salt) for salt in range(4)]
    for one in started if RANK % 2 else reversed(started):
        check(comm, one)


def test_one_that_is_refused_does_not_hold_up_the_next(comm: Comm) -> None:
    with pytest.raises(TypeError, match="bool"):
        comm.iallreduce(comm.xp.zeros((100_000,), "bool"))
    check(comm, start(comm, "large allreduce", 5))


def test_the_buffer_may_be_used_again_after_wait(comm: Comm) -> None:
    wanted = folded(terms(LARGE, 3), "sum")
    x = comm.xp.from_host(terms(LARGE, 3)[RANK])
    handle = comm.iallreduce(x)
    result = handle.wait()
    comm.xp.fill(x, 0)
    comm.barrier()
    assert comm.xp.to_host(result).tobytes() == wanted.tobytes()


def test_a_handle_keeps_what_it_sends_alive(comm: Comm) -> None:
    """The caller may drop the array, and what was made of it to send it."""
    wanted = folded([x.T for x in terms(LARGE, 4)], "sum")
    handle = comm.iallreduce(comm.xp.from_host(terms(LARGE, 4)[RANK]).T)
    _ = [comm.xp.full(LARGE, 7, "float32") for _ in range(20)]
    assert comm.xp.to_host(handle.wait()).tobytes() == wanted.tobytes()


def test_every_collective_has_both_forms_with_the_same_arguments() -> None:
    """And every one of the forms in the background is started above."""
    background = {name for name in vars(Comm) if name[:1] == "i" and hasattr(Comm, name[1:])}
    names = {what.rpartition(" ")[2] for what in STARTS} - {"max"} | {"send"}
    assert background == {f"i{name}" for name in names}
    for name in background:
        form, blocking = inspect.signature(getattr(Comm, name)), inspect.signature(getattr(Comm, name[1:]))
        assert (form.parameters, form.return_annotation) == (blocking.parameters, "Handle")
        assert not blocking.return_annotation.startswith("Plan")
        assert inspect.getdoc(getattr(Comm, name)).startswith(f"`{name[1:]}` in the background: ")


@pytest.mark.skipif(SIZE == 1, reason="one rank waits for nobody")
def test_a_message_of_another_length_leaves_the_others_in_order(comm: Comm) -> None:
    """An exchange in which one message is wrong: told by every `wait`, and the next exchange is right again."""
    shapes = {rank: (3,) if (RANK, rank) == (0, 1) else (5,) for rank in range(SIZE)}
    handle = comm.iexchange(dict.fromkeys(range(SIZE), comm.xp.zeros((5,), "float32")), shapes)
    for _ in range(2):
        if RANK == 0:
            with pytest.raises(CommError, match=r"recv from rank 1: .* bytes came, 12 were expected"):
                handle.wait()
        else:
            handle.wait()
    check(comm, start(comm, "exchange", 6))


@pytest.mark.skipif(SIZE == 1, reason="one rank waits for nobody")
def test_a_barrier_is_not_passed_before_the_last_rank_has_come(comm: Comm) -> None:
    if RANK == 0:
        comm.recv((1,), "int8", 1, 5)
    handle = comm.ibarrier()
    if RANK == 1:
        assert not any(handle.test() for _ in range(100)), "rank 0 has not come yet"
        comm.send(comm.xp.zeros((1,), "int8"), 0, 5)
    handle.wait()


def start_many(comm: Comm, seed: int) -> list[Started]:
    """The same on all ranks: a collective is matched by the order in which it is started."""
    draw = random.Random(seed)
    return [start(comm, draw.choice(KINDS), salt) for salt in range(8)]


def my_order(count: int, seed: int) -> list[int]:
    """Another on each rank."""
    return random.Random(f"{seed} {RANK}").sample(range(count), count)
