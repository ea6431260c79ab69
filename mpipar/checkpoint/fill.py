"""Filling arrays from the files of a checkpoint that has been checked, a few MiB at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mpipar.backend import numpy as HOST
from mpipar.checkpoint.boxes import Box, held, whole
from mpipar.checkpoint.index import Index
from mpipar.checkpoint.shard import open_regular, read_box, read_header
from mpipar.tensor import Tensor


class Target(NamedTuple):
    """The part of a tensor that is wanted, and what takes it: called with a box of global indices and its values."""

    box: Box
    put: Callable[[Box, Any], None]


class Read(NamedTuple):
    """A part that is to be read, and the stored slice in which it lies; both in global indices."""

    name: str
    part: Box
    slice: Box


def piece_of(tensor: Tensor) -> Target:
    """What this rank holds of a Tensor."""
    xp, local, mine = tensor.mesh.xp, tensor.local, held(tensor.layout, tensor.mesh.coords)

    def put(box: Box, x: Any) -> None:
        out = local[box.within(mine).slices] if box.start else local  # NumPy makes a number of x[()]
        here = x if xp is HOST else xp.from_host(x)
        xp.copy_into(out, xp.cast(here, local.dtype))

    return Target(mine, put)


def host_array(x: Any) -> Target:
    """All of a tensor, into a host array."""
    return Target(whole(x.shape), lambda box, part: HOST.copy_into(x[(*box.slices, ...)], part))


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
            put, origin = targets[name].put, (0,) * len(stored.start)
            for box, x in read_box(fd, file, entries[name], part.within(stored)):
                put(box.shifted(stored.start, origin), x)
    finally:
        os.close(fd)
