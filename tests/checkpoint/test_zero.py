"""What was saved under one ZeRO stage goes on under another, on any mesh: a checkpoint knows no strategy.

A failure gives the two stages; the curve after the load is compared with that of a run that was never stopped.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from grids import cpu_alone
from zeros import Setup, Zero

from mpipar import Mesh, checkpoint
from mpipar.job import world

SIZE = world().size
BOTH = {"dp": 2, "tp": 2} if SIZE == 4 else {"tp": SIZE}


@cache
def whole() -> list[tuple[float, float]]:
    """Of one rank alone, on each, never stopped."""
    return Zero(Mesh(ranks=[world().rank]), Setup()).train(0, 6)


@cpu_alone
@pytest.mark.parametrize(("then", "now"), [(3, 0), (0, 3), (3, 1), (1, 3), (2, 3), (3, 3)])
def test_a_run_goes_on_under_another_stage_and_mesh(then, now, make_mesh, tmp_path):
    path = world().broadcast_object(tmp_path)
    old = Zero(make_mesh(dp=SIZE), Setup(then))
    old.train(0, 3)
    checkpoint.save(path, 3, old.model, old.optimizer)
    for mesh in (make_mesh(**BOTH), make_mesh(dp=SIZE), Mesh(ranks=[world().rank])):
        new = Zero(mesh, Setup(now))
        new.train(0, 1)  # other weights, and gathered ones that are no longer true
        checkpoint.load(path, new.model, new.optimizer, comm=world())
        np.testing.assert_allclose(new.train(3, 6), whole()[3:], rtol=1e-9)


@cpu_alone
def test_state_has_the_layout_of_the_stage_and_other_layouts_are_refused(make_mesh):
    mesh = make_mesh(dp=SIZE)
    one, other = Zero(mesh, Setup(0)), Zero(mesh, Setup(1))
    assert "dp=Shard(0)" in other.optimizer.state_dict()["m/embedding.weight"].layout.words
    if SIZE > 1:
        with pytest.raises(Exception, match="load_state_dict"):
            other.optimizer.load_state_dict(one.optimizer.state_dict())
