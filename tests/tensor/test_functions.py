"""The functions and methods that the laws of operations leave open: what they give is NumPy's, and bad input is told.

Gradients and placements are in tests/ops; here are whole numbers, booleans, infinities and empty tensors.
"""

from __future__ import annotations

import numpy as np
import pytest
from grids import ONE_AXIS, all_grids

import mpipar as mp
from mpipar import GraphError, Partial, PlacementError, Shard, einsum, maximum, minimum, stack, where
from mpipar.testing import check_every_placement, check_grads

RNG = np.random.default_rng(3)
FLOATS = np.array([[1.0, -2.0, np.nan], [np.inf, 0.0, -np.inf]])
WHOLE = np.array([[3, -1, 3], [0, 2, -5]])
TRUTH = np.array([[True, False, True], [False, False, True]])


@pytest.fixture
def mesh(make_mesh):
    return make_mesh(**ONE_AXIS)


RELATIONS = {
    "<": (lambda x, y: x < y), "<=": (lambda x, y: x <= y), ">": (lambda x, y: x > y), ">=": (lambda x, y: x >= y),
    "==": (lambda x, y: x == y), "!=": (lambda x, y: x != y),
}  # fmt: skip


@pytest.mark.parametrize("relation", RELATIONS.values(), ids=RELATIONS.keys())
@pytest.mark.parametrize("values", [FLOATS, WHOLE], ids=["floats", "whole numbers"])
def test_comparisons_are_numpys(relation, values, mesh):
    x, y = mp.tensor(values, mesh), mp.tensor(values[:1], mesh)
    for found, expected in (
        (relation(x, y), relation(values, values[:1])),
        (relation(x, 0), relation(values, 0)),
        (relation(x, 0.5), relation(values, 0.5)),
        (relation(0.5, x), relation(0.5, values)),
        (relation(np.float64(0.5), x), relation(0.5, values)),
    ):
        assert str(found.dtype) == "bool"
        np.testing.assert_array_equal(found.numpy(), expected)


def test_logic_is_numpys(mesh):
    x, y = mp.tensor(TRUTH, mesh), mp.tensor(~TRUTH[:1], mesh)
    for found, expected in (
        (x & y, TRUTH & ~TRUTH[:1]),
        (x | y, TRUTH | ~TRUTH[:1]),
        (x ^ y, TRUTH ^ ~TRUTH[:1]),
        (~x, ~TRUTH),
    ):
        np.testing.assert_array_equal(found.numpy(), expected)
    for dim in (None, 0, 1):
        np.testing.assert_array_equal(x.any(dim).numpy(), TRUTH.any(dim))
        np.testing.assert_array_equal(x.all(dim).numpy(), TRUTH.all(dim))
    assert x.sum().item() == 3
    assert not mp.zeros((0,), mesh, dtype="bool").any().item()
    assert mp.zeros((0,), mesh, dtype="bool").all().item()


def test_what_numbers_are_is_numpys(mesh):
    x = mp.tensor(FLOATS, mesh)
    np.testing.assert_array_equal(x.isnan().numpy(), np.isnan(FLOATS))
    np.testing.assert_array_equal(x.isfinite().numpy(), np.isfinite(FLOATS))
    assert not mp.tensor(WHOLE, mesh).isnan().numpy().any()
    assert mp.tensor(WHOLE, mesh).isfinite().numpy().all()


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8", "bool", "float64"])
def test_extremes_and_their_places_are_numpys_in_every_dtype(dtype, mesh):
    values = np.array([[3, 0, 3], [0, 0, 5]]).astype(dtype)
    if dtype in ("int64", "int8"):
        values[0, 1] = np.iinfo(dtype).min
    x = mp.tensor(values, mesh)
    for dim in (0, 1):
        np.testing.assert_array_equal(x.max(dim).numpy(), values.max(dim))
        np.testing.assert_array_equal(x.min(dim).numpy(), values.min(dim))
        np.testing.assert_array_equal(x.argmax(dim, keepdims=True).numpy(), values.argmax(dim, keepdims=True))
        np.testing.assert_array_equal(x.argmin(dim).numpy(), values.argmin(dim))
    assert str(x.argmax(0).dtype) == "int64"
    assert str(x.max().dtype) == dtype


def test_extremes_of_nothing(mesh):
    nothing = mp.zeros((0, 2), mesh)
    assert nothing.max(0).numpy().tolist() == [-np.inf, -np.inf]
    assert nothing.min(0).numpy().tolist() == [np.inf, np.inf]
    with pytest.raises(ValueError, match=r"argmax: .* dim 0 is empty"):
        nothing.argmax(0)


