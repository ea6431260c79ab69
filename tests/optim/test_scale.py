"""Loss scaling: what it does to gradients is undone to the bit, and a step that overflows is skipped by all ranks.

A failure of the last tests shows loss, gradient norm (-1: not finite) and scale of each step.
"""

from __future__ import annotations

from functools import cache
from math import inf, nan

import pytest
from grids import ONE_AXIS, TWO_AXES, grid_name
from mixed import Mixed
from weights import local_bytes, weight, whole_gradient

from mpipar import Mesh, Tensor, UsageError
from mpipar.backend import Backend
from mpipar.errors import DivergedError
from mpipar.job import world
from mpipar.models import GPT
from mpipar.optim import LossScale, clip_grad_norm
from mpipar.parallel import sync_gradients
from mpipar.testing.values import represented

# ---- the number -------------------------------------------------------------------------------------------------


def test_an_overflow_halves_and_many_good_steps_double():
    scale = LossScale(8.0, double_after=3)
    found = [
        (scale.accepts(1, 5.0, norm), scale.value) for norm in (1.0, inf, 1.0, 1.0, nan, 1.0, 2.0, 3.0, 1.0)
    ]
    assert found == [
        (True, 8), (False, 4), (True, 4), (True, 4), (False, 2), (True, 2), (True, 2), (True, 4), (True, 4),
    ]  # fmt: skip


def test_a_scale_of_one_is_none():
    scale = LossScale()
    assert scale.accepts(1, nan, nan)
    assert (scale.value, scale.state_dict()) == (1.0, {})


def test_an_overflow_that_is_not_the_scales_ends_the_run():
    scale = LossScale(2.0)
    assert not scale.accepts(1, 5.0, inf)
    with pytest.raises(
        DivergedError, match=r"step 2: .* with a loss scale of 1, the loss 5\.0: float16 overflows in"
    ):
        scale.accepts(2, 5.0, inf)


@pytest.mark.parametrize("value", [0.0, 0.5, 3.0, 65535.0, -2.0, inf, nan])
def test_other_numbers_than_powers_of_two_are_refused(value):
    with pytest.raises(UsageError, match="a power of two of at least 1 is wanted, as 65536"):
        LossScale(value)


def test_state_goes_to_another():
    one, other = LossScale(8.0, double_after=3), LossScale(2.0, double_after=3)
    one.accepts(1, 5.0, 1.0), one.accepts(2, 5.0, 1.0)
    other.load_state_dict(one.state_dict())
    assert (other.value, other.good_steps) == (8.0, 2)
    with pytest.raises(UsageError, match="the state is of a run without one"):
        other.load_state_dict({})


# ---- gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0, 0.5, 100])
def test_a_power_of_two_is_divided_out_to_the_bit(max_norm, make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    norms, found = [], []
    for scale in (1.0, 65536.0):
        p = weight("w", (5, 3), mesh, "float32")
        g = represented(mesh, p.layout.dual, "g", "float32") * scale
        p.backward(Tensor(mesh.xp.cast(g, "float32"), mesh, p.layout.dual))
        sync_gradients([p])
        norms.append(clip_grad_norm([p], max_norm, scale=scale).item())
        found.append(local_bytes([p.grad]))
    assert found[0] == found[1]
    assert norms[0] == norms[1] == pytest.approx(((whole_gradient(p, "g") ** 2).sum()) ** 0.5, rel=1e-6)


# ---- an overflow on one rank ------------------------------------------------------------------------------------


def overflow_on(rank: int, steps: tuple[int, ...]):
    """Puts an infinity into one number of one gradient, on that rank of a mesh alone."""

    def spoil(step: int, model: GPT) -> None:
        p = model.blocks[1].mlp.up.weight
        if step in steps and p.mesh.rank == rank and p.local.size:
            p.mesh.xp.fill(p.leaf.value[:1, :1], inf)

    return spoil


@cache
def serial(xp: Backend) -> list[tuple[float, float, float]]:
    """On one rank alone, on each, with the same overflows."""
    alone = Mesh(ranks=[world().rank], device=xp)
    return Mixed(alone, "float16", spoil=overflow_on(0, (2, 5))).train(0, 12)


@pytest.mark.parametrize("sequence", [False, True], ids=["whole", "sequence"])
@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_all_ranks_skip_the_step_and_go_on_as_one_rank_does(axes, sequence, make_mesh):
    mesh = make_mesh(**axes)
    last = mesh.size - 1
    run = Mixed(mesh, "float16", sequence, overflow_on(last, (2, 5)))
    first, expected = run.train(0, 2), serial(mesh.xp)
    before, steps = run.bits(), run.optimizer.moments.steps
    skipped = run.train(2, 3)
    assert (skipped[0][1:], expected[2][1:]) == ((-1.0, 512.0), (-1.0, 512.0))
    assert run.bits() == before, "a weight, a moment or a master has changed"
    assert run.optimizer.moments.steps == steps == 2
    after = run.train(3, 12)
    scales = [scale for _, _, scale in after]
    assert scales == [512, 512, 256, 256, 256, 256, 512, 512, 512]
    assert scales == [scale for _, _, scale in expected[3:]]
    assert len(set(world().allgather_object((tuple(first), tuple(skipped), tuple(after))))) == 1
    for one, other in zip(first + skipped + after, expected, strict=True):
        assert one[0] == pytest.approx(other[0], rel=2**-10 / 8)
        assert one[1] == pytest.approx(other[1], rel=4 * 2**-10)


def test_a_run_in_float16_that_never_overflows_doubles(make_mesh):
    run = Mixed(make_mesh(**ONE_AXIS), "float16")
    assert [scale for _, _, scale in run.train(0, 8)] == [1024] * 3 + [2048] * 4 + [4096]
