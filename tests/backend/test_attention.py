"""Attention against the formula with the whole matrix of scores (plain.py), and that it never makes that matrix itself.

Lengths lie below, at and above a block of queries, alike or with more keys than queries. A failure of the memory test
shows the bytes that were alive at once beside the results.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import plain
import pytest
from under_test import xp

from mpipar.backend import numpy as cpu
from mpipar.backend.numpy import attend

SCALE = 0.4
LENGTHS = [(1, 1), (2, 2), (7, 7), (7, 12), (attend.BLOCK, attend.BLOCK), (70, 75), (150, 150)]


def arrays(t: int, s: int, b: int = 2, h: int = 3, d: int = 4, dv: int = 5) -> tuple[Any, Any, Any, Any]:
    """q, k, v and the gradient of the output; values may be wider than keys."""
    draw = np.random.default_rng(t * 1000 + s).normal
    return (
        draw(size=(b, t, h, d)),
        draw(size=(b, s, h, d)),
        draw(size=(b, s, h, dv)),
        draw(size=(b, t, h, dv)),
    )


def close(found: Any, wanted: Any, bound: float = 1e-12) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=bound, atol=bound)


@pytest.mark.parametrize(
    ("t", "s", "causal"), [*((t, s, causal) for t, s in LENGTHS for causal in (True, False)), (12, 7, False)]
)
def test_forward(t: int, s: int, causal: bool) -> None:
    q, k, v, _ = arrays(t, s)
    out, lse = xp.attention(q, k, v, SCALE, causal)
    close(out, plain.attention(q, k, v, SCALE, causal))
    close(lse, plain.attention_lse(q, k, SCALE, causal))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("t", "s"), [(1, 1), (3, 3), (3, 5)])
def test_gradients_of_every_element(t: int, s: int, causal: bool) -> None:
    q, k, v, g = arrays(t, s)
    found = xp.attention_vjp(g, q, k, v, *xp.attention(q, k, v, SCALE, causal), SCALE, causal)
    close(found[0], plain.gradient(lambda q: plain.attention(q, k, v, SCALE, causal), q, g))
    close(found[1], plain.gradient(lambda k: plain.attention(q, k, v, SCALE, causal), k, g))
    close(found[2], plain.gradient(lambda v: plain.attention(q, k, v, SCALE, causal), v, g))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("t", "s"), LENGTHS)
def test_gradients_along_a_direction(t: int, s: int, causal: bool) -> None:
    """Σ g·(change of the output along a direction) is Σ gradient·direction, for each operand."""
    q, k, v, g = arrays(t, s)
    found = xp.attention_vjp(g, q, k, v, *xp.attention(q, k, v, SCALE, causal), SCALE, causal)
    for place, gradient in enumerate(found):
        operands: list[Any] = [q, k, v]
        direction = np.random.default_rng(place).normal(size=gradient.shape)
        operands[place] = operands[place] + 1e-30j * direction
        slope = np.sum(g * plain.attention(*operands, SCALE, causal)).imag / 1e-30
        assert slope == pytest.approx(np.sum(gradient * direction), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("causal", [True, False])
def test_float32_agrees_with_float64(causal: bool) -> None:
    q, k, v, g = (x.astype(np.float32) for x in arrays(150, 160, d=16))
    wide = [x.astype(np.float64) for x in (q, k, v)]
    (out, lse), (out64, lse64) = xp.attention(q, k, v, SCALE, causal), xp.attention(*wide, SCALE, causal)
    assert out.dtype == lse.dtype == np.float32
    close(out, out64, 1e-5)
    close(lse, lse64, 1e-5)
    found = xp.attention_vjp(g, q, k, v, out, lse, SCALE, causal)
    wanted = xp.attention_vjp(g.astype(np.float64), *wide, out64, lse64, SCALE, causal)
    for single, double in zip(found, wanted, strict=True):
        assert single.dtype == np.float32
        close(single, double, 1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
@pytest.mark.parametrize(("t", "s"), [(3, 5), (70, 75)])
def test_fewer_heads_of_keys_are_as_good_as_repeated(t: int, s: int, kv_heads: int, causal: bool) -> None:
    """And their gradients are the sums over the heads that they serve."""
    q, k, v, g = arrays(t, s, h=6)
    k, v = k[:, :, :kv_heads], v[:, :, :kv_heads]
    out, lse = xp.attention(q, k, v, SCALE, causal)
    close(out, plain.attention(q, k, v, SCALE, causal))
    close(lse, plain.attention_lse(q, k, SCALE, causal))
    many = [np.repeat(x, 6 // kv_heads, 2) for x in (k, v)]
    wanted = xp.attention_vjp(g, q, *many, *xp.attention(q, *many, SCALE, causal), SCALE, causal)
    found = xp.attention_vjp(g, q, k, v, out, lse, SCALE, causal)
    close(found[0], wanted[0])
    for mine, each in zip(found[1:], wanted[1:], strict=True):
        close(mine, each.reshape(2, s, kv_heads, 6 // kv_heads, -1).sum(3))


def test_large_scores_neither_overflow_nor_vanish() -> None:
    q, k, v, _ = arrays(5, 5)
    out, lse = xp.attention(q * 1e3, k * 1e3, v, 1.0, True)
    assert np.isfinite(out).all()
    assert np.isfinite(lse).all()
    close(out[:, 0], v[:, 0])  # the first query sees the first key alone


@pytest.mark.parametrize("memory", ["columns first", "every second", "backwards"])
def test_any_order_of_memory(memory: str) -> None:
    q, k, v, g = arrays(9, 11)
    there = [plain.disguised(x)[memory] for x in (q, k, v)]
    out, lse = xp.attention(q, k, v, SCALE, True)
    found = xp.attention(*there, SCALE, True)
    close(found[0], out)
    for mine, wanted in zip(
        xp.attention_vjp(plain.disguised(g)[memory], *there, *found, SCALE, True),
        xp.attention_vjp(g, q, k, v, out, lse, SCALE, True),
        strict=True,
    ):
        close(mine, wanted)


@pytest.mark.parametrize(
    "shape", [(0, 4, 3, 2), (2, 0, 3, 2), (2, 4, 0, 2)], ids=["batch", "positions", "heads"]
)
@pytest.mark.parametrize("causal", [True, False])
def test_empty_arrays_are_arrays(shape: tuple[int, ...], causal: bool) -> None:
    """A rank may have no rows of a batch and no heads."""
    x = np.zeros(shape)
    out, lse = xp.attention(x, x, x, SCALE, causal)
    assert (out.shape, lse.shape) == (shape, (shape[0], shape[2], shape[1]))
    assert [g.shape for g in xp.attention_vjp(x, x, x, x, out, lse, SCALE, causal)] == [shape] * 3


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("t", "s"), [(0, 3), *LENGTHS, (1000, 1000)])
def test_blocks_cover_the_queries_once_and_see_the_keys_up_to_their_end(t: int, s: int, causal: bool) -> None:
    found = list(attend.query_blocks(t, s, causal))
    assert [row for rows, _ in found for row in range(t)[rows]] == list(range(t))
    for rows, seen in found:
        assert rows.stop - rows.start <= attend.BLOCK
        assert seen == (s - t + rows.stop if causal else s)
    assert len(found) > 1 or t < 2


def peak(run: Callable[[], Any]) -> int:
    """The bytes of the host that were alive at once beside the results."""
    tracemalloc.start()
    try:
        results = run()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return most - sum(x.nbytes for x in results)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("t", [32, 128, 640])
@pytest.mark.parametrize("kv_heads", [4, 1])
def test_never_the_scores_of_all_queries_at_once(kv_heads: int, t: int, causal: bool) -> None:
    q, k, v, g = arrays(t, t, b=1, h=4, dv=4)
    k, v = k[:, :, :kv_heads], v[:, :, :kv_heads]
    block = 4 * min(attend.BLOCK, t // 2) * t * 8  # the scores of a block of queries, all heads
    small = 6 * q.nbytes + 50_000  # what the products and Python itself need
    out, lse = cpu.attention(q, k, v, SCALE, causal)
    assert peak(lambda: cpu.attention(q, k, v, SCALE, causal)) < 1.5 * block + small
    assert peak(lambda: cpu.attention_vjp(g, q, k, v, out, lse, SCALE, causal)) < 2.5 * block + small
