"""Whether a checkpoint is what was written: every file is there, holds what the index says, and has its hash."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mpipar.checkpoint.index import INDEX, Index, parse_index, read_index
from mpipar.checkpoint.shard import hash_of, open_regular, read_header
from mpipar.comm import Comm
from mpipar.errors import CheckpointError
from mpipar.job.agree import on_each_rank, on_first_rank


def verified(path: Path, comm: Comm) -> Index:
    """The index of a checkpoint of which every byte has been checked, the files divided over the ranks. Collective.

    Raises CheckpointError, the same on all ranks. The memory is bounded whatever the files hold.
    """
    index = parse_index(on_first_rank(comm, lambda: read_index(path)), path / INDEX)
    on_each_rank(comm, lambda: check_files(path, index, share(index, comm.rank, comm.size)))
    return index


def share(index: Index, rank: int, size: int) -> list[str]:
    """The files that a rank checks: on the mesh that wrote them its own."""
    return sorted(index.files)[rank::size]


def check_files(path: Path, index: Index, names: Sequence[str]) -> None:
    """Raises CheckpointError on the first file that is not as it was written; lengths and headers come first."""
    for name in names:
        check_header(path / name, index, name)
    for name in names:
        fd = open_regular(path / name)
        try:
            if hash_of(fd, path / name) != index.files[name].hash:
                raise CheckpointError(f"{path / name}: its bytes are not those whose hash is in {INDEX}")
        finally:
            os.close(fd)


def check_header(file: Path, index: Index, name: str) -> None:
    fd = open_regular(file)
    try:
        size, wanted = os.fstat(fd).st_size, index.files[name].bytes
        if size != wanted:
            raise CheckpointError(f"{file}: {size} bytes, {wanted} were written")
        held = {key: (entry.dtype, entry.shape) for key, entry in read_header(fd, file).items()}
    finally:
        os.close(fd)
    if held != index.of_file(name):
        odd = sorted(
            key for key in held.keys() | index.of_file(name) if held.get(key) != index.of_file(name).get(key)
        )
        raise CheckpointError(
            f"{file}: {odd[0][:200]!r} is {held.get(odd[0])}, {INDEX} says {index.of_file(name).get(odd[0])}"
        )
