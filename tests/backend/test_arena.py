"""The memory that ranks share: blocks that overlap no other, are used again, and live as long as an array on them.

A failure in the random test shows the step at which two blocks overlapped or free memory was lost.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mpipar.backend.numpy.arena import ALIGN, Memory
from mpipar.backend.numpy.folding import fold

pytestmark = pytest.mark.alone

MIB = 1 << 20


@pytest.fixture
def memory() -> Iterator[Memory]:
    """A memory of this process that no other knows."""
    memory = Memory(fold)
    assert memory.open(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (64 * MIB)) is not None
    yield memory
    os.close(memory._fd)


def made(memory: Memory, n_bytes: int) -> Any:
    x = memory.empty((n_bytes,), "uint8")
    assert x is not None
    return x


def test_an_array_of_any_shape_and_dtype(memory: Memory) -> None:
    for dtype in ("float32", "bfloat16", "bool", "complex128"):
        for shape in ((), (0,), (3, 5), (2, 0, 3)):
            x = memory.empty(shape, dtype)
            assert (x.shape, str(x.dtype), x.flags.c_contiguous, x.flags.writeable) == (
                shape,
                dtype,
                True,
                True,
            )
            assert memory.start(x) % ALIGN == 0
            x[...] = 1
            again = memory.view(memory._memory, memory.start(x), shape, dtype)
            assert again.tobytes() == x.tobytes()


def test_memory_lives_as_long_as_the_last_view(memory: Memory) -> None:
    x = made(memory, 1000)
    start = memory.start(x)
    view = x[100:].view(np.uint16)[3:]
    view[:] = 7
    del x
    assert memory.start(made(memory, 1000)) != start
    assert (view == 7).all()
    del view
    assert memory.start(made(memory, 1000)) == start


def test_where_an_array_lies(memory: Memory) -> None:
    x = memory.empty((4, 6), "float32")
    assert memory.start(x[1:]) == memory.start(x) + 24
    assert memory.start(x.T) == memory.start(x[:, 1:]) == -1, "not contiguous"
    assert memory.start(np.ones(3)) == -1


def test_the_same_requests_take_no_more_memory(memory: Memory) -> None:
    """As the steps of a training do."""

    def step() -> int:
        kept = [made(memory, size) for size in (5000, 70, 300_000)]
        for size in (80_000, 90, 300_000, 5000):
            kept.append(made(memory, size))
            kept.pop(1)
        return memory._top

    tops = [step() for _ in range(20)]
    assert len(set(tops[1:])) == 1


def test_any_order_of_taking_and_giving_back(memory: Memory) -> None:
    draw, kept = random.Random(5), {}
    for number in range(3000):
        if draw.random() < 0.52:
            x = made(memory, draw.choice([0, 1, 63, 64, 65, 4000, draw.randrange(100_000)]))
            x[:] = number % 251
            kept[number] = x
        elif kept:
            gone = draw.choice(list(kept))
            x = kept.pop(gone)
            assert (x == gone % 251).all(), f"block {gone} was overwritten before step {number}"
            del x
        spans = sorted((memory.start(x), memory.start(x) + x.size) for x in kept.values())
        assert all(stop <= start for (_, stop), (start, _) in pairwise(spans)), number
    kept.clear()
    del x
    made(memory, 1)
    assert memory._free == [] or memory._free == [(2 * ALIGN, memory._top)], "all of it is one stretch again"


def test_where_there_is_no_room_an_array_is_an_ordinary_one(memory: Memory) -> None:
    assert memory.empty((65 * MIB,), "uint8") is None
    whole = made(memory, 40 * MIB)
    assert memory.empty((40 * MIB,), "uint8") is None
    x = memory.empty_shared((40 * MIB,), "uint8")
    assert (x.shape, memory.start(x)) == ((40 * MIB,), -1)
    del whole
    assert memory.start(memory.empty_shared((40 * MIB,), "uint8")) >= 0
    assert memory.start(memory.empty_shared((memory.least - 1,), "uint8")) == -1, "a small one"


def test_one_that_was_not_opened_gives_ordinary_arrays() -> None:
    memory = Memory(fold)
    assert memory.empty((3,), "float32") is None
    x = memory.empty_shared((MIB,), "float32")
    assert (x.shape, memory.start(x)) == ((MIB,), -1)


def test_another_process_finds_it_by_its_place() -> None:
    memory = Memory(fold)
    place = memory.open(100)
    assert place is not None
    x = memory.empty((3,), "float64")
    x[:] = 5
    other = Memory(fold)
    seen = other.attach(place)
    assert (other.view(seen, memory.start(x), (3,), "float64") == 5).all()
    x[0] = 6
    assert other.view(seen, memory.start(x), (3,), "float64")[0] == 6
    for wrong in (place._replace(token=b"0" * 16), place._replace(fd=10_000), place._replace(pid=1 << 30)):
        assert other.attach(wrong) is None
    with open(os.devnull, "r+b") as another:
        assert other.attach(place._replace(fd=another.fileno())) is None
    os.close(memory._fd)
