"""Pipeline schedules as data: what each rank does, made, read, checked, timed and drawn without MPI or tensors."""

from __future__ import annotations

from mpipar.parallel.schedule.actions import COMPUTATIONS, KINDS, MESSAGES, SYNC, Action, Schedule
from mpipar.parallel.schedule.check import check
from mpipar.parallel.schedule.cost import Cost, Durations, cost
from mpipar.parallel.schedule.file import as_text, find, read, write
from mpipar.parallel.schedule.formulas import formula
from mpipar.parallel.schedule.makers import NAMES, gpipe, interleaved, make, one_f_one_b, zero_bubble
from mpipar.parallel.schedule.messages import connect

__all__ = [
    "COMPUTATIONS",
    "KINDS",
    "MESSAGES",
    "NAMES",
    "SYNC",
    "Action",
    "Cost",
    "Durations",
    "Schedule",
    "as_text",
    "check",
    "connect",
    "cost",
    "find",
    "formula",
    "gpipe",
    "interleaved",
    "make",
    "one_f_one_b",
    "read",
    "write",
    "zero_bubble",
]
