"""`x[…]` and `split`: what NumPy gives on whole dims; a dim that is cut is taken whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from grids import ONE_AXIS

from mpipar import PlacementError, Shard, concatenate, randn
from mpipar.testing import check_every_placement

KEYS = [
    np.s_[1:4], np.s_[::2], np.s_[1:4, :2], np.s_[2], np.s_[-1], np.s_[:, 1], np.s_[..., -1], np.s_[2, ...], np.s_[...],
    np.s_[:], np.s_[4:2], np.s_[-3:], np.s_[1:100], np.s_[2, 1, 0], np.s_[..., 1:, 0], np.s_[::3, ..., ::2],
    np.s_[::-1], np.s_[4:1:-2, ::-1], np.s_[1:3:-1], np.s_[-1:-9:-1], np.s_[None], np.s_[:, None, ..., None],
    np.s_[0, None], np.s_[np.int64(2), np.int32(-1)],
]  # fmt: skip


@pytest.fixture
def mesh(make_mesh):
    return make_mesh(**ONE_AXIS)


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_a_key_takes_what_it_takes_in_numpy(key, mesh):
    x = randn("x", (5, 3, 2), mesh, dtype="float64")
    assert x[key].shape == x.numpy()[key].shape
    np.testing.assert_array_equal(x[key].numpy(), x.numpy()[key])
    assert check_every_placement(lambda x: x[key], x) >= 1


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (5, IndexError, r"x\[5\] of a dim of 5"),
        (np.s_[:, -4], IndexError, r"x\[-4\] of a dim of 3"),
        (np.s_[..., ...], IndexError, "one ellipsis at most"),
        (np.s_[0, 0, 0, 0], IndexError, "4 indices for 3 dims"),
        (np.s_[None, 0, 0, 0, 0], IndexError, "4 indices for 3 dims"),
        (np.s_[::0], ValueError, "slice step cannot be zero"),
        ([0, 1], TypeError, "list is no index; write integers and slices, or a Tensor of integers"),
        (True, TypeError, "bool is no index"),
        (1.0, TypeError, "float is no index"),
    ],
)
def test_other_keys_are_refused(key, error, message, mesh):
    with pytest.raises(error, match=message):
        randn("x", (5, 3, 2), mesh)[key]


@pytest.mark.parametrize("key", [np.s_[1:4], np.s_[0], np.s_[::2], np.s_[:4]], ids=str)
def test_a_cut_dim_is_not_sliced(key, mesh):
    x = randn("x", (5, 3), mesh, tp=Shard(0))
    with pytest.raises(PlacementError, match=r"dim 0 of 'x' must be whole.*\n  Write  x.allgather\(\"tp\"\)"):
        x[key]
    assert x[:, 1:].placements["tp"] == Shard(0)


@pytest.mark.parametrize("sizes", [2, 5, 7, [1, 3, 1], [5], [0, 5]])
def test_split_gives_consecutive_parts(sizes, mesh):
    x = randn("x", (3, 5), mesh, dtype="float64", tp=Shard(0))
    parts = x.split(sizes, dim=1)
    wanted = [min(sizes, 5 - start) for start in range(0, 5, sizes)] if isinstance(sizes, int) else sizes
    assert [part.shape[1] for part in parts] == wanted
    np.testing.assert_array_equal(concatenate(parts, 1).numpy(), x.numpy())


def test_split_refuses_parts_that_are_not_the_whole(mesh):
    with pytest.raises(ValueError, match=r"split: sizes \[2, 2\] of a dim of 5"):
        randn("x", (5, 3), mesh).split([2, 2])
