"""Ranks that are threads of one process, so that a test can let one of them fail or differ."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest


class Meeting:
    """Where the threads exchange objects."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=20)
        self.table: list[Any] = [None] * size

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.table[rank] = value
        self.barrier.wait()
        seen = list(self.table)
        self.barrier.wait()
        return seen


class Rank:
    """What a communicator is to the data room."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self._meeting = rank, meeting.size, meeting

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return self._meeting.exchange(self.rank, value)[root]

    def allgather_object(self, value: Any) -> list[Any]:
        return self._meeting.exchange(self.rank, value)


def run_ranks(size: int, function: Callable[[Rank], Any]) -> list[Any]:
    """What the function returns on each of `size` ranks, or the exception that it ends with."""
    meeting = Meeting(size)
    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(function, Rank(rank, meeting)) for rank in range(size)]
        return [future.exception() or future.result() for future in futures]


@pytest.fixture(name="run_ranks")
def run_ranks_fixture() -> Callable[[int, Callable[[Rank], Any]], list[Any]]:
    return run_ranks


@pytest.fixture
def solo() -> Rank:
    """One rank alone."""
    return Rank(0, Meeting(1))


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Writes files below a new directory, which it returns."""

    def write(files: dict[str, bytes]) -> Path:
        for name, content in files.items():
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / "tree"

    return write
