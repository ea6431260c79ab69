"""Who competes with whom, and a contest: workers that take turns at one step after the other."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from shape import Shape

HERE = Path(__file__).parent
START_S, STEP_S = 300, 600  # seconds after which a worker that says nothing counts as hung
KEEPS_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647:glibc.malloc.top_pad=268435456"
# what would choose other kernels or other threads for one side than for the other
DROPPED = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "GLIBC_TUNABLES",
    "MALLOC_",
    "OMP_",
    "MKL_",
    "OPENBLAS_NUM_THREADS",
)


@dataclass(frozen=True)
class Competitor:
    """A program in a contest. `mode`: one, dp, tp (mpipar), dtensor, hand (torch's two forms of tensor parallelism)."""

    name: str
    side: str  # mpipar or torch
    mode: str = "one"
    threads: int = 1
    tuned: bool = False  # torch with the C library told to keep freed memory, as mpipar tells it by itself


ONE = [
    Competitor("mpipar", "mpipar"),
    Competitor("torch", "torch"),
    Competitor("torch, tuned malloc", "torch", tuned=True),
]
TENSOR_PARALLEL = [
    Competitor("mpipar", "mpipar", "tp"),
    Competitor("DTensor", "torch", "dtensor"),
    Competitor("DTensor, tuned malloc", "torch", "dtensor", tuned=True),
    Competitor("by hand", "torch", "hand"),
    Competitor("by hand, tuned malloc", "torch", "hand", tuned=True),
]
DATA_PARALLEL = [
    Competitor("mpipar", "mpipar", "dp"),
    Competitor("DDP", "torch", "dp"),
    Competitor("DDP, tuned malloc", "torch", "dp", tuned=True),
]
TWO_THREADS = [
    Competitor("mpipar", "mpipar", threads=2),
    Competitor("torch", "torch", threads=2),
    Competitor("torch, tuned malloc", "torch", threads=2, tuned=True),
]


def why_not(c: Competitor, s: Shape, ranks: int) -> str:
    """Why a competitor cannot take part; empty where it can. mpipar's pieces may be uneven, torch's may not."""
    if c.mode == "hand" and (s.heads % ranks or s.vocabulary % ranks):
        return f"{s.heads} heads or {s.vocabulary} tokens do not divide into {ranks}"
    if c.mode == "dtensor" and s.heads % ranks:
        return f"{s.heads} heads do not divide into {ranks}"
    return ""


@dataclass
class Entry:
    """A competitor in a contest, with what was measured of it: a number for each step."""

    competitor: Competitor
    lines: list[Any] = field(default_factory=list)  # to the ranks, in the order of the ranks
    log: Path = Path()
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)  # minor page faults of the rank that has most
    peak: int = 0  # bytes, of the rank that has most
    versions: dict[str, str] = field(default_factory=dict)

    def step(self, number: int) -> None:
        """One step of all ranks: from the first that begins to the last that ends."""
        for line in self.lines:
            line.write(f"{number}\n")
            line.flush()
        answers = [self.heard(line) for line in self.lines]
        self.seconds.append(max(a["end"] for a in answers) - min(a["begin"] for a in answers))
        self.losses.append(sum(a["loss"] for a in answers))
        self.faults.append(max(a["faults"] for a in answers))
        self.peak = max(a["peak"] for a in answers)

    def heard(self, line: Any) -> dict[str, Any]:
        try:
            text = line.readline()
        except TimeoutError:
            text = ""
        if not text:
            raise SystemExit(f"{self.competitor} failed or hangs:\n{self.log.read_text()[-3000:]}")
        answer: dict[str, Any] = json.loads(text)
        return answer


def contest(competitors: Sequence[Competitor], s: Shape, ranks: int, steps: int, mpirun: str) -> list[Entry]:
    """All competitors train on the same batches, one step each in turn, in another order each time."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        entries = [
            stack.enter_context(started(c, s, 1 if c.mode == "one" else ranks, mpirun, Path(place) / str(k)))
            for k, c in enumerate(competitors)
        ]
        for number in range(steps):
            for k in range(len(entries)):
                entries[(k + number) % len(entries)].step(number)
    return entries


@contextmanager
def started(c: Competitor, s: Shape, ranks: int, mpirun: str, place: Path) -> Iterator[Entry]:
    """The ranks of a competitor, ready for their first step and asleep."""
    place.mkdir()
    entry = Entry(c, log=place / "log")
    cores = sorted(os.sched_getaffinity(0))
    job = {
        "name": c.name, "side": c.side, "mode": c.mode, "threads": c.threads, "ranks": ranks, "shape": asdict(s),
        "cores": cores[: c.threads] if ranks == 1 else cores,
        "address": str(place / "line"), "store": str(place / "store"),
    }  # fmt: skip
    with (
        entry.log.open("w") as log,
        socket.socket(socket.AF_UNIX) as door,
        ExitStack() as stack,
    ):
        door.bind(job["address"])
        door.listen()
        running = [start(command, env, log) for command, env in commands(c, ranks, mpirun, json.dumps(job))]
        try:
            welcome(entry, door, ranks, running, stack)
            yield entry
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()


def commands(c: Competitor, ranks: int, mpirun: str, job: str) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The processes to start, with their environment: one mpirun, or each rank of torch."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
    worker = [sys.executable, str(HERE / "worker.py"), job]
    if c.side == "mpipar":
        one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} if c.threads == 1 else {}
        yield [*shlex.split(mpirun), "-n", str(ranks), *worker], env | one
        return
    env |= {"OMP_NUM_THREADS": str(c.threads), "MKL_NUM_THREADS": str(c.threads), "GLOO_SOCKET_IFNAME": "lo"}
    env |= {"GLIBC_TUNABLES": KEEPS_MEMORY} if c.tuned else {}
    for rank in range(ranks):
        yield worker, env | {"RANK": str(rank)}


def start(command: list[str], env: dict[str, str], log: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise SystemExit(f"{command[0]} cannot be started: {error.strerror}") from None


def welcome(
    entry: Entry,
    door: socket.socket,
    ranks: int,
    running: Sequence[subprocess.Popen[bytes]],
    stack: ExitStack,
) -> None:
    """Waits until every rank has said that it is ready."""
    found: dict[int, Any] = {}
    until = monotonic() + START_S
    door.settimeout(0.5)
    while len(found) < ranks:
        if monotonic() > until or any(process.poll() for process in running):
            raise SystemExit(f"{entry.competitor} does not start:\n{entry.log.read_text()[-3000:]}")
        try:
            line, _ = door.accept()
        except TimeoutError:
            continue
        line.settimeout(STEP_S)
        file = stack.enter_context(stack.enter_context(line).makefile("rw"))
        hello = entry.heard(file)
        found[hello["rank"]], entry.versions = file, hello["versions"]
    entry.lines = [found[rank] for rank in range(ranks)]
