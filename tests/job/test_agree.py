"""Each rank tells the others how it went: all go on with what all have, or all raise the same error.

The threads of tests/data/test_ranks.py try `on_first_rank`; these are real ranks.
"""

from __future__ import annotations

import pytest

from mpipar import CheckpointError
from mpipar.job import world
from mpipar.job.agree import on_each_rank, on_first_rank


def refuse_on(rank: int) -> int:
    if world().rank == rank:
        raise CheckpointError("the disk is full")
    return world().rank


def test_every_rank_has_what_each_has_made() -> None:
    assert on_each_rank(world(), lambda: world().rank * 2) == [2 * rank for rank in range(world().size)]


@pytest.mark.parametrize("rank", range(world().size))
def test_an_error_on_one_rank_is_raised_on_all_with_its_type(rank: int) -> None:
    alone = world().size == 1
    where = "" if alone else rf" \(on rank {rank}; the other ranks had no trouble\)"
    with pytest.raises(CheckpointError, match=f"^the disk is full{where}$"):
        on_each_rank(world(), lambda: refuse_on(rank))


def test_what_rank_0_raises_keeps_its_type() -> None:
    with pytest.raises(CheckpointError, match="the disk is full"):
        on_first_rank(world(), lambda: refuse_on(0))
