"""Compiled kernels do what NumPy's do: to 1e-6 in float32, 1e-12 in float64; masks bit for bit.

A failure names the kernel, the dtype and the largest difference, relative to the largest number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mpipar.backend import numba as compiled
from mpipar.backend import numpy as plain
from mpipar.backend.numba.arithmetic import compiled as jit
from mpipar.backend.numba.arithmetic import exp
from mpipar.backend.numba.sums import BLOCK

BOUND = {"float32": 1e-6, "float64": 1e-12}
SHAPES = [(3, 7), (0, 4), (4, 0), (1, 1), (2, 3, 65), (130, 300)]


def numbers(seed: int, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def strided(x: np.ndarray) -> np.ndarray:
    """The same numbers, not contiguous."""
    return np.repeat(x, 2, axis=-1)[..., ::2]


def leaves(value: Any) -> Iterator[np.ndarray]:
    for part in value if isinstance(value, tuple) else (value,):
        yield np.asarray(part)


def compare(run: Callable[[Any], Any], dtype: str, terms: float = 0.0) -> None:
    """`terms`: the largest of the terms that a result is the sum of, where they may cancel all of it."""
    for ours, reference in zip(leaves(run(compiled)), leaves(run(plain)), strict=True):
        assert (ours.shape, ours.dtype) == (reference.shape, reference.dtype)
        if reference.size:
            largest = max(np.abs(reference).max(), terms) or 1
            assert np.abs(ours - reference).max() / largest <= BOUND[dtype]


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.mark.parametrize("shape", [*SHAPES, ()], ids=str)
def test_gelu(shape, dtype):
    x, g = numbers(1, shape, dtype, 3), numbers(2, shape, dtype)
    compare(lambda xp: xp.gelu(x), dtype)
    compare(lambda xp: xp.gelu_vjp(g, x), dtype)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) == 2], ids=str)
def test_biased_gelu(shape, dtype):
    x, g, bias = numbers(1, shape, dtype, 3), numbers(2, shape, dtype), numbers(3, shape[1:], dtype)

    def in_place(xp: Any) -> Any:
        gradient = g.copy()
        return xp.biased_gelu_vjp_into(gradient, x, bias), gradient

    compare(lambda xp: xp.biased_gelu(x, bias), dtype)
    compare(in_place, dtype)


@pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if shape[-1] > 1], ids=str
)  # of one: 0, by rounding
def test_layer_norm(shape, dtype):
    x, g, (gain, bias) = numbers(1, shape, dtype), numbers(2, shape, dtype), numbers(3, (2, shape[-1]), dtype)
    compare(lambda xp: xp.layer_norm(x, gain, bias, 1e-5)[0], dtype)
    compare(lambda xp: xp.layer_norm_vjp(g, x, gain, xp.layer_norm(x, gain, bias, 1e-5)[1]), dtype)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[-1] > 1], ids=str)
def test_rms_norm(shape, dtype):
    x, g, gain = numbers(1, shape, dtype), numbers(2, shape, dtype), numbers(3, shape[-1:], dtype)
    compare(lambda xp: xp.rms_norm(x, gain, 1e-5)[0], dtype)
    compare(lambda xp: xp.rms_norm_vjp(g, x, gain, xp.rms_norm(x, gain, 1e-5)[1]), dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_swiglu(shape, dtype):
    x, g = numbers(1, (*shape[:-1], 2, shape[-1]), dtype, 3), numbers(2, shape, dtype)
    compare(lambda xp: xp.swiglu(x), dtype)
    compare(lambda xp: xp.swiglu_vjp(g, x), dtype)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) == 2], ids=str)
@pytest.mark.parametrize("first", [0, 5, 10_000])
def test_cross_entropy(shape, first, dtype):
    z, top, scale = numbers(1, shape, dtype, 3), numbers(2, shape[:1], dtype), numbers(3, shape[:1], dtype)
    columns = np.random.default_rng(4).integers(-1, 12, shape[0])
    compare(lambda xp: xp.exp_sum(z, top), dtype)
    compare(lambda xp: xp.softmax_minus_hot(z, top + 5, columns, first, scale), dtype)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) == 2], ids=str)
@pytest.mark.parametrize("first", [0, 5, 10_000])
def test_cross_entropy_in_place(shape, first, dtype):
    z = numbers(1, shape, dtype, 3)

    def in_place(xp: Any) -> Any:
        powers = z.copy()
        top, total = xp.exp_rows(powers)
        return top if shape[1] else total, total, powers  # nothing has the largest number -inf

    compare(in_place, dtype)


PRODUCTS = [
    (1, 1, 1),
    (3, 4, 5),
    (1, 5, 7),
    (5, 1, 7),
    (5, 7, 1),
    (0, 3, 2),
    (3, 0, 2),
    (3, 2, 0),
    (130, 70, 65),
]


@pytest.mark.parametrize(
    "arrange", [np.copy, lambda x: np.copy(x.T).T, strided], ids=["rows", "columns", "apart"]
)
@pytest.mark.parametrize("size", PRODUCTS, ids=str)
def test_products_and_sums(size, arrange, dtype):
    rows, columns, summed = size
    a, b = arrange(numbers(1, (rows, summed), dtype)), arrange(numbers(2, (summed, columns), dtype))
    bias, start = numbers(3, (columns,), dtype), arrange(numbers(4, (rows, columns), dtype))

    def added(xp: Any) -> Any:
        out = start.copy("K")
        xp.add_product(out, a, b)
        return out

    compare(added, dtype)
    compare(lambda xp: xp.affine(a, b, bias), dtype)


@pytest.mark.parametrize("shape", [*SHAPES, (5,)], ids=str)
@pytest.mark.parametrize("arrange", [np.copy, strided], ids=["side by side", "apart"])
def test_bias_dropout_add(shape, arrange, dtype):
    x, mask, residual = (arrange(numbers(k, shape, dtype)) for k in range(3))
    operands = [
        (x, bias, m, residual) for bias in (numbers(3, shape[-1:], dtype), None) for m in (mask, None)
    ]
    compare(lambda xp: tuple(xp.bias_dropout_add(*these) for these in operands), dtype)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3])
def test_sum_of_squares(size, dtype):
    """In float64, where the squares are no float32; NaN and infinity are seen wherever they are."""
    x = numbers(1, (size,), dtype)
    compare(lambda xp: xp.square_sum(x), dtype)
    for last in (1e-30, 1e30, np.inf, np.nan):
        x[-1:] = last
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(compiled.square_sum(x), plain.square_sum(x), rtol=1e-13)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) == 2], ids=str)
@pytest.mark.parametrize("first", [0, 5, 10_000])
def test_rows_that_are_added(shape, first, dtype):
    g, start = numbers(1, shape, dtype), numbers(2, (9, shape[1]), dtype)
    rows = np.random.default_rng(4).integers(-1, 16, shape[0])

    def added(xp: Any) -> Any:
        out = start.copy()
        xp.add_rows(out, g, rows, first)
        return out, xp.put_rows(g, rows, first, 9)

    compare(added, dtype)


def test_blas_has_nothing_to_say_of_no_rows(dtype, capfd):
    """A part of an array without rows, as a rank has one that has no sequence in a micro-batch."""
    a, b, bias = (numbers(k, shape, dtype) for k, shape in enumerate([(5, 3), (3, 4), (4,)]))
    compare(lambda xp: xp.affine(a[:0], b, bias), dtype)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 5), (3, 9), (130, 130), (70, 200)])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("group", [1, 2])
def test_attention(queries, keys, causal, group, dtype):
    q, g = numbers(1, (2, queries, 3 * group, 4), dtype), numbers(2, (2, queries, 3 * group, 5), dtype)
    k, v = numbers(3, (2, keys, 3, 4), dtype), numbers(4, (2, keys, 3, 5), dtype)
    compare(lambda xp: xp.attention(q, k, v, 0.7, causal), dtype)
    out, lse = plain.attention(q, k, v, 0.7, causal)
    cancel = np.abs(g).max() if keys == 1 else 0  # with one key the gradients of q and k are 0
    compare(lambda xp: xp.attention_vjp(g, q, k, v, out, lse, 0.7, causal), dtype, cancel)


@pytest.mark.parametrize(("length", "width"), [(1, 8), (64, 32), (65, 24), (100, 40), (192, 128)])
def test_attention_of_one_array(length, width, dtype):
    """Queries, keys and values lie between one another; gradients are written so, nothing beside them."""
    qkv, g = numbers(1, (2, length, 3, 2, width), dtype), numbers(2, (2, length, 2, width), dtype)
    q, k, v = (qkv[:, :, part] for part in range(3))
    out, lse = plain.attention(q, k, v, width**-0.5, True)

    def into(xp: Any) -> Any:
        gradient = np.full((*qkv.shape[:3], 3, width), 7, dtype)
        parts = tuple(gradient[:, :, part, :2] for part in range(3))
        xp.attention_vjp(g, q, k, v, out, lse, width**-0.5, True, parts)
        return gradient

    compare(lambda xp: xp.attention(q, k, v, width**-0.5, True), dtype)
    compare(into, dtype)


@pytest.mark.parametrize(("queries", "keys"), [(0, 3), (2, 0)])
def test_attention_of_nothing(queries, keys, dtype):
    q, k = numbers(1, (2, queries, 3, 4), dtype), numbers(3, (2, keys, 3, 4), dtype)
    lse = np.zeros((2, 3, queries), dtype)
    compare(lambda xp: xp.attention_vjp(q, q, k, k, q, lse, 0.7, False), dtype)


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("shape", [(7,), (0,), (), (40, 33)], ids=str)
def test_adam(shape, decoupled, dtype):
    def stepped(xp):
        w, g, m = (numbers(seed, shape, dtype) for seed in (1, 2, 3))
        v = numbers(4, shape, dtype) ** 2
        xp.adam(w, g, m, v, 3, 1e-2, 0.9, 0.99, 1e-8, 0.1, decoupled)
        return w, m, v

    compare(stepped, dtype)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [True, False])
def test_sgd(nesterov, momentum, dtype):
    def stepped(xp):
        w, g, v = (numbers(seed, (40, 33), dtype) for seed in (1, 2, 3))
        xp.sgd(w, g, v if momentum else None, 1e-2, 0.9 if momentum else 0.0, nesterov, 0.1)
        return w, v

    compare(stepped, dtype)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.999])
def test_masks_have_the_same_bits(p, dtype):
    index = [np.arange(3, 6), np.arange(4), np.arange(100, 165)]
    for part in (index, index[:1], [], [np.arange(0), *index]):
        ours, reference = (xp.keep_mask(12345, part, p, dtype) for xp in (compiled, plain))
        assert ours.shape == reference.shape
        assert np.array_equal(ours, reference)


@jit()
def _exp_of(x, y):
    for i in range(x.size):
        y[i] = exp(x[i])


def test_exp_is_within_a_few_units_in_the_last_place(dtype):
    x = np.random.default_rng(0).uniform(-80, 80, 100_000).astype(dtype)
    y = np.empty_like(x)
    _exp_of(x, y)
    reference = np.exp(x.astype(np.longdouble))
    assert np.abs((y - reference) / reference).max() < 20 * np.finfo(dtype).eps


@pytest.mark.parametrize("size", [20.0, 1e4])
def test_large_numbers_do_not_overflow(size, dtype):
    x = np.array([[-size, size], [size, -size]], dtype)
    compare(lambda xp: (xp.gelu(x), xp.gelu_vjp(x, x)), dtype)
    compare(lambda xp: (xp.biased_gelu(x, x[0]), xp.biased_gelu_vjp_into(x.copy(), x, x[0])), dtype)
    compare(lambda xp: (xp.swiglu(x[None]), xp.swiglu_vjp(x[:1], x[None])), dtype)


def test_what_is_not_a_number_stays_so(dtype):
    x = np.array([[1.0, np.nan, 2.0]], dtype)
    ones = np.ones(3, dtype)
    assert np.isnan(compiled.gelu(x)).tolist() == [[False, True, False]]
    assert np.isnan(compiled.biased_gelu(x, ones)).tolist() == [[False, True, False]]
    assert np.isnan(compiled.layer_norm(x, ones, ones, 1e-5)[0]).all()
    assert np.isnan(compiled.exp_sum(x, ones[:1])).all()


@pytest.mark.parametrize("kernel", ["gelu"])
def test_strided_arrays(kernel, dtype):
    x = strided(numbers(1, (4, 5), dtype))
    compare(lambda xp: getattr(xp, kernel)(x), dtype)
