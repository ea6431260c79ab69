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
    normal,
    ops,
    repeat_interleave,
    rms_norm,
    rotary,
    self_attention,
    stack,
    swiglu,
    tensor,
    uniform,
    where,
)
from mpipar.backend import DType
from mpipar.nn import vocab_parallel_cross_entropy, vocab_parallel_linear_cross_entropy
from mpipar.random import Noise
from mpipar.tensor.apply import apply

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
    dtype: DType = "int64"

    def make(self, name: str, mesh: Mesh, dtype: DType) -> Tensor:
        return tensor(self.values, mesh, name=name, dtype=self.dtype)


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

PICKS = Integers([[4, 0, 4], [1, 3, 2]])  # an index along a dim of 5, for the columns of (5, 3)

YES = Integers([[1, 0, 1], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 0]], dtype="uint8")
NO = Integers([[0, 0, 1], [1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 1]], dtype="uint8")


def masked(mask: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What a boolean has no gradient for, as a factor of something that has one."""
    return lambda x, *others: x * mask(x, *others).astype(x.dtype)


def truth(c: Tensor) -> Tensor:
    """A boolean with the name of the bytes that it comes from, and as cheap to move, for a message to name it by."""
    found = c != 0
    found.name = c.name
    return found


def chosen(logic: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What a boolean has no gradient for, as a choice."""

    def choose(c: Tensor, x: Tensor, *others: Tensor) -> Tensor:
        mask = logic(truth(c), *map(truth, others))
        mask.name = c.name
        return where(mask, x, 0)

    return choose


def placed(index: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x: x.sum(1) * index(x).astype(x.dtype)


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
    "abs": Case(abs, X),
    "clip": Case(lambda x: x.clip(-0.5, 0.7), X),
    "clip from below": Case(lambda x: maximum(x, 0.2), X),
    "clip from above": Case(lambda x: minimum(x, 0.2), X),
    "clone": Case(lambda x: x.clone(), X),
    "cube": Case(lambda x: x**3, X),
    "first power": Case(lambda x: x**1, X),
    "square by power": Case(lambda x: x**2, X),
    "fourth power": Case(lambda x: x**4, X),
    "power": Case(lambda x: x**2.5, POSITIVE),
    "power below 0": Case(lambda x: x**-2, POSITIVE),
    "power of 0": Case(lambda x: x**0 * x, X),
}
CHOICES = {
    "less": Case(masked(lambda x, y: x < y), XY),
    "less than a row": Case(masked(lambda x, y: x <= y), numbers((5, 3), (3,))),
    "greater": Case(masked(lambda x, y: x > y), XY),
    "greater or equal": Case(masked(lambda x, y: x >= y), XY),
    "equal": Case(masked(lambda x, y: x == y), XY),
    "not equal": Case(masked(lambda x, y: x != y), XY),
    "less than a number": Case(masked(lambda x: x < 0.1), X),
    "at most a number": Case(masked(lambda x: x <= 0.1), X),
    "greater than a number": Case(masked(lambda x: x > 0.1), X),
    "at least a number": Case(masked(lambda x: x >= 0.1), X),
    "equal to a number": Case(masked(lambda x: x == 0), X),
    "other than a number": Case(masked(lambda x: x != 0), X),
    "and": Case(chosen(lambda c, d: c & d), (YES, *X, NO)),
    "or": Case(chosen(lambda c, d: c | d), (YES, *X, NO)),
    "either": Case(chosen(lambda c, d: c ^ d), (YES, *X, NO)),
    "not": Case(chosen(lambda c: ~c), (YES, *X)),
    "isnan": Case(masked(lambda x: ~x.isnan()), X),
    "isfinite": Case(masked(lambda x: x.isfinite()), X),
    "where": Case(lambda c, x, y: where(truth(c), x, y), (YES, *XY)),
    "where of a row and a column": Case(
        lambda c, x, y: where(truth(c), x, y), (Integers([1, 0, 1], 1, "uint8"), *numbers((5, 1), (3,)))
    ),
    "where or 0": Case(lambda c, x: where(truth(c), x, 0), (YES, *X)),
    "where or a number": Case(lambda c, x: where(truth(c), 2.5, x), (YES, *X)),
    "maximum": Case(maximum, XY),
    "minimum of a row": Case(minimum, numbers((5, 3), (3,))),
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
    "min": Case(lambda x: x.min(), X),
    "min of rows": Case(lambda x: x.min(0), X),
    "argmax": Case(placed(lambda x: x.argmax(1)), X),
    "argmin": Case(placed(lambda x: x.argmin(-1)), X),
    "var": Case(lambda x: x.var(), X),
    "var of columns": Case(lambda x: x.var(1, correction=1, keepdims=True), X),
    "logsumexp": Case(lambda x: x.logsumexp(), X),
    "logsumexp of columns": Case(lambda x: x.logsumexp(-1), X),
    "log softmax": Case(lambda x: x.log_softmax(), X),
    "cumsum": Case(lambda x: x.cumsum(0), X),
    "cumsum of columns": Case(lambda x: x.cumsum(-1), X),
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
    "einsum": Case(lambda x, w: einsum("btc,cf->btf", x, w), numbers((2, 5, 3), (3, 5))),
    "einsum of batches": Case(lambda x, y: einsum("abc,adc->bad", x, y), numbers((2, 3, 4), (2, 5, 4))),
    "einsum that sums alone": Case(lambda x, y: einsum("abc,cd -> db", x, y), numbers((2, 3, 4), (4, 5))),
    "einsum of rows": Case(lambda x, y: einsum("i,j->ij", x, y), numbers((5,), (3,))),
    "einsum to a number": Case(lambda x, y: einsum("ij,ij->", x, y), XY),
    "einsum of one": Case(lambda x: einsum("abc->ca", x), CUBE),
    "outer": Case(lambda x, y: x[:, None] * y, numbers((5,), (3,))),
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
    "slice backwards": Case(lambda x: x[::-1, 2:0:-1], X),
    "new dims": Case(lambda x: x[None, :, None], X),
    "squeeze": Case(lambda x: x.squeeze(1), numbers((5, 1, 3))),
    "unsqueeze": Case(lambda x: x.unsqueeze(-1), X),
    "flip": Case(lambda x: x.flip(0), X),
    "stack": Case(lambda x, y: stack([x, y], 1), XY),
    "expand": Case(lambda x: x.expand(4, -1, 3), numbers((5, 1))),
    "pad": Case(lambda x: x.pad(((0, 0), (1, 2))), X),
    "pad with a number": Case(lambda x: x.pad(((2, 0), (0, 0)), 1.5), X),
    "rows by index": Case(lambda x, ids: x[ids], (*X, PICKS)),
    "columns by index": Case(lambda x, ids: x[:, ids], (*X, Integers([[2, 0], [1, 2]]))),
    "gather": Case(lambda x, ids: x.gather(0, ids), (*X, PICKS)),
    "gather columns": Case(lambda x, ids: x.gather(-1, ids), (*X, Integers([[2, 0]] * 5))),
    "scatter": Case(lambda y, ids: apply(ops.scatter, y, ids, dim=0, length=5), (*numbers((2, 3)), PICKS)),
    "scatter columns": Case(
        lambda y, ids: apply(ops.scatter, y, ids, dim=1, length=3), (*numbers((5, 2)), Integers([[2, 0]] * 5))
    ),
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
    "self-attention": Case(lambda qkv: self_attention(qkv, causal=True), numbers((2, 4, 3, 3, 2))),
    "self-attention, all keys": Case(
        lambda qkv: self_attention(qkv, causal=False, scale=2.0), numbers((1, 3, 3, 5, 2))
    ),
    "cross-entropy": Case(vocab_parallel_cross_entropy, (Numbers((2, 5, 7)), TARGETS)),
    "head and cross-entropy": Case(
        vocab_parallel_linear_cross_entropy, (Numbers((2, 5, 3)), Numbers((3, 7)), TARGETS)
    ),
    "tied head and cross-entropy": Case(
        lambda x, w, t: vocab_parallel_linear_cross_entropy(x, w, t, transposed=True),
        (Numbers((2, 5, 3)), Numbers((7, 3)), TARGETS),
    ),
    "bias, residual": Case(bias_dropout_add, numbers((2, 5, 3), (3,), (2, 5, 3))),
    "bias, dropout, residual": Case(
        lambda x, bias, residual: bias_dropout_add(x, bias, residual, 0.4, Noise(1, 2, 3), "here"),
        numbers((2, 5, 3), (3,), (2, 5, 3)),
    ),
    "dropout, residual": Case(
        lambda x, residual: bias_dropout_add(x, None, residual, 0.4, Noise(1, 2, 3), "here"),
        numbers((2, 5, 3), (2, 5, 3)),
    ),
    "biased GELU": Case(biased_gelu, numbers((2, 5, 3), (3,))),
    "feed-forward": Case(feed_forward, numbers((5, 3), (3, 7), (7,), (7, 4))),
    "product and bias": Case(lambda x, w, b: x.contract(w, bias=b), numbers((2, 5, 3), (3, 2, 4), (2, 4))),
    "product of two dims and bias": Case(
        lambda x, w, b: x.contract(w, 2, bias=b), numbers((5, 3, 2), (3, 2, 4), (4,))
    ),
    "product with a transposed weight and bias": Case(
        lambda x, w, b: x.contract(w, transposed=True, bias=b), numbers((5, 3), (4, 3), (4,))
    ),
}  # fmt: skip

CASES = {**ELEMENTWISE, **CHOICES, **ARITHMETIC, **REDUCTIONS, **PRODUCTS, **SHAPES, **NETWORK}
