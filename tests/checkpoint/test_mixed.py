"""A run in 16 bits goes on from a checkpoint bit for bit: masters and the loss scale are in it.

A failure names what differs.
"""

from __future__ import annotations

from math import inf

import pytest
from grids import ONE_AXIS, TWO_AXES, grid_name
from mixed import Mixed

from mpipar import UsageError
from mpipar.checkpoint import Together, load, save
from mpipar.models import GPT
from mpipar.nn import Linear
from mpipar.optim import AdamW, LossScale

SIXTEEN = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


def spoil(step: int, model: GPT) -> None:
    """An overflow in step 1: the scale that is saved is another one than at the start."""
    if step == 1 and model.norm.gain.mesh.rank == 0:
        model.norm.gain.mesh.xp.fill(
            model.norm.gain.leaf.value[:1], inf if model.config.dtype == "float16" else 1.0
        )


@SIXTEEN
@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_it_goes_on_bit_for_bit(axes, dtype, make_mesh, directory):
    mesh = make_mesh(**axes)
    run = Mixed(mesh, dtype, spoil=spoil)
    run.train(0, 3)
    save(directory, 3, run.model, run.state)
    expected = run.train(3, 8)
    other = Mixed(mesh, dtype, spoil=spoil)
    assert load(directory, other.model, other.state).step == 3
    assert other.scale.value == (512.0 if dtype == "float16" else 1.0)
    assert other.train(3, 8) == expected
    assert [name for name, bits in run.bits().items() if other.bits()[name] != bits] == []
    assert any(name.startswith("master/") for name in run.bits())


@SIXTEEN
def test_weights_that_were_loaded_before_the_first_step_are_the_masters(dtype, make_mesh, directory):
    """An optimizer is made before --init fills the weights."""
    mesh = make_mesh(**ONE_AXIS)
    teacher = Linear("layer", 3, 2, mesh, dtype="float32", seed=1)
    save(directory, 1, teacher)
    learner = Linear("layer", 3, 2, mesh, dtype=dtype)
    optimizer = AdamW(learner.parameters(), 0.1)
    load(directory, learner, cast=True)
    master = optimizer.state_dict()["master/layer.weight"]
    assert (master.numpy() == teacher.weight.detach().astype(dtype).astype("float32").numpy()).all()


def test_a_checkpoint_without_a_scale_is_refused(make_mesh, directory):
    layer = Linear("layer", 3, 2, make_mesh(**ONE_AXIS))
    optimizer = AdamW(layer.parameters(), 0.1)
    save(directory, 1, layer, optimizer)
    with pytest.raises(UsageError, match="the state is of a run without one"):
        load(directory, layer, Together(optimizer, scale=LossScale(8.0)))
