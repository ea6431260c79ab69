"""What an array is on this rank. Above this package nothing imports NumPy, CuPy or Numba."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

from mpipar.backend.base import Arena, Array, Backend, Device, DType, Shape
from mpipar.errors import UsageError

__all__ = ["Arena", "Array", "Backend", "DType", "Device", "Shape", "cpu", "kernel_threads", "use_threads"]


@cache
def cpu() -> Backend:
    """The backend of the CPU. (`cards.take` gives that of a card.)

    NumPy, with compiled kernels where Numba is installed (the extra `fast`). MPIPAR_KERNELS=numpy leaves them out,
    MPIPAR_KERNELS=numba raises UsageError where they cannot be had.
    """
    from mpipar.backend import numpy  # noqa: PLC0415  (imported when first asked for)
    from mpipar.backend.numpy.memory import keep_memory  # noqa: PLC0415

    keep_memory()
    asked = os.environ.get("MPIPAR_KERNELS", "")
    if asked not in ("", "numba", "numpy"):
        raise UsageError(f"MPIPAR_KERNELS={asked} is not known; write numba, numpy, or leave it out")
    return numpy if asked == "numpy" else _compiled(numpy, must=asked == "numba")


def use_threads(count: int) -> bool:
    """Cuts the work of the compiled kernels over so many threads, never fewer than before.

    False where the kernels are NumPy's: these have only what threads BLAS has.
    """
    start: Callable[[int], None] | None = getattr(cpu(), "start_threads", None)
    if start is None:
        return False
    start(count)
    return True


def kernel_threads() -> int:
    """Those over which the compiled kernels cut their work; 0 where the kernels are NumPy's."""
    count: Callable[[], int] | None = getattr(cpu(), "kernel_threads", None)
    return 0 if count is None else count()


def _compiled(plain: Backend, must: bool) -> Backend:
    try:
        from mpipar.backend import numba  # noqa: PLC0415
    except ImportError as error:
        if must or error.name not in ("numba", "llvmlite"):
            raise UsageError(f"no compiled kernels: {error}. Write pip install 'mpipar[fast]'") from None
        return plain
    numba.compile_all()
    return numba  # type: ignore[return-value]  # its other names come from backend.numpy
