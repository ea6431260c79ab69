"""BLAS threads: the cores of a node shared among its ranks. A failure shows the threads of each BLAS."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipar.job.threads import VARIABLES, share_of_cores
from mpipar.testing import launch

FIRST, SECOND = {0, 1, 2, 3}, {4, 5, 6, 7}


@pytest.mark.parametrize(
    ("mine", "of_node", "share"),
    [
        (FIRST, [FIRST], 4),
        (FIRST, [FIRST, FIRST], 2),
        (FIRST, [FIRST, SECOND], 4),  # bound to sockets
        (FIRST, [FIRST] * 3, 1),
        (FIRST, [FIRST] * 9, 1),  # more ranks than cores
        (FIRST, [FIRST, {0, 1}], 3),  # two alone, two halves
        ({0}, [{0}, {0}], 1),
    ],
)
def test_shares(mine: set[int], of_node: list[set[int]], share: int) -> None:
    assert share_of_cores(mine, of_node) == share


@given(st.lists(st.sets(st.integers(0, 7), min_size=1), min_size=1, max_size=6))
def test_ranks_together_do_not_exceed_the_cores(of_node: list[set[int]]) -> None:
    shares = [share_of_cores(mine, of_node) for mine in of_node]
    assert all(share >= 1 for share in shares)
    assert sum(share for share in shares if share > 1) <= len(set[int]().union(*of_node))


# One write a line: lines of several ranks must not mix.
PROGRAM = r"""
import os, numpy
os.sched_setaffinity(0, eval(os.environ.get("CORES", "os.sched_getaffinity(0)")))
from mpipar.job import world
from mpipar.job.threads import cap_blas_threads
done = cap_blas_threads(world())
print(f"{done.share} {done.chosen or '-'} {' '.join(str(count) for _, count in done.libraries)}\n", end="")
"""


def printed(n: int, **env: str) -> Iterable[list[str]]:
    free = dict.fromkeys(VARIABLES, "")
    done = launch(n, PROGRAM, env=free | env)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines() if line]


@pytest.mark.launches
@pytest.mark.parametrize("n", [0, 2, 3])
def test_ranks_share_the_cores_of_the_node(n: int) -> None:
    share = max(1, len(os.sched_getaffinity(0)) // max(1, n))
    for mine, chosen, *threads in printed(n):
        assert (mine, chosen) == (str(share), "-")
        assert threads, "NumPy's BLAS was found"
        assert all(int(count) <= share for count in threads)


@pytest.mark.launches
@pytest.mark.parametrize(("asked", "most"), [("1", 1), ("64", 64), ("", 64), ("٣", 64)])
def test_slurm_bounds_the_threads_where_it_does_not_bind_to_cores(asked: str, most: int) -> None:
    cores = len(os.sched_getaffinity(0))
    for mine, *_ in printed(1, SLURM_CPUS_PER_TASK=asked):
        assert int(mine) == min(cores, most)


@pytest.mark.launches
def test_the_users_choice_stays() -> None:
    for _, chosen, *threads in printed(2, OPENBLAS_NUM_THREADS="2"):
        assert chosen == "OPENBLAS_NUM_THREADS=2"
        assert set(threads) == {"2"}
