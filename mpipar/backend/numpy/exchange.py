"""DLPack both ways: memory that two libraries share.

NumPy's own DLPack knows no bfloat16. Its 16 bits travel as whole numbers, and only the type that the capsule tells is
rewritten: one byte of the DLTensor, whose layout is that of dlpack.h 1.0.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from mpipar.backend.base import Array
from mpipar.backend.dtypes import dtype

UNSIGNED, BFLOAT = 1, 4  # kDLUInt, kDLBfloat
CODES = {b"dltensor": 20, b"dltensor_versioned": 52}  # where the type code lies, by the capsule's name

_is_named = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def to_dlpack(x: Array, **asked: Any) -> Any:
    if x.dtype != dtype("bfloat16"):
        return x.__dlpack__(**asked)
    capsule = x.view(np.uint16).__dlpack__(**asked)
    _code(capsule).value = BFLOAT
    return capsule


def from_dlpack(source: Any) -> Array:
    bits = Bits(source)
    x = np.from_dlpack(bits)
    return x.view(dtype("bfloat16")) if bits.are_bfloat16 else x


class Bits:
    """An array of another library that hands out its bfloat16 as 16-bit whole numbers."""

    def __init__(self, source: Any) -> None:
        self.source, self.are_bfloat16 = source, False

    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = self.source.__dlpack_device__()
        return device

    def __dlpack__(self, **asked: Any) -> Any:
        capsule = self.source.__dlpack__(**asked)
        code = _code(capsule)
        self.are_bfloat16 = code.value == BFLOAT
        if self.are_bfloat16:
            code.value = UNSIGNED
        return capsule


def _code(capsule: Any) -> ctypes.c_uint8:
    """The byte of a capsule that tells the kind of its numbers."""
    name = next(name for name in CODES if _is_named(capsule, name))
    return ctypes.c_uint8.from_address(_pointer(capsule, name) + CODES[name])
