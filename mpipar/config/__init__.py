"""The settings of a run: one frozen dataclass, the flags and the TOML file made from it, and its checks."""

from __future__ import annotations

from mpipar.config.axes import AXES, parse_axes
from mpipar.config.toml import as_toml
from mpipar.config.train import TrainConfig, check, mesh_axes, parse

__all__ = ["AXES", "TrainConfig", "as_toml", "check", "mesh_axes", "parse", "parse_axes"]
