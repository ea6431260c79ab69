"""Making, converting and reducing NumPy arrays: the border to the host, bfloat16 as storage, empty and 0-d arrays.

A failure of a bfloat16 test shows the bits: upper half of the float32, rounded to the nearest, ties to even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plain
import pytest
from under_test import raw, xp

RNG = np.random.default_rng(1)
DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int8", "bool"]
SHAPES: list[tuple[int, ...]] = [(), (0,), (5,), (2, 0, 3), (2, 3)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_to_the_host_and_back(dtype: str) -> None:
    for shape in SHAPES:
        host = np.asarray(RNG.integers(0, 2, shape)).astype(xp.dtype(dtype))
        mine = host.copy()
        x = raw.from_host(mine)
        back = raw.to_host(x)
        assert (x.shape, x.dtype) == (back.shape, back.dtype) == (shape, xp.dtype(dtype))
        mine[...] = 0
        raw.to_host(x)[...] = 0
        assert back.tobytes() == raw.to_host(x).tobytes() == host.tobytes()


def test_from_the_host_takes_numbers_and_lists_and_refuses_the_rest() -> None:
    assert xp.from_host(2.5).shape == ()
    assert xp.from_host([[1, 2], [3, 4]], "bfloat16").dtype == xp.dtype("bfloat16")
    assert xp.from_host(np.ones((2, 3)).T).flags.c_contiguous
    with pytest.raises(TypeError, match="an array of numbers is wanted, not list"):
        xp.from_host([object()])


def test_from_bytes() -> None:
    x = xp.from_bytes(bytes([0, 255, 7, 128]), (2, 2))
    assert x.dtype == np.int64
    assert x.tolist() == [[0, 255], [7, 128]]
    assert xp.from_bytes(b"", (0, 9)).shape == (0, 9)
    assert xp.from_bytes(bytes([0, 1, 255, 255]), (2,), "uint16").tolist() == [256, 65535]
    assert xp.from_bytes(bytes([1, 0, 0, 128]), (1,), "uint32").tolist() == [2**31 + 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_item_gives_the_python_number(dtype: str) -> None:
    number = xp.item(xp.full((1,), 1, dtype))
    assert number == 1
    assert not isinstance(number, np.generic) or dtype == "bfloat16"
    with pytest.raises(ValueError, match="size 1"):
        xp.item(xp.zeros((2,), "float32"))


def test_text_is_short() -> None:
    assert len(xp.text(xp.zeros((100, 100), "float32"))) < 200
    assert xp.text(xp.full((), 0.123456789, "float64")) == "0.1235"


def rounded_bits(x: Any) -> Any:
    """The bits of the nearest bfloat16 of each float32."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def test_bfloat16_is_the_upper_half_of_float32_rounded_to_even() -> None:
    ties = [0, 1 + 2**-8, 1 + 3 * 2**-8]
    x = np.array([*RNG.normal(size=1000) * 10.0 ** RNG.integers(-30, 30, 1000), *ties], np.float32)
    stored = xp.cast(x, "bfloat16")
    assert stored.itemsize == 2
    assert (stored.view(np.uint16) == rounded_bits(x)).all()
    wide = xp.widen(stored)
    assert wide.dtype == np.float32
    assert (wide.view(np.uint32) == rounded_bits(x).astype(np.uint32) << 16).all()


def test_every_bfloat16_survives_the_round_trip() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(xp.dtype("bfloat16"))
    number = ~np.isnan(xp.widen(every))
    finite = every[number]
    assert (xp.cast(xp.widen(finite), "bfloat16").view(np.uint16) == finite.view(np.uint16)).all()
    with np.errstate(invalid="ignore"):  # some of them signal
        assert np.isnan(xp.widen(xp.cast(xp.widen(every[~number]), "bfloat16"))).all()


def test_casting_and_widening_leave_alone_what_fits() -> None:
    for dtype in ("float32", "float64", "int64"):
        x = xp.zeros((3,), dtype)
        assert xp.cast(x, dtype) is x
        assert xp.widen(x) is x
    assert xp.widen(xp.zeros((3,), "float16")).dtype == np.float32
    assert xp.cast(xp.zeros((3,), "bool"), np.dtype("int64")).dtype == np.int64


