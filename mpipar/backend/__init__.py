"""What an array is on this rank. Above this package nothing imports NumPy, CuPy or Numba."""

from __future__ import annotations

from mpipar.backend.base import Array, Backend, DType, Shape

__all__ = ["Array", "Backend", "DType", "Shape", "get"]


def get(device: str | Backend) -> Backend:
    """The backend of a device by name ("cpu"), or the one that was given."""
    if not isinstance(device, str):
        return device
    if device == "cpu":
        from mpipar.backend import numpy  # noqa: PLC0415  (imported when first asked for)
        from mpipar.backend.numpy.memory import keep_memory  # noqa: PLC0415

        keep_memory()
        return numpy
    raise ValueError(f"device {device!r} is not known; write device='cpu'")
