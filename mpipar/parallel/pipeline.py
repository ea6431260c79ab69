"""A pipeline over the axis pp: each rank holds some stages of a model, and runs its list of a schedule.

GPipe (Huang et al. 2019), 1F1B (Narayanan et al. 2019, 2021), zero bubble (Qi et al. 2023) differ in the lists alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar

from mpipar.comm.steps import LAST_TAG
from mpipar.errors import UsageError
from mpipar.layout import Layout, Placement
from mpipar.mesh import Mesh
from mpipar.nn import Module
from mpipar.parallel.schedule import Action, Schedule, check
from mpipar.parallel.step import Stage, Step
from mpipar.random import Noise
from mpipar.tensor import Tensor, no_grad


class MicroBatch(Protocol):
    """Tokens and targets (B, T) on the mesh of this rank's stages."""

    @property
    def tokens(self) -> Tensor: ...
    @property
    def targets(self) -> Tensor: ...
    @property
    def first_row(self) -> int: ...


Part = TypeVar("Part", bound=MicroBatch)


class Pipeline(Module):
    """The stages of a model that this rank holds, by number, and the checked schedule that trains them.

    `mesh` has the axis pp; stage s is on ``mesh.at(pp=schedule.places[s])``. The parameters are those that live here.
    All methods are collective over the mesh.
    """

    def __init__(self, mesh: Mesh, schedule: Schedule, stages: Mapping[int, Stage]) -> None:
        check(schedule)
        ranks, me = mesh.shape["pp"], mesh.coords[mesh.grid.axes.index("pp")]
        if schedule.ranks != ranks:
            raise UsageError(
                f"the schedule {schedule.name!r} is for {schedule.ranks} ranks, the mesh has pp={ranks}"
            )
        if tuple(sorted(stages)) != schedule.stages_of(me):
            raise UsageError(
                f"rank {me} of pp holds the stages {sorted(stages)}, by the schedule {schedule.name!r} "
                f"{list(schedule.stages_of(me))}"
            )
        if 2 * schedule.stages * schedule.micro_batches > LAST_TAG:
            raise UsageError(
                f"{schedule.stages} stages by {schedule.micro_batches} micro-batches are more messages than MPI has "
                f"tags ({LAST_TAG}): take larger micro-batches"
            )
        self.stages, self.schedule, self.mesh = dict(stages), schedule, mesh.at(pp=me)
        self._me, self._comm = me, mesh.comm("pp")
        self.live_at_most = 0  # activations, in the last step

    @property
    def context(self) -> int:
        """The longest sequence, in tokens."""
        return next(iter(self.stages.values())).context

    def forward_backward(
        self, parts: Sequence[Part], noise: Callable[[Part], Noise] | None = None, scale: float = 1.0
    ) -> Tensor:  # fmt: skip
        """Adds the gradients of scale · Σ loss over the micro-batches to the weights, in the order of the schedule.

        Returns that sum, a Replicate number on the whole mesh. `sync_gradients` moves the gradients afterwards.
        """
        if len(parts) != self.schedule.micro_batches:
            raise UsageError(
                f"the schedule {self.schedule.name!r} is for {self.schedule.micro_batches} micro-batches, "
                f"there are {len(parts)}"
            )

        def run(stage: Stage, x: Tensor | None, k: int) -> Tensor:
            part, told = parts[k], noise and noise(parts[k])
            x = part.tokens if x is None else x
            return stage.loss(x, part.targets, told) * scale if stage.is_last else stage(x, told)

        step = self._step(run, parts)
        step.run(self.schedule.lists[self._me])
        self.live_at_most = step.live_at_most
        return self._sum(step.results)

    def evaluate(self, parts: Sequence[MicroBatch]) -> Tensor:
        """Σ loss over any number of micro-batches, without gradients: a Replicate number on the whole mesh."""

        def run(stage: Stage, x: Tensor | None, k: int) -> Tensor:
            x = parts[k].tokens if x is None else x
            return stage.loss(x, parts[k].targets) if stage.is_last else stage(x)

        return self._sum(self._forward(run, parts))

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) → what the last stage makes of them, on every rank of pp; no gradients.

        The last stage broadcasts it.
        """
        found = self._forward(lambda stage, x, _: stage(tokens if x is None else x), [Tokens(tokens)])
        last = self.schedule.places[-1]
        told = self._comm.broadcast_object(recipe(found[0]) if found else None, last)
        layout, dtype = Layout.make(self.mesh.grid, told[0], told[1]), told[2]
        xp = self.mesh.xp
        here = found[0].local if found else xp.empty(layout.local_shape(self.mesh.coords), dtype)
        return Tensor(self._comm.broadcast(here, last), self.mesh, layout)

    def _forward(
        self, run: Callable[[Stage, Tensor | None, int], Tensor], parts: Sequence[HasTokens]
    ) -> list[Tensor]:
        """Forward alone, micro-batch by micro-batch; what the last stage made, where it is."""
        step = self._step(run, parts)
        with no_grad():
            step.run(forward_only(self.schedule, self._me, len(parts)))
        return step.results

    def _step(self, run: Callable[[Stage, Tensor | None, int], Tensor], parts: Sequence[HasTokens]) -> Step:
        return Step(self.schedule, self.stages, self.mesh, self._comm, run, [part.tokens for part in parts])

    def _sum(self, losses: Sequence[Tensor]) -> Tensor:
        """Counted on the first of the ranks that hold the same: one allreduce of one number over the whole mesh."""
        whole, xp = self.mesh.whole, self.mesh.xp
        total = xp.zeros((), "float64")
        for loss in losses:
            if loss.layout.is_first(self.mesh.coords):
                total = total + xp.cast(loss.local, "float64")
        return Tensor(whole.world.allreduce(xp.as_array(total)), whole, Layout.make(whole.grid, (), {}))


class HasTokens(Protocol):
    @property
    def tokens(self) -> Tensor: ...


class Tokens:
    """Of a micro-batch that has no targets."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens


def forward_only(schedule: Schedule, rank: int, micro_batches: int) -> list[Action]:
    """What a rank does where nobody wants gradients. All ranks go in one order, so that nobody waits in a ring."""
    actions = []
    for k in range(micro_batches):
        for stage in schedule.stages_of(rank):
            actions += [Action("receive_forward", stage, k)] if schedule.crosses(stage - 1) else []
            actions += [Action("forward", stage, k)]
            actions += [Action("send_forward", stage, k)] if schedule.crosses(stage) else []
    return [*actions, Action("sync")]


Recipe: TypeAlias = tuple[tuple[int, ...], dict[str, Placement], str]


def recipe(x: Tensor) -> Recipe:
    """What another rank needs to make the same layout: hashes do not travel."""
    cuts = {axis: x.layout.placement(axis) for cut in x.layout.cuts for axis in cut.axes}
    return x.shape, cuts, str(x.dtype)
