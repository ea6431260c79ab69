"""Save and load against a plain write with fsync and a plain read of the same bytes on the same disk.

    mpirun -n 2 python benchmarks/checkpoint.py --mib 256 --out DIRECTORY

They are interleaved and repeated, and the one that comes first in a round comes second in the next: a disk may be
fast for its first burst only. The table has medians over the rounds, of the slowest rank. Before a cold read the files
are put out of the page cache; a warm one follows it. The plain forms move buffers of 4 MiB from and into memory that is
there already, and hash nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from mpipar import Mesh, Shard, Tensor, parameter
from mpipar.checkpoint import Saver, load, save

STEP = 1 << 22
WIDTH = 1024


PLAIN = ("plain write + fsync", "plain read, cold", "plain read, warm")
OURS = ("save", "load, cold", "load, warm")
ORDERS = (
    (OURS[0], PLAIN[0], *OURS[1:], *PLAIN[1:]),
    (PLAIN[0], OURS[0], *PLAIN[1:], *OURS[1:]),
)


class Weights:
    """A model of matrices of 16 MiB, cut over tp."""

    def __init__(self, mesh: Mesh, count: int) -> None:
        rows = STEP // WIDTH
        self.weights = {f"w{i}": parameter(f"w{i}", (rows, WIDTH), mesh, tp=Shard(0)) for i in range(count)}

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights

    def load_state_dict(self, state: Any) -> None:
        """The arrays have been filled in place."""


def plain_write(path: Path, memory: Any) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    for start in range(0, len(memory), STEP):
        os.write(fd, memory[start : start + STEP])
    os.fsync(fd)
    os.close(fd)


def plain_read(path: Path, memory: Any) -> None:
    fd = os.open(path, os.O_RDONLY)
    for start in range(0, len(memory), STEP):
        os.preadv(fd, [memory[start : start + STEP]], start)
    os.close(fd)


def evict(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=256, help="on each rank")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    mesh = Mesh.parse(f"tp={os.environ.get('OMPI_COMM_WORLD_SIZE') or os.environ.get('PMI_SIZE', '1')}")
    model = Weights(mesh, args.mib * mesh.size // 16)
    plain = args.out / "plain" / str(mesh.rank)
    memory = memoryview(bytearray(os.urandom(1 << 20) * args.mib))
    kept = args.out / "kept"

    def timed(action: Callable[[], Any], cold: bool = False) -> float:
        mesh.world.barrier()
        if cold:
            evict(args.out)
            mesh.world.barrier()
        begin = perf_counter()
        action()
        slowest: float = max(mesh.world.allgather_object(perf_counter() - begin))
        return slowest

    actions: dict[str, tuple[Callable[[], Any], bool]] = {
        "plain write + fsync": (lambda: plain_write(plain, memory), False),
        "save": (lambda: save(kept, 1, model, keep=1), False),
        "plain read, cold": (lambda: plain_read(plain, memory), True),
        "plain read, warm": (lambda: plain_read(plain, memory), False),
        "load, cold": (lambda: load(kept, model), True),
        "load, warm": (lambda: load(kept, model), False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(args.rounds):
        mesh.world.barrier()
        if mesh.rank == 0:
            shutil.rmtree(args.out, ignore_errors=True)
            plain.parent.mkdir(parents=True)
            os.sync()
        for name in ORDERS[number % 2]:
            action, cold = actions[name]
            seconds[name].append(timed(action, cold))
    behind = Saver(kept, keep=1, background=True)
    waited = timed(lambda: behind.save(2, model))
    behind.close()
    if mesh.rank == 0:
        total = args.mib * mesh.size / 1024
        rates = {name: total / median(times) for name, times in seconds.items()}
        for ours, theirs in zip(OURS, PLAIN, strict=True):
            print(
                f"{theirs:20} {rates[theirs]:6.2f} GiB/s   {ours:12} {rates[ours]:6.2f} GiB/s   "
                f"{rates[ours] / rates[theirs]:4.0%}"
            )
        print(f"in the background: training waits {1000 * waited:.0f} ms for {total:.2f} GiB to be copied")


if __name__ == "__main__":
    main()
