"""The double of a device refuses every silent copy, counts every told one, and offers the contract and nothing more.

A failure means that the suite that runs on the double no longer proves what it says.
"""

from __future__ import annotations

import copy
import math
import operator
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from double import DeviceArray, DoubleBackend

from mpipar.backend import Backend
from mpipar.backend import numpy as cpu

pytestmark = pytest.mark.alone


@pytest.fixture
def xp() -> DoubleBackend:
    return DoubleBackend()


@pytest.fixture
def x(xp: DoubleBackend) -> DeviceArray:
    return xp.from_host([[1.0, 2.0], [3.0, 4.0]], "float32")


def names(of: object) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")} | {"name", "device", "arena"}


def test_the_double_and_the_numpy_backend_offer_the_contract_and_nothing_else(xp: DoubleBackend) -> None:
    contract = names(Backend)
    assert names(xp) - {"copies"} == contract
    assert set(cpu.__all__) == contract


HOST = np.ones((2, 2), np.float32)
REFUSALS: dict[str, Callable[[Any], Any]] = {
    "asarray": np.asarray,
    "array with a dtype": lambda x: np.array(x, np.float64),
    "list of them": lambda x: np.array([x, x]),
    "float": lambda x: float(x[0, 0]),
    "int": lambda x: int(x[0, 0]),
    "complex": lambda x: complex(x[0, 0]),
    "bool": lambda x: bool(x[0, 0]),
    "if": lambda x: 1 if x[0, 0] > 0 else 0,
    "index": lambda x: [1, 2][x[0, 0]],
    "math": lambda x: math.sqrt(x[0, 0]),
    "len": len,
    "iteration": list,
    "unpacking": lambda x: print(*x),
    "in": lambda x: 1.0 in x,
    "round": lambda x: round(x[0, 0]),
    "format": lambda x: f"{x[0, 0]:.2f}",
    "memoryview": memoryview,
    "pickle": pickle.dumps,
    "deepcopy": copy.deepcopy,
    "hash": hash,
    "ufunc": np.exp,
    "ufunc into": lambda x: np.add(HOST, 1, out=x),
    "function": np.sum,
    "shape function": np.transpose,
    "where": lambda x: np.where(x > 0, x, 0),
    "concatenate": lambda x: np.concatenate([x, x]),
    "array interface": lambda x: x.__array_interface__,
    "dlpack": np.from_dlpack,
    "host array on the left": lambda x: HOST + x,
    "host array on the right": lambda x: x * HOST,
    "host product": lambda x: HOST @ x,
    "host comparison": lambda x: x == HOST,
    "host scalar": lambda x: x * np.float64(2),
    "host scalar on the left": lambda x: np.float32(2) - x,
    "host update": lambda x: operator.iadd(x, HOST),
    "host array updated": lambda x: operator.iadd(HOST, x),
    "host assignment": lambda x: operator.setitem(x, slice(0, 1), HOST[:1]),
    "assignment to the host": lambda x: operator.setitem(HOST, slice(0, 1), x[:1]),
    "fancy index": lambda x: x[np.array([0])],
    "mask": lambda x: x[x > 0],
    "host index": lambda x: x[np.int64(0)],
    "index of the host": lambda x: HOST[x],
}


@pytest.mark.parametrize("take", REFUSALS.values(), ids=REFUSALS.keys())
def test_it_refuses(x: DeviceArray, take: Callable[[Any], Any]) -> None:
    with pytest.raises((TypeError, BufferError)):
        take(x)


def test_a_refusal_says_what_to_write(x: DeviceArray) -> None:
    with pytest.raises(TypeError, match=r"np\.array of a DeviceArray would copy .* write xp\.to_host"):
        np.asarray(x)
    with pytest.raises(TypeError, match=r"does not mix with ndarray; write xp\.from_host"):
        x + HOST


