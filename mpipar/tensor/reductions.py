"""Over dims: sums, which a cut leaves Partial, and all that wants its dims whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from mpipar import ops
from mpipar.ops.base import Op, normalized, normalized_dims
from mpipar.tensor.apply import apply

if TYPE_CHECKING:
    from mpipar.tensor.tensor import Tensor

Dims: TypeAlias = int | Sequence[int] | None  # None: all of them


def sum_(x: Tensor, dim: Dims = None, *, keepdims: bool = False) -> Tensor:
    """Partial on the axes that cut a summed dim."""
    return _reduced(ops.sum_, x, dim, keepdims)


def mean(x: Tensor, dim: Dims = None, *, keepdims: bool = False) -> Tensor:
    """The sum divided by the global size; Partial on the axes that cut a dim."""
    return _reduced(ops.mean, x, dim, keepdims)


def max_(x: Tensor, dim: Dims = None, *, keepdims: bool = False) -> Tensor:
    """The dims must be whole. Elements that tie share the gradient."""
    return _reduced(ops.max_, x, dim, keepdims)


def min_(x: Tensor, dim: Dims = None, *, keepdims: bool = False) -> Tensor:
    """The dims must be whole. Elements that tie share the gradient."""
    return _reduced(ops.min_, x, dim, keepdims)


def any_(x: Tensor, dim: Dims = None, *, keepdims: bool = False) -> Tensor:
    """Whether one is true, of a boolean Tensor; the dims must be whole."""
    return _reduced(ops.max_, _boolean(x, "any"), dim, keepdims)


def all_(x: Tensor, dim: Dims = None, *, keepdims: bool = False) -> Tensor:
    """Whether all are true, of a boolean Tensor; the dims must be whole."""
    return _reduced(ops.min_, _boolean(x, "all"), dim, keepdims)


def var(x: Tensor, dim: Dims = None, *, correction: float = 0, keepdims: bool = False) -> Tensor:
    """Σ (x - mean)² / (n - correction): 1 gives the unbiased estimate. The dims must be whole."""
    dims = normalized_dims(dim, x.ndim)
    return apply(ops.var, _floating(x, "var"), dims=dims, keepdims=keepdims, correction=correction)


def logsumexp(x: Tensor, dim: Dims = None, *, keepdims: bool = False) -> Tensor:
    """log Σ exp(x), with no overflow. The dims must be whole."""
    return _reduced(ops.logsumexp, _floating(x, "logsumexp"), dim, keepdims)


def argmax(x: Tensor, dim: int, *, keepdims: bool = False) -> Tensor:
    """int64 indices of the largest along a whole dim, the first of those that tie. No gradient."""
    return _place(ops.argmax, x, dim, keepdims)


def argmin(x: Tensor, dim: int, *, keepdims: bool = False) -> Tensor:
    """int64 indices of the smallest along a whole dim, the first of those that tie. No gradient."""
    return _place(ops.argmin, x, dim, keepdims)


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """The dim must be whole."""
    return apply(ops.softmax, x, dim=normalized(dim, x.ndim))


def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """x - logsumexp(x). The dim must be whole."""
    return apply(ops.log_softmax, _floating(x, "log_softmax"), dim=normalized(dim, x.ndim))


def cumsum(x: Tensor, dim: int) -> Tensor:
    """The sum of the elements up to each along a whole dim."""
    return apply(ops.cumsum, x, dim=normalized(dim, x.ndim))


def _reduced(op: Op, x: Tensor, dim: Dims, keepdims: bool) -> Tensor:
    return apply(op, x, dims=normalized_dims(dim, x.ndim), keepdims=keepdims)


def _place(op: Op, x: Tensor, dim: int, keepdims: bool) -> Tensor:
    if not isinstance(dim, int):
        raise TypeError(
            f"{op.name}: dim={dim!r}; one dim is wanted, for all of them write  x.reshape(-1).{op.name}(0)"
        )
    dim = normalized(dim, x.ndim)
    found = apply(op, x, dim=dim)
    return found[(*(slice(None),) * dim, None)] if keepdims else found


def _boolean(x: Tensor, name: str) -> Tensor:
    if str(x.dtype) != "bool":
        raise TypeError(f"{name} of {x.layout} {x.dtype}: compare first, as  (x != 0).{name}()")
    return x


def _floating(x: Tensor, name: str) -> Tensor:
    if not x.is_floating:
        raise TypeError(f'{name} of {x.layout} {x.dtype}: write  x.astype("float32").{name}(…)')
    return x
