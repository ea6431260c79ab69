"""In-place changes: what they do, where they are refused, and that backward never uses a value that was changed.

The law at the end: after an in-place change of any operand of any operation backward raises, or the gradients are those
that they would have been. A failure there names an operation whose vjp keeps an array where the guard does not look.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from grids import ONE_AXIS, cpu_alone
from op_cases import CASES

import mpipar as mp
from mpipar import GraphError, Partial, PlacementError, Shard
from mpipar.optim import SGD, AdamW
from mpipar.parallel import sync_gradients
from mpipar.tensor import changes
from mpipar.testing.moves import layouts_of
from mpipar.testing.values import leaf, placed_as, wholes_of

F64 = {"dtype": "float64"}


@pytest.fixture
def mesh(make_mesh):
    return make_mesh(**ONE_AXIS)


CHANGES = {
    "copy_": (lambda x, y: x.copy_(y), lambda a, b: b),
    "add_": (lambda x, y: x.add_(y), lambda a, b: a + b),
    "mul_ by a number": (lambda x, y: x.mul_(0.5), lambda a, b: a * 0.5),
    "fill_": (lambda x, y: x.fill_(2.5), lambda a, b: np.full_like(a, 2.5)),
    "zero_": (lambda x, y: x.zero_(), lambda a, b: 0 * a),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_numpys_in_the_same_memory_on_every_layout(name, mesh):
    change, expected = CHANGES[name]
    for layout in layouts_of(mesh, (5, 3), mesh.grid.named):
        x, y = (mp.randn(n, (5, 3), mesh, **F64, **placed_as(layout)) for n in "xy")
        before, local = x.numpy(), x.local
        assert change(x, y) is x
        assert x.local is local
        np.testing.assert_allclose(x.numpy(), expected(before, y.numpy()), rtol=1e-15)


def test_a_tensor_may_be_multiplied_by_a_whole_one_in_place(mesh):
    x, y = mp.randn("x", (5, 3), mesh, **F64, tp=Partial()), mp.randn("y", (5, 3), mesh, **F64)
    expected = x.numpy() * y.numpy()
    np.testing.assert_allclose(x.mul_(y).numpy(), expected, rtol=1e-15)


def test_copy_rounds_to_the_dtype_of_the_target(mesh):
    x = mp.zeros((3,), mesh, dtype="bfloat16")
    x.copy_(mp.full((3,), 1 + 2**-10, mesh))
    assert str(x.dtype) == "bfloat16"
    assert x.astype("float32").numpy().tolist() == [1, 1, 1]


def test_a_weight_is_changed_outside_the_tape_only(mesh):
    w = mp.parameter("w", (3,), mesh, **F64)
    for change, line in (
        (lambda: w.copy_(w.detach()), "w.copy_"),
        (lambda: w.add_(1), "w.add_"),
        (lambda: w.mul_(2), "w.mul_"),
        (lambda: w.fill_(2), "w.fill_"),
        (w.zero_, "w.zero_"),
    ):
        with pytest.raises(GraphError, match=rf"recording. Write  with mp.no_grad\(\): {line}"):
            change()
        with mp.no_grad():
            change()
    assert w.numpy().tolist() == [0, 0, 0]
    assert w.is_leaf


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda x, w: (w * 2).zero_(), GraphError, "result of 'scale'"),
        (lambda x, w: x.copy_(w), GraphError, r"would be lost. Write  copy_\(y.detach\(\)\)"),
        (lambda x, w: x.add_(w), GraphError, r"Write  add_\(y.detach"),
        (lambda x, w: x.copy_(x[:1]), PlacementError, r"copy_: x \(3\) from y \(1\)\n  the layouts differ"),
        (lambda x, w: x.add_(x[:, None]), PlacementError, "the layouts differ"),
        (lambda x, w: x.copy_(1), TypeError, "fill_ for a number"),
        (lambda x, w: mp.arange(3, x.mesh).copy_(x), TypeError, "float64 into int64 would be rounded"),
        (lambda x, w: mp.arange(3, x.mesh).fill_(0.5), TypeError, "0.5 into int64; give a whole number"),
        (lambda x, w: x.fill_("a"), TypeError, "a Tensor and a str do not mix"),
        (lambda x, w: mp.arange(3, x.mesh).add_(0.5), TypeError, "float64 into int64 would be rounded"),
    ],
)
def test_other_changes_are_refused(wrong, error, message, mesh):
    x, w = mp.zeros((3,), mesh, **F64, name="x"), mp.parameter("w", (3,), mesh, **F64)
    with pytest.raises(error, match=message):
        wrong(x, w)


def test_the_layouts_must_be_equal_and_the_message_says_which_move(mesh):
    x, y = mp.zeros((5,), mesh, name="x"), mp.zeros((5,), mesh, name="y", tp=Shard(0))
    message = r"copy_: x \(5\) from y \(5; tp=Shard\(0\)\)(.|\n)*Write  y.allgather\(\"tp\"\)"
    with pytest.raises(PlacementError, match=message):
        x.copy_(y)
    x.copy_(y.allgather("tp"))


@cpu_alone
def test_memory_that_may_only_be_read_is_not_changed(mesh):
    with pytest.raises(ValueError, match=r"read-only; change a copy: x.clone\(\)"):
        mp.ones((5, 1), mesh).expand(5, 3).zero_()


# ---- the guard -------------------------------------------------------------------------------------------------


def test_backward_after_a_change_of_what_it_needs_raises(mesh):
    x, w = mp.randn("x", (5, 3), mesh, **F64), mp.parameter("w", (3, 2), mesh, **F64)
    loss = (x @ w).sum()
    x.zero_()
    with pytest.raises(
        GraphError, match=r"backward through 'contract': a value .* was changed in place.*x.clone\(\)"
    ):
        loss.backward()


def test_a_change_of_a_view_and_of_another_name_counts(mesh):
    for change in (lambda x: x[1:2].zero_(), lambda x: x.detach().zero_(), lambda x: x.reshape(15).zero_()):
        x, w = mp.randn("x", (5, 3), mesh, **F64), mp.parameter("w", (5, 3), mesh, **F64)
        loss = (x * w).sum()
        change(x)
        with pytest.raises(GraphError, match="'multiply'"):
            loss.backward()


def test_changes_that_spoil_nothing_pass(mesh):
    x, w = mp.randn("x", (5, 3), mesh, **F64), mp.parameter("w", (5, 3), mesh, **F64)
    x.mul_(2)  # before it is used
    expected = x.numpy()
    loss, other = (x * w).sum(), mp.zeros((5, 3), mesh, **F64)
    other.fill_(3)  # not what was used
    shifted = (w + x).sum()
    loss.backward()
    np.testing.assert_array_equal(w.grad.numpy(), expected)
    x.zero_()  # a sum needs no value
    shifted.backward()
    np.testing.assert_allclose(w.grad.numpy(), expected + 1, rtol=1e-15)


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_a_step_between_forward_and_backward_is_a_change(optimizer, mesh):
    w = mp.parameter("w", (3,), mesh, **F64)
    step = optimizer([w], 0.1)
    loss, old = w.square().sum(), w.square().sum()
    loss.backward()
    sync_gradients([w])
    step.step()
    with pytest.raises(GraphError, match="backward through 'square'"):
        old.backward()
    w.square().sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), 2 * w.numpy(), rtol=1e-15)


def test_what_is_known_of_changes_does_not_grow_without_end(mesh, monkeypatch):
    monkeypatch.setattr(changes, "KEPT", 5)
    x, w = mp.randn("x", (3,), mesh, **F64), mp.parameter("w", (3,), mesh, **F64)
    loss = (x * w).sum()
    x.zero_()
    kept = [mp.zeros((3,), mesh).fill_(k) for k in range(20)]
    assert len(changes._changed) <= 6
    assert len(kept) == 20
    with pytest.raises(GraphError):
        loss.backward()


@pytest.mark.parametrize("name", CASES)
@cpu_alone
def test_no_operation_uses_what_was_changed(name, make_mesh):
    case, mesh = CASES[name], make_mesh(**ONE_AXIS)
    wholes = wholes_of(case.make(mesh))

    def run():
        inputs = [whole.on(mesh, {}) for whole in wholes]
        inputs = [leaf(mesh.xp.copy(x.local), mesh, x.layout, x.name) if x.is_floating else x for x in inputs]
        return inputs, case.f(*inputs)

    def gradients(inputs, y):
        y.backward(mp.Tensor(mesh.xp.full(y.local.shape, 1 / mesh.size, "float64"), mesh, y.layout.dual))
        return [x.grad.local.tobytes() for x in inputs if x.requires_grad and x.grad is not None]

    expected = gradients(*run())
    for k, whole in enumerate(wholes):
        if whole.array.dtype.kind != "f":
            continue
        inputs, y = run()
        with mp.no_grad():
            inputs[k].fill_(0.3)
        with suppress(GraphError):
            assert gradients(inputs, y) == expected
