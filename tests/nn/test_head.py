"""The head and its loss in one: equal to the logits' own cross-entropy, block by block, and what it communicates.

`tests/ops/test_laws.py` has its gradients and every placement. A failure names the weight whose gradient differs.
"""

from __future__ import annotations

import numpy as np
import pytest
from grids import ONE_AXIS, two_axes

import mpipar as mp
from mpipar import Partial, PlacementError, Replicate, Shard, no_grad
from mpipar.nn import head, vocab_parallel_cross_entropy, vocab_parallel_linear_cross_entropy
from mpipar.testing import Tally, count_collectives

ROWS, WIDTH, WORDS = 11, 5, 7
RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((ROWS, WIDTH)), RNG.standard_normal((WORDS, WIDTH))
T = np.array([3, 0, 6, -1, 1, 2, 2, 5, 0, -1, 4])


@pytest.fixture
def mesh(make_mesh):
    return make_mesh(**ONE_AXIS)


@pytest.fixture(params=[1, 4, 100])
def rows_a_block(request, monkeypatch):
    monkeypatch.setattr(head, "ROWS", request.param)
    monkeypatch.setattr(head, "LOGITS", 1)
    return request.param


def both(mesh, x_at, weight_at, targets_at, transposed):
    """x, weight and loss: of the two in one, and of the logits."""
    found = []
    for fused in (True, False):
        x = mp.tensor(X, mesh, requires_grad=True, name="x", tp=x_at)
        weight = W if transposed else W.T
        w = mp.tensor(weight, mesh, requires_grad=True, name="weight", tp=weight_at)
        t = mp.tensor(T, mesh, tp=targets_at)
        if fused:
            loss = vocab_parallel_linear_cross_entropy(x, w, t, transposed=transposed)
        else:
            loss = vocab_parallel_cross_entropy(x.contract(w, transposed=transposed), t).sum()
        (loss * 3.0).backward()
        found.append((x, w, loss))
    return found


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("cut", ["nothing", "rows", "vocabulary"])
def test_it_is_the_cross_entropy_of_the_logits(cut, transposed, mesh, rows_a_block):
    rows = Shard(0) if cut == "rows" else Replicate()
    words = Shard(0 if transposed else 1) if cut == "vocabulary" else Replicate()
    (x, w, loss), (x2, w2, loss2) = both(mesh, rows, words, rows, transposed)
    assert loss.layout == loss2.layout
    np.testing.assert_allclose(loss.numpy(), loss2.numpy(), rtol=1e-13)
    for here, there in ((x, x2), (w, w2)):
        assert here.grad.layout == there.grad.layout, here.name
        np.testing.assert_allclose(here.grad.numpy(), there.grad.numpy(), atol=1e-13, err_msg=here.name)


def test_one_allgather_a_block_and_none_in_backward(mesh, rows_a_block):
    x = mp.tensor(X, mesh, requires_grad=True)
    w = mp.tensor(W, mesh, requires_grad=True, tp=Shard(0))
    with count_collectives(mesh) as forward:
        loss = vocab_parallel_linear_cross_entropy(x, w, mp.tensor(T, mesh), transposed=True)
    with count_collectives(mesh) as backward:
        loss.backward()
    blocks = -(-ROWS // rows_a_block)
    assert forward == ({("tp", "allgather"): Tally(blocks, 2 * ROWS * 8)} if mesh.size > 1 else {})
    assert backward == {}


def test_without_backward_the_loss_is_the_same(mesh):
    x, w = mp.tensor(X, mesh, requires_grad=True), mp.tensor(W, mesh, tp=Shard(0))
    loss = vocab_parallel_linear_cross_entropy(x, w, mp.tensor(T, mesh), transposed=True)
    with no_grad():
        again = vocab_parallel_linear_cross_entropy(x, w, mp.tensor(T, mesh), transposed=True)
    assert again.numpy().tobytes() == loss.numpy().tobytes()
    assert again.node is None


def test_backward_twice_adds(mesh):
    x, w = mp.tensor(X, mesh, requires_grad=True), mp.tensor(W, mesh, tp=Shard(0))
    loss = vocab_parallel_linear_cross_entropy(x, w, mp.tensor(T, mesh), transposed=True)
    loss.backward(keep=True)
    once = x.grad.numpy().copy()
    loss.backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * once, rtol=1e-14)


