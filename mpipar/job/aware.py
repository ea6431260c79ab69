"""Whether MPI takes memory of a card: the user says it, or the library does and a child process has seen it work.

A library that says yes and cannot (a transport that was built without it) dies of SIGSEGV: so a child tries it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from typing import Literal, TypeAlias

from mpipar.errors import UsageError
from mpipar.job import launcher

Claim: TypeAlias = Literal["yes", "perhaps", "no"]

VARIABLE = "MPIPAR_GPU_AWARE_MPI"
SECONDS = 60  # that the child has
KEPT = ("OMPI_MCA_opal_cuda_support",)  # says nothing of a rank; switches Open MPI's support on


def claim() -> Claim:
    """By the user: 0 or 1 in MPIPAR_GPU_AWARE_MPI. Else "perhaps" where the library says yes. After MPI has started."""
    said = os.environ.get(VARIABLE, "")
    if said not in ("", "0", "1"):
        raise UsageError(
            f"{VARIABLE}={said!r}: write 1 (MPI takes memory of a GPU), 0 (it does not), or unset it"
        )
    if said:
        return "yes" if said == "1" else "no"
    return "perhaps" if mpi_says_yes(launcher.loaded_library()) else "no"


def mpi_says_yes(path: str) -> bool:
    """MPIX_Query_cuda_support of a loaded library; no where it has no such function."""
    try:
        query = ctypes.CDLL(path).MPIX_Query_cuda_support if path else None
    except (OSError, AttributeError):
        return False
    return query is not None and query() == 1


def probe(card: int) -> bool:
    """Whether a child process, an MPI job of its own, sends an array of the card to itself and gets it."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    command = [sys.executable, "-m", "mpipar.job.probe", str(card)]
    try:
        done = subprocess.run(
            command, env=launcher.clean_environment() | kept, timeout=SECONDS, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
