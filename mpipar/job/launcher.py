"""What the launcher (mpirun, srun) told this process, and the starts that are refused: N jobs of one rank
instead of one job of N, a child of a rank that inherited its variables, a launcher without an MPI library.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from pathlib import Path

from mpipar.errors import LauncherError

# (size, rank) as each launcher tells them. The first size that is set counts: where mpirun starts its daemons
# with srun, SLURM's numbers are those of the daemons. Not SLURM_NTASKS, which a batch script has too.
LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)
PREFIXES = (
    "PMI",  # PMIX too
    "OMPI_",
    "PRTE",
    "HYDI",
    "HYDRA",
    "MPI_LOCAL",
    "MV2_COMM_WORLD",
    "PALS_",
    "SLURM_",
)
# These say nothing of a rank.
KEPT = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "SLURM_CONF")
MARK = "MPIPAR_RANK_PID"
# How the names of launchers and their daemons begin, as /proc/PID/comm has them.
STARTERS = ("mpirun", "mpiexec", "hydra_", "prte", "orte", "srun", "slurmstepd")


def launched_size() -> int:
    """How many ranks the launcher says it started; 1 without a launcher."""
    return _told()[1]


def launched_rank() -> int:
    """My rank as the launcher tells it, before MPI starts; 0 without a launcher."""
    for size, rank in LAUNCHERS:
        if size in os.environ:
            return _number(os.environ.get(rank), 0)
    return 0


def clean_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """`env` (default: os.environ) without what a launcher sets: for a child process that is no rank of the job.

    Variables that allow Open MPI to run as root, and SLURM_CONF, stay.

        subprocess.run(["mpirun", "-n", "2", "python", "other.py"], env=clean_environment())
    """
    env = os.environ if env is None else env
    return {name: value for name, value in env.items() if not _is_launchers(name) and name != MARK}


def mark_rank() -> None:
    """Lets the children of this process know that they have a rank as parent. Called when MPI has started."""
    if any(map(_is_launchers, os.environ)):
        os.environ[MARK] = str(os.getpid())


def refuse_child_of_rank() -> None:
    """Raises LauncherError in a process that a rank started with its own launcher variables.

    MPI would take it for the rank itself: it hangs, or brings the job down.
    """
    parent = os.environ.get(MARK, "")
    if parent in ("", str(os.getpid())) or not any(map(_is_launchers, os.environ)):
        return
    if _launched_since(_number(parent, 0)):
        return
    raise LauncherError(
        f"MPI cannot start here: this process is a child of a rank (process {parent}) and has inherited the\n"
        "  variables by which its launcher knows that rank. Start it with a clean environment:\n"
        "    subprocess.run(…, env=mpipar.job.launcher.clean_environment())\n"
        "  or, in a shell,\n"
        f"    env -u {MARK} $(printenv | grep -oE '^({'|'.join(PREFIXES)})[^=]*' | sed 's/^/-u /') python …"
    )


def refuse_singletons(world_size: int, library_version: str) -> None:
    """Raises LauncherError where N ranks were launched and each of them is a world of its own."""
    variable, launched = _told()
    if world_size > 1 or launched <= 1:
        return
    path = loaded_library()
    raise LauncherError(
        f"{launched} ranks were launched, but MPI found 1: {launched} separate jobs, none of which sees another.\n"
        f"  The launcher ({variable}={launched}) does not fit the MPI library that Python loaded:\n"
        f"    {short(library_version)}{f' ({path})' if path else ''}\n"
        f"  {_fitting_launcher(variable, library_version, path)}"
    )


def refuse_foreign_start(library_version: str) -> None:
    """Raises LauncherError before an MPI starts that srun's --mpi would make it abort, with nobody to say why.

    An MPICH that was built without PMIx ends the process where it finds one.
    """
    if not os.environ.get("PMIX_NAMESPACE", "").startswith("slurm.") or "PMI_FD" in os.environ:
        return
    path = loaded_library()
    if kind_of(library_version) == "mpich" and path and not has_symbol(path, "PMIx_Init"):
        raise LauncherError(
            "srun --mpi=pmix started this job, and the MPI library that Python loaded knows no PMIx:\n"
            f"    {short(library_version)} ({path})\n"
            "  Write  srun --mpi=pmi2 …  (`srun --mpi=list` shows what this SLURM has)."
        )


def kind_of(library_version: str) -> str:
    """``openmpi``, ``mpich`` or ``intel``; empty for another library, by its own name of itself."""
    known = {"Open MPI": "openmpi", "MPICH": "mpich", "Intel(R) MPI": "intel"}
    return next((kind for name, kind in known.items() if library_version.startswith(name)), "")


def started_by() -> str:
    """What started this rank, as far as its variables tell: ``srun --mpi=pmi2``, ``mpirun``; empty without one."""
    if os.environ.get("PMIX_NAMESPACE", "").startswith("slurm."):
        return "srun --mpi=pmix"
    if _is_sruns_pmi():
        return "srun --mpi=pmi2"
    variable, _ = _told()
    if variable.startswith("SLURM"):
        return "srun" if _number(os.environ.get("SLURM_STEP_NUM_TASKS"), 1) > 1 else ""
    return "mpirun" if variable else ""


def no_mpi_message(error: BaseException) -> str:
    """What to say where a launcher started us and mpi4py found no MPI library (`error` is what it raised)."""
    variable, launched = _told()
    reason = "\n    ".join(line for line in str(error).splitlines()[:4] if line.strip())
    chosen = os.environ.get("MPI4PY_LIBMPI")
    return (
        f"{launched} ranks were launched ({variable}={launched}), but there is no MPI library to join them:\n"
        f"    {type(error).__name__}: {reason}\n"
        + (f"  MPI4PY_LIBMPI={chosen} names the library: correct it or unset it.\n" if chosen else "")
        + "  Write  pip install 'mpipar[mpich]'  and start with the mpirun that it installs; on a cluster\n"
        "  module load  its MPI, and where mpi4py does not find it  export MPI4PY_LIBMPI=/path/to/libmpi.so"
    )


def _told() -> tuple[str, int]:
    """The variable that tells the number of ranks, and the number."""
    for size, _ in LAUNCHERS:
        if size in os.environ:
            return size, _number(os.environ[size], 1)
    return "", 1


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() else default


def _is_launchers(name: str) -> bool:
    return name.startswith(PREFIXES) and name not in KEPT


def _launched_since(ancestor: int) -> bool:
    """Whether a launcher stands between `ancestor` and this process: then we are a rank of a new job."""
    pid = os.getppid()
    while pid > 1 and pid != ancestor:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        name, _, rest = stat.partition("(")[2].rpartition(")")  # the name may hold blanks and brackets
        if name.startswith(STARTERS):
            return True
        pid = int(rest.split()[1])
    return False


def loaded_library() -> str:
    """The file of the MPI library in this process; empty where /proc does not tell."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return ""
    found = re.search(r"\S*/libp?mpi(ch|_abi)?\.so\S*", maps)
    return found.group() if found else ""