def test_fewer_words_than_ranks_and_no_rows(mesh):
    t = np.minimum(T, 1)
    found, wanted = (
        vocab_parallel_linear_cross_entropy(
            mp.tensor(X, mesh), mp.tensor(W[:2], mesh, tp=cut), mp.tensor(t, mesh), transposed=True
        ).numpy()
        for cut in (Shard(0), Replicate())
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-13)
    none = vocab_parallel_linear_cross_entropy(
        mp.tensor(X[:0], mesh), mp.tensor(W, mesh, tp=Shard(0)), mp.tensor(T[:0], mesh), transposed=True
    )
    assert none.numpy() == 0


def test_large_logits_do_not_overflow(mesh):
    """Nor do gradients, where the largest logit of a rank is far from that of another and from the target's."""
    x, again = (mp.tensor(X * 1e3, mesh, requires_grad=True) for _ in range(2))
    loss = vocab_parallel_linear_cross_entropy(
        x, mp.tensor(W, mesh, tp=Shard(0)), mp.tensor(T, mesh), transposed=True
    )
    logits = again.contract(mp.tensor(W, mesh), transposed=True)
    reference = vocab_parallel_cross_entropy(logits, mp.tensor(T, mesh)).sum()
    np.testing.assert_allclose(loss.numpy(), reference.numpy(), rtol=1e-13)
    for sum_ in (loss, reference):
        sum_.backward()
    np.testing.assert_allclose(x.grad.numpy(), again.grad.numpy(), atol=1e-13)


def test_a_target_outside_the_vocabulary_is_no_number(mesh):
    targets = T.copy()
    targets[1] = WORDS
    loss = vocab_parallel_linear_cross_entropy(
        mp.tensor(X, mesh), mp.tensor(W, mesh, tp=Shard(0)), mp.tensor(targets, mesh), transposed=True
    )
    assert np.isnan(loss.numpy())


def test_what_does_not_fit_is_refused(mesh):
    x, w, t = mp.tensor(X, mesh), mp.tensor(W, mesh, tp=Shard(0)), mp.tensor(T, mesh)

    def loss(x=x, w=w, t=t, **more):
        return vocab_parallel_linear_cross_entropy(x, w, t, transposed=True, **more)

    with pytest.raises(ValueError, match="one target a row"):
        loss(t=mp.tensor(T[:4], mesh))
    with pytest.raises(ValueError, match="their widths differ"):
        loss(w=mp.tensor(W.T, mesh))
    with pytest.raises(TypeError, match="integers are wanted"):
        loss(t=mp.tensor(T * 1.0, mesh))
    with pytest.raises(PlacementError, match="must be whole on axis 'tp', which cuts the vocabulary"):
        loss(t=mp.tensor(T, mesh, tp=Shard(0)))
    with pytest.raises(PlacementError, match="Partial on axis 'tp'"):
        loss(x=mp.tensor(X, mesh, tp=Partial()), w=mp.tensor(W, mesh))


@two_axes
def test_the_axis_that_cuts_the_vocabulary_is_named(axes, make_mesh):
    mesh = make_mesh(**axes)
    x, w, t = mp.tensor(X, mesh), mp.tensor(W, mesh, dp=Shard(0)), mp.tensor(T, mesh)
    with pytest.raises(PlacementError, match=r"sharded over axis 'dp'; the call names axis='tp'"):
        vocab_parallel_linear_cross_entropy(x, w, t, transposed=True)
    named = vocab_parallel_linear_cross_entropy(x, w, t, transposed=True, axis="dp").numpy()
    whole = vocab_parallel_linear_cross_entropy(x, mp.tensor(W, mesh), t, transposed=True).numpy()
    np.testing.assert_allclose(named, whole, rtol=1e-13)
