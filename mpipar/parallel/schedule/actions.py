"""What a pipeline schedule is: for each rank a list of actions, which is checked, drawn, simulated and run.

>>> print(Action("forward", 1, 3))
forward 1 3
>>> schedule = Schedule("mine", 2, 4, 1, ((), ()))
>>> schedule.places, schedule.rank_of(2), schedule.stages_of(1)
((0, 1, 0, 1), 0, (1, 3))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["COMPUTATIONS", "KINDS", "MESSAGES", "SYNC", "Action", "Schedule"]

COMPUTATIONS = ("forward", "backward", "backward_input", "backward_weight")
MESSAGES = ("receive_forward", "send_forward", "receive_backward", "send_backward")
KINDS = (*COMPUTATIONS, *MESSAGES, "sync")


class Action(NamedTuple):
    """One thing that a rank does; stage and micro-batch are -1 for `sync`.

    forward s i           stage s is run on micro-batch i: the first stage reads tokens, the last one gives the loss
    backward s i          the gradients of its input and of its weights, at once; or in two parts:
    backward_input s i    the gradient of its input, and the weights' work is left for
    backward_weight s i   the gradients of its weights
    receive_forward s i   the output of stage s-1 arrives on the rank of stage s
    send_forward s i      the output of stage s goes to the rank of stage s+1
    receive_backward s i  the gradient of the output of stage s arrives from the rank of stage s+1
    send_backward s i     the gradient of the input of stage s goes to the rank of stage s-1
    sync                  the gradients of this rank are summed over its copies: once, the last action of a rank
    """

    kind: str
    stage: int = -1
    micro_batch: int = -1

    def __str__(self) -> str:
        """As it stands in a file."""
        return self.kind if self.kind == "sync" else f"{self.kind} {self.stage} {self.micro_batch}"


SYNC = Action("sync")


@dataclass(frozen=True)
class Schedule:
    """The lists of all ranks. A send never blocks, a receive blocks until its message was sent; a message is known by
    its kind, stage and micro-batch. Where two neighbouring stages live on one rank, no message goes between them.
    """

    name: str
    ranks: int  # of the pipeline
    stages: int  # numbered along the model, a multiple of `ranks`
    micro_batches: int  # of one step
    lists: tuple[tuple[Action, ...], ...]  # one list a rank
    places: tuple[int, ...] = ()  # the rank of each stage; empty: stage % ranks

    def __post_init__(self) -> None:
        if not self.places:
            object.__setattr__(self, "places", tuple(stage % self.ranks for stage in range(self.stages)))

    def rank_of(self, stage: int) -> int:
        return self.places[stage]

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """The stages that a rank holds, in the order of the model."""
        return tuple(stage for stage, place in enumerate(self.places) if place == rank)

    def crosses(self, stage: int) -> bool:
        """Whether what goes from `stage` to the next one goes to another rank; False for the last stage, -1 too."""
        return 0 <= stage < self.stages - 1 and self.places[stage] != self.places[stage + 1]
