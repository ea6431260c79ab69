"""Compiles the kernels before their first use: of the processes of a machine one does, the others load what it kept."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import numpy as np

from mpipar.backend.numba import attend, biased, bits, folding, kernels, products, sums, table, updates


def compile_all() -> None:
    """Runs every kernel once on a few numbers, in float32 and float64, one process after the other."""
    lock = Path(tempfile.gettempdir(), f"mpipar-kernels-{os.getuid()}.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the system frees it if this process dies
        for dtype in ("float32", "float64"):
            _run_all(dtype)


def _run_all(dtype: str) -> None:
    x = np.ones((2, 4), dtype)
    row, columns, qkv = x[0], np.zeros(2, np.int64), np.ones((1, 2, 3, 1, 4), dtype)
    kernels.gelu_vjp(kernels.gelu(x), x)
    biased.biased_gelu_vjp_into(biased.biased_gelu(x, row), x, row)
    biased.bias_dropout_add(x, row, None, x), biased.bias_dropout_add(x, row, x, x)
    y, saved = kernels.layer_norm(x, row, row, 1e-5)
    kernels.layer_norm_vjp(y, x, row, saved)
    y, saved = kernels.rms_norm(x, row, 1e-5)
    kernels.rms_norm_vjp(y, x, row, saved)
    pairs = np.ones((2, 2, 4), dtype)
    kernels.swiglu_vjp(kernels.swiglu(pairs), pairs)
    table.put_rows(x, columns, 0, 1)
    kernels.exp_rows(x)
    products.add_product(x.copy(), np.ones((2, 2), dtype), x)
    kernels.softmax_minus_hot(x, kernels.exp_sum(x, x[:, 0].copy()), columns, 0, row[:2])
    q, k, v = (qkv[:, :, part] for part in range(3))
    out, lse = attend.attention(q, k, v, 1.0, True)
    attend.attention_vjp(out, q, k, v, out, lse, 1.0, True)
    for outs, in_place in (([row], False), ([row, row], False), ([row, row], True)):
        folding.add_row(outs, row, row, in_place)
    sums.square_sum(np.ones(sums.BLOCK + 1, dtype))
    bits.keep_mask(1, [np.arange(2), np.arange(4)], 0.5, dtype)
    updates.sgd(x, x.copy(), x.copy(), 0.1, 0.9, True, 0.0)
    updates.adam(x, x.copy(), x.copy(), x.copy(), 1, 0.1, 0.9, 0.99, 1e-8, 0.0, True)
