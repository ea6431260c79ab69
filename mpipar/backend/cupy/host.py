"""The border between a card and the host: what is copied, and by whom MPI's bytes are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cupy as cp
import numpy as np

from mpipar.backend import numpy as cpu
from mpipar.backend.base import Array, DType, Shape

CARDS_OF_DLPACK = (2, 13)  # kDLCUDA and kDLCUDAManaged


def from_host(value: Any, dtype_: DType | None = None) -> Array:
    """An array of one's own of a number, a list or a host array."""
    if isinstance(value, cp.ndarray):
        raise TypeError("from_host of an array on the card: it is there already")
    return cp.asarray(cpu.from_host(value, dtype_))


def from_bytes(data: bytes, shape: Shape, dtype_: str = "uint8") -> Array:
    """The numbers travel as they are and are widened on the card."""
    numbers = np.frombuffer(data, np.dtype(dtype_).newbyteorder("<")).astype(dtype_, copy=False)
    return cp.asarray(numbers).reshape(shape).astype(np.int64)


def to_host(x: Array) -> Any:
    return cp.asnumpy(x)


def item(x: Array) -> Any:
    return x.item()


def text(x: Array) -> str:
    return cpu.text(cp.asnumpy(x))


def normal(key: int, index: Sequence[Array], dtype_: DType) -> Array:
    """Made on the host, for the last bits of log and cos are not the same on a card. Weights are made once."""
    return from_host(cpu.normal(key, [to_host(i) for i in index], dtype_))


def to_dlpack(x: Array, **asked: Any) -> Any:
    return x.__dlpack__(**asked)


def from_dlpack(source: Any) -> Array:
    """Raises BufferError for memory that is not a card's: CuPy would copy it in silence."""
    kind, number = source.__dlpack_device__()
    if kind not in CARDS_OF_DLPACK:
        raise BufferError(
            f"an array on a GPU is wanted, not on device {kind, number} of DLPack; copy it there first"
        )
    return cp.from_dlpack(source)


def addresses(x: Array) -> tuple[int, int]:
    if x.size == 0:
        return x.data.ptr, x.data.ptr
    reach = [stride * (length - 1) for length, stride in zip(x.shape, x.strides, strict=True)]
    first = x.data.ptr + sum(min(0, steps) for steps in reach)
    return first, x.data.ptr + sum(max(0, steps) for steps in reach) + x.itemsize


def wire(x: Array) -> Array:
    """The bytes on the card; mpi4py hands their pointer to a GPU-aware MPI (it takes it by DLPack)."""
    return x.reshape(-1).view(np.uint8) if x.size else cp.empty(0, np.uint8)


@dataclass(frozen=True)
class Card:
    """The card of this rank, for whoever carries its bytes (`backend.base.Device`)."""

    number: int
    name: str
    gpu_aware: bool

    def synchronize(self) -> None:
        cp.cuda.get_current_stream().synchronize()

    def host_buffer(self, size: int) -> Any:
        """Page-locked: the card reads and writes it at full speed, while Python goes on."""
        memory = cp.cuda.PinnedMemoryPointer(cp.cuda.PinnedMemory(size), 0)
        return np.frombuffer(memory, np.uint8, size)

    def download(self, wire: Array, host: Any) -> None:
        wire.get(out=host, blocking=False)

    def upload(self, host: Any, wire: Array) -> None:
        wire.set(host)
