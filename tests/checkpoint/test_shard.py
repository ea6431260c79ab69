"""A shard is a safetensors file: others read what we write, and we read what they write, whole and in parts.

A failure in a part shows the box. The last tests hand over files that are no shards: each must be refused by name and
reason before anything large is allocated.
"""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from rank_data import of_rank

from mpipar import CheckpointError
from mpipar.backend import numpy as HOST
from mpipar.checkpoint import shard
from mpipar.checkpoint.boxes import Box, whole
from mpipar.checkpoint.shard import DTYPES, Entry, Piece, hash_of, read_fully, read_header, runs, write_shard

pytestmark = pytest.mark.alone


def piece(name: str, x: Any) -> Piece:
    return Piece(name, str(x.dtype), x.shape, lambda: iter([x.tobytes()]))


def arrays() -> dict[str, Any]:
    shapes = [(), (3,), (2, 0), (3, 1, 2), (4, 5)]
    kinds = [name for name in DTYPES if not name.startswith("uint")]
    return {f"{kind} {shape}": of_rank(1, shape, kind) for kind in kinds for shape in shapes}


def read(path: Path, box: Box | None = None) -> dict[str, Any]:
    """Every tensor of a shard, or the box of each."""
    fd = os.open(path, os.O_RDONLY)
    found = {}
    for name, entry in read_header(fd, path).items():
        wanted = whole(entry.shape) if box is None else box
        x = HOST.zeros(entry.shape, entry.dtype)
        if 0 not in entry.shape:
            for run in runs(entry, wanted):
                rows = HOST.empty(run.shape, entry.dtype)
                read_fully(fd, memoryview(HOST.wire(rows)), run.offset, path)
                x[(*run.part.slices, ...)] = rows[(*run.inner, ...)]
        found[name] = x
    os.close(fd)
    return found


def same(one: Any, other: Any) -> bool:
    return (one.shape, one.dtype, one.tobytes()) == (other.shape, other.dtype, other.tobytes())


def test_the_library_of_the_format_reads_what_we_write(tmp_path: Path) -> None:
    wanted = arrays()
    written = write_shard(tmp_path / "x", [piece(name, x) for name, x in wanted.items()])
    found = safetensors.numpy.load_file(tmp_path / "x")
    assert found.keys() == wanted.keys()
    assert all(same(found[name], x) for name, x in wanted.items())
    assert written.bytes == (tmp_path / "x").stat().st_size


def test_we_read_what_that_library_writes(tmp_path: Path) -> None:
    wanted = arrays()
    safetensors.numpy.save_file(wanted, tmp_path / "x", {"a note": "of theirs"})
    found = read(tmp_path / "x")
    assert found.keys() == wanted.keys()
    assert all(same(found[name], x) for name, x in wanted.items())


