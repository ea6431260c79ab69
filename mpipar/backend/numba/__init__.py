"""Arrays in the memory of a CPU rank, with compiled kernels: NumPy's names, some of them replaced by one pass over memory.

It is taken in place of `backend.numpy` where Numba is installed (the extra `fast`), unless MPIPAR_KERNELS=numpy.
"""

from __future__ import annotations

from mpipar.backend.numpy import *  # noqa: F403  isort: skip
from mpipar.backend.numba.attend import attention, attention_vjp
from mpipar.backend.numba.bits import keep_mask
from mpipar.backend.numba.kernels import (
    exp_sum,
    gelu,
    gelu_vjp,
    layer_norm,
    layer_norm_vjp,
    softmax_minus_hot,
)
from mpipar.backend.numba.updates import adam, sgd

name = "cpu"
