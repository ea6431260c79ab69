"""A stand-in for CuPy where there is no card: NumPy behind arrays that are as strict as a card's, and stricter.

``PYTHONPATH=tests/standin MPIPAR_TEST_DEVICE=gpu python -m pytest`` runs the suite on `mpipar.backend.cupy` with it. It
has the functions that the backend uses and no others, each with no more arguments than CuPy's own
(`tests/gpu/compare.py` holds it against an installed CuPy). An array never becomes NumPy's but by `asnumpy`, `get`
and `item`; copies that do not block are made when the stream is waited for.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from cupy import cuda

__version__ = "14.0.0+standin"
inf = np.inf
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SCALARS = (bool, int, float, np.generic)


def refused(what: str) -> Callable[..., Any]:
    def refuse(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{what} of a cupy.ndarray: a card would be waited for, or CuPy refuses it")

    return refuse


def binary(function: Callable[[Any, Any], Any]) -> Callable[[ndarray, Any], ndarray]:
    return lambda self, other: ndarray(function(self._host, operand(other)))


def reflected(function: Callable[[Any, Any], Any]) -> Callable[[ndarray, Any], ndarray]:
    return lambda self, other: ndarray(function(operand(other), self._host))


def in_place(function: Callable[[Any, Any], Any]) -> Callable[[ndarray, Any], ndarray]:
    def update(self: ndarray, other: Any) -> ndarray:
        function(self._host, operand(other))
        return self

    return update


class ndarray:
    """An array of the card. `_memory` is what it takes of the card, shared by its views."""

    __slots__ = ("__weakref__", "_host", "_memory")

    def __init__(self, host: Any, memory: Any = None) -> None:
        self._host = np.asarray(host)
        self._memory = cuda.allocate(self._host.nbytes) if memory is None else memory

    shape = property(lambda self: self._host.shape)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    dtype = property(lambda self: self._host.dtype)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: self._view(self._host.T))

    def _view(self, host: Any) -> ndarray:
        return ndarray(host, self._memory if np.shares_memory(host, self._host) else None)

    def reshape(self, *shape: Any) -> ndarray:
        return self._view(self._host.reshape(*shape))

    def transpose(self, *axes: Any) -> ndarray:
        return self._view(self._host.transpose(*axes))

    def swapaxes(self, axis1: int, axis2: int) -> ndarray:
        return self._view(self._host.swapaxes(axis1, axis2))

    def view(self, dtype: Any) -> ndarray:
        return self._view(self._host.view(dtype))

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        if not copy and self.dtype == dtype:
            return self
        return ndarray(self._host.astype(dtype))

    def copy(self, order: str = "C") -> ndarray:
        return ndarray(self._host.copy(order))

    def fill(self, value: Any) -> None:
        self._host.fill(operand(value))

    def item(self) -> Any:
        return self._host.item()

    def get(self, *, out: Any, blocking: bool = True) -> Any:
        if (out.shape, out.dtype) != (self.shape, self.dtype) or not out.flags.c_contiguous:
            raise ValueError("get: out must be a contiguous NumPy array of this shape and dtype")
        cuda.stream.look_at_sent()  # the copies to the card that were asked for before come before
        if blocking:
            cuda.stream.synchronize()
            np.copyto(out, self._host)
        else:
            now = self._host.copy()
            out.view(np.uint8).fill(0xA5)
            cuda.stream.copies.append(lambda: np.copyto(out, now))
        return out

    def set(self, arr: Any) -> None:
        if not isinstance(arr, np.ndarray) or (arr.shape, arr.dtype) != (self.shape, self.dtype):
            raise TypeError("set: a NumPy array of this shape and dtype is wanted")
        self._host[...] = arr
        cuda.stream.sent.append((arr, arr.copy()))

    def __len__(self) -> int:
        return len(self._host)

    def __getitem__(self, key: Any) -> ndarray:
        return self._view(self._host[places(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[places(key)] = operand(value)

    __add__, __radd__, __iadd__ = binary(operator.add), reflected(operator.add), in_place(operator.iadd)
    __sub__, __rsub__, __isub__ = binary(operator.sub), reflected(operator.sub), in_place(operator.isub)
    __mul__, __rmul__, __imul__ = binary(operator.mul), reflected(operator.mul), in_place(operator.imul)
    __truediv__, __rtruediv__ = binary(operator.truediv), reflected(operator.truediv)
    __itruediv__, __matmul__ = in_place(operator.itruediv), binary(operator.matmul)
    __floordiv__, __mod__ = binary(operator.floordiv), binary(operator.mod)
    __pow__ = binary(operator.pow)
    __rshift__, __lshift__ = binary(operator.rshift), binary(operator.lshift)
    __and__, __or__, __xor__ = binary(operator.and_), binary(operator.or_), binary(operator.xor)
    __ixor__ = in_place(operator.ixor)
    __lt__, __le__, __eq__ = binary(operator.lt), binary(operator.le), binary(operator.eq)  # type: ignore[assignment]
    __gt__, __ge__, __ne__ = binary(operator.gt), binary(operator.ge), binary(operator.ne)  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, stream: Any = None, **asked: Any) -> Any:
        """MPI takes the pointer so, and names a stream. It is the host's: only where STANDIN_AWARE=1 may it."""
        if stream is not None and not cuda.number("AWARE", 0):
            raise TypeError("this MPI would read memory of the card as the host's")
        if stream is not None and cuda.stream.copies:
            raise AssertionError("a copy to the host has not been waited for")
        from mpipar.backend.numpy import exchange  # noqa: PLC0415  (compare.py needs no mpipar)

        return exchange.to_dlpack(self._host, **asked)

    def __neg__(self) -> ndarray:
        return ndarray(-self._host)

    def __invert__(self) -> ndarray:
        return ndarray(~self._host)

    __array_ufunc__ = None
    __array__, __array_function__ = refused("np.array"), refused("a NumPy function")
    __array_interface__ = property(refused("np.array"))
    __reduce_ex__ = refused("pickling")
    __float__, __int__, __complex__ = refused("float()"), refused("int()"), refused("complex()")
    __bool__, __index__, __iter__ = refused("bool()"), refused("use as an index"), refused("iteration")


def operand(value: Any) -> Any:
    """What may stand beside an array: another, a Python number, a NumPy scalar. Never a host array."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, SCALARS):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def places(key: Any) -> Any:
    """Whole numbers, slices, None, and arrays of whole numbers; a mask would be counted on the host."""
    parts = key if isinstance(key, tuple) else (key,)
    hosts = tuple(part._host if isinstance(part, ndarray) else part for part in parts)
    for part in hosts:
        if isinstance(part, (np.ndarray, list)) and np.asarray(part).dtype.kind not in "iu":
            raise TypeError("indexing by a mask waits for the card")
    if any(isinstance(part, (np.ndarray, list)) for part in parts):
        raise TypeError("an index of the host")
    return hosts if isinstance(key, tuple) else hosts[0]


def computed(x: Any) -> Any:
    """The numbers of an array that is no bfloat16: CuPy has few functions for those."""
    if not isinstance(x, ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if x.dtype == BFLOAT16:
        raise TypeError("widen bfloat16 before it is computed with")
    return x._host


# ---- element by element: CuPy's ufuncs ----------------------------------------------------------------------


def elementwise(function: Any) -> Callable[..., ndarray]:
    def call(*arguments: Any) -> ndarray:
        if not any(isinstance(x, ndarray) for x in arguments):
            raise TypeError(f"{function.__name__} of no array")
        return ndarray(function(*map(operand, arguments)))

    return call


exp, log, sqrt, tanh = elementwise(np.exp), elementwise(np.log), elementwise(np.sqrt), elementwise(np.tanh)
cos, sin, square, absolute = (
    elementwise(np.cos),
    elementwise(np.sin),
    elementwise(np.square),
    elementwise(np.absolute),
)
power, maximum, minimum = elementwise(np.power), elementwise(np.maximum), elementwise(np.minimum)


def matmul(x1: Any, x2: Any, /, out: Any = None) -> ndarray:
    return ndarray(np.matmul(computed(x1), computed(x2), None if out is None else computed(out)))


# ---- functions, with CuPy's names of arguments --------------------------------------------------------------


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """Filled with what no test takes for a number."""
    memory = cuda.allocate(
        math.prod(shape if isinstance(shape, tuple) else (shape,)) * np.dtype(dtype).itemsize
    )
    made = np.empty(shape, dtype)
    made.reshape(-1).view(np.uint8).fill(0xA5)
    return ndarray(made, memory)


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    return ndarray(np.zeros(shape, dtype))


def full(shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
    return ndarray(np.full(shape, operand(fill_value), dtype))


def arange(start: int, stop: int | None = None, step: int = 1, dtype: Any = None) -> ndarray:
    return ndarray(np.arange(start, stop, step, dtype))


def asarray(a: Any, dtype: Any = None) -> ndarray:
    if isinstance(a, ndarray):
        return a
    if not a.dtype.isnative:
        raise ValueError(f"Unsupported dtype {a.dtype.str}")
    return ndarray(np.array(a, dtype))


def asnumpy(a: ndarray) -> Any:
    if not isinstance(a, ndarray):
        raise TypeError(f"asnumpy of {type(a)}")
    return a._host.copy(order="C")


def broadcast_to(array: ndarray, shape: Any) -> ndarray:
    return array._view(np.broadcast_to(array._host, shape))


def concatenate(tup: Sequence[ndarray], axis: int = 0) -> ndarray:
    return ndarray(np.concatenate([operand(x) for x in tup], axis))


def where(condition: ndarray, x: Any, y: Any) -> ndarray:
    return ndarray(np.where(condition._host, operand(x), operand(y)))


def clip(a: ndarray, a_min: Any, a_max: Any) -> ndarray:
    return ndarray(np.clip(computed(a), operand(a_min), operand(a_max)))


def sum(a: ndarray, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> ndarray:
    return ndarray(np.sum(computed(a), axis, dtype, keepdims=keepdims))


def mean(a: ndarray, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> ndarray:
    return ndarray(np.mean(computed(a), axis, dtype, keepdims=keepdims))


def max(a: ndarray, axis: Any = None, keepdims: bool = False) -> ndarray:
    if a.size == 0:
        raise ValueError("zero-size array to reduction operation cupy_max which has no identity")
    return ndarray(np.max(computed(a), axis, keepdims=keepdims))


def argmax(a: ndarray, axis: Any = None) -> ndarray:
    return ndarray(np.argmax(computed(a), axis))


def cumsum(a: ndarray, axis: Any = None) -> ndarray:
    return ndarray(np.cumsum(computed(a), axis))


def from_dlpack(array: Any) -> ndarray:
    from mpipar.backend.numpy import exchange  # noqa: PLC0415

    on_host = SimpleNamespace(__dlpack__=array.__dlpack__, __dlpack_device__=lambda: (1, 0))
    return ndarray(exchange.from_dlpack(on_host))


def argsort(a: ndarray, axis: int = -1) -> ndarray:
    return ndarray(np.argsort(computed(a), axis, kind="stable"))


def searchsorted(a: ndarray, v: ndarray, side: Any = "left") -> ndarray:
    return ndarray(np.searchsorted(computed(a), computed(v), side))


def get_default_memory_pool() -> Any:
    return cuda.pool
