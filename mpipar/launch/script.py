"""The text of a batch script: plain bash that a person reads, keeps and edits. Everything of a user's is quoted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mpipar.launch.quoting import exported, log_path, quoted
from mpipar.launch.settings import PMI, Slurm, Submission

COMMENT = "mpipar "  # and the run's directory: by it `mpipar jobs` knows its own


class Place(NamedTuple):
    """Where a job runs and writes; absolute paths."""

    here: Path  # from where it was submitted: paths of the settings are relative to it
    out: Path
    config: Path  # the settings of the run as they were at submission

    @property
    def log(self) -> str:
        """``%j`` is the job's number: SLURM fills it in."""
        return f"{self.out}/slurm-%j.out"


def script(submission: Submission, place: Place, version: str) -> str:
    """Raises UsageError where a path cannot be part of an `#SBATCH` line."""
    slurm = submission.slurm
    parts = [
        [
            "#!/bin/bash",
            f"# {summary(slurm)}. Written by mpipar {version}, `mpipar submit`; free to be edited.",
        ],
        list(directives(slurm, place)),
        [],
        list(surroundings(slurm, place)),
        [],
        list(program(slurm, place)),
        [],
        ending(slurm),
    ]
    return "\n".join(line for part in parts for line in (part or [""])) + "\n"


def summary(slurm: Slurm) -> str:
    ranks = f"{slurm.nodes} nodes × {slurm.tasks_per_node} ranks, {slurm.cpus_per_task} CPUs a rank"
    return f"{ranks}, {slurm.gpus_per_node} GPUs a node" if slurm.gpus_per_node else ranks


def directives(slurm: Slurm, place: Place) -> Iterator[str]:
    """The `#SBATCH` lines."""
    log = log_path(place.log.removesuffix("%j.out"), "the run's directory")
    comment = log_path(str(place.out), "the run's directory").strip('"')
    options: list[tuple[str, object]] = [
        ("job-name", slurm.name),
        ("nodes", slurm.nodes),
        ("ntasks-per-node", slurm.tasks_per_node),
        ("cpus-per-task", slurm.cpus_per_task),
        ("gpus-per-node", slurm.gpus_per_node or ""),
        ("mem", slurm.memory),
        ("time", slurm.time),
        ("partition", slurm.partition),
        ("account", slurm.account),
        ("qos", slurm.qos),
        ("constraint", slurm.constraint),
        ("output", f'"{log.strip(chr(34))}%j.out"'),
        ("open-mode", "append"),
        ("comment", f'"{COMMENT}{comment}"'),
        ("signal", f"B:USR1@{slurm.signal_seconds}" if slurm.signal_seconds else ""),
    ]
    yield from (f"#SBATCH --{option}={value}" for option, value in options if value != "")
    yield f"#SBATCH --{'requeue' if slurm.requeue else 'no-requeue'}"


def surroundings(slurm: Slurm, place: Place) -> Iterator[str]:
    """Directory, modules, virtual environment, variables."""
    yield f"cd -- {quoted(str(place.here))} || exit 2"
    if slurm.modules:
        yield f"module load {quoted(*slurm.modules)} || exit 2"
    if slurm.venv:
        yield f"source {quoted(expanded(slurm.venv) + '/bin/activate')} || exit 2"
    yield "unset OMP_NUM_THREADS  # of a module or a login shell; mpipar cuts the work over --cpus-per-task"
    yield from map(exported, slurm.environment)
    if slurm.launcher == "srun":
        yield "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # srun has not inherited it since SLURM 22.05"
    else:
        yield "export SLURM_CPU_BIND=none  # mpirun starts a daemon a node by srun, and it must have all cores"


def program(slurm: Slurm, place: Place) -> Iterator[str]:
    yield SIGNALS
    yield ""
    yield f"launch=({launch(slurm)})"
    yield f"python=({python(slurm, place)})"
    if slurm.doctor:
        yield '"${launch[@]}" "${python[@]}" -m mpipar doctor || exit 1'
    yield ""
    yield RUN.format(command=quoted(expanded(slurm.program), "--config", str(place.config)))


def launch(slurm: Slurm) -> str:
    """What stands before the program: srun, or the mpirun of one of the MPIs, which knows SLURM's nodes."""
    if slurm.launcher == "srun":  # a rank that ends leaves the others 60 s: all end with 85, if not at once
        return f"srun --mpi={PMI[slurm.mpi]} --kill-on-bad-exit=0 --wait=60"
    if slurm.mpi == "openmpi":
        bound = f" --map-by slot:PE={slurm.cpus_per_task} --bind-to core" if slurm.cpus_per_task > 1 else ""
        return f"mpirun -n {slurm.ranks}{bound}"
    bound = f" -bind-to core:{slurm.cpus_per_task}" if slurm.mpi == "mpich" else ""  # Intel's binds by itself
    return f"mpirun -n {slurm.ranks} -ppn {slurm.tasks_per_node}{bound}"


def python(slurm: Slurm, place: Place) -> str:
    """The interpreter, in the container where there is one."""
    if not slurm.container:
        return quoted(expanded(slurm.python))
    cards = ["--nv"] if slurm.gpus_per_node else []
    binds = [word for path in (place.here, place.out) for word in ("--bind", str(path))]
    return quoted(
        "apptainer", "exec", *cards, *binds, "--pwd", str(place.here), slurm.container, slurm.python
    )


def expanded(path: str) -> str:
    """With the home directory for ~, which the shell does not read in quotes."""
    return os.path.expanduser(path)


SIGNALS = """\
# SLURM signals this shell alone: it hands the signal on, and the program ends with a checkpoint and 85.
heard='' asked='' ended=''
forward() { heard=1 asked=1; [ -z "$!" ] || kill -USR1 "$!" 2>/dev/null; }
trap forward USR1             # before the time limit
trap 'ended=1; forward' TERM  # scancel, or the limit itself: no restart\
"""

RUN = """\
code=85
if [ -z "$asked" ]; then  # else a signal came before there was anything to save
    # In the background: bash hears a signal only while it waits.
    "${{launch[@]}}" "${{python[@]}}" -u {command} &
    while heard=''; wait "$!"; code=$?; [ -n "$heard" ]; do :; done  # a signal ends `wait`, not the program
    [ "$code$asked" != 1381 ] || code=85  # the signal came before Python could hear it: 128 + USR1
fi\
"""

LEFT = """\
if [ "$code" = 85 ] && [ -z "$ended" ]; then
    echo "mpipar: stopped with a checkpoint; submit it again to go on"
fi
exit "$code"\
"""

AGAIN = """\
if [ "$code" = 85 ] && [ -z "$ended" ]; then  # stopped with a checkpoint, and steps to go
    job=$SLURM_JOB_ID count=${{SLURM_RESTART_COUNT:-0}}
    [ -z "${{SLURM_ARRAY_JOB_ID:-}}" ] || job=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
    if [ "$count" -lt {restarts} ]; then
        echo "mpipar: restart $((count + 1)) of {restarts}"
        scontrol requeue "$job"
    else
        echo "mpipar: no restart, it had its {restarts} (restarts in [slurm])"
    fi
fi
exit "$code"\
"""


def ending(slurm: Slurm) -> list[str]:
    return (AGAIN.format(restarts=slurm.restarts) if slurm.requeue else LEFT).split("\n")
