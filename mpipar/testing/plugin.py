"""The pytest plugin that makes a run under mpirun trustworthy: `-p mpipar.testing.plugin`, with `--with-mpi`.

A failure on any rank fails the test on all of them, with one report from rank 0; a test that does not end is
named, with the place where each rank stands (`referee.py`). On one rank it does nothing but for the marker.
"""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
import zlib
from collections.abc import Generator
from typing import Any

import pytest

from mpipar.comm import Comm
from mpipar.errors import LauncherError, UsageError
from mpipar.job import launcher, world
from mpipar.job.device import choose, set_default
from mpipar.testing.report import KINDS, grouped, kind_of, outcome_of, ranks_text, settle
from mpipar.testing.witness import Witness, start_referee

LAUNCHES = (
    "launches: the test starts mpirun itself (mpipar.testing.launch): it runs in the run on one rank only"
)
ALONE = "alone: the test needs no other rank: it runs in the run on one rank, and is not collected elsewhere"
GPU = "gpu: the test needs a card: it runs where MPIPAR_TEST_DEVICE=gpu, and is not collected elsewhere"
DEVICE = "MPIPAR_TEST_DEVICE"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("mpipar_test_timeout", "seconds that a test may take on several ranks", default="120")
    parser.addini("mpipar_test_grace", "seconds to finish for the others after a rank failed", default="10")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Before any file of tests asks for the device."""
    if device_of_tests() != "cpu":
        try:  # however many ranks there are for a card: tests are small
            set_default(choose(device_of_tests(), ranks_per_gpu=world().size).xp)
        except (UsageError, LauncherError) as error:
            raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", LAUNCHES)
    config.addinivalue_line("markers", ALONE)
    config.addinivalue_line("markers", GPU)
    if launcher.launched_size() > 1:
        try:
            comm = world().duplicate("tests")
        except LauncherError as error:
            raise pytest.UsageError(str(error)) from None
        own_temporary_directory(config, comm.rank)
        config.pluginmanager.register(Ranks(config, comm), "mpipar ranks")


def device_of_tests() -> str:
    """Where the meshes of tests live that name no device: MPIPAR_TEST_DEVICE."""
    return os.environ.get(DEVICE) or "cpu"


def own_temporary_directory(config: pytest.Config, rank: int) -> None:
    """A place for `tmp_path` on each rank: pytest tidies the one it has, and ranks would tidy it at the same time."""
    if config.option.basetemp:
        os.makedirs(config.option.basetemp, exist_ok=True)
        config.option.basetemp = os.path.join(config.option.basetemp, f"rank-{rank}")
        return
    root = os.environ.get("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    mine = os.path.join(root, f"pytest-ranks-of-{os.getuid()}", str(rank))
    os.makedirs(mine, mode=0o700, exist_ok=True)
    os.environ["PYTEST_DEBUG_TEMPROOT"] = mine


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if runs_elsewhere(item)]
    items[:] = [item for item in items if not runs_elsewhere(item)]
    config.hook.pytest_deselected(items=left_out)
    if launcher.launched_size() > 1:
        skip = pytest.mark.skip(reason="starts mpirun itself: runs in the run on one rank, without mpirun")
        for item in items:
            if item.get_closest_marker("launches") is not None:
                item.add_marker(skip)


def runs_elsewhere(item: pytest.Item) -> bool:
    """Whether the test is of a card, which is not here, or of one rank, where there are several."""
    if item.get_closest_marker("gpu") is not None and device_of_tests() == "cpu":
        return True
    return item.get_closest_marker("alone") is not None and launcher.launched_size() > 1


class Ranks:
    """The hooks of a run on several ranks."""

    def __init__(self, config: pytest.Config, comm: Comm) -> None:
        self._config, self._comm = config, comm
        self._referee: subprocess.Popen[str] | None = None
        address = None
        if comm.rank == 0:
            limits = (seconds(config, "timeout"), seconds(config, "grace"))
            self._referee, address = start_referee(comm.size, *limits, one_machine())
        self._witness = Witness(comm, comm.broadcast_object(address))
        self._broken: list[str] = []  # files that could not be collected
        self._begun = self._phases = 0
        self._interrupted = False

    # ---- one voice --------------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        if self._comm.rank > 0:
            # Closed by the end of the process; the file is pytest's way to a terminal.
            self._config.get_terminal_writer()._file = open(os.devnull, "w")  # noqa: SIM115
        self._witness.enter("the collection of the tests")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        if not self._interrupted:
            self._witness.enter("the end of the session")
        self._witness.tell("leaving")
        yield
        if self._comm.rank > 0:
            session.exitstatus = 0  # rank 0 speaks: a launcher may end all ranks at the first other code

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_unconfigure(self) -> Generator[None, None, None]:
        try:
            yield
        finally:  # whatever another plugin's end runs into: the other ranks wait here
            with self._witness.waiting():
                self._comm.barrier()
            self._witness.close()
            if self._referee is not None:
                self._referee.wait()

    # ---- the same tests everywhere ----------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, Any, Any]:
        try:
            return (yield)
        except pytest.UsageError:
            if self._comm.rank > 0:
                pytest.exit("rank 0 tells why")
            raise

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._broken.append(f"{report.nodeid}\n{report.longreprtext}")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        mine = [item.nodeid for item in session.items]
        with self._witness.waiting():
            everyone = self._comm.allgather_object((zlib.crc32("\n".join(mine).encode()), self._broken))
        if any(other != everyone[0] for other in everyone):
            theirs = self._comm.broadcast_object(mine)
            differences = self._comm.allgather_object(difference(theirs, mine))
            for line in mismatch(differences, [broken for _, broken in everyone]):
                self._config.get_terminal_writer().line(line)
            pytest.exit("the ranks have collected different tests", returncode=3)
        self._witness.enter("")

    # ---- one outcome everywhere -------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._witness.enter(item.nodeid, str(item.path))
        self._tell_counts(item.session)
        result = yield
        self._witness.enter("")  # not reached where the session is interrupted: the referee names this test
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        self._witness.tell("phase", phase="setup")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        self._witness.tell("phase", phase="call")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        self._witness.tell("phase", phase="teardown")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if kind_of(report) == "failed":
            self._witness.tell("failed", text=self._shown(report))
        with self._witness.waiting():
            self._agree(report)
        self._witness.tell("settled")
        return report

    def _agree(self, report: pytest.TestReport) -> None:
        """One small allreduce tells whether all went alike and well; only otherwise texts are exchanged."""
        self._phases += 1
        kind = KINDS.index(kind_of(report))
        phase = zlib.crc32(f"{report.nodeid} {report.when} {self._phases}".encode())
        xp = self._comm.xp
        told = self._comm.allreduce(xp.from_host([kind, -kind, phase, -phase], "int64"), "max")
        worst, minus_best, last, minus_first = map(int, xp.to_host(told))
        if last != -minus_first:
            places = self._comm.allgather_object(f"{report.nodeid} ({report.when})")
            pytest.exit(f"the ranks run different tests: {', '.join(places)}", returncode=3)
        if worst != -minus_best or KINDS[worst] == "failed":
            settle(report, self._comm.allgather_object(outcome_of(report, self._shown(report))))

    def _shown(self, report: pytest.TestReport) -> str:
        """The report as pytest writes it (`longreprtext` loses the indentation of the first line)."""
        file = io.StringIO()
        report.toterminal(type(self._config.get_terminal_writer())(file))
        return file.getvalue().rstrip()

    # ---- what the referee needs -------------------------------------------------------------------------

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self._comm.rank == 0:
            self._witness.tell("story", text=self._shown(report), **headings(report))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self._interrupt(f"{excinfo.typename}: {excinfo.value}")

    def pytest_internalerror(self, excrepr: Any) -> None:
        self._interrupt(str(excrepr))

    def _interrupt(self, text: str) -> None:
        """This rank leaves the session: the others must follow."""
        self._interrupted = True
        self._witness.tell("failed", text=text)

    def pytest_enter_pdb(self) -> None:
        self._witness.enter("")

    def _tell_counts(self, session: pytest.Session) -> None:
        reporter = self._config.pluginmanager.getplugin("terminalreporter")
        self._begun += 1
        if self._comm.rank == 0 and reporter is not None:
            counts = {name: len(reports) for name, reports in reporter.stats.items() if name}
            self._witness.tell("counts", counts=counts, unrun=len(session.items) - self._begun)


def headings(report: pytest.TestReport) -> dict[str, str]:
    """How pytest heads a failure in its report and in its summary."""
    name = report.head_line or report.nodeid
    message = (outcome_of(report, "").message or str(report.longrepr)).partition("\n")[0]
    if report.when == "call":
        return {"headline": name, "summary": f"FAILED {report.nodeid} - {message}"}
    return {"headline": f"ERROR at {report.when} of {name}", "summary": f"ERROR {report.nodeid} - {message}"}


def seconds(config: pytest.Config, name: str) -> float:
    """MPIPAR_TEST_TIMEOUT or MPIPAR_TEST_GRACE, else the ini value."""
    text = os.environ.get(f"MPIPAR_TEST_{name.upper()}") or config.getini(f"mpipar_test_{name}")
    try:
        return float(text)
    except ValueError:
        raise pytest.UsageError(f"mpipar_test_{name}: {text!r} is no number of seconds") from None


def one_machine() -> bool:
    """Whether all ranks run here, as the launcher tells it: then the referee listens to this machine alone."""
    here = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or os.environ.get("MPI_LOCALNRANKS")
    return here == str(launcher.launched_size())


def difference(theirs: list[str], mine: list[str]) -> str:
    """How my list of tests differs from that of rank 0; empty where it does not."""
    if theirs == mine:
        return ""
    missing = [f"lacks {name}" for name in theirs if name not in set(mine)]
    extra = [f"has {name}" for name in mine if name not in set(theirs)]
    first = next((i for i, pair in enumerate(zip(theirs, mine, strict=False)) if len(set(pair)) == 2), 0)
    order = [] if missing or extra else [f"has {mine[first]} where rank 0 has {theirs[first]}"]
    shown = [*missing, *extra, *order]
    return "; ".join(shown[:5]) + (f"; and {len(shown) - 5} more" if len(shown) > 5 else "")


def mismatch(differences: list[str], broken: list[list[str]]) -> list[str]:
    """What rank 0 says of different collections."""
    lines = [""]
    for text, ranks in grouped((text, rank) for rank, texts in enumerate(broken) for text in texts):
        lines.append(f"{ranks_text(ranks)} could not collect {text}")
    lines.append("The ranks have collected different tests. Compared with rank 0,")
    return lines + [f"  rank {rank} {text}" for rank, text in enumerate(differences) if text]
