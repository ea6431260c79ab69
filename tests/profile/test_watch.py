"""What `watch` sees of a program, and that nothing of it stays. A failure shows the events that came instead."""

from __future__ import annotations

from itertools import pairwise
from time import sleep

import pytest

from mpipar import Mesh, Partial, Shard, parameter, randn
from mpipar.job import world
from mpipar.nn import vocab_parallel_cross_entropy
from mpipar.ops.base import KNOWN
from mpipar.ops.unmade import Product
from mpipar.optim import SGD
from mpipar.profile import Event, Sums, watch
from mpipar.profile.watch import BACKWARD, COLLECTIVE, FORWARD, MOVE, SPAN
from mpipar.tensor import tensor
from mpipar.tensor.moves import Move


@pytest.fixture
def mesh() -> Mesh:
    return Mesh(tp=world().size)


def seen(mesh: Mesh) -> list[Event]:
    """A column product, a row product, the sum, a loss, and backward."""
    x = randn("x", (3, 8), mesh)
    up, down = parameter("up", (8, 12), mesh, tp=Shard(1)), parameter("down", (12, 8), mesh, tp=Shard(0))
    events: list[Event] = []
    with watch(mesh, events.append):
        y = ((x @ up).tanh() @ down).allreduce("tp").square().sum()
        y.backward()
    (x @ up).tanh()  # nobody looks any more
    return events


def test_operations_moves_and_collectives_are_seen_in_order(mesh: Mesh) -> None:
    """A collective ends before the move that it is in; backward follows creation, reversed."""
    found = [(event.kind, event.name) for event in seen(mesh)]
    reduced = [(COLLECTIVE, "allreduce"), (MOVE, "allreduce")] if mesh.size > 1 else []
    ahead = ["contract", "tanh", "contract"]
    assert found == [
        *[(FORWARD, name) for name in ahead],
        *reduced,
        *[(FORWARD, "square"), (FORWARD, "sum"), (BACKWARD, "sum"), (BACKWARD, "square")],
        *reduced,
        *[(BACKWARD, name) for name in ("contract", "contract", "tanh", "contract")],
    ]


def test_a_collective_has_its_axis_its_bytes_and_the_line_that_wrote_it(mesh: Mesh) -> None:
    collectives = [event for event in seen(mesh) if event.kind == COLLECTIVE]
    assert {(event.axis, event.bytes) for event in collectives} <= {("tp", 3 * 8 * 4)}
    assert all(__file__ in event.site for event in collectives)
    assert len(collectives) == (2 if mesh.size > 1 else 0)


def test_a_gradient_that_is_made_in_its_place_is_told_of_its_operation(mesh: Mesh, monkeypatch) -> None:
    """Not when the vjp returns: the leaf has the product made, in its buffer or not."""
    w, events = parameter("w", (8, 8), mesh), []
    for method in ("made", "write_to", "add_to"):
        plain = getattr(Product, method)
        monkeypatch.setattr(Product, method, lambda *args, plain=plain: (sleep(0.01), plain(*args))[1])
    with watch(mesh, events.append):
        for _ in range(2):
            (randn("x", (3, 8), mesh) @ w).sum().backward()
    products = [event for event in events if (event.kind, event.name) == (BACKWARD, "contract")]
    assert len(products) == 2
    assert all(event.end - event.begin >= 0.01 for event in products)


def test_times_follow_each_other_and_contain_what_is_inside(mesh: Mesh) -> None:
    events = seen(mesh)
    outer = [event for event in events if event.kind != COLLECTIVE]
    assert all(event.begin <= event.end for event in events)
    assert all(before.end <= after.begin for before, after in pairwise(outer))
    for inner, around in pairwise(events):
        if inner.kind == COLLECTIVE:
            assert around.begin <= inner.begin <= inner.end <= around.end


def test_nothing_stays_even_after_an_error(mesh: Mesh) -> None:
    before, run = {op: op.forward for op in KNOWN}, Move.run
    with pytest.raises(ZeroDivisionError), watch(mesh, lambda event: 1 // 0):
        randn("x", (4,), mesh).tanh()
    assert {op: op.forward for op in before} == before
    assert Move.run is run
    calls = mesh.ledger.calls
    mesh.world.barrier()
    assert mesh.ledger.calls == calls + 1  # and the ledger tells it to nobody: 1 // 0 would raise


def test_a_method_is_seen_while_it_is_watched(mesh: Mesh) -> None:
    optimizer, events = SGD([parameter("w", (4,), mesh)], 0.1), list[Event]()
    with watch(mesh, events.append, (optimizer, "step")):
        optimizer.step()
    optimizer.step()
    assert [(event.kind, event.name) for event in events] == [(SPAN, "SGD.step")]
    assert "step" not in vars(optimizer)


def test_sums_take_the_collectives_out_of_the_operation_around_them(mesh: Mesh) -> None:
    """The loss over a cut vocabulary makes two allreduces itself."""
    logits, targets = randn("z", (5, 16), mesh, tp=Shard(1)), tensor([1, 5, 9, 0, 15], mesh)
    sums = Sums()
    with watch(mesh, sums):
        assert vocab_parallel_cross_entropy(logits, targets).placements["tp"] == Partial()
    row = sums.rows[COLLECTIVE, "allreduce", "tp"]
    assert (row.calls, row.bytes) == ((2, 2 * 5 * 4) if mesh.size > 1 else (2, 0))
    assert sums.rows[FORWARD, "cross_entropy", ""].calls == 1


def test_sums_of_known_times() -> None:
    sums = Sums()
    for event in (
        Event(COLLECTIVE, "allreduce", 2.0, 3.0, "tp", 8),
        Event(COLLECTIVE, "allreduce", 4.0, 4.5, "tp", 8),
        Event(FORWARD, "loss", 1.0, 5.0),
        Event(FORWARD, "loss", 6.0, 7.0),
        Event(COLLECTIVE, "allreduce", 7.0, 9.0, "dp", 4),  # inside nothing
        Event(BACKWARD, "loss", 9.5, 10.0),
    ):
        sums(event)
    assert {key: (row.calls, row.seconds, row.bytes) for key, row in sums.rows.items()} == {
        (COLLECTIVE, "allreduce", "tp"): (2, 1.5, 16),
        (FORWARD, "loss", ""): (2, 3.5, 0),
        (COLLECTIVE, "allreduce", "dp"): (1, 2.0, 4),
        (BACKWARD, "loss", ""): (1, 0.5, 0),
    }
