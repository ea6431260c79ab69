"""``mpipar submit CONFIG.toml``: a run as a job of SLURM. Starts no MPI: it is the work of a login node."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mpipar.cli.command import Command, refuse_ranks
from mpipar.config.flags import flag
from mpipar.errors import UsageError
from mpipar.launch import submit as job
from mpipar.launch.settings import read


@dataclass(frozen=True, slots=True)
class Submit:
    """The flags of `mpipar submit`."""

    config: tuple[str, ...] = flag((), "CONFIG.toml with the tables [run] and [slurm]", alone=True)
    dry_run: bool = flag(False, "print the batch script and submit nothing")


def run(flags: Submit) -> None:
    refuse_ranks("submit")
    if len(flags.config) != 1:
        raise UsageError(
            f"submit takes one CONFIG.toml, not {len(flags.config)}: write  mpipar submit CONFIG.toml"
        )
    submission = read(flags.config[0])
    if flags.dry_run:
        print(job.dry(submission, datetime.now()), end="")
        return
    done = job.submit(submission, datetime.now()).record
    print(f"job {done.job}: {done.ranks} ranks, {done.steps} steps, results in {done.out}")
    print(f"  its log will be {done.log}")
    print(f"  mpipar jobs {done.out}   mpipar logs {done.job}   mpipar cancel {done.job}")


COMMAND = Command("submits a run to SLURM: sbatch text from [run] and [slurm] of a TOML file", Submit, run)
