"""Distributed tensors: the Tensor class, the moves, the tape, and `apply`, where an operation meets Tensors."""

from __future__ import annotations

from mpipar.tensor.create import (
    arange,
    from_local,
    full,
    normal,
    ones,
    parameter,
    randn,
    tensor,
    uniform,
    zeros,
)
from mpipar.tensor.functions import (
    attention,
    concatenate,
    dropout,
    embedding,
    layer_norm,
    repeat_interleave,
    rms_norm,
    rotary,
    swiglu,
)
from mpipar.tensor.tape import no_grad
from mpipar.tensor.tensor import Tensor

__all__ = [
    "Tensor", "arange", "attention", "concatenate", "dropout", "embedding", "from_local", "full", "layer_norm",
    "no_grad", "normal", "ones", "parameter", "randn", "repeat_interleave", "rms_norm", "rotary", "swiglu", "tensor",
    "uniform", "zeros",
]  # fmt: skip