def test_where_and_choices_are_numpys(mesh):
    x, c = mp.tensor(WHOLE, mesh), mp.tensor(TRUTH, mesh)
    np.testing.assert_array_equal(where(c, x, -x).numpy(), np.where(TRUTH, WHOLE, -WHOLE))
    np.testing.assert_array_equal(where(c, 7, x).numpy(), np.where(TRUTH, 7, WHOLE))
    np.testing.assert_array_equal(maximum(x, x.flip(0)).numpy(), np.maximum(WHOLE, WHOLE[::-1]))
    np.testing.assert_array_equal(minimum(x, 1).numpy(), np.minimum(WHOLE, 1))
    np.testing.assert_array_equal(x.clip(-1, 2).numpy(), WHOLE.clip(-1, 2))
    assert str(x.clip(-1, 2).dtype) == "int64"
    y = mp.tensor(FLOATS, mesh)
    np.testing.assert_array_equal(where(y.isfinite(), y, 0).numpy(), np.where(np.isfinite(FLOATS), FLOATS, 0))


def test_where_lets_a_sum_be_owed_but_by_no_number(mesh):
    c, x = mp.tensor(TRUTH, mesh), mp.ones((2, 3), mesh, dtype="float64", tp=Partial())
    assert where(c, x, x).placements["tp"] == Partial()
    assert where(c, 0, x).placements["tp"] == Partial()
    with pytest.raises(
        PlacementError,
        match=r"Partial on axis 'tp', and 2 would be added once on each rank.\n  Write  x.allreduce",
    ):
        where(c, x, 2)
    with pytest.raises(
        PlacementError, match=r"x is Partial on axis 'tp', y is not: it would be added once on each rank"
    ):
        where(c, x, x.allreduce("tp"))


def test_logarithms_of_sums_do_not_overflow(mesh):
    x = mp.tensor([[1000.0, 1000.0], [-1000.0, -np.inf]], mesh)
    np.testing.assert_allclose(x.logsumexp(1).numpy(), [1000 + np.log(2), -1000], rtol=1e-15)
    np.testing.assert_allclose(x.log_softmax().numpy(), [[-np.log(2)] * 2, [0, -np.inf]], rtol=1e-15)


def test_variance_is_numpys_with_either_correction(mesh):
    values = RNG.standard_normal((5, 3))
    x = mp.tensor(values, mesh)
    for correction in (0, 1):
        np.testing.assert_allclose(
            x.var(0, correction=correction).numpy(), values.var(0, ddof=correction), rtol=1e-14
        )
    assert np.isnan(x[:1].var(0, correction=1).numpy()).all()


POWERS = [0, 1, 2, 3, 4, 7, 0.5, -1, -2.5]


@pytest.mark.parametrize("exponent", POWERS)
def test_powers_are_numpys(exponent, mesh):
    values = np.array([0.5, 1.0, 3.0])
    np.testing.assert_allclose((mp.tensor(values, mesh) ** exponent).numpy(), values**exponent, rtol=1e-15)
    np.testing.assert_array_equal((mp.tensor(WHOLE, mesh) ** 3).numpy(), WHOLE**3)
    x = mp.zeros((2,), mesh, dtype="float64", requires_grad=True)
    (x**0).sum().backward()
    assert x.grad.numpy().tolist() == [0, 0]


EQUATIONS = [
    ("ij->ji", (5, 3)), ("ij->", (5, 3)), ("ij->j", (5, 3)), ("i->i", (5,)), ("->", ()), ("ij,jk->ik", (5, 3), (3, 2)),
    ("ij,jk->ki", (5, 3), (3, 2)), ("bij,bjk->bik", (2, 5, 3), (2, 3, 4)), ("bij,bjk->ibk", (2, 5, 3), (2, 3, 4)),
    ("i,j->ji", (5,), (3,)), ("i,i->", (5,), (5,)), ("i,i->i", (5,), (5,)), (",i->i", (), (5,)),
    ("ij,kl->jl", (5, 3), (2, 4)), ("abcd,cdef->abef", (2, 3, 4, 2), (4, 2, 3, 2)), ("abc,ab->abc", (2, 3, 4), (2, 3)),
    ("abcd,cdef->fbea", (2, 3, 4, 2), (4, 2, 3, 2)), ("ij,jk->ik", (0, 3), (3, 2)), ("ij,jk->ik", (5, 0), (0, 2)),
]  # fmt: skip


