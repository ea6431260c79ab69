"""Explicit collectives on arrays, over MPI or on one rank alone, and the ledger of what was sent."""

from __future__ import annotations

from mpipar.comm.comm import Comm
from mpipar.comm.handle import Exposed, Handle, Transport
from mpipar.comm.ledger import Call, Ledger
from mpipar.comm.solo import Solo
from mpipar.comm.staged import OnDevice
from mpipar.comm.window import Window

__all__ = [
    "Call", "Comm", "Exposed", "Handle", "Ledger", "OnDevice", "Solo", "Transport", "Window",
]  # fmt: skip
