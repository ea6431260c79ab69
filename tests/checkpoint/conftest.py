"""A directory that all ranks see, and a model in training on a mesh."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpipar.job import world


@pytest.fixture
def directory() -> Iterator[Path]:
    """New and empty, the same on all ranks."""
    comm = world()
    path = Path(comm.broadcast_object(tempfile.mkdtemp(prefix="mpipar-") if comm.rank == 0 else None))
    yield path
    comm.barrier()
    if comm.rank == 0:
        shutil.rmtree(path, ignore_errors=True)
