"""What an array is on this rank. Above this package nothing imports NumPy, CuPy or Numba."""

from __future__ import annotations

from mpipar.backend.base import Array, Backend, Device, DType, Shape

__all__ = ["Array", "Backend", "DType", "Device", "Shape", "cpu"]


def cpu() -> Backend:
    """The backend of the CPU: NumPy. (`cards.take` gives that of a card.)"""
    from mpipar.backend import numpy  # noqa: PLC0415  (imported when first asked for)
    from mpipar.backend.numpy.memory import keep_memory  # noqa: PLC0415

    keep_memory()
    return numpy
