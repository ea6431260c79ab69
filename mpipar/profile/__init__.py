"""Where a step's time goes: operations, moves and collectives as they run, summed up or drawn over time."""

from __future__ import annotations

from mpipar.profile.machine import machine, page_faults, peak_flops, peak_memory
from mpipar.profile.sums import Sums, measured
from mpipar.profile.trace import Trace, check_trace
from mpipar.profile.watch import Event, watch

__all__ = [
    "Event",
    "Sums",
    "Trace",
    "check_trace",
    "machine",
    "measured",
    "page_faults",
    "peak_flops",
    "peak_memory",
    "watch",
]
