"""A shard: one file in the safetensors format, written and read in bounded memory.

Eight bytes with the length of the header, little-endian; the header, JSON: for each tensor its dtype, its shape and the
two offsets of its bytes after the header; then the bytes, in C order, little-endian, without gaps.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from xxhash import xxh3_128

from mpipar.backend import numpy as HOST
from mpipar.checkpoint.boxes import Box
from mpipar.errors import CheckpointError
from mpipar.job.fault import fault

BUCKET = 1 << 20  # bytes that are read or written at a time: they stay in the cache
RUN = 1 << 16  # bytes: shorter runs are read together with what lies between them
MAX_HEADER = 1 << 24
MAX_DIMS = 32
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
NAMES = {short: name for name, short in DTYPES.items()}


class Piece(NamedTuple):
    """A part of a tensor that is to be written: its bytes come in buffers, in order."""

    name: str
    dtype: str
    shape: tuple[int, ...]  # of the part
    buffers: Callable[[], Iterator[Any]]

    @property
    def nbytes(self) -> int:
        return nbytes(self.shape, self.dtype)


class Entry(NamedTuple):
    """What a header says of a tensor; the bytes start at `offset` of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class Written(NamedTuple):
    """A file as it was written: its length, and the hash of all of it."""

    bytes: int
    hash: str


def nbytes(shape: Sequence[int], dtype: str) -> int:
    return prod(shape) * int(HOST.dtype(dtype).itemsize)


# ---- writing --------------------------------------------------------------------------------------------


def write_shard(path: Path, pieces: Sequence[Piece]) -> Written:
    """A new file, on the disk when this returns. Raises OSError."""
    wide_first = sorted(
        pieces, key=lambda piece: -int(HOST.dtype(piece.dtype).itemsize)
    )  # keeps them aligned
    half = sum(piece.nbytes for piece in pieces) // 2

    def buffers() -> Iterator[Any]:
        yield header_of(wide_first)
        done = 0
        for piece in wide_first:
            for buffer in piece.buffers():
                yield buffer
                if done <= half < done + len(buffer):
                    fault("save.in_shard")
                done += len(buffer)

    return write_file(path, buffers())


def header_of(pieces: Sequence[Piece]) -> bytes:
    entries: dict[str, Any] = {}
    offset = 0
    for piece in pieces:
        stop = offset + piece.nbytes
        entries[piece.name] = {
            "dtype": DTYPES[piece.dtype],
            "shape": piece.shape,
            "data_offsets": (offset, stop),
        }
        offset = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the bytes of the tensors start at a multiple of 8
    if len(text) > MAX_HEADER:
        raise CheckpointError(
            f"{len(entries)} tensors on one rank: their names take more than {MAX_HEADER} bytes"
        )
    return len(text).to_bytes(8, "little") + text


def write_file(path: Path, buffers: Iterator[Any]) -> Written:
    """A new file of these buffers, on the disk when this returns. Raises OSError."""
    total, digest = 0, xxh3_128()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            digest.update(view)
            start, total = total, total + len(view)
            while view:
                view = view[os.write(fd, view) :]
            os.posix_fadvise(
                fd, start, total - start, os.POSIX_FADV_DONTNEED
            )  # the disk begins now, not at fsync
        fault("save.before_fsync")
        os.fsync(fd)
    finally:
        os.close(fd)
    return Written(total, digest.hexdigest())


# ---- reading --------------------------------------------------------------------------------------------


