"""Arrays in the memory of a card: CuPy, as expressions that need no source of CUDA.

The module itself is the backend, for the one card that this process uses: its names are those of
`backend.base.Backend`. `mpipar.backend.cards` imports it.
"""

from __future__ import annotations

import cupy as cp

from mpipar.backend.base import Arena, Device
from mpipar.backend.cupy.arrays import (
    absolute,
    add,
    add_into,
    add_product,
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
    full,
    keep_mask,
    log,
    matmul,
    max,
    maximum,
    minimum,
    scale_into,
    sqrt,
    square_sum,
    sum,
    tanh,
    uniform,
    where,
    zeros,
)
from mpipar.backend.cupy.attend import attention, attention_vjp
from mpipar.backend.cupy.host import (
    Card,
    addresses,
    from_bytes,
    from_dlpack,
    from_host,
    item,
    normal,
    text,
    to_dlpack,
    to_host,
    wire,
)
from mpipar.backend.cupy.kernels import (
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
    rotary,
    sigmoid,
    softmax,
    softmax_minus_hot,
    softmax_vjp,
    subtract_at,
    swiglu,
    swiglu_vjp,
    take_rows,
)
from mpipar.backend.cupy.memory import telling_allocator
from mpipar.backend.cupy.updates import adam, sgd
from mpipar.backend.dtypes import cast, dtype, is_floating, widen

name = "gpu"
device: Device | None = None  # set by `use`
arena: Arena | None = None
empty_shared = empty


def computed_by() -> str:
    return "CuPy"


def use(card: Card) -> None:
    """This process computes on that card from now on. Raises OutOfMemoryError, here and later, where it is full."""
    global device  # noqa: PLW0603  (CUDA, too, has one current card)
    cp.cuda.Device(card.number).use()
    cp.cuda.set_allocator(telling_allocator(card))
    device = card


__all__ = [
    "absolute", "adam", "add", "add_into", "add_product", "add_rows", "addresses", "affine", "arange", "arena",
    "argmax", "as_array", "attention", "attention_vjp", "bias_dropout_add", "biased_gelu", "biased_gelu_vjp_into",
    "broadcast_to", "cast", "computed_by", "concatenate", "contiguous", "copy", "copy_into", "copy_scaled",
    "cumsum", "device", "dtype", "empty", "empty_shared", "exp", "exp_rows", "exp_sum", "fill", "from_bytes",
    "from_dlpack", "from_host", "full", "gelu", "gelu_vjp", "is_floating", "item", "keep_mask", "layer_norm",
    "layer_norm_vjp", "log", "matmul", "max", "maximum", "minimum", "name", "normal", "pick", "put_rows",
    "rms_norm", "rms_norm_vjp", "rotary", "scale_into", "sgd", "sigmoid", "softmax", "softmax_minus_hot",
    "softmax_vjp", "sqrt", "square_sum", "subtract_at", "sum", "swiglu", "swiglu_vjp", "take_rows", "tanh", "text",
    "to_dlpack", "to_host", "uniform", "use", "where", "widen", "wire", "zeros",
]  # fmt: skip
