"""Arrays of more bytes than MPI counts in 32 bits, for real: int8 of more than 2³¹ elements over two ranks.

Every other case is run with a limit of a few bytes in the files beside this one. A failure here alone means that a long
message, or a displacement beyond 2³¹, is cut short by this MPI.
"""

from __future__ import annotations

from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

import numpy as np
import pytest

from mpipar.comm import Comm, large
from mpipar.job import world

GIB = 1 << 30
LENGTHS = (2 * GIB + 1000, 1000)
NEEDED = 3 * GIB  # of memory: the whole at the root; pages of zeros that nobody wrote to cost nothing
MARKS = sorted(
    {0, GIB - 1, GIB, 2 * GIB - 1, 2 * GIB, LENGTHS[0] - 1}
)  # of the first rank: where it may be cut


def available() -> int:
    with open("/proc/meminfo", encoding="ascii") as lines:
        kilobytes = dict(line.split()[:2] for line in lines)
    return int(kilobytes["MemAvailable:"]) * 1024


def zeros(length: int) -> np.ndarray:
    """From the system, which keeps one page for all that nobody wrote to; the C library would fill every page."""
    return np.frombuffer(mmap(-1, length, MAP_PRIVATE | MAP_ANONYMOUS), np.int8)


@pytest.mark.skipif(world().size == 1, reason="two ranks")
def test_more_than_two_gibibytes() -> None:
    """Gathered: a message of more than 2³¹ bytes, and a piece that is displaced by as many."""
    job = world()
    if min(job.allgather_object(available())) < NEEDED:
        pytest.skip(f"{NEEDED // GIB} GiB of memory are needed")
    if job.rank > 1:
        return
    pair = Comm(job.transport.group((0, 1)), "pair", job.ledger, job.xp)
    mine = zeros(LENGTHS[pair.rank])
    mine[MARKS if pair.rank == 0 else slice(None)] = pair.rank + 1
    whole = pair.gather(mine, 1, 0, LENGTHS)
    if whole is not None:
        assert len(whole) == sum(LENGTHS)
        assert whole[MARKS].tolist() == [1] * len(MARKS)
        assert (whole[LENGTHS[0] :] == 2).all()
        assert np.count_nonzero(whole) == len(MARKS) + LENGTHS[1]


def test_the_limit_is_one_that_every_mpi_counts() -> None:
    assert large.LIMIT < 1 << 31