@pytest.mark.parametrize("case", EQUATIONS, ids=str)
def test_einsum_is_numpys(case, mesh):
    equation, *shapes = case
    values = [RNG.standard_normal(shape) for shape in shapes]
    tensors = [mp.tensor(v, mesh) for v in values]
    np.testing.assert_allclose(
        einsum(equation, *tensors).numpy(), np.einsum(equation, *values), rtol=1e-13, atol=1e-14
    )
    check_grads(lambda *xs: einsum(equation, *xs), *tensors, elements=0, rtol=1e-8)


@pytest.mark.parametrize(
    ("equation", "message"),
    [
        ("ij,jk", "lacks the result: write ij,jk->…"),
        ("ii,ij->j", "a label comes twice in 'ii'"),
        ("ij,jk->ii", "a label comes twice in 'ii'"),
        ("...j,jk->k", "labels are letters"),
        ("ij,jk->iz", "'z' of the result is in no operand"),
        ("ij,jk->ik", "'j' is 3 and 5 long"),
        ("i,jk->ik", "'i' are labels for 1 dims"),
        ("ij->i", "of 2 tensors: one or two are wanted, each with its labels"),
        ("ij,jk,kl->il", "write a longer product as one einsum in another"),
    ],
)
def test_other_equations_are_refused(equation, message, mesh):
    x = mp.zeros((5, 3), mesh)
    with pytest.raises(ValueError, match=message):
        einsum(equation, x, x)


@all_grids
def test_scatter_add_adds_what_gather_takes(axes, make_mesh):
    mesh = make_mesh(**axes)
    values, source = RNG.standard_normal((5, 3)), RNG.standard_normal((4, 3))
    index = np.array([[4, 0, 4], [1, 3, 2], [4, 0, 0], [0, 0, 0]])
    expected = values.copy()
    np.add.at(expected, (index, np.arange(3)[None]), source)
    ids = mp.tensor(index, mesh)
    x, y = mp.tensor(values, mesh), mp.tensor(source, mesh)
    np.testing.assert_allclose(x.scatter_add(0, ids, y).numpy(), expected, rtol=1e-14)
    np.testing.assert_array_equal(x.gather(0, ids).numpy(), np.take_along_axis(values, index, 0))
    assert check_every_placement(lambda x, i, y: x.scatter_add(0, i, y), x, ids, y) > 1


def test_what_scatter_add_owes_the_target_must_owe_too(mesh):
    x, y = mp.zeros((5, 3), mesh, name="x"), mp.ones((4, 3), mesh, tp=Shard(0))
    ids = mp.zeros((4, 3), mesh, dtype="int64", tp=Shard(0))
    message = r"what is added is Partial on axis 'tp'(.|\n)*Write  x.redistribute\(tp=Partial\(\)\)"
    with pytest.raises(PlacementError, match=message):
        x.scatter_add(0, ids, y)
    found = x.redistribute(tp=Partial()).scatter_add(0, ids, y)
    assert found.placements["tp"] == Partial()
    assert found.numpy()[0].tolist() == [4, 4, 4]


