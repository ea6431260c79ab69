"""For tests of parallel programs, mpipar's and yours. The pytest plugin is `-p mpipar.testing.plugin`."""

from __future__ import annotations

from mpipar.testing.collectives import Tally, count_collectives
from mpipar.testing.grads import check_grads
from mpipar.testing.launch import Finished, LaunchTimeout, find_mpirun, launch
from mpipar.testing.moves import check_moves
from mpipar.testing.parallel import check_every_placement, check_parallel
from mpipar.testing.placements import legal_placements

__all__ = [
    "Finished", "LaunchTimeout", "Tally", "check_every_placement", "check_grads", "check_moves", "check_parallel",
    "count_collectives", "find_mpirun", "launch", "legal_placements",
]  # fmt: skip
