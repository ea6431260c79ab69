"""Filling arrays from the files of a checkpoint that has been checked, a bucket at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mpipar.backend import Backend
from mpipar.backend import numpy as HOST
from mpipar.checkpoint.boxes import Box, held, whole
from mpipar.checkpoint.index import Index
from mpipar.checkpoint.shard import Run, open_regular, read_fully, read_header, runs
from mpipar.tensor import Tensor


class Target(NamedTuple):
    """An array of this rank that is to be filled: the box of global indices that it holds, on the backend `xp`."""

    box: Box
    array: Any
    xp: Backend | ModuleType


class Read(NamedTuple):
    """A part that is to be read, and the stored slice in which it lies; both in global indices."""

    name: str
    part: Box
    slice: Box


def piece_of(tensor: Tensor) -> Target:
    """What this rank holds of a Tensor."""
    return Target(held(tensor.layout, tensor.mesh.coords), tensor.local, tensor.mesh.xp)


def host_array(x: Any) -> Target:
    """All of a tensor, into a host array."""
    return Target(whole(x.shape), x, HOST)


def fill(path: Path, index: Index, targets: Mapping[str, Target]) -> None:
    """Reads what is wanted, each file once and in its order."""
    by_file: dict[str, list[Read]] = {}
    for name, target in targets.items():
        for file, stored in index.tensors[name].slices:
            part = stored.overlap(target.box)
            if part is not None:
                by_file.setdefault(file, []).append(Read(name, part, stored))
    for file, reads in sorted(by_file.items()):
        fill_from(path / file, reads, targets)


def fill_from(file: Path, reads: Sequence[Read], targets: Mapping[str, Target]) -> None:
    fd = open_regular(file)
    try:
        entries = read_header(fd, file)
        for name, part, stored in sorted(reads, key=lambda read: entries[read.name].offset):
            for run in runs(entries[name], part.within(stored)):
                take(fd, file, run, entries[name].dtype, stored, targets[name])
    finally:
        os.close(fd)


def take(fd: int, file: Path, run: Run, dtype: str, stored: Box, target: Target) -> None:
    """Reads one run: straight to its place where that is in one piece on the host, else by way of a buffer."""
    xp, array = target.xp, target.array
    here = run.part.shifted(stored.start, target.box.start)
    out = array[here.slices] if here.start else array  # NumPy makes a number of x[()]
    if xp is HOST and str(array.dtype) == dtype and out.shape == run.shape and out.flags.c_contiguous:
        read_fully(fd, memoryview(HOST.wire(out)), run.offset, file)
        return
    x = HOST.empty(run.shape, dtype)
    read_fully(fd, memoryview(HOST.wire(x)), run.offset, file)
    x = x[run.inner] if run.inner else x
    xp.copy_into(out, xp.cast(x if xp is HOST else xp.from_host(x), array.dtype))