def test_which_dtypes_have_gradients() -> None:
    found = {dtype: bool(xp.is_floating(xp.zeros((), dtype))) for dtype in DTYPES}
    assert found == dict.fromkeys(DTYPES, False) | dict.fromkeys(DTYPES[:4], True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_wire_reads_and_writes_the_array_itself(dtype: str) -> None:
    for shape in SHAPES:
        x, y = raw.full(shape, 1, dtype), raw.zeros(shape, dtype)
        assert len(raw.wire(x)) == x.nbytes
        raw.wire(y)[:] = raw.wire(x)
        assert raw.to_host(y).tobytes() == raw.to_host(x).tobytes()


def test_contiguous_and_copy() -> None:
    for shape in SHAPES:
        x = np.zeros(shape)
        assert xp.contiguous(x) is x
        assert xp.copy(x).shape == shape
        assert not np.shares_memory(xp.copy(x), x)
    turned = np.arange(6.0).reshape(2, 3).T
    for made in (xp.contiguous(turned), xp.copy(turned)):
        assert made.flags.c_contiguous
        assert made.tolist() == turned.tolist()


def test_making_and_joining() -> None:
    assert xp.empty((2, 0), "float32").shape == (2, 0)
    assert xp.arange(3, 6).tolist() == [3, 4, 5]
    assert xp.arange(3, 3).dtype == np.int64
    assert xp.arange(0, 300, "bfloat16").dtype == xp.dtype("bfloat16")
    assert xp.arange(0, 300, "bfloat16")[257] == 256, "counted in whole numbers, then rounded"
    x, none = np.ones((2, 3)), np.ones((2, 0))
    assert xp.concatenate([x, none, x], 1).shape == (2, 6)
    assert xp.broadcast_to(np.ones((1, 3)), (4, 3)).shape == (4, 3)
    assert xp.as_array(np.float32(2)).dtype == np.float32
    assert xp.as_array(x) is x


def test_updates_keep_the_dtype_of_the_array() -> None:
    out = xp.zeros((2, 3), "float32")
    xp.fill(out, 1.5)
    xp.add_into(out, np.full((2, 3), 0.25, np.float32))
    xp.scale_into(out, np.array(2.0))
    assert out.dtype == np.float32
    assert (out == 3.5).all()
    xp.copy_into(out.T, np.zeros((3, 2)))
    assert not out.any()
    stored = xp.full((3,), 2, "bfloat16")
    xp.add_into(stored, np.ones(3, np.float32))
    xp.scale_into(stored, np.array(0.5))
    assert stored.dtype == xp.dtype("bfloat16")
    assert stored.tolist() == [1.5] * 3


@pytest.mark.parametrize("dims", [None, (0,), (1,), (0, 2), (-1,)])
@pytest.mark.parametrize("keepdims", [True, False])
def test_sums_and_maxima(dims: tuple[int, ...] | None, keepdims: bool) -> None:
    x = RNG.normal(size=(3, 4, 5))
    for there in plain.disguised(x).values():
        found = xp.sum(there, dims, keepdims)
        np.testing.assert_allclose(found, np.sum(x, dims, keepdims=keepdims), rtol=1e-12)
        assert (xp.max(there, dims, keepdims) == np.max(x, dims, keepdims=keepdims)).all()


def test_reductions_of_nothing() -> None:
    none = np.zeros((2, 0))
    assert xp.sum(none, (1,)).tolist() == [0, 0]
    assert xp.max(none, (1,)).tolist() == [-np.inf] * 2
    assert xp.max(xp.zeros((0,), "int32")) == np.iinfo(np.int32).min
    assert xp.widen(xp.as_array(xp.max(xp.zeros((0,), "bfloat16")))) == -np.inf
    assert xp.square_sum(none) == 0


@pytest.mark.parametrize("memory", ["contiguous", "columns first", "every second", "backwards"])
def test_square_sum_is_accumulated_in_float64(memory: str) -> None:
    x = (RNG.normal(size=(300, 401)) * 10.0 ** RNG.integers(-3, 3, (300, 401))).astype(np.float32)
    found = xp.square_sum(plain.disguised(x)[memory])
    assert (found.shape, found.dtype) == ((), np.float64)
    assert found == pytest.approx(np.sum(x.astype(np.float64) ** 2), rel=1e-13)
    extreme = np.array([1e-30, 1e30], np.float32)  # their squares are no float32
    assert xp.square_sum(extreme[:1]) == pytest.approx(1e-60, rel=1e-6)
    assert xp.square_sum(extreme) == pytest.approx(1e60, rel=1e-6)


# ---- places, running sums, memory ------------------------------------------------------------------------------


def test_argmax_takes_the_first_of_those_that_tie():
    x = np.array([[1.0, 3.0, 3.0], [np.nan, 2.0, np.inf]])
    assert xp.argmax(x, 1).tolist() == [1, 0]
    assert xp.argmax(x, 0).dtype == np.int64
    assert xp.argmax(np.zeros((0, 3)), 1).shape == (0,)


def test_the_largest_of_nothing_in_every_kind_of_dtype():
    found = {kind: xp.max(np.zeros((0,), kind)) for kind in ("float32", "int8", "uint8", "bool")}
    assert found == {"float32": -np.inf, "int8": -128, "uint8": 0, "bool": False}


def test_running_sums():
    assert xp.cumsum(np.array([[1, 2], [3, 4]]), 0).tolist() == [[1, 2], [4, 6]]
    assert xp.cumsum(np.array([[1, 2], [3, 4]]), 1).tolist() == [[1, 3], [3, 7]]


def test_addresses_enclose_the_elements():
    x = raw.zeros((4, 6), "float32")
    first, last = raw.addresses(x)
    assert last - first == x.nbytes
    assert raw.addresses(x[::-1]) == (first, last)
    assert raw.addresses(x[1:2]) == (first + 24, first + 48)
    assert raw.addresses(x[:, 1:].T) == (first + 4, last)
    assert raw.addresses(x.view("int16")) == (first, last)
    empty = raw.addresses(x[:0])
    assert empty[0] == empty[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_dlpack_leads_back_to_the_same_memory(dtype):
    class Handed:
        def __init__(self, x):
            self.x = x

        def __dlpack__(self, **asked):
            return raw.to_dlpack(self.x, **asked)

        def __dlpack_device__(self):
            return self.x.__dlpack_device__()

    x = raw.zeros((2, 3), dtype).T
    y = raw.from_dlpack(Handed(x))
    assert y.dtype == x.dtype
    assert raw.addresses(y) == raw.addresses(x)
    assert y.strides == x.strides
