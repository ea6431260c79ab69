"""What a card must give: the random bits of the CPU, the same numbers each time, one message where it is full.

These run where MPIPAR_TEST_DEVICE=gpu, with the rest of the suite. A failure of the bits shows how many differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from under_test import raw

from mpipar import Mesh
from mpipar.backend import cpu
from mpipar.errors import OutOfMemoryError
from mpipar.job import local_rank, world
from mpipar.random import key

pytestmark = pytest.mark.gpu

DTYPES = ["float64", "float32", "float16", "bfloat16"]
SHAPES: list[tuple[int, ...]] = [(), (0, 3), (7,), (129, 517), (3, 5, 1000)]


def index(xp: Any, shape: tuple[int, ...]) -> list[Any]:
    return [xp.arange(3, 3 + length) for length in shape]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_random_numbers_have_the_bits_of_the_cpu(draw: str, dtype: str) -> None:
    for shape in SHAPES:
        here, there = (getattr(xp, draw)(key(1, "w"), index(xp, shape), dtype) for xp in (cpu(), raw))
        assert np.count_nonzero(raw.to_host(there) != here) == 0
        assert raw.to_host(there).tobytes() == here.tobytes()


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_dropout_masks_have_the_bits_of_the_cpu(p: float, dtype: str) -> None:
    for shape in SHAPES:
        here, there = (xp.keep_mask(key(1, "m"), index(xp, shape), p, dtype) for xp in (cpu(), raw))
        assert raw.to_host(there).tobytes() == here.tobytes()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_gradient_of_an_embedding_has_the_same_bits_each_time(dtype: str) -> None:
    """Thousands of terms for few rows: with atomics their order, and so the last bits, would change."""
    draw = np.random.default_rng(0)
    g = raw.from_host(draw.normal(size=(20_000, 33)), dtype)
    rows = raw.from_host(draw.integers(-1, 9, 20_000))
    found = {raw.to_host(raw.put_rows(g, rows, 0, 8)).tobytes() for _ in range(10)}
    assert len(found) == 1


def test_products_and_sums_have_the_same_bits_each_time() -> None:
    draw = np.random.default_rng(1)
    x = raw.from_host(draw.normal(size=(700, 900)), "float32")
    found = {
        (
            raw.to_host(raw.matmul(x, x.T)).tobytes(),
            raw.to_host(raw.sum(x, (0,))).tobytes(),
            raw.item(raw.square_sum(x)),
        )
        for _ in range(10)
    }
    assert len(found) == 1


def test_bytes_come_to_page_locked_memory_and_back() -> None:
    device = raw.device
    sent = raw.from_host(np.arange(100_000), "int64")
    host = device.host_buffer(sent.nbytes)
    device.download(raw.wire(sent), host)
    device.synchronize()
    assert host.tobytes() == np.arange(100_000).tobytes()
    filled = raw.zeros((100_000,), "int64")
    device.upload(host, raw.wire(filled))
    assert raw.to_host(filled).tolist() == list(range(100_000))


def test_each_rank_has_the_card_of_its_place_on_the_machine() -> None:
    numbers = world().allgather_object((local_rank(), raw.device.number))
    cards = 1 + max(number for _, number in numbers)
    assert all(number == place % cards or number == 0 for place, number in numbers)
    assert Mesh(dp=world().size).xp is raw


def test_a_full_card_says_what_to_lower() -> None:
    with pytest.raises(
        OutOfMemoryError, match=r"(?s)is full: 8,000,000,000\.0 MB are wanted .* --micro-batch"
    ):
        raw.empty((10**15,), "float64")
    assert raw.item(raw.sum(raw.full((10,), 1, "float32"))) == 10  # and work goes on
