"""What a legal schedule is, said a second time: data that moves between ranks, without a word from `check`.

Each rank holds tokens: an input x, an output y, what a forward saved, the gradients gy of an output and gx of an
input, and owed work on weights. An action takes the tokens that it needs and leaves those that it makes.
"""

from __future__ import annotations

from random import Random

from mpipar.parallel.schedule import Action, Schedule

SYNC = Action("sync")


class World:
    """All ranks in the middle of a step."""

    def __init__(self, schedule: Schedule) -> None:
        self.stages, self.micro_batches, self.places = (
            schedule.stages,
            schedule.micro_batches,
            schedule.places,
        )
        self.held: list[set[tuple[str, int, int]]] = [set() for _ in range(schedule.ranks)]
        self.mail: set[tuple[str, int, int]] = set()
        self.ended: set[int] = set()
        self.done: set[tuple[int, int]] = set()
        for i in range(self.micro_batches):
            self.held[self.places[0]].add(("x", 0, i))

    def near(self, rank: int, stage: int) -> bool:
        """Whether the stage exists and lives on this rank."""
        return 0 <= stage < self.stages and self.places[stage] == rank

    def far(self, rank: int, stage: int) -> bool:
        return 0 <= stage < self.stages and self.places[stage] != rank

    def waits(self, action: Action) -> bool:
        """For a message that was not sent yet."""
        kind, s, i = action
        return (kind == "receive_forward" and ("y", s - 1, i) not in self.mail) or (
            kind == "receive_backward" and ("gx", s + 1, i) not in self.mail
        )

    def does(self, rank: int, action: Action) -> bool:
        """Does it; False where it cannot be done."""
        if rank in self.ended:
            return False
        if action == SYNC:
            self.ended.add(rank)
            return True
        kind, s, i = action
        method = getattr(self, f"do_{kind}", None)
        if method is None or not self.near(rank, s) or not 0 <= i < self.micro_batches:
            return False
        return method(rank, s, i)

    def take(self, rank: int, *tokens: tuple[str, int, int]) -> bool:
        if not self.held[rank].issuperset(tokens):
            return False
        self.held[rank].difference_update(tokens)
        return True

    def do_forward(self, rank: int, s: int, i: int) -> bool:
        if not self.take(rank, ("x", s, i)):
            return False
        self.held[rank].add(("saved", s, i))
        if s == self.stages - 1:
            self.held[rank].add(("gy", s, i))
        elif self.near(rank, s + 1):
            self.held[rank].add(("x", s + 1, i))
        else:
            self.held[rank].add(("y", s, i))
        return True

    def do_backward_input(self, rank: int, s: int, i: int) -> bool:
        if not self.take(rank, ("gy", s, i), ("saved", s, i)):
            return False
        self.held[rank].add(("owed", s, i))
        if self.near(rank, s - 1):
            self.held[rank].add(("gy", s - 1, i))
        elif s > 0:
            self.held[rank].add(("gx", s, i))
        return True

    def do_backward_weight(self, rank: int, s: int, i: int) -> bool:
        self.done.add((s, i))
        return self.take(rank, ("owed", s, i))

    def do_backward(self, rank: int, s: int, i: int) -> bool:
        return self.do_backward_input(rank, s, i) and self.do_backward_weight(rank, s, i)

    def do_send_forward(self, rank: int, s: int, i: int) -> bool:
        self.mail.add(("y", s, i))
        return self.take(rank, ("y", s, i))

    def do_send_backward(self, rank: int, s: int, i: int) -> bool:
        self.mail.add(("gx", s, i))
        return self.take(rank, ("gx", s, i))

    def do_receive_forward(self, rank: int, s: int, i: int) -> bool:
        if not self.far(rank, s - 1) or ("y", s - 1, i) not in self.mail:
            return False
        self.mail.remove(("y", s - 1, i))
        self.held[rank].add(("x", s, i))
        return True

    def do_receive_backward(self, rank: int, s: int, i: int) -> bool:
        if not self.far(rank, s + 1) or ("gx", s + 1, i) not in self.mail:
            return False
        self.mail.remove(("gx", s + 1, i))
        self.held[rank].add(("gy", s, i))
        return True

    def finished(self) -> bool:
        """Nothing is left anywhere, and every weight has the gradient of every micro-batch."""
        return (
            not self.mail
            and not any(self.held)
            and len(self.ended) == len(self.held)
            and len(self.done) == self.stages * self.micro_batches
        )


def runs(schedule: Schedule) -> bool:
    """Whether the ranks, round by round one action each, do all of their lists, and that is all of a step."""
    world = World(schedule)
    left = [list(actions) for actions in schedule.lists]
    while any(left):
        moved = False
        for rank, actions in enumerate(left):
            if actions and not world.waits(actions[0]):
                if not world.does(rank, actions.pop(0)):
                    return False
                moved = True
        if not moved:
            return False
    return world.finished()


def random_schedule(random: Random) -> Schedule:
    """Any schedule: each time some rank does some action that it can do by now."""
    ranks, chunks, micro_batches = random.randint(1, 4), random.randint(1, 3), random.randint(1, 4)
    places = [rank for rank in range(ranks) for _ in range(chunks)]
    random.shuffle(places)
    lists: tuple[list[Action], ...] = tuple([] for _ in range(ranks))
    bare = Schedule("random", ranks, ranks * chunks, micro_batches, tuple(map(tuple, lists)), tuple(places))
    world = World(bare)
    left = [
        (rank, action)
        for stage, rank in enumerate(places)
        for i in range(micro_batches)
        for action in of_one(world, rank, stage, i, split=random.random() < 0.5)
    ]
    while left:
        at = random.randrange(len(left))
        rank, action = left[at]
        if can(world, rank, action):
            assert world.does(rank, action)
            lists[rank].append(action)
            left.pop(at)
    return Schedule(
        "random",
        ranks,
        ranks * chunks,
        micro_batches,
        tuple((*actions, SYNC) for actions in lists),
        tuple(places),
    )


def of_one(world: World, rank: int, stage: int, i: int, *, split: bool) -> list[Action]:
    """What is to be done for a stage and a micro-batch."""
    kinds = ["forward", *(["backward_input", "backward_weight"] if split else ["backward"])]
    if world.far(rank, stage - 1):
        kinds += ["receive_forward", "send_backward"]
    if world.far(rank, stage + 1):
        kinds += ["send_forward", "receive_backward"]
    return [Action(kind, stage, i) for kind in kinds]


NEEDS = {
    "forward": ("x",),
    "backward": ("gy", "saved"),
    "backward_input": ("gy", "saved"),
    "backward_weight": ("owed",),
    "send_forward": ("y",),
    "send_backward": ("gx",),
}


def can(world: World, rank: int, action: Action) -> bool:
    kind, s, i = action
    tokens = {(token, s, i) for token in NEEDS.get(kind, ())}
    return not world.waits(action) and tokens <= world.held[rank]
