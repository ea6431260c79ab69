"""Embedding with the vocabulary cut over an axis, the output head tied to it, and learned positions."""

from __future__ import annotations

from mpipar.backend import DType
from mpipar.layout import Shard
from mpipar.mesh import Mesh
from mpipar.nn.head import vocab_parallel_linear_cross_entropy
from mpipar.nn.linear import reduced
from mpipar.nn.module import Module
from mpipar.tensor import Tensor, embedding, parameter


class VocabParallelEmbedding(Module):
    """A (vocabulary, width) table cut by rows over `axis`: ids (…) → (…, width).

    Each rank looks up the ids that it has, the Partial sum is moved by allreduce, or by reduce_scatter along
    `scatter` (sequence parallelism). The vocabulary need not divide.
    Ids may be on a part of the mesh of the table: so the first and the last stage of a pipeline share one.
    """

    def __init__(
        self, name: str, vocabulary: int, width: int, mesh: Mesh, *, axis: str = "tp", scatter: int | None = None,
        std: float = 0.02, seed: int = 0, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        self.axis, self.scatter = axis, scatter
        self.weight = parameter(
            f"{name}.weight", (vocabulary, width), mesh, std=std, seed=seed, dtype=dtype, **{axis: Shard(0)}
        )

    def __call__(self, ids: Tensor) -> Tensor:
        return reduced(embedding(self.weight.at(ids.mesh), ids), self.axis, self.scatter)

    def logits(self, x: Tensor) -> Tensor:
        """The tied head: (…, width), whole on the axis → (…, vocabulary), sharded over it. No communication."""
        return x.contract(self.weight.at(x.mesh), transposed=True)

    def cross_entropy(self, x: Tensor, targets: Tensor) -> Tensor:
        """The sum of -log softmax(logits(x))[target] over all rows, in less memory (head.py): (…, width), (…) → ()."""
        weight = self.weight.at(x.mesh)
        return vocab_parallel_linear_cross_entropy(x, weight, targets, transposed=True, axis=self.axis)


class LearnedPositions(Module):
    """Adds a vector for each position: (B, T, C) → (B, T, C), T at most `context`. With `axis` T is cut over it."""

    def __init__(
        self, name: str, context: int, width: int, mesh: Mesh, *, axis: str | None = None, std: float = 0.02,
        seed: int = 0, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        self.axis = axis
        self.weight = parameter(f"{name}.weight", (context, width), mesh, std=std, seed=seed, dtype=dtype)

    def __call__(self, x: Tensor) -> Tensor:
        positions = self.weight[: x.shape[1]]  # (T, C)
        if self.axis is not None:  # local: each rank takes its positions
            positions = positions.redistribute(**{self.axis: Shard(0)})
        return x + positions
