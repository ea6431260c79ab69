"""Arrays in the memory of a CPU rank: NumPy. The reference for every other backend.

The module itself is the backend: its names are those of `backend.base.Backend`.
"""

from __future__ import annotations

from mpipar.backend.base import Arena, Device
from mpipar.backend.dtypes import cast, dtype, is_floating, widen
from mpipar.backend.numpy.arena import Memory
from mpipar.backend.numpy.arrays import (
    absolute,
    add,
    add_into,
    add_product,
    addresses,
    affine,
    arange,
    argmax,
    as_array,
    broadcast_to,
    concatenate,
    contiguous,
    copy,
    copy_into,
    copy_scaled,
    cumsum,
    empty,
    exp,
    fill,
    from_bytes,
    from_host,
    full,
    item,
    keep_mask,
    log,
    matmul,
    max,
    maximum,
    minimum,
    normal,
    scale_into,
    sqrt,
    square_sum,
    sum,
    tanh,
    text,
    to_host,
    uniform,
    where,
    wire,
    zeros,
)
from mpipar.backend.numpy.attend import attention, attention_vjp
from mpipar.backend.numpy.exchange import from_dlpack, to_dlpack
from mpipar.backend.numpy.folding import fold
from mpipar.backend.numpy.kernels import (
    add_rows,
    bias_dropout_add,
    biased_gelu,
    biased_gelu_vjp_into,
    exp_rows,
    exp_sum,
    gelu,
    gelu_vjp,
    layer_norm,
    layer_norm_vjp,
    pick,
    put_rows,
    rms_norm,
    rms_norm_vjp,
    sigmoid,
    softmax,
    softmax_minus_hot,
    softmax_vjp,
    subtract_at,
    swiglu,
    swiglu_vjp,
    take_rows,
)
from mpipar.backend.numpy.rotary import rotary
from mpipar.backend.numpy.updates import adam, sgd

name = "cpu"
device: Device | None = None
arena: Arena | None = (_memory := Memory(fold))
empty_shared = _memory.empty_shared


def computed_by() -> str:
    return "NumPy"


__all__ = [
    "absolute", "adam", "add", "add_into", "add_product", "add_rows", "addresses", "affine", "arange", "arena",
    "argmax", "as_array", "attention", "attention_vjp", "bias_dropout_add", "biased_gelu", "biased_gelu_vjp_into",
    "broadcast_to", "cast", "computed_by", "concatenate", "contiguous", "copy", "copy_into", "copy_scaled",
    "cumsum", "device", "dtype", "empty", "empty_shared", "exp", "exp_rows", "exp_sum", "fill", "from_bytes",
    "from_dlpack", "from_host", "full", "gelu", "gelu_vjp", "is_floating", "item", "keep_mask", "layer_norm",
    "layer_norm_vjp", "log", "matmul", "max", "maximum", "minimum", "name", "normal", "pick", "put_rows",
    "rms_norm", "rms_norm_vjp", "rotary", "scale_into", "sgd", "sigmoid", "softmax", "softmax_minus_hot",
    "softmax_vjp", "sqrt", "square_sum", "subtract_at", "sum", "swiglu", "swiglu_vjp", "take_rows", "tanh", "text",
    "to_dlpack", "to_host", "uniform", "where", "widen", "wire", "zeros",
]  # fmt: skip