def has_symbol(path: str, name: str) -> bool:
    """Whether a loaded library, or one that it was linked to, has a function of this name."""
    try:
        return hasattr(ctypes.CDLL(path), name)
    except OSError:
        return False


def short(library_version: str) -> str:
    """``MPICH Version: 5.0.1``: a library's name of itself without the rest of its line."""
    return " ".join(library_version.split()).partition(",")[0]


def _is_sruns_pmi() -> bool:
    """Whether PMI_SIZE is srun's word: it names the job after SLURM's job and step."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return bool(job) and os.environ.get("PMI_JOBID", "").startswith(f"{job}.")


def _fitting_launcher(variable: str, library_version: str, path: str) -> str:
    """The line to write, as far as we can tell."""
    kind = "pmix" if "Open MPI" in library_version else "pmi2"
    if variable.startswith("SLURM") or _is_sruns_pmi():
        return f"Write  srun --mpi={kind} …  (`srun --mpi=list` shows what this SLURM has)."
    own = Path(path).parent.parent / "bin" / "mpirun"
    mpirun = str(own) if path and own.exists() else "that library's own mpirun"
    return (
        f"Start with  {mpirun} … ,  or let Python load the launcher's library:\n"
        "  export MPI4PY_LIBMPI=/path/to/libmpi.so  (an MPI wheel in the venv is found before it)."
    )
