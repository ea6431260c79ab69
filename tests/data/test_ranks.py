"""All ranks go on together or stop with the same words.

A failure shows what each rank returned or raised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mpipar.errors import UsageError
from mpipar.job.agree import on_all_ranks, on_first_rank

RunRanks = Callable[[int, Callable[[Any], Any]], list[Any]]


def messages(results: list[Any]) -> set[str]:
    assert all(type(result) is UsageError for result in results), results
    return {str(result) for result in results}


def given(values: list[bytes]) -> Callable[[Any], Any]:
    """Each rank makes its own value; an empty one stands for a failure."""

    def make(rank: int) -> bytes:
        if not values[rank]:
            raise UsageError(f"cannot read on {rank}")
        return values[rank]

    return lambda world: on_all_ranks(world, lambda: make(world.rank), lambda value: value, "{ranks} differ")


def test_all_have_what_rank_0_made(run_ranks: RunRanks) -> None:
    made: list[int] = []

    def make(rank: int) -> int:
        made.append(rank)
        return 42

    assert run_ranks(3, lambda world: on_first_rank(world, lambda: make(world.rank))) == [42, 42, 42]
    assert made == [0]


def test_all_raise_what_rank_0_raised(run_ranks: RunRanks) -> None:
    def make() -> None:
        raise UsageError("no such directory")

    assert messages(run_ranks(3, lambda world: on_first_rank(world, make))) == {"no such directory"}


def test_equal_values_are_returned(run_ranks: RunRanks) -> None:
    assert run_ranks(3, given([b"x"] * 3)) == [b"x"] * 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([b"", b"", b""], "cannot read on 0"),
        ([b""], "cannot read on 0"),
        ([b"x", b"", b"x"], "cannot read on 1 (on rank 1; the other ranks had no trouble)"),
        ([b"x", b"", b"x", b""], "cannot read on 1 (on ranks 1, 3; the other ranks had no trouble)"),
        ([b"x", b"", b"y"], "cannot read on 1 (on rank 1; the other ranks had no trouble)"),
    ],
)
def test_ranks_that_failed_are_named(run_ranks: RunRanks, values: list[bytes], message: str) -> None:
    assert messages(run_ranks(len(values), given(values))) == {message}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([b"x", b"x", b"y"], "rank 2"),
        ([b"y", b"x", b"x"], "rank 0"),
        ([b"x", b"y"], "rank 1"),
        ([b"x", b"y", b"x", b"z"], "ranks 1, 3"),
    ],
)
def test_ranks_that_read_otherwise_are_named(run_ranks: RunRanks, values: list[bytes], named: str) -> None:
    (message,) = messages(run_ranks(len(values), given(values)))
    assert message == f"{named} differ"
