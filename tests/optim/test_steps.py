"""What a step asks for and what it leaves behind.

A failure shows an update from a sum that is still owed, one that was made by half, or a gradient that counts twice.
"""

from __future__ import annotations

import pytest
from grids import ONE_AXIS
from weights import local_bytes, send_gradient, weight

from mpipar import GraphError, Shard, UsageError, ones
from mpipar.optim import SGD, Adam, AdamW
from mpipar.parallel import sync_gradients

OPTIMIZERS = {
    "sgd": lambda ps: SGD(ps, 0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda ps: Adam(ps, 0.1),
    "adamw": lambda ps: AdamW(ps, 0.1),
}
optimizers = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def with_gradients(mesh):
    """A parameter that owes nothing, and one whose gradient is Partial."""
    parameters = [
        weight("cut", (5,), mesh, **dict.fromkeys(mesh.grid.axes, Shard(0))),
        weight("whole", (5,), mesh),
    ]
    for p in parameters:
        send_gradient(p, p.name)
    return parameters


def weights_and_gradients(parameters):
    return local_bytes([*parameters, *(p.grad for p in parameters)])


@optimizers
def test_a_step_before_sync_raises_and_changes_nothing(make, make_mesh):
    """Not the parameter that comes first, and not the state: the step after sync is the first."""
    mesh = make_mesh(**ONE_AXIS)
    refused, other = with_gradients(mesh), with_gradients(mesh)
    optimizer = make(refused)
    before = weights_and_gradients(refused)
    with pytest.raises(
        GraphError, match=r"gradient of 'whole' is \(5; .*tp=Partial.*Call sync_gradients\(model\)"
    ):
        optimizer.step()
    assert weights_and_gradients(refused) == before
    for parameters, stepping in ((refused, optimizer), (other, make(other))):
        sync_gradients(parameters)
        stepping.step()
    assert local_bytes(refused) == local_bytes(other) != before[: len(refused)]


@optimizers
def test_a_step_clears_the_gradients(make, make_mesh):
    p = weight("w", (5, 3), make_mesh(**ONE_AXIS))
    optimizer = make([p])
    for _ in range(2):
        send_gradient(p, "g")
        sync_gradients([p])
        assert p.grad is not None
        optimizer.step()
        assert p.grad is None


@optimizers
def test_a_parameter_that_no_gradient_reached_stays(make, make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    used, unused = weight("used", (3,), mesh), weight("unused", (3,), mesh)
    optimizer = make([used, unused])
    before = unused.numpy()
    send_gradient(used, "g")
    sync_gradients([used])
    optimizer.step()
    assert (unused.numpy() == before).all()


def test_what_an_optimizer_cannot_take_is_refused(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    p = weight("w", (3,), mesh)
    for make in OPTIMIZERS.values():
        with pytest.raises(UsageError, match="without parameters"):
            make([])
        with pytest.raises(UsageError, match="a parameter twice"):
            make([p, p])
        with pytest.raises(GraphError, match="no leaf"):
            make([p, ones((3,), mesh)])
        with pytest.raises(GraphError, match="no leaf"):
            make([p * 2])
    with pytest.raises(UsageError, match="needs a momentum"):
        SGD([p], 0.1, nesterov=True)
