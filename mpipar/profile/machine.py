"""What this process uses of its machine, and what the machine can do."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path
from time import perf_counter

from mpipar.backend import Backend, DType

SIDE, REPEATS = 1024, 8  # of the square product: 2 GFLOP


def peak_flops(xp: Backend, dtype: DType) -> float:
    """FLOP/s of a square product in that dtype on this rank: the best of a few."""
    a, b = (xp.full((SIDE, SIDE), value, dtype) for value in (0.5, 0.25))
    best = float("inf")
    for _ in range(REPEATS):
        begin = perf_counter()
        xp.item(xp.matmul(a, b)[0, 0])  # the number is there when the product is
        best = min(best, perf_counter() - begin)
    return 2 * SIDE**3 / best


def page_faults() -> int:
    """Minor ones of this process so far: pages that the kernel had to find, without a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def peak_memory() -> int:
    """Bytes of this process that were resident at most, Python and its libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine() -> dict[str, object]:
    """What timings depend on."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )
