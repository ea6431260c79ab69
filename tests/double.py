"""A device that this machine lacks: arrays that refuse to become NumPy's in silence, and their backend.

`DoubleBackend` is used like any other: ``mp.Mesh(tp=2, device=DoubleBackend())``. It computes with the kernels of the
NumPy backend on arrays that it keeps to itself, so its numbers are the same bit for bit; everything
that crosses the border to the host is its own, and counted in `copies`. What passes here neither copies nor mixes host
and device on a GPU.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from types import EllipsisType
from typing import Any

import numpy as np

from mpipar.backend import DType, Shape
from mpipar.backend import numpy as cpu

NUMBERS = (bool, int, float)  # by exact type: np.float64 is a float that came from the host


def refused(what: str) -> Callable[..., Any]:
    def refuse(self: DeviceArray, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{what} of a DeviceArray would copy it in silence; write xp.to_host or xp.item")

    return refuse


def binary(function: Callable[[Any, Any], Any]) -> Callable[[DeviceArray, Any], DeviceArray]:
    return lambda self, other: DeviceArray(function(self._host, operand(other)))


def reflected(function: Callable[[Any, Any], Any]) -> Callable[[DeviceArray, Any], DeviceArray]:
    return lambda self, other: DeviceArray(function(operand(other), self._host))


def in_place(function: Callable[[Any, Any], Any]) -> Callable[[DeviceArray, Any], DeviceArray]:
    def update(self: DeviceArray, other: Any) -> DeviceArray:
        function(self._host, operand(other))
        return self

    return update


class DeviceArray:
    """What the contract says that arrays carry themselves (see `mpipar.backend.base`), and nothing else."""

    __slots__ = ("_host",)

    def __init__(self, host: Any) -> None:
        self._host = np.asarray(host)  # NumPy makes scalars of 0-d results; here they stay arrays

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype})"

    shape = property(lambda self: self._host.shape)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    dtype = property(lambda self: self._host.dtype)
    nbytes = property(lambda self: self._host.nbytes)
    __dlpack_device__ = property(lambda self: self._host.__dlpack_device__)
    T = property(lambda self: DeviceArray(self._host.T))

    def reshape(self, *shape: Any) -> DeviceArray:
        return DeviceArray(self._host.reshape(*shape))

    def transpose(self, *order: Any) -> DeviceArray:
        return DeviceArray(self._host.transpose(*order))

    def swapaxes(self, i: int, j: int) -> DeviceArray:
        return DeviceArray(self._host.swapaxes(i, j))

    def __getitem__(self, key: Any) -> DeviceArray:
        return DeviceArray(self._host[slices(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[slices(key)] = operand(value)

    __add__, __radd__, __iadd__ = binary(operator.add), reflected(operator.add), in_place(operator.iadd)
    __sub__, __rsub__, __isub__ = binary(operator.sub), reflected(operator.sub), in_place(operator.isub)
    __mul__, __rmul__, __imul__ = binary(operator.mul), reflected(operator.mul), in_place(operator.imul)
    __truediv__, __rtruediv__ = binary(operator.truediv), reflected(operator.truediv)
    __itruediv__, __matmul__ = in_place(operator.itruediv), binary(operator.matmul)
    __lt__, __le__, __eq__ = binary(operator.lt), binary(operator.le), binary(operator.eq)  # type: ignore[assignment]
    __gt__, __ge__, __ne__ = binary(operator.gt), binary(operator.ge), binary(operator.ne)  # type: ignore[assignment]
    __pow__, __and__ = binary(operator.pow), binary(operator.and_)
    __or__, __xor__ = binary(operator.or_), binary(operator.xor)
    __hash__ = None  # type: ignore[assignment]

    def __invert__(self) -> DeviceArray:
        return DeviceArray(~self._host)

    def __neg__(self) -> DeviceArray:
        return DeviceArray(-self._host)

    # every way by which NumPy or Python would take the numbers out without being told to
    __array_ufunc__ = None
    __array__, __array_function__ = refused("np.array"), refused("a NumPy function")
    __array_interface__, __array_struct__ = property(refused("np.array")), property(refused("np.array"))
    __buffer__, __dlpack__, __reduce_ex__ = refused("a buffer"), refused("DLPack"), refused("pickling")
    __float__, __int__, __complex__ = refused("float()"), refused("int()"), refused("complex()")
    __bool__, __index__ = refused("bool()"), refused("use as an index")
    __iter__, __len__, __contains__ = refused("iteration"), refused("len()"), refused("in")


def operand(value: Any) -> Any:
    """The private array of a DeviceArray, or a Python number; all else would be a host array on the device."""
    if isinstance(value, DeviceArray):
        return value._host
    if type(value) in NUMBERS:
        return value
    raise TypeError(f"a DeviceArray does not mix with {type(value).__name__}; write xp.from_host(…) first")


def slices(key: Any) -> Any:
    """A key of whole numbers, slices and ellipses: all that the contract promises."""
    for part in key if isinstance(key, tuple) else (key,):
        if type(part) not in (int, slice, EllipsisType):
            raise TypeError(f"a DeviceArray takes whole numbers and slices, not {type(part).__name__}")
    return key


def unwrapped(value: Any) -> Any:
    """An argument of a kernel: arrays alone or in a list. Raises TypeError on NumPy's own."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(unwrapped, value))
    if isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"a kernel of the device got {type(value).__name__}; write xp.from_host(…) first")
    return value._host if isinstance(value, DeviceArray) else value


