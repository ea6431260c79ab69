"""The settings of a run: one frozen dataclass, the flags and the TOML file made from it, and its checks."""

from __future__ import annotations

from mpipar.config.axes import AXES, parse_axes
from mpipar.config.flags import spelling
from mpipar.config.toml import as_toml
from mpipar.config.train import (
    AUTO,
    NONE,
    TrainConfig,
    check,
    known_flags,
    mesh_axes,
    micro_batches,
    parse,
    settings,
)

__all__ = [
    "AUTO",
    "AXES",
    "NONE",
    "TrainConfig",
    "as_toml",
    "check",
    "known_flags",
    "mesh_axes",
    "micro_batches",
    "parse",
    "parse_axes",
    "settings",
    "spelling",
]
