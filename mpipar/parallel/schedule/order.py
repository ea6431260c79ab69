"""What an action needs before it, and the ranks' way through their lists."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise

from mpipar.errors import ScheduleError
from mpipar.parallel.schedule.actions import Action, Schedule

__all__ = ["needs", "said", "source", "walk"]


def source(action: Action) -> Action | None:
    """The send, on another rank, that a receive waits for; None for all other actions."""
    kind, stage, micro_batch = action
    if kind == "receive_forward":
        return Action("send_forward", stage - 1, micro_batch)
    if kind == "receive_backward":
        return Action("send_backward", stage + 1, micro_batch)
    return None


def needs(schedule: Schedule, action: Action) -> tuple[Action, ...]:
    """The actions that must come before this one; `backward_input` stands for `backward` too."""
    kind, stage, micro_batch = action
    if sent := source(action):
        return (sent,)
    if kind in ("send_backward", "backward_weight"):
        return (Action("backward_input", stage, micro_batch),)
    own = Action("forward", stage, micro_batch)
    if kind == "send_forward":
        return (own,)
    if kind == "forward":
        return arrival(schedule, "forward", stage, micro_batch)
    if kind in ("backward", "backward_input"):
        return (own, *arrival(schedule, "backward", stage, micro_batch))
    return ()


def arrival(schedule: Schedule, way: str, stage: int, micro_batch: int) -> tuple[Action, ...]:
    """What brings a stage its input (way: forward) or its output's gradient (way: backward), where it has one."""
    neighbour, border = (stage - 1, stage - 1) if way == "forward" else (stage + 1, stage)
    if not 0 <= neighbour < schedule.stages:
        return ()
    if schedule.crosses(border):
        return (Action(f"receive_{way}", stage, micro_batch),)
    return (Action("forward" if way == "forward" else "backward_input", neighbour, micro_batch),)


def walk(schedule: Schedule) -> Iterator[tuple[int, Action]]:
    """(rank, action) for all actions of all ranks, in an order that they can be done in.

    Each rank goes through its list up to a receive whose message was not sent yet; when it is, the rank goes on. All
    orders in which the ranks may run end alike, since no send waits. Raises ScheduleError where ranks wait for each
    other.
    """
    at = [0] * schedule.ranks
    done = set[Action]()
    waiting = dict[Action, int]()  # the send that a rank waits for
    ready = deque(range(schedule.ranks))
    while ready:
        rank = ready.popleft()
        actions = schedule.lists[rank]
        while at[rank] < len(actions):
            action = actions[at[rank]]
            message = source(action)
            if message and message not in done:
                waiting[message] = rank
                break
            yield rank, action
            at[rank] += 1
            done.add(action)
            if action in waiting:
                ready.append(waiting.pop(action))
    if waiting:
        raise ScheduleError(f"{schedule.name}: deadlock: {cycle(schedule, at, waiting)}")


def cycle(schedule: Schedule, at: list[int], waiting: dict[Action, int]) -> str:
    """Who waits for whom, around: every rank that waits needs a send that another waiting rank has still to do."""
    message_of = {rank: message for message, rank in waiting.items()}
    path = [min(message_of)]
    while path[-1] not in path[:-1]:
        path.append(schedule.rank_of(message_of[path[-1]].stage))
    around = path[path.index(path[-1]) :]
    return ", and ".join(
        f"{said(schedule, rank, at[rank])} waits for {said(schedule, sender, number(schedule, message_of[rank]))}"
        for rank, sender in pairwise(around)
    )


def number(schedule: Schedule, action: Action) -> int:
    return schedule.lists[schedule.rank_of(action.stage)].index(action)


def said(schedule: Schedule, rank: int, at: int) -> str:
    """How messages name an action: ``rank 1, action 7 (forward 1 3)``, counted from 1."""
    return f"rank {rank}, action {at + 1} ({schedule.lists[rank][at]})"
