"""Reading the arrays of other ranks without their part in it: `expose` and `fetch`.

What comes is what its owner exposed. A run that stands still in `fetch` waits for an owner that is not inside
MPI, which makes no progress by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from rank_data import DTYPES, of_rank

from mpipar.comm import Comm, large
from mpipar.errors import CommError
from mpipar.job import world
from mpipar.mesh import Mesh
from mpipar.testing import launch

SIZE, RANK = world().size, world().rank
RANKS = range(SIZE)


@pytest.fixture(params=[large.LIMIT, 1000], ids=["whole", "in parts"])
def comm(
    request: pytest.FixtureRequest, make_mesh: Callable[..., Mesh], monkeypatch: pytest.MonkeyPatch
) -> Comm:
    monkeypatch.setattr(large, "LIMIT", request.param)
    return make_mesh(tp=SIZE)["tp"]


def check(comm: Comm, found: Any, wanted: Any) -> None:
    here = comm.xp.to_host(found)
    assert (here.dtype, here.shape, here.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_rank_reads_every_rank(comm: Comm, dtype: str) -> None:
    """Arrays of different lengths, one of them empty where there are several; slices in any order."""
    every = [of_rank(rank, (700 * (rank % 3), 3), dtype) for rank in RANKS]
    if SIZE == 1:
        every = [of_rank(0, (700, 3), dtype)]
    with comm.expose(comm.xp.from_host(every[RANK])) as window:
        assert window.shapes == tuple(x.shape for x in every)
        for rank in sorted(RANKS, key=lambda rank: (rank - RANK) % SIZE):
            rows = len(every[rank])
            check(comm, window.fetch(rank), every[rank])
            check(
                comm,
                window.fetch(rank, rows // 3, rows - rows // 4),
                every[rank][rows // 3 : rows - rows // 4],
            )
            check(comm, window.fetch(rank, rows), every[rank][rows:])


def test_shapes_and_dtypes_may_differ(comm: Comm) -> None:
    shapes = [(), (5,), (2, 3, 2), (0, 4)]
    every = [of_rank(rank, shapes[rank], DTYPES[rank]) for rank in RANKS]
    with comm.expose(comm.xp.from_host(every[RANK])) as window:
        assert window.dtypes == tuple(DTYPES[:SIZE])
        for rank in RANKS:
            check(comm, window.fetch(rank), every[rank])


def test_what_is_not_contiguous(comm: Comm) -> None:
    every = [of_rank(rank, (4, 6), "float32") for rank in RANKS]
    with comm.expose(comm.xp.from_host(every[RANK]).T) as window:
        other = (RANK + 1) % SIZE
        check(comm, window.fetch(other, 1, 3), every[other].T.copy()[1:3])


def test_in_the_background_several_at_once_and_two_windows(comm: Comm) -> None:
    every = [of_rank(rank, (400, 5), "float64") for rank in RANKS]
    x = comm.xp.from_host(every[RANK])
    with comm.expose(x) as first, comm.expose(x[100:]) as second:
        handles = [(rank, first.ifetch(rank, 3, 399), second.ifetch(rank)) for rank in RANKS]
        for rank, one, other in reversed(handles):
            check(comm, other.wait(), every[rank][100:])
            while not one.test():
                pass
            check(comm, one.wait(), every[rank][3:399])


def test_ranks_may_fetch_as_often_as_they_like(comm: Comm) -> None:
    every = [of_rank(rank, (10,), "int64") for rank in RANKS]
    with comm.expose(comm.xp.from_host(every[RANK])) as window:
        for number in range(5 * RANK):
            check(comm, window.fetch(number % SIZE, number % 10), every[number % SIZE][number % 10 :])


def test_the_block_ends_when_all_ranks_have_read(comm: Comm) -> None:
    x = comm.xp.from_host(of_rank(RANK, (100,), "float32"))
    with comm.expose(x) as window:
        came = [window.fetch(rank) for rank in RANKS] if RANK == SIZE - 1 else []
    comm.xp.fill(x, 0)
    comm.barrier()
    for rank, found in enumerate(came):
        check(comm, found, of_rank(rank, (100,), "float32"))


# ---- errors -----------------------------------------------------------------------------------------------


def test_rows_and_ranks_that_there_are_not(comm: Comm) -> None:
    with comm.expose(comm.xp.zeros((5, 2), "float32")) as window:
        for start, stop in ((-1, 3), (4, 3), (0, 6), (6, None)):
            with pytest.raises(ValueError, match=r"fetch on 'tp': rows .*; the array of rank 0 has 5"):
                window.fetch(0, start, stop)
        for rank in (-1, SIZE):
            with pytest.raises(ValueError, match=f"rank={rank} on 'tp': the ranks are 0 to {SIZE - 1}"):
                window.fetch(rank)
    with pytest.raises(CommError, match="fetch on 'tp': the window is closed; fetch inside its with block"):
        window.fetch(0)
    with (
        comm.expose(comm.xp.zeros((), "float32")) as window,
        pytest.raises(ValueError, match=r"0-d and has no rows; fetch\(0\)"),
    ):
        window.fetch(0, 0, 1)


PROGRAM = """
    import mpipar as mp
    comm = mp.Mesh(tp=2)["tp"]
    try:
        with comm.expose(comm.xp.zeros((4,), "float32")) as window:
            window.fetch(1)
            if {fails}:
                raise RuntimeError("stop")
            {then}
    except RuntimeError{caught}
    print("went on", flush=True)
    comm.barrier()
"""


@pytest.mark.launches
def test_an_error_inside_the_block_ends_the_job(tmp_path: Path) -> None:
    """It does not wait for the other rank, which waits for this one."""
    program = PROGRAM.format(
        fails="comm.rank == 0", then="comm.barrier()", caught=" as e: raise ValueError('end') from e"
    )
    (tmp_path / "one.py").write_text(dedent(program))
    run = launch(2, tmp_path / "one.py", cwd=tmp_path, timeout=60)
    assert run.returncode == 1
    assert "ValueError: end" in run.stderr


@pytest.mark.launches
def test_an_error_of_all_ranks_may_be_caught(tmp_path: Path) -> None:
    (tmp_path / "all.py").write_text(dedent(PROGRAM.format(fails="True", then="pass", caught=": pass")))
    run = launch(2, tmp_path / "all.py", cwd=tmp_path, timeout=60)
    assert (run.returncode, run.stdout.count("went on\n")) == (0, 2), run.stderr
