"""The kernels of the NumPy backend against plain formulas (plain.py), values and gradients, in float64 to 1e-12.

float32 must agree with float64 to a few of its own roundings; the order of memory must not matter; empty arrays are
arrays. A failure shows the largest difference; the kernel's name is in the test's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plain
import pytest
from under_test import xp

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 2, 7)) * 2
G = RNG.normal(size=X.shape)
GAIN, BIAS = RNG.normal(size=7), RNG.normal(size=7)
NAMES = list(plain.disguised(X))
SINGLE = {"rtol": 1e-5, "atol": 1e-6}
SINGLE_VJP = {"rtol": 1e-5, "atol": 1e-5}  # 1 - t² cancels where the slope is flat


def close(found: Any, wanted: Any, rtol: float = 1e-12, atol: float = 1e-12) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)


def single(x: Any) -> Any:
    return x.astype(np.float32)


@pytest.mark.parametrize("memory", NAMES)
class TestFormulas:
    def test_gelu(self, memory: str) -> None:
        x, g = plain.disguised(X)[memory], plain.disguised(G)[memory]
        close(xp.gelu(x), plain.gelu(X))
        close(xp.gelu_vjp(g, x), plain.gradient(plain.gelu, X, G))

    def test_sigmoid(self, memory: str) -> None:
        close(xp.sigmoid(plain.disguised(X)[memory]), plain.sigmoid(X))

    def test_biased_gelu(self, memory: str) -> None:
        rows, upper = X[:, 0], G[:, 0].copy()
        x = plain.disguised(rows)[memory]
        close(xp.biased_gelu(x, BIAS), plain.gelu(rows + BIAS))
        g_bias = xp.biased_gelu_vjp_into(upper, x, BIAS)
        close(upper, plain.gradient(lambda x: plain.gelu(x + BIAS), rows, G[:, 0]))
        close(g_bias, plain.gradient(lambda bias: plain.gelu(rows + bias), BIAS, G[:, 0]))

    def test_bias_dropout_add(self, memory: str) -> None:
        x, mask, residual = (plain.disguised(value)[memory] for value in (X, G, X - G))
        close(xp.bias_dropout_add(x, BIAS, None, residual), X - G + (X + BIAS))
        close(xp.bias_dropout_add(x, BIAS, mask, residual), X - G + (X + BIAS) * G)
        close(xp.bias_dropout_add(x, None, mask, residual), X - G + X * G)
        close(xp.bias_dropout_add(x, None, None, residual), X - G + X)

    @pytest.mark.parametrize("dim", [0, 1, 2, -1])
    def test_softmax(self, memory: str, dim: int) -> None:
        y = plain.softmax(X, dim)
        close(xp.softmax(plain.disguised(X)[memory], dim), y)
        found = xp.softmax_vjp(plain.disguised(G)[memory], plain.disguised(y)[memory], dim)
        close(found, plain.gradient(lambda x: plain.softmax(x, dim), X, G))

    def test_layer_norm(self, memory: str) -> None:
        x, g = plain.disguised(X)[memory], plain.disguised(G)[memory]
        y, saved = xp.layer_norm(x, GAIN, BIAS, 1e-5)
        close(y, plain.layer_norm(X, GAIN, BIAS, 1e-5))
        g_x, g_gain, g_bias = xp.layer_norm_vjp(g, x, GAIN, saved)
        close(g_x, plain.gradient(lambda x: plain.layer_norm(x, GAIN, BIAS, 1e-5), X, G))
        close(g_gain, plain.gradient(lambda gain: plain.layer_norm(X, gain, BIAS, 1e-5), GAIN, G))
        close(g_bias, plain.gradient(lambda bias: plain.layer_norm(X, GAIN, bias, 1e-5), BIAS, G))

    def test_rms_norm(self, memory: str) -> None:
        x, g = plain.disguised(X)[memory], plain.disguised(G)[memory]
        y, saved = xp.rms_norm(x, GAIN, 1e-5)
        close(y, plain.rms_norm(X, GAIN, 1e-5))
        g_x, g_gain = xp.rms_norm_vjp(g, x, GAIN, saved)
        close(g_x, plain.gradient(lambda x: plain.rms_norm(x, GAIN, 1e-5), X, G))
        close(g_gain, plain.gradient(lambda gain: plain.rms_norm(X, gain, 1e-5), GAIN, G))

    def test_swiglu(self, memory: str) -> None:
        x, g = plain.disguised(X)[memory], plain.disguised(G[:, 0])[memory]
        close(xp.swiglu(x), plain.swiglu(X))
        close(xp.swiglu_vjp(g, x), plain.gradient(plain.swiglu, X, G[:, 0]))

    @pytest.mark.parametrize("positions", [[0, 1, 2], [5, 6, 7], [0, -1, -2], [7, 0, 900]])
    def test_rotary_positions(self, memory: str, positions: list[int]) -> None:
        """Rows 5 to 7 as a rank with that piece has them; turned back by negative positions."""
        wide = RNG.normal(size=(2, 3, 4, 6))
        x = plain.disguised(wide)[memory]
        y = xp.rotary(x, np.array(positions), 100.0)
        close(y, plain.rotary(wide, positions, 100.0))
        close(xp.rotary(y, -np.array(positions), 100.0), wide)

    def test_the_pieces_of_cross_entropy(self, memory: str) -> None:
        z, columns = X[:, 0], np.array([0, 6, 3])
        rows = plain.disguised(z)[memory]
        top = xp.max(rows, (1,))
        close(xp.exp_sum(rows, top), np.exp(z - z.max(1, keepdims=True)).sum(1))
        close(xp.pick(rows, columns, 0), z[[0, 1, 2], columns])
        lse, scale = np.log(np.exp(z).sum(1)), np.array([1.0, 0.5, 0.0])
        found = xp.softmax_minus_hot(rows, lse, columns, 0, scale)

        def loss(z: Any) -> Any:
            return np.log(np.exp(z).sum(1)) - z[[0, 1, 2], columns]

        close(found, plain.gradient(loss, z, scale))


def test_float32_agrees_with_float64() -> None:
    wide = RNG.normal(size=(40, 300)) * 3
    x, g = single(wide), single(RNG.normal(size=wide.shape))
    gain, bias = single(RNG.normal(size=300)), single(RNG.normal(size=300))
    x64, g64, gain64, bias64 = (value.astype(np.float64) for value in (x, g, gain, bias))
    close(xp.gelu(x), xp.gelu(x64), **SINGLE)
    close(xp.gelu_vjp(g, x), xp.gelu_vjp(g64, x64), **SINGLE_VJP)
    close(xp.sigmoid(x), xp.sigmoid(x64), **SINGLE)
    y64 = xp.softmax(x64, -1)
    close(xp.softmax(x, -1), y64, **SINGLE)
    close(xp.softmax_vjp(g, single(y64), -1), xp.softmax_vjp(g64, y64, -1), **SINGLE)
    (out, saved), (out64, saved64) = (
        xp.layer_norm(x, gain, bias, 1e-5),
        xp.layer_norm(x64, gain64, bias64, 1e-5),
    )
    close(out, out64, **SINGLE)
    for found, wanted in zip(
        xp.layer_norm_vjp(g, x, gain, saved), xp.layer_norm_vjp(g64, x64, gain64, saved64), strict=True
    ):
        assert found.dtype == np.float32
        close(found, wanted, **SINGLE_VJP)
    close(xp.exp_sum(x, xp.max(x, (1,))), xp.exp_sum(x64, xp.max(x64, (1,))), **SINGLE)


def test_float32_agrees_with_float64_in_the_parts_of_llama() -> None:
    wide, upper = RNG.normal(size=(40, 2, 300)) * 3, RNG.normal(size=(40, 2, 300))
    x, g, gain = single(wide), single(upper), single(RNG.normal(size=300))
    x64, g64, gain64 = (value.astype(np.float64) for value in (x, g, gain))
    (out, saved), (out64, saved64) = xp.rms_norm(x, gain, 1e-5), xp.rms_norm(x64, gain64, 1e-5)
    far = np.arange(100_000, 100_040)
    pairs = [
        (out, out64),
        *zip(xp.rms_norm_vjp(g, x, gain, saved), xp.rms_norm_vjp(g64, x64, gain64, saved64), strict=True),
        (xp.swiglu(x), xp.swiglu(x64)),
        (xp.swiglu_vjp(g[:, 0], x), xp.swiglu_vjp(g64[:, 0], x64)),
        (xp.rotary(x, far, 1e4), xp.rotary(x64, far, 1e4)),
    ]
    for found, wanted in pairs:
        assert found.dtype == np.float32
        close(found, wanted, **SINGLE_VJP)


def test_large_numbers_stay_finite() -> None:
    for dtype in (np.float32, np.float64):
        x = np.array([-1e4, -90.0, 0.0, 90.0, 1e4], dtype)
        close(xp.sigmoid(x), np.array([0, 0, 0.5, 1, 1.0]), atol=1e-30)
        close(xp.gelu(x), np.array([0, 0, 0, 90, 1e4]), rtol=1e-7)
        close(xp.gelu_vjp(np.ones_like(x), x), np.array([0, 0, 0.5, 1, 1.0]), rtol=1e-6)
        close(xp.softmax(x, 0), np.array([0, 0, 0, 0, 1.0]))
        pair = np.stack([x, np.ones_like(x)])
        close(xp.swiglu(pair), np.array([0, 0, 0, 90, 1e4]), rtol=1e-7)
        close(xp.swiglu_vjp(np.ones_like(x), pair)[0], np.array([0, 0, 0.5, 1, 1.0]), rtol=1e-6)
        close(xp.exp_sum(x[None], np.array([1e4], dtype)), np.array([1.0]))


def test_layer_norm_of_nearly_constant_rows() -> None:
    """The mean is taken off before squares are summed: no cancellation."""
    x = single(1e4 + np.arange(8.0)[None])
    y, _ = xp.layer_norm(x, np.ones(8, np.float32), np.zeros(8, np.float32), 1e-5)
    close(y, plain.layer_norm(np.arange(8.0)[None], 1, 0, 1e-5), rtol=1e-5)
    constant, _ = xp.layer_norm(np.full((2, 4), 3.0), np.ones(4), np.full(4, 0.5), 1e-5)
    close(constant, np.full((2, 4), 0.5))


def test_kernels_that_work_in_blocks_join_them_without_a_seam() -> None:
    """More rows than a block, a row wider than a block, and the last block shorter."""
    for shape in [(70_001,), (331, 301), (2, 40_000)]:
        x, g = RNG.normal(size=shape), RNG.normal(size=shape)
        close(xp.gelu(x), plain.gelu(x))
        if len(shape) == 2:
            close(xp.biased_gelu(x, x[0]), plain.gelu(x + x[0]))
            found = xp.copy(g)
            close(xp.biased_gelu_vjp_into(found, x, x[0]), found.sum(0))
            close(found, xp.gelu_vjp(g, x + x[0]))
            y, saved = xp.layer_norm(x, np.ones(shape[1]), np.zeros(shape[1]), 1e-5)
            close(y, plain.layer_norm(x, 1, 0, 1e-5))
            _, g_gain, g_bias = xp.layer_norm_vjp(g, x, np.ones(shape[1]), saved)
            close(g_bias, g.sum(0))
            close(g_gain, (g * plain.layer_norm(x, 1, 0, 1e-5)).sum(0))
            close(xp.exp_sum(x, xp.max(x, (1,))), np.exp(x - x.max(1, keepdims=True)).sum(1))
            y, saved = xp.rms_norm(x, np.ones(shape[1]), 1e-5)
            close(y, plain.rms_norm(x, 1, 1e-5))
            close(xp.rms_norm_vjp(g, x, np.ones(shape[1]), saved)[1], (g * y).sum(0))
            pairs = np.stack([x, g], 1)
            close(xp.swiglu(pairs), plain.swiglu(pairs))
            close(xp.swiglu_vjp(g, pairs)[:, 1], g * x * plain.sigmoid(x))


def test_empty_arrays_are_arrays() -> None:
    none = np.zeros((0, 3, 4))
    assert xp.gelu(none).shape == xp.gelu_vjp(none, none).shape == xp.sigmoid(none).shape == none.shape
    assert xp.softmax(none, -1).shape == xp.softmax_vjp(none, none, 1).shape == none.shape
    y, saved = xp.layer_norm(none, np.ones(4), np.ones(4), 1e-5)
    g_x, g_gain, g_bias = xp.layer_norm_vjp(none, none, np.ones(4), saved)
    assert (y.shape, g_x.shape) == (none.shape, none.shape)
    assert not g_gain.any()
    assert not g_bias.any()
    y, saved = xp.rms_norm(none, np.ones(4), 1e-5)
    g_x, g_gain = xp.rms_norm_vjp(none, none, np.ones(4), saved)
    assert (y.shape, g_x.shape, g_gain.any()) == (none.shape, none.shape, False)
    for shape in [(0, 3, 2, 4), (5, 0, 2, 4), (5, 3, 2, 0)]:  # rows, positions, hidden units of a rank
        pairs, halves = np.zeros(shape), np.zeros((*shape[:2], shape[3]))
        assert xp.swiglu(pairs).shape == halves.shape
        assert (
            xp.swiglu_vjp(halves, pairs).shape == xp.rotary(pairs, np.arange(shape[1]), 10.0).shape == shape
        )
    for shape in [(0, 5), (3, 0), (0, 0)]:
        z, rows = np.zeros(shape), np.zeros(shape[0])
        ids = np.zeros(shape[0], np.int64)
        close(xp.exp_sum(z, rows), rows)
        close(xp.pick(z, ids, 2), rows)
        close(xp.softmax_minus_hot(z, rows, ids, 2, rows), z)
        top, total = xp.exp_rows(z)
        assert top.shape == total.shape == rows.shape
        xp.subtract_at(z, ids, 2, rows)
        close(xp.biased_gelu(z, np.zeros(shape[1])), z)
        close(xp.biased_gelu_vjp_into(z, z, np.ones(shape[1])), np.zeros(shape[1]))
        close(xp.affine(z, np.zeros((shape[1], 2)), np.ones(2)), np.ones((shape[0], 2)))
        xp.add_product(z, np.ones((shape[0], 2)), np.zeros((2, shape[1])))
        close(z, np.zeros(shape))
        assert xp.max(z, (1,)).tolist() == [-np.inf] * shape[0] or shape[1]


@pytest.mark.parametrize("first", [0, 3, 5, 100])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_rows_of_a_piece_of_a_table(count: int, first: int) -> None:
    """The table is rows `first` to `first + count` of a larger one; other ids give zeros and take nothing."""
    for shape in [(), (0,), (9,), (2, 5)]:
        ids = RNG.integers(-2, 9, shape)
        table, g = RNG.normal(size=(count, 3)), RNG.normal(size=(*shape, 3))
        hot = (ids[..., None] - first == np.arange(count)).astype(float)
        close(xp.take_rows(table, ids, first), hot @ table)
        summed = np.tensordot(hot, g, (range(ids.ndim), range(ids.ndim)))
        close(xp.put_rows(g, ids, first, count), summed)
        out = table.copy()
        xp.add_rows(out, g, ids, first)
        close(out, table + summed)


def test_a_product_with_a_number_is_written_over_what_was_there() -> None:
    out = np.full(X.shape, np.nan)
    xp.copy_scaled(out, X, np.array(-2.5))
    assert out.tobytes() == (X * -2.5).tobytes()


@pytest.mark.parametrize("first", [0, 2, 50])
def test_columns_of_a_piece_of_a_vocabulary(first: int) -> None:
    z, ids = RNG.normal(size=(6, 4)), np.array([-1, 0, 2, 3, 5, 6])
    lse, scale = RNG.normal(size=6), RNG.normal(size=6)
    hot = (ids[:, None] - first == np.arange(4)).astype(float)
    close(xp.pick(z, ids, first), (z * hot).sum(1))
    close(xp.softmax_minus_hot(z, lse, ids, first, scale), (np.exp(z - lse[:, None]) - hot) * scale[:, None])
    powers, gradient = xp.copy(z), xp.copy(z)
    top, total = xp.exp_rows(powers)
    close(top, z.max(1))
    close(powers, np.exp(z - z.max(1, keepdims=True)))
    close(total, np.exp(z - z.max(1, keepdims=True)).sum(1))
    xp.subtract_at(gradient, ids, first, scale)
    close(gradient, z - hot * scale[:, None])


def test_arguments_stay_as_they_are() -> None:
    arrays = [X.copy(), G.copy(), GAIN.copy(), BIAS.copy()]
    x, g, gain, bias = arrays
    _, saved = xp.layer_norm(x, gain, bias, 1e-5)
    xp.layer_norm_vjp(g, x, gain, saved)
    xp.biased_gelu(x[0], bias), xp.biased_gelu_vjp_into(g[0].copy(), x[0], bias)
    for maybe in (bias, None):
        xp.bias_dropout_add(x, maybe, None, g), xp.bias_dropout_add(x, maybe, g, g)
    xp.gelu(x), xp.gelu_vjp(g, x), xp.sigmoid(x), xp.softmax_vjp(g, xp.softmax(x, 1), 1)
    _, saved = xp.rms_norm(x, gain, 1e-5)
    xp.rms_norm_vjp(g, x, gain, saved)
    xp.swiglu(x), xp.swiglu_vjp(g[:, 0], x), xp.rotary(x[..., :6], np.arange(3), 10.0)
    z, rows, ids = x[:, 0], x[:, 0, 0], np.array([0, 1, 2])
    xp.exp_sum(z, rows), xp.pick(z, ids, 0), xp.softmax_minus_hot(z, rows, ids, 0, rows)
    (
        xp.take_rows(x, ids, 0),
        xp.put_rows(g, ids, 0, 3),
        xp.add_rows(np.zeros_like(x), g, ids, 0),
        xp.square_sum(x),
    )
    for array, before in zip(arrays, (X, G, GAIN, BIAS), strict=True):
        assert array.tobytes() == before.tobytes()
