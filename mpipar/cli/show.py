"""``mpipar show --schedule NAME|FILE``: a pipeline schedule drawn, checked and timed, in one process without MPI."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from mpipar.cli.command import Command
from mpipar.config.flags import check_limits, flag
from mpipar.errors import UsageError
from mpipar.job.launcher import launched_size
from mpipar.parallel.schedule import NAMES, Cost, Durations, Schedule, as_text, check, cost, find
from mpipar.parallel.schedule.draw import as_lines, as_mermaid, as_svg, title

RANKS, MICRO_BATCHES = 4, 8
FORMATS = {
    "text": as_lines,
    "svg": as_svg,
    "mermaid": as_mermaid,
    "toml": lambda schedule, durations: as_text(schedule),
}


@dataclass(frozen=True, slots=True)
class Show:
    """The flags of `mpipar show`."""

    schedule: str = flag("", f"{'|'.join(NAMES)}, or a TOML file")
    ranks: int = flag(0, f"of the pipeline; 0: those of the file, or {RANKS}", least=0)
    micro_batches: int = flag(0, f"of a step; 0: those of the file, or {MICRO_BATCHES}", least=0)
    chunks: int = flag(0, "interleaved: stages a rank; 0: 2", least=0)
    forward: float = flag(1.0, "how long a stage's forward takes for one micro-batch", above=0)
    backward_input: float = flag(1.0, "how long the gradient of its input takes", least=0)
    backward_weight: float = flag(1.0, "how long the gradients of its weights take", least=0)
    send: float = flag(0.0, "how long a message is on its way", least=0)
    format: str = flag("text", "of the drawing; toml: a file to edit", choices=tuple(FORMATS))
    out: str = flag("", "the file to write the drawing to")
    force: bool = flag(False, "write over the file where it exists")


def run(flags: Show) -> None:
    check_limits(flags)
    if launched_size() > 1:
        raise UsageError("show is the work of one process: start it without mpirun or srun")
    schedule = chosen(flags)
    check(schedule)
    durations = Durations(flags.forward, flags.backward_input, flags.backward_weight, flags.send)
    summary = f"{title(schedule)}\n{said(cost(schedule, *durations))}"
    drawing = FORMATS[flags.format](schedule, durations)
    if flags.out:
        save(drawing, flags.out, force=flags.force)
        print(f"{flags.out}: {summary}")
    elif flags.format == "text":
        print(f"{drawing}\n\n{summary}")
    else:
        print(drawing, end="")
        print(summary, file=sys.stderr)  # so that the drawing can go through a pipe


def chosen(flags: Show) -> Schedule:
    if not flags.schedule:
        raise UsageError(
            f"show needs something to show: write  mpipar show --schedule {'|'.join(NAMES)}|FILE"
        )
    if flags.chunks and flags.schedule != "interleaved":
        raise UsageError("--chunks belongs to --schedule interleaved: the others have one stage a rank")
    if flags.schedule in NAMES:
        ranks, micro_batches = flags.ranks or RANKS, flags.micro_batches or MICRO_BATCHES
        return find(flags.schedule, ranks, micro_batches, flags.chunks or 2)
    return find(flags.schedule, flags.ranks or None, flags.micro_batches or None)


def said(cost: Cost) -> str:
    peaks = " ".join(map(str, cost.peak))
    return (
        f"complete, free of deadlock; a step takes {cost.makespan:.6g}; bubble {100 * cost.bubble:.1f} %; "
        f"peak of live activations by rank: {peaks}"
    )


def save(text: str, out: str, *, force: bool) -> None:
    path = os.path.expanduser(out)
    try:
        with open(path, "w" if force else "x", encoding="utf-8") as file:
            file.write(text if text.endswith("\n") else text + "\n")
    except FileExistsError:
        raise UsageError(f"--out {out} exists: add --force to write over it, or name another") from None
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}") from None


COMMAND = Command("draws a pipeline schedule, checks it and tells its bubble", Show, run)
