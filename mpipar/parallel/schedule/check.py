"""The proof that a schedule is complete and free of deadlock, before anything runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from mpipar.config.flags import did_you_mean
from mpipar.errors import ScheduleError
from mpipar.parallel.schedule.actions import COMPUTATIONS, KINDS, MESSAGES, SYNC, Action, Schedule
from mpipar.parallel.schedule.order import needs, said, walk

__all__ = ["check"]

Places = dict[Action, tuple[int, int]]  # rank, place in its list


def check(schedule: Schedule) -> None:
    """Raises ScheduleError unless the ranks, each in the order of its list, do every computation and every message
    once, each after what it needs, and none waits for ever. The message names rank and action, counted from 1.
    """
    check_numbers(schedule)
    places = positions(schedule)
    check_complete(schedule, places)
    check_order(schedule, places)
    deque(walk(schedule), maxlen=0)


def check_numbers(schedule: Schedule) -> None:
    """Of ranks, stages and micro-batches, and the rank of each stage."""
    name, ranks, stages = schedule.name, schedule.ranks, schedule.stages
    if min(ranks, stages, schedule.micro_batches) < 1:
        raise ScheduleError(
            f"{name}: ranks {ranks}, stages {stages}, micro_batches {schedule.micro_batches}: each must be at least 1"
        )
    if stages % ranks:
        raise ScheduleError(f"{name}: {stages} stages on {ranks} ranks: a multiple of {ranks} wanted")
    if len(schedule.places) != stages or len(schedule.lists) != ranks:
        raise ScheduleError(
            f"{name}: {len(schedule.lists)} lists and {len(schedule.places)} places: "
            f"one list a rank ({ranks}) and one place a stage ({stages}) wanted"
        )
    for rank in range(ranks):
        if len(schedule.stages_of(rank)) != stages // ranks:
            raise ScheduleError(
                f"{name}: places {list(schedule.places)} give rank {rank} {len(schedule.stages_of(rank))} stages: "
                f"{stages // ranks} wanted on each of the ranks 0 to {ranks - 1}"
            )


def positions(schedule: Schedule) -> Places:
    """Where each action stands. Raises ScheduleError for one that is unknown, out of range, misplaced or double."""
    places: Places = {}
    for rank, actions in enumerate(schedule.lists):
        for at, action in enumerate(actions):
            if wrong := reason(schedule, rank, action):
                raise ScheduleError(f"{schedule.name}: {said(schedule, rank, at)}: {wrong}")
            if action != SYNC and action in places:
                first = said(schedule, *places[action])
                raise ScheduleError(f"{schedule.name}: {said(schedule, rank, at)} is there already: {first}")
            if action == SYNC and at != len(actions) - 1:
                raise ScheduleError(
                    f"{schedule.name}: {said(schedule, rank, at)} is not the last of its rank"
                )
            places[action] = rank, at
    return places


def reason(schedule: Schedule, rank: int, action: Action) -> str:
    """Why an action cannot stand in the list of this rank, or nothing."""
    kind, stage, micro_batch = action
    if action == SYNC:
        return ""
    if kind not in KINDS:
        return f"{kind!r} is unknown{did_you_mean(kind, KINDS) or '.'} Known: {', '.join(KINDS)}"
    for what, number, end in (
        ("stage", stage, schedule.stages),
        ("micro-batch", micro_batch, schedule.micro_batches),
    ):
        if not 0 <= number < end:
            return f"there is no {what} {number}: they are 0 to {end - 1}"
    if schedule.rank_of(stage) != rank:
        return f"stage {stage} lives on rank {schedule.rank_of(stage)}"
    border = stage if kind in ("send_forward", "receive_backward") else stage - 1
    if kind in COMPUTATIONS or (kind in MESSAGES and schedule.crosses(border)):
        return ""
    return "no message goes there: the model ends there, or the next stage lives on this rank too"


def wanted(schedule: Schedule, places: Places) -> Iterator[Action]:
    """All actions of the schedule but `sync`, in the form of backward that it has chosen for each."""
    for stage in range(schedule.stages):
        for i in range(schedule.micro_batches):
            whole = Action("backward", stage, i)
            parts = Action("backward_input", stage, i), Action("backward_weight", stage, i)
            yield Action("forward", stage, i)
            yield from parts if any(part in places for part in parts) else (whole,)
            if schedule.crosses(stage - 1):
                yield Action("receive_forward", stage, i)
                yield Action("send_backward", stage, i)
            if schedule.crosses(stage):
                yield Action("send_forward", stage, i)
                yield Action("receive_backward", stage, i)


def check_complete(schedule: Schedule, places: Places) -> None:
    """Nothing is missing, and no backward is there both whole and in parts."""
    expected = set[Action]()
    for action in wanted(schedule, places):
        expected.add(action)
        if action not in places:
            rank = schedule.rank_of(action.stage)
            raise ScheduleError(
                f"{schedule.name}: rank {rank} lacks {action}{needed_by(schedule, action, places)}"
            )
    for action, place in places.items():
        if action != SYNC and action not in expected:
            raise ScheduleError(
                f"{schedule.name}: {said(schedule, *place)}: its parts are there too; "
                "write backward, or backward_input and backward_weight"
            )
    for rank, actions in enumerate(schedule.lists):
        if not actions or actions[-1] != SYNC:
            raise ScheduleError(f"{schedule.name}: rank {rank} lacks sync, its last action")


def needed_by(schedule: Schedule, missing: Action, places: Places) -> str:
    found = missing._replace(kind="backward_input") if missing.kind == "backward" else missing
    for action, place in places.items():
        if found in needs(schedule, action):
            return f", which {said(schedule, *place)} needs"
    return ""


def check_order(schedule: Schedule, places: Places) -> None:
    """On each rank an action stands after those that it needs of the same rank."""
    for action, (rank, at) in places.items():
        for need in needs(schedule, action):
            found = places.get(need) or places[need._replace(kind="backward")]
            if found[0] == rank and found[1] > at:
                raise ScheduleError(
                    f"{schedule.name}: {said(schedule, rank, at)} stands before what it needs, "
                    f"{said(schedule, *found)}"
                )
