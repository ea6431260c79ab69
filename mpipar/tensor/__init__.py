"""Distributed tensors: the Tensor class, the moves, the tape, and `apply`, where an operation meets Tensors."""

from __future__ import annotations

from mpipar.tensor.create import (
    arange,
    from_dlpack,
    from_local,
    full,
    normal,
    ones,
    parameter,
    randn,
    tensor,
    to_dlpack,
    uniform,
    zeros,
)
from mpipar.tensor.functions import (
    attention,
    bias_dropout_add,
    biased_gelu,
    concatenate,
    dropout,
    einsum,
    embedding,
    feed_forward,
    layer_norm,
    maximum,
    minimum,
    repeat_interleave,
    rms_norm,
    rotary,
    self_attention,
    stack,
    swiglu,
    where,
)
from mpipar.tensor.places import receive
from mpipar.tensor.tape import no_grad
from mpipar.tensor.tensor import Tensor

__all__ = [
    "Tensor", "arange", "attention", "bias_dropout_add", "biased_gelu", "concatenate", "dropout", "einsum",
    "embedding", "feed_forward", "from_dlpack", "from_local", "full", "layer_norm", "maximum", "minimum", "no_grad",
    "normal", "ones", "parameter", "randn", "receive", "repeat_interleave", "rms_norm", "rotary", "self_attention",
    "stack", "swiglu", "tensor", "to_dlpack", "uniform", "where", "zeros",
]  # fmt: skip
