"""What all tests share: the device that arrays live on, and meshes on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import hypothesis
import pytest
from double import DoubleBackend
from grids import EVERY_DEVICE

from mpipar import Mesh
from mpipar.backend import Backend, cpu
from mpipar.job.device import choose

hypothesis.settings.register_profile(
    "ranks", derandomize=True, database=None, deadline=None
)  # alike on all ranks
hypothesis.settings.load_profile("ranks")

COMPILED = find_spec("numba") is not None  # the extra `fast`
collect_ignore = ["slurm"]  # minutes, and root: only where named, `python -m pytest tests/slurm`
if not COMPILED:
    collect_ignore.append("compiled")

HOME = choose(None).xp  # of MPIPAR_TEST_DEVICE
DEVICES: dict[str, Backend] = {"cpu": cpu(), HOME.name: HOME, "double": DoubleBackend()}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cpu: the meshes of the test are on the CPU, wherever the suite runs")


@pytest.fixture(params=EVERY_DEVICE)
def device(request: pytest.FixtureRequest) -> str:
    """A device by name: the CPU, and the double that refuses to be copied in silence; or what was asked for alone."""
    name: str = request.param
    return name


@pytest.fixture
def make_mesh(device: str) -> Callable[..., Mesh]:
    """``make_mesh(dp=2, tp=2)``: the mesh of all ranks with these axes, on the device."""
    return lambda **axes: mesh_on(device, tuple(axes.items()))


@cache
def mesh_on(device: str, axes: tuple[tuple[str, int], ...]) -> Mesh:
    """Made once: an MPI has about 2,000 communicators to give."""
    return Mesh(device=DEVICES[device], **dict(axes))


def pytest_report_header() -> str:
    kernels = cpu().__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    left_out = "" if COMPILED else "; tests/compiled is left out: it needs the extra fast"
    return f"kernels of the CPU: {kernels}{left_out}"


LAWS = pytest.StashKey[Counter[str]]()


@pytest.fixture
def count_cases(request: pytest.FixtureRequest) -> Counter[str]:
    """Cases that were tried, by law: ``count_cases["moves"] += 48``. The last line of the run tells them."""
    return request.config.stash.setdefault(LAWS, Counter())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    cases = config.stash.get(LAWS, Counter())
    if cases:
        told = ", ".join(f"{count:,} {law}" for law, count in sorted(cases.items()))
        terminalreporter.write_line(f"laws held: {told}")
