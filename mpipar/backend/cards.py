"""The cards that this process can use, or why it cannot use any, with the line to write.

Asking allocates nothing on a card and needs no MPI.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from mpipar.backend.base import Backend

NEWEST = 13  # of the CUDA versions for which there is an extra: cuda12, cuda13
OLDEST = 12


@dataclass(frozen=True)
class Seen:
    """A card as this process sees it."""

    number: int  # CUDA's, from 0: what is visible here
    identity: str  # the same for all processes of a machine that see this card
    name: str


@dataclass(frozen=True)
class Look:
    """What there is: cards, or a problem in one sentence with what to write."""

    cards: tuple[Seen, ...] = ()
    problem: str = ""


def look() -> Look:
    """The visible cards, in CUDA's order. Imports CuPy."""
    packages = installed_packages()
    if len(packages) > 1:
        return Look(problem=two_packages(packages))
    try:
        import cupy  # noqa: PLC0415  (only where a card is wanted)
    except ImportError as error:
        return Look(problem=no_cupy(driver_version(), packages, error))
    runtime = cupy.cuda.runtime
    try:
        problem = misfit(runtime.driverGetVersion(), runtime.runtimeGetVersion())
        count = 0 if problem else runtime.getDeviceCount()
        cards = tuple(seen(number, runtime.getDeviceProperties(number)) for number in range(count))
    except runtime.CUDARuntimeError as error:
        return Look(problem=f"CUDA finds no card that it can use ({error}); `nvidia-smi` shows what is wrong")
    return Look(cards, problem or ("" if cards else NO_CARD))


NO_CARD = (
    "no card is visible to this process: is CUDA_VISIBLE_DEVICES empty, or was the job started without a GPU?"
)


def take(number: int, name: str, gpu_aware: bool) -> Backend:
    """The backend of a card: this process computes on it from now on."""
    from mpipar.backend import cupy  # noqa: PLC0415  (needs CuPy)
    from mpipar.backend.cupy.host import Card  # noqa: PLC0415

    cupy.use(Card(number, name, gpu_aware))
    return cupy


def seen(number: int, properties: dict[str, Any]) -> Seen:
    """A part of a card (MIG) has the bus of the whole, and a uuid of its own."""
    bus = [properties[f"pci{part}ID"] for part in ("Domain", "Bus", "Device")]
    return Seen(number, f"{bus} {properties['uuid']!r}", properties["name"].decode(errors="replace"))


def installed_packages() -> list[str]:
    """The distributions that bring a module `cupy`."""
    names = {str(each.metadata["Name"]).lower() for each in metadata.distributions()}
    return sorted(name for name in names if name == "cupy" or name.startswith(("cupy-cuda", "cupy-rocm")))


def driver_version() -> int:
    """CUDA's version that the driver speaks, 12040 for 12.4, asked without CuPy; 0 without a driver."""
    try:
        driver, version = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
    except OSError:
        return 0
    return version.value if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 else 0


def two_packages(packages: list[str]) -> str:
    return (
        f"{len(packages)} packages bring CuPy ({', '.join(packages)}) and overwrite each other: write\n"
        f"  pip uninstall -y {' '.join(packages)} && {install(driver_version())}"
    )


def no_cupy(driver: int, packages: list[str], error: ImportError) -> str:
    """No CuPy, or one that cannot be imported."""
    if packages:
        return f"{packages[0]} is installed but cannot be imported: {first_line(error)}"
    return no_driver() if not driver else f"CuPy is not installed: write  {install(driver)}"


def misfit(driver: int, runtime: int) -> str:
    """What is wrong between the driver and the CUDA for which CuPy was built (12040 is 12.4); empty if not."""
    if not driver:
        return no_driver()
    if driver // 1000 < OLDEST:
        return (
            f"the NVIDIA driver speaks CUDA {spoken(driver)}, and CuPy needs {OLDEST}.0 or newer: update the driver "
            "(525 or newer)"
        )
    if driver // 1000 < runtime // 1000:
        built = runtime // 1000
        return (
            f"CuPy is built for CUDA {built}, and the NVIDIA driver speaks {spoken(driver)}: write\n"
            f"  pip uninstall -y cupy-cuda{built}x && {install(driver)}\n"
            "  or update the driver"
        )
    return ""


def no_driver() -> str:
    return "there is no NVIDIA driver on this machine"


def install(driver: int) -> str:
    """The pip line for a driver, 0 where there is none."""
    version = min(NEWEST, driver // 1000) if driver else OLDEST
    return f"pip install 'mpipar[cuda{max(OLDEST, version)}]'"


def spoken(version: int) -> str:
    """12.4 for 12040."""
    return f"{version // 1000}.{version % 1000 // 10}"


def first_line(error: BaseException) -> str:
    lines = [line.strip(" =") for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)
