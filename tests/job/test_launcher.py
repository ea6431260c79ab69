"""Starts that are refused, each with the reason and the line to write. A failure shows what was said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpipar.errors import LauncherError
from mpipar.job import launcher
from mpipar.testing import launch

# One write a line: lines of several ranks must not mix.
HELLO = "from mpipar.job import world\nw = world()\nprint(f'{w.rank} {w.size}\\n', end='')\n"
TOLD = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "PMI_SIZE", "PMI_RANK", "SLURM_STEP_NUM_TASKS")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without a launcher, to write into."""
    for name in os.environ.keys() - launcher.clean_environment().keys():
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_clean_environment_has_nothing_of_a_launcher() -> None:
    ours = {
        "PATH": "/bin",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "SLURM_CONF": "/etc/slurm.conf",
        "MPI4PY_LIBMPI": "/lib/libmpi.so",
    }
    theirs = dict.fromkeys(
        ["PMI_RANK", "PMI_FD", "PMIX_NAMESPACE", "OMPI_COMM_WORLD_SIZE", "OMPI_MCA_btl", "PRTE_LAUNCHED",
         "HYDI_CONTROL_FD", "HYDRA_X", "MPI_LOCALRANKID", "SLURM_PROCID", "MPIPAR_RANK_PID"],
        "1",
    )  # fmt: skip
    assert launcher.clean_environment(ours | theirs) == ours


def test_what_the_launcher_told(bare: pytest.MonkeyPatch) -> None:
    assert (launcher.launched_size(), launcher.launched_rank()) == (1, 0)
    bare.setenv("SLURM_NTASKS", "8")  # a batch script has it too
    assert launcher.launched_size() == 1
    bare.setenv("SLURM_STEP_NUM_TASKS", "2")
    bare.setenv("SLURM_PROCID", "1")
    assert (launcher.launched_size(), launcher.launched_rank()) == (2, 1)
    bare.setenv("PMI_SIZE", "4")  # mpirun inside of an srun step: srun started its daemons
    bare.setenv("PMI_RANK", "3")
    assert (launcher.launched_size(), launcher.launched_rank()) == (4, 3)


@pytest.mark.parametrize(
    ("variable", "library", "fix"),
    [
        ("PMI_SIZE", "Open MPI v5.0", "export MPI4PY_LIBMPI="),
        ("OMPI_COMM_WORLD_SIZE", "MPICH Version: 5", "Start with "),
        ("SLURM_STEP_NUM_TASKS", "MPICH Version: 5", "srun --mpi=pmi2"),
        ("SLURM_STEP_NUM_TASKS", "Open MPI v5.0", "srun --mpi=pmix"),
    ],
)
def test_singletons_are_refused_with_the_fix(
    bare: pytest.MonkeyPatch, variable: str, library: str, fix: str
) -> None:
    bare.setenv(variable, "4")
    with pytest.raises(LauncherError) as caught:
        launcher.refuse_singletons(1, library)
    text = str(caught.value)
    assert text.startswith("4 ranks were launched, but MPI found 1: 4 separate jobs")
    assert f"{variable}=4" in text
    assert library in text
    assert fix in text


def test_sruns_pmi_is_told_from_mpiruns(bare: pytest.MonkeyPatch) -> None:
    """srun --mpi=pmi2 sets PMI_SIZE as MPICH's mpirun does, under a job of its own name."""
    bare.setenv("SLURM_JOB_ID", "7")
    bare.setenv("PMI_SIZE", "4")
    assert launcher.started_by() == "mpirun"
    bare.setenv("PMI_JOBID", "7.0")
    assert launcher.started_by() == "srun --mpi=pmi2"
    with pytest.raises(LauncherError, match="srun --mpi=pmix"):
        launcher.refuse_singletons(1, "Open MPI v5.0")


