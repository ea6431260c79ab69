"""The meshes that the laws are tested on: all ranks on one axis, and every way to put them on two."""

from __future__ import annotations

import os

import pytest

from mpipar.job import world
from mpipar.job.device import choose

ONE_AXIS: dict[str, int] = {"tp": world().size}
TWO_AXES: list[dict[str, int]] = [
    {"dp": dp, "tp": world().size // dp} for dp in range(1, world().size + 1) if world().size % dp == 0
]
MIXED = TWO_AXES[len(TWO_AXES) // 2]  # ranks on both, where there are 4
GRIDS = [ONE_AXIS, *TWO_AXES]


def grid_name(axes: dict[str, int]) -> str:
    return "-".join(f"{axis}{size}" for axis, size in axes.items())


two_axes = pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
all_grids = pytest.mark.parametrize("axes", GRIDS, ids=grid_name)
HOME = choose(None).xp.name  # the CPU, or a card: MPIPAR_TEST_DEVICE
# and the double (double.py), unless the device was named: its kernels are NumPy's, whatever those of the CPU are
EVERY_DEVICE = [HOME] if os.environ.get("MPIPAR_TEST_DEVICE") else [HOME, "double"]
cpu_alone = pytest.mark.parametrize(  # wherever the suite runs
    "device", [pytest.param("cpu", marks=pytest.mark.cpu)], indirect=True
)
one_device = pytest.mark.parametrize("device", [HOME], indirect=True)  # not the double
# for what takes long: how ranks are arranged is no matter of the device
devices_and_grids = pytest.mark.parametrize(
    ("device", "axes"),
    [
        pytest.param(device, axes, id=f"{device}-{grid_name(axes)}")
        for device, grids in zip(EVERY_DEVICE, (GRIDS, [ONE_AXIS, MIXED]), strict=False)
        for axes in grids
    ],
    indirect=["device"],
)