@pytest.mark.parametrize(
    "name", ["exp", "add_into", "matmul", "concatenate", "as_array", "wire", "from_host"]
)
def test_kernels_refuse_arrays_of_the_wrong_side(xp: DoubleBackend, x: DeviceArray, name: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "add_into": (x, HOST),
        "matmul": (HOST, x),
        "concatenate": ([x, HOST], 0),
        "from_host": (x,),
    }
    with pytest.raises((TypeError, AttributeError)):
        getattr(xp, name)(*arguments.get(name, (HOST,)))


def test_copies_are_counted_by_name(xp: DoubleBackend) -> None:
    x = xp.from_host([1, 2, 3])
    xp.from_bytes(b"abcd", (2, 2))
    xp.item(x[0])
    xp.item(x[1:2])
    xp.to_host(xp.cast(x, "float32") * 2 + 1)
    xp.text(x)
    assert xp.copies == {"from_host": 1, "from_bytes": 1, "item": 2, "to_host": 1, "text": 1}


def test_the_wire_is_the_memory_itself_and_no_copy(xp: DoubleBackend) -> None:
    x, ones = xp.zeros((2, 2), "int16"), xp.full((2,), 1, "int8")
    xp.wire(x)[2:4] = xp.wire(ones)
    assert xp.to_host(x).tolist() == [[0, 257], [0, 0]]
    assert set(xp.copies) == {"to_host"}
    with pytest.raises(TypeError):
        np.asarray(xp.wire(x))
    with pytest.raises((TypeError, BufferError)):
        memoryview(xp.wire(x))
    with pytest.raises(TypeError, match="not contiguous"):
        xp.wire(xp.zeros((2, 3), "int16").T)


def test_the_host_never_shares_its_memory(xp: DoubleBackend) -> None:
    mine = np.zeros(3)
    x = xp.from_host(mine)
    mine += 1
    xp.to_host(x)[:] = 2
    assert xp.to_host(x).tolist() == [0, 0, 0]


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "x + 1": lambda x: x + 1,
    "1 - x": lambda x: 1 - x,
    "x * 0.1": lambda x: x * 0.1,
    "x / x": lambda x: x / (x + 3),
    "2 / x": lambda x: 2 / x,
    "-x": lambda x: -x,
    "x @ x": lambda x: x @ x.swapaxes(0, 1),
    "x > 1": lambda x: x > 1,
    "x == x": lambda x: x == x.T.T,
    "x.T": lambda x: x.T,
    "slices": lambda x: x[..., 1:] * x[0],
    "one element": lambda x: x[0, 1] * 3,
    "reshape": lambda x: x.reshape(-1).reshape((2, 2)).transpose(1, 0).transpose((1, 0)),
    "in place": lambda x: operator.imul(operator.iadd(x * 1, x), 0.3),
    "quotient in place": lambda x: operator.itruediv(operator.isub(x * 1, 0.5), x),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("compute", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_operators_give_what_numpy_gives(
    xp: DoubleBackend, compute: Callable[[Any], Any], dtype: str
) -> None:
    host = np.array([[1.25, -2.5], [3.0, 0.5]], cpu.dtype(dtype))
    result, wanted = compute(xp.from_host(host)), np.asarray(compute(host.copy()))
    assert type(result) is DeviceArray
    assert (result.shape, result.dtype, result.ndim, result.size, result.nbytes) == (
        wanted.shape, wanted.dtype, wanted.ndim, wanted.size, wanted.nbytes,
    )  # fmt: skip
    assert xp.to_host(result).tobytes() == wanted.tobytes()


def test_updates_go_through_slices_and_return_the_array(xp: DoubleBackend) -> None:
    x = before = xp.zeros((2, 3), "float32")
    x[1:] = 1
    x[:, :1] = xp.full((2, 1), 5, "float32")
    x += 1
    part = x[0]
    part *= 2
    assert x is before
    assert xp.to_host(x).tolist() == [[12, 2, 2], [6, 2, 2]]