def test_rows_by_index_are_numpys(mesh):
    values = RNG.standard_normal((5, 3, 2))
    x = mp.tensor(values, mesh)
    for index in (np.array([4, 0, 0]), np.array(2), np.array([[1, 2], [3, 4]]), np.zeros((0,), int)):
        ids = mp.tensor(index, mesh)
        np.testing.assert_array_equal(x[ids].numpy(), values[index])
        np.testing.assert_array_equal(x[..., ids.clip(0, 1)].numpy(), values[..., index.clip(0, 1)])
        np.testing.assert_array_equal(x[:, ids.clip(0, 2)].numpy(), values[:, index.clip(0, 2)])


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            lambda x, i: x[i + 4],
            IndexError,
            "take: an index is 6; 0 to 4 are there, and none counts from the end",
        ),
        (lambda x, i: x[i - 1], IndexError, "take: an index is -1"),
        (lambda x, i: x[1:, i], IndexError, r"only : may stand; write x\[1:\]\[:, ids\]"),
        (lambda x, i: x[i, i], IndexError, "one Tensor of indices"),
        (lambda x, i: x.gather(0, i), ValueError, r"gather: \(5, 3\) with \(3\): as many dims"),
        (lambda x, i: x.gather(1, i[None]), ValueError, "both must be alike in all dims but 1"),
        (lambda x, i: x.gather(0, i[None] + 9), IndexError, "gather: an index is 11; 0 to 4"),
        (lambda x, i: x.gather(0, x), TypeError, "float32; integers are wanted"),
        (lambda x, i: x.scatter_add(0, i[None], x), ValueError, "one index for each element along dim 0"),
        (lambda x, i: x.scatter_add(0, i[None] - 7, x[:1]), IndexError, "scatter: an index is -7; 0 to 4"),
        (lambda x, i: where(x, x, x), TypeError, r"a boolean Tensor: write  where\(x > 0, x, y\)"),
        (lambda x, i: where(x > 0, 1, 2), TypeError, "two numbers have no dtype"),
        (lambda x, i: where(i > 0, i, 0.5), TypeError, "0.5 in a tensor of int64"),
        (
            lambda x, i: x + i,
            TypeError,
            r"add: .* would give float64: write x.astype\(…\) on the whole numbers",
        ),
        (lambda x, i: x.clip(), ValueError, "give low=, high= or both"),
        (lambda x, i: x.clip(2, 1), ValueError, "low=2 is above high=1"),
        (lambda x, i: x.argmax(None), TypeError, r"write  x.reshape\(-1\).argmax\(0\)"),
        (lambda x, i: i.var(), TypeError, r'write  x.astype\("float32"\).var\(…\)'),
        (lambda x, i: i.logsumexp(), TypeError, r'write  x.astype\("float32"\).logsumexp'),
        (lambda x, i: x.pad((1, 2)), ValueError, r"one pair \(before, after\) for each of its 2 dims"),
        (lambda x, i: x.pad(((0, 0), (-1, 0))), ValueError, "none below 0"),
        (lambda x, i: x.expand(4, 3), ValueError, r"it does not expand to \(4, 3\)"),
        (lambda x, i: x.expand(3), ValueError, "it does not expand"),
        (lambda x, i: x.squeeze(0), ValueError, "it has 5 rows, not one"),
        (lambda x, i: stack([]), TypeError, r"write  stack\(\[x, y\], dim\)"),
        (lambda x, i: stack(x), TypeError, "a list of Tensors"),
        (lambda x, i: stack([x, x[:2]]), ValueError, r"stack: shapes \[\(5, 3\), \(2, 3\)\] differ"),
        (lambda x, i: mp.concatenate([]), TypeError, "concatenate: a list of Tensors, at least one"),
    ],
)
def test_mistakes_have_messages(wrong, error, message, mesh):
    x, i = mp.zeros((5, 3), mesh), mp.tensor([2, 0, 1], mesh)
    with pytest.raises(error, match=message):
        wrong(x, i)


CUT = {
    "argmax": lambda x: x.argmax(0),
    "var": lambda x: x.var(0),
    "min": lambda x: x.min(),
    "logsumexp": lambda x: x.logsumexp(0),
    "cumsum": lambda x: x.cumsum(0),
    "flip": lambda x: x.flip(0),
    "pad": lambda x: x.pad(((1, 0), (0, 0))),
    "rows": lambda x: x[mp.arange(2, x.mesh)],
    "gather": lambda x: x.gather(0, mp.zeros((2, 3), x.mesh, dtype="int64")),
}


@pytest.mark.parametrize("ask", CUT.values(), ids=CUT.keys())
def test_a_dim_that_is_mixed_must_be_whole(ask, mesh):
    with pytest.raises(
        PlacementError, match=r"dim 0 of 'x' must be whole(.|\n)*Write  x.allgather\(\"tp\"\)"
    ):
        ask(mp.ones((5, 3), mesh, name="x", tp=Shard(0)))


# ---- dtypes ----------------------------------------------------------------------------------------------------


def test_whole_numbers_and_booleans_become_numbers_and_back(mesh):
    x = mp.tensor(WHOLE, mesh)
    assert (x.astype("float32") / 2).astype("int64").numpy().tolist() == [[1, 0, 1], [0, 1, -2]]
    assert x.astype("bool").numpy().tolist() == (WHOLE != 0).tolist()
    assert str((x > 0).astype("bfloat16").dtype) == "bfloat16"


def test_no_gradient_goes_through_whole_numbers(mesh):
    w = mp.parameter("w", (3,), mesh)
    with pytest.raises(
        GraphError,
        match=r'w \(3\) requires a gradient and int64 has none. Write  x.detach\(\).astype\("int64"\)',
    ):
        w.astype("int64")
    assert not w.detach().astype("int64").requires_grad
    with mp.no_grad():
        assert not w.astype("int64").requires_grad
    assert not any(y.requires_grad for y in (w > 0, w == w.flip(0), w.argmax(0), w.isnan(), ~(w > 0)))
    (w * (w > 0)).sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), (w.numpy() > 0).astype("float32"))


def test_a_clone_has_memory_of_its_own(mesh):
    x = mp.ones((3,), mesh)
    y = x.clone()
    x.zero_()
    assert y.numpy().tolist() == [1, 1, 1]
