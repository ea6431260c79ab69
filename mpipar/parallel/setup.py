"""What a run with a pipeline says and checks before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from mpipar.comm import Comm
from mpipar.config import TrainConfig, mesh_axes, micro_batches
from mpipar.errors import UsageError
from mpipar.log import WeightRow
from mpipar.parallel.schedule import Schedule, cost, find


def chosen_schedule(config: TrainConfig, ranks: int) -> Schedule | None:
    """The schedule of --schedule, for the mesh and the micro-batches of the run; None without a pipeline.

    Raises UsageError, and ScheduleError for a file that does not fit.
    """
    axes = mesh_axes(config, ranks)
    if axes.get("pp", 1) == 1:
        return None
    schedule = find(config.schedule, axes["pp"], micro_batches(config, axes))
    if schedule.stages > config.layers:
        raise UsageError(
            f"--schedule {config.schedule} has {schedule.stages} stages, the model --layers {config.layers}: "
            f"write --layers {schedule.stages} or more"
        )
    return schedule


def described(schedule: Schedule) -> str:
    """One line: ``1f1b: 4 stages on 4 ranks, 8 micro-batches, bubble 27 %, at most 4 activations on a rank``."""
    found = cost(schedule)
    return (
        f"{schedule.name}: {schedule.stages} stages on {schedule.ranks} ranks, {schedule.micro_batches} micro-batches, "
        f"bubble {100 * found.bubble:.0f} %, at most {max(found.peak)} activations on a rank"
    )


def rows_of_all(ranks: Comm, mine: Sequence[WeightRow]) -> list[WeightRow]:
    """The rows of the weights on any rank, in the order of the model; the bytes are those of this rank. Collective."""
    here = {row.name: row for row in mine}
    found = {row.name: row for rows in ranks.allgather_object(list(mine)) for row in rows}
    return [here.get(name, row._replace(bytes=0)) for name, row in found.items()]
