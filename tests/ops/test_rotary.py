"""Rotary positions: what a query and a key have to do with each other depends on their distance alone.

A failure on one rank is a wrong angle or a wrong pair; on several ranks alone, a position counted from the start of a
piece.
"""

from __future__ import annotations

import numpy as np
import pytest
from grids import ONE_AXIS

from mpipar import Replicate, Shard, attention, randn, repeat_interleave, rotary, swiglu, tensor

T = 7


@pytest.mark.parametrize("placement", [Replicate(), Shard(1)])
def test_scores_depend_on_the_distance_alone(placement, make_mesh):
    """The same query and the same key at every position; the positions cut, too."""
    mesh = make_mesh(**ONE_AXIS)
    q, k = (
        rotary(
            repeat_interleave(randn(name, (1, 1, 2, 4), mesh, dtype="float64"), T, 1).redistribute(
                tp=placement
            )
        )
        for name in "qk"
    )
    scores = np.einsum("thd,shd->hts", q.numpy()[0], k.numpy()[0])
    for distance in range(1 - T, T):
        along = np.diagonal(scores, distance, 1, 2)
        np.testing.assert_allclose(along, along[:, :1].repeat(along.shape[1], 1), rtol=1e-12, atol=1e-13)
    assert abs(scores[:, 0, 0] - scores[:, 0, 3]).min() > 0.01


def test_the_first_position_is_not_turned_and_the_second_by_one_radian(make_mesh):
    """In the plane of channels 0 and D/2, whatever the base; in the next one by base^(-2/D)."""
    mesh = make_mesh(**ONE_AXIS)
    x = tensor([[[1.0, 1.0, 0.0, 0.0]]] * 2, mesh, dtype="float64")
    turned = [[1, 1, 0, 0], [np.cos(1), np.cos(0.1), np.sin(1), np.sin(0.1)]]
    np.testing.assert_allclose(rotary(x, base=100.0).numpy()[:, 0], turned, atol=1e-15)


def test_what_has_no_pairs_is_refused(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    with pytest.raises(ValueError, match=r"rotary: \(5, 2, 3\): .*channels even, is wanted"):
        rotary(randn("x", (5, 2, 3), mesh))
    with pytest.raises(ValueError, match=r"rotary: \(5, 2\): \(…, positions, heads, channels\)"):
        rotary(randn("x", (5, 2), mesh))
    with pytest.raises(ValueError, match=r"swiglu: \(3, 5\): \(…, 2, hidden\) is wanted"):
        swiglu(randn("x", (3, 5), mesh))
    with pytest.raises(ValueError, match="repeat_interleave: 0 times; at least 1 is wanted"):
        repeat_interleave(randn("x", (3, 5), mesh), 0, 0)
    q, k = randn("q", (1, 3, 4, 2), mesh), randn("k", (1, 3, 3, 2), mesh)
    with pytest.raises(ValueError, match="attention: 4 heads of q, 3 of k, 3 of v: those of k and v must"):
        attention(q, k, k, causal=True)