def test_an_mpich_without_pmix_is_refused_before_it_aborts(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.setattr(launcher, "loaded_library", lambda: str(tmp_path / "libmpi.so.12"))
    bare.setenv("PMIX_NAMESPACE", "slurm.pmix.7.0")
    with pytest.raises(LauncherError, match="srun --mpi=pmi2"):
        launcher.refuse_foreign_start("MPICH Version: 5.0.2")
    launcher.refuse_foreign_start("Open MPI v5.0")
    bare.setattr(launcher, "has_symbol", lambda path, name: name == "PMIx_Init")  # built with PMIx
    launcher.refuse_foreign_start("MPICH Version: 5.0.2")


def test_fitting_starts_are_not_refused(bare: pytest.MonkeyPatch) -> None:
    launcher.refuse_singletons(1, "MPICH")
    bare.setenv("PMI_SIZE", "1")
    launcher.refuse_singletons(1, "MPICH")
    bare.setenv("PMI_SIZE", "4")
    launcher.refuse_singletons(4, "MPICH")


def test_a_child_of_a_rank_is_refused_unless_its_environment_is_clean(bare: pytest.MonkeyPatch) -> None:
    bare.setenv(launcher.MARK, str(os.getppid()))
    launcher.refuse_child_of_rank()
    bare.setenv("PMI_RANK", "0")
    with pytest.raises(LauncherError, match=r"clean_environment\(\)"):
        launcher.refuse_child_of_rank()
    launcher.mark_rank()
    launcher.refuse_child_of_rank()  # the rank itself


# ---- real starts ------------------------------------------------------------------------------------------


@pytest.mark.launches
def test_a_rank_under_a_launcher_that_does_not_fit() -> None:
    done = launch(0, HELLO, env={"PMI_SIZE": "4"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "4 ranks were launched, but MPI found 1" in done.stderr
    assert "libmpi" in done.stderr, "the path of the library"
    assert "Traceback" not in done.stderr


@pytest.mark.launches
def test_train_py_of_the_wrong_srun_writes_nothing(tmp_path: Path) -> None:
    """Two of the four processes that `srun` without its --mpi would start: each alone, on one directory."""
    for told in ("0", "3"):
        env = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": told, "SLURM_JOB_ID": "7"}
        done = launch(0, Path(__file__).parents[2] / "train.py", "--out", "run", env=env, cwd=tmp_path)
        assert done.returncode == 2
        assert "Write  srun --mpi=pm" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.launches
def test_no_mpi_is_one_rank() -> None:
    done = launch(0, HELLO, env={"MPI4PY_LIBMPI": "/nonexistent"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 1\n", "")


@pytest.mark.launches
def test_no_mpi_under_a_launcher_says_once_how_to_install_one() -> None:
    done = launch(3, HELLO, env={"MPI4PY_LIBMPI": "/nonexistent"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("3 ranks were launched") == 1, done.stderr
    assert "pip install 'mpipar[mpich]'" in done.stderr
    assert "MPI4PY_LIBMPI=/nonexistent" in done.stderr
    assert "Traceback" not in done.stderr


CHILD = r"""
import subprocess, sys
from mpipar.job.launcher import clean_environment
if w.rank == w.size - 1:
    child = [sys.executable, "-c", "from mpipar.job import world; print(f'child {world().size}\\n', end='')"]
    done = subprocess.run(child, env=clean_environment() if len(sys.argv) > 1 else None)
    print(f"{done.returncode}\n", end="", flush=True)
w.barrier()
"""


@pytest.mark.launches
@pytest.mark.parametrize("n", [1, 2])
def test_a_child_of_a_rank_is_told_how_to_start(n: int) -> None:
    done = launch(n, HELLO + CHILD)
    assert done.returncode == 0, done.stderr
    assert "2" in done.stdout.splitlines(), "the exit code of the child"
    assert "is a child of a rank" in done.stderr
    assert "clean_environment()" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.launches
def test_a_child_of_a_rank_with_a_clean_environment_is_a_rank_alone() -> None:
    done = launch(2, HELLO + CHILD, "clean")
    assert done.returncode == 0, done.stderr
    assert {"child 1", "0"} <= set(done.stdout.splitlines())


@pytest.mark.launches
def test_a_rank_may_start_mpirun() -> None:
    inner = (
        "from mpipar.testing import launch\n"
        "program = 'from mpipar.job import world\\nprint(world().size)\\n'\n"
        "if w.rank == 1: print('inner', launch(2, program).stdout.split())\n"
        "w.barrier()\n"
    )
    done = launch(2, HELLO + inner)
    assert "inner ['2" in done.stdout, done.stdout + done.stderr


@pytest.mark.launches
def test_a_mark_from_outside_does_not_stop_a_new_job() -> None:
    done = launch(2, HELLO, env={launcher.MARK: str(os.getpid())})
    assert sorted(done.stdout.split("\n")) == ["", "0 2", "1 2"], done.stdout + done.stderr
