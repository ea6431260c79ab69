"""mpipar trains neural networks over MPI: plain local arrays, explicit collectives, a placement on every axis.

Importing it never starts MPI; the first Mesh does.
"""

from __future__ import annotations

from mpipar import checkpoint
from mpipar.errors import CheckpointError, CommError, GraphError, LauncherError, PlacementError, UsageError
from mpipar.layout import Partial, Replicate, Shard
from mpipar.mesh import Mesh
from mpipar.tensor import (
    Tensor,
    arange,
    attention,
    bias_dropout_add,
    biased_gelu,
    concatenate,
    dropout,
    einsum,
    embedding,
    feed_forward,
    from_dlpack,
    from_local,
    full,
    layer_norm,
    maximum,
    minimum,
    no_grad,
    normal,
    ones,
    parameter,
    randn,
    receive,
    repeat_interleave,
    rms_norm,
    rotary,
    self_attention,
    stack,
    swiglu,
    tensor,
    to_dlpack,
    uniform,
    where,
    zeros,
)

__version__ = "0.1.0"

__all__ = [
    "CheckpointError", "CommError", "GraphError", "LauncherError", "Mesh", "Partial", "PlacementError", "Replicate",
    "Shard", "Tensor", "UsageError", "arange", "attention", "bias_dropout_add", "biased_gelu", "checkpoint",
    "concatenate", "dropout", "einsum", "embedding", "feed_forward", "from_dlpack", "from_local", "full",
    "layer_norm", "maximum", "minimum", "no_grad", "normal", "ones", "parameter", "randn", "receive",
    "repeat_interleave", "rms_norm", "rotary", "self_attention", "stack", "swiglu", "tensor", "to_dlpack",
    "uniform", "where", "zeros",
]  # fmt: skip
