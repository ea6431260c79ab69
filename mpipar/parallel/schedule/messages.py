"""A schedule from computations alone: a receive right before what needs it, a send right after what makes it."""

from __future__ import annotations

from dataclasses import replace

from mpipar.parallel.schedule.actions import SYNC, Action, Schedule

__all__ = ["connect"]


def connect(bare: Schedule) -> Schedule:
    """A schedule whose lists hold computations alone, with its sends, its receives and `sync` put in.

    A send never blocks and stands right after what it sends, so this never adds a deadlock.
    """
    lists = (
        (*(each for action in actions for each in with_messages(bare, action)), SYNC)
        for actions in bare.lists
    )
    return replace(bare, lists=tuple(lists))


def with_messages(schedule: Schedule, action: Action) -> list[Action]:
    """A computation between the message that it needs and the message that it makes, where there are any."""
    kind, stage, micro_batch = action
    if kind == "backward_weight":
        return [action]
    forward, before, after = kind == "forward", schedule.crosses(stage - 1), schedule.crosses(stage)
    way, needs, makes = ("forward", before, after) if forward else ("backward", after, before)
    receive = [Action(f"receive_{way}", stage, micro_batch)] if needs else []
    send = [Action(f"send_{way}", stage, micro_batch)] if makes else []
    return [*receive, action, *send]
