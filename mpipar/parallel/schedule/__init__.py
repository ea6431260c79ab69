"""Pipeline schedules as data: what each rank does, made, read, checked, timed and drawn without MPI or tensors."""

from __future__ import annotations

from mpipar.parallel.schedule.actions import KINDS, Action, Schedule
from mpipar.parallel.schedule.makers import gpipe, one_f_one_b

__all__ = ["KINDS", "Action", "Schedule", "gpipe", "one_f_one_b"]
