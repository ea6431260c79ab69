"""``mpirun -n N mpipar bench step``: what a training step of any config costs, and where its time goes."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mpipar import profile
from mpipar.backend import Backend
from mpipar.cli.command import Command
from mpipar.cli.workload import Workload
from mpipar.config import TrainConfig, check, known_flags, settings
from mpipar.config.flags import check_limits, did_you_mean, flag, options, values
from mpipar.errors import UsageError
from mpipar.job import world
from mpipar.job.agree import on_first_rank
from mpipar.job.device import choose
from mpipar.job.threads import use_threads
from mpipar.mesh import Mesh
from mpipar.parallel import chosen_schedule
from mpipar.profile.plot import plot, plotting
from mpipar.profile.report import report, table

WRITE = "write  mpirun -n RANKS mpipar bench step"


@dataclass(frozen=True, slots=True)
class Bench:
    """The flags of `mpipar bench` beside those of train.py."""

    what: tuple[str, ...] = flag((), "what is measured: step", alone=True)
    timed: int = flag(10, "steps that are timed; as many more to see the operations", least=1)
    untimed: int = flag(2, "steps before them", least=0)
    vocabulary: int = flag(
        256, "tokens, drawn at random; of --data it is that of the data", least=1, below=2**31
    )
    json: str = flag("", "a file for all numbers")
    plot: str = flag("", "a file for a picture of them, as step.png or step.svg (needs the extra plot)")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line asks for."""

    bench: Bench
    given: dict[str, Any]  # of train.py's flags


def read(words: Sequence[str]) -> Asked:
    given = values(options(Bench) | known_flags(), words)
    mine = {each.name for each in fields(Bench)}
    return Asked(
        Bench(**{name: value for name, value in given.items() if name in mine}),
        {name: value for name, value in given.items() if name not in mine},
    )


def run(asked: Asked) -> None:
    bench = asked.bench
    check_bench(bench)
    ranks = world()
    config = settings(asked.given, once=lambda make: on_first_rank(ranks, make))
    check(config, ranks.size)
    if config.data and bench.vocabulary != Bench().vocabulary:
        raise UsageError("--vocabulary is of tokens drawn at random: leave it out with --data")
    on_first_rank(ranks, lambda: check_files(bench))
    schedule = on_first_rank(ranks, lambda: chosen_schedule(config, ranks.size))
    device = choose(config.device, ranks_per_gpu=config.ranks_per_gpu)
    mesh = Mesh.parse(config.mesh, device=device.xp)
    if config.threads:
        use_threads(config.threads)
    work = Workload.make(config, mesh, bench.vocabulary, schedule)
    mine = measure(work, bench, mesh, config)
    of_all, told = ranks.allgather_object(mine), about(config, work, mesh, device.words)
    if ranks.rank == 0:
        tell(bench, report(of_all, told))


def measure(work: Workload, bench: Bench, mesh: Mesh, config: TrainConfig) -> dict[str, Any]:
    """Of this rank. All ranks measure their peak at the same time, before the steps and after them."""
    steps = bench.untimed + 2 * bench.timed
    before = together(mesh, config, profile.peak_flops)
    found = profile.measured(work.step, range(steps), bench.timed, mesh, (work.optimizer, "step"))
    memory = profile.peak_memory()
    return found | {
        "peak_flops": max(before, together(mesh, config, profile.peak_flops)),
        "peak_memory": memory,
    }


def together(mesh: Mesh, config: TrainConfig, measure: Callable[[Backend, Any], float]) -> float:
    mesh.world.barrier()
    return measure(mesh.xp, config.dtype)


def about(config: TrainConfig, work: Workload, mesh: Mesh, device: str) -> dict[str, Any]:
    """What was measured, and on what. Collective."""
    return {
        "command": f"mpirun -n {mesh.size} mpipar {shlex.join(sys.argv[1:])}",
        "mesh": {axis: size for axis, size in mesh.shape.items() if size > 1},
        "device": device,
        **profile.machine(),
        "computed_by": mesh.xp.computed_by(),
        "tokens": config.batch * config.context,
        "flops": work.flops,
        "parameters": work.parameters,
    }


def check_bench(bench: Bench) -> None:
    check_limits(bench)
    if bench.what != ("step",):
        name = " ".join(bench.what)
        raise UsageError(
            f"bench {name!r} is unknown{did_you_mean(name, ['step'])}" if name else f"bench what? {WRITE}"
        )


def check_files(bench: Bench) -> None:
    """Raises UsageError for what could not be written at the end."""
    for name, path in (("--json", bench.json), ("--plot", bench.plot)):
        folder = Path(path).expanduser().parent
        if path and (Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK)):
            raise UsageError(f"{name} {path} cannot be written: name a file in a directory that can")
    if bench.plot:
        plotting(bench.plot)


def tell(bench: Bench, found: dict[str, Any]) -> None:
    print(table(found))
    if bench.json:
        Path(bench.json).expanduser().write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if bench.plot:
        plot(found, Path(bench.plot).expanduser())


COMMAND = Command(
    "measures a training step: speed, work, time by operation and in communication, memory",
    Bench,
    run,
    read,
    "\nAnd the flags of train.py, --config too, for what the step is of: see  python train.py --help",
)