def wrapped(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(map(wrapped, result))
    return DeviceArray(result) if isinstance(result, (np.ndarray, np.generic)) else result


def computed(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel of the NumPy backend, run on the private arrays."""

    def run(self: DoubleBackend, *args: Any, **kwargs: Any) -> Any:
        self.device.busy = True
        named = {name: unwrapped(value) for name, value in kwargs.items()}
        return wrapped(kernel(*map(unwrapped, args), **named))

    return run


class DeviceBytes:
    """The memory of an array as the device knows it: no MPI of the host reads it."""

    __slots__ = ("host",)

    def __init__(self, host: Any) -> None:
        self.host = host

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, key: slice) -> DeviceBytes:
        return DeviceBytes(self.host[key])

    def __setitem__(self, key: slice, value: DeviceBytes) -> None:
        self.host[key] = value.host

    __array__, __buffer__ = refused("np.array"), refused("a buffer")


class SharedMemory(np.ndarray):
    """The memory of an array as a GPU-aware MPI knows it. MPI can read it; a test can tell it from the host's."""


class DoubleDevice:
    """Its copies are made late, when it is waited for, as a stream's may be: what did not wait finds no numbers."""

    def __init__(self, copies: Counter[str], gpu_aware: bool) -> None:
        self.copies, self.gpu_aware = copies, gpu_aware
        self.asked: list[tuple[Any, Any]] = []  # host buffers, and what they will hold
        self.sent: list[tuple[Any, Any]] = []  # host buffers on their way to the device, and what they held
        self.busy = False  # whether anything was computed since somebody waited

    def synchronize(self) -> None:
        self.look_at_sent()
        self.busy, asked, self.asked = False, self.asked, []
        for host, numbers in asked:
            host[:] = numbers

    def look_at_sent(self) -> None:
        sent, self.sent = self.sent, []
        if any(host.tobytes() != before.tobytes() for host, before in sent):
            raise AssertionError("a host buffer was written to while it was being copied to the device")

    def host_buffer(self, size: int) -> Any:
        return np.full(size, 0xA5, np.uint8)

    def download(self, wire: DeviceBytes, host: Any) -> None:
        self.copies["download"] += 1
        self.look_at_sent()  # a copy that was asked for before comes before
        self.asked.append((host, wire.host.copy()))
        host[:] = 0xA5

    def upload(self, host: Any, wire: DeviceBytes) -> None:
        self.copies["upload"] += 1
        wire.host[:] = host
        self.sent.append((host, host.copy()))


class DoubleBackend:
    """The contract of `mpipar.backend.base.Backend`, name by name. `copies` counts what crossed the border, by name.

    With `gpu_aware`, MPI is taken to read the memory of the device.
    """

    name = "double"

    def __init__(self, gpu_aware: bool = False) -> None:
        self.copies: Counter[str] = Counter()
        self.device = DoubleDevice(self.copies, gpu_aware)

    def from_host(self, value: Any, dtype: DType | None = None) -> DeviceArray:
        self.copies["from_host"] += 1
        if isinstance(value, DeviceArray):
            raise TypeError("from_host of a DeviceArray: it is on the device already")
        wanted = None if dtype is None else self.dtype(dtype)
        return DeviceArray(np.array(value, wanted, copy=True, order="C"))

    def from_bytes(self, data: bytes, shape: Shape, dtype: str = "uint8") -> DeviceArray:
        self.copies["from_bytes"] += 1
        return DeviceArray(cpu.from_bytes(data, shape, dtype))

    def to_host(self, x: DeviceArray) -> Any:
        self.copies["to_host"] += 1
        return x._host.copy()

    def item(self, x: DeviceArray) -> Any:
        self.copies["item"] += 1
        (number,) = x._host.ravel().tolist()
        return number

    def text(self, x: DeviceArray) -> str:
        self.copies["text"] += 1
        return str(x._host)

    def wire(self, x: DeviceArray) -> Any:
        """The memory itself: no copy. Only of contiguous arrays."""
        if not x._host.flags.c_contiguous:
            raise TypeError("wire of an array that is not contiguous: MPI would write into a copy of it")
        flat = x._host.reshape(-1).view(np.uint8)
        return flat.view(SharedMemory) if self.device.gpu_aware else DeviceBytes(flat)

    def to_dlpack(self, x: DeviceArray, **asked: Any) -> Any:
        """Another library of the same device: no copy."""
        return cpu.to_dlpack(x._host, **asked)

    def from_dlpack(self, source: Any) -> DeviceArray:
        return DeviceArray(cpu.from_dlpack(source))

    def as_array(self, x: Any) -> DeviceArray:
        if not isinstance(x, DeviceArray):
            raise TypeError(f"as_array of {type(x).__name__}: this device returns no scalars")
        return x

    computed_by = staticmethod(cpu.computed_by)
    dtype, is_floating = computed(cpu.dtype), computed(cpu.is_floating)
    cast, widen, contiguous = computed(cpu.cast), computed(cpu.widen), computed(cpu.contiguous)
    arena = None
    empty, zeros, full = computed(cpu.empty), computed(cpu.zeros), computed(cpu.full)
    empty_shared = computed(cpu.empty)
    arange, copy = computed(cpu.arange), computed(cpu.copy)
    concatenate, broadcast_to = computed(cpu.concatenate), computed(cpu.broadcast_to)
    addresses, argmax, cumsum = computed(cpu.addresses), computed(cpu.argmax), computed(cpu.cumsum)
    add = computed(cpu.add)
    add_into, scale_into = computed(cpu.add_into), computed(cpu.scale_into)
    fill, copy_into = computed(cpu.fill), computed(cpu.copy_into)
    copy_scaled, add_rows = computed(cpu.copy_scaled), computed(cpu.add_rows)

    exp, log, sqrt, tanh = computed(cpu.exp), computed(cpu.log), computed(cpu.sqrt), computed(cpu.tanh)
    absolute, where = computed(cpu.absolute), computed(cpu.where)
    maximum, minimum = computed(cpu.maximum), computed(cpu.minimum)
    sum, max, square_sum = computed(cpu.sum), computed(cpu.max), computed(cpu.square_sum)
    matmul, sigmoid = computed(cpu.matmul), computed(cpu.sigmoid)
    affine, add_product = computed(cpu.affine), computed(cpu.add_product)
    gelu, gelu_vjp = computed(cpu.gelu), computed(cpu.gelu_vjp)
    biased_gelu, biased_gelu_vjp_into = computed(cpu.biased_gelu), computed(cpu.biased_gelu_vjp_into)
    bias_dropout_add = computed(cpu.bias_dropout_add)
    softmax, softmax_vjp = computed(cpu.softmax), computed(cpu.softmax_vjp)
    layer_norm, layer_norm_vjp = computed(cpu.layer_norm), computed(cpu.layer_norm_vjp)
    rms_norm, rms_norm_vjp = computed(cpu.rms_norm), computed(cpu.rms_norm_vjp)
    swiglu, swiglu_vjp, rotary = computed(cpu.swiglu), computed(cpu.swiglu_vjp), computed(cpu.rotary)
    take_rows, put_rows = computed(cpu.take_rows), computed(cpu.put_rows)
    attention, attention_vjp = computed(cpu.attention), computed(cpu.attention_vjp)
    exp_sum, pick = computed(cpu.exp_sum), computed(cpu.pick)
    exp_rows, subtract_at = computed(cpu.exp_rows), computed(cpu.subtract_at)
    softmax_minus_hot = computed(cpu.softmax_minus_hot)
    uniform, normal, keep_mask = computed(cpu.uniform), computed(cpu.normal), computed(cpu.keep_mask)
    sgd, adam = computed(cpu.sgd), computed(cpu.adam)
