"""Checkpoints: every rank writes its slices, any mesh reads them. `docs/checkpoints.md` has format and protocol."""

from __future__ import annotations

from mpipar.checkpoint.loader import Loaded, latest, load
from mpipar.checkpoint.saver import Saver, save
from mpipar.checkpoint.state import Together
from mpipar.checkpoint.tools import ls, merge, read, show, verify

__all__ = ["Loaded", "Saver", "Together", "latest", "load", "ls", "merge", "read", "save", "show", "verify"]