@given(data=st.data())
def test_any_part_of_a_tensor(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With buckets and runs so short that every way of reading is taken."""
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    edges = [sorted(data.draw(st.tuples(st.integers(0, n - 1), st.integers(1, n)))) for n in shape]
    box = Box(tuple(a for a, _ in edges), tuple(max(a + 1, b) for a, b in edges))
    x = of_rank(0, shape, "int16")
    path = tmp_path_factory.mktemp("parts") / "x"
    write_shard(path, [piece("x", x)])
    wanted = np.zeros_like(x)
    wanted[box.slices] = x[box.slices]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "BUCKET", data.draw(st.sampled_from([2, 7, 64, 4096])))
        patch.setattr(shard, "RUN", data.draw(st.sampled_from([2, 16, 4096])))
        np.testing.assert_array_equal(read(path, box)["x"], wanted, err_msg=str(box))


def test_hashing_takes_a_bucket_of_memory_and_runs_are_no_longer(tmp_path: Path) -> None:
    x = np.zeros((3, 4 * shard.BUCKET), np.uint8)
    write_shard(tmp_path / "x", [piece("x", x)])
    fd = os.open(tmp_path / "x", os.O_RDONLY)
    entry = read_header(fd, tmp_path / "x")["x"]
    tracemalloc.start()
    assert all(math.prod(run.shape) <= shard.BUCKET for run in runs(entry, whole(x.shape)))
    hash_of(fd, tmp_path / "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    os.close(fd)
    assert peak < 1.1 * shard.BUCKET


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: list[Any], first: Any, last: Any, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


BROKEN = {
    "an empty file": (b"", "ends at byte 0"),
    "half of a length": (b"\0\0\0", "ends at byte 3"),
    "a header longer than the file": (raw({}, length=100), "a header of 100 bytes in a file of 10"),
    "a huge header": (raw({}, length=2**63), "a header of 9223372036854775808 bytes"),
    "no JSON": (raw(b"{nothing"), "not JSON"),
    "no text": (raw(b"\xff\xfe{}"), "not JSON"),
    "a list": (raw([]), "not a JSON object"),
    "a deep nest": (raw(b"[" * 100_000), "nested too deeply"),
    "a tensor twice": (raw(b'{"a": 1, "b": 2, "a": 3}'), "'a' is there twice"),
    "a tensor that is a number": (raw({"a": 1}), "'a' has dtype, shape and offsets that do not fit"),
    "an unknown dtype": (raw({"a": entry([1], 0, 1, "F3")}, b"x"), "'a' has dtype, shape and offsets"),
    "a negative length": (raw({"a": entry([-1], 0, 1)}, b"x"), "'a' has dtype, shape and offsets"),
    "a length that is true": (raw({"a": entry([True], 0, 1)}, b"x"), "'a' has dtype, shape and offsets"),
    "a length of 2⁶⁴": (raw({"a": entry([2**64, 0], 0, 0)}), "'a' has dtype, shape and offsets"),
    "a thousand dims": (raw({"a": entry([1] * 1000, 0, 1)}, b"x"), "'a' has dtype, shape and offsets"),
    "offsets that are no integers": (
        raw({"a": entry([1], 0.0, 1.0)}, b"x"),
        "'a' has dtype, shape and offsets",
    ),
    "another shape than bytes": (raw({"a": entry([2], 0, 1)}, b"x"), "'a' has dtype, shape and offsets"),
    "negative offsets": (raw({"a": entry([1], -1, 0)}, b"x"), "'a' has dtype, shape and offsets"),
    "a gap": (raw({"a": entry([1], 1, 2)}, b"xx"), "the bytes of 'a' start at"),
    "an overlap": (raw({"a": entry([2], 0, 2), "b": entry([2], 1, 3)}, b"xxx"), "the bytes of 'b' start at"),
    "bytes too many": (raw({"a": entry([1], 0, 1)}, b"xx"), "its tensors end at"),
    "bytes too few": (raw({"a": entry([4], 0, 4)}, b"xx"), "its tensors end at"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_shard_is_refused(name: str, tmp_path: Path) -> None:
    content, reason = BROKEN[name]
    path = tmp_path / "rank-00000.safetensors"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    tracemalloc.start()
    with pytest.raises(CheckpointError) as caught:
        read_header(fd, path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    os.close(fd)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert peak < 10_000_000


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"")
    (tmp_path / "link").symlink_to("there")
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {
        "link": "symbolic link",
        "pipe": "not a file",
        ".": "not a file",
        "none": "No such file",
    }.items():
        with pytest.raises(CheckpointError, match=reason):
            shard.open_regular(tmp_path / name)


def test_entries_are_those_of_the_header(tmp_path: Path) -> None:
    write_shard(tmp_path / "x", [piece("half", np.zeros(3, np.float16)), piece("wide", np.zeros(2))])
    fd = os.open(tmp_path / "x", os.O_RDONLY)
    found = read_header(fd, tmp_path / "x")
    os.close(fd)
    size = (tmp_path / "x").stat().st_size
    assert found == {"wide": Entry("float64", (2,), size - 22), "half": Entry("float16", (3,), size - 6)}
    assert (size - 22) % 8 == 0
