"""An optimizer hands out all that its next step depends on, laid out as the weights, and takes it back.

A failure of the first test names the optimizer whose next step knows something that `state_dict` does not.
"""

from __future__ import annotations

import pytest
from grids import ONE_AXIS
from weights import every_layout, local_bytes, send_gradient, weight

from mpipar import Tensor, UsageError
from mpipar.optim import SGD, Adam, AdamW
from mpipar.parallel import sync_gradients

OPTIMIZERS = {
    "sgd": lambda ps, lr=0.1: SGD(ps, lr),
    "momentum": lambda ps, lr=0.1: SGD(ps, lr, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda ps, lr=0.1: Adam(ps, lr),
    "adamw": lambda ps, lr=0.1: AdamW(ps, lr),
}
optimizers = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def step(parameters, optimizer, names):
    for name in names:
        for p in parameters:
            send_gradient(p, f"{p.name} {name}")
        sync_gradients(parameters)
        optimizer.step()


@optimizers
def test_the_next_step_is_the_same_bit_for_bit(make, make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    for placements in every_layout(mesh, (5, 3)):
        old = [weight("w", (5, 3), mesh, **placements), weight("b", (3,), mesh, "bfloat16")]
        optimizer = make(old)
        step(old, optimizer, ["first", "second"])
        new = [weight("w", (5, 3), mesh, **placements), weight("b", (3,), mesh, "bfloat16")]
        for mine, theirs in zip(new, old, strict=True):
            mesh.xp.copy_into(mine.local, theirs.local)
        other = make(new, 0.7)
        other.load_state_dict(optimizer.state_dict())
        step(old, optimizer, ["third"])
        step(new, other, ["third"])
        assert local_bytes(new) == local_bytes(old), placements


@pytest.mark.parametrize("make", [OPTIMIZERS["momentum"], OPTIMIZERS["adam"], OPTIMIZERS["adamw"]])
def test_the_tensors_are_the_state_itself_with_the_layout_of_the_weight(make, make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    for placements in every_layout(mesh, (5, 3)):
        p = weight("w", (5, 3), mesh, "bfloat16", **placements)
        optimizer = make([p])
        before = {name: x for name, x in optimizer.state_dict().items() if isinstance(x, Tensor)}
        step([p], optimizer, ["first"])
        assert {name.partition("/")[2] for name in before} == {"w"}
        for x in before.values():
            assert (x.layout, str(x.dtype)) == (p.layout, "float32")
        if p.local.size:
            assert all(any(each) for each in local_bytes(list(before.values()))), "the step moved a copy"


def test_a_state_of_another_optimizer_is_refused(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    p = weight("w", (5, 3), mesh)
    adamw = AdamW([p], 0.1)
    state = adamw.state_dict()
    for other in (Adam([p], 0.1), SGD([p], 0.1, momentum=0.9), AdamW([weight("x", (5, 3), mesh)], 0.1)):
        with pytest.raises(
            UsageError, match=f"this optimizer is {type(other).__name__}, the state is of AdamW"
        ):
            other.load_state_dict(state)
    smaller = AdamW([weight("w", (4, 3), mesh)], 0.1).state_dict()
    with pytest.raises(UsageError, match=r"'m/w' is \(5, 3\), what came is .*\(4, 3\)"):
        adamw.load_state_dict(smaller)
