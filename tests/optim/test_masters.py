"""Master weights: an optimizer on 16-bit weights does what it does on float32 ones, and the weights are that, rounded.

A failure of the first test where only some bits differ means that an update was made on rounded numbers.
"""

from __future__ import annotations

import numpy as np
import pytest
from grids import ONE_AXIS, TWO_AXES, grid_name
from weights import every_layout, local_bytes, weight

from mpipar import Shard, Tensor, no_grad, tensor
from mpipar.optim import SGD, Adam, AdamW
from mpipar.optim.masters import Masters
from mpipar.parallel import sync_gradients
from mpipar.testing.values import represented

OPTIMIZERS = {
    "sgd": lambda ps: SGD(ps, 1e-3),
    "momentum": lambda ps: SGD(ps, 1e-3, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda ps: Adam(ps, 1e-4),
    "adamw": lambda ps: AdamW(ps, 1e-4),
}
SIXTEEN = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


def as_float32(p: Tensor) -> Tensor:
    """A float32 weight with the same values and layout."""
    placements = {axis: p.layout.placement(axis) for cut in p.layout.cuts for axis in cut.axes}
    other = weight(p.name, p.shape, p.mesh, "float32", **placements)
    p.mesh.xp.copy_into(other.local, p.mesh.xp.widen(p.local))
    return other


@SIXTEEN
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_does_what_it_does_on_float32(make, dtype, make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    for placements in every_layout(mesh, (5, 3)):
        narrow = [weight("w", (5, 3), mesh, dtype, **placements)]
        wide = [as_float32(narrow[0])]
        optimizer, other = make(narrow), make(wide)
        for name in ("first", "second", "third"):
            for parameters, its in ((narrow, optimizer), (wide, other)):
                for p in parameters:
                    p.backward(wide_gradient(p, name))
                sync_gradients(parameters)
                its.step()
        master = optimizer.state_dict()["master/w"]
        assert (master.layout, str(master.dtype)) == (narrow[0].layout, "float32")
        assert local_bytes([master]) == local_bytes(wide)
        assert local_bytes(narrow) == local_bytes([wide[0].detach().astype(dtype)])


def wide_gradient(p: Tensor, name: str) -> Tensor:
    dual = p.layout.dual
    return Tensor(represented(p.mesh, dual, f"{p.name} {name}", "float32"), p.mesh, dual)


@SIXTEEN
def test_updates_below_the_last_digit_add_up(dtype, make_mesh):
    """Without a master a bfloat16 of 1 would stay there for ever: its next neighbour is 1/256 below."""
    mesh = make_mesh(**ONE_AXIS)
    p = tensor([1.0], mesh, dtype=dtype, requires_grad=True, name="w")
    optimizer = SGD([p], 1e-4)
    for _ in range(200):
        p.backward(wide_ones(p))
        sync_gradients([p])
        optimizer.step()
    assert optimizer.state_dict()["master/w"].numpy() == pytest.approx([0.98], rel=1e-5)
    assert p.numpy() == np.asarray([0.98]).astype(p.numpy().dtype)


def wide_ones(p: Tensor) -> Tensor:
    here = 1.0 if p.mesh.rank == 0 else 0.0  # a term of the sum that is owed
    return Tensor(p.mesh.xp.full(p.local.shape, here, "float32"), p.mesh, p.layout.dual)


@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_a_master_is_the_piece_that_is_updated_here(axes, make_mesh):
    """As under ZeRO: where the gradient is cut once more, so is the master."""
    mesh = make_mesh(**axes)
    p = weight("w", (5, 3), mesh, "bfloat16", tp=Shard(1))
    p.leaf.target = p.layout.placed("dp", Shard(0))
    master = AdamW([p], 0.1).state_dict()["master/w"]
    assert master.layout == p.leaf.target
    assert master.local.shape == p.leaf.target.local_shape(mesh.coords)
    whole = np.asarray(p.numpy(), np.float32)
    assert (master.numpy() == whole).all()


@SIXTEEN
def test_a_weight_that_others_changed_is_taken_over(dtype, make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    p = weight("w", (5, 3), mesh, dtype)
    optimizer = SGD([p], 1e-4)
    p.backward(wide_ones(p))
    sync_gradients([p])
    optimizer.step()
    with no_grad():
        p.fill_(2.0)
    p.backward(wide_ones(p))
    sync_gradients([p])
    optimizer.step()
    assert optimizer.state_dict()["master/w"].numpy() == pytest.approx(np.full((5, 3), 2 - 1e-4), rel=1e-6)


def test_wide_weights_have_none(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    parameters = [weight("a", (3,), mesh, "float32"), weight("b", (3,), mesh, "float64")]
    assert Masters(parameters).arrays == {}
    assert not [name for name in AdamW(parameters, 0.1).state_dict() if name.startswith("master/")]
