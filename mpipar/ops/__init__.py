"""One entry an operation: forward and vjp on local arrays, and its layout rule. Knows no Tensor."""

from __future__ import annotations

from mpipar.ops.arithmetic import (
    add,
    add_number,
    divide,
    multiply,
    negative,
    power,
    reciprocal,
    scale,
    subtract,
)
from mpipar.ops.base import Context, Op, op
from mpipar.ops.compare import (
    at_least_number,
    at_most_number,
    clip,
    equal,
    equal_to_number,
    greater_than_number,
    isfinite,
    isnan,
    less,
    less_equal,
    less_than_number,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    maximum,
    minimum,
    not_equal,
    other_than_number,
    where,
)
from mpipar.ops.einsum import einsum
from mpipar.ops.elementwise import absolute, clone, exp, gelu, log, relu, sigmoid, silu, sqrt, square, tanh
from mpipar.ops.feed_forward import biased_gelu, feed_forward
from mpipar.ops.network import (
    attention,
    bias_dropout_add,
    dropout,
    embedding,
    layer_norm,
    rms_norm,
    rotary,
    self_attention,
    softmax,
    swiglu,
)
from mpipar.ops.product import affine, contract, matmul
from mpipar.ops.reduce import argmax, argmin, cumsum, log_softmax, logsumexp, max_, mean, min_, sum_, var
from mpipar.ops.select import gather, scatter, take
from mpipar.ops.shape import concatenate, expand, pad, permute, repeat_interleave, reshape, slice_, stack

__all__ = [
    "Context", "Op", "absolute", "add", "add_number", "affine", "argmax", "argmin", "at_least_number",
    "at_most_number", "attention", "bias_dropout_add", "biased_gelu", "clip", "clone", "concatenate", "contract",
    "cumsum", "divide", "dropout", "einsum", "embedding", "equal", "equal_to_number", "exp", "expand",
    "feed_forward", "gather", "gelu", "greater_than_number", "isfinite", "isnan", "layer_norm", "less",
    "less_equal", "less_than_number", "log", "log_softmax", "logical_and", "logical_not", "logical_or",
    "logical_xor", "logsumexp", "matmul", "max_", "maximum", "mean", "min_", "minimum", "multiply", "negative",
    "not_equal", "op", "other_than_number", "pad", "permute", "power", "reciprocal", "relu", "repeat_interleave",
    "reshape", "rms_norm", "rotary", "scale", "scatter", "self_attention", "sigmoid", "silu", "slice_", "softmax",
    "sqrt", "square", "stack", "subtract", "sum_", "swiglu", "take", "tanh", "var", "where",
]  # fmt: skip
