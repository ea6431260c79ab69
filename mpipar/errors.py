"""The errors that mpipar raises by name. Each message says what, where, and what to write."""

from __future__ import annotations


class UsageError(ValueError):
    """Something that the user got wrong: shown as one message without a traceback, exit code 2."""


class DivergedError(UsageError):
    """A loss or a gradient norm that is not finite: the run stops, naming step and rank."""


class SanityError(UsageError):
    """Ranks that should hold the same and do not: the message names the step, the ranks and the weight."""


class CheckpointError(UsageError):
    """A checkpoint that cannot be written, or that is refused: the message names the file and the reason."""


class ScheduleError(UsageError):
    """A pipeline schedule that no ranks could run: the message names the rank, the action and what is wrong."""


class PlacementError(ValueError):
    """Placements that do not fit an operation or a move, with the line to write and its price."""


class LauncherError(RuntimeError):
    """MPI is missing, or the launcher and the MPI library do not fit: N separate jobs of one rank."""


class CommError(RuntimeError):
    """Ranks that disagree about a message or a collective."""


class GraphError(RuntimeError):
    """A backward pass that the tape cannot run: freed already, not a scalar, or after sync."""


class OutOfMemoryError(UsageError, MemoryError):
    """The memory of a GPU is full: what was asked for, what is free, what to lower."""
