"""Cross-entropy over a vocabulary that is cut: against a textbook's formula, and what it communicates.

`tests/ops/test_laws.py` has its gradients and every placement.
"""

from __future__ import annotations

import numpy as np
import pytest
from grids import ONE_AXIS, two_axes

import mpipar as mp
from mpipar import Partial, PlacementError, Replicate, Shard
from mpipar.nn import vocab_parallel_cross_entropy
from mpipar.testing import Tally, count_collectives

Z = np.random.default_rng(0).standard_normal((2, 5, 7))
T = np.array([[3, 0, 6, -1, 1], [2, 2, 5, 0, -1]])


def expected(z: np.ndarray) -> np.ndarray:
    rows = np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1)) + z.max(-1)
    return np.where(T < 0, 0, rows - np.take_along_axis(z, np.maximum(T, 0)[..., None], -1)[..., 0])


@pytest.fixture
def mesh(make_mesh):
    return make_mesh(**ONE_AXIS)


@pytest.mark.parametrize("scale", [1, 1000])
@pytest.mark.parametrize("placement", [Replicate(), Shard(2), Shard(0), Shard(1)])
def test_it_is_minus_log_of_the_softmax_at_the_target(placement, scale, mesh):
    along = placement if placement != Shard(2) else Replicate()
    logits, targets = mp.tensor(Z * scale, mesh, tp=placement), mp.tensor(T, mesh, tp=along)
    loss = vocab_parallel_cross_entropy(logits, targets)
    assert loss.placements["tp"] == (Partial() if placement == Shard(2) else placement)
    np.testing.assert_allclose(loss.numpy(), expected(Z * scale), rtol=1e-13, atol=1e-13)


def test_a_vocabulary_of_fewer_words_than_ranks(mesh):
    logits, targets = mp.tensor(Z[..., :2], mesh, tp=Shard(2)), mp.tensor(np.minimum(T, 1), mesh)
    np.testing.assert_allclose(
        vocab_parallel_cross_entropy(logits, targets).numpy(),
        vocab_parallel_cross_entropy(logits.allgather("tp"), targets).numpy(),
        rtol=1e-13, atol=1e-13,
    )  # fmt: skip


def test_it_never_gathers_the_logits(mesh):
    logits = mp.tensor(Z, mesh, tp=Shard(2), requires_grad=True)
    with count_collectives(mesh) as forward:
        loss = vocab_parallel_cross_entropy(logits, mp.tensor(T, mesh))
    with count_collectives(mesh) as backward:
        loss.sum().backward()
    assert forward == ({("tp", "allreduce"): Tally(2, 2 * T.size * 8)} if mesh.size > 1 else {})
    assert backward == {}
    assert logits.grad.placements["tp"] == Shard(2)


def test_each_rank_of_a_row_gets_the_same_gradient_as_one(mesh):
    logits = mp.tensor(Z, mesh, tp=Shard(2), requires_grad=True)
    vocab_parallel_cross_entropy(logits, mp.tensor(T, mesh)).sum().backward()
    softmax = np.exp(Z) / np.exp(Z).sum(-1, keepdims=True)
    hot = np.eye(7)[np.maximum(T, 0)]
    np.testing.assert_allclose(logits.grad.numpy(), (softmax - hot) * (T >= 0)[..., None], atol=1e-14)


@two_axes
def test_the_axis_that_cuts_the_vocabulary_is_named(axes, make_mesh):
    mesh = make_mesh(**axes)
    logits, targets = mp.tensor(Z, mesh, dp=Shard(2)), mp.tensor(T, mesh)
    with pytest.raises(PlacementError, match=r"sharded over axis 'dp'; the call names axis='tp'"):
        vocab_parallel_cross_entropy(logits, targets)
    np.testing.assert_allclose(
        vocab_parallel_cross_entropy(logits, targets, axis="dp").numpy(), expected(Z), rtol=1e-13
    )


def test_what_does_not_fit_is_refused(mesh):
    logits = mp.tensor(Z, mesh, tp=Shard(2), name="logits")
    with pytest.raises(ValueError, match="one target a row"):
        vocab_parallel_cross_entropy(logits, mp.tensor(T[0], mesh))
    with pytest.raises(PlacementError, match="must be whole on axis 'tp', which cuts the vocabulary"):
        vocab_parallel_cross_entropy(logits, mp.tensor(T, mesh, tp=Shard(0)))
    with pytest.raises(PlacementError, match="Partial on axis 'tp'"):
        vocab_parallel_cross_entropy(mp.tensor(Z, mesh, tp=Partial()), mp.tensor(T, mesh))
    with pytest.raises(TypeError, match="integers"):
        vocab_parallel_cross_entropy(logits, mp.tensor(T * 1.0, mesh))


@pytest.mark.parametrize("placement", [Replicate(), Shard(2)])
def test_a_target_outside_the_vocabulary_is_no_number(placement, mesh):
    targets = T.copy()
    targets[0, 1] = Z.shape[-1]
    loss = vocab_parallel_cross_entropy(mp.tensor(Z, mesh, tp=placement), mp.tensor(targets, mesh)).numpy()
    assert np.argwhere(np.isnan(loss)).tolist() == [[0, 1]]
