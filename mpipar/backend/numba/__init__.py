"""Arrays in the memory of a CPU rank, with compiled kernels: NumPy's names, some replaced by one pass over memory.

The reference is `backend.numpy`; `backend.cpu` says when this is taken in its place.
"""

from __future__ import annotations

# isort: off
from mpipar.backend.numpy import *  # noqa: F403  (all names of the contract, and below those that are replaced)
from mpipar.backend.numba import blas
from mpipar.backend.numba.attend import attention, attention_vjp
from mpipar.backend.numba.products import add_product, affine, matmul  # type: ignore[assignment]
from mpipar.backend.numba.biased import bias_dropout_add, biased_gelu, biased_gelu_vjp_into
from mpipar.backend.numba.bits import keep_mask  # type: ignore[assignment]
from mpipar.backend.numba.folding import fold
from mpipar.backend.numba.kernels import (
    exp_rows,
    exp_sum,
    gelu,
    gelu_vjp,
    layer_norm,
    layer_norm_vjp,
    rms_norm,
    rms_norm_vjp,
    softmax_minus_hot,
    swiglu,
    swiglu_vjp,
)
from mpipar.backend.numba.sums import add, add_into, square_sum, sum
from mpipar.backend.numba.start import compile_all
from mpipar.backend.numba.table import add_rows, put_rows
from mpipar.backend.numba.threads import workers
from mpipar.backend.numba.updates import adam, sgd
from mpipar.backend.base import Arena
from mpipar.backend.numpy.arena import Memory

# isort: on

start_threads = workers.start
arena: Arena | None = (_memory := Memory(fold))  # type: ignore[no-redef]
empty_shared = _memory.empty_shared


def computed_by() -> str:  # type: ignore[no-redef]
    return f"Numba, products by {blas.here().name or 'NumPy'}"


def kernel_threads() -> int:
    return workers.count


__all__ = [
    "adam", "add", "add_into", "add_product", "add_rows", "affine", "arena", "attention", "attention_vjp",
    "bias_dropout_add", "biased_gelu", "biased_gelu_vjp_into", "compile_all", "computed_by", "empty_shared",
    "exp_rows", "exp_sum", "gelu", "gelu_vjp", "keep_mask", "kernel_threads", "layer_norm", "layer_norm_vjp",
    "matmul", "put_rows", "rms_norm", "rms_norm_vjp", "sgd", "softmax_minus_hot", "square_sum", "start_threads",
    "sum", "swiglu", "swiglu_vjp",
]  # fmt: skip
