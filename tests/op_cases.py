"""An example of every operation, on shapes that ranks do not divide: what the laws of operations run.

`tests/ops/test_table.py` fails where an operation has no example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpipar import (
    Mesh,
    Tensor,
    attention,
    concatenate,
    dropout,
    embedding,
    layer_norm,
    normal,
    repeat_interleave,
    rms_norm,
    rotary,
    swiglu,
    tensor,
    uniform,
)
from mpipar.backend import DType
from mpipar.nn import vocab_parallel_cross_entropy
from mpipar.random import Noise

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Numbers:
    """An input: normal numbers, or `low` to `high` where the function wants that."""

    shape: Shape
    low: float | None = None
    high: float = 2.0

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def make(self, name: str, mesh: Mesh, dtype: DType) -> Tensor:
        if self.low is None:
            return normal(name, self.shape, mesh, dtype=dtype)
        return uniform(name, self.shape, mesh, low=self.low, high=self.high, dtype=dtype)


@dataclass(frozen=True)
class Integers:
    """An input of whole numbers, a list of lists."""

    values: Any
    ndim: int = 2

    def make(self, name: str, mesh: Mesh, dtype: DType) -> Tensor:
        return tensor(self.values, mesh, name=name, dtype="int64")


@dataclass(frozen=True)
class Case:
    """A function of Tensors, and inputs for it."""

    f: Callable[..., Tensor]
    inputs: tuple[Numbers | Integers, ...]

    def make(self, mesh: Mesh, dtype: DType = "float64") -> list[Tensor]:
        """The inputs x0, x1, … on a mesh, whole."""
        return [given.make(f"x{k}", mesh, dtype) for k, given in enumerate(self.inputs)]


def numbers(*shapes: Shape) -> tuple[Numbers, ...]:
    return tuple(map(Numbers, shapes))


X, XY = numbers((5, 3)), numbers((5, 3), (5, 3))
POSITIVE = (Numbers((5, 3), 0.5),)
CUBE = numbers((5, 3, 2))
IDS = Integers([[3, 0, 6, 3, 1], [2, 2, 5, 0, 3]])
TARGETS = Integers([[3, 0, 6, -1, 1], [2, 2, 5, 0, -1]])
QKV = numbers((2, 5, 3, 2), (2, 5, 3, 2), (2, 5, 3, 2))

ELEMENTWISE = {
    "exp": Case(lambda x: x.exp(), X),
    "log": Case(lambda x: x.log(), POSITIVE),
    "sqrt": Case(lambda x: x.sqrt(), POSITIVE),
    "square": Case(lambda x: x.square(), X),
    "tanh": Case(lambda x: x.tanh(), X),
    "sigmoid": Case(lambda x: x.sigmoid(), X),
    "relu": Case(lambda x: x.relu(), X),
    "gelu": Case(lambda x: x.gelu(), X),
    "silu": Case(lambda x: x.silu(), X),
}
ARITHMETIC = {
    "add": Case(lambda x, y: x + y, XY),
    "add a row": Case(lambda x, y: x + y, numbers((5, 3), (3,))),
    "add a column": Case(lambda x, y: x + y, numbers((5, 1), (5, 3))),
    "add a number with a gradient": Case(lambda x, y: x + y, numbers((), (5, 3))),
    "add a row to a column": Case(lambda x, y: x + y, numbers((5, 1), (1, 3))),
    "add the same": Case(lambda x: x + x, X),
    "add a number": Case(lambda x: x + 1.5, X),
    "subtract": Case(lambda x, y: x - y, XY),
    "subtract a row": Case(lambda x, y: x - y, numbers((5, 3), (3,))),
    "subtract from a number": Case(lambda x: 1.5 - x, X),
    "subtract a number": Case(lambda x: x - 1.5, X),
    "multiply": Case(lambda x, y: x * y, XY),
    "multiply by a row": Case(lambda x, y: x * y, numbers((3,), (5, 3))),
    "multiply matrices of one": Case(lambda x, y: x * y, numbers((1, 1), (5, 3))),
    "multiply by itself": Case(lambda x: x * x, X),
    "divide": Case(lambda x, y: x / y, (*X, *POSITIVE)),
    "divide by a column": Case(lambda x, y: x / y, (*X, Numbers((5, 1), 0.5))),
    "divide a row": Case(lambda x, y: x / y, (*numbers((3,)), *POSITIVE)),
    "divide by a number": Case(lambda x: x / 4, X),
    "reciprocal": Case(lambda x: 3 / x, POSITIVE),
    "negative": Case(lambda x: -x, X),
    "scale": Case(lambda x: 2.5 * x, X),
}
REDUCTIONS = {
    "sum": Case(lambda x: x.sum(), X),
    "sum of rows": Case(lambda x: x.sum(0), X),
    "sum of two dims": Case(lambda x: x.sum((0, -1)), CUBE),
    "sum that keeps dims": Case(lambda x: x.sum(1, keepdims=True), X),
    "mean": Case(lambda x: x.mean(), X),
    "mean of columns": Case(lambda x: x.mean(1), X),
    "mean that keeps dims": Case(lambda x: x.mean((0, 2), keepdims=True), CUBE),
    "max": Case(lambda x: x.max(), X),
    "max of rows": Case(lambda x: x.max(0), X),
    "max that keeps dims": Case(lambda x: x.max(-1, keepdims=True), X),
}
PRODUCTS = {
    "contract": Case(lambda x, w: x @ w, numbers((5, 3), (3, 2))),
    "contract a batch": Case(lambda x, w: x @ w, numbers((2, 5, 3), (3, 5))),
    "contract two dims": Case(lambda x, w: x.contract(w, n=2), numbers((5, 3, 2), (3, 2, 4))),
    "contract to more dims": Case(lambda x, w: x.contract(w), numbers((5, 3), (3, 2, 5))),
    "contract to a number": Case(lambda x, w: x.contract(w), numbers((5,), (5,))),
    "contract transposed": Case(lambda x, w: x.contract(w, transposed=True), numbers((5, 3), (7, 3))),
    "contract two dims transposed": Case(
        lambda x, w: x.contract(w, n=2, transposed=True), numbers((5, 3, 2), (4, 3, 2))
    ),
    "matmul": Case(lambda x, y: x @ y, numbers((2, 5, 3), (2, 3, 2))),
    "matmul of one and a batch": Case(lambda x, y: x @ y, numbers((1, 5, 3), (2, 3, 2))),
    "matmul of a matrix and a batch": Case(lambda x, y: x @ y, numbers((5, 3), (2, 3, 2))),
}
SHAPES = {
    "reshape": Case(lambda x: x.reshape(5, 6), CUBE),
    "reshape to more dims": Case(lambda x: x.reshape(5, 3, -1), numbers((5, 6))),
    "reshape to rows": Case(lambda x: x.reshape(15, 2), CUBE),
    "reshape from rows": Case(lambda x: x.reshape(5, 3), numbers((15,))),
    "reshape with ones": Case(lambda x: x.reshape(1, 5, 1, 3), X),
    "permute": Case(lambda x: x.permute(2, 0, 1), CUBE),
    "transpose": Case(lambda x: x.transpose(0, -1), CUBE),
    "repeat": Case(lambda x: repeat_interleave(x, 3, 0), X),
    "repeat the last dim": Case(lambda x: repeat_interleave(x, 2, -1), CUBE),
    "slice": Case(lambda x: x[1:4], X),
    "slice by twos": Case(lambda x: x[::2, 1:], X),
    "slice at an index": Case(lambda x: x[..., -1], X),
    "slice to a number": Case(lambda x: x[2, 1], X),
    "slice of everything": Case(lambda x: x[:], X),
    "concatenate": Case(lambda x, y: concatenate([x, y]), numbers((5, 3), (2, 3))),
    "concatenate three": Case(lambda x, y, z: concatenate([x, y, z], -1), numbers((3, 1), (3, 2), (3, 1))),
    "split and concatenate": Case(lambda x: concatenate(x.split(2)[::-1]), X),
}
NETWORK = {
    "softmax": Case(lambda x: x.softmax(), X),
    "softmax of rows": Case(lambda x: x.softmax(0), CUBE),
    "layer norm": Case(layer_norm, numbers((2, 5, 3), (3,), (3,))),
    "RMS norm": Case(rms_norm, numbers((2, 5, 3), (3,))),
    "SwiGLU": Case(swiglu, numbers((3, 2, 5))),
    "rotary positions": Case(rotary, numbers((2, 5, 3, 4))),
    "rotary positions, another base": Case(lambda x: rotary(x, base=3.0), numbers((5, 3, 2))),
    "embedding": Case(embedding, (Numbers((7, 3)), IDS)),
    "attention": Case(lambda q, k, v: attention(q, k, v, causal=False), QKV),
    "causal attention": Case(lambda q, k, v: attention(q, k, v, causal=True), QKV),
    "attention to more keys": Case(
        lambda q, k, v: attention(q, k, v, causal=True, scale=2.0), numbers((2, 3, 3, 2), (2, 5, 3, 2), (2, 5, 3, 4))
    ),
    "attention to half as many heads": Case(
        lambda q, k, v: attention(q, k, v, causal=True), numbers((2, 3, 4, 2), (2, 5, 2, 2), (2, 5, 2, 3))
    ),
    "attention to one head": Case(
        lambda q, k, v: attention(q, k, v, causal=False), numbers((2, 3, 3, 2), (2, 5, 1, 2), (2, 5, 1, 2))
    ),
    "attention to pieces that do not fit": Case(  # 6 and 3 heads fit over 3 ranks alone
        lambda q, k, v: attention(q, k, v, causal=True), numbers((2, 3, 6, 2), (2, 3, 3, 2), (2, 3, 3, 2))
    ),
    "dropout": Case(lambda x: dropout(x, 0.4, Noise(1, 2, 3), "here"), X),
    "cross-entropy": Case(vocab_parallel_cross_entropy, (Numbers((2, 5, 7)), TARGETS)),
}  # fmt: skip

CASES = {**ELEMENTWISE, **ARITHMETIC, **REDUCTIONS, **PRODUCTS, **SHAPES, **NETWORK}
