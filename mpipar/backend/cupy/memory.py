"""A card that is full says what was asked for, what is free, and what to lower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy as cp

from mpipar.backend.cupy.host import Card
from mpipar.errors import OutOfMemoryError


def telling_allocator(card: Card) -> Callable[[int], Any]:
    """CuPy's own pool of memory, which gives back what it keeps before it gives up; then our message."""
    pool = cp.get_default_memory_pool()

    def allocate(size: int) -> Any:
        try:
            return pool.malloc(size)
        except cp.cuda.memory.OutOfMemoryError:
            free, total = cp.cuda.Device(card.number).mem_info
            raise OutOfMemoryError(full_message(card.name, size, pool.used_bytes(), free, total)) from None

    return allocate


def full_message(name: str, asked: int, used: int, free: int, total: int) -> str:
    return (
        f"the GPU ({name}) is full: {megabytes(asked)} are wanted for an array, {megabytes(free)} of "
        f"{megabytes(total)} are free; the arrays of this rank take {megabytes(used)}.\n"
        "  Lower the batch or what of it is computed at a time (train.py: --batch, --micro-batch), or cut the weights\n"
        "  over more ranks (--mesh tp=…). Ranks that share a card share its memory (--ranks-per-gpu)."
    )


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
