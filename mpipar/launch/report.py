"""The doctor's report as text: what there is, a line a rank, what is wrong and its fix."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mpipar.job.launcher import short
from mpipar.launch.census import EXTRAS, Census, Mpi, Rank
from mpipar.launch.findings import Finding, hosts, machines, spans, threads_of, together
from mpipar.log import duration, human_bytes

SHOWN_RANKS = 64


def report(census: Census, found: Sequence[Finding]) -> str:
    """All of it; of many ranks the first 64 have their line."""
    width = max(len(title) for title, _ in facts(census))
    lines = [f"{title:<{width}}  {text}" for title, text in facts(census)]
    return "\n".join([*lines, "", *table(census), "", *judged(found)])


def facts(census: Census) -> list[tuple[str, str]]:
    first = census.first
    has = first.versions
    rows = [
        ("mpipar", ", ".join([has["mpipar"], *(f"{n} {v}" for n, v in has.items() if n != "mpipar")])),
        ("MPI", library(first.mpi)),
        ("launcher", first.started_by or "none"),
        ("ranks", f"{len(census.ranks)} on {counted(len(hosts(census)), 'node')}: {nodes(census)}"),
        ("cores", "; ".join(cores(ranks) for ranks in machines(census).values())),
        ("threads", threads(first)),
        ("devices", devices(census)),
        ("/dev/shm", "none" if first.shm is None else f"{human_bytes(first.shm)} free"),
        ("extras", extras(census)),
    ]  # fmt: skip
    return [*rows, ("SLURM", slurm(census))] if first.slurm.get("SLURM_JOB_ID") else rows


def library(mpi: Mpi) -> str:
    return f"{short(mpi.version)} ({mpi.path or 'its file is not known'})" if mpi.version else "none"


def nodes(census: Census) -> str:
    return ", ".join(f"{host} has {spans(numbers)}" for host, numbers in hosts(census).items())


def cores(ranks: Sequence[Rank]) -> str:
    here, used = ranks[0], sorted({core for rank in ranks for core in rank.cores})
    shared = all(rank.cores == here.cores for rank in ranks)
    bound = (
        "not bound" if len(here.cores) == here.cores_of_machine else "bound together" if shared else "bound"
    )
    return f"{together(ranks)}: {here.cores_of_machine}, of which ranks may use {spans(used)} ({bound})"


def threads(rank: Rank) -> str:
    libraries = ", ".join(f"{name} {count}" for name, count in rank.blas) or "no BLAS library is known"
    kernels = f"compiled kernels {rank.kernels}, " if rank.kernels else ""
    return f"{kernels}{libraries} a rank, {'by ' + rank.chosen if rank.chosen else 'the share of its cores'}"


def devices(census: Census) -> str:
    names = {rank.place.name for rank in census.ranks if rank.place.card}
    if not names:
        return f"the CPU ({census.first.place.problem})"
    cards = len({rank.place.card for rank in census.ranks if rank.place.card})
    return f"{counted(cards, 'card')} ({', '.join(sorted(names))})"


def extras(census: Census) -> str:
    absent = [name for name in EXTRAS if name not in census.extras]
    return f"{', '.join(census.extras) or 'none'}; not installed: {', '.join(absent) or 'none'}"


def slurm(census: Census) -> str:
    told = census.first.slurm
    parts = [
        f"job {told['SLURM_JOB_ID']}",
        f"nodes {told.get('SLURM_JOB_NODELIST', '?')}",
        f"{told.get('SLURM_CPUS_PER_TASK', '1')} CPU a task",
        f"{told.get('SLURM_RESTART_COUNT', '0')} restarts",
    ]
    if census.ends is not None:
        parts.append(f"{duration(census.ends - time.time())} left")
    return ", ".join(parts)


def table(census: Census) -> list[str]:
    rows: list[tuple[str, ...]] = [("rank", "node", "local", "cores", "threads", "device")]
    rows += [row(rank) for rank in census.ranks[:SHOWN_RANKS]]
    widths = [max(len(each[column]) for each in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(f"{text:<{w}}" for text, w in zip(each, widths, strict=True)).rstrip() for each in rows
    ]
    more = len(census.ranks) - SHOWN_RANKS
    return [*lines, f"… and {more} more"] if more > 0 else lines


def row(rank: Rank) -> tuple[str, ...]:
    device = f"card {rank.place.number}, {rank.place.name}" if rank.place.card else "cpu"
    local, threads_ = str(rank.local_rank), str(threads_of(rank))
    return str(rank.rank), rank.host, local, spans(rank.cores), threads_, device


def judged(found: Sequence[Finding]) -> list[str]:
    lines = []
    for finding in found:
        lines.append(f"{'WRONG' if finding.wrong else 'note'}: {finding.text}")
        lines += [f"  write  {finding.fix}"] if finding.fix else []
    wrong = sum(finding.wrong for finding in found)
    return [
        *lines,
        f"{counted(wrong, 'thing')} {'is' if wrong == 1 else 'are'} wrong" if wrong else "nothing is wrong",
    ]


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
