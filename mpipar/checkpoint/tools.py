"""Checkpoints for one process and a person: no MPI, no model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from mpipar.backend import numpy as HOST
from mpipar.checkpoint.fill import fill, host_array
from mpipar.checkpoint.index import INDEX, Index, parse_index, read_index
from mpipar.checkpoint.loader import listed, newest
from mpipar.checkpoint.shard import BUCKET, Piece, write_shard
from mpipar.checkpoint.state import MODEL
from mpipar.checkpoint.verify import check_files, check_header
from mpipar.comm import Comm, Ledger, Solo
from mpipar.errors import CheckpointError, UsageError
from mpipar.log import human_bytes


def read(path: str | os.PathLike[str], group: str = "") -> dict[str, Any]:
    """The tensors of a checkpoint, or of the newest good one in a directory of several, as whole NumPy arrays.

    Names are ``model/…`` and ``optimizer/…``; ``group="model"`` takes those alone, without the prefix, as
    `load_state_dict` wants them. Every file is checked first. Needs no MPI. Raises CheckpointError.
    """
    where, index = found(path)
    prefix = f"{group}/" if group else ""
    arrays = {
        name: HOST.empty(stored.shape, stored.dtype)
        for name, stored in index.tensors.items()
        if name.startswith(prefix)
    }
    fill(where, index, {name: host_array(x) for name, x in arrays.items()})
    return {name.removeprefix(prefix): x for name, x in arrays.items()}


def ls(directory: str | os.PathLike[str]) -> str:
    """A line for each checkpoint, newest first: step, size, and what is wrong at a first look (lengths and headers)."""
    lines = []
    for path in _listed(directory):
        try:
            index = first_look(path)
            lines.append(f"{path.name}  {human_bytes(index.nbytes):>9}  mesh {_mesh(index)}")
        except CheckpointError as error:
            lines.append(f"{path.name}  broken: {error}")
    return "\n".join(lines)


def show(path: str | os.PathLike[str]) -> str:
    """What a checkpoint says of its run, and its tensors."""
    (where,) = _listed(path)[:1]
    index = first_look(where)
    notes = index.notes
    head = {
        "step": notes.step, "mesh": _mesh(index), "seed": notes.seed, "data": notes.data, "config": notes.config,
        "optimizer": notes.optimizer, "versions": notes.versions,
        "files": f"{len(index.files)}, {human_bytes(index.nbytes)}",
    }  # fmt: skip
    width = max(map(len, index.tensors))
    tensors = (
        f"{name:{width}}  {stored.dtype:8}  {_shape(stored.shape):20}  {len(stored.slices)} slices"
        for name, stored in sorted(index.tensors.items())
    )
    return "\n".join([str(where), *(f"  {key}: {value}" for key, value in head.items()), *tensors])


def verify(path: str | os.PathLike[str]) -> list[str]:
    """What is wrong with a checkpoint, or with any of a directory; every byte is read. Empty where all is well."""
    problems = []
    for where in _listed(path):
        try:
            index = parse_index(read_index(where), where / INDEX)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        problems += [problem for name in sorted(index.files) if (problem := _problem(where, index, name))]
    return problems


def _problem(path: Path, index: Index, name: str) -> str:
    try:
        check_files(path, index, [name])
    except CheckpointError as error:
        return str(error)
    return ""


def merge(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> int:
    """Writes the weights, each whole and under its bare name, to one new safetensors file; returns its bytes.

    The memory that it takes is that of the largest weight.
    """
    where, index = found(path)
    weights = {name: stored for name, stored in index.tensors.items() if name.startswith(MODEL)}

    pieces = [
        Piece(name.removeprefix(MODEL), stored.dtype, stored.shape, partial(_whole, where, index, name))
        for name, stored in weights.items()
    ]
    try:
        return write_shard(Path(out), pieces).bytes
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from None


def _whole(path: Path, index: Index, name: str) -> Iterator[Any]:
    """The bytes of a tensor, bucket by bucket."""
    x = HOST.empty(index.tensors[name].shape, index.tensors[name].dtype)
    fill(path, index, {name: host_array(x)})
    flat = HOST.wire(x)
    return (flat[start : start + BUCKET] for start in range(0, len(flat), BUCKET))


def found(path: str | os.PathLike[str]) -> tuple[Path, Index]:
    """The newest good checkpoint, every byte of it checked."""
    alone = Comm(Solo(), "alone", Ledger(), HOST)
    good = newest(Path(path).expanduser(), alone, strict=False)
    if good is None:
        raise CheckpointError(f"{path}: no checkpoint is there")
    return good[:2]


def first_look(path: Path) -> Index:
    """The index, where it holds together and every file has the length and the header that it should."""
    index = parse_index(read_index(path), path / INDEX)
    for name in index.files:
        check_header(path / name, index, name)
    return index


def _listed(path: str | os.PathLike[str]) -> list[Path]:
    there = listed(Path(path).expanduser())
    if not there:
        raise CheckpointError(f"{path}: no checkpoint is there")
    return there


def _mesh(index: Index) -> str:
    return ", ".join(f"{axis}={size}" for axis, size in index.notes.mesh.items()) or "one rank"


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))}) {prod(shape):,}"
