"""Counter-based random bits: a function of (key, global index), uniform, and without a pattern that a person could see.

The statistics are of fixed keys, so a test passes always or never. `SIGMAS` is how many standard deviations a statistic
may be off; a failure shows the statistic in standard deviations.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from under_test import xp

from mpipar.backend import bits
from mpipar.random import key

SIGMAS = 5.0
KEYS = [0, 1, 2, 2**63, 2**64 - 1, key(0, "blocks.0.mlp.up.weight"), key(1, "dropout", "a", 3)]
DRAWS: dict[str, Callable[[int, list[Any], str], Any]] = {
    "uniform": xp.uniform,
    "normal": xp.normal,
    "keep_mask": lambda key, index, dtype: xp.keep_mask(key, index, 0.3, dtype),
}


def index(*ranges: tuple[int, int]) -> list[Any]:
    return [np.arange(start, stop) for start, stop in ranges]


def field(key: int, rows: int = 512, columns: int = 512) -> Any:
    """Uniform numbers over a matrix, less their mean and divided by their standard deviation."""
    return (xp.uniform(key, index((0, rows), (0, columns)), "float64") - 0.5) * np.sqrt(12)


# ---- the same bits for any cut ----------------------------------------------------------------------------


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0,), (9,), (6, 7), (4, 5, 3), (3, 0, 2)])
def test_any_cut_has_the_same_bits(shape: tuple[int, ...], dtype: str, draw: str) -> None:
    whole = DRAWS[draw](7, index(*((0, n) for n in shape)), dtype)
    assert whole.shape == shape
    assert whole.dtype == xp.dtype(dtype)
    halves = [[(0, n // 3), (n // 3, n)] for n in shape]
    for pieces in product(*halves):
        part = DRAWS[draw](7, index(*pieces), dtype)
        assert part.tobytes() == whole[tuple(slice(*piece) for piece in pieces)].tobytes()


def test_any_choice_of_rows_has_the_same_bits() -> None:
    """Not only consecutive pieces: zigzag shards and samples of rows too."""
    whole = xp.uniform(3, index((0, 100), (0, 50)), "float64")
    rows, columns = np.array([99, 3, 3, 41]), np.array([49, 0, 7])
    assert (xp.uniform(3, [rows, columns], "float64") == whole[np.ix_(rows, columns)]).all()


def test_blocks_leave_no_seam() -> None:
    wide = xp.uniform(3, index((0, 3), (0, 40_000)), "float64")
    tall = xp.uniform(3, index((0, 40_000), (0, 3)), "float64")
    assert (wide[:, 39_990:] == xp.uniform(3, index((0, 3), (39_990, 40_000)), "float64")).all()
    assert (tall[39_990:] == xp.uniform(3, index((39_990, 40_000), (0, 3)), "float64")).all()


def test_float32_is_float64_rounded() -> None:
    where = index((0, 200), (0, 200))
    assert (xp.normal(5, where, "float32") == xp.normal(5, where, "float64").astype(np.float32)).all()


# ---- inside (0, 1) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("words", [0, 2**32 - 1], ids=["all bits 0", "all bits 1"])
def test_strictly_between_0_and_1_whatever_the_bits(
    words: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def constant(columns: Any, rows: Any, stream: int) -> Any:
        return (
            (columns[None, :] & np.uint32(0))
            + (rows[:, None].astype(np.uint32) & np.uint32(0))
            + np.uint32(words)
        )

    monkeypatch.setattr(bits, "_word", constant)
    u = xp.uniform(0, index((0, 2), (0, 2)), dtype).astype(np.float64)
    assert ((u > 0) & (u < 1)).all()
    assert np.isfinite(xp.normal(0, index((0, 2), (0, 2)), "float64")).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rounding_never_reaches_the_ends(dtype: str) -> None:
    u = xp.uniform(1, index((0, 300), (0, 1000)), dtype).astype(np.float64)
    assert ((u > 0) & (u < 1)).all()


# ---- the right distribution -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_moments_of_uniform(key: int) -> None:
    u = field(key)
    assert_sigmas(u.mean() * np.sqrt(u.size))
    assert_sigmas(((u**2).mean() - 1) * np.sqrt(u.size / 0.8))  # var of u² is 9/5 - 1
    assert_sigmas((u**3).mean() * np.sqrt(u.size / (27 / 7)))


@pytest.mark.parametrize("key", KEYS)
def test_moments_of_normal(key: int) -> None:
    z = xp.normal(key, index((0, 512), (0, 512)), "float64")
    for power, wanted in [(1, 0), (2, 1), (3, 0), (4, 3), (6, 15)]:
        sample = z**power
        assert_sigmas((sample.mean() - wanted) / sample.std() * np.sqrt(z.size))
    assert np.abs(z).max() < 7


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("key", KEYS)
def test_keep_mask_drops_the_right_share(key: int, p: float) -> None:
    mask = xp.keep_mask(key, index((0, 512), (0, 512)), p, "float64")
    assert set(np.unique(mask)) <= {0.0, 1 / (1 - p)}
    dropped = (mask == 0).sum()
    assert_sigmas((dropped - p * mask.size) / np.sqrt(max(p * (1 - p) * mask.size, 1)))
    assert dropped or not p
    assert (mask.any(0) & mask.any(1)).all()


@pytest.mark.parametrize("low", [0, 8, 24, 32, 44])
@pytest.mark.parametrize("key", KEYS)
def test_chi_square_of_the_bits(key: int, low: int) -> None:
    """Eight bits of the 52, from `low` on after the point, fall evenly into 256 bins; in rows and in columns too."""
    u = xp.uniform(key, index((0, 512), (0, 512)), "float64")
    bins = np.floor(u * 2.0 ** (low + 8)).astype(np.int64) & 255
    assert_chi_square(np.bincount(bins.reshape(-1), minlength=256))
    for line in (bins[0], bins[:, 0], bins[511], bins[:, 511]):
        assert_chi_square(np.bincount(line >> 4, minlength=16))


@pytest.mark.parametrize("key", KEYS)
def test_chi_square_of_neighbouring_pairs(key: int) -> None:
    """Pairs along a row and along a column fall evenly into 32 × 32 squares."""
    bins = np.floor(xp.uniform(key, index((0, 512), (0, 512)), "float64") * 32).astype(np.int64)
    for pairs in (bins[:, ::2] * 32 + bins[:, 1::2], bins[::2] * 32 + bins[1::2]):
        assert_chi_square(np.bincount(pairs.reshape(-1), minlength=1024))


# ---- no correlation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_neighbours_are_not_correlated(key: int) -> None:
    u = field(key)
    for down, right in [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (0, 64), (64, 0), (256, 256), (1, 255)]:
        a, b = u[down:, right:], u[: 512 - down, : 512 - right]
        assert_correlation(a, b)
        assert_correlation(a**2 - 1, b**2 - 1)
    assert_correlation(u, u.T - np.diag(u.diagonal()))  # (i, j) and (j, i)


def test_keys_are_not_correlated_and_share_no_bits() -> None:
    keys = [*range(8), *(2**bit for bit in (8, 31, 32, 63)), 2**64 - 1, key(0, "a"), key(0, "b"), key(1, "a")]
    fields = [field(one, 128, 128) for one in keys]
    for a, b in combinations(fields, 2):
        assert_correlation(a, b)
        assert (a == b).sum() == 0


def test_shapes_of_a_key_are_different_numbers() -> None:
    """(100,) is not the first row of (1, 100)."""
    flat, row = xp.uniform(1, index((0, 100)), "float64"), xp.uniform(1, index((0, 1), (0, 100)), "float64")
    assert not (flat == row[0]).any()


def test_no_number_comes_twice() -> None:
    u = xp.uniform(9, index((0, 1000), (0, 1000)), "float64")
    assert np.unique(u).size == u.size


def test_rows_and_columns_have_the_rank_that_chance_gives() -> None:
    """A hash that adds a row's word to a column's would make a matrix of low rank."""
    values = np.linalg.svd(field(4, 200, 200), compute_uv=False)
    assert values[0] < 2.2 * np.sqrt(200)  # Marchenko and Pastur: 2·√n
    assert values[100] > 0.5 * np.sqrt(200)


def assert_sigmas(statistic: float) -> None:
    assert abs(statistic) < SIGMAS


def assert_correlation(a: Any, b: Any) -> None:
    assert_sigmas(np.mean(a * b) / (a.std() * b.std()) * np.sqrt(a.size))


def assert_chi_square(counts: Any) -> None:
    """Wilson and Hilferty's normal approximation."""
    wanted, free = counts.sum() / counts.size, counts.size - 1
    chi = ((counts - wanted) ** 2 / wanted).sum()
    assert_sigmas(((chi / free) ** (1 / 3) - (1 - 2 / (9 * free))) / np.sqrt(2 / (9 * free)))
