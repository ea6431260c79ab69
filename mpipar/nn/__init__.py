"""Modules and parallel layers. With axes of size 1 they are the serial layers."""

from __future__ import annotations

from mpipar.nn.attention import ParallelGroupedAttention, ParallelSelfAttention
from mpipar.nn.dropout import Dropout
from mpipar.nn.embedding import LearnedPositions, VocabParallelEmbedding
from mpipar.nn.head import vocab_parallel_linear_cross_entropy
from mpipar.nn.linear import ColumnParallelLinear, Linear, RowParallelLinear
from mpipar.nn.loss import vocab_parallel_cross_entropy
from mpipar.nn.mlp import ParallelMLP, ParallelSwiGLU
from mpipar.nn.module import Module, weight_rows
from mpipar.nn.norm import LayerNorm, RMSNorm
from mpipar.nn.recompute import checkpoint

__all__ = [
    "ColumnParallelLinear", "Dropout", "LayerNorm", "LearnedPositions", "Linear", "Module",
    "ParallelGroupedAttention", "ParallelMLP", "ParallelSelfAttention", "ParallelSwiGLU", "RMSNorm",
    "RowParallelLinear", "VocabParallelEmbedding", "checkpoint", "vocab_parallel_cross_entropy",
    "vocab_parallel_linear_cross_entropy", "weight_rows",
]  # fmt: skip
