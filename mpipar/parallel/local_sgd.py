"""Local SGD over a slow axis: replicas train alone, then meet. Stich 2019; DiLoCo: Douillard et al. 2023.

Each replica is a mesh of its own (`replica_mesh`), with its own optimizer and its share of the data, so that inside it
Replicate means the same bits as everywhere. Every `inner_steps` steps the mean of what the replicas have changed is
taken as a gradient of the weights from which they began, and an outer SGD with Nesterov momentum goes a step along it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any, Protocol

from mpipar.backend import Array
from mpipar.comm import Comm
from mpipar.errors import UsageError
from mpipar.job import world
from mpipar.layout import Layout, Placement, Shard
from mpipar.mesh import Mesh
from mpipar.tensor import Tensor, changes

OUTER = "outer/"  # what is not the inner optimizer's in a state


def replica_mesh(mesh: Mesh, axis: str = "dp") -> Mesh:
    """The ranks that share my place on `axis`, as a mesh of the other axes, with the ledger of `mesh`. Collective."""
    others = [other for other in mesh.grid.axes if other != axis]
    ranks = mesh.comm(*others).allgather_object(world().rank)
    mine = Mesh(ranks=ranks, device=mesh.xp, **{other: mesh.shape[other] for other in others})
    mine.ledger = mesh.ledger
    return mine


class Inner(Protocol):
    """An optimizer of one replica. `state_dict` gives the arrays themselves, and masters of 16-bit weights by name."""

    lr: float

    def step(self) -> object: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class LocalSGD:
    """The optimizer of a replica, and the outer one around it: `step` is a step of the inner one, and then a meeting
    if it is due.

    `parameters` are those of this replica; `axis` of `mesh`, the mesh of all ranks, is the one that joins replicas.
    A meeting is due after `inner_steps` steps, and after step `last` (0: none) whatever was done since the one before.
    With ``inner_steps=1, outer_lr=1, outer_momentum=0`` a step is the plain mean of the replicas' weights.
    """

    def __init__(
        self, parameters: Sequence[Tensor], inner: Inner, mesh: Mesh, axis: str = "dp", *, inner_steps: int = 32,
        outer_lr: float = 0.7, outer_momentum: float = 0.9, last: int = 0,
    ) -> None:  # fmt: skip
        if inner_steps < 1:
            raise UsageError(f"LocalSGD(inner_steps={inner_steps}): at least 1 is wanted")
        for p in parameters:
            if p.mesh.whole.size * mesh.shape[axis] != mesh.size:
                raise UsageError(
                    f"LocalSGD: {p.name!r} is on {p.mesh}, a replica over {axis!r} has {mesh.size // mesh.shape[axis]} "
                    f'of the ranks: make the model on replica_mesh(mesh, "{axis}")'
                )
        self.parameters, self.inner, self.mesh, self.axis = list(parameters), inner, mesh, axis
        self.inner_steps, self.outer_lr, self.outer_momentum, self.last = (
            inner_steps, outer_lr, outer_momentum, last
        )  # fmt: skip
        self.steps = self.since = 0  # inner steps: all of them, and since the replicas met
        self.anchors = {p.name: p.mesh.xp.copy(p.mesh.xp.widen(p.local)) for p in self.parameters}
        self.velocity = {name: mesh.xp.zeros(x.shape, x.dtype) for name, x in self.anchors.items()}

    @property
    def lr(self) -> float:
        """Of the inner optimizer; may be set between steps."""
        return self.inner.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self.inner.lr = value

    def step(self) -> bool:
        """An inner step, and a meeting if it is due: one allreduce over the axis. True where they met."""
        self.inner.step()
        self.steps += 1
        self.since += 1
        if self.since < self.inner_steps and self.steps != self.last:
            return False
        self._meet()
        self.since = 0
        return True

    def _meet(self) -> None:
        """v ← μv + Δ, θ ← θ - η(Δ + μv) with Δ = θ - the mean of the weights; replicas begin again from θ."""
        xp, masters = self.mesh.xp, self._masters()
        weights = [masters.get(p.name, p.local) for p in self.parameters]
        found = [self.anchors[p.name] - x for p, x in zip(self.parameters, weights, strict=True)]
        for p, gradient in zip(self.parameters, mean_over(self.mesh[self.axis], found), strict=True):
            anchor, velocity, momentum = self.anchors[p.name], self.velocity[p.name], self.outer_momentum
            xp.sgd(anchor, gradient, velocity, self.outer_lr, momentum, momentum > 0, 0.0)
            if p.name in masters:
                xp.copy_into(masters[p.name], anchor)
        self._put_anchors()

    def _masters(self) -> dict[str, Array]:
        """The float32 weights behind 16-bit ones, in which small steps add up."""
        kept = self.inner.state_dict()
        return {p.name: kept[f"master/{p.name}"].local for p in self.parameters if f"master/{p.name}" in kept}

    def _put_anchors(self) -> None:
        for p in self.parameters:
            put(p, self.anchors[p.name])

    # ---- the outer weights ------------------------------------------------------------------------------

    @contextmanager
    def outer_weights(self) -> Iterator[None]:
        """Inside the block the weights are θ, alike in all replicas; after it those of this replica again."""
        if not self.since:  # they are θ
            yield
            return
        mine = [p.mesh.xp.copy(p.local) for p in self.parameters]
        self._put_anchors()
        try:
            yield
        finally:
            for p, x in zip(self.parameters, mine, strict=True):
                put(p, x)

    @property
    def start(self) -> Start:
        """θ as the weights of a model: what a checkpoint holds of it, and what a run begins with."""
        return Start(self)

    # ---- state ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state and a copy of the weights, each tensor a row of a stack that the axis cuts; v
        and the counts, alike in all replicas. θ is in the state of `start`.
        """
        state = {
            name: self.stacked(x) if isinstance(x, Tensor) else x
            for name, x in self.inner.state_dict().items()
        }
        for p in self.parameters:
            own = Tensor(p.mesh.xp.copy(p.local), p.mesh, p.layout)
            state[f"{OUTER}weight/{p.name}"] = self.stacked(own)
            state[f"{OUTER}velocity/{p.name}"] = self.common(p, self.velocity[p.name])
        return {**state, f"{OUTER}steps": self.steps, f"{OUTER}since": self.since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies all of it in. Load that of `start` first, where there is one."""
        mine = self.inner.state_dict()
        rows = {name: row_for(mine.get(name), x) for name, x in state.items() if not name.startswith(OUTER)}
        self.inner.load_state_dict(rows)
        for p in self.parameters:
            put(p, state[f"{OUTER}weight/{p.name}"].local.reshape(p.local.shape))
            self.mesh.xp.copy_into(self.velocity[p.name], state[f"{OUTER}velocity/{p.name}"].local)
        self.steps, self.since = state[f"{OUTER}steps"], state[f"{OUTER}since"]

    def stacked(self, x: Tensor) -> Tensor:
        """A tensor of this replica as a row on the mesh of all, cut over the axis: what a checkpoint can hold."""
        part = self._here(x.mesh)
        cuts: dict[str, Placement] = {axis: Shard(dim + 1) for axis, dim in dims_of(x.layout)}
        shape = (self.mesh.shape[self.axis], *x.shape)
        layout = Layout.make(part.grid, shape, {self.axis: Shard(0), **cuts})
        return Tensor(x.local.reshape(1, *x.local.shape), part, layout)

    def common(self, p: Tensor, array: Array) -> Tensor:
        """What belongs to a weight and is alike in all replicas, on the mesh of all."""
        part = self._here(p.mesh)
        cuts: dict[str, Placement] = {axis: Shard(dim) for axis, dim in dims_of(p.layout)}
        return Tensor(array, part, Layout.make(part.grid, p.shape, cuts))

    def _here(self, mesh: Mesh) -> Mesh:
        """The part of the mesh of all where replicas have what is on this part of mine, as the stages of a pipeline."""
        cut = {axis: at for axis, at in mesh.places.items() if len(at) < mesh.whole.shape[axis]}
        return self.mesh.at(**cut) if cut else self.mesh


class Start:
    """The outer weights of a `LocalSGD` under the names of the model."""

    def __init__(self, outer: LocalSGD) -> None:
        self.outer = outer

    def state_dict(self) -> dict[str, Tensor]:
        """As wide as they are kept: float32 for weights of 16 bits."""
        return {p.name: self.outer.common(p, self.outer.anchors[p.name]) for p in self.outer.parameters}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies them in; every replica begins from them."""
        for name, anchor in self.outer.anchors.items():
            self.outer.mesh.xp.copy_into(anchor, state[name].local)
        self.outer._put_anchors()


def put(p: Tensor, x: Array) -> None:
    """Changes a weight in place."""
    xp = p.mesh.xp
    xp.copy_into(p.local, xp.cast(x, p.dtype))
    changes.note(xp, p.local)


def row_for(mine: Any, x: Any) -> Any:
    """The row of this replica of a stack, laid out as its own tensor; plain values as they are."""
    if not isinstance(x, Tensor) or not isinstance(mine, Tensor):
        return x
    return Tensor(x.local.reshape(mine.local.shape), mine.mesh, mine.layout)


def dims_of(layout: Layout) -> list[tuple[str, int]]:
    """The axes that cut it with the dims they cut, those of one dim outermost first."""
    return [(axis, dim) for dim, cut in enumerate(layout.cuts) for axis in cut.axes]


def mean_over(comm: Comm, arrays: Sequence[Array]) -> list[Array]:
    """The mean over the ranks of each of the arrays, which have one dtype: one allreduce for all."""
    xp = comm.xp
    flat = comm.allreduce(xp.concatenate([x.reshape(-1) for x in arrays], 0)) / comm.size
    starts = accumulate((x.size for x in arrays), initial=0)
    return [flat[a:b].reshape(x.shape) for x, (a, b) in zip(arrays, pairwise(starts), strict=True)]
