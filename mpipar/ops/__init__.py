"""One entry an operation: forward and vjp on local arrays, and its layout rule. Knows no Tensor."""

from __future__ import annotations

from mpipar.ops.arithmetic import add, add_number, divide, multiply, negative, reciprocal, scale, subtract
from mpipar.ops.base import Context, Op, op
from mpipar.ops.elementwise import exp, gelu, log, relu, sigmoid, silu, sqrt, square, tanh
from mpipar.ops.network import attention, dropout, embedding, layer_norm, rms_norm, rotary, softmax, swiglu
from mpipar.ops.product import contract, matmul
from mpipar.ops.reduce import max_, mean, sum_
from mpipar.ops.shape import concatenate, permute, repeat_interleave, reshape, slice_

__all__ = [
    "Context", "Op", "add", "add_number", "attention", "concatenate", "contract", "divide", "dropout", "embedding",
    "exp", "gelu", "layer_norm", "log", "matmul", "max_", "mean", "multiply", "negative", "op", "permute",
    "reciprocal", "relu", "repeat_interleave", "reshape", "rms_norm", "rotary", "scale", "sigmoid", "silu", "slice_",
    "softmax", "sqrt", "square", "subtract", "sum_", "swiglu", "tanh",
]  # fmt: skip
