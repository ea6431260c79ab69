"""Linear layers: whole, cut by columns, cut by rows. Shoeybi et al. 2019 (Megatron-LM), section 3."""

from __future__ import annotations

from collections.abc import Sequence

from mpipar.backend import DType
from mpipar.layout import Shard
from mpipar.mesh import Mesh
from mpipar.nn.head import vocab_parallel_linear_cross_entropy
from mpipar.nn.module import Module
from mpipar.nn.recompute import Function, product
from mpipar.tensor import Tensor, parameter, zeros


class Linear(Module):
    """y = x·W + b with a whole weight (inputs, outputs). (…, inputs) → (…, outputs)."""

    def __init__(
        self, name: str, inputs: int, outputs: int, mesh: Mesh, *, bias: bool = True, std: float | None = None,
        seed: int = 0, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        self.weight = parameter(f"{name}.weight", (inputs, outputs), mesh, std=std, seed=seed, dtype=dtype)
        self.bias = zero_bias(name, (outputs,), mesh, dtype) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        return x.contract(self.weight, bias=self.bias)


class ColumnParallelLinear(Module):
    """y = x·W + b with W cut by columns over `axis`: x whole there → y sharded in its last dim. No communication."""

    def __init__(
        self, name: str, inputs: int, outputs: int, mesh: Mesh, *, axis: str = "tp", bias: bool = True,
        std: float | None = None, seed: int = 0, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        self.axis = axis
        self.weight = parameter(
            f"{name}.weight", (inputs, outputs), mesh, std=std, seed=seed, dtype=dtype, **{axis: Shard(1)}
        )
        self.bias = zero_bias(name, (outputs,), mesh, dtype, **{axis: Shard(0)}) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        return x.contract(self.weight, bias=self.bias)

    def cross_entropy(self, x: Tensor, targets: Tensor) -> Tensor:
        """As a head: the sum of -log softmax(x·W)[target] over all rows (head.py): (…, inputs), (…) → ()."""
        assert self.bias is None, "a head has no bias"
        return vocab_parallel_linear_cross_entropy(x, self.weight, targets, axis=self.axis)


class RowParallelLinear(Module):
    """y = x·W + b with W cut by rows over `axis`: x sharded in its last dim → a Partial product, then the move.

    The move is allreduce; with `scatter` it is reduce_scatter along that dim (sequence parallelism). The bias
    is added after it.
    """

    def __init__(
        self, name: str, inputs: int, outputs: int, mesh: Mesh, *, axis: str = "tp", scatter: int | None = None,
        bias: bool = True, std: float | None = None, seed: int = 0, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        self.axis, self.scatter = axis, scatter
        self.weight = parameter(
            f"{name}.weight", (inputs, outputs), mesh, std=std, seed=seed, dtype=dtype, **{axis: Shard(0)}
        )
        self.bias = zero_bias(name, (outputs,), mesh, dtype) if bias else None

    def __call__(self, x: Tensor, before: Function | None = None, weights: Sequence[Tensor] = ()) -> Tensor:
        """Of ``before(x)`` where `before` is given, which is made again in backward and not kept; it uses `weights`."""
        y = self.unbiased(x, before, weights)
        return y if self.bias is None else y + self.bias

    def unbiased(self, x: Tensor, before: Function | None = None, weights: Sequence[Tensor] = ()) -> Tensor:
        """Without the bias, for who adds it together with what comes next."""
        return self.moved(product(x, self.weight, before, weights))

    def moved(self, y: Tensor) -> Tensor:
        """The product y after its move."""
        return reduced(y, self.axis, self.scatter)


def reduced(y: Tensor, axis: str, scatter: int | None) -> Tensor:
    """The move after a row-parallel product: allreduce, or reduce_scatter along a dim."""
    return y.allreduce(axis) if scatter is None else y.reduce_scatter(axis, dim=scatter)


def zero_bias(name: str, shape: tuple[int, ...], mesh: Mesh, dtype: DType, **placements: Shard) -> Tensor:
    """A bias that starts at 0."""
    return zeros(shape, mesh, dtype=dtype, requires_grad=True, name=f"{name}.bias", **placements)
