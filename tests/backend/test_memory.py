"""What the C library does with freed memory, and the pages that arrays lie on: seen from outside, in a process each."""

import pytest

from mpipar.backend.numpy import memory
from mpipar.testing import launch

pytestmark = pytest.mark.launches

PROGRAM = """
import resource
from mpipar.backend.numpy.memory import keep_memory
LIMIT
print(keep_memory())
import numpy as np
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    return [np.ones(1 << 19, np.float32) for _ in range(20)]
step(), step()
before = faults()
for _ in range(5):
    step()
print(faults() - before < 100)
with open("/proc/self/smaps_rollup") as lines:
    large = next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))  # KiB
print(large >= 30_000)
"""


@pytest.fixture
def said(monkeypatch):
    """Whether memory is kept, a step makes no page faults, arrays of 2 MiB lie on large pages."""
    for name in memory.SETTINGS:
        monkeypatch.delenv(name, raising=False)

    def said(limit="", **env):
        done = launch(0, PROGRAM.replace("LIMIT", limit), env=env)
        assert done.returncode == 0, done.stderr
        return [word == "True" for word in done.stdout.split()]

    return said


def test_a_second_step_asks_for_no_new_memory(said):
    assert said()[:2] == [True, True]


@pytest.mark.skipif(memory.large_pages() != "madvise", reason="Linux gives large pages always, or never")
def test_arrays_lie_on_large_pages(said):
    assert said()[2]


@pytest.mark.skipif(memory.large_pages() != "madvise", reason="Linux gives large pages always, or never")
def test_no_room_is_taken_where_addresses_are_counted(said):
    assert said("resource.setrlimit(resource.RLIMIT_DATA, (1 << 32, 1 << 32))") == [True, True, False]


def test_who_sets_the_c_library_is_left_alone(said):
    assert not said(MALLOC_TOP_PAD_="65536")[0]