def open_regular(path: Path) -> int:
    """A file for reading. Raises CheckpointError where it is missing, a link, or no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        link = " (a symbolic link)" if path.is_symlink() else ""
        raise CheckpointError(f"{path}: {error.strerror}{link}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CheckpointError(f"{path}: not a file")
    return fd


def read_fully(fd: int, view: memoryview, offset: int, path: Path) -> None:
    """Fills the view. Raises CheckpointError where the file ends before, or cannot be read."""
    while view:
        try:
            count = os.preadv(fd, [view], offset)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from None
        if not count:
            raise CheckpointError(f"{path}: ends at byte {offset}")
        view, offset = view[count:], offset + count


def hash_of(fd: int, path: Path) -> str:
    digest, buffer = xxh3_128(), memoryview(bytearray(BUCKET))
    size = os.fstat(fd).st_size
    os.posix_fadvise(fd, 0, size, os.POSIX_FADV_WILLNEED)
    for offset in range(0, size, BUCKET):
        view = buffer[: min(BUCKET, size - offset)]
        read_fully(fd, view, offset, path)
        digest.update(view)
    return digest.hexdigest()


def read_header(fd: int, path: Path) -> dict[str, Entry]:
    """The tensors of a shard. Raises CheckpointError, before anything large is allocated, on any other file."""
    size = os.fstat(fd).st_size
    prefix = memoryview(bytearray(8))
    read_fully(fd, prefix, 0, path)
    length = int.from_bytes(prefix, "little")
    if length > min(MAX_HEADER, size - 8):
        raise CheckpointError(
            f"{path}: a header of {length} bytes in a file of {size}; {MAX_HEADER} are the most"
        )
    text = memoryview(bytearray(length))
    read_fully(fd, text, 8, path)
    found = parsed_json(bytes(text), path)
    found.pop("__metadata__", None)
    entries = {name: _entry(name, entry, 8 + length, path) for name, entry in found.items()}
    reached = 8 + length
    for start, count, name in sorted(
        (e.offset, nbytes(e.shape, e.dtype), name) for name, e in entries.items()
    ):
        if start != reached:
            raise CheckpointError(f"{path}: the bytes of {name[:200]!r} start at {start}, not at {reached}")
        reached += count
    if reached != size:
        raise CheckpointError(f"{path}: {size} bytes long, its tensors end at {reached}")
    return entries


def _entry(name: str, entry: Any, start: int, path: Path) -> Entry:
    match entry:
        case {"dtype": str(short), "shape": list(shape), "data_offsets": [int(first), int(last)]}:
            sound = short in NAMES and is_shape(shape) and first >= 0
            if sound and last - first == nbytes(shape, NAMES[short]):
                return Entry(NAMES[short], tuple(shape), start + first)
    raise CheckpointError(
        f"{path}: {name!r} has dtype, shape and offsets that do not fit: {str(entry)[:200]}"
    )


def is_shape(value: Any) -> bool:
    """A list of lengths that an array may have: few dims, none beyond 63 bits."""
    if not isinstance(value, list) or len(value) > MAX_DIMS:
        return False
    return all(type(length) is int and 0 <= length < 1 << 63 for length in value)


def parsed_json(text: bytes, path: Path) -> dict[str, Any]:
    """An object of JSON in which no name stands twice. Raises CheckpointError."""
    try:
        found = json.loads(text, object_pairs_hook=_distinct)
    except RecursionError:
        raise CheckpointError(f"{path}: not JSON that a checkpoint has: nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice[:200]!r} is there twice")
    return found


class Run(NamedTuple):
    """Bytes that lie together in a file: a part of a tensor, and whole rows around it that are read with it."""

    part: Box
    offset: int
    shape: tuple[int, ...]  # of what is read: whole rows
    inner: tuple[slice, ...]  # where the part lies in it


def runs(entry: Entry, box: Box, outer: tuple[int, ...] = ()) -> Iterator[Run]:
    """How a part of a stored tensor is read, at most a bucket at a time.

    `outer` are the leading indices that are fixed already; entry and box have the dims that are left.
    """
    dtype, shape, offset = entry
    lead = Box(outer, tuple(i + 1 for i in outer))
    if not shape:
        yield Run(lead, offset, lead.shape, (slice(None),) * len(outer))
        return
    row, needed = nbytes(shape[1:], dtype), nbytes(box.shape[1:], dtype)
    if row > BUCKET or RUN <= needed < row:
        for i in range(box.start[0], box.stop[0]):
            inner = Entry(dtype, shape[1:], offset + i * row)
            yield from runs(inner, Box(box.start[1:], box.stop[1:]), (*outer, i))
        return
    step = BUCKET // row
    for first in range(box.start[0], box.stop[0], step):
        last = min(first + step, box.stop[0])
        part = Box((*outer, first, *box.start[1:]), (*lead.stop, last, *box.stop[1:]))
        within = (slice(None),) * (len(outer) + 1) + box.slices[1:]
        yield Run(part, offset + first * row, (*lead.shape, last - first, *shape[1:]), within)
