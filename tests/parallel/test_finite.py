"""A number that is not finite stops the run on all ranks with one message: the step, the ranks, a weight to look at."""

from __future__ import annotations

from math import inf, nan

import pytest
from grids import ONE_AXIS
from weights import send_gradient, weight

from mpipar.errors import DivergedError
from mpipar.job import world
from mpipar.parallel import stop_unless_finite, sync_gradients


@pytest.fixture
def parameters(make_mesh):
    """Two weights with gradients that are finite."""
    made = [weight(name, (5,), make_mesh(**ONE_AXIS), "float32") for name in ("first", "second")]
    for p in made:
        send_gradient(p, p.name)
    sync_gradients(made)
    return made


def message(step, loss, norm, parameters):
    with pytest.raises(DivergedError) as raised:
        stop_unless_finite(step, loss, norm, parameters)
    texts = world().allgather_object(str(raised.value))
    assert len(set(texts)) == 1
    return texts[0]


def test_finite_numbers_pass(parameters):
    stop_unless_finite(1, 5.5, 0.0, parameters)
    stop_unless_finite(1, -5.5, 1e300, parameters)


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_the_rank_and_its_weight_are_named(bad, parameters):
    p = parameters[1]
    last = p.mesh.size - 1
    if p.mesh.rank == last:
        p.mesh.xp.fill(p.grad.local, bad)
    text = message(17, 5.5, nan, parameters)
    assert text.startswith("step 17: the loss is 5.5, the gradient norm nan. ")
    assert f"not finite: rank {last} (first in 'second'). Try a lower --lr" in text


def test_a_large_gradient_is_finite(parameters):
    p = parameters[0]
    p.mesh.xp.fill(p.grad.local, 1e30)
    assert "on no rank" in message(1, inf, 1.0, parameters)


def test_no_gradient_at_all_is_finite(make_mesh):
    assert "the loss is nan" in message(1, nan, 1.0, [weight("w", (5,), make_mesh(**ONE_AXIS))])
