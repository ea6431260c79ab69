"""A signal to one rank stops all ranks after the same step, with exit code 85, wherever the rank was when it came."""

from __future__ import annotations

import pytest

from mpipar.job import world
from mpipar.job.preempt import Preemption
from mpipar.testing import launch

pytestmark = pytest.mark.launches

PROGRAM = """
import os, signal, sys, time
from mpipar.job import world
from mpipar.job.preempt import PREEMPTED, Preemption

how, number = sys.argv[1], getattr(signal, sys.argv[2])
preemption, comm = Preemption(), world()
pids = comm.allgather_object(os.getpid())
for step in range(1, 100):
    if step == 3 and how == "itself" and comm.rank == 1:
        os.kill(os.getpid(), number)
    if step == 3 and how == "in a collective" and comm.rank == 0:
        time.sleep(0.5)  # rank 1 has come to the barrier
        os.kill(pids[1], number)
        time.sleep(0.2)
    comm.barrier()
    if preemption.requested(comm):
        for _ in range(3):
            os.kill(os.getpid(), number)  # while it saves
        print(f"rank {comm.rank} stops after step {step}\\n", end="", flush=True)
        comm.barrier()
        sys.exit(PREEMPTED)
"""


@pytest.mark.parametrize("number", ["SIGUSR1", "SIGTERM"])
@pytest.mark.parametrize("how", ["itself", "in a collective"])
def test_all_ranks_stop_after_the_same_step(how: str, number: str) -> None:
    done = launch(3, PROGRAM, how, number)
    assert done.returncode == 85, done.stderr
    assert sorted(done.stdout.split("\n")[:-1]) == [f"rank {rank} stops after step 3" for rank in range(3)]


def test_signals_that_were_caught_before_count() -> None:
    asked: list[int] = []
    preemption = Preemption(asked)
    assert not preemption.requested(world())
    asked.append(10)
    assert preemption.requested(world())
