"""The file that `mpipar submit` takes: ``[run]``, the settings of train.py, and ``[slurm]``, those of the job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mpipar.config import AUTO, TrainConfig, check, mesh_axes, times
from mpipar.config.flags import check_limits, flag
from mpipar.config.toml import read_tables
from mpipar.config.train import counted, fitting_meshes
from mpipar.errors import UsageError
from mpipar.launch import quoting

MPIS = ("mpich", "openmpi", "intel")
PMI = {"mpich": "pmi2", "openmpi": "pmix", "intel": "pmi2"}  # of srun --mpi
INTEL_PMI = "I_MPI_PMI_LIBRARY"


def all_of(check: Callable[[str], None]) -> Callable[[tuple[str, ...]], None]:
    """A check of each text of a list."""

    def checked(texts: tuple[str, ...]) -> None:
        for text in texts:
            check(text)

    return checked


@dataclass(frozen=True, slots=True)
class Slurm:
    """The table ``[slurm]``: what the job asks of the cluster, and how the ranks are started there."""

    name: str = flag("mpipar", "of the job", parse=quoting.name)
    nodes: int = flag(1, "machines", least=1)
    tasks_per_node: int = flag(1, "ranks on each of them", least=1)
    cpus_per_task: int = flag(1, "cores of a rank: threads that it computes with", least=1)
    gpus_per_node: int = flag(0, "cards on each node: a rank takes the one of its place there", least=0)
    memory: str = flag("", "of a node, as 16G (default: the cluster's)", parse=quoting.memory)
    time: str = flag("1:00:00", "limit: minutes, H:MM:SS or D-HH:MM:SS", parse=times.seconds)
    partition: str = flag("", "or several, with commas (default: the cluster's)", parse=quoting.names)
    account: str = flag("", "that pays (default: yours)", parse=quoting.name)
    qos: str = flag("", "quality of service (default: the cluster's)", parse=quoting.name)
    constraint: str = flag("", "features that the nodes must have, with commas", parse=quoting.names)
    signal_seconds: int = flag(
        120, "before the limit SLURM signals: checkpoint and end; 0: no signal", least=0, below=65536
    )
    requeue: bool = flag(False, "queue the job again where it ended with a checkpoint and steps to go")
    restarts: int = flag(10, "requeue: at most so often", least=1)
    launcher: str = flag("srun", "what starts the ranks", choices=("srun", "mpirun"))
    mpi: str = flag("mpich", "the MPI library that Python finds", choices=MPIS)
    modules: tuple[str, ...] = flag((), "environment modules to load", parse=all_of(quoting.module))
    venv: str = flag("", "directory of a virtual environment to activate", parse=quoting.path)
    environment: tuple[str, ...] = flag((), 'variables, as ["NAME=value"]', parse=all_of(quoting.assignment))
    python: str = flag("python", "the interpreter, found on PATH or a path", parse=quoting.path)
    program: str = flag("train.py", "path of train.py", parse=quoting.path)
    container: str = flag("", "image to run in, by apptainer exec", parse=quoting.path)
    doctor: bool = flag(True, "look at MPI, cores and devices first, and stop where something is wrong")

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node


@dataclass(frozen=True, slots=True)
class Submission:
    """What a file says of a job."""

    path: str
    run: TrainConfig
    slurm: Slurm


def read(path: str) -> Submission:
    """The checked contents of a file. Raises UsageError with one message, before anything is written or submitted."""
    tables = read_tables({"run": TrainConfig, "slurm": Slurm}, path)
    submission = Submission(path, TrainConfig(**tables["run"]), Slurm(**tables["slurm"]))
    check_limits(submission.slurm)
    for rule in (check_mesh, check_cards, check_ends, check_start, check_run):
        rule(submission)
    return submission


def check_run(submission: Submission) -> None:
    """What train.py would refuse on so many ranks, and paths that only quotes could save from the shell."""
    try:
        check(submission.run, submission.slurm.ranks)
    except UsageError as error:
        raise UsageError(f"{submission.path}, [run]: {error}") from None
    if not all(text.isprintable() for text in (*submission.run.data, submission.run.out)):
        raise UsageError(f"{submission.path}, [run]: a path has no newlines and no control characters")


def check_mesh(submission: Submission) -> None:
    run, slurm = submission.run, submission.slurm
    wanted = 1
    for size in mesh_axes(run, slurm.ranks).values():
        wanted *= size
    if wanted != slurm.ranks:
        fitting = next(fitting_meshes(run, slurm.ranks), "")
        other = f', or [run] mesh = "{fitting}"' if fitting else ""
        each, rest = divmod(wanted, slurm.nodes)
        tasks = f"tasks_per_node = {each}" if not rest else f"nodes = 1 and tasks_per_node = {wanted}"
        raise UsageError(
            f'{submission.path}: [run] mesh = "{run.mesh}" needs {counted(wanted)}, [slurm] has {slurm.nodes} nodes '
            f"× {slurm.tasks_per_node} tasks = {slurm.ranks}: write {tasks}{other}"
        )


def check_cards(submission: Submission) -> None:
    run, slurm = submission.run, submission.slurm
    if run.device == "cpu" and slurm.gpus_per_node:
        raise UsageError(
            f'{submission.path}: [run] device = "cpu" with [slurm] gpus_per_node = {slurm.gpus_per_node}: leave one out'
        )
    if run.device == "gpu" and not slurm.gpus_per_node:
        raise UsageError(
            f'{submission.path}: [run] device = "gpu" needs [slurm] gpus_per_node = {slurm.tasks_per_node}'
        )
    room = slurm.gpus_per_node * run.ranks_per_gpu
    if slurm.gpus_per_node and slurm.tasks_per_node > room:
        raise UsageError(
            f"{submission.path}: tasks_per_node = {slurm.tasks_per_node} are more ranks than {room} on gpus_per_node = "
            f"{slurm.gpus_per_node}: write tasks_per_node = {room}, or gpus_per_node = {slurm.tasks_per_node}"
        )


def check_ends(submission: Submission) -> None:
    """The signal lies within the time limit; a job that is queued again goes on with its run."""
    run, slurm = submission.run, submission.slurm
    limit = times.seconds(slurm.time)
    if slurm.signal_seconds >= limit:
        raise UsageError(
            f"{submission.path}: signal_seconds = {slurm.signal_seconds} is not below the {limit} s of "
            f'time = "{slurm.time}": write signal_seconds = {limit // 4}'
        )
    if slurm.requeue and run.resume != AUTO:
        raise UsageError(
            f'{submission.path}: requeue = true goes on with the run: write [run] resume = "auto" and out = "DIRECTORY"'
        )


def check_start(submission: Submission) -> None:
    slurm = submission.slurm
    given = {text.partition("=")[0] for text in slurm.environment}
    if slurm.mpi == "intel" and slurm.launcher == "srun" and INTEL_PMI not in given:
        raise UsageError(
            f"{submission.path}: Intel MPI under srun must be told SLURM's PMI library: write "
            f'environment = ["{INTEL_PMI}=/usr/lib64/libpmi2.so"], or launcher = "mpirun"'
        )
